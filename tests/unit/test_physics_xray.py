"""Radiographs obey the law of Beer and Lambert, counts are Poisson, and the file keeps the pixels' size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cohortex.demo.write import write_radiograph
from cohortex.io.dicom import read_dicom
from cohortex.physics import xray
from cohortex.physics.ct import MU_WATER_PER_MM


def ball(size: int, radius_mm: float, spacing_mm: float) -> np.ndarray:
    """A ball of water; voxels on its face hold their share of it."""
    fine = (np.arange(2 * size) - (2 * size - 1) / 2) * spacing_mm / 2
    inside = fine[:, None, None] ** 2 + fine[:, None] ** 2 + fine**2 < radius_mm**2
    return inside.reshape(size, 2, size, 2, size, 2).mean((1, 3, 5)) * MU_WATER_PER_MM


def test_a_ray_through_water_is_weakened_by_its_chord() -> None:
    volume, spacing = ball(60, 40.0, 1.5), (1.5, 1.5, 1.5)
    p = xray.project(volume, spacing, axis=1)
    assert p.shape == (60, 60)
    assert p[29:31, 29:31].mean() == pytest.approx(80 * MU_WATER_PER_MM, rel=0.01)
    # The total is the mass, whatever the axis.
    for axis in range(3):
        assert xray.project(volume, spacing, axis).sum() == pytest.approx(volume.sum() * 1.5, rel=1e-5)


def test_a_point_source_magnifies_and_its_rays_are_as_long_as_they_are() -> None:
    volume, spacing = ball(60, 40.0, 1.5), (1.5, 1.5, 1.5)
    source = xray.PointSource(600.0, 1000.0, (120, 100), (1.5, 1.6))
    p = xray.project_from_point(volume, spacing, source)
    assert p.shape == (120, 100)
    u = (np.arange(120) - 59.5)[:, None] * 1.5
    v = (np.arange(100) - 49.5) * 1.6
    # The distance of a ray from the middle of the ball says how long its chord is.
    across = 600 * np.sin(np.arctan(np.hypot(u, v) / 1000))
    chord = 2 * np.sqrt(np.maximum(40.0**2 - across**2, 0)) * MU_WATER_PER_MM
    inside = across < 36
    np.testing.assert_allclose(p[inside], chord[inside], rtol=0.03)
    assert not p[across > 44].any()
    seen = np.count_nonzero(p[:, 49] > 0.2) * 1.5
    assert seen == pytest.approx(80 * source.magnification, rel=0.06)


def test_a_focus_inside_the_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit between a focus 40 mm"):
        xray.project_from_point(np.zeros((4, 60, 4)), (1.0, 2.0, 1.0), xray.PointSource(40.0, 1000.0, (4, 4), (1.0, 1.0)))


@pytest.mark.parametrize("photons", [500.0, 5e3, 5e4])
@pytest.mark.parametrize("electronic", [0.0, 6.0])
def test_the_variance_of_a_radiograph_equals_the_poisson_prediction(photons: float, electronic: float) -> None:
    """Pixel by pixel over repeated exposures of a body of 0 to 8 cm of water, of the counts and of their logarithm."""
    p = xray.project(ball(40, 40.0, 2.5), (2.5, 2.5, 2.5))
    shots = np.stack([xray.expose(p, photons, np.random.default_rng(seed), electronic) for seed in range(60)])
    counts = shots.var(axis=0, ddof=1) / xray.counts_variance(p, photons, electronic)
    assert counts.mean() == pytest.approx(1, abs=0.05)
    assert shots.mean() == pytest.approx(photons * np.exp(-p.astype(np.float64)).mean(), rel=0.01)
    logs = xray.line_integrals(shots, photons).var(axis=0, ddof=1) / xray.line_integrals_variance(p, photons, electronic)
    assert logs.mean() == pytest.approx(1, abs=0.05)
    thick = p > 1.2  # the darkest pixels alone follow it too
    assert counts[thick].mean() == pytest.approx(1, abs=0.05)


def test_the_logarithm_undoes_the_exposure_and_no_count_is_not_infinite() -> None:
    p = np.linspace(0, 6, 50)
    np.testing.assert_allclose(xray.line_integrals(1e6 * np.exp(-p), 1e6), p, atol=1e-5)
    assert np.isfinite(xray.line_integrals(np.array([-3.0, 0.0]), 100.0)).all()


def test_a_radiograph_keeps_its_spacing_and_its_values_in_a_file(tmp_path: Path) -> None:
    source = xray.PointSource(600.0, 1000.0, (36, 28), (2.4, 3.1))
    volume = ball(40, 40.0, 2.5)
    volume[30:, :, :10] += 0.01  # nothing looks the same when it is mirrored or transposed
    p = xray.line_integrals(xray.expose(xray.project_from_point(volume, (2.5,) * 3, source), 1e5, np.random.default_rng(0), 5.0), 1e5)
    path = tmp_path / "radiograph.dcm"
    write_radiograph(path, p, source, "demo001", 7)
    (read,) = read_dicom(path)
    assert read.modality == "XR"
    assert read.spacing == pytest.approx((2.4, 3.1, 1.0))
    assert read.shape == (36, 28, 1)
    np.testing.assert_allclose(read.array(np.float32)[..., 0], np.maximum(p, 0), atol=0.51 / 4096)
    again = tmp_path / "again.dcm"
    write_radiograph(again, p, source, "demo001", 7)
    assert again.read_bytes() == path.read_bytes()
    assert math.isclose(source.magnification, 5 / 3)
