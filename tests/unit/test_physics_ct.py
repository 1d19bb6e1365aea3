"""Computed tomography obeys its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.physics import ct


def water(size: int, radius_mm: float, spacing_mm: float) -> np.ndarray:
    axis = (np.arange(size) - (size - 1) / 2) * spacing_mm
    disc = np.hypot(axis[:, None], axis[None]) < radius_mm
    return (disc * ct.MU_WATER_PER_MM).astype(np.float32)[..., None]


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 24), st.integers(3, 24), st.integers(1, 5), st.integers(1, 9), st.integers(0, 1000))
def test_backprojection_is_the_adjoint_of_projection(nx: int, ny: int, nz: int, views: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = ct.view_angles(views) + rng.uniform(0, 1)
    image = rng.standard_normal((nx, ny, nz)).astype(np.float32)
    rays = rng.standard_normal((views, ct.detectors_for((nx, ny)), nz)).astype(np.float32)
    forward = ct.radon(image, angles, 1.5)
    left = np.vdot(forward, rays)
    right = np.vdot(image, ct.radon_adjoint(rays, angles, 1.5, (nx, ny)))
    assert abs(left - right) <= 1e-4 * np.linalg.norm(forward) * np.linalg.norm(rays)


def test_a_ray_through_a_disc_measures_its_chord() -> None:
    sinogram = ct.radon(water(101, 40.0, 1.0), ct.view_angles(12), 1.0)
    middle = sinogram[:, sinogram.shape[1] // 2 - 1 : sinogram.shape[1] // 2 + 1, 0].mean(1)
    np.testing.assert_allclose(middle, 80.0 * ct.MU_WATER_PER_MM, rtol=0.02)


def test_the_projection_follows_the_stated_geometry() -> None:
    image = np.zeros((41, 41, 1), np.float32)
    image[30, 20] = 1.0  # at x = +10, y = 0
    sinogram = ct.radon(image, np.array([0.0, math.pi / 2]), 1.0, detectors=61)
    assert sinogram[0, :, 0].argmax() == 30 + 10  # angle 0 looks along y: the offset is x
    assert sinogram[1, :, 0].argmax() == 30


def test_fbp_of_a_noiseless_shepp_logan_is_above_25_db() -> None:
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    phantom = resize(shepp_logan_phantom(), (160, 160), anti_aliasing=True).astype(np.float32)[..., None]
    angles = ct.view_angles(240)
    for window, least in (("ram-lak", 25.0), ("hann", 22.0)):
        image = ct.fbp(ct.radon(phantom, angles, 1.5), angles, 1.5, (160, 160), window)
        psnr = 10 * math.log10(phantom.max() ** 2 / float(np.mean((image - phantom) ** 2)))
        assert psnr > least, (window, psnr)


def test_water_comes_out_as_0_hu_and_air_as_minus_1000() -> None:
    angles = ct.view_angles(180)
    hu = ct.mu_to_hu(ct.fbp(ct.radon(water(128, 70.0, 1.5), angles, 1.5), angles, 1.5, (128, 128), "hann"))[..., 0]
    assert abs(hu[54:74, 54:74].mean()) < 5
    assert abs(hu[64, 5:12].mean() + 1000) < 10
    np.testing.assert_allclose(ct.mu_to_hu(ct.hu_to_mu(np.array([-1000.0, 0.0, 60.0, 1500.0]))), [-1000, 0, 60, 1500], atol=0.01)
    assert ct.hu_to_mu(np.array([-3000.0])) == 0


def test_the_aperture_spreads_a_ray_and_loses_nothing() -> None:
    rays = np.zeros((1, 7, 1), np.float32)
    rays[0, 3] = 1
    np.testing.assert_allclose(ct.aperture(rays, 0.15)[0, :, 0], [0, 0, 0.15, 0.7, 0.15, 0, 0], atol=1e-7)


@pytest.mark.parametrize("photons", [2e3, 2e4, 2e5])
@pytest.mark.parametrize("electronic", [0.0, 8.0])
def test_the_variance_of_the_rays_equals_the_poisson_prediction(photons: float, electronic: float) -> None:
    p = np.full((100, 100, 20), 1.5, np.float32)
    measured = ct.low_dose(p, photons, np.random.default_rng(1), electronic)
    assert measured.var() == pytest.approx(float(ct.low_dose_variance(1.5, photons, electronic)), rel=0.05)
    assert measured.mean() == pytest.approx(1.5, abs=0.005)


def test_image_noise_falls_as_one_over_the_root_of_the_photons_and_is_as_predicted() -> None:
    angles = ct.view_angles(180)
    disc = water(96, 60.0, 1.5)
    sinogram = np.repeat(ct.radon(disc, angles, 1.5), 24, axis=2)
    clean = ct.fbp(sinogram, angles, 1.5, (96, 96))
    deviation = []
    for photons in (1e4, 4e4, 1.6e5):
        noisy = ct.fbp(ct.low_dose(sinogram, photons, np.random.default_rng(2)), angles, 1.5, (96, 96))
        deviation.append(float((noisy - clean)[42:54, 42:54].std()))
    assert deviation[0] / deviation[1] == pytest.approx(2, rel=0.05)
    assert deviation[1] / deviation[2] == pytest.approx(2, rel=0.05)
    middle = sinogram[:, sinogram.shape[1] // 2, 0]
    for window in ("ram-lak", "hann"):
        rays = ct.low_dose(sinogram, 1.6e5, np.random.default_rng(3)) - sinogram
        measured = ct.fbp(rays, angles, 1.5, (96, 96), window)[42:54, 42:54].std()
        predicted = ct.fbp_variance(ct.low_dose_variance(middle, 1.6e5), angles, 1.5, window) ** 0.5
        assert measured == pytest.approx(predicted, rel=0.05), window
