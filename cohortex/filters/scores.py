"""Labels on one grid from the scores of K classes on another, without K volumes on the grid of the labels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from cohortex.filters.score_kernels import most_probable, two_largest
from cohortex.volume import ArrayLike

SLAB_MB = 64.0
"""Scores that are read from the disk at once."""

Route = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""How a voxel of the labels finds its place among the scores, see `cohortex.filters.lookup_kernels`."""


def labels_from_scores(scores: ArrayLike, route: np.ndarray | Route, shape: tuple[int, int, int], out: Any = None) -> Any:
    """Return the class with the largest score, linearly interpolated, at every voxel of a grid.

    It is what resampling the scores class by class with linear interpolation and then taking the largest gives, without resampling
    them: most voxels lie where all neighbours agree, and at the borders only the classes that can win are compared.

    Parameters
    ----------
    scores : (K, X, Y, Z) array-like
        Logits or probabilities; may be lazy, then it is read in slabs of planes along X (all of it where the route is a
        displacement). Finite; float32 is compared, other types are converted slab by slab.
    route : (4, 4) array or tuple
        Voxels of the labels to voxels of the scores, or the same with a displacement (`cohortex.models.regseg.grid.route`).
    shape : three ints
        Of the labels.
    out : array-like, optional
        Where the labels go, slab by slab along x (a memory map, a zarr array); made when not given.

    Returns
    -------
    (x, y, z) array
        `out`: uint8, for more than 256 classes uint16. Ties go to the lowest class. A place further than half a voxel beyond the
        outermost centres of the scores is 0; between, the outermost scores count, as in nnU-Net's export.

    Raises
    ------
    ValueError
        Not four axes, or more than 65536 classes.

    References
    ----------
    Isensee et al., nnU-Net, Nature Methods 18, 2021 (exports by resampling the logits of every class and taking the largest).
    """
    if len(scores.shape) != 4 or not 1 <= scores.shape[0] <= 2**16:
        raise ValueError(f"scores have the axes (classes, x, y, z) with 1 to 65536 classes, these have shape {tuple(scores.shape)}")
    dtype = np.uint8 if scores.shape[0] <= 256 else np.uint16
    plain = isinstance(route, np.ndarray)
    way: Route = (np.asarray(route, np.float64), np.eye(4), np.eye(4), np.empty((0, 1, 1, 1), np.float32)) if plain else route  # type: ignore[assignment]
    size = int(scores.shape[1])
    whole = not plain and way[3].shape[0] > 0
    ready = _ready(scores)
    step = shape[0] if whole or ready else _thickness(scores, way[0], shape)
    result: Any = np.empty(shape, dtype) if out is None and step < shape[0] else out
    slab: Any
    for begin in range(0, shape[0], step):
        end = min(begin + step, shape[0])
        low, high = (0, size) if whole else _planes(way[0], (begin, end), shape, size)
        labels = np.zeros((end - begin, *shape[1:]), dtype)
        if high > low:
            # an array in memory is looked at where it lies
            slab, skip = (scores, low) if ready else (np.ascontiguousarray(scores[:, low:high], dtype=np.float32), 0)
            best = np.empty((high - low, *slab.shape[2:]), dtype)
            second = np.empty(best.shape, np.float32)
            two_largest(slab.reshape(*slab.shape[:2], -1), skip, best.reshape(high - low, -1), second.reshape(high - low, -1))
            most_probable(slab, skip, best, second, low, size, way, begin, labels)
            del slab, best, second
        if out is None and step >= shape[0]:
            return labels
        result[begin:end] = labels
    return result


def _ready(scores: Any) -> bool:
    """Tell whether planes of the scores can be looked at where they lie."""
    return type(scores) is np.ndarray and scores.dtype == np.float32 and scores.flags.c_contiguous


def _planes(matrix: np.ndarray, box: tuple[int, int], shape: tuple[int, int, int], size: int) -> tuple[int, int]:
    """Return the planes along x of the source that some planes of the target look at."""
    corners = itertools.product((box[0], box[1] - 1), (0, shape[1] - 1), (0, shape[2] - 1))
    places = [float(matrix[0] @ (*corner, 1)) for corner in corners]
    low, high = int(np.floor(min(places))), int(np.floor(max(places))) + 2
    if high < 0 or low > size:
        return 0, 0
    return min(max(low, 0), size - 1), max(min(high, size), 1)


def _thickness(scores: ArrayLike, matrix: np.ndarray, shape: tuple[int, int, int]) -> int:
    """Return how many planes of the target are made at once, so that the scores for them stay within `SLAB_MB`."""
    size = int(scores.shape[1])
    allowed = max(1, int(SLAB_MB * 1e6 / (4 * scores.shape[0] * scores.shape[2] * scores.shape[3])))
    thick = shape[0]
    while thick > 1:
        low, high = _planes(matrix, (0, thick), shape, 2**40)
        if min(high - low, size) <= allowed:
            break
        thick = (thick + 1) // 2
    return thick
