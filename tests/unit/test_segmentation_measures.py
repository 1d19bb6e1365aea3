"""Measures of segmentation against what is known."""

import math

import numpy as np
import pytest

from cohortex.measures.segmentation import average_surface_distance_mm, dice, hausdorff95_mm, iou, mean_of, volumes_ml


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
