"""Rigid and affine motions on self-similarities, the region that is outlined in one image, and the last step of a rigid motion."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from cohortex.filters.gaussian import gaussian
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.sharpen import sharpened
from cohortex.registration import linear
from cohortex.registration.mind import halved, mind_bytes
from cohortex.registration.region import register_region

SHAPE = (40, 44, 36)
WEIGHT = np.zeros(SHAPE, np.uint8)
WEIGHT[6:-6, 6:-6, 6:-6] = 1


def smooth(seed: int, sigma: float = 2.0, shape=SHAPE) -> np.ndarray:
    noise = gaussian(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), (1.0, 1.0, 1.0), sigma)
    return (noise - noise.min()) / (noise.max() - noise.min())


def moved(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    places = np.tensordot(matrix[:3, :3], np.indices(image.shape), 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return ndi.map_coordinates(image, places, order=3, mode="nearest").astype(np.float32)


def motion(turn, shift, stretch=0.0) -> np.ndarray:
    """A turn and a stretch about the middle of the image, and a shift."""
    found, middle = np.eye(4), (np.array(SHAPE) - 1) / 2
    found[:3, :3] = linear.rotation_of(np.array(turn)) @ (np.eye(3) + stretch)
    found[:3, 3] = middle + shift - found[:3, :3] @ middle
    return found


def apart(found: np.ndarray, truth: np.ndarray) -> float:
    points = np.argwhere(WEIGHT)[::50]
    return float(np.linalg.norm(points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3], axis=1).mean())


STRETCH = np.array([[0.06, 0.03, 0], [-0.02, -0.05, 0], [0, 0.02, 0.04]])
TRUTHS = {
    "shift": motion([0, 0, 0], [1.3, -2.1, 0.8]),
    "rigid": motion([0.05, -0.08, 0.06], [1.0, -1.5, 0.5]),
    "affine": motion([0.03, 0.02, -0.04], [0.7, 0.9, -1.1], STRETCH),
}


@pytest.mark.parametrize("contrast", ["same", "inverted"])
@pytest.mark.parametrize("freedom", linear.FREEDOMS)
def test_a_motion_is_found_in_either_contrast(freedom, contrast):
    moving, truth = smooth(1), TRUTHS[freedom]
    fixed = moved(moving, truth)
    features = mind_bytes(fixed), mind_bytes(1 - moving if contrast == "inverted" else moving)
    coarse = halved(features[0]), halved(features[1])
    found, before = linear.improved(np.eye(4), coarse, np.ascontiguousarray(WEIGHT[::2, ::2, ::2]), 2, SHAPE, freedom)
    found, after = linear.improved(found, features, WEIGHT, 1, SHAPE, freedom)
    assert apart(found, truth) < 0.05 < apart(np.eye(4), truth)
    assert 0 < after < before or after < 0.01
    turned = found[:3, :3]
    if freedom == "rigid":
        assert np.allclose(turned @ turned.T, np.eye(3), atol=1e-9)
    if freedom == "shift":
        assert np.array_equal(turned, np.eye(3))


@pytest.mark.parametrize("freedom", linear.FREEDOMS)
def test_an_image_on_itself_does_not_move_at_all(freedom):
    features = mind_bytes(smooth(2))
    found, energy = linear.improved(np.eye(4), (features, features), WEIGHT, 1, SHAPE, freedom)
    assert np.array_equal(found, np.eye(4)) and energy == 0


def test_a_linear_displacement_on_a_spline_is_linear_everywhere():
    matrix = TRUTHS["affine"]
    points = np.indices(SHAPE)
    wanted = np.tensordot(matrix[:3, :3], points, 1) + matrix[:3, 3].reshape(3, 1, 1, 1) - points
    assert np.abs(linear.linear_spline(matrix, SHAPE, 4).displacement() - wanted).max() < 1e-4


def test_where_nothing_can_be_seen_nothing_moves():
    features = mind_bytes(smooth(3))
    found, energy = linear.improved(np.eye(4), (features, features), np.zeros(SHAPE, np.uint8), 1, SHAPE)
    assert np.array_equal(found, np.eye(4)) and energy == np.inf
    flat = np.zeros((*SHAPE, 12), np.uint8)
    assert np.allclose(linear.improved(np.eye(4), (flat, flat), WEIGHT, 1, SHAPE)[0], np.eye(4))


def test_lengths_that_are_held_change_less():
    moving = smooth(4)
    features = mind_bytes(moved(moving, TRUTHS["affine"])), mind_bytes(moving)
    free, held = (linear.improved(np.eye(4), features, WEIGHT, 1, SHAPE, "affine", hold=hold)[0] for hold in (0.0, 30.0))

    def strain(matrix: np.ndarray) -> float:
        return float(np.abs((matrix + matrix.T)[:3, :3] / 2 - np.eye(3)).max())

    assert strain(held) < 0.3 * strain(free)


def outlined(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An organ of its own structure in two images whose surroundings have nothing in common; the second is shifted, stretched, inverted."""
    shape = (60, 60, 60)
    organ, places = smooth(seed, 4.0, shape), np.indices(shape)
    matrix = np.diag([1.04, 0.97, 1.03, 1.0])
    matrix[:3, 3] = np.array([3.0, -4.0, 2.0]) + 29.5 - matrix[:3, :3] @ np.full(3, 29.5)
    region = ((places - 29.5) ** 2).sum(0) < 18**2
    back = np.linalg.inv(matrix)
    there = np.tensordot(back[:3, :3], places, 1) + back[:3, 3].reshape(3, 1, 1, 1)
    inside = ((there - 29.5) ** 2).sum(0) < 22**2
    fixed = np.where(ndi.binary_dilation(region, iterations=4), organ, smooth(seed + 1, 4.0, shape))
    moving = np.where(inside, 1 - ndi.map_coordinates(organ, there, order=1), smooth(seed + 2, 4.0, shape))
    return fixed.astype(np.float32), moving.astype(np.float32), region, matrix


