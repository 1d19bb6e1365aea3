"""Magnetic resonance obeys its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.physics import mr
from cohortex.physics.fourier import centred_fft, centred_ifft, root_sum_of_squares


def coils(slices: int, ny: int, nx: int) -> np.ndarray:
    points = (np.arange(nx) - nx / 2, (np.arange(ny) - ny / 2)[:, None], np.linspace(-20, 20, slices)[:, None, None])
    maps = mr.coil_sensitivities(points, np.array([[30, 0, 5], [-30, 4, 0], [0, 30, 2], [3, -30, 0]]), 30.0)
    return np.moveaxis(maps, 0, 1)


@given(st.integers(1, 3), st.integers(2, 33), st.integers(2, 33), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_parseval_holds_and_the_inverse_undoes_the_transform(slices: int, ny: int, nx: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = (rng.standard_normal((slices, ny, nx)) + 1j * rng.standard_normal((slices, ny, nx))).astype(np.complex64)
    kspace = centred_fft(image, (-2, -1))
    assert np.linalg.norm(kspace) == pytest.approx(np.linalg.norm(image), rel=1e-6)
    np.testing.assert_allclose(centred_ifft(kspace, (-2, -1)), image, atol=1e-5)


@given(st.integers(8, 40), st.integers(8, 40), st.floats(1.0, 4.0), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_undersampled_multi_coil_operator_has_its_adjoint(ny: int, nx: int, acceleration: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = coils(3, ny, nx)
    mask = mr.cartesian_mask(ny, acceleration, 0.1, rng)
    image = (rng.standard_normal((3, ny, nx, 2)).astype(np.float32)).view(np.complex64)[..., 0]
    kspace = (rng.standard_normal((3, 4, ny, nx, 2)).astype(np.float32)).view(np.complex64)[..., 0]
    forward = mr.acquire_kspace(image, maps, mask)
    left = np.vdot(kspace, forward)
    right = np.vdot(mr.acquire_adjoint(kspace, maps, mask), image)
    assert abs(left - right) <= 1e-4 * np.linalg.norm(forward) * np.linalg.norm(kspace)


@given(st.integers(32, 320), st.floats(1.0, 6.0), st.integers(0, 1000))
def test_the_measured_acceleration_is_the_nominal_one_and_the_centre_is_whole(lines: int, acceleration: float, seed: int) -> None:
    mask = mr.cartesian_mask(lines, acceleration, 0.1, np.random.default_rng(seed))
    assert mask.sum() == round(lines / acceleration)
    inner = round(lines * 0.1)
    assert mask[lines // 2 - (inner - 1) // 2 : lines // 2 + (inner + 1) // 2].all()


def test_lines_near_the_centre_are_measured_more_often() -> None:
    share = np.mean([mr.cartesian_mask(160, 3.0, 0.05, np.random.default_rng(seed)) for seed in range(200)], axis=0)
    assert share[50:70].mean() > 2 * share[:20].mean() > 0


def test_a_mask_that_cannot_hold_its_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="25 of 100 lines cannot hold a centre of 40"):
        mr.cartesian_mask(100, 4.0, 0.4, np.random.default_rng(0))


def test_the_magnitude_of_a_noisy_image_is_rician() -> None:
    rng, sigma = np.random.default_rng(0), 0.5
    for signal in (0.0, 0.5, 1.0, 4.0):
        image = np.full((1, 1, 256, 256), signal, np.complex64)
        noisy = centred_ifft(mr.add_complex_noise(centred_fft(image, (-2, -1)), sigma, rng), (-2, -1))
        assert np.abs(noisy).mean() == pytest.approx(float(mr.rician_mean(signal, sigma)), rel=0.01)
        assert noisy.real.std() == pytest.approx(sigma, rel=0.02)
    assert float(mr.rician_mean(0.0, sigma)) == pytest.approx(sigma * math.sqrt(math.pi / 2))
    assert float(mr.rician_mean(1e4, sigma)) == pytest.approx(1e4 + sigma**2 / 2e4, rel=1e-9)


@pytest.mark.parametrize("coils", [1, 2, 4, 16])
def test_the_bias_of_several_coils_is_that_of_the_noncentral_chi_distribution(coils: int) -> None:
    """Noise on the k-space of each coil, root sum of squares of the images: the mean is the theory's, as is that of the short cut."""
    rng, sigma = np.random.default_rng(coils), 0.5
    for signal in (0.0, 0.4, 1.0, 6.0):
        image = np.full((1, coils, 128, 160), signal / math.sqrt(coils), np.complex64)
        noisy = mr.add_complex_noise(centred_fft(image, (-2, -1)), sigma, rng)
        measured = root_sum_of_squares(centred_ifft(noisy, (-2, -1)), 1).mean()
        theory = float(mr.noncentral_chi_mean(np.array(signal), sigma, coils))
        # Four standard errors of a mean of 20480 pixels, a small part of the bias.
        assert measured - signal == pytest.approx(theory - signal, abs=0.014)
        short = mr.noisy_magnitude(np.full((128, 160), signal), sigma, rng, coils).mean()
        assert short - signal == pytest.approx(theory - signal, abs=0.014)
    # The bias at high signal, and both series where they meet.
    assert float(mr.noncentral_chi_mean(np.array(1e4), sigma, coils)) - 1e4 == pytest.approx((2 * coils - 1) * sigma**2 / 2e4, rel=1e-4)
    edge = sigma * math.sqrt(1000.0)
    below, above = mr.noncentral_chi_mean(np.array([edge * (1 - 1e-9), edge * (1 + 1e-9)]), sigma, coils)
    assert below == pytest.approx(above, rel=2e-6)
    assert float(mr.noncentral_chi_mean(np.array(1.3), sigma, 1)) == pytest.approx(float(mr.rician_mean(np.array(1.3), sigma)), rel=1e-9)


