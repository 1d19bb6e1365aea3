"""How well two images were brought together: landmarks, folding, shared information."""

from __future__ import annotations

import numpy as np


def mutual_information(a: np.ndarray, b: np.ndarray, bins: int = 32) -> float:
    """Return the mutual information of paired intensities in nats, from a joint histogram.

    Parameters
    ----------
    a, b : arrays of the same number of values
        Each is divided evenly between its smallest and largest value.
    bins : int

    Returns
    -------
    float
        0 when one says nothing about the other, or when either is constant or empty.
    """
    a, b = np.ravel(a), np.ravel(b)
    if a.size != b.size:
        raise ValueError(f"the values come in pairs, there are {a.size} and {b.size}")
    if a.size == 0:
        return 0.0
    joint = np.bincount(_binned(a, bins) * bins + _binned(b, bins), minlength=bins * bins).reshape(bins, bins) / a.size
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    return max(0.0, float((joint[known] * np.log(joint[known] / apart[known])).sum()))


def _binned(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(values.shape, np.int64)
    return np.minimum((values - low) * (bins / (high - low)), bins - 1).astype(np.int64)


def jacobian_determinant(field: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return by how much a displacement field changes volume at every voxel.

    Parameters
    ----------
    field : (X, Y, Z, 3) array
        Displacement in mm along R, A and S.
    affine : (4, 4) array
        Voxels to mm RAS.

    Returns
    -------
    (X, Y, Z) float32 array
        1: unchanged; at most 0: folded. Central differences, one-sided at the borders; an axis of one voxel does not vary.
    """
    to_voxel = np.linalg.inv(affine[:3, :3])
    by_voxel = np.stack(
        [np.gradient(field, axis=axis) if field.shape[axis] > 1 else np.zeros_like(field) for axis in range(3)], axis=-1, dtype=np.float32
    )
    matrix = by_voxel @ to_voxel.astype(np.float32)
    for axis in range(3):
        matrix[..., axis, axis] += 1
    cofactors = np.cross(matrix[..., 1, :], matrix[..., 2, :])
    return np.asarray((matrix[..., 0, :] * cofactors).sum(-1), np.float32)


def folding_percent(field: np.ndarray, affine: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the share of voxels (of a mask) at which a field folds, in percent."""
    folded = jacobian_determinant(field, affine) <= 0
    values = folded if mask is None else folded[mask]
    return 100.0 * float(values.mean()) if values.size else 0.0


def tre_mm(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the target registration error of every landmark in mm.

    Parameters
    ----------
    found, true : (N, 3) arrays
        Where the registration and where the truth puts the landmarks in the moving image's world, mm.
    """
    found, true = np.asarray(found, float), np.asarray(true, float)
    if found.shape != true.shape or found.ndim != 2 or found.shape[1] != 3:
        raise ValueError(f"landmarks are two arrays of the same (N, 3), these are {found.shape} and {true.shape}")
    return np.linalg.norm(found - true, axis=1)


def moved_points(
    points: np.ndarray, matrix: np.ndarray | None = None, field: np.ndarray | None = None, affine: np.ndarray | None = None
) -> np.ndarray:
    """Return where points of the fixed world lie in the moving world, (N, 3) mm: matrix(p + field(p)).

    `field` (X, Y, Z, 3) is on the grid of `affine`, interpolated linearly; beyond the grid its border value is taken.
    """
    from scipy.ndimage import map_coordinates

    points = np.asarray(points, float)
    if field is not None:
        if affine is None:
            raise ValueError("a field needs the affine of its grid")
        voxels = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        points = points + np.stack([map_coordinates(field[..., i], voxels.T, order=1, mode="nearest") for i in range(3)], axis=1)
    return points if matrix is None else points @ matrix[:3, :3].T + matrix[:3, 3]
