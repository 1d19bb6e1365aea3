"""Measures of registration against what is known."""

import numpy as np
import pytest

from cohortex.measures.registration import folding_percent, jacobian_determinant, moved_points, mutual_information, tre_mm

AFFINE = np.array([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -3.0], [0.0, 0.0, 3.0, 1.0], [0.0, 0.0, 0.0, 1.0]])


def linear_field(matrix: np.ndarray) -> np.ndarray:
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in (6, 5, 4)], indexing="ij"), axis=-1)
    return (voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3]) @ (matrix - np.eye(3)).T


def test_a_linear_map_changes_volume_by_its_determinant_on_an_oblique_grid():
    matrix = np.array([[1.2, 0.1, 0.0], [-0.2, 0.9, 0.05], [0.0, 0.1, 1.1]])
    assert np.allclose(jacobian_determinant(linear_field(matrix), AFFINE), np.linalg.det(matrix), atol=1e-4)


def test_a_mirror_folds_everywhere_and_the_identity_nowhere():
    assert folding_percent(linear_field(np.diag([-1.0, 1.0, 1.0])), AFFINE) == 100
    assert folding_percent(np.zeros((4, 4, 4, 3)), AFFINE) == 0


def test_landmark_errors_are_distances():
    assert tre_mm(np.array([[3.0, 4.0, 0.0]]), np.zeros((1, 3))).tolist() == [5.0]
    with pytest.raises(ValueError, match="landmarks"):
        tre_mm(np.zeros((2, 3)), np.zeros((3, 3)))


def test_points_go_through_field_and_then_matrix():
    matrix = np.eye(4)
    matrix[:3, 3] = (10, 0, 0)
    field = np.tile(np.array([1.0, 2.0, 3.0], np.float32), (6, 5, 4, 1))
    assert np.allclose(moved_points(np.array([[1.0, 1.0, 1.0]]), matrix, field, AFFINE), [[12.0, 3.0, 4.0]])


def test_mutual_information_of_a_map_is_the_entropy_and_of_strangers_nothing():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, 40000).astype(float)
    assert mutual_information(x, 7 - x, 8) == pytest.approx(np.log(8), abs=1e-3)
    assert mutual_information(x, rng.integers(0, 8, 40000).astype(float), 8) < 0.01
    assert mutual_information(x, np.ones_like(x)) == 0
