"""Wiener filters: adaptive in space, and by spectra with an optional Gaussian blur to undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cohortex.filters.arrays import checked, half_widths
from cohortex.filters.noise import given_or_estimated
from cohortex.filters.steps import Resolved, Step, Triple, row_order, turned, turned_back, whole
from cohortex.filters.wiener_kernels import local_wiener

Edge = Literal["reflect", "zero"]


def wiener(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    radius_mm: float | None = None,
    sigma: float | None = None,
    psf_sigma_mm: float = 0.0,
    edge: Edge = "reflect",
) -> np.ndarray:
    """Return the image pulled towards its local mean where the local variance is that of the noise.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
    radius_mm : float, optional
        Half width of the box of the local mean and variance; by default the smallest spacing (3 voxels).
    sigma : float, optional
        Standard deviation of the white noise; estimated where it is not given.
    psf_sigma_mm : float
        Above 0: undo a Gaussian blur of this width by `deconvolve` instead.
    edge : {"reflect", "zero"}
        What lies beyond the border: the reflected image (the outermost voxel twice), or zeros, which darken the border but
        give what `scipy.signal.wiener` gives.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Sums are float64. `deconvolve` reflects in any case.

    References
    ----------
    Lim, Two-Dimensional Signal and Image Processing, Prentice Hall 1990, section 9.2.4.
    """
    values = checked(array, spacing_mm)
    resolved = _resolve(values, spacing_mm, radius_mm, sigma, psf_sigma_mm, edge)
    if psf_sigma_mm > 0:
        return deconvolve(values, spacing_mm, psf_sigma_mm, resolved["sigma"])
    return whole(STEP, values, resolved)


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    radius_mm: float | None = None,
    sigma: float | None = None,
    psf_sigma_mm: float = 0.0,
    edge: Edge = "reflect",
) -> dict[str, Any]:
    """Return half widths in voxels and the noise."""
    if edge not in ("reflect", "zero"):
        raise ValueError(f"edge is reflect or zero, not {edge!r}")
    half = half_widths(array.shape, spacing_mm, radius_mm)
    noise = given_or_estimated(array, sigma)
    return {"half": half, "sigma": noise, "deconvolve": psf_sigma_mm > 0, "zero": edge == "zero", "order": row_order(array.shape)}


def _halo(resolved: Resolved) -> Triple:
    """Return the half widths."""
    if resolved["deconvolve"]:
        raise ValueError("undoing a blur (wiener: psf_sigma_mm) needs the spectrum of the whole image: it has no halo")
    x, y, z = resolved["half"]
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    order = resolved["order"]
    image = turned(values, order)
    out = np.empty_like(image)
    local_wiener(image, out, tuple(resolved["half"][axis] for axis in order), resolved["sigma"] ** 2, resolved["zero"])
    return turned_back(out, order)


STEP = Step(_resolve, _halo, _block)


def wiener_spectrum(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    signal_power: np.ndarray,
    noise_power: float | np.ndarray,
    psf_sigma_mm: float = 0.0,
) -> np.ndarray:
    """Return the linear estimate with the least mean squared error for known spectra.

    Parameters
    ----------
    array : (x, y, z) array
    spacing_mm : three floats
    signal_power : (x, y, z) array
        Variance of every coefficient of the orthonormal type-II cosine transform of the unblurred image (frequency k along an axis of n
        voxels of width d is k / (2 n d) cycles/mm).
    noise_power : float or (x, y, z) array
        That of the noise; sigma^2 for white noise.
    psf_sigma_mm : float
        Standard deviation of the Gaussian blur of the image.

    Notes
    -----
    Edge rule: the cosine transform continues the image by reflection.

    References
    ----------
    Wiener, Extrapolation, Interpolation, and Smoothing of Stationary Time Series, MIT Press 1949.
    """
    from scipy import fft

    values = checked(array, spacing_mm)
    transfer = _transfer(values.shape, spacing_mm, psf_sigma_mm)
    gain = transfer * signal_power / np.maximum(transfer**2 * signal_power + noise_power, np.finfo(np.float32).tiny)
    spectrum: Any = fft.dctn(values, norm="ortho")
    return np.asarray(fft.idctn(spectrum * gain, norm="ortho"), dtype=np.float32)


def deconvolve(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    psf_sigma_mm: float,
    sigma: float | None = None,
    max_gain: float = 10.0,
) -> np.ndarray:
    """Undo a Gaussian blur as far as the noise allows.

    The spectrum of the image is the average of its own power over shells of equal frequency (in cycles/mm), less the noise.

    Parameters
    ----------
    array : (x, y, z) float32 array
    spacing_mm : three floats
    psf_sigma_mm : float
        Standard deviation of the blur.
    sigma : float, optional
        Standard deviation of the white noise; estimated where it is not given.
    max_gain : float
        No frequency is amplified more than this.

    Notes
    -----
    Edge rule: the cosine transform continues the image by reflection.
    """
    from scipy import fft

    values = checked(array, spacing_mm)
    if not (np.isfinite(psf_sigma_mm) and psf_sigma_mm >= 0):
        raise ValueError(f"the width of a blur is a number of mm not below 0, this one is {psf_sigma_mm}")
    if not max_gain >= 1:
        raise ValueError(f"max_gain is at least 1, not {max_gain}")
    noise = given_or_estimated(values, sigma) ** 2
    spectrum: Any = fft.dctn(values, norm="ortho")
    shells = _shells(values.shape, spacing_mm)
    counts = np.maximum(np.bincount(shells.reshape(-1)), 1)
    power = np.bincount(shells.reshape(-1), weights=np.square(spectrum).reshape(-1)) / counts
    kept = (1 - noise / np.maximum(power, np.finfo(np.float64).tiny)).clip(0).astype(np.float32)[shells]
    gain = kept / np.maximum(_transfer(values.shape, spacing_mm, psf_sigma_mm), 1 / max_gain)
    gain[0, 0, 0] = 1  # the mean is known
    return np.asarray(fft.idctn(spectrum * gain, norm="ortho"), dtype=np.float32)


def _frequencies(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[np.ndarray]:
    """Return the frequencies of the cosine transform in cycles/mm, ready to broadcast."""
    lines = [np.arange(size, dtype=np.float32) / (2 * size * step) for size, step in zip(shape, spacing_mm, strict=True)]
    return [line.reshape([-1 if axis == other else 1 for other in range(3)]) for axis, line in enumerate(lines)]


def _transfer(shape: Sequence[int], spacing_mm: Sequence[float], sigma_mm: float) -> np.ndarray:
    """Return the transfer function of a Gaussian blur."""
    factors = [np.exp(-2 * np.pi**2 * sigma_mm**2 * line**2).astype(np.float32) for line in _frequencies(shape, spacing_mm)]
    return factors[0] * factors[1] * factors[2]


def _shells(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the number of the frequency shell of every coefficient."""
    x, y, z = _frequencies(shape, spacing_mm)
    radius = np.sqrt(x**2 + y**2 + z**2)
    step = max(1 / (2 * size * width) for size, width in zip(shape, spacing_mm, strict=True) if size > 1 or max(shape) == 1)
    return (radius / np.float32(step) + np.float32(0.5)).astype(np.int32)
