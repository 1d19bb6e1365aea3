"""What a filter is made of, so that it gives the same bytes whole, in blocks and on several threads.

`resolve` looks at the whole image once and turns the user's parameters, lengths in mm and statistics of the image into numbers that hold
for every voxel of it. `halo` says from those alone how far the result at a voxel depends on others. `block` filters any part of
the image: at its sides it applies the edge rule, so where a side is one of the image the result is that of the whole, and elsewhere
the voxels within the halo are to be cut off. Blocks therefore end at the border of the image and never go beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex import threads

Resolved = Mapping[str, Any]
Triple = tuple[int, int, int]

THIN = 16
"""An image with fewer voxels than this along z has z turned to the front while it is filtered: rows along z are what is vectorised."""

SLAB_VOXELS = 2**24
"""Voxels of a slab of a lazy image that a statistic reads at once; no statistic depends on it."""


@dataclass(frozen=True)
class Step:
    """One filter.

    Attributes
    ----------
    resolve : callable
        (array, spacing_mm, **parameters) -> numbers for `halo` and `block`. The array (x, y, z) may be lazy, finite; of it only
        what a statistic needs is read, in slabs along x. Raises ValueError for a parameter out of its range.
    halo : callable
        (resolved) -> voxels along x, y and z; None where a voxel depends on the whole image.
    block : callable
        (float32 values, resolved, origin) -> float32 values of the same shape; origin is where in the image its first voxel lies.
    everywhere : callable, optional
        (array, resolved) -> array-like, for steps whose halo may be None: the whole image, in bounded memory; the array may be lazy.
    """

    resolve: Callable[..., dict[str, Any]]
    halo: Callable[[Resolved], Triple | None]
    block: Callable[[np.ndarray, Resolved, Triple], np.ndarray]
    everywhere: Callable[[Any, Resolved], Any] | None = None


def whole(step: Step, values: np.ndarray, resolved: Resolved) -> np.ndarray:
    """Filter a checked image in slabs along x, one a thread (`cohortex.threads.count`)."""
    reach = step.halo(resolved)
    if reach is None:
        raise ValueError("a step without a halo is not for slabs: it has `everywhere`")
    hx, size = reach[0], values.shape[0]
    pieces = max(1, min(threads.count(), size // max(2 * hx, 8)))
    if pieces == 1:
        return step.block(values, resolved, (0, 0, 0))
    out = np.empty_like(values)

    def filtered(piece: int) -> None:
        start, stop = size * piece // pieces, size * (piece + 1) // pieces
        first = max(0, start - hx)
        made = step.block(values[first : min(size, stop + hx)], resolved, (first, 0, 0))
        out[start:stop] = made[start - first : stop - first]

    with ThreadPoolExecutor(pieces) as pool:
        list(pool.map(filtered, range(pieces)))
    return out


def row_order(shape: Sequence[int]) -> Triple:
    """Return the order of the axes in which kernels see an image: a short last axis goes first."""
    return (2, 0, 1) if shape[2] < THIN and shape[1] > shape[2] else (0, 1, 2)


def turned(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Return an array with its axes in another order, contiguous."""
    return np.ascontiguousarray(np.transpose(values, tuple(order)))


def turned_back(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Undo `turned`."""
    return np.ascontiguousarray(np.transpose(values, tuple(int(i) for i in np.argsort(order))))


def slab_planes(shape: Sequence[int], most: int = 32) -> int:
    """Return how many planes along x of a lazy image are read at once: an even number, fewer than `most` where planes are large."""
    return max(2, min(most, SLAB_VOXELS // (shape[1] * shape[2]) // 2 * 2))


def slabs(array: Any) -> list[tuple[int, int]]:
    """Return starts and stops along x in which a lazy array is read."""
    size, planes = array.shape[0], slab_planes(array.shape)
    return [(start, min(size, start + planes)) for start in range(0, size, planes)]
