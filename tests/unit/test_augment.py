"""Augmentation keeps image and labels together, can be undone, and does what its ranges say."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.demo.anatomy import make_head, paint
from cohortex.demo.tissues import mr_contrast
from cohortex.errors import Refused
from cohortex.measures.segmentation import dice
from cohortex.training.augment import Drawn, Ranges, draw, ranges_of, vary, vary_image, vary_labels
from cohortex.training.classify_network import Budget, train_network
from tests.conftest import ROOT

WIDE = Ranges(translate=0.1, rotate_deg=25.0, shear=0.1, scale=0.12, flip=(0, 1), gain=0.2, offset=0.1, noise=0.05, gamma=0.3)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A simulated T1w head of 1.5 mm with air around it, and its labels joined to head, brain and white matter."""
    rng = np.random.default_rng(1)
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[:3, 3] = [-130.0, -150.0, -110.0]
    values, labels = paint(make_head({"diagnosis": "control", "age": 50}, rng), affine, (174, 180, 150), mr_contrast(rng), np.eye(4))
    return values, labels


@pytest.mark.parametrize("seed", range(3))
def test_labels_brought_back_are_those_that_were_there(head: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    """Two nearest-neighbour interpolations of a head and its brain, in 3-D and of a slice; linear ones of the image."""
    values, labels = head
    regions = np.where(labels == 0, 0, np.where(labels <= 3, 2, 1)).astype(np.uint8)
    for image, known in ((values, regions), (values[:, :, 75], regions[:, :, 75])):
        moved, with_it, drawn = vary(image, known, Ranges(rotate_deg=20.0, flip=(0,)), np.random.default_rng(seed))
        back = vary_labels(with_it, drawn.undone())
        assert (dice(with_it, known, (2,))[2]) < 0.95  # it was really elsewhere
        assert back.dtype == known.dtype
        assert dice(back > 0, known > 0, (1,))[1] > 0.98
        assert dice(back, known, (2,))[2] > 0.98
        again = vary_image(moved, drawn.undone())
        inside = known == 2
        assert np.corrcoef(again[inside], image[inside])[0, 1] > 0.9


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(31, 28), (18, 21, 16)]), st.integers(0, 999))
def test_image_and_labels_stay_together(shape: tuple[int, ...], seed: int) -> None:
    """An image that is the labels themselves: away from borders both show the same after any variation."""
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(n // 4, 3 * n // 4) for n in shape)] = 3
    drawn = draw(WIDE, shape, np.random.default_rng(seed)).only_geometry()
    image, moved = vary_image(labels.astype(np.float32), drawn), vary_labels(labels, drawn)
    plain = np.isin(image, (0.0, 3.0))
    assert plain.mean() > 0.4 and np.array_equal(image[plain], moved[plain])
    assert np.abs(image / 3 - moved / 3).max() <= 1 and (np.abs(image - moved)[~plain] <= 3 * (1 - 0.5 ** len(shape)) + 1e-5).all()


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(40, 30), (20, 24, 22)]), st.integers(0, 999))
def test_what_is_drawn_lies_in_its_ranges_and_is_repeated_by_the_seed(shape: tuple[int, ...], seed: int) -> None:
    drawn, again = (draw(WIDE, shape, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(drawn.matrix, again.matrix) and np.array_equal(drawn.shift, again.shift) and drawn.seed == again.seed
    size = np.abs(np.linalg.det(drawn.matrix)) ** (1 / len(shape))
    assert 0.88 <= size <= 1.12
    assert (np.abs(drawn.shift) <= 0.1 * (np.array(shape) - 1) / 2).all()
    assert 0.8 <= drawn.gain <= 1.2 and abs(drawn.offset) <= 0.1 and 0 <= drawn.noise <= 0.05
    assert np.exp(-0.3) <= drawn.gamma <= np.exp(0.3)
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    assert np.array_equal(vary_image(image, drawn), vary_image(image, again))


def test_no_range_changes_nothing_and_half_are_mirrored() -> None:
    image = np.random.default_rng(0).random((12, 9)).astype(np.float32)
    still = Ranges(translate=0, rotate_deg=0, shear=0, scale=0)
    moved, labels, _ = vary(image, (image > 0.5).astype(np.uint8), still, np.random.default_rng(0))
    np.testing.assert_allclose(moved, image, atol=1e-6)
    assert np.array_equal(labels, image > 0.5)
    mirrored = 0
    for seed in range(200):
        drawn = draw(Ranges(translate=0, rotate_deg=0, shear=0, scale=0, flip=(1,)), image.shape, np.random.default_rng(seed))
        made = vary_image(image, drawn)
        flipped = drawn.matrix[1, 1] < 0
        np.testing.assert_allclose(made, image[:, ::-1] if flipped else image, atol=1e-6)
        mirrored += flipped
    assert 70 < mirrored < 130


def test_values_change_where_there_is_an_image_and_masks_do_not() -> None:
    image = np.full((2, 8, 8, 8), 0.5, np.float32)
    image[:, :2] = 0
    drawn = Drawn(np.eye(3), np.zeros(3), gain=1.2, offset=0.05, noise=0.01, gamma=1.5, seed=3)
    made = vary_image(image, drawn)
    inside = made[0, 2:7, :7, :7]
    assert inside.mean() == pytest.approx(0.5**1.5 * 1.2 + 0.05, abs=0.002)
    assert inside.std() == pytest.approx(0.01, rel=0.15)
    assert not made[0, :2].any()
    assert np.array_equal(made[1, :7, :7, :7], image[1, :7, :7, :7])


def test_ranges_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="shear is -1"):
        Ranges(shear=-1)
    with pytest.raises(ValueError, match="lets an example vanish"):
        Ranges(scale=1.0)
    with pytest.raises(Refused, match="unknown keys turn"):
        ranges_of({"turn": 3})
    assert ranges_of({"rotate_deg": 5, "flip": [0]}) == Ranges(translate=0, rotate_deg=5, shear=0, scale=0, flip=(0,))


def test_the_setting_fits_its_schema_and_reaches_the_training() -> None:
    schema = json.loads((ROOT / "schemas" / "stages" / "classify.json").read_text())
    section = yaml.safe_load((ROOT / "config.yaml").read_text())["classify"]["default"]
    jsonschema.validate(section, schema)
    assert section["training"]["augment"] is None
    every = {
        "translate": 0.1,
        "rotate_deg": 5,
        "shear": 0.1,
        "scale": 0.1,
        "flip": [0],
        "gain": 0.1,
        "offset": 0.1,
        "noise": 0.1,
        "gamma": 0.1,
        "whole": False,
    }
    jsonschema.validate({"training": {"augment": every}}, schema)
    assert set(every) == set(schema["properties"]["training"]["properties"]["augment"]["anyOf"][1]["properties"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"training": {"augment": {"turn": 1}}}, schema)
    rng = np.random.default_rng(0)
    inputs, y = rng.random((8, 5, 16, 16, 16), dtype=np.float32), np.arange(8) % 2
    weights = [
        train_network(inputs, y, 2, 1, Budget(steps=2, batch=4, augment=ranges))[0].state_dict()["head.weight"].numpy()
        for ranges in (None, ranges_of(every), ranges_of(every))
    ]
    assert np.array_equal(weights[1], weights[2]) and not np.array_equal(weights[0], weights[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 9), st.integers(5, 9), st.integers(0, 999))
def test_whole_voxels_are_moved_and_nothing_is_interpolated(nx: int, ny: int, seed: int) -> None:
    """As many voxels along each axis as drawn, mirrored or not, the border going on; labels with their image."""
    labels = np.arange(1, nx * ny + 1, dtype=np.int32).reshape(nx, ny)
    ranges = ranges_of({"translate": 0.6, "flip": [0], "whole": True})
    moved, with_it, drawn = vary(labels.astype(np.float32), labels, ranges, np.random.default_rng(seed))
    padded = np.pad(labels[::-1] if drawn.matrix[0, 0] < 0 else labels, 9, mode="edge")
    x, y = (int(shift) for shift in drawn.shift * np.diagonal(drawn.matrix))
    np.testing.assert_array_equal(with_it, padded[9 + x : 9 + x + nx, 9 + y : 9 + y + ny])
    np.testing.assert_array_equal(moved, with_it)
    inside = (slice(3, -3),) * 2
    padded = np.pad(labels, 4, mode="edge")
    there = vary_labels(padded, drawn)
    np.testing.assert_array_equal(vary_labels(there, drawn.undone())[inside], padded[inside])


def test_whole_voxels_cannot_be_turned() -> None:
    with pytest.raises(Refused, match="leave them out"):
        ranges_of({"whole": True, "rotate_deg": 5})
