"""An image or labels looked up at the points of another grid, a block at a time, each from the part of the source that it lies in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import Any, Literal

import numpy as np

from cohortex.blocks import ALIGN, Box, block_for, boxes, room, run_all
from cohortex.filters import lookup_kernels as kernels
from cohortex.lazy import Boxed
from cohortex.volume import ArrayLike

Mode = Literal["bilinear", "nearest"]

Route = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""How a voxel of the grid finds its place in the source, see `cohortex.filters.lookup_kernels`."""

SMALLEST = 4
"""Edge in voxels below which a block is not cut again, however much of the source it looks at."""
SLACK = 1e-3
"""Voxels by which rounding may move a place."""


class Looked(Boxed):
    """Another array looked up at the points of a grid.

    Parameters
    ----------
    source : (X, Y, Z) array-like
        May be lazy; of it only what a box of the result looks at is read, and never more at once than a block may take.
    route : tuple
    shape : three ints
        Of the grid.
    mode : {"bilinear", "nearest"}
        float32, linear along each axis; or the nearest voxel, in the source's dtype (uint8 for a mask).
    outside : float, optional
        Value beyond the source (further than half a voxel from its outermost centres); by default that of the nearest border voxel.
    """

    def __init__(self, source: ArrayLike, route: Route, shape: Sequence[int], mode: Mode = "bilinear", outside: float | None = None):
        self.source = source
        self.route = route
        self.shape = tuple(int(n) for n in shape)
        self.mode = mode
        self.outside = outside
        kept = np.dtype(source.dtype)
        self.dtype = np.dtype(np.float32) if mode == "bilinear" else np.dtype(np.uint8) if kept.kind == "b" else kept

    def box(self, box: Box) -> np.ndarray:
        """Return the values of a box of the grid."""
        whole = tuple(int(n) for n in self.source.shape)
        here = isinstance(self.source, np.ndarray)
        made = np.empty([b - a for a, b in box], self.dtype)
        fill = self.dtype.type(0 if self.outside is None else self.outside)
        kernel = kernels.linear if self.mode == "bilinear" else kernels.nearest
        for piece, part in pieces(self.route, box, whole, prod(whole) if here else room(4), self.outside is not None):
            there = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(piece, box, strict=True))
            if part is None:
                made[there] = fill
                continue
            # an array in memory is looked at where it lies
            corner = (0, 0, 0) if here else tuple(a for a, _ in part)
            read = self.source if here else self.source[tuple(slice(a, b) for a, b in part)]
            values = np.ascontiguousarray(read, dtype=self.dtype)
            out = made if piece == box else np.empty([b - a for a, b in piece], self.dtype)
            kernel(values, self.route, out, fill, self.outside is not None, tuple(a for a, _ in piece), corner, whole)
            if out is not made:
                made[there] = out
        return made


