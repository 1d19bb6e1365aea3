"""What a restoration added or took away."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.measures import honesty
from cohortex.models.superresolve import throughplane as through

SIGMA = 8.0


@pytest.fixture(scope="module")
def scan():
    """A head-like phantom with fine structure, its foreground, and noise."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in (48, 44, 30)], indexing="ij")
    inside = sum(a**2 for a in axes) < 0.9
    clean = 200.0 * inside + 60 * ndimage.gaussian_filter(rng.normal(size=inside.shape), 1.2) * inside
    return clean, inside, SIGMA * rng.normal(size=inside.shape)


def test_the_residual_of_pure_noise_knows_nothing_of_the_anatomy(scan):
    clean, inside, noise = scan
    found = honesty.residual_structure(clean + noise, clean, inside)
    assert found["residual_std"] == pytest.approx(SIGMA, rel=0.03)
    assert all(abs(found[key]) < 0.03 for key in found if "correlation" in key)


def test_detail_that_went_with_the_noise_shows_in_the_residual(scan):
    clean, inside, noise = scan
    blurred = ndimage.gaussian_filter(clean + noise, 1.5)
    found = honesty.residual_structure(clean + noise, blurred, inside)
    assert found["edge_correlation"] > 0.3
    assert found["autocorrelation_x"] > 0.1
    assert set(found) >= {"autocorrelation_y", "autocorrelation_z", "residual_mean", "image_correlation"}


def test_a_constant_residual_has_no_structure():
    image = np.random.default_rng(0).random((8, 8, 8))
    found = honesty.residual_structure(image + 3, image)
    assert found["residual_mean"] == pytest.approx(3)
    assert abs(found["image_correlation"]) < 1e-6
    with pytest.raises(ValueError, match="no voxel"):
        honesty.residual_structure(image, image, np.zeros(image.shape, bool))


def test_the_autocorrelation_of_a_moving_average_is_the_one_of_theory():
    noise = np.random.default_rng(1).normal(size=(400, 60))
    assert honesty.autocorrelation(noise, 0) == pytest.approx(0, abs=0.02)
    assert honesty.autocorrelation(noise[1:] + noise[:-1], 0) == pytest.approx(0.5, abs=0.02)


def test_what_was_removed_is_as_large_as_the_noise_and_white_or_not(scan):
    clean, inside, noise = scan
    right = honesty.noise_agreement(clean + noise, clean, SIGMA, inside)
    assert right["removed_share"] == pytest.approx(1, rel=0.03) and right["whiteness"] > 0.95
    little = honesty.noise_agreement(clean + noise, clean + 0.5 * noise, SIGMA, inside)
    assert little["removed_share"] == pytest.approx(0.5, rel=0.03)
    much = honesty.noise_agreement(clean + noise, ndimage.gaussian_filter(clean + noise, 3), SIGMA, inside)
    assert much["removed_share"] > 1.3 and much["whiteness"] < 0.8
    with pytest.raises(ValueError, match="above zero"):
        honesty.noise_agreement(clean, clean, 0.0)


def test_a_volume_that_agrees_with_its_slices_has_no_disagreement(scan):
    clean = scan[0].astype(np.float32)
    slices = through.average(clean, 10, 2)
    spline = through.upsample(slices, 30, 2)
    assert honesty.slice_agreement(clean, slices, 2) == pytest.approx(0, abs=1e-6)
    assert honesty.slice_agreement(through.agree(spline, slices, 2), slices, 2) == pytest.approx(0, abs=1e-5)
    assert honesty.slice_agreement(1.1 * clean, slices, 2) == pytest.approx(0.1, abs=1e-5)


def test_a_planted_lesion_has_its_volume_its_contrast_and_its_place(scan):
    clean, inside, _ = scan
    planted = honesty.plant_lesions(clean, (1.0, 1.0, 2.0), inside, SIGMA, (4.0, 8.0), (3.0,), each=1, seed=3)
    added = planted.image - clean
    for lesion, box, profile in zip(planted.lesions, planted.boxes, planted.profiles, strict=True):
        assert profile.sum() * 2.0 == pytest.approx(3 * SIGMA * np.pi / 6 * lesion.diameter_mm**3, rel=0.02), "voxels are 2 mm^3"
        assert added[box].max() == pytest.approx(3 * SIGMA, rel=1e-4)
        assert inside[tuple(np.round(lesion.middle).astype(int))]
        weights = added[box] / added[box].sum()
        middle = [np.sum(weights * (index + side.start)) for index, side in zip(np.indices(weights.shape), box, strict=True)]
        np.testing.assert_allclose(middle, lesion.middle, atol=0.05)
    elsewhere = np.ones(added.shape, bool)
    for box in planted.boxes:
        elsewhere[box] = False
    assert np.abs(added[elsewhere]).max() < 1e-4


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**20))
def test_lesions_do_not_touch_and_the_same_seed_puts_them_at_the_same_places(seed):
    inside = np.ones((40, 40, 20), bool)
    planted = honesty.plant_lesions(np.zeros(inside.shape), (1, 1, 1), inside, 1.0, (2.0, 5.0), (1.0, -2.0), seed=seed)
    taken = np.zeros(inside.shape, int)
    for box in planted.boxes:
        taken[box] += 1
    assert taken.max() == 1
    again = honesty.plant_lesions(np.zeros(inside.shape), (1, 1, 1), inside, 1.0, (2.0, 5.0), (1.0, -2.0), seed=seed)
    assert again.lesions == planted.lesions
    assert {(lesion.diameter_mm, lesion.contrast) for lesion in planted.lesions} == {(d, c) for d in (2.0, 5.0) for c in (1.0, -2.0)}


def test_the_identity_keeps_every_lesion_and_a_constant_loses_them(scan):
    clean, inside, noise = scan
    planted = honesty.plant_lesions(clean, (1, 1, 1), inside, SIGMA, seed=1)
    noisy = lambda image: image + noise.astype(np.float32)  # noqa: E731
    rows = honesty.planted_lesion_test(clean, planted, noisy, lambda a: a, lambda a: 0 * a)
    np.testing.assert_allclose([row["recovery"] for row in rows], 1, atol=1e-4)
    np.testing.assert_allclose([row["baseline"] for row in rows], 0, atol=1e-4)
    assert set(honesty.recovery_by_size(rows)) == {(d, c) for d in (2.0, 4.0, 8.0) for c in (2.0, 4.0)}


def test_blur_loses_small_lesions_more_than_large_ones_and_a_network_that_invents_is_above_one(scan):
    clean, inside, noise = scan
    planted = honesty.plant_lesions(clean, (1, 1, 1), inside, SIGMA, seed=2)
    noisy = lambda image: image + noise  # noqa: E731
    rows = honesty.planted_lesion_test(clean, planted, noisy, lambda a: ndimage.gaussian_filter(a, 1.5), lambda a: 1.5 * a)
    kept, other = honesty.recovery_by_size(rows), honesty.recovery_by_size(rows, "baseline")
    assert kept[2.0, 4.0] < kept[4.0, 4.0] < kept[8.0, 4.0] < 1
    assert kept[2.0, 4.0] < 0.4
    assert all(value == pytest.approx(1.5, abs=1e-4) for value in other.values())


def test_no_room_for_lesions_is_refused(scan):
    with pytest.raises(ValueError, match="foreground is empty"):
        honesty.plant_lesions(scan[0], (1, 1, 1), np.zeros(scan[0].shape, bool), 1.0)
    with pytest.raises(ValueError, match="above zero"):
        honesty.plant_lesions(scan[0], (1, 1, 1), scan[1], 0.0)
