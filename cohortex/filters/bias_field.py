"""Slow shading of MR images: estimated by N4 on a coarse copy, divided out at full resolution, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from cohortex import threads
from cohortex.blocks import Box, map_blocks, over_blocks
from cohortex.filters.arrays import checked
from cohortex.filters.foreground import foreground
from cohortex.filters.spline_kernels import lattice, table
from cohortex.lazy import Computed
from cohortex.volume import ArrayLike

_FEWEST = 8
"""Voxels that shrinking leaves along an axis, where the axis has them."""
_FIXED = 2.0**30
"""Logarithms of the field are summed as whole multiples of one over this, so that no order of the blocks changes the sum."""


def correct_bias(
    array: ArrayLike,
    spacing_mm: Sequence[float],
    mask: ArrayLike | None = None,
    *,
    shrink_mm: float = 6.0,
    iterations: Sequence[int] = (20, 20),
    convergence: float = 0.001,
    control_points: int = 5,
) -> tuple[Any, Computed]:
    """Return the image without its bias field, and the field.

    Parameters
    ----------
    array : (x, y, z) float32 array-like
        A picture is (x, y, 1). Finite; voxels at or below 0 take no part in the estimate. May be lazy: it is read in blocks.
    spacing_mm : three floats
    mask : (x, y, z) bool array-like, optional
        Where the field is estimated; the foreground by Otsu's method where it is not given.
    shrink_mm : float
        The field is estimated on every n-th voxel, with n such that they are about this far apart.
    iterations : sequence of int
        At most so many at each resolution of the B-spline, each twice as fine as the one before.
    convergence : float
        A resolution ends when the field changes less than this (coefficient of variation).
    control_points : int
        Along each axis at the coarsest resolution.

    Returns
    -------
    corrected : (x, y, z) float32 array-like
        In memory where it may stay there (`cohortex.blocks`).
    field : (x, y, z) float32 array-like
        Lazy: computed where it is indexed. It has geometric mean 1 in the mask, so the level of the image stays; outside the mask it
        is kept within the values it has inside. Equal to 1e-6 (relative) to what SimpleITK makes of the same coarse copy and the whole grid
        (`GetLogBiasFieldAsImage`), and byte for byte the same whatever the blocks.

    Raises
    ------
    ValueError
        NaN or infinite values, or fewer than 64 voxels above 0 in the mask.

    References
    ----------
    Tustison et al., N4ITK, IEEE Trans. Medical Imaging 29 (2010) 1310-1320.
    """
    shape = tuple(int(n) for n in array.shape)
    thin = [axis for axis in range(3) if shape[axis] < 4]
    if len(thin) > 1:
        raise ValueError(f"a bias field needs two axes of at least 4 voxels, the shape is {shape}")
    inside = foreground(array) if mask is None else mask
    # Across too few slices for a spline (a picture has one) the field is constant, and estimated from their mean.
    factors = [
        1 if axis in thin else max(1, min(round(shrink_mm / step), size // _FEWEST))
        for axis, (step, size) in enumerate(zip(spacing_mm, shape, strict=True))
    ]
    steps = np.multiply(spacing_mm, factors)
    few = np.maximum(1, np.array(shape) // factors)
    # The centres of both grids meet; where that is half-way between two voxels, rounding decides as it does in ITK.
    origin = (np.array(shape) - 1) / 2 * np.asarray(spacing_mm) - (few - 1) / 2 * steps
    first = np.floor(origin * (1 / np.asarray(spacing_mm)) + 0.5).astype(int)
    picked = [start + factor * np.arange(number) for start, factor, number in zip(first, factors, few, strict=True)]
    values, known, count = _coarse(array, inside, spacing_mm, picked)
    if count < 64:
        raise ValueError(f"a bias field needs 64 voxels above 0 in the mask, here are {count}")
    if thin:
        total = np.where(known, values, 0).sum(axis=thin[0])
        values, known = (total / np.maximum(known.sum(axis=thin[0]), 1)).astype(np.float32), np.asarray(known.any(axis=thin[0]))
        steps, origin = np.delete(steps, thin[0]), np.delete(origin, thin[0])
    coefficients = _lattice(values, known, steps, origin, iterations, convergence, control_points)
    if thin:
        coefficients = np.repeat(np.expand_dims(coefficients, thin[0]), 4, axis=thin[0])

    logarithm = Computed(partial(_logarithm, np.ascontiguousarray(coefficients), shape), shape)
    found = over_blocks(lambda _, *blocks: _extent(*blocks), logarithm, array, inside)
    low, high = min(f[0] for f in found), max(f[1] for f in found)
    mean = sum(int(f[2]) for f in found) / _FIXED / count
    field = Computed(partial(_field, logarithm, np.float32(low), np.float32(high), np.float32(mean)), shape)
    return map_blocks(np.divide, array, field), field


def _coarse(
    array: ArrayLike, inside: ArrayLike, spacing_mm: Sequence[float], picked: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the picked voxels of an image, which of them count, and how many voxels of all count."""
    values = np.empty([len(rows) for rows in picked], np.float32)
    known = np.empty(values.shape, bool)

    def one(box: Box, block: np.ndarray, mask: np.ndarray) -> int:
        counted = mask & (checked(block, spacing_mm) > 0)
        parts = [slice(*np.searchsorted(rows, limits)) for rows, limits in zip(picked, box, strict=True)]
        here = np.ix_(*(rows[part] - a for rows, part, (a, _) in zip(picked, parts, box, strict=True)))
        values[tuple(parts)], known[tuple(parts)] = block[here], counted[here]
        return int(np.count_nonzero(counted))

    return values, known, sum(over_blocks(one, array, inside))


