"""Pairs of fine and coarse images: what a scanner with less resolution would have measured of an image.

Three ways, since networks trained on one of them do worse on the others: less of k-space (`truncate`), thicker slices (`thicken`),
a blur that nobody knows (`random_kernel`). All arrays have any number of axes; coarse and fine grids have one field of view, the
outer faces of their first and last voxels are the same, as in `cohortex.models.superresolve.throughplane`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft


def coarse_count(length: int, factor: float) -> int:
    """Return the number of coarse voxels nearest to 1 / factor of the fine ones, at least 1."""
    if factor < 1:
        raise ValueError(f"a factor of {factor:g} makes nothing coarser: give 1 or more")
    return max(1, round(length / factor))


def truncate(array: np.ndarray, factor: float, axes: Sequence[int], keep_grid: bool = False) -> np.ndarray:
    """Return an image of which only the middle of k-space was measured.

    Parameters
    ----------
    array : real array
    factor : float
        Fine over coarse voxels along each of `axes`; of n samples of k-space those of frequencies below half of ``round(n / factor)``
        are kept.
    axes : sequence of int
    keep_grid : bool
        Return the image on its own grid (zeros in the rest of k-space) and not on the coarse one.

    Returns
    -------
    float32 array
        With the mean of the array. On its own grid it is blurred, with ringing (Gibbs).
    """
    image = np.asarray(array, np.float64)
    for axis in axes:
        n = image.shape[axis]
        m = coarse_count(n, factor)
        spectrum: Any = np.moveaxis(np.asarray(fft.rfft(image, axis=axis)), axis, -1)
        # For an even count the highest frequency has no partner of the other sign, so it is left out.
        kept = (m + 1) // 2 if m < n else spectrum.shape[-1]
        low = spectrum[..., :kept]
        if keep_grid or m == n:
            back: Any = fft.irfft(np.concatenate([low, np.zeros_like(spectrum[..., kept:])], axis=-1), n, axis=-1)
        else:
            # From the middle of the first fine voxel to the middle of the first coarse one, in fine voxels.
            shift = (n / m - 1) / 2
            low = low * np.exp(2j * math.pi * np.arange(kept) * shift / n)
            padded = np.zeros((*low.shape[:-1], m // 2 + 1), complex)
            padded[..., :kept] = low
            back = fft.irfft(padded, m, axis=-1) * (m / n)
        image = np.moveaxis(back, -1, axis)
    return np.ascontiguousarray(image, np.float32)


def thicken(array: np.ndarray, factor: float, axis: int, profile: Any = "box") -> np.ndarray:
    """Return the thick slices that are measured of a fine image along an axis.

    Parameters
    ----------
    array : real array
    factor : float
        Fine over coarse voxels.
    axis : int
    profile : {"box", "gaussian"}
        See `cohortex.models.superresolve.throughplane.profile_matrix`.

    Returns
    -------
    float32 array
        With ``round(n / factor)`` slices along the axis.
    """
    from cohortex.models.superresolve.throughplane import average

    return average(array, coarse_count(np.shape(array)[axis], factor), axis, profile)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A blur, a decimation and noise.

    Attributes
    ----------
    covariance : (a, a) array
        Of a Gaussian, in fine voxels squared.
    factor : float
    noise : float
        Standard deviation as a share of the image's range of 0.5 to 99.5 percent.
    """

    covariance: np.ndarray
    factor: float
    noise: float


def draw_kernel(axes: int, factor: float, rng: np.random.Generator, noise: float = 0.02) -> Kernel:
    """Return a random Gaussian kernel, wider along some directions than along others and turned at random.

    Standard deviations lie between 0.2 and 0.7 of the factor along each of its own axes (a slice's full width at half maximum is
    0.42 of its deviations), so that some kernels let frequencies pass that the coarse grid folds. Random anisotropic kernels
    are those of Zhang et al., Learning a single convolutional super-resolution network for multiple degradations, CVPR 2018.
    """
    width = factor * rng.uniform(0.2, 0.7, axes)
    turn, triangle = np.linalg.qr(rng.standard_normal((axes, axes)))
    turn = turn * np.sign(np.diag(triangle))  # evenly over all rotations
    return Kernel((turn * width**2) @ turn.T, factor, float(rng.uniform(0, noise)))


def apply_kernel(array: np.ndarray, kernel: Kernel, axes: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return an image blurred, decimated and made noisy; beyond its faces it is mirrored.

    Parameters
    ----------
    array : real array
    kernel : Kernel
        Of as many axes as `axes` has.
    axes : sequence of int
    rng : numpy.random.Generator
        For the noise.

    Returns
    -------
    float32 array
        With ``round(n / factor)`` voxels along each of `axes`.
    """
    from cohortex.models.superresolve.throughplane import along

    image = np.asarray(array, np.float32)
    axes = [axis % image.ndim for axis in axes]
    if kernel.covariance.shape != (len(axes), len(axes)):
        raise ValueError(f"a kernel of {len(kernel.covariance)} axes does not fit the axes {axes}")
    reach = [math.ceil(4 * math.sqrt(kernel.covariance[a, a])) for a in range(len(axes))]
    margins = [(reach[axes.index(a)],) * 2 if a in axes else (0, 0) for a in range(image.ndim)]
    padded = np.pad(image, margins, mode="symmetric")
    frequencies = np.meshgrid(*(np.fft.fftfreq(padded.shape[a]) for a in axes), indexing="ij")
    f = np.stack(frequencies, axis=-1)
    response = np.exp(-2 * math.pi**2 * np.einsum("...i,ij,...j->...", f, kernel.covariance, f)).astype(np.float32)
    order = np.argsort(axes)
    shape = [padded.shape[a] if a in axes else 1 for a in range(image.ndim)]
    spectrum: Any = fft.fftn(padded, axes=axes)
    blurred: Any = fft.ifftn(spectrum * np.transpose(response, order).reshape(shape), axes=axes)
    inside = tuple(slice(low, low + n) for (low, _), n in zip(margins, image.shape, strict=True))
    coarse = np.ascontiguousarray(np.real(blurred)[inside], np.float32)
    for axis in axes:
        n = image.shape[axis]
        coarse = along(_linear(n, coarse_count(n, kernel.factor)), coarse, axis)
    if kernel.noise:
        low, high = np.percentile(image, (0.5, 99.5))
        coarse += np.float32(kernel.noise * (high - low)) * rng.standard_normal(coarse.shape, dtype=np.float32)
    return coarse


def random_kernel(
    array: np.ndarray, factor: float, axes: Sequence[int], rng: np.random.Generator, noise: float = 0.02
) -> tuple[np.ndarray, Kernel]:
    """Return a coarse image made by a random kernel, and the kernel: `draw_kernel` and `apply_kernel`."""
    kernel = draw_kernel(len(axes), factor, rng, noise)
    return apply_kernel(array, kernel, axes, rng), kernel


def _linear(fine: int, coarse: int) -> np.ndarray:
    """Return linear interpolation of fine voxels in the middles of coarse ones, (coarse, fine)."""
    position = np.clip((np.arange(coarse) + 0.5) * fine / coarse - 0.5, 0, fine - 1)
    low = np.minimum(position.astype(int), max(fine - 2, 0))
    matrix = np.zeros((coarse, fine))
    matrix[np.arange(coarse), low] = 1 - (position - low)
    if fine > 1:
        matrix[np.arange(coarse), low + 1] += position - low
    return matrix
