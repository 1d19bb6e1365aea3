"""Thick slices and the fine grid behind them: averaging, interpolation, and agreement with what was measured.

All three are matrices along the slice axis. n slices and m fine voxels share one field of view: the outer faces of the first
and last slice are those of the first and last fine voxel, m / n need not be whole.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np

Profile = Literal["box", "gaussian"]


def fine_count(slices: int, factor: float) -> int:
    """Return the number of fine voxels nearest to `factor` a slice."""
    return max(slices, round(slices * factor))


@lru_cache(maxsize=128)
def spline_matrix(slices: int, count: int) -> np.ndarray:
    """Return the interpolation from slices to fine voxels by the cubic B-spline through the slices' centres.

    Beyond the outer centres the spline goes on as its end condition says (no curvature, natural spline), so linear
    functions are met exactly up to the faces of the volume.

    Returns
    -------
    (count, slices) float64 array
        Read-only.

    References
    ----------
    Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16(6) (1999) 22-38.
    """
    if slices < 2:
        raise ValueError("interpolation between slices needs at least two of them")
    position = (np.arange(count) + 0.5) * slices / count - 0.5
    collocation = _natural(np.arange(slices, dtype=np.float64), slices)
    matrix = np.linalg.solve(collocation.T, _natural(position, slices).T).T
    matrix.flags.writeable = False
    return matrix


def _natural(position: np.ndarray, slices: int) -> np.ndarray:
    """Return the cubic B-splines of all slices at positions in slices; those beyond the ends are expressed by the two last."""
    basis = np.zeros((len(position), slices))
    first = np.floor(position).astype(int) - 1
    rows = np.arange(len(position))
    for tap in range(4):
        index = first + tap
        distance = np.abs(position - index)
        weight = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6)
        # No curvature at the ends: the coefficient k beyond is on the line through the two outermost.
        below, above = np.maximum(-index, 0), np.maximum(index - (slices - 1), 0)
        inside = np.clip(index, 0, slices - 1)
        outside = below + above
        np.add.at(basis, (rows, inside), weight * (1 + outside))
        neighbour = np.clip(np.where(below > 0, 1, np.where(above > 0, slices - 2, inside)), 0, slices - 1)
        np.add.at(basis, (rows, neighbour), -weight * outside)
    return basis


@lru_cache(maxsize=128)
def profile_matrix(slices: int, count: int, profile: Profile = "box") -> np.ndarray:
    """Return what the slices see of the fine voxels: weighted means over the slice profile.

    Parameters
    ----------
    profile : {"box", "gaussian"}
        box: the mean over the slice's thickness; gaussian: full width at half maximum of the thickness, cut at 1.5 thicknesses.

    Returns
    -------
    (slices, count) float64 array
        Rows sum to 1. Read-only.
    """
    edges = np.arange(count + 1) * slices / count
    middle = np.arange(slices)[:, None]
    if profile == "box":
        matrix = np.clip(np.minimum(edges[1:], middle + 1) - np.maximum(edges[:-1], middle), 0, None)
    else:
        from scipy.special import ndtr

        sigma = 1 / np.sqrt(8 * np.log(2))
        low, high = (np.clip(e - middle - 0.5, -1.5, 1.5) / sigma for e in (edges[:-1], edges[1:]))
        matrix = ndtr(high) - ndtr(low)
    matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=128)
def _correction(slices: int, count: int, profile: Profile) -> np.ndarray:
    """Return the matrix from errors of the slices to the spline whose slice means are these errors."""
    spline = spline_matrix(slices, count)
    return np.linalg.solve((profile_matrix(slices, count, profile) @ spline).T, spline.T).T


def agreeing_matrix(slices: int, count: int, profile: Profile = "box") -> np.ndarray:
    """Return the matrix of `agreeing_spline`, (count, slices) float64."""
    return _correction(slices, count, profile)


def along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    """Apply a matrix to every line of an array along an axis; float32, contiguous."""
    moved = np.tensordot(np.asarray(matrix, dtype=np.float32), np.asarray(array, dtype=np.float32), axes=(1, axis))
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))


def upsample(array: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Return slices interpolated to `count` fine voxels along an axis, see `spline_matrix`."""
    return along(spline_matrix(array.shape[axis], count), array, axis)


def average(array: np.ndarray, slices: int, axis: int, profile: Profile = "box") -> np.ndarray:
    """Return the slices that would be measured of a fine array along an axis, see `profile_matrix`."""
    return along(profile_matrix(slices, array.shape[axis], profile), array, axis)


def agree(fine: np.ndarray, slices: np.ndarray, axis: int, profile: Profile = "box") -> np.ndarray:
    """Return the fine array corrected so that its slice means are the measured slices.

    The correction is the smooth one: the cubic spline whose means over the slice profile are the differences.

    Parameters
    ----------
    fine, slices : (x, y, z) arrays
        Of one field of view, with different numbers of voxels along `axis`.

    Returns
    -------
    (x, y, z) float32 array
        ``average(result) == slices`` up to rounding.

    References
    ----------
    Irani and Peleg, Improving resolution by image registration, CVGIP 53 (1991) 231-239 (back-projection); one
    step suffices here, as the back-projection is the exact inverse.
    """
    error = slices - average(fine, slices.shape[axis], axis, profile)
    return fine + along(_correction(slices.shape[axis], fine.shape[axis], profile), error, axis)


def above(fine: np.ndarray, slices: np.ndarray, axis: int, floor: float, profile: Profile = "box") -> np.ndarray:
    """Return a fine array that agrees with the slices without what lies below a floor.

    Beside a steep edge the agreeing spline swings beyond what can be: below zero in a magnitude image, to -2000 HU in the air beside
    a body. What lies below is raised to the floor, and the height above it is divided by what the slice has become too high.

    Parameters
    ----------
    fine, slices : (x, y, z) arrays
        As in `agree`; no slice is below the floor.
    floor : float
        Lowest value that can be.

    Returns
    -------
    (x, y, z) float32 array
        `fine` itself where nothing is below the floor. With whole factors and the box profile the slice means are still the slices.

    References
    ----------
    The multiplicative correction is one step of Lucy, An iterative technique for the rectification of observed distributions,
    Astronomical Journal 79 (1974) 745-754.
    """
    # Column by column, so that a block of columns gives what the whole gives.
    below = (fine < floor).any(axis=axis, keepdims=True)
    if not below.any():
        return fine
    height = np.maximum(fine, np.float32(floor)) - np.float32(floor)
    seen = average(height, slices.shape[axis], axis, profile)
    share = np.divide(slices - np.float32(floor), seen, out=np.ones_like(seen), where=seen > 0)
    back = profile_matrix(slices.shape[axis], fine.shape[axis], profile).T
    height *= along(back / back.sum(axis=1, keepdims=True), share, axis)
    height += np.float32(floor)
    return np.where(below, height, fine)


def agreeing_spline(slices: np.ndarray, count: int, axis: int, profile: Profile = "box") -> np.ndarray:
    """Return the cubic spline whose means over the slice profile are the measured slices; what networks work on."""
    return along(_correction(slices.shape[axis], count, profile), slices, axis)


def fine_affine(affine: np.ndarray, slices: int, count: int, axis: int) -> np.ndarray:
    """Return the affine of the fine grid: same outer faces, spacing along `axis` smaller by slices / count."""
    fine = np.array(affine, dtype=np.float64)
    ratio = slices / count
    fine[:3, 3] += affine[:3, axis] * (ratio / 2 - 0.5)
    fine[:3, axis] *= ratio
    return fine
