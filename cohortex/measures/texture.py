"""Measures of fine structure and of the texture of noise: high-frequency error norm, noise power spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOG_WIDTH, LOG_SIGMA = 15, 1.5
"""Voxels across the Laplacian of a Gaussian, and its standard deviation in voxels."""

LARGEST_WINDOW, LEAST_WINDOW = 32, 8
"""Voxels across the windows that a spectrum is taken from: the largest of the halvings of the first of which enough fit."""


def laplacian_of_gaussian(array: np.ndarray) -> np.ndarray:
    """Return an image filtered by a rotationally symmetric Laplacian of a Gaussian of 15 voxels, sigma 1.5 voxels.

    The sampled kernel is shifted so that it sums to zero: a constant image gives zero. Axes shorter than the kernel are left out; beyond
    the border the edge goes on.

    Parameters
    ----------
    array : (x, y) or (x, y, z) array

    Returns
    -------
    float64 array of its shape
    """
    from scipy import ndimage

    values = np.asarray(array, dtype=np.float64)
    axes = [axis for axis, size in enumerate(values.shape) if size >= LOG_WIDTH]
    if not axes:
        raise ValueError(f"the high-frequency error needs an axis of at least {LOG_WIDTH} voxels, the shape is {values.shape}")
    ticks = np.arange(LOG_WIDTH) - LOG_WIDTH // 2
    smooth = np.exp(-(ticks**2) / (2 * LOG_SIGMA**2))
    smooth /= smooth.sum()
    second = smooth * (ticks**2 - LOG_SIGMA**2) / LOG_SIGMA**4
    found = np.zeros_like(values)
    for one in axes:
        part = values
        for axis in axes:
            part = ndimage.correlate1d(part, second if axis == one else smooth, axis, mode="nearest")
        found += part
    # The sum of the sampled kernel, spread evenly over it: a box mean.
    box = values
    for axis in axes:
        box = ndimage.uniform_filter1d(box, LOG_WIDTH, axis, mode="nearest")
    return found - len(axes) * float(second.sum()) * box


def hfen(reference: np.ndarray, image: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the high-frequency error norm: how much of edges and fine structure differs, over how much there is.

    Both images are filtered by `laplacian_of_gaussian`; the result is the Euclidean norm of the difference over that of the
    filtered reference. 0 for equal images; an image without fine structure has about 1.

    Parameters
    ----------
    reference, image : (x, y), (x, y, 1) or (x, y, z) arrays of one shape
        A volume is filtered in space, a pile of fewer than 15 slices slice by slice as in the paper.
    mask : bool array, optional
        Only these voxels count.

    Raises
    ------
    ValueError
        Shapes that differ, an empty mask, a reference without structure.

    References
    ----------
    Ravishankar and Bresler, MR image reconstruction from highly undersampled k-space data by dictionary learning, IEEE Trans.
    Medical Imaging 30 (2011) 1028-1041 (there without the normalisation, which makes images comparable).
    """
    if np.shape(reference) != np.shape(image):
        raise ValueError(f"two images to compare have one shape, these have {np.shape(reference)} and {np.shape(image)}")
    truth = laplacian_of_gaussian(reference)
    error = laplacian_of_gaussian(np.asarray(image, dtype=np.float64) - np.asarray(reference, dtype=np.float64))
    if mask is not None:
        inside = np.asarray(mask, dtype=bool)
        truth, error = truth[inside], error[inside]
    norm = float(np.linalg.norm(truth))
    if norm <= 1e-10 * float(np.linalg.norm(reference)):
        raise ValueError("the high-frequency error is not defined for a reference without structure, or an empty mask")
    return float(np.linalg.norm(error)) / norm


@dataclass(frozen=True)
class Spectrum:
    """A noise power spectrum, averaged over directions of a plane.

    Attributes
    ----------
    frequency : (n,) array
        Middles of the rings in cycles a mm, up to the Nyquist frequency of the larger spacing.
    power : (n,) array
        Mean power at that frequency, in squared units of the image times mm^2.
    variance : float
        Of the noise in the windows, in squared units of the image: the integral of the two-dimensional spectrum.
    windows : int
        How many the spectrum was averaged over.
    """

    frequency: np.ndarray
    power: np.ndarray
    variance: float
    windows: int


