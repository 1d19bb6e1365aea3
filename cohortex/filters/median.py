"""Median filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.filters.arrays import checked, half_widths


def median(array: np.ndarray, spacing_mm: Sequence[float], radius_mm: float | None = None) -> np.ndarray:
    """Return the median over a box; it removes impulses and keeps straight edges.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
    radius_mm : float, optional
        The box takes the voxels whose centres are this close along each axis; by default the smallest spacing, that is 3 voxels
        along the fine axes and none of the neighbouring slices of a thick stack.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a radius below 0.

    Notes
    -----
    Edge rule: reflection, the outermost voxel twice.

    References
    ----------
    Tukey, Exploratory Data Analysis, Addison-Wesley 1977.
    """
    from scipy import ndimage

    values = checked(array, spacing_mm)
    size: Any = [2 * half + 1 for half in half_widths(values.shape, spacing_mm, radius_mm)]
    return np.asarray(ndimage.median_filter(values, size=size, mode="reflect"))
