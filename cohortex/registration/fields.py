"""Displacements as arrays: composition, inverse, the exponential of a velocity, and protection of splines against folding.

A displacement u is (3, X, Y, Z) float32 in voxels of its own grid: voxel p goes to p + u(p).
"""

from __future__ import annotations

import numpy as np

from cohortex.registration import field_kernels as kernels
from cohortex.registration.bspline import Spline, through

LIMIT = 0.1
"""Jacobian determinant below which `unfolded` relaxes a displacement."""


def compose(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the displacement of going by `first` and from there by `second`: two moves, and an image is resampled once."""
    a, b = _checked(first), _checked(second)
    if a.shape != b.shape:
        raise ValueError(f"displacements that are composed have one grid, these are {a.shape} and {b.shape}")
    out = np.empty_like(a)
    kernels.composed(a, b, out)
    return out


def warped(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Return the image (X, Y, Z) whose value at p is that of `image` at p + displacement(p), linearly; beyond it the border's value."""
    u, values = _checked(displacement), np.ascontiguousarray(image, dtype=np.float32)
    if values.shape != u.shape[1:]:
        raise ValueError(f"an image and its displacement have one grid, these are {values.shape} and {u.shape[1:]}")
    out = np.empty_like(values)
    kernels.warped(values, u, out)
    return out


def inverse(displacement: np.ndarray, tolerance: float = 1e-3, iterations: int = 30) -> np.ndarray:
    """Return the displacement that leads back.

    Newton's method at every voxel: unlike a fixed-point iteration it converges where the displacement stretches to more than the double.

    Parameters
    ----------
    displacement : (3, X, Y, Z) float32 array
        In voxels; without folds.
    tolerance : float
        Distance in voxels from where the way there and back may end.
    iterations : int
        At most.
    """
    u = _checked(displacement)
    points = np.indices(u.shape[1:], dtype=np.float32).reshape(3, -1)
    out = np.empty_like(points)
    kernels.inverse_at(u, points, tolerance, iterations, out)
    return out.reshape(u.shape)


def exponential(velocity: np.ndarray, steps: int = 6) -> np.ndarray:
    """Return the displacement that a stationary velocity makes in unit time, by scaling and squaring (Arsigny et al., MICCAI 2006).

    `velocity` is (3, X, Y, Z) in voxels; the time is halved `steps` times.
    """
    u = _checked(velocity) / np.float32(2**steps)
    for _ in range(steps):
        u = compose(u, u)
    return u


def least_jacobian(displacement: np.ndarray) -> float:
    """Return the smallest Jacobian determinant of a displacement, by central differences as `measures.registration` takes them."""
    return float(kernels.least_jacobian(_checked(displacement), -np.inf, 1, 1, np.zeros((1, 1, 1), np.uint8)))


def inverse_of(spline: Spline) -> Spline:
    """Return the spline, on the same knots, that has the inverse displacement at the knots."""
    u, h = spline.displacement(), spline.spacing
    counts = spline.coefficients.shape[1:]
    axes = [np.clip((np.arange(count) - 1) * h, 0, n - 1).astype(np.float32) for count, n in zip(counts, spline.shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    values = np.empty_like(points)
    kernels.inverse_at(u, points, 1e-3, 30, values)
    return through(values.reshape(3, *counts), h, spline.shape)


def unfolded(spline: Spline, limit: float = LIMIT, factor: int = 1) -> Spline:
    """Return the displacement relaxed where it folds, so that no Jacobian determinant is below a limit.

    The coefficients of the voxels concerned are moved towards the mean of their neighbours until none is left; a displacement that
    resists is scaled down, which ends for certain since nothing moves in the end.

    Parameters
    ----------
    spline : Spline
    limit : float
        Below 1.
    factor : int
        Of the grid at whose voxels it is judged; 1 is the finest.
    """
    current, marks = spline, np.zeros(spline.coefficients.shape[1:], np.uint8)
    for attempt in range(80):
        marks[:] = 0
        if kernels.least_jacobian(current.displacement(factor), np.float32(limit), factor, spline.spacing, marks) >= limit:
            return current
        coefficients = current.coefficients
        for _ in range(2 + attempt // 4):
            out = np.empty_like(coefficients)
            kernels.relaxed(coefficients, marks, out)
            coefficients = out
        current = current.with_coefficients(coefficients if attempt < 60 else coefficients * np.float32(0.8))
    return current.with_coefficients(np.zeros_like(current.coefficients))


def _checked(displacement: np.ndarray) -> np.ndarray:
    if displacement.ndim != 4 or displacement.shape[0] != 3:
        raise ValueError(f"a displacement is (3, X, Y, Z), this one is {displacement.shape}")
    return np.ascontiguousarray(displacement, dtype=np.float32)
