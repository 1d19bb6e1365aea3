"""Connected components and simple measures of label volumes that may be larger than memory, a block at a time.

Components of a block come from cc3d; across the borders of blocks they are joined by union-find. Of the volume only a block and the planes
behind it are held, and of each component one row, so memory follows the number of components and the area of a slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from cohortex.measures.component_kernels import gather, join_planes, root_of
from cohortex.volume import ArrayLike

BLOCK = (256, 256, 256)
REACH = {6: 0, 18: 1, 26: 2}
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Pieces:
    """Pieces of a label volume, one row a piece: its components (number = row + 1), or its labels.

    Attributes
    ----------
    labels : (N,) int64 array
        Value of the volume there.
    voxels : (N,) int64 array
    centroid : (N, 3) float64 array
        Mean voxel index along x, y, z.
    low, high : (N, 3) int64 arrays
        Bounding box: first voxel, and the one after the last.
    """

    labels: np.ndarray
    voxels: np.ndarray
    centroid: np.ndarray
    low: np.ndarray
    high: np.ndarray
    _numbers: np.ndarray = field(repr=False)
    """Final number of what the blocks called their components, which are counted on from block to block."""
    _cut: tuple[tuple[int, int, int], int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def volume_mm3(self, affine: np.ndarray) -> np.ndarray:
        """Return the volume of every piece."""
        return self.voxels * abs(float(np.linalg.det(np.asarray(affine, np.float64)[:3, :3])))

    def centroid_mm(self, affine: np.ndarray) -> np.ndarray:
        """Return the centroid of every piece in the world, (N, 3) mm RAS."""
        matrix = np.asarray(affine, np.float64)
        return self.centroid @ matrix[:3, :3].T + matrix[:3, 3]


def find_components(labels: ArrayLike, connectivity: int = 26, block: Sequence[int] = BLOCK) -> Pieces:
    """Find the connected components of equal labels other than 0.

    Parameters
    ----------
    labels : (x, y, z) array-like
        Integers; may be lazy, every block is read once.
    connectivity : {6, 18, 26}
        Whether voxels that share a face, an edge or a corner are connected.
    block : three ints
        Voxels of a block; the result does not depend on it.

    Returns
    -------
    Pieces
        In the order of their first voxels (x slowest, z fastest), so the numbering is always the same.

    References
    ----------
    Rosenfeld and Pfaltz, Sequential operations in digital picture processing, Journal of the ACM 13(4), 1966. Silversmith, cc3d, 2021.
    """
    if connectivity not in REACH or len(labels.shape) != 3:
        raise ValueError(f"components need three axes and connectivity 6, 18 or 26, not {len(labels.shape)} axes and {connectivity}")
    _, y, z = labels.shape
    reach = REACH[connectivity]
    parent = np.zeros(1024, np.int64)
    rows: list[tuple[np.ndarray, ...]] = []
    count = 0
    behind_x = ahead_x = behind_y = ahead_y = behind_z = _plane((0, 0), labels.dtype)
    for box, data, local, found in _blocks(labels, connectivity, block):
        start = np.array([s.start for s in box])
        while len(parent) <= count + found:
            parent = np.concatenate([parent, np.zeros(len(parent), np.int64)])
        parent[count + 1 : count + found + 1] = np.arange(count + 1, count + found + 1)
        rows.append(_measured(data, local, start, found))
        ids = np.where(local == 0, 0, local + np.int64(count))
        count += found
        a, b, c = start
        if b == 0 and c == 0:
            behind_x, ahead_x = ahead_x, _plane((y, z), labels.dtype)
        if c == 0:
            behind_y, ahead_y = ahead_y, _plane((ids.shape[0], z), labels.dtype)
        if a:
            join_planes(parent, *behind_x, ids[0], data[0], b, c, reach)
        if b:
            join_planes(parent, *behind_y, ids[:, 0], data[:, 0], 0, c, reach)
        if c:
            join_planes(parent, *behind_z, ids[:, :, 0], data[:, :, 0], 0, 0, reach)
        ahead_x[0][box[1], box[2]], ahead_x[1][box[1], box[2]] = ids[-1], data[-1]
        ahead_y[0][:, box[2]], ahead_y[1][:, box[2]] = ids[:, -1], data[:, -1]
        behind_z = ids[:, :, -1].copy(), data[:, :, -1].copy()
    return _joined(parent, rows, count, (tuple(int(n) for n in block), connectivity))  # type: ignore[arg-type]


def draw_components(labels: ArrayLike, pieces: Pieces, out: Any = None, keep: Sequence[int] | None = None) -> Any:
    """Return the volume of the components' numbers, block by block.

    Parameters
    ----------
    labels : (x, y, z) array-like
        What `pieces` was found in.
    pieces : Pieces
        Of `find_components`.
    out : array-like, optional
        Where the numbers go, every block written once (a memory map, a zarr array); made when not given.
    keep : sequence of int, optional
        The numbers of the components that are kept, the others become 0; all by default.

    Returns
    -------
    (x, y, z) array
        `out`, uint32 when not given.
    """
    result = np.empty(labels.shape, np.uint32) if out is None else out
    numbers = pieces._numbers
    if keep is not None:
        numbers = np.where(np.isin(numbers, np.asarray(keep, np.int64)), numbers, 0)
    block, connectivity = pieces._cut
    before = 0
    for box, _, local, found in _blocks(labels, connectivity, block):
        table = np.concatenate([[0], numbers[before + 1 : before + found + 1]])
        result[box] = table[local].astype(result.dtype)
        before += found
    return result


def largest_component(labels: ArrayLike, connectivity: int = 26, block: Sequence[int] = BLOCK, out: Any = None) -> Any:
    """Return the mask (uint8) of the component with most voxels, of equals the first; all 0 where there is none."""
    found = find_components(labels, connectivity, block)
    result = np.empty(labels.shape, np.uint8) if out is None else out
    number = 1 + int(found.voxels.argmax()) if len(found) else 0
    marks = (found._numbers == number).astype(np.int64) if number else np.zeros_like(found._numbers)
    return draw_components(labels, Pieces(found.labels, found.voxels, found.centroid, found.low, found.high, marks, found._cut), result)


def measure_labels(labels: ArrayLike, block: Sequence[int] = BLOCK) -> Pieces:
    """Return voxels, centroid and bounding box of every label other than 0, in the order of the labels; each block is read once."""
    rows: dict[int, list[np.ndarray]] = {}
    for box in _boxes(labels.shape, block):
        data = np.ascontiguousarray(labels[box])
        values, places = _distinct(data)
        here = values != 0
        numbers = np.where(here, np.cumsum(here), 0)[places]
        parts = _measured(data, numbers, np.array([s.start for s in box]), int(here.sum()))
        for n, value in enumerate(values[here].tolist()):
            voxels, sums, low, high = (part[n] for part in parts[:4])
            if value in rows:
                old = rows[value]
                rows[value] = [old[0] + voxels, old[1] + sums, np.minimum(old[2], low), np.maximum(old[3], high)]
            else:
                rows[value] = [voxels, sums, low, high]
    kinds = np.array(sorted(rows), np.int64)
    voxels = np.array([rows[int(kind)][0] for kind in kinds], np.int64)
    sums, low, high = (np.array([rows[int(kind)][i] for kind in kinds], np.int64).reshape(-1, 3) for i in (1, 2, 3))
    return Pieces(kinds, voxels, sums / np.maximum(voxels, 1)[:, None], low, high + 1, np.zeros(1, np.int64), (BLOCK, 26))


def _distinct(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that occur, ascending, and for every voxel which of them it has."""
    if data.dtype.kind not in "ub" or data.dtype.itemsize > 2:
        values, places = np.unique(data, return_inverse=True)
        return values, places.reshape(data.shape)
    # without sorting all voxels
    values = np.flatnonzero(np.bincount(data.reshape(-1)))
    table = np.zeros(int(values[-1]) + 1, np.int64)
    table[values] = np.arange(len(values))
    return values, table[data.view(np.uint8) if data.dtype.kind == "b" else data]


