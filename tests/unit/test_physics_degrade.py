"""Coarse images are what was asked for: in k-space, across slices, and by a kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.models.superresolve.throughplane import average
from cohortex.physics import degrade
from cohortex.physics.fourier import centred_fft


@given(st.integers(4, 40), st.integers(4, 40), st.floats(1.2, 4.0), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_no_energy_is_outside_of_the_kept_kspace(nx: int, ny: int, factor: float, seed: int) -> None:
    image = np.random.default_rng(seed).standard_normal((nx, ny, 2))
    low = degrade.truncate(image, factor, (0, 1), keep_grid=True)
    power = np.abs(centred_fft(low, (0, 1))) ** 2
    inside = np.ones((nx, ny), bool)
    for axis, n in enumerate((nx, ny)):
        kept = np.abs(np.arange(n) - n // 2) < degrade.coarse_count(n, factor) / 2
        inside &= kept.reshape((-1, 1) if axis == 0 else (1, -1))
    assert power[~inside].sum() <= 1e-6 * power.sum()
    # What is kept is untouched.
    full = centred_fft(image, (0, 1))
    np.testing.assert_allclose(centred_fft(low, (0, 1))[inside], full[inside], atol=1e-4)
    assert degrade.truncate(image, factor, (0, 1)).mean() == pytest.approx(image.mean(), abs=1e-5)


@given(st.integers(24, 80), st.floats(1.0, 4.0), st.integers(0, 3), st.floats(0, 6))
@settings(max_examples=30, deadline=None)
def test_a_wave_that_the_coarse_grid_holds_is_sampled_in_the_middles_of_its_voxels(n: int, factor: float, waves: int, phase: float) -> None:
    def wave(count: int) -> np.ndarray:
        return np.cos(2 * np.pi * waves * (np.arange(count) + 0.5) / count + phase)

    m = degrade.coarse_count(n, factor)
    low = degrade.truncate(np.stack([wave(n)] * 2), factor, (-1,))
    assert low.shape == (2, m)
    if waves < m / 2 or m == n:
        np.testing.assert_allclose(low[0], wave(m), atol=1e-5)


def test_thick_slices_are_those_of_the_stage() -> None:
    image = np.random.default_rng(0).random((6, 5, 24)).astype(np.float32)
    np.testing.assert_array_equal(degrade.thicken(image, 3, 2), average(image, 8, 2))
    np.testing.assert_allclose(degrade.thicken(image, 3, 2), image.reshape(6, 5, 8, 3).mean(-1), atol=1e-6)
    assert degrade.thicken(image, 2.5, 2, "gaussian").shape == (6, 5, 10)
    with pytest.raises(ValueError, match="makes nothing coarser"):
        degrade.thicken(image, 0.5, 2)


def test_a_kernel_blurs_as_its_covariance_says() -> None:
    """A point becomes the Gaussian of the covariance; along the axes it equals scipy's blur."""
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1
    kernel = degrade.Kernel(np.array([[6.0, 2.0], [2.0, 3.0]]), 1.0, 0.0)
    blurred = degrade.apply_kernel(point, kernel, (0, 1), np.random.default_rng(0)).astype(np.float64)
    away = np.arange(41) - 20.0
    grid = np.stack(np.meshgrid(away, away, indexing="ij"))
    np.testing.assert_allclose(np.einsum("ixy,jxy,xy->ij", grid, grid, blurred), kernel.covariance, atol=0.02)
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    image = np.random.default_rng(1).random((30, 20, 26)).astype(np.float32)
    straight = degrade.Kernel(np.diag([1.5**2, 1.2**2]), 1.0, 0.0)
    ours = degrade.apply_kernel(image, straight, (2, 0), np.random.default_rng(0))
    np.testing.assert_allclose(ours, ndimage.gaussian_filter(image, (1.2, 0, 1.5), mode="reflect", truncate=6), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.sampled_from([1.5, 2.0, 3.0]), st.integers(0, 999))
def test_a_random_kernel_is_drawn_within_its_range_and_can_be_used_again(axes: int, factor: float, seed: int) -> None:
    image = np.random.default_rng(0).random((18, 15, 12)).astype(np.float32)
    coarse, kernel = degrade.random_kernel(image, factor, tuple(range(axes)), np.random.default_rng(seed))
    widths = np.sqrt(np.linalg.eigvalsh(kernel.covariance))
    assert (widths >= 0.2 * factor - 1e-6).all() and (widths <= 0.7 * factor + 1e-6).all()
    assert coarse.shape == tuple(degrade.coarse_count(n, factor) if a < axes else n for a, n in enumerate(image.shape))
    assert coarse.mean() == pytest.approx(image.mean(), abs=0.03)
    clean = degrade.Kernel(kernel.covariance, kernel.factor, 0.0)
    rest = coarse - degrade.apply_kernel(image, clean, tuple(range(axes)), np.random.default_rng(0))
    low, high = np.percentile(image, (0.5, 99.5))
    assert rest.std() == pytest.approx(kernel.noise * (high - low), rel=0.2, abs=1e-6)
    again, same = degrade.random_kernel(image, factor, tuple(range(axes)), np.random.default_rng(seed))
    assert np.array_equal(again, coarse) and np.array_equal(same.covariance, kernel.covariance)


def test_a_kernel_of_other_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit the axes"):
        degrade.apply_kernel(np.zeros((4, 4)), degrade.Kernel(np.eye(3), 2.0, 0.0), (0, 1), np.random.default_rng(0))
