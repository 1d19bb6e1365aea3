"""Slow shading of MR images: estimated by N4 on a coarse copy, divided out at full resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortex.filters.arrays import checked
from cohortex.filters.foreground import foreground

_FEWEST = 8
"""Voxels that shrinking leaves along an axis, where the axis has them."""


def correct_bias(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    mask: np.ndarray | None = None,
    *,
    shrink_mm: float = 6.0,
    iterations: Sequence[int] = (20, 20),
    convergence: float = 0.001,
    control_points: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image without its bias field, and the field.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite; voxels at or below 0 take no part in the estimate.
    spacing_mm : three floats
    mask : (x, y, z) bool array, optional
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
    corrected, field : (x, y, z) float32 arrays
        `field` has geometric mean 1 in the mask, so the level of the image stays; outside the mask it is kept
        within the values it has inside.

    Raises
    ------
    ValueError
        NaN or infinite values, or fewer than 64 voxels above 0 in the mask.

    References
    ----------
    Tustison et al., N4ITK, IEEE Trans. Medical Imaging 29 (2010) 1310-1320.
    """
    values = checked(array, spacing_mm)
    inside = (foreground(values) if mask is None else np.asarray(mask, dtype=bool)) & (values > 0)
    if np.count_nonzero(inside) < 64:
        raise ValueError(f"a bias field needs 64 voxels above 0 in the mask, here are {np.count_nonzero(inside)}")
    thin = [axis for axis in range(3) if values.shape[axis] < 4]
    if len(thin) > 1:
        raise ValueError(f"a bias field needs two axes of at least 4 voxels, the shape is {values.shape}")
    options = (shrink_mm, iterations, convergence, control_points)
    if thin:
        # A picture, or too few slices for a spline across them: one field in the plane, from the mean of the slices.
        axis = thin[0]
        plane = np.where(inside, values, 0).sum(axis=axis) / np.maximum(inside.sum(axis=axis), 1)
        spacing = [step for other, step in enumerate(spacing_mm) if other != axis]
        flat = _log_field(plane.astype(np.float32), spacing, np.asarray(inside.any(axis=axis)), *options)
        log_field = np.broadcast_to(np.expand_dims(flat, axis), values.shape)
    else:
        log_field = _log_field(values, spacing_mm, inside, *options)
    known = log_field[inside]
    log_field = np.clip(log_field, known.min(), known.max()) - known.mean(dtype=np.float64)
    field = np.exp(log_field).astype(np.float32)
    return values / field, field


def _log_field(
    values: np.ndarray,
    spacing_mm: Sequence[float],
    inside: np.ndarray,
    shrink_mm: float,
    iterations: Sequence[int],
    convergence: float,
    control_points: int,
) -> np.ndarray:
    """Run N4 on a coarse copy of a 2-D or 3-D array and return the logarithm of the field on the array's own grid."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    inner = SimpleITK.GetImageFromArray(np.ascontiguousarray(inside.T).astype(np.uint8))
    for part in (image, inner):
        part.SetSpacing([float(step) for step in spacing_mm])
    factors = [max(1, min(round(shrink_mm / step), size // _FEWEST)) for step, size in zip(spacing_mm, values.shape, strict=True)]
    corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations([int(count) for count in iterations])
    corrector.SetConvergenceThreshold(convergence)
    corrector.SetNumberOfControlPoints([int(control_points)] * values.ndim)
    # One thread: sums in another order would change the last digits, and the coarse copy costs little.
    corrector.SetNumberOfThreads(1)
    corrector.Execute(SimpleITK.Shrink(image, factors), SimpleITK.Shrink(inner, factors))
    return SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T