def test_noise_falls_only_on_measured_lines() -> None:
    mask = mr.cartesian_mask(32, 2.0, 0.2, np.random.default_rng(0))
    noisy = mr.add_complex_noise(np.zeros((2, 4, 32, 16), np.complex64), 1.0, np.random.default_rng(1), mask)
    assert not noisy[:, :, ~mask].any() and (noisy[:, :, mask] != 0).all()


def test_the_ernst_angle_gives_the_most_signal_and_short_t1_is_bright() -> None:
    flips = np.arange(1, 90)
    signal = [float(mr.spoiled_gradient_echo(1.0, 800.0, 50.0, 100.0, 5.0, flip)) for flip in flips]
    assert flips[int(np.argmax(signal))] == round(math.degrees(math.acos(math.exp(-100 / 800))))
    fat, white, grey, csf = mr.spoiled_gradient_echo(1.0, np.array([350.0, 800, 1300, 4000]), 50.0, 250.0, 4.0, 75.0)
    assert fat > white > grey > csf


def test_a_slice_keeps_a_constant_object_and_averages_its_planes() -> None:
    profile = mr.slice_profile(3.0, 1.5, 0.4)
    assert profile.sum() == pytest.approx(1) and len(profile) == 4
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-6)
    slices = mr.excite_slices(np.ones((12, 2, 2), np.float32), profile, 2)
    np.testing.assert_allclose(slices[1:-1], 1, atol=1e-6)
    np.testing.assert_allclose(mr.slice_profile(3.0, 1.5, 0.0), [0.5, 0.5], atol=1e-6)
    ramp = mr.excite_slices(np.arange(12, dtype=np.float32), profile, 2)
    np.testing.assert_allclose(ramp[1:-1], np.arange(12).reshape(6, 2).mean(1)[1:-1], atol=1e-5)
    with pytest.raises(ValueError, match="cannot be cut"):
        mr.excite_slices(np.ones(11), profile, 2)


def test_coils_are_strongest_near_themselves_and_one_at_the_origin() -> None:
    maps = coils(3, 41, 41)
    at_origin = mr.coil_sensitivities((np.zeros(1),) * 3, np.array([[80.0, 0, 0], [-80, 0, 10]]), 60.0)
    assert root_sum_of_squares(at_origin, 0)[0] == pytest.approx(1, rel=1e-5)
    assert np.abs(maps[1, 0, 20, 40]) > 2 * np.abs(maps[1, 0, 20, 0])
