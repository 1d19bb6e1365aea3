"""Intensity normalisation: one affine map of the intensities of an image (a window also clips)."""

from __future__ import annotations

import numpy as np


def zscore(array: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the image with mean 0 and standard deviation 1 in the mask.

    Raises
    ------
    ValueError
        The mask is empty, or the image constant in it.
    """
    return mapped(array, *zscore_map(_inside(array, mask)))


def zscore_map(inside: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the values of the foreground; raises what `zscore` raises."""
    if inside.size == 0:
        raise ValueError("the foreground is empty, so there is nothing to normalise by")
    mean, deviation = float(inside.mean(dtype=np.float64)), float(inside.std(dtype=np.float64))
    if not deviation > 1e-6 * abs(mean):
        raise ValueError(f"the image is constant ({mean:g}) in its foreground, so it cannot be scaled")
    return mean, deviation


def percentile(array: np.ndarray, mask: np.ndarray | None = None, low: float | None = None, high: float = 99.5) -> np.ndarray:
    """Return the image with two percentiles of the mask at 0 and 1; nothing is clipped.

    Parameters
    ----------
    array : (x, y, z) float32 array
    mask : bool array, optional
    low : float, optional
        The percentile that becomes 0; where it is not given the value 0 stays 0, which magnitudes and stripped brains need.
    high : float
        The percentile that becomes 1.

    Raises
    ------
    ValueError
        The mask is empty, the percentiles are not ordered, or their values are not.
    """
    return mapped(array, *percentile_map(_inside(array, mask), low, high))


def percentile_map(inside: np.ndarray, low: float | None = None, high: float = 99.5) -> tuple[float, float]:
    """Return which value becomes 0, and the length that becomes 1, by the values of the foreground; raises what `percentile` raises."""
    if inside.size == 0:
        raise ValueError("the foreground is empty, so there is nothing to normalise by")
    if not 0 <= (0 if low is None else low) < high <= 100:
        raise ValueError(f"percentiles lie between 0 and 100 and rise, these are {low} and {high}")
    bottom = 0.0 if low is None else float(np.percentile(inside, low))
    top = float(np.percentile(inside, high))
    if not top > bottom:
        raise ValueError(f"the foreground lies between {bottom:g} and {top:g}, so it cannot be scaled to 0..1")
    return bottom, top - bottom


def window(array: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Return the image with a window of intensities (HU for CT) at 0..1, clipped to it."""
    if not width > 0:
        raise ValueError(f"the width of a window is above 0, this one is {width}")
    return mapped(array, centre - width / 2, width).clip(0, 1)


def _inside(array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the values in the mask."""
    return array.reshape(-1) if mask is None else array[np.asarray(mask, dtype=bool)]


def mapped(array: np.ndarray, zero: float, unit: float) -> np.ndarray:
    """Return (array - zero) / unit as float32."""
    return (np.asarray(array, dtype=np.float32) - np.float32(zero)) * np.float32(1 / unit)
