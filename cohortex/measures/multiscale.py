"""Multi-scale structural similarity (MS-SSIM) of pictures and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, finest first, as found by Wang et al. (2003) with observers."""

WINDOW, SIGMA = 11, 1.5
"""Voxels across the Gaussian window and its standard deviation in voxels, the same at every scale."""


def scales_that_fit(shape: Sequence[int], most: int = len(WEIGHTS)) -> int:
    """Return how many scales an image allows: at the coarsest one its shortest compared axis still holds a window.

    Axes shorter than the window are not compared (a pile of few slices is compared slice by slice) and do not count.

    Raises
    ------
    ValueError
        When no axis is as long as the window.
    """
    sizes = [size for size in shape if size >= WINDOW]
    if not sizes:
        raise ValueError(f"multi-scale similarity needs an axis of at least {WINDOW} voxels, the shape is {tuple(shape)}")
    scales, size = 1, min(sizes)
    while scales < most and size // 2 >= WINDOW:
        scales, size = scales + 1, size // 2
    return scales


def ms_ssim(
    reference: np.ndarray,
    image: np.ndarray,
    data_range: float,
    mask: np.ndarray | None = None,
    scales: int | None = None,
) -> float:
    """Return the multi-scale structural similarity of two pictures or volumes.

    Contrast and structure are compared at every scale, the mean only at the coarsest; from one scale to the next both images are
    averaged over 2 voxels along each compared axis and decimated by 2 (an odd last voxel is dropped). The result is the product over
    scales of the mean similarity to the power of its weight; negative means count as 0. Only windows inside the image count.

    Parameters
    ----------
    reference, image : (x, y), (x, y, 1) or (x, y, z) arrays
        Axes shorter than the window of 11 voxels are left out of it.
    data_range : float
        Largest minus smallest possible value.
    mask : bool array, optional
        The similarity is averaged over windows whose middle lies in the mask; at coarser scales where at least half of a voxel does.
    scales : int, optional
        1 to 5. By default as many as fit (`scales_that_fit`): 5 from 176 voxels along the shortest compared axis. With fewer than 5
        the first weights are scaled to the sum 1, so values with different numbers of scales are not comparable.

    Returns
    -------
    float
        1 for equal images, at least 0.

    Raises
    ------
    ValueError
        Shapes that differ, a data range that is not above zero, more scales than fit, a mask without a window.

    References
    ----------
    Wang, Simoncelli and Bovik, Multiscale structural similarity for image quality assessment, 37th Asilomar Conf. on Signals,
    Systems and Computers (2003) 1398-1402.
    """
    if not data_range > 0:
        raise ValueError(f"the data range is above zero, this one is {data_range}")
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(image, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"two images to compare have one shape, these have {first.shape} and {second.shape}")
    inside = None if mask is None else np.asarray(mask, dtype=np.float64)
    if inside is not None and inside.shape != first.shape:
        raise ValueError(f"a mask has the shape of its image {first.shape}, this one is {inside.shape}")
    fit = scales_that_fit(first.shape)
    count = fit if scales is None else scales
    if not 1 <= count <= fit:
        raise ValueError(f"{count} scales do not fit into the shape {first.shape}, which allows 1 to {fit}")
    axes = [axis for axis, size in enumerate(first.shape) if size >= WINDOW]
    weights = np.asarray(WEIGHTS[:count]) / sum(WEIGHTS[:count])
    product = 1.0
    for scale, weight in enumerate(weights):
        last = scale == count - 1
        similarity = _similarity(first, second, data_range, axes, with_mean=last)
        if inside is not None:
            similarity = similarity[_trimmed(inside, axes) >= 0.5]
            if similarity.size == 0:
                raise ValueError(f"no window of scale {scale + 1} has its middle in the mask: give fewer scales or a larger mask")
        product *= max(float(similarity.mean()), 0.0) ** weight
        if not last:
            first, second = halved(first, axes), halved(second, axes)
            inside = None if inside is None else halved(inside, axes)
    return float(product)


def halved(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the means over pairs of voxels along some axes; an odd last voxel is dropped."""
    for axis in axes:
        whole = array.shape[axis] // 2 * 2
        even, odd = (array[(slice(None),) * axis + (slice(start, whole, 2),)] for start in (0, 1))
        array = 0.5 * (even + odd)
    return array


def _similarity(first: np.ndarray, second: np.ndarray, data_range: float, axes: Sequence[int], with_mean: bool) -> np.ndarray:
    """Return contrast times structure, times luminance where it is wanted, for every window inside the image."""
    ticks = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(ticks**2) / (2 * SIGMA**2))
    window /= window.sum()

    def local_mean(array: np.ndarray) -> Any:
        from scipy import ndimage

        for axis in axes:
            array = ndimage.correlate1d(array, window, axis)
        return _trimmed(array, axes)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = local_mean(first), local_mean(second)
    var_a, var_b = local_mean(first * first) - mean_a * mean_a, local_mean(second * second) - mean_b * mean_b
    similarity = (2 * (local_mean(first * second) - mean_a * mean_b) + c2) / (var_a + var_b + c2)
    return similarity * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) if with_mean else similarity


def _trimmed(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the voxels whose window lies inside the image."""
    half = WINDOW // 2
    return array[tuple(slice(half, size - half) if axis in axes else slice(None) for axis, size in enumerate(array.shape))]
