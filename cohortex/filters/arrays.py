"""What every filter asks of its array: three axes, float32, finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit


def checked(array: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the array as contiguous float32, or refuse it.

    Raises
    ------
    ValueError
        Not three axes, empty, NaN or infinite values, or a spacing that is not three numbers above zero.
    """
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"a filter takes an array (x, y, z), a picture as (x, y, 1); this one has shape {array.shape}")
    if len(spacing_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"a spacing is three numbers of mm above zero, this one is {tuple(spacing_mm)}")
    values = np.ascontiguousarray(array, dtype=np.float32)
    if not _all_finite(values.reshape(-1).view(np.int32)):
        raise ValueError("a filter would spread NaN and infinite values: replace them before filtering")
    return values


def half_widths(shape: Sequence[int], spacing_mm: Sequence[float], radius_mm: float | None) -> list[int]:
    """Return how many voxels to either side lie within a radius (by default the smallest spacing) along each axis.

    Axes with a single voxel get 0; no half width is larger than the axis allows by one reflection.
    """
    long = [step for step, size in zip(spacing_mm, shape, strict=True) if size > 1]
    radius = (min(long) if long else 0.0) if radius_mm is None else float(radius_mm)
    if not (np.isfinite(radius) and radius >= 0):
        raise ValueError(f"a radius is a number of mm not below 0, this one is {radius_mm}")
    return [min(int(radius / step + 1e-6), size - 1) for step, size in zip(spacing_mm, shape, strict=True)]


def relative_spacing(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the spacing over the smallest spacing among the axes with more than one voxel, as float64."""
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    long = np.asarray(shape) > 1
    return spacing / (spacing[long].min() if long.any() else spacing.min())


def aligned(shape: Sequence[int], zeros: bool = True) -> np.ndarray:
    """Return a float32 array that begins where a vector of the widest kind is loaded at once (64 bytes)."""
    count = int(np.prod(shape))
    raw = (np.zeros if zeros else np.empty)(count + 16, dtype=np.float32)
    begin = -(raw.ctypes.data // raw.itemsize) % 16
    return raw[begin : begin + count].reshape(tuple(shape))


@njit(cache=True, nogil=True)
def _all_finite(bits):
    """Tell from the bits of float32 values whether none is NaN or infinite: all their exponents are below the largest one."""
    most = np.int32(0)
    exponent = np.int32(0x7F800000)
    for k in range(bits.size):
        found = bits[k] & exponent
        most = found if found > most else most
    return most < exponent
