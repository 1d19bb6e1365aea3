"""The last tenths of a millimetre of a rigid motion: Gauss-Newton on self-similarities, on a fine grid around the body.

Mutual information is sampled and smoothed, so it ends within half a millimetre to more than one of where it should between contrasts;
self-similarities (MIND-SSC) are compared at a millimetre.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.deform import Prepared
from cohortex.registration import linear
from cohortex.registration.mind import halved, mind_bytes

SPACING_MM = 1.0
MOST = 8_000_000
"""Voxels of the grid: beyond, they are larger. A voxel takes about 40 bytes."""
ITERATIONS = (8, 4)
"""At twice the spacing, and at the spacing, where every second line along x and y counts."""


def sharpened(fixed: Prepared, moving: Prepared, matrix: np.ndarray) -> np.ndarray:
    """Return a rigid motion near a given one, world of the fixed to world of the moving image, (4, 4); the caller judges it."""
    spacing = SPACING_MM * grids.size_unit(fixed.array.shape, fixed.affine)
    grid = fixed.box(spacing)
    if (times := float(np.prod(grid.shape)) / MOST) > 1:
        grid = fixed.box(spacing * times ** (1 / 3))
    grid = replace(grid, shape=tuple(n - n % 2 for n in grid.shape))
    weight = (fixed.body_on(grid) & moving.covers(grid, matrix)).astype(np.uint8)
    fine = mind_bytes(fixed.on(grid)), mind_bytes(moving.on(grid, matrix))
    coarse = halved(fine[0]), halved(fine[1])
    thinned = np.zeros_like(weight)
    thinned[::2, ::2] = weight[::2, ::2]
    found = np.eye(4)
    halves = np.ascontiguousarray(weight[::2, ::2, ::2])
    found, _ = linear.improved(found, coarse, halves, 2, grid.shape, iterations=ITERATIONS[0])
    found, _ = linear.improved(found, fine, thinned, 1, grid.shape, iterations=ITERATIONS[1])
    return matrix @ grid.affine @ found @ np.linalg.inv(grid.affine)