def _lattice(
    values: np.ndarray,
    known: np.ndarray,
    spacing_mm: np.ndarray,
    origin_mm: np.ndarray,
    iterations: Sequence[int],
    convergence: float,
    control_points: int,
) -> np.ndarray:
    """Run N4 on a small 2-D or 3-D array; return the float64 coefficients of the B-spline that is the logarithm of the field."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    inner = SimpleITK.GetImageFromArray(np.ascontiguousarray(known.T).astype(np.uint8))
    for part in (image, inner):
        part.SetSpacing(spacing_mm.tolist())
        part.SetOrigin(origin_mm.tolist())
    # The coarse copy costs little, and on several threads the last digits would be others.
    with threads.one_itk_thread():
        corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations([int(count) for count in iterations])
        corrector.SetConvergenceThreshold(convergence)
        corrector.SetNumberOfControlPoints([int(control_points)] * values.ndim)
        corrector.Execute(image, inner)
    # SimpleITK does not give the coefficients away, but the field on any grid: on a small one they follow from it.
    spans = (int(control_points) - 3) * 2 ** (len(iterations) - 1)
    points = 4 * spans + 1
    sampled = corrector.GetLogBiasFieldAsImage(SimpleITK.Image([points] * values.ndim, SimpleITK.sitkFloat32))
    made = SimpleITK.GetArrayFromImage(sampled).T.astype(np.float64)
    first, weights = table(_positions(np.arange(points), points, spans), spans)
    basis = np.zeros((points, spans + 3))
    for tap in range(4):
        basis[np.arange(points), first + tap] = weights[tap]
    inverse = np.linalg.pinv(basis)
    for axis in range(made.ndim):
        made = np.moveaxis(np.tensordot(inverse, made, (1, axis)), 0, axis)
    return made


def _positions(index: np.ndarray, size: int, spans: int) -> np.ndarray:
    """Return where in a spline of so many spans the voxels of an axis lie; as in ITK the last one is moved in by 0.001 voxels."""
    return spans * np.minimum(index, max(size - 1 - 1e-3, 0)) / max(size - 1, 1)


def _logarithm(coefficients: np.ndarray, shape: Sequence[int], *indices: np.ndarray) -> np.ndarray:
    """Return the logarithm of the field at voxels."""
    out = np.empty([len(index) for index in indices], np.float32)
    spans = [count - 3 for count in coefficients.shape]
    x, y, z = (table(_positions(index, size, count), count) for index, size, count in zip(indices, shape, spans, strict=True))
    lattice(coefficients, x[0], x[1], y[0], y[1], z[0], z[1], out)
    return out


def _field(logarithm: Computed, low: np.float32, high: np.float32, mean: np.float32, *indices: np.ndarray) -> np.ndarray:
    """Return the field at voxels."""
    values = logarithm.function(*indices)
    np.clip(values, low, high, out=values)
    np.subtract(values, mean, out=values)
    return np.exp(values, out=values)


@njit(cache=True, nogil=True)
def _extent(logarithm, values, mask):
    """Return least and largest logarithm where the mask is set and the value above 0, and their sum in whole multiples of 1 / _FIXED."""
    low, high, total = np.float32(np.inf), np.float32(-np.inf), 0
    nx, ny, nz = mask.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                if mask[i, j, k] and values[i, j, k] > 0:
                    found = logarithm[i, j, k]
                    low, high = min(low, found), max(high, found)
                    total += int(np.round(found * _FIXED))
    return low, high, total
