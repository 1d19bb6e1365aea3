"""Wavelet shrinkage with the BayesShrink threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.filters.arrays import checked, relative_spacing
from cohortex.measures.image_quality import noise_sigma

_THICK = 2.0
"""Axes this much coarser than the finest one are not transformed."""


def wavelet(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    sigma: float | None = None,
    basis: str = "sym4",
    levels: int | None = None,
    shifts: int = 4,
) -> np.ndarray:
    """Return the image with its wavelet coefficients shrunk.

    In every band the coefficients are moved towards zero by sigma^2 over the standard deviation of the signal in that band, which
    is what the variance of the band leaves after that of the noise.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
        Axes more than twice as coarse as the finest one are not transformed, nor are axes too short for two levels (for one, where all
        are short).
    sigma : float, optional
        Standard deviation of the white noise; estimated from the finest diagonal band where it is not given.
    basis : str
        An orthogonal wavelet that PyWavelets knows.
    levels : int, optional
        At most 3 by default.
    shifts : int
        Cycle spinning: average over this many diagonal shifts of the image. Each costs one transform more.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: reflection, the outermost voxel twice.

    References
    ----------
    Chang, Yu and Vetterli, IEEE Trans. Image Processing 9 (2000) 1532-1546; Coifman and Donoho, Translation-invariant
    de-noising, 1995 (cycle spinning).
    """
    values = checked(array, spacing_mm)
    if shifts < 1:
        raise ValueError(f"cycle spinning takes at least 1 shift, not {shifts}")
    if levels is not None and levels < 1:
        raise ValueError(f"a wavelet transform has at least 1 level, not {levels}")
    scale = noise_sigma(values) if sigma is None else float(sigma)
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"the noise sigma is a number not below 0, this one is {sigma}")
    axes = _axes(values.shape, spacing_mm, basis)
    if scale == 0 or not axes:
        return values.copy()
    total = np.zeros_like(values)
    for shift in range(shifts):
        pads = [(shift, 0) if axis in axes else (0, 0) for axis in range(3)]
        bands = decompose(np.pad(values, pads, mode="symmetric"), axes, basis, levels)
        for level in bands[1:]:
            for name, band in level.items():
                level[name] = _shrunk(band, scale)
        inner = tuple(slice(low, low + size) for (low, _), size in zip(pads, values.shape, strict=True))
        total += recompose(bands, axes, basis)[inner]
    return total / np.float32(shifts)


def decompose(array: np.ndarray, axes: Sequence[int], basis: str = "sym4", levels: int | None = None) -> list[Any]:
    """Return the wavelet coefficients along some axes: the coarse image, then a mapping of bands a level, coarse to fine."""
    library = _pywt()
    deepest = min(_deepest(array.shape[axis], basis) for axis in axes)
    depth = max(1, min(deepest, 3 if levels is None else levels))
    return library.wavedecn(array, basis, mode="symmetric", level=depth, axes=tuple(axes))


def recompose(bands: list[Any], axes: Sequence[int], basis: str = "sym4") -> np.ndarray:
    """Return the array of `decompose`; axes of odd length come back one longer."""
    return _pywt().waverecn(bands, basis, mode="symmetric", axes=tuple(axes))


def _pywt() -> Any:
    """Return the library; most of its names exist only at run time, so its type is left open."""
    import pywt

    return pywt


def _deepest(size: int, basis: str) -> int:
    """Return the number of levels after which borders would be all there is."""
    library = _pywt()
    if basis not in library.wavelist(kind="discrete"):
        raise ValueError(f"{basis!r} is not a discrete wavelet; some that are: haar, db2, sym4, coif1")
    return library.dwt_max_level(size, library.Wavelet(basis).dec_len)


def _axes(shape: Sequence[int], spacing_mm: Sequence[float], basis: str) -> list[int]:
    """Return the axes to transform."""
    relative = relative_spacing(shape, spacing_mm)
    levels = [_deepest(shape[axis], basis) if relative[axis] <= _THICK else 0 for axis in range(3)]
    return [axis for axis in range(3) if levels[axis] >= max(1, min(2, max(levels)))]


def _shrunk(band: np.ndarray, sigma: float) -> np.ndarray:
    """Return a band after soft thresholding."""
    power = float(np.mean(np.square(band, dtype=np.float64)))
    signal = np.sqrt(max(power - sigma**2, np.finfo(np.float32).eps * power))
    if signal == 0:
        return band
    return np.sign(band) * np.maximum(np.abs(band) - np.float32(sigma**2 / signal), 0)