def noise_power_spectrum(
    noise: np.ndarray, spacing_mm: Sequence[float], mask: np.ndarray | None = None, plane: tuple[int, int] = (0, 1)
) -> Spectrum:
    """Return the radially averaged noise power spectrum of the planes of a volume.

    Square windows of 32 pixels that overlap by half are laid over every plane; those that lie in the mask count (windows of 16 or
    8 pixels where fewer than four of the larger ones do). From each its mean is subtracted; the squared magnitudes of the Fourier
    transforms are averaged, and times the area of a pixel over the number of pixels they are the spectrum, whose integral is the variance.

    Parameters
    ----------
    noise : (x, y) or (x, y, z) array
        Noise alone: the difference of two images, not an image.
    spacing_mm : floats, one an axis
    mask : bool array, optional
    plane : two ints
        The axes of the planes.

    Raises
    ------
    ValueError
        When no window of 8 pixels fits.

    References
    ----------
    Siewerdsen, Cunningham and Jaffray, A framework for noise-power spectrum analysis of multidimensional images, Medical Physics 29
    (2002) 2655-2671.
    """
    values = np.asarray(noise, dtype=np.float64)
    spacings = tuple(float(spacing) for spacing in spacing_mm)
    inside = np.ones(values.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if values.ndim == 2:
        values, inside = values[:, :, None], inside[:, :, None]
    values, inside = (np.moveaxis(array, plane, (0, 1)) for array in (values, inside))
    pixel = (spacings[plane[0]], spacings[plane[1]])
    for edge in (LARGEST_WINDOW, LARGEST_WINDOW // 2, LEAST_WINDOW):
        windows = _windows(values, inside, edge)
        if len(windows) >= 4 or (edge == LEAST_WINDOW and len(windows)):
            break
    else:
        raise ValueError(f"no window of {LEAST_WINDOW} x {LEAST_WINDOW} pixels lies in the mask, the shape is {np.shape(noise)}")
    windows = windows - windows.mean(axis=(1, 2), keepdims=True)
    power = np.mean(np.abs(np.fft.fft2(windows)) ** 2, axis=0) * pixel[0] * pixel[1] / edge**2
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(edge, spacing) for spacing in pixel), indexing="ij"))
    # Rings around the frequencies that the window has along its axes, without the mean.
    step = 1 / (edge * max(pixel))
    frequency = step * np.arange(1, edge // 2 + 1)
    ring = np.rint(radius / step).astype(int).ravel() - 1
    counted = (ring >= 0) & (ring < frequency.size)
    count = np.bincount(ring[counted], minlength=frequency.size)
    total = np.bincount(ring[counted], power.ravel()[counted], minlength=frequency.size)
    return Spectrum(frequency, total / count, float(np.mean(windows**2)), len(windows))


def spectrum_distance(first: Spectrum, second: Spectrum, shape_only: bool = False) -> float:
    """Return how different two noise power spectra are, between 0 (equal) and 1 (they share no frequency, or one is zero).

    The integral of the absolute difference over that of the sum, each frequency weighted by the circumference of its ring in the plane.

    Parameters
    ----------
    first, second : Spectrum
        The second is interpolated to the frequencies of the first where they differ.
    shape_only : bool
        Compare after both were scaled to the same integral: the texture, whatever the amount of noise.

    References
    ----------
    Bray and Curtis, An ordination of the upland forest communities of southern Wisconsin, Ecological Monographs 27 (1957) 325-349
    (the measure of dissimilarity).
    """
    frequency = first.frequency
    a = first.power * frequency
    b = np.interp(frequency, second.frequency, second.power) * frequency
    if shape_only:
        a, b = (each / each.sum() if each.sum() > 0 else each for each in (a, b))
    whole = float(np.sum(a + b))
    return float(np.sum(np.abs(a - b))) / whole if whole > 0 else 0.0


def _windows(values: np.ndarray, inside: np.ndarray, edge: int) -> np.ndarray:
    """Return the windows of a size that lie in the mask, (windows, edge, edge)."""
    rows, columns, planes = values.shape
    found = [
        values[x : x + edge, y : y + edge, z]
        for z in range(planes)
        for x in range(0, rows - edge + 1, edge // 2)
        for y in range(0, columns - edge + 1, edge // 2)
        if inside[x : x + edge, y : y + edge, z].all()
    ]
    return np.stack(found) if found else np.empty((0, edge, edge))
