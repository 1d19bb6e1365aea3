"""Measures of image quality: against a reference (MSE, NRMSE, PSNR, SSIM) and without one (noise, sharpness)."""

from __future__ import annotations

from typing import Any

import numpy as np

MAD_TO_SIGMA = 1.482602218505602
LEAST_NOISE = 1e-6
"""Coefficients up to this share of the largest magnitude come from constant regions: they do not count as noise."""

_SSIM_WINDOW = 7


def _pair(reference: np.ndarray, image: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 values inside the mask."""
    first, second = np.asarray(reference), np.asarray(image)
    if first.shape != second.shape:
        raise ValueError(f"two images to compare have one shape, these have {first.shape} and {second.shape}")
    if mask is not None:
        inside = np.asarray(mask, dtype=bool)
        if inside.shape != first.shape:
            raise ValueError(f"a mask has the shape of its image {first.shape}, this one is {inside.shape}")
        first, second = first[inside], second[inside]
    if first.size == 0:
        raise ValueError("there is no voxel to compare: the image or the mask is empty")
    return first.astype(np.float64), second.astype(np.float64)


def mse(reference: np.ndarray, image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the mean squared error, inside `mask` where one is given."""
    first, second = _pair(reference, image, mask)
    return float(np.mean((first - second) ** 2))


def nrmse(reference: np.ndarray, image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the root mean squared error over the root mean square of the reference (Euclidean normalisation)."""
    first, second = _pair(reference, image, mask)
    scale = np.sqrt(np.mean(first**2))
    if scale == 0:
        raise ValueError("the normalised error is not defined for a reference that is zero everywhere")
    return float(np.sqrt(np.mean((first - second) ** 2)) / scale)


def psnr(reference: np.ndarray, image: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images.

    Parameters
    ----------
    reference, image : arrays of one shape
    data_range : float
        Largest minus smallest value that the reference can have; never guessed.
    mask : bool array, optional
        Only these voxels count.
    """
    if not data_range > 0:
        raise ValueError(f"the data range is above zero, this one is {data_range}")
    error = mse(reference, image, mask)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def ssim(
    reference: np.ndarray,
    image: np.ndarray,
    data_range: float,
    mask: np.ndarray | None = None,
    gaussian: bool = False,
) -> float:
    """Return the mean structural similarity of two pictures or volumes.

    Parameters
    ----------
    reference, image : (x, y), (x, y, 1) or (x, y, z) arrays
        Axes shorter than the window are left out of it, so a picture and a pile of few slices are compared slice by slice.
    data_range : float
        Largest minus smallest possible value.
    mask : bool array, optional
        The similarity is averaged over these voxels; without a mask over those whose window lies inside the image.
    gaussian : bool
        Weights of a Gaussian with sigma 1.5 voxels as in the paper, instead of a uniform window of 7 voxels.

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13 (2004) 600-612.
    """
    from scipy import ndimage

    if not data_range > 0:
        raise ValueError(f"the data range is above zero, this one is {data_range}")
    _pair(reference, image, mask)
    first, second = np.asarray(reference, dtype=np.float64), np.asarray(image, dtype=np.float64)
    width = 11 if gaussian else _SSIM_WINDOW
    widths: Any = [width if size >= width else 1 for size in first.shape]
    samples = int(np.prod(widths))
    if samples == 1:
        raise ValueError(f"structural similarity needs an axis of at least {width} voxels, the shape is {first.shape}")

    def local_mean(array: np.ndarray) -> np.ndarray:
        if gaussian:
            return ndimage.gaussian_filter(array, [1.5 if size > 1 else 0 for size in widths], truncate=3.5, mode="reflect")
        return ndimage.uniform_filter(array, widths, mode="reflect")

    # Sample (n - 1) covariance with the uniform window, population covariance with the Gaussian one, as in the literature.
    correction = 1.0 if gaussian else samples / (samples - 1)
    mean_a, mean_b = local_mean(first), local_mean(second)
    var_a = correction * (local_mean(first * first) - mean_a * mean_a)
    var_b = correction * (local_mean(second * second) - mean_b * mean_b)
    covariance = correction * (local_mean(first * second) - mean_a * mean_b)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    if mask is not None:
        return float(similarity[np.asarray(mask, dtype=bool)].mean())
    border = tuple(slice(size // 2, length - size // 2) for size, length in zip(widths, first.shape, strict=True))
    return float(similarity[border].mean())


def noise_sigma(array: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the standard deviation of white noise, from the finest diagonal wavelet band.

    The median absolute value of the coefficients that are high-pass along every axis (Daubechies 2) is not moved by the few
    that hold edges. Coefficients whose support is constant (padding, a background set to zero) do not count. Noise that is
    correlated between voxels (interpolated scans) is underestimated.

    Parameters
    ----------
    array : (x, y) or (x, y, z) array
        Axes shorter than 4 are not filtered.
    mask : bool array, optional
        Only coefficients whose whole support lies in the mask count, if at least 50 do.

    Returns
    -------
    float
        In the units of the image; 0 for an image without noise.

    References
    ----------
    Donoho and Johnstone, Biometrika 81 (1994) 425-455.
    """
    band = np.asarray(array, dtype=np.float32)
    if not np.isfinite(band).all():
        raise ValueError("the noise of an image with NaN or infinite values is not defined: replace them first")
    coefficients = finest_band(band)
    inside = coefficients.reshape(-1)
    if mask is not None:
        valid = np.asarray(mask, dtype=bool)
        for axis, size in enumerate(band.shape):
            if size >= 4:
                taps = [_strided(valid, axis, start, (size - 4) // 2 + 1) for start in range(4)]
                valid = taps[0] & taps[1] & taps[2] & taps[3]
        if np.count_nonzero(valid) >= 50:
            inside = coefficients[valid]
    inside = inside[inside > LEAST_NOISE * float(np.abs(array).max(initial=0))]
    return float(MAD_TO_SIGMA * np.median(inside)) if inside.size else 0.0


def finest_band(array: np.ndarray) -> np.ndarray:
    """Return the magnitudes of the coefficients that are high-pass (Daubechies 2) along every axis of at least 4 voxels.

    Coefficient i along such an axis comes from the voxels 2 i to 2 i + 3.
    """
    root = np.sqrt(3.0)
    highpass = np.array([1 - root, -(3 - root), 3 + root, -(1 + root)]) / (4 * np.sqrt(2.0))
    band = np.asarray(array, dtype=np.float32)
    for axis, size in enumerate(band.shape):
        if size < 4:
            continue
        taps = [_strided(band, axis, start, (size - 4) // 2 + 1) for start in range(4)]
        band = np.sum([np.float32(weight) * tap for weight, tap in zip(highpass, taps, strict=True)], axis=0)
    return np.abs(band)


def _strided(array: np.ndarray, axis: int, start: int, count: int) -> np.ndarray:
    """Return every second element along an axis."""
    return array[(slice(None),) * axis + (slice(start, start + 2 * count - 1, 2),)]


def sharpness(array: np.ndarray, spacing_mm: tuple[float, float, float], mask: np.ndarray | None = None) -> float:
    """Return how steep the edges are: the 95th percentile of the gradient over the range of the intensities, in 1/mm.

    Parameters
    ----------
    array : (x, y, z) array
    spacing_mm : three floats
    mask : bool array, optional
        Only these voxels count.

    Returns
    -------
    float
        0 for a constant image. Comparable between images of one modality and one grid; noise raises it.
    """
    values = np.asarray(array, dtype=np.float32)
    inside = slice(None) if mask is None or not np.any(mask) else np.asarray(mask, dtype=bool)
    low, high = np.percentile(values[inside], [1, 99])
    if not high > low:
        return 0.0
    squared = np.zeros_like(values)
    for axis, size in enumerate(values.shape):
        if size > 1:
            squared += np.gradient(values, spacing_mm[axis], axis=axis) ** 2
    return float(np.sqrt(np.percentile(squared[inside], 95)) / (high - low))