def _boxes(shape: Sequence[int], block: Sequence[int]) -> Iterator[Box]:
    ranges = [[slice(a, min(a + b, n)) for a in range(0, n, b)] for n, b in zip(shape, block, strict=True)]
    yield from product(*ranges)  # type: ignore[misc]


def _blocks(labels: ArrayLike, connectivity: int, block: Sequence[int]) -> Iterator[tuple[Box, np.ndarray, np.ndarray, int]]:
    """Yield every block, its labels, the numbers of its own components from 1, and how many there are."""
    import cc3d

    way: Any = connectivity
    for box in _boxes(labels.shape, block):
        data = np.ascontiguousarray(labels[box])
        data = data.view(np.uint8) if data.dtype.kind == "b" else data
        local, found = cc3d.connected_components(data, connectivity=way, return_N=True)
        yield box, data, np.ascontiguousarray(local), int(found)


def _plane(shape: tuple[int, int], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(shape, np.int64), np.zeros(shape, np.uint8 if np.dtype(dtype).kind == "b" else dtype)


def _measured(data: np.ndarray, local: np.ndarray, start: np.ndarray, found: int) -> tuple[np.ndarray, ...]:
    voxels, low, high = np.zeros(found, np.int64), np.zeros((found, 3), np.int64), np.zeros((found, 3), np.int64)
    sums, first = np.zeros((found, 3), np.int64), np.zeros((found, 4), np.int64)
    gather(data, local, start, voxels, sums, low, high, first)
    return voxels, sums, low, high, first


def _joined(parent: np.ndarray, rows: Sequence[tuple[np.ndarray, ...]], count: int, cut: tuple[tuple[int, int, int], int]) -> Pieces:
    """Add up the rows of components that are one, and number them by their first voxels."""
    empty = (np.zeros(0, np.int64), *[np.zeros((0, n), np.int64) for n in (3, 3, 3, 4)])
    voxels, sums, low, high, first = (np.concatenate(parts) for parts in zip(*(rows or [empty]), strict=True))
    roots = np.array([root_of(parent, n) for n in range(1, count + 1)], np.int64) - 1
    order = np.lexsort((first[:, 2], first[:, 1], first[:, 0]))
    # in the order of first voxels, the first row of a set is that of its first voxel
    heads, at = np.unique(roots[order], return_index=True)
    sequence = np.argsort(at)
    rank = np.empty(len(heads), np.int64)
    rank[sequence] = np.arange(len(heads))
    number = rank[np.searchsorted(heads, roots)]
    total = len(heads)
    together = [np.zeros(total, np.int64), np.zeros((total, 3), np.int64)]
    np.add.at(together[0], number, voxels)
    np.add.at(together[1], number, sums)
    lowest, highest = np.full((total, 3), np.iinfo(np.int64).max), np.full((total, 3), -1)
    np.minimum.at(lowest, number, low)
    np.maximum.at(highest, number, high)
    kinds = first[order[at[sequence]], 3] if total else np.zeros(0, np.int64)
    centroid = together[1] / np.maximum(together[0], 1)[:, None]
    return Pieces(kinds, together[0], centroid, lowest, highest + 1, np.concatenate([[0], number + 1]), cut)
