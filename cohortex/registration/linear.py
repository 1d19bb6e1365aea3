"""Rigid and affine registration on self-similarities: Gauss-Newton with the kernels of the splines.

A linear displacement is a cubic B-spline whose coefficients are its values at the knots, and the sums that `spline_kernels` puts into the
control points keep their first moments: summed over the control points, times their places, they are the exact gradient by the six or
twelve parameters. The curvature is that of the control points' 3 x 3 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cohortex.registration import spline_kernels
from cohortex.registration.bspline import Spline, zero

Freedom = Literal["shift", "rigid", "affine"]
FREEDOMS: tuple[Freedom, ...] = ("shift", "rigid", "affine")
ITERATIONS = 12
STILL = 1e-3
"""Voxels: a step that moves no corner of the image further is the last."""


def linear_spline(matrix: np.ndarray, shape: Sequence[int], spacing: int) -> Spline:
    """Return the displacement of an affine.

    Parameters
    ----------
    matrix : (4, 4) array
        Voxel p of the grid goes to matrix(p), in voxels.
    shape : (X, Y, Z)
    spacing : int
        Voxels from knot to knot.
    """
    spline = zero(shape, spacing)
    places = knots(spline)
    moved = np.tensordot(matrix[:3, :3], places, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return spline.with_coefficients(np.ascontiguousarray(moved - places, dtype=np.float32))


def knots(spline: Spline) -> np.ndarray:
    """Return the places of a spline's coefficients, (3, A, B, C) float64 in voxels."""
    return (np.indices(spline.coefficients.shape[1:]) - 1.0) * spline.spacing


def improved(
    matrix: np.ndarray,
    features: tuple[np.ndarray, np.ndarray],
    weight: np.ndarray,
    factor: int,
    shape: Sequence[int],
    freedom: Freedom = "rigid",
    iterations: int = ITERATIONS,
    hold: float = 0.0,
) -> tuple[np.ndarray, float]:
    """Return an affine after iterations of Gauss-Newton, and the mean square of what differs before the last one.

    Parameters
    ----------
    matrix : (4, 4) array
        In voxels of the finest grid: voxel p of the fixed image lies at matrix(p) of the moving one.
    features : two (X, Y, Z, 12) uint8 arrays
        Of the fixed and of the moving image, on the grid that is coarser by `factor`.
    weight : (X, Y, Z) uint8 array
        Not 0 where the fixed one counts.
    factor : int
    shape : (X, Y, Z)
        Of the finest grid.
    freedom : {"shift", "rigid", "affine"}
        Three, six or twelve parameters.
    iterations : int
        At most.
    hold : float
        Weight, in shares of the mean curvature, of what an affine changes of lengths and angles.
    """
    current, mean_square = np.asarray(matrix, np.float64), np.inf
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])], float).T
    for _ in range(iterations):
        spline = linear_spline(current, shape, 2 * factor)
        system = np.zeros((9, *spline.coefficients.shape[1:]), np.float32)
        scale = np.float32(1 / factor)
        energy, count = spline_kernels.system(*features, weight, spline.coefficients, *spline.tables(factor), scale, system)
        used = (system[0] + system[3] + system[5]) > 0
        if count == 0:
            return current, np.inf
        mean_square = float(energy / count)
        if not used.any():
            break
        sums = system[:, used].astype(np.float64)
        sums[:6] /= factor**2
        sums[6:] /= factor
        places = knots(spline)[:, used]
        change = _step(current, sums, places, freedom, hold)
        if change is None:
            break
        moved = float(np.abs((change - current) @ corners).max())
        current = change
        if moved < STILL:
            break
    return current, mean_square


def _step(current: np.ndarray, sums: np.ndarray, places: np.ndarray, freedom: Freedom, hold: float) -> np.ndarray | None:
    """Return the affine after one step, or None where the equations have no solution."""
    curvature = np.empty((sums.shape[1], 3, 3))
    for n, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        curvature[:, i, j] = curvature[:, j, i] = sums[n]
    weights = sums[0] + sums[3] + sums[5]
    centre = (places * weights).sum(1) / weights.sum()
    middle = current[:3, :3] @ centre + current[:3, 3]
    # Columns: how a control point moves with every parameter. Turns are about the middle's place in the moving image.
    arms = (current[:3, :3] @ (places - centre[:, None]) if freedom == "rigid" else places - centre[:, None]).T
    moves = np.tile(np.eye(3), (len(arms), 1, 1))
    if freedom == "rigid":
        x, y, z = arms.T
        o = np.zeros_like(x)
        turns = np.stack([np.stack([o, -z, y], 1), np.stack([z, o, -x], 1), np.stack([-y, x, o], 1)], 2)
        moves = np.concatenate([moves, turns], 2)
    elif freedom == "affine":
        stretch = np.einsum("ij,nk->nijk", np.eye(3), arms).reshape(-1, 3, 9)
        moves = np.concatenate([moves, stretch], 2)
    left = np.einsum("nip,nij,njq->pq", moves, curvature, moves)
    right = np.einsum("nip,in->p", moves, sums[6:])
    if freedom == "affine" and hold > 0:
        # Of the strain of the whole affine, in the units of the curvature.
        size = hold * weights.sum() / 3 * float((arms**2).mean())
        strain = np.zeros((6, 12))
        for row, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
            strain[row, 3 + 3 * i + j] += 0.5
            strain[row, 3 + 3 * j + i] += 0.5
        left += size * strain.T @ strain
        right += size * strain.T @ strain @ np.concatenate([np.zeros(3), (current[:3, :3] - np.eye(3)).ravel()])
    try:
        step = -np.linalg.solve(left + 1e-6 * np.diag(np.diag(left)), right)
    except np.linalg.LinAlgError:
        return None
    linear = current[:3, :3]
    if freedom == "rigid":
        linear = rotation_of(step[3:]) @ linear
    elif freedom == "affine":
        linear = linear + step[3:].reshape(3, 3)
    found = np.eye(4)
    found[:3, :3] = linear
    found[:3, 3] = middle + step[:3] - linear @ centre
    return found


def rotation_of(turn: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) about an axis (3,) by its length in radians."""
    angle = float(np.linalg.norm(turn))
    x, y, z = turn if angle < 1e-12 else turn / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
