"""Measures of segmentation against what is known."""

import math

import numpy as np
import pytest

from cohortex.measures.segmentation import (
    average_surface_distance_mm,
    dice,
    hausdorff95_mm,
    iou,
    mean_of,
    overlaps,
    surface_distances_mm,
    swapped,
    volumes_ml,
)


def sphere(radius_mm: float, spacing=(1.0, 1.5, 2.0), shift_mm: float = 0.0) -> np.ndarray:
    axes = [np.arange(-30, 30 + 1e-9, s) for s in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return (x - shift_mm) ** 2 + y**2 + z**2 <= radius_mm**2


@pytest.mark.parametrize(("small", "large"), [(15, 20), (10, 25)])
def test_spheres_are_as_far_apart_as_their_radii_within_half_a_voxel(small, large):
    spacing = (1.0, 1.5, 2.0)
    a, b = sphere(small), sphere(large)
    assert average_surface_distance_mm(a, b, spacing) == pytest.approx(large - small, abs=1.0)
    assert hausdorff95_mm(a, b, spacing) == pytest.approx(large - small, abs=1.0)


def test_a_shifted_sphere_is_at_most_the_shift_away():
    assert hausdorff95_mm(sphere(15), sphere(15, shift_mm=4.0), (1.0, 1.5, 2.0)) == pytest.approx(4.0, abs=1.0)


def test_overlaps_follow_their_formulas():
    a, b = np.array([1, 1, 1, 0, 2]), np.array([1, 1, 0, 0, 0])
    assert dice(a, b, [1, 2, 3])[1] == pytest.approx(4 / 5)
    assert iou(a, b)[1] == pytest.approx(2 / 3)
    assert dice(a, b)[2] == 0


def test_a_label_that_nobody_has_counts_for_nothing():
    a = np.array([1, 0])
    scores = dice(a, a, [1, 5])
    assert math.isnan(scores[5])
    assert mean_of(scores) == 1
    assert math.isnan(mean_of({}))


def test_empty_masks_have_no_distance_and_one_empty_mask_is_infinitely_far():
    empty, full = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert math.isnan(hausdorff95_mm(empty, empty, (1, 1, 1)))
    assert hausdorff95_mm(empty, full, (1, 1, 1)) == math.inf
    assert average_surface_distance_mm(full, full, (1, 1, 1)) == 0


def test_volumes_are_millilitres():
    assert volumes_ml(np.array([[[1, 1, 0, 3]]]), (10.0, 10.0, 5.0)) == {1: 1.0, 3: 0.5}


def test_all_overlaps_are_those_that_are_counted_one_by_one():
    truth, result = np.array([1, 1, 1, 1, 0, 2, 0, 4]), np.array([1, 1, 1, 0, 1, 0, 3, 4])
    found = overlaps(truth, result, [1, 2, 3, 4, 5])
    assert {label: each["dice"] for label, each in found.items() if label < 5} == dice(truth, result)
    assert {label: each["iou"] for label, each in found.items() if label < 5} == iou(truth, result)
    assert (found[1]["recall"], found[1]["precision"]) == (3 / 4, 3 / 4)
    assert found[2]["recall"] == 0 and math.isnan(found[2]["precision"]), "the result has none of it"
    assert found[3]["precision"] == 0 and math.isnan(found[3]["recall"]), "the truth has none of it"
    assert all(math.isnan(value) for value in found[5].values())
    wide = overlaps(np.array([1, 0, 0, 0]), np.array([1, 1, 1, 1]))[1]
    assert (wide["recall"], wide["precision"]) == (1, 1 / 4)


def test_all_distances_are_those_that_are_measured_one_by_one():
    spacing = (1.0, 1.5, 2.0)
    a, b = sphere(12), sphere(15, shift_mm=3.0)
    found = surface_distances_mm(a, b, spacing)
    assert found["hd95"] == hausdorff95_mm(a, b, spacing) and found["asd"] == average_surface_distance_mm(a, b, spacing)
    assert found["asd"] <= found["mhd"] <= found["hd95"]
    # two plates of one voxel, one of them twice as long: every voxel of the short one has the other 3 mm below it
    plates = np.zeros((2, 30, 9, 9), bool)
    plates[0, :10, 2, :], plates[1, :20, 4, :] = True, True
    there = np.mean([3.0] * 10)
    back = np.mean([3.0] * 10 + [math.hypot(3.0, k) for k in range(1, 11)])
    assert surface_distances_mm(plates[0], plates[1], spacing)["mhd"] == pytest.approx(max(there, back))
    assert set(surface_distances_mm(a, 0 * b, spacing).values()) == {math.inf}
    assert all(math.isnan(value) for value in surface_distances_mm(0 * a, 0 * b, spacing).values())


def test_labels_that_changed_places_are_found_and_others_are_not():
    a = np.zeros((9, 9, 9), np.uint8)
    a[1:4], a[4:6], a[6:8] = 1, 2, 3
    exchanged = np.array([0, 2, 1, 3])[a]
    assert swapped(a, exchanged) == [(1, 2, 5 * 81, 0)]
    assert swapped(a, a) == []
    assert swapped(a, np.roll(a, 1, axis=0)) == []
    assert swapped(a, np.where(a == 1, 2, a)) == [], "a label that is lost is not exchanged"
