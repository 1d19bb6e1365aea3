"""Median filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.filters.arrays import checked, half_widths
from cohortex.filters.median_cube import cube_median
from cohortex.filters.median_kernels import box_median
from cohortex.filters.median_network import median_plan, merge_plan, sort_plan
from cohortex.filters.steps import Resolved, Step, Triple, row_order, turned, turned_back, whole


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
        Equal, bit for bit, to `scipy.ndimage.median_filter`.

    Raises
    ------
    ValueError
        NaN or infinite values, or a radius below 0.

    Notes
    -----
    Edge rule: reflection, the outermost voxel twice. Boxes are found by networks of exchanges, which neighbouring boxes share
    (Batcher's merges), instead of by sorting each.

    References
    ----------
    Tukey, Exploratory Data Analysis, Addison-Wesley 1977; Batcher, AFIPS Spring Joint Computer Conference 32 (1968) 307-314.
    """
    values = checked(array, spacing_mm)
    return whole(STEP, values, _resolve(values, spacing_mm, radius_mm))


def _resolve(array: Any, spacing_mm: Sequence[float], radius_mm: float | None = None) -> dict[str, Any]:
    """Return half widths in voxels."""
    return {"half": half_widths(array.shape, spacing_mm, radius_mm), "order": row_order(array.shape)}


def _halo(resolved: Resolved) -> Triple:
    """Return the half widths."""
    x, y, z = resolved["half"]
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    order = list(resolved["order"])
    if resolved["half"][order[0]] == 0:
        # The median is taken along the first axis, so the box should extend along it.
        order[0], order[1] = order[1], order[0]
    hx, hy, hz = half = tuple(resolved["half"][axis] for axis in order)
    image = turned(values, order)
    out = np.empty_like(image)
    if half == (1, 1, 1):
        cube_median(image, out)
    else:
        wx, wy, wz = 2 * hx + 1, 2 * hy + 1, 2 * hz + 1
        z, y, x = sort_plan(wz), merge_plan(wy, wz), median_plan(wx, wy * wz)
        scratch = max(x.scratch, y.scratch, z.scratch)
        box_median(image, out, half, z.operations, y.operations, x.operations, scratch)
    return turned_back(out, order)


STEP = Step(_resolve, _halo, _block)
