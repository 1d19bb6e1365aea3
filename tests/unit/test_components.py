"""Components and measures of labels, block by block, equal those of the whole volume."""

from typing import Any

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.measures.components import draw_components, find_components, largest_component, measure_labels
from tests.lazy_arrays import Counted

shapes = st.tuples(*[st.integers(1, 12)] * 3)
blocks = st.tuples(*[st.integers(1, 7)] * 3)


def canonical(numbers: np.ndarray) -> np.ndarray:
    """Number components by their first voxels."""
    values, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    order = np.argsort(np.where(values == 0, -1, first))
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) + (0 if values[0] == 0 else 1)
    return rank[inverse].reshape(numbers.shape)


@settings(max_examples=50, deadline=None)
@given(
    shape=shapes,
    block=blocks,
    connectivity=st.sampled_from([6, 18, 26]),
    kinds=st.integers(1, 4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 999),
)
def test_components_equal_those_of_the_whole_volume_whatever_the_blocks(
    shape: Any, block: Any, connectivity: Any, kinds: int, share: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    labels = (generator.integers(1, kinds + 1, shape) * (generator.random(shape) < share)).astype(np.uint16)
    wanted = canonical(cc3d.connected_components(labels, connectivity=connectivity))
    lazy = Counted(labels)
    found = find_components(lazy, connectivity, block)
    assert lazy.most <= np.prod(block)
    assert np.array_equal(draw_components(lazy, found), wanted)
    assert len(found) == wanted.max()
    if kinds == 1:
        structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
        theirs: Any = ndimage.label(labels, structure)
        assert np.array_equal(canonical(theirs[0]), wanted)
    for number in range(1, len(found) + 1):
        places = np.argwhere(wanted == number)
        assert found.labels[number - 1] == labels[tuple(places[0])]
        assert found.voxels[number - 1] == len(places)
        assert np.allclose(found.centroid[number - 1], places.mean(0))
        assert np.array_equal(found.low[number - 1], places.min(0))
        assert np.array_equal(found.high[number - 1], places.max(0) + 1)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, block=blocks, seed=st.integers(0, 99))
def test_measures_of_labels_equal_those_of_the_whole_volume(shape: Any, block: Any, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8 if seed % 2 else np.int16)
    found = measure_labels(Counted(labels), block)
    assert found.labels.tolist() == [n for n in np.unique(labels).tolist() if n]
    for row, label in enumerate(found.labels):
        places = np.argwhere(labels == label)
        assert found.voxels[row] == len(places)
        assert np.allclose(found.centroid[row], places.mean(0))
        assert np.array_equal(found.low[row], places.min(0))
        assert np.array_equal(found.high[row], places.max(0) + 1)


def test_volumes_and_centroids_are_in_the_world() -> None:
    labels = np.zeros((10, 10, 10), np.uint8)
    labels[2:4, 2:6, 2:3] = 5
    affine = np.array([[0, 2.0, 0, 1], [3.0, 0, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]])
    found = find_components(labels)
    assert found.volume_mm3(affine) == pytest.approx([8 * 24.0])
    assert np.allclose(found.centroid_mm(affine), [[2 * 3.5 + 1, 3 * 2.5 + 2, 4 * 2 + 3]])


def test_the_largest_component_is_kept_alone() -> None:
    mask = np.zeros((20, 9, 9), bool)
    mask[:5, 1:3, 1:3] = True
    mask[6:18, 4:8, 4:8] = True
    kept = largest_component(mask, block=(7, 5, 3))
    assert kept.dtype == np.uint8
    assert np.array_equal(kept.astype(bool), mask & (np.arange(20) > 5)[:, None, None])
    assert not largest_component(np.zeros((3, 4, 5), np.uint8)).any()
    found = find_components(mask)
    into = np.zeros(mask.shape, np.uint16)
    assert draw_components(mask, found, out=into, keep=[1]) is into
    assert np.array_equal(into.astype(bool), mask & (np.arange(20) < 6)[:, None, None])


def test_what_is_no_label_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="connectivity"):
        find_components(np.zeros((3, 3, 3), np.uint8), 8)
