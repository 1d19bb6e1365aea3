"""Wiener filters: adaptive in space, and by spectra with an optional Gaussian blur to undo."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from cohortex.blocks import map_columns
from cohortex.filters.arrays import checked, half_widths
from cohortex.filters.noise import given_or_estimated
from cohortex.filters.steps import Resolved, Step, Triple, row_order, turned, turned_back, whole
from cohortex.filters.wiener_kernels import local_wiener
from cohortex.lazy import Computed
from cohortex.volume import ArrayLike

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
    return np.asarray(_undone(values, resolved)[...]) if psf_sigma_mm > 0 else whole(STEP, values, resolved)


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    radius_mm: float | None = None,
    sigma: float | None = None,
    psf_sigma_mm: float = 0.0,
    edge: Edge = "reflect",
) -> dict[str, Any]:
    """Return half widths in voxels, the noise and the blur."""
    if edge not in ("reflect", "zero"):
        raise ValueError(f"edge is reflect or zero, not {edge!r}")
    half = half_widths(array.shape, spacing_mm, radius_mm)
    noise = given_or_estimated(array, sigma)
    blur = {"psf_sigma_mm": psf_sigma_mm, "spacing_mm": tuple(spacing_mm)}
    return {"half": half, "sigma": noise, "zero": edge == "zero", "order": row_order(array.shape), **blur}


def _halo(resolved: Resolved) -> Triple | None:
    """Return the half widths; None where a blur is undone, which the spectrum of the whole image decides."""
    if resolved["psf_sigma_mm"] > 0:
        return None
    x, y, z = resolved["half"]
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    order = resolved["order"]
    image = turned(values, order)
    out = np.empty_like(image)
    local_wiener(image, out, tuple(resolved["half"][axis] for axis in order), resolved["sigma"] ** 2, resolved["zero"])
    return turned_back(out, order)


def _undone(array: ArrayLike, resolved: Resolved) -> Any:
    """Undo the blur of a whole image."""
    return deconvolve(array, resolved["spacing_mm"], resolved["psf_sigma_mm"], resolved["sigma"])


STEP = Step(_resolve, _halo, _block, _undone)


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
    transfer = _transfer(values.shape, spacing_mm, psf_sigma_mm, *map(np.arange, values.shape))
    gain = transfer * signal_power / np.maximum(transfer**2 * signal_power + noise_power, np.finfo(np.float32).tiny)
    spectrum: Any = fft.dctn(values, norm="ortho")
    return np.asarray(fft.idctn(spectrum * gain, norm="ortho"), dtype=np.float32)


def deconvolve(
    array: ArrayLike,
    spacing_mm: Sequence[float],
    psf_sigma_mm: float,
    sigma: float | None = None,
    max_gain: float = 10.0,
) -> Any:
    """Undo a Gaussian blur as far as the noise allows.

    The spectrum of the image is the average of its own power over shells of equal frequency (in cycles/mm), less the noise.

    Parameters
    ----------
    array : (x, y, z) float32 array-like
        Finite. May be lazy.
    spacing_mm : three floats
    psf_sigma_mm : float
        Standard deviation of the blur.
    sigma : float, optional
        Standard deviation of the white noise; estimated where it is not given.
    max_gain : float
        No frequency is amplified more than this.

    Returns
    -------
    (x, y, z) float32 array-like
        In memory where it may stay there (`cohortex.blocks`), the same bytes in any case: lines are transformed along one axis at a
        time, in columns of 64 x 64 whatever the memory. That of the transform of the whole image to 5e-6 of the largest magnitude.

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: the cosine transform continues the image by reflection.
    """
    from scipy import fft

    if not (np.isfinite(psf_sigma_mm) and psf_sigma_mm >= 0):
        raise ValueError(f"the width of a blur is a number of mm not below 0, this one is {psf_sigma_mm}")
    if not max_gain >= 1:
        raise ValueError(f"max_gain is at least 1, not {max_gain}")
    noise = given_or_estimated(array, sigma) ** 2
    x, y, z = shape = tuple(int(n) for n in array.shape)
    numbers = Computed(partial(_shells, shape, spacing_mm), shape, np.int32)
    shells = int(numbers[x - 1 :, y - 1 :, z - 1 :].max()) + 1

    def to_frequencies(axis: int, block: np.ndarray) -> tuple[np.ndarray, None]:
        made: Any = fft.dct(checked(block, spacing_mm), axis=axis, norm="ortho")
        return made, None

    def with_power(block: np.ndarray, shell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made, _ = to_frequencies(2, block)
        flat = shell.reshape(-1)
        power = np.bincount(flat, weights=np.square(made, dtype=np.float64).reshape(-1), minlength=shells)
        return made, np.stack([np.bincount(flat, minlength=shells), power])

    def to_places(axis: int, block: np.ndarray) -> tuple[np.ndarray, None]:
        made: Any = fft.idct(block, axis=axis, norm="ortho")
        return made, None

    spectrum: Any = array
    for axis in (0, 1):
        spectrum, _ = map_columns(partial(to_frequencies, axis), spectrum, axis=axis, count=shape[axis])
    spectrum, found = map_columns(with_power, spectrum, numbers, axis=2, count=z)
    # the columns are the same whatever the memory, and so is the order of the sum
    counts, power = np.sum(found, axis=0)
    kept = (1 - noise * counts / np.maximum(power, np.finfo(np.float64).tiny)).clip(0).astype(np.float32)
    gain = Computed(partial(_gain, shape, spacing_mm, psf_sigma_mm, np.float32(1 / max_gain), kept), shape)
    spectrum, _ = map_columns(lambda block, part: to_places(2, block * part), spectrum, gain, axis=2, count=z)
    for axis in (1, 0):
        spectrum, _ = map_columns(partial(to_places, axis), spectrum, axis=axis, count=shape[axis])
    return spectrum


def _gain(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    psf_sigma_mm: float,
    least: np.float32,
    kept: np.ndarray,
    *indices: np.ndarray,
) -> np.ndarray:
    """Return by how much coefficients of the cosine transform are multiplied; `kept` is the share of every shell that is signal."""
    made = kept[_shells(shape, spacing_mm, *indices)] / np.maximum(_transfer(shape, spacing_mm, psf_sigma_mm, *indices), least)
    mean = np.ix_(*(index == 0 for index in indices))
    made[mean] = 1  # the mean is known
    return made


def _frequencies(shape: Sequence[int], spacing_mm: Sequence[float], *indices: np.ndarray) -> list[np.ndarray]:
    """Return the frequencies of coefficients of the cosine transform in cycles/mm, ready to broadcast."""
    lines = [index.astype(np.float32) / (2 * size * step) for index, size, step in zip(indices, shape, spacing_mm, strict=True)]
    return [line.reshape([-1 if axis == other else 1 for other in range(3)]) for axis, line in enumerate(lines)]


def _transfer(shape: Sequence[int], spacing_mm: Sequence[float], sigma_mm: float, *indices: np.ndarray) -> np.ndarray:
    """Return the transfer function of a Gaussian blur."""
    factors = [np.exp(-2 * np.pi**2 * sigma_mm**2 * line**2).astype(np.float32) for line in _frequencies(shape, spacing_mm, *indices)]
    return factors[0] * factors[1] * factors[2]


def _shells(shape: Sequence[int], spacing_mm: Sequence[float], *indices: np.ndarray) -> np.ndarray:
    """Return the numbers of the frequency shells of coefficients."""
    x, y, z = _frequencies(shape, spacing_mm, *indices)
    radius = np.sqrt(x**2 + y**2 + z**2)
    step = max(1 / (2 * size * width) for size, width in zip(shape, spacing_mm, strict=True) if size > 1 or max(shape) == 1)
    return (radius / np.float32(step) + np.float32(0.5)).astype(np.int32)
