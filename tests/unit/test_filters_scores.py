"""Labels from the scores of many classes equal those of resampling class by class, and so do votes between labels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.filters import scores as module
from cohortex.filters.resample import resample
from cohortex.filters.scores import labels_from_scores
from cohortex.volume import Volume
from tests.lazy_arrays import Counted


def places(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).reshape(3, -1)
    return matrix[:3, :3] @ indices + matrix[:3, 3:]


def class_by_class(scores: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels, and by how much the largest score is ahead of the next: 0 at the faces, which reach a millionth further."""
    where = places(matrix, shape)
    parts = [ndimage.map_coordinates(part.astype(np.float64), where, order=1, mode="nearest") for part in scores]
    ordered = np.sort(parts, axis=0)
    inside = ((where >= -0.5) & (where <= np.array(scores.shape[1:])[:, None] - 0.5)).all(0)
    ahead = ordered[-1] - ordered[-2] if len(parts) > 1 else np.full(len(parts[0]), 1.0)
    edge = np.abs(np.minimum(where + 0.5, np.array(scores.shape[1:])[:, None] - 0.5 - where)).min(0) < 2e-6
    return np.where(inside, np.argmax(parts, axis=0), 0).reshape(shape), np.where(edge, 0, ahead).reshape(shape)


matrices = st.builds(
    lambda values, shift, oblique: np.block(
        [[np.diag(values) + (0.2 if oblique else 0.0) * np.eye(3)[::-1], np.array(shift)[:, None]], [np.array([[0, 0, 0, 1.0]])]]
    ),
    st.tuples(*[st.floats(0.3, 1.7)] * 3),
    st.tuples(*[st.floats(-1.5, 2.5)] * 3),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    matrix=matrices,
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    size=st.tuples(*[st.integers(1, 8)] * 3),
    classes=st.integers(1, 12),
    smooth=st.booleans(),
    lazy=st.booleans(),
    seed=st.integers(0, 99),
)
def test_labels_equal_the_largest_of_all_classes_resampled(
    matrix: np.ndarray, shape: Any, size: Any, classes: int, smooth: bool, lazy: bool, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=(classes, *size)).astype(np.float32) * 5
    if smooth:
        scores = ndimage.gaussian_filter(scores, (0, 1, 1, 1))
    wanted, ahead = class_by_class(scores, matrix, shape)
    found = labels_from_scores(Counted(scores) if lazy else scores, matrix, shape)
    assert found.dtype == np.uint8
    assert (found == wanted)[ahead > 1e-5].all()


def test_ties_go_to_the_lowest_class() -> None:
    scores = np.zeros((3, 4, 4, 4), np.float32)
    scores[1:, 2:] = 1
    found = labels_from_scores(scores, np.diag([0.5, 1, 1, 1]), (7, 4, 4))
    assert (found[:3] == 0).all()
    assert (found[3:] == 1).all()


def test_a_class_that_is_best_nowhere_can_win_between_others() -> None:
    scores = np.array([[4.0, 0.0], [0.0, 4.0], [3.0, 3.0]], np.float32).reshape(3, 2, 1, 1)
    found = labels_from_scores(scores, np.diag([0.25, 1, 1, 1]), (5, 1, 1))
    assert found[:, 0, 0].tolist() == [0, 0, 2, 1, 1]


def test_lazy_scores_are_read_in_blocks_and_give_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(7, 40, 10, 11)).astype(np.float32)
    matrix = np.diag([0.4, 0.7, 0.5, 1.0])
    whole = labels_from_scores(scores, matrix, (100, 14, 20))
    monkeypatch.setattr(module, "room", lambda itemsize: scores.nbytes // 5 // itemsize)
    for kind in (np.float32, np.float16):
        lazy = Counted(scores.astype(kind))
        into = np.full(whole.shape, 99, np.uint8)
        assert labels_from_scores(lazy, matrix, (100, 14, 20), out=into) is into
        assert lazy.most <= scores.size / 5
        assert np.mean(into == whole) > 0.99
        assert kind != np.float32 or np.array_equal(into, whole)


def test_many_classes_get_sixteen_bits_and_wrong_axes_are_refused() -> None:
    scores = np.zeros((300, 2, 2, 2), np.float32)
    scores[299] = 1
    assert labels_from_scores(scores, np.eye(4), (2, 2, 2)).dtype == np.uint16
    assert (labels_from_scores(scores, np.eye(4), (2, 2, 2)) == 299).all()
    with pytest.raises(ValueError, match="axes"):
        labels_from_scores(scores[0], np.eye(4), (2, 2, 2))


@settings(max_examples=40, deadline=None)
@given(matrix=matrices, size=st.tuples(*[st.integers(2, 8)] * 3), classes=st.integers(1, 6), seed=st.integers(0, 99))
def test_votes_between_labels_equal_the_largest_of_all_masks_resampled(matrix: np.ndarray, size: Any, classes: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, classes, size).astype(np.uint16) * 7
    masks = np.stack([values == 7 * n for n in range(classes)]).astype(np.float64)
    wanted, ahead = class_by_class(masks, matrix, (6, 7, 8))
    found = resample(Volume(values, np.eye(4), kind="labels"), affine=matrix, shape=(6, 7, 8), order="linear").array()
    assert (found == 7 * wanted)[ahead > 1e-5].all()
