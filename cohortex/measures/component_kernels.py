"""Compiled loops of `cohortex.measures.components`."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def root_of(parent, item):
    """Return the representative of an item's set, halving the way to it."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@njit(cache=True, nogil=True)
def join_planes(parent, before, before_labels, plane, labels, u0, v0, reach):
    """Join what touches across a border between blocks.

    `before` and `plane` hold the numbers of the components on both sides, 0 for none; `plane` begins at (u0, v0) of `before`.
    `reach` is 0, 1 or 2: how many of the two other coordinates may differ by one.
    """
    for u in range(plane.shape[0]):
        for v in range(plane.shape[1]):
            own = plane[u, v]
            if own == 0:
                continue
            for du in range(-1, 2):
                for dv in range(-1, 2):
                    if abs(du) + abs(dv) > reach:
                        continue
                    i, j = u + u0 + du, v + v0 + dv
                    if i < 0 or j < 0 or i >= before.shape[0] or j >= before.shape[1]:
                        continue
                    other = before[i, j]
                    if other != 0 and before_labels[i, j] == labels[u, v]:
                        a, b = root_of(parent, own), root_of(parent, other)
                        if a < b:
                            parent[b] = a
                        elif b < a:
                            parent[a] = b


@njit(cache=True, nogil=True)
def gather(labels, local, start, voxels, sums, low, high, found):
    """Add up, for each number in `local` (0 is left out), voxels, coordinates, bounding box and the first voxel with its label.

    All rows belong to number - 1; coordinates are those of the whole volume, in which the block begins at `start`.
    """
    for i in range(local.shape[0]):
        for j in range(local.shape[1]):
            for k in range(local.shape[2]):
                n = local[i, j, k]
                if n == 0:
                    continue
                n -= 1
                x, y, z = i + start[0], j + start[1], k + start[2]
                if voxels[n] == 0:
                    found[n, 0], found[n, 1], found[n, 2], found[n, 3] = x, y, z, labels[i, j, k]
                    low[n, 0], low[n, 1], low[n, 2] = x, y, z
                    high[n, 0], high[n, 1], high[n, 2] = x, y, z
                voxels[n] += 1
                sums[n, 0] += x
                sums[n, 1] += y
                sums[n, 2] += z
                low[n, 0], high[n, 0] = min(low[n, 0], x), max(high[n, 0], x)
                low[n, 1], high[n, 1] = min(low[n, 1], y), max(high[n, 1], y)
                low[n, 2], high[n, 2] = min(low[n, 2], z), max(high[n, 2], z)