class Means(Boxed):
    """The means of whole blocks of voxels of another array, float32; what is left over at the ends of its axes is left out.

    Parameters
    ----------
    source : (X, Y, Z) array-like
        May be lazy.
    factors : three ints
        Voxels of a block.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, source: ArrayLike, factors: Sequence[int]):
        self.source = source
        self.factors = tuple(int(f) for f in factors)
        self.shape = tuple(int(n) // f for n, f in zip(source.shape, self.factors, strict=True))

    def box(self, box: Box) -> np.ndarray:
        """Return the means of a box of blocks."""
        made = np.empty([b - a for a, b in box], np.float32)
        for part in boxes(made.shape, _edges(made.shape, self.factors, room(4))):
            ends = [((a + start) * f, (b + start) * f) for (a, b), (start, _), f in zip(part, box, self.factors, strict=True)]
            values = np.ascontiguousarray(self.source[tuple(slice(a, b) for a, b in ends)], dtype=np.float32)
            out = np.empty([b - a for a, b in part], np.float32)
            kernels.means(values, self.factors, out)
            made[tuple(slice(a, b) for a, b in part)] = out
        return made


def _edges(shape: Sequence[int], factors: Sequence[int], most: int) -> list[int]:
    """Return the edges of boxes of blocks that have at most so many voxels: the longest edge is halved."""
    edges = [max(1, n) for n in shape]
    while prod(e * f for e, f in zip(edges, factors, strict=True)) > most and max(edges) > 1:
        axis = int(np.argmax([e * f if e > 1 else 0 for e, f in zip(edges, factors, strict=True)]))
        edges[axis] = -(-edges[axis] // 2)
    return edges


def pieces(route: Route, box: Box, shape: Sequence[int], most: int, filled: bool) -> Iterator[tuple[Box, Box | None]]:
    """Yield the parts of a block of a grid and, of each, the box of the source that it looks at.

    Parameters
    ----------
    route : tuple
    box : three (start, stop)
        The block.
    shape : three ints
        Of the source.
    most : int
        A block that looks at more voxels of the source is halved.
    filled : bool
        Whether parts that lie beyond the source look at nothing: their box is None.
    """
    low, high = reach(route, box)
    size = np.array(shape)
    if filled and ((high < -0.5) | (low > size - 0.5)).any():
        yield box, None
        return
    begin = np.clip(np.floor(low).astype(np.int64), 0, size - 1)
    # a place before the source is brought to its first voxel and looks at the second, too, though with weight 0
    end = np.minimum(np.maximum(np.floor(high).astype(np.int64), 0) + 2, size)
    lengths = [b - a for a, b in box]
    axis = int(np.argmax(lengths))
    if prod((end - begin).tolist()) > most and lengths[axis] > SMALLEST:
        start, stop = box[axis]
        middle = (start + stop) // 2
        for half in ((start, middle), (middle, stop)):
            yield from pieces(route, (*box[:axis], half, *box[axis + 1 :]), shape, most, filled)
        return
    yield box, tuple((int(a), int(b)) for a, b in zip(begin, end, strict=True))


def reach(route: Route, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest place in the source, in voxels, that the voxels of a block of the grid may have; two (3,) arrays."""
    first, to_field, after, field = route
    corners = np.array(list(product(*((a, b - 1) for a, b in box))), np.float64)
    matrix, low, high = first, np.full(3, -SLACK), np.full(3, SLACK)
    if field.shape[0]:
        matrix = after @ first
        where = corners @ to_field[:3, :3].T + to_field[:3, 3]
        # between nodes a displacement is a mean of theirs
        ends = zip(np.floor(where.min(0) - SLACK), np.floor(where.max(0) + SLACK) + 1, field.shape[1:], strict=True)
        nodes = field[(slice(None), *(slice(int(np.clip(a, 0, n - 1)), int(np.clip(b, 0, n - 1)) + 1) for a, b, n in ends))]
        moves = after[:3, :3, None] * np.stack([nodes.min((1, 2, 3)), nodes.max((1, 2, 3))], axis=-1)
        low, high = low + moves.min(-1).sum(1), high + moves.max(-1).sum(1)
    places = corners @ matrix[:3, :3].T + matrix[:3, 3]
    return places.min(0) + low, places.max(0) + high


def field_looked(field: np.ndarray, to_field: np.ndarray, out: Any) -> Any:
    """Sample a field (3, X, Y, Z) linearly at the points of a grid into `out` (x, y, z, 3), block by block, and return that."""

    def one(box: Box) -> None:
        made = np.empty([*(b - a for a, b in box), 3], np.float32)
        kernels.field_at(field, to_field, made, tuple(a for a, _ in box))
        out[tuple(slice(a, b) for a, b in box)] = made

    run_all(one, list(boxes(out.shape[:3], block_for(out.shape[:3]), ALIGN)))
    return out


def plain(matrix: np.ndarray) -> Route:
    """Return the route of an affine: voxels of the grid to voxels of the source, nothing displaced."""
    return np.asarray(matrix, np.float64), np.eye(4), np.eye(4), np.empty((0, 1, 1, 1), np.float32)