def test_a_region_is_found_where_nothing_else_fits():
    fixed, moving, region, truth = outlined(10)
    found = register_region(fixed, moving, region)
    points = np.argwhere(region)[::200].T
    true = truth[:3, :3] @ points + truth[:3, 3:]

    def error(matrix: np.ndarray, displacement: np.ndarray) -> float:
        at = points + displacement[(slice(None), *points)]
        return float(np.linalg.norm(matrix[:3, :3] @ at + matrix[:3, 3:] - true, axis=0).mean())

    assert found.displacement.shape == (3, *fixed.shape)
    # Half of one of the averaged voxels, of three, that it is found at.
    assert error(found.matrix, found.displacement) < 1.5 < 4.0 < error(found.start, np.zeros_like(found.displacement))


def test_a_region_that_is_none_is_refused():
    image = np.zeros((30, 30, 30), np.float32)
    with pytest.raises(ValueError, match="not empty"):
        register_region(image, image, np.zeros(image.shape, bool))
    with pytest.raises(ValueError, match="at least 24 voxels"):
        register_region(image, image[:20], np.ones(image.shape, bool))


def test_the_last_step_of_a_rigid_motion_brings_it_within_tenths_of_a_voxel():
    place = (np.indices(SHAPE) - (np.array(SHAPE).reshape(3, 1, 1, 1) - 1) / 2) / (np.array(SHAPE).reshape(3, 1, 1, 1) / 2)
    body = (place**2).sum(0) < 0.7
    moving = np.where(body, 100 + 150 * smooth(20, 2.0), 0).astype(np.float32)
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    # In voxels; the world's is four times as far.
    truth = motion([0.02, -0.03, 0.02], [0.4, -0.3, 0.5])
    other = np.where(body, 400 - moving, 0).astype(np.float32)
    fixed = moved(moving, truth)
    found = sharpened(prepare(fixed, affine, "T1w"), prepare(other, affine, "T2w"), np.eye(4))
    assert apart(np.linalg.inv(affine) @ found @ affine, truth) < 0.15 < 0.6 < apart(np.eye(4), truth)
