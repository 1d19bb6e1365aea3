"""A fan beam obeys its equations and describes a real scanner."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.physics import ct
from cohortex.physics.fan import Fan, fan_adjoint, fan_fbp, fan_for, fan_radon, full_turn

Detector = Literal["flat", "curved"]
BOTH = pytest.mark.parametrize("detector", ["flat", "curved"])
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ct-sinograms" / "htc2022"


def disc(size: int, radius_mm: float, spacing_mm: float) -> np.ndarray:
    axis = (np.arange(size) - (size - 1) / 2) * spacing_mm
    return ((np.hypot(axis[:, None], axis) < radius_mm) * ct.MU_WATER_PER_MM).astype(np.float32)[..., None]


def shepp_logan(size: int) -> np.ndarray:
    from skimage.data import shepp_logan_phantom
    from skimage.transform import resize

    return resize(shepp_logan_phantom(), (size, size), anti_aliasing=True).astype(np.float32)[..., None]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(3, 24), st.integers(3, 24), st.integers(1, 4), st.integers(1, 9), st.sampled_from(["flat", "curved"]), st.integers(0, 999)
)
def test_backprojection_is_the_adjoint_of_projection(nx: int, ny: int, nz: int, views: int, detector: Detector, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fan = Fan(rng.uniform(0, 7, views), 60.0, rng.uniform(60, 120), int(rng.integers(2, 60)), rng.uniform(0.5, 3), detector)
    image = rng.standard_normal((nx, ny, nz)).astype(np.float32)
    rays = rng.standard_normal((views, fan.bins, nz)).astype(np.float32)
    forward = fan_radon(image, fan, 1.5)
    left = np.vdot(forward, rays)
    right = np.vdot(image, fan_adjoint(rays, fan, 1.5, (nx, ny)))
    assert abs(left - right) <= 1e-4 * np.linalg.norm(forward) * np.linalg.norm(rays)


@BOTH
def test_a_ray_through_a_disc_measures_its_chord(detector: Detector) -> None:
    fan = fan_for((101, 101), 1.0, 5, 200.0, 350.0, detector)
    sinogram = fan_radon(disc(101, 40.0, 1.0), fan, 1.0)[..., 0]
    offset = 200.0 * np.sin(fan.fan_angles())
    chord = 2 * np.sqrt(np.maximum(40.0**2 - offset**2, 0)) * ct.MU_WATER_PER_MM
    np.testing.assert_allclose(sinogram[:, np.abs(offset) < 35], np.tile(chord[np.abs(offset) < 35], (5, 1)), rtol=0.05)
    assert not sinogram[:, np.abs(offset) > 42].any()


@BOTH
def test_a_source_very_far_away_gives_the_parallel_beam(detector: Detector) -> None:
    image = np.random.default_rng(0).random((30, 24, 2)).astype(np.float32)
    angles = full_turn(9)
    bins = ct.detectors_for((30, 24))
    far = fan_radon(image, Fan(angles, 3e7, 6e7, bins, 2.4, detector), 1.2)
    np.testing.assert_allclose(far, ct.radon(image, angles, 1.2, bins), atol=2e-3)


@BOTH
def test_fbp_of_a_noiseless_shepp_logan_is_above_25_db(detector: Detector) -> None:
    phantom = shepp_logan(160)
    fan = fan_for((160, 160), 1.5, 360, detector=detector)
    for window, least in (("ram-lak", 25.0), ("hann", 22.0)):
        image = fan_fbp(fan_radon(phantom, fan, 1.5), fan, 1.5, (160, 160), window)
        psnr = 10 * math.log10(phantom.max() ** 2 / float(np.mean((image - phantom) ** 2)))
        assert psnr > least, (window, psnr)


@BOTH
def test_water_comes_out_as_0_hu_and_air_as_minus_1000(detector: Detector) -> None:
    fan = fan_for((128, 128), 1.5, 240, detector=detector)
    attenuation = fan_fbp(fan_radon(disc(128, 70.0, 1.5), fan, 1.5), fan, 1.5, (128, 128), "hann")
    hu = ct.mu_to_hu(attenuation)[..., 0]
    assert abs(hu[54:74, 54:74].mean()) < 5
    assert abs(hu[64, 5:12].mean() + 1000) < 10
    # A scanner whose unit nobody knows is calibrated with its own scan of water.
    air, water = 3.7 * attenuation[64, 5:12].mean() + 0.2, 3.7 * attenuation[54:74, 54:74].mean() + 0.2
    calibrated = ct.calibrated_hu(3.7 * attenuation + 0.2, float(air), float(water))[..., 0]
    assert abs(calibrated[30:50, 60].mean()) < 10
    with pytest.raises(ValueError, match="water"):
        ct.calibrated_hu(attenuation, 1.0, 1.0)


@BOTH
def test_image_noise_falls_as_one_over_the_root_of_the_photons(detector: Detector) -> None:
    fan = fan_for((64, 64), 2.0, 96, detector=detector)
    sinogram = np.repeat(fan_radon(disc(64, 50.0, 2.0), fan, 2.0), 24, axis=2)
    clean = fan_fbp(sinogram, fan, 2.0, (64, 64))
    deviation = []
    for photons in (1e4, 4e4, 1.6e5):
        noisy = fan_fbp(ct.low_dose(sinogram, photons, np.random.default_rng(2)), fan, 2.0, (64, 64))
        deviation.append(float((noisy - clean)[26:38, 26:38].std()))
    assert deviation[0] / deviation[1] == pytest.approx(2, rel=0.06)
    assert deviation[1] / deviation[2] == pytest.approx(2, rel=0.06)
    # With few photons the electronics are heard too.
    silent, loud = (
        fan_fbp(ct.low_dose(sinogram, 1e4, np.random.default_rng(3), electronic), fan, 2.0, (64, 64)) for electronic in (0.0, 60.0)
    )
    assert (loud - clean)[26:38, 26:38].std() > 1.2 * (silent - clean)[26:38, 26:38].std()


def test_fewer_views_are_evenly_spread_and_cost_quality() -> None:
    phantom, errors = shepp_logan(96), []
    fan = fan_for((96, 96), 2.0, 240)
    sinogram = fan_radon(phantom, fan, 2.0)
    for kept in (240, 60, 30):
        views = ct.sparse_views(240, kept)
        assert len(views) == kept and set(np.diff(views)) == {240 // kept}
        some = Fan(fan.angles[views], fan.source_mm, fan.detector_mm, fan.bins, fan.bin_mm, fan.detector)
        image = fan_fbp(sinogram[views], some, 2.0, (96, 96))
        errors.append(float(np.mean((image - phantom) ** 2)))
    assert errors[0] < 0.5 * errors[1] < 0.25 * errors[2] * 2
    with pytest.raises(ValueError, match="7 of 240 views cannot lie evenly"):
        ct.sparse_views(240, 7)


def test_what_cannot_be_scanned_is_refused() -> None:
    with pytest.raises(ValueError, match="move the source away"):
        fan_radon(np.zeros((100, 100, 1)), Fan(full_turn(4), 60.0, 120.0, 9, 1.0), 1.0)
    with pytest.raises(ValueError, match="reaches the source"):
        fan_for((100, 100), 1.0, 4, 70.0)
    with pytest.raises(ValueError, match="flat or curved"):
        Fan(full_turn(4), 60.0, 120.0, 9, 1.0, "round")  # type: ignore[arg-type]


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/data/ct-sinograms beside the checkout")
def test_a_real_scanner_measured_what_the_fan_says() -> None:
    """The Helsinki Tomography Challenge: the known phantom, projected with the geometry in the file, is what was measured."""
    from scipy.io import loadmat
    from skimage.io import imread

    scan = loadmat(REAL / "tb_category7.mat", squeeze_me=True, struct_as_record=False)["CtDataLimited"]
    about = scan.parameters
    phantom = (imread(REAL / "tb_category7_reference.png") > 0).astype(np.float32)[..., None]
    angles = np.deg2rad(np.asarray(about.angles) + 90)
    fan = Fan(angles, about.distanceSourceOrigin, about.distanceSourceDetector, about.numDetectorsPost, about.pixelSizePost, "flat")
    predicted = fan_radon(phantom, fan, about.effectivePixelSizePost)[..., 0]
    assert np.corrcoef(predicted.ravel(), scan.sinogram.ravel())[0, 1] > 0.99
    mirrored = fan_radon(phantom[::-1], fan, about.effectivePixelSizePost)[..., 0]
    assert np.corrcoef(mirrored.ravel(), scan.sinogram.ravel())[0, 1] < 0.95
