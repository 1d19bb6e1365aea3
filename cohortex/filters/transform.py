"""Non-learned denoising by shrinkage in a redundant block DCT, in two passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cohortex.filters.arrays import checked
from cohortex.filters.noise import given_or_estimated
from cohortex.filters.steps import Resolved, Step, Triple, whole
from cohortex.filters.transform_kernels import shrink

Blocks = Literal["auto", "volume", "slices"]

_THICK = 2.0
"""From this ratio of the largest to the smallest spacing on, slices share too little with their neighbours."""


def denoise_transform(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    sigma: float | None = None,
    *,
    blocks: Blocks = "auto",
    block_size: int = 4,
    threshold: float = 2.8,
    strength: float = 1.0,
    rician: bool = False,
) -> np.ndarray:
    """Remove white noise from a picture or a volume.

    Every block of `block_size` voxels along each axis, at every position, is taken to its discrete cosine transform. In a
    first pass small coefficients are set to zero; the average of all blocks that hold a voxel is a pilot. In a second pass
    every coefficient is shrunk by the Wiener gain that the pilot predicts. Blocks that needed fewer coefficients weigh more.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
        Only decides about `blocks`; the noise lives on voxels.
    sigma : float, optional
        Standard deviation of the noise in the units of the image (of the Gaussian noise of each channel for magnitude images);
        estimated where it is not given.
    blocks : {"auto", "volume", "slices"}
        Blocks in space, or in slices across the axis with the largest spacing. "auto" takes slices where that spacing
        is more than twice the smallest one, or where an axis has one voxel.
    block_size : int
        2 to 8. An axis shorter than a block is taken whole.
    threshold : float
        Of the first pass, in units of the noise.
    strength : float
        Multiplies the noise that is removed; 0 gives the image back.
    rician : bool
        Take the result for the mean of a magnitude with Rician noise, and undo its bias; see `rician_amplitude`.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: the image is continued by reflection (the outermost voxel twice).

    References
    ----------
    Guleryuz, Weighted averaging for denoising with overcomplete dictionaries, IEEE Trans. Image Processing 16 (2007) 3020-3034;
    the two passes follow Dabov et al., IEEE Trans. Image Processing 16 (2007) 2080-2095, without the search for similar blocks.
    """
    values = checked(array, spacing_mm)
    options: dict[str, Any] = {"blocks": blocks, "block_size": block_size, "threshold": threshold, "strength": strength, "rician": rician}
    return whole(STEP, values, _resolve(values, spacing_mm, sigma, **options))


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    sigma: float | None = None,
    *,
    blocks: Blocks = "auto",
    block_size: int = 4,
    threshold: float = 2.8,
    strength: float = 1.0,
    rician: bool = False,
) -> dict[str, Any]:
    """Return the noise, and the order of the axes with the sizes of the blocks along them."""
    if not 2 <= block_size <= 8:
        raise ValueError(f"blocks have 2 to 8 voxels along an axis, not {block_size}")
    if not (threshold > 0 and strength >= 0):
        raise ValueError(f"threshold is above 0 and strength not below 0, they are {threshold} and {strength}")
    # The kernel runs along the last axis fastest; with blocks in slices the first axis is the one across them.
    order = _axis_order(array.shape, spacing_mm, blocks)
    sizes = [min(block_size, array.shape[axis]) for axis in order]
    if blocks == "slices" or (blocks == "auto" and _sliced(array.shape, spacing_mm)):
        sizes[0] = 1
    noise = given_or_estimated(array, sigma)
    return {"sigma": noise, "scale": noise * strength, "order": order, "sizes": sizes, "threshold": threshold, "rician": rician}


def _halo(resolved: Resolved) -> Triple:
    """Return the reach of two passes over all blocks that hold a voxel."""
    reach = dict(zip(resolved["order"], resolved["sizes"], strict=True))
    x, y, z = (2 * (reach[axis] - 1) if resolved["scale"] else 0 for axis in range(3))
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Denoise a part of an image."""
    scale, order, sizes = resolved["scale"], resolved["order"], resolved["sizes"]
    if scale == 0:
        return values.copy()
    image = np.transpose(values, order) * np.float32(1 / scale)
    pads = [(size - 1, size - 1) for size in sizes]
    padded = np.ascontiguousarray(np.pad(image, pads, mode="symmetric"))
    bases = [_cosines(size) for size in sizes]
    pilot = _averaged(padded, padded, bases, resolved["threshold"])
    result = _averaged(padded, pilot, bases, 0.0)
    inner = tuple(slice(low, low + size) for (low, _), size in zip(pads, image.shape, strict=True))
    out = np.ascontiguousarray(np.transpose(result[inner], np.argsort(order))) * np.float32(scale)
    return rician_amplitude(out, resolved["sigma"]) if resolved["rician"] else out


STEP = Step(_resolve, _halo, _block)


def rician_amplitude(mean: np.ndarray, sigma: float) -> np.ndarray:
    """Return the amplitude whose magnitude under Rician noise has the given mean.

    Parameters
    ----------
    mean : float32 array
        Mean magnitude (a denoised magnitude image).
    sigma : float
        Standard deviation of the Gaussian noise in the real and in the imaginary channel.

    Returns
    -------
    float32 array
        0 where the mean is not above sigma * sqrt(pi / 2), the mean of noise alone.

    References
    ----------
    Koay and Basser, J. Magnetic Resonance 179 (2006) 317-322.
    """
    from scipy import special

    if not sigma > 0:
        return np.asarray(mean, dtype=np.float32)
    amplitude = np.concatenate([np.linspace(0, 6, 1201), np.linspace(6.1, 40, 340)])
    half = amplitude**2 / 4
    # Exponentially scaled Bessel functions, since the exponentials of the mean cancel theirs.
    expected = np.sqrt(np.pi / 2) * ((1 + 2 * half) * special.i0e(half) + 2 * half * special.i1e(half))
    units = np.asarray(mean, dtype=np.float32) / np.float32(sigma)
    found = np.interp(units, expected, amplitude).astype(np.float32)
    far = units > expected[-1]
    found[far] = units[far] - 0.5 / units[far]
    return found * np.float32(sigma)


def _sliced(shape: Sequence[int], spacing_mm: Sequence[float]) -> bool:
    """Tell whether blocks in space make no sense."""
    return min(shape) == 1 or max(spacing_mm) > _THICK * min(spacing_mm)


def _axis_order(shape: Sequence[int], spacing_mm: Sequence[float], blocks: str) -> list[int]:
    """Return the axes with the one across the slices first."""
    if blocks not in ("auto", "volume", "slices"):
        raise ValueError(f"blocks is auto, volume or slices, not {blocks!r}")
    across = 0
    if blocks == "slices" or _sliced(shape, spacing_mm):
        across = int(np.argmin(shape)) if min(shape) == 1 else int(np.argmax(spacing_mm))
    return [across, *(axis for axis in range(3) if axis != across)]


def _cosines(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II matrix, rows are frequencies."""
    position, frequency = np.arange(size), np.arange(size)[:, None]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (position + 0.5) * frequency / size)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _averaged(noisy: np.ndarray, pilot: np.ndarray, bases: list[np.ndarray], threshold: float) -> np.ndarray:
    """Run one pass and divide by the sum of the weights."""
    total, weight = np.zeros_like(noisy), np.zeros_like(noisy)
    shrink(noisy, pilot, bases[0], bases[1], bases[2], np.float32(threshold), total, weight)
    total /= weight
    return total
