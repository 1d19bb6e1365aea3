"""Displacements on cubic B-splines: tables of their weights, expansion to voxels, refinement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.registration import spline_kernels as kernels

Table = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Spline:
    """A displacement: coefficients (3, A, B, C) float32 in voxels of the finest grid, `spacing` of these voxels apart."""

    coefficients: np.ndarray
    spacing: int
    shape: tuple[int, int, int]
    """Of the finest grid."""

    def tables(self, factor: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return first coefficient (n,) int64 and weights (n, 4) float32 for the voxels of each axis of a grid coarser by `factor`."""
        found: list[np.ndarray] = []
        for n in self.shape:
            places = (np.arange(n // factor) * factor + (factor - 1) / 2) / self.spacing
            first = np.floor(places).astype(np.int64)
            t = places - first
            u = 1 - t
            weights = np.stack([u**3 / 6, 2 / 3 - t * t * (2 - t) / 2, 2 / 3 - u * u * (2 - u) / 2, t**3 / 6], axis=1)
            found += [first, weights.astype(np.float32)]
        a, b, c, d, e, f = found
        return a, b, c, d, e, f

    def displacement(self, factor: int = 1) -> np.ndarray:
        """Return the displacement (3, X, Y, Z) float32 at the voxels of a grid coarser by `factor`, in voxels of that grid."""
        out = np.empty((3, *(n // factor for n in self.shape)), np.float32)
        kernels.displacement(self.coefficients, *self.tables(factor), np.float32(1 / factor), out)
        return out

    def with_coefficients(self, coefficients: np.ndarray) -> Spline:
        """Return another displacement on the same knots."""
        return Spline(coefficients, self.spacing, self.shape)

    def refined(self) -> Spline:
        """Return the same displacement with coefficients at half the distance."""
        finer, found = zero(self.shape, self.spacing // 2), self.coefficients
        for axis in (1, 2, 3):
            found = _halved(found, axis, finer.coefficients.shape[axis])
        return finer.with_coefficients(found)


def zero(shape: Sequence[int], spacing: int) -> Spline:
    """Return the displacement that is nought, with coefficients every `spacing` voxels."""
    count = [(n - 1) // spacing + 4 for n in shape]
    return Spline(np.zeros((3, *count), np.float32), spacing, (int(shape[0]), int(shape[1]), int(shape[2])))


def fitted(displacement: np.ndarray, spacing: int) -> Spline:
    """Return the spline that has a displacement's values (3, X, Y, Z), in voxels, at its knots."""
    shape = displacement.shape[1:]
    counts = zero(shape, spacing).coefficients.shape[1:]
    axes = [np.clip((np.arange(count) - 1) * spacing, 0, n - 1) for count, n in zip(counts, shape, strict=True)]
    return through(displacement[(slice(None), *np.ix_(*axes))], spacing, shape)


def through(values: np.ndarray, spacing: int, shape: Sequence[int]) -> Spline:
    """Return the spline with given values at its knots, (3, A, B, C), those beyond the grid included."""
    from scipy.ndimage import spline_filter1d

    found = np.asarray(values, np.float32)
    for axis in (1, 2, 3):
        found = spline_filter1d(found, 3, axis, output=np.float32, mode="mirror")  # pyright: ignore[reportArgumentType]
    return Spline(np.ascontiguousarray(found), spacing, (int(shape[0]), int(shape[1]), int(shape[2])))


def _halved(coefficients: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Return coefficients at half the distance along an axis, of the same spline."""
    c = np.moveaxis(coefficients, axis, 0)
    out = np.empty((count, *c.shape[1:]), np.float32)
    # Those at old places, from the second on, then those half-way, from the first on.
    at, between = len(out[1::2]), len(out[::2])
    whole = (c[:-2] + 6 * c[1:-1] + c[2:]) / 8
    half = (c[:-1] + c[1:]) / 2
    out[1::2] = whole[np.minimum(np.arange(at), len(whole) - 1)]
    out[::2] = half[np.minimum(np.arange(between), len(half) - 1)]
    return np.ascontiguousarray(np.moveaxis(out, 0, axis))
