"""Compiled loops of `cohortex.filters.median`; compiled code is cached beside this file or in the user's cache.

All rows of a tile lie in one flat buffer and are named by where they begin. An exchange takes as many elements of two rows as
the processor has lanes, so the networks run at the speed of min and max.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LENGTH = 256
_ROWS = 8
"""Voxels along z and rows along y (an even number) that are worked on at once."""


@njit(cache=True, nogil=True)
def _carry_out(operations, place, buffer, count):
    """Run a plan on `count` elements of every row; `place` says where in `buffer` a row begins."""
    for step in range(operations.shape[0]):
        kind = operations[step, 0]
        a, low = place[operations[step, 1]], place[operations[step, 3]]
        first, least = buffer[a : a + count], buffer[low : low + count]
        if kind == 3:
            for k in range(count):
                least[k] = first[k]
            continue
        b = place[operations[step, 2]]
        second = buffer[b : b + count]
        if kind == 0:
            high = place[operations[step, 4]]
            most = buffer[high : high + count]
            for k in range(count):
                x, y = first[k], second[k]
                least[k] = x if x < y else y
                most[k] = y if x < y else x
        elif kind == 1:
            for k in range(count):
                x, y = first[k], second[k]
                least[k] = x if x < y else y
        else:
            for k in range(count):
                x, y = first[k], second[k]
                least[k] = y if x < y else x


@njit(cache=True, nogil=True)
def mirrored(index, size):
    """Return the index inside an axis that stands for one outside it: the outermost voxel twice (1 0 | 0 1 2)."""
    while index < 0 or index >= size:
        index = -1 - index if index < 0 else 2 * size - 1 - index
    return index


@njit(cache=True, nogil=True)
def box_median(image, out, half, sort_z, merge_y, median_x, scratch):
    """Set `out` to the medians over boxes.

    Parameters
    ----------
    image, out : (x, y, z) float32 arrays
    half : three half widths
    sort_z, merge_y, median_x : (operations, 5) int64 arrays
        Of `cohortex.filters.median_network`.
    scratch : int
        Most rows of scratch of the three.
    """
    nx, ny, nz = image.shape
    hx, hy, hz = half
    rows, length = _ROWS, min(LENGTH, nz)
    wx, wy, wz = 2 * hx + 1, 2 * hy + 1, 2 * hz + 1
    stride = (length + 15) // 16 * 16 + 16  # not a multiple of a page, or loads would wait for stores a page away
    plane = wy * wz * stride  # a sorted list
    # the row of the image, the rows sorted along z, the ring of planes sorted along y and z, the medians, scratch
    ragged = 0
    lines = stride + 2 * hz + 16
    ring = lines + (rows + 2 * hy) * wz * stride
    found = ring + (wx + 1) * rows * plane
    spare = found + 2 * stride
    buffer = np.empty(spare + scratch * stride, dtype=np.float32)
    place_z = np.empty(2 * wz + scratch, dtype=np.int64)
    place_y = np.empty((wy + 1) * wz + 2 * wy * wz + scratch, dtype=np.int64)
    place_x = np.empty((wx + 1) * wy * wz + 2 + scratch, dtype=np.int64)
    for k in range(wz):
        place_z[k] = ragged + k
    for i in range(scratch):
        place_z[2 * wz + i] = spare + i * stride
        place_y[(wy + 1) * wz + 2 * wy * wz + i] = spare + i * stride
        place_x[(wx + 1) * wy * wz + 2 + i] = spare + i * stride
    place_x[(wx + 1) * wy * wz] = found
    place_x[(wx + 1) * wy * wz + 1] = found + stride
    for y in range(0, ny, rows):
        deep = min(rows, ny - y)
        deep += deep % 2
        for z in range(0, nz, length):
            count = min(length, nz - z)
            ready = -hx  # the first plane that is not in the ring
            for x in range(0, nx, 2):
                while ready < x + hx + 2:
                    source = mirrored(ready, nx)
                    slot = ring + (ready + hx) % (wx + 1) * rows * plane
                    for j in range(deep + 2 * hy):
                        line = image[source, mirrored(y + j - hy, ny)]
                        if z >= hz and z + count + hz <= nz:
                            for k in range(count + 2 * hz):
                                buffer[ragged + k] = line[z - hz + k]
                        else:
                            for k in range(count + 2 * hz):
                                buffer[ragged + k] = line[mirrored(z - hz + k, nz)]
                        for k in range(wz):
                            place_z[wz + k] = lines + (j * wz + k) * stride
                        _carry_out(sort_z, place_z, buffer, count)
                    for j in range(0, deep, 2):
                        for k in range((wy + 1) * wz):
                            place_y[k] = lines + (j * wz + k) * stride
                        for k in range(2 * wy * wz):
                            place_y[(wy + 1) * wz + k] = slot + j * plane + k * stride
                        _carry_out(merge_y, place_y, buffer, count)
                    ready += 1
                for j in range(deep):
                    if y + j >= ny:
                        break
                    for i in range(wx + 1):
                        base = ring + ((x + i) % (wx + 1) * rows + j) * plane
                        for k in range(wy * wz):
                            place_x[i * wy * wz + k] = base + k * stride
                    _carry_out(median_x, place_x, buffer, count)
                    for i in range(min(2, nx - x)):
                        target = out[x + i, y + j]
                        for k in range(count):
                            target[z + k] = buffer[found + i * stride + k]
