"""Classical registrations of SimpleITK, as baselines: rigid and affine by mutual information, demons, cubic B-splines.

All take two images (X, Y, Z) within 0 and 1 on one grid of cubic voxels and give the displacement (3, X, Y, Z) float32 in voxels. They run
on one thread. Rigid and affine are those of the stage `regseg` itself.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import SimpleITK

from cohortex.models.regseg import affine as poses

SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

BODY = 0.1
"""Intensity above which a voxel is of the body."""


def by_information(fixed: np.ndarray, moving: np.ndarray, kind: Literal["rigid", "affine"], spacing_mm: float) -> np.ndarray:
    """Register by Mattes' mutual information, six or twelve parameters (`cohortex.models.regseg.affine.align`)."""
    affine = np.diag([spacing_mm] * 3 + [1.0])
    scans = [poses.Scan(np.asarray(x, np.float32), affine, x > BODY, affine) for x in (fixed, moving)]
    matrix = np.linalg.inv(affine) @ poses.align(scans[0], scans[1], kind).matrix @ affine
    points = np.indices(fixed.shape).reshape(3, -1)
    moved = matrix[:3, :3] @ points + matrix[:3, 3:] - points
    return moved.reshape(3, *fixed.shape).astype(np.float32)


def demons(fixed: np.ndarray, moving: np.ndarray, iterations: tuple[int, ...] = (60, 40, 30), sigma: float = 1.2) -> np.ndarray:
    """Register by diffeomorphic demons (Vercauteren et al., NeuroImage 45(1), 2009) from a quarter of the resolution on."""
    field: Any = None
    for level, number in enumerate(iterations):
        factor = 2 ** (len(iterations) - 1 - level)
        here, there = (_reduced(x, factor) for x in (fixed, moving))
        method = SimpleITK.DiffeomorphicDemonsRegistrationFilter()
        method.SetNumberOfIterations(number)
        method.SetStandardDeviations(sigma)
        matched = SimpleITK.HistogramMatching(there, here, 128, 10, True)
        field = method.Execute(here, matched) if field is None else method.Execute(here, matched, SimpleITK.Resample(field, here))
    return _displacement(field)


def bspline(fixed: np.ndarray, moving: np.ndarray, knots: int = 4, iterations: int = 15) -> np.ndarray:
    """Register by a cubic B-spline (Rueckert et al., IEEE TMI 18(8), 1999), by squared differences, coarse to fine.

    `knots` is how many voxels lie between control points.
    """
    start = SimpleITK.BSplineTransformInitializer(_image(fixed), [max(1, n // knots) for n in fixed.shape], 3)
    for factor in (2, 1):
        method = SimpleITK.ImageRegistrationMethod()
        method.SetMetricAsMeanSquares()
        method.SetMetricSamplingStrategy(method.NONE)
        method.SetInterpolator(SimpleITK.sitkLinear)
        method.SetOptimizerAsLBFGSB(1e-6, iterations, 5, 2 * iterations, 1e9)
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(_reduced(fixed, factor), _reduced(moving, factor))
    return _displacement(SimpleITK.TransformToDisplacementField(start, SimpleITK.sitkVectorFloat64, _image(fixed).GetSize()))


def _image(array: np.ndarray) -> Any:
    return SimpleITK.GetImageFromArray(np.ascontiguousarray(array.astype(np.float32).transpose(2, 1, 0)))


def _reduced(array: np.ndarray, factor: int) -> Any:
    image = _image(array)
    return image if factor == 1 else SimpleITK.BinShrink(image, [factor] * 3)


def _displacement(field: Any) -> np.ndarray:
    """Return a field of voxels of spacing 1 as an array."""
    return np.ascontiguousarray(SimpleITK.GetArrayFromImage(field).transpose(3, 2, 1, 0), np.float32)
