"""Labels on one grid from the scores of K classes on another, without K volumes on the grid of the labels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cohortex.blocks import Box, map_blocks, room
from cohortex.filters.lookup import Route, pieces, plain
from cohortex.filters.score_kernels import most_probable, two_largest
from cohortex.lazy import Boxed
from cohortex.volume import ArrayLike


def labels_from_scores(scores: ArrayLike, route: np.ndarray | Route, shape: tuple[int, int, int], out: Any = None) -> Any:
    """Return the class with the largest score, linearly interpolated, at every voxel of a grid.

    It is what resampling the scores class by class with linear interpolation and then taking the largest gives, without resampling
    them: most voxels lie where all neighbours agree, and at the borders only the classes that can win are compared.

    Parameters
    ----------
    scores : (K, X, Y, Z) array-like
        Logits or probabilities; may be lazy, then of it only what a block of the labels looks at is read. Finite; float32 is compared,
        other types are converted block by block.
    route : (4, 4) array or tuple
        Voxels of the labels to voxels of the scores, or the same with a displacement (`cohortex.models.regseg.grid.route`).
    shape : three ints
        Of the labels.
    out : array-like, optional
        Where the labels go, block by block; made when not given.

    Returns
    -------
    (x, y, z) array-like
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
    best = Best(scores, plain(route) if isinstance(route, np.ndarray) else route, shape)
    return map_blocks(np.asarray, best, out=out, dtype=best.dtype)


class Best(Boxed):
    """The class with the largest score at the points of a grid, computed for a box when that is asked for.

    Parameters are those of `labels_from_scores`.
    """

    def __init__(self, scores: ArrayLike, route: Route, shape: tuple[int, int, int]):
        if len(scores.shape) != 4 or not 1 <= scores.shape[0] <= 2**16:
            raise ValueError(f"scores have the axes (classes, x, y, z) with 1 to 65536 classes, these have shape {tuple(scores.shape)}")
        self.scores = scores
        self.route = route
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(np.uint8 if scores.shape[0] <= 256 else np.uint16)
        # an array in memory is looked at where it lies, and once
        self.whole = self._ranked(scores) if isinstance(scores, np.ndarray) else None

    def _ranked(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = np.ascontiguousarray(scores, dtype=np.float32)
        best, second = np.empty(scores.shape[1:], self.dtype), np.empty(scores.shape[1:], np.float32)
        two_largest(scores.reshape(*scores.shape[:2], -1), best.reshape(len(best), -1), second.reshape(len(best), -1))
        return scores, best, second

    def box(self, box: Box) -> np.ndarray:
        """Return the labels of a box of the grid."""
        size = tuple(int(n) for n in self.scores.shape[1:])
        made = np.zeros([b - a for a, b in box], self.dtype)
        most = prod(size) if self.whole is not None else room(4 * int(self.scores.shape[0]))
        for piece, part in pieces(self.route, box, size, most, True):
            if part is None:
                continue
            read = self.whole or self._ranked(np.asarray(self.scores[(slice(None), *(slice(a, b) for a, b in part))]))
            corner = (0, 0, 0) if self.whole is not None else tuple(a for a, _ in part)
            out = made if piece == box else np.empty([b - a for a, b in piece], self.dtype)
            most_probable(*read, self.route, out, tuple(a for a, _ in piece), corner, size)
            if out is not made:
                made[tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(piece, box, strict=True))] = out
        return made
