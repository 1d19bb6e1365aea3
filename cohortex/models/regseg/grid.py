"""Working grids: where a head lies, boxes around it, and resampling between any two grids of the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.filters.lookup import Looked, Means, Mode, Route, field_looked, plain
from cohortex.volume import ArrayLike

COARSE_MM = 4.0
"""Spacing at which the foreground of a head is looked for."""
CT_CURVE = ((0.2, -1000.0, -100.0), (0.5, -50.0, 120.0), (0.3, 120.0, 1500.0))
"""Share of the range, from HU, to HU."""


@dataclass(frozen=True)
class Grid:
    """A regular grid in the world: number of voxels along x, y and z, and the affine from voxels to mm RAS."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Distance of the voxels in mm, (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True)
class Displacement:
    """A displacement in mm, (3, X, Y, Z), on a grid whose axes are those of the world."""

    mm: np.ndarray
    grid: Grid


def averaged(array: ArrayLike, affine: np.ndarray, spacing_mm: float) -> tuple[ArrayLike, np.ndarray]:
    """Return means over whole blocks of voxels, at most `spacing_mm` large, and their affine (nothing is aliased).

    The means are lazy: what is asked for is computed then, from an array that may be lazy, too. Where voxels are too large to be put
    together it is the array itself.
    """
    size = np.linalg.norm(affine[:3, :3], axis=0)
    factors = np.minimum(np.maximum(np.floor(spacing_mm / size + 1e-3).astype(int), 1), array.shape)
    if (factors == 1).all():
        return array, affine
    scaled = affine.copy()
    scaled[:3, :3] = affine[:3, :3] * factors
    scaled[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((factors - 1) / 2)
    return Means(array, factors.tolist()), scaled


def reduced(array: ArrayLike, affine: np.ndarray, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of `averaged` as an array in memory, float32: coarse, so that its size follows the field of view."""
    means, scaled = averaged(array, affine, spacing_mm)
    return np.ascontiguousarray(means[...], dtype=np.float32), scaled


def size_unit(shape: Sequence[int], affine: np.ndarray) -> float:
    """Return 1 for heads and larger, less for images whose longest side is under 160 mm: spacings are multiplied by it."""
    longest = max(n * size for n, size in zip(shape, np.linalg.norm(affine[:3, :3], axis=0), strict=True))
    return float(min(1.0, longest / 160.0))


def body(small: np.ndarray, modality: str) -> np.ndarray:
    """Return the mask of the body in an image of about `COARSE_MM`.

    CT: above -300 HU. Otherwise half of Otsu's threshold. The largest piece after an opening, its holes filled.
    All True where nothing stands out.
    """
    from scipy import ndimage as ndi

    from cohortex.measures.components import largest_component

    level = body_level(small, modality)
    if level is None:
        return np.ones(small.shape, bool)
    mask = small > level
    opened = np.asarray(ndi.binary_opening(mask)) if min(small.shape) > 4 else mask
    if not mask.any():
        return np.ones(small.shape, bool)
    largest = largest_component(opened if opened.any() else mask, connectivity=6).astype(bool)
    return np.asarray(ndi.binary_fill_holes(np.logical_and(ndi.binary_dilation(largest), mask)))


def body_level(small: np.ndarray, modality: str) -> float | None:
    """Return the intensity above which `body` looks for the body, None where nothing stands out."""
    from skimage.filters import threshold_otsu

    low, high = np.percentile(small, (1, 99.5))
    if not high > low:
        return None
    return -300.0 if modality == "CT" else low + 0.5 * (float(threshold_otsu(np.clip(small, low, high))) - low)


def bounds(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest world coordinates of a mask's voxel centres along R, A and S, in mm."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return points.min(axis=0), points.max(axis=0)


def box(low: np.ndarray, high: np.ndarray, spacing_mm: float, extent_mm: Sequence[float], multiple: int, margin_mm: float = 8.0) -> Grid:
    """Return the grid along the world's axes around what lies between two corners.

    It has `margin_mm` on every side and axes that are multiples of `multiple` voxels, but is at most `extent_mm` large (R, A, S):
    what is longer is cut evenly in x and y and from below in z, where the neck is.
    """
    wanted = np.minimum(high - low + 2 * margin_mm, np.asarray(extent_mm, float))
    steps = np.maximum(np.ceil(wanted / (spacing_mm * multiple) - 1e-6), 1).astype(int)
    shape = steps * multiple
    centre = (low + high) / 2
    start = centre - spacing_mm * (shape - 1) / 2
    cut = (high - low)[2] + 2 * margin_mm > spacing_mm * shape[2]
    if cut:
        start[2] = high[2] + margin_mm - spacing_mm * (shape[2] - 1)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = start
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def intensity_range(array: np.ndarray, modality: str, inside: np.ndarray | None = None) -> tuple[float, float]:
    """Return the intensities that become 0 and 1: percentile 1 of all, 99.5 of the values inside; of CT the fixed window in HU."""
    if modality == "CT":
        return -1000.0, 1500.0
    values = array[inside] if inside is not None and inside.sum() > 8 else array
    low, high = float(np.percentile(array, 1)), float(np.percentile(values, 99.5))
    return low, high if high > low else low + 1.0


def normalised(array: np.ndarray, modality: str, levels: tuple[float, float]) -> np.ndarray:
    """Return intensities between 0 and 1, float32.

    `levels` become 0 and 1. CT follows a fixed curve that spends half of the range on the soft tissues (-50 to 120 HU), a
    fifth on air to fat and the rest on bone, so that a network sees grey and white matter.
    """
    if modality == "CT":
        out = np.zeros(array.shape, np.float32)
        for share, low, high in CT_CURVE:
            out += np.float32(share) * np.clip((array - low) / (high - low), 0, 1).astype(np.float32)
        return out
    return np.clip((array - levels[0]) / (levels[1] - levels[0]), 0, 1).astype(np.float32)


def looked(
    array: ArrayLike,
    affine: np.ndarray,
    grid: Grid,
    transform: np.ndarray | None = None,
    displacement: Displacement | None = None,
    mode: Mode = "bilinear",
    outside: float | None = None,
) -> Looked:
    """Return an array at the points of a grid, lazily: a box is computed when it is asked for.

    Parameters
    ----------
    array : (X, Y, Z) array-like
    affine : (4, 4) array
        Its voxels to mm RAS.
    grid : Grid
    transform : (4, 4) array, optional
        World of the grid to world of the array, mm.
    displacement : Displacement, optional
        Applied before the transform: the value at p is that of the array at transform(p + displacement(p)).
    mode : {"bilinear", "nearest"}
        float32, or of the array's dtype.
    outside : float, optional
        Value beyond the array; by default that of the nearest border voxel.
    """
    way = route(grid, np.linalg.inv(affine) @ (np.eye(4) if transform is None else transform), displacement)
    return Looked(array, way, grid.shape, mode, outside)


def resample(
    array: ArrayLike,
    affine: np.ndarray,
    grid: Grid,
    transform: np.ndarray | None = None,
    displacement: Displacement | None = None,
    mode: Mode = "bilinear",
    outside: float | None = None,
    out: Any = None,
) -> Any:
    """Return an array at the points of a grid, computed block by block; parameters are those of `looked`.

    Parameters
    ----------
    out : array-like, optional
        Where it goes; an array in memory when not given.
    """
    there = looked(array, affine, grid, transform, displacement, mode, outside)
    return map_blocks(np.asarray, there, out=np.empty(grid.shape, there.dtype) if out is None else out)


def route(grid: Grid, world_to_voxel: np.ndarray, displacement: Displacement | None = None) -> Route:
    """Return how the voxels of a grid, displaced, find their places in another image, as `cohortex.filters.lookup` wants it."""
    affine = np.asarray(grid.affine, np.float64)
    if displacement is None:
        return plain(world_to_voxel @ affine)
    mm = np.ascontiguousarray(displacement.mm, dtype=np.float32)
    return affine, np.linalg.inv(displacement.grid.affine) @ affine, np.asarray(world_to_voxel, np.float64), mm


def field_on(grid: Grid, displacement: Displacement, out: Any = None) -> Any:
    """Return a displacement on another grid, (X, Y, Z, 3) float32 in mm; beyond its own grid it goes on as at the border.

    It goes to `out`, block by block; to an array in memory when that is not given.
    """
    _, to_field, _, field = route(grid, np.eye(4), displacement)
    return field_looked(field, to_field, np.empty((*grid.shape, 3), np.float32) if out is None else out)
