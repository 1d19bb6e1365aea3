"""The median of 3 x 3 x 3 voxels, the default of `cohortex.filters.median`, without plans: its exchanges stay in registers.

The networks are those that `cohortex.filters.median_network` plans: 42 exchanges a voxel. Rows of scratch lie `STRIDE` apart in one
buffer each, a constant, so that the compiler sees that they do not overlap and takes many voxels at once.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LENGTH = 256
"""Voxels along z that are worked on at once."""

STRIDE = LENGTH + 32
_ROWS = 8
"""Rows along y that are worked on at once, even."""


@njit(cache=True, nogil=True, inline="always")
def _lesser(a, b):
    return a if a < b else b


@njit(cache=True, nogil=True, inline="always")
def _greater(a, b):
    return b if a < b else a


@njit(cache=True, nogil=True)
def _ordered(a, b):
    """Exchange: the lesser one first."""
    return (a if a < b else b), (b if a < b else a)


@njit(cache=True, nogil=True)
def _sorted_3(a, b, c):
    """Sort three values."""
    a, b = _ordered(a, b)
    b, c = _ordered(b, c)
    a, b = _ordered(a, b)
    return a, b, c


@njit(cache=True, nogil=True)
def _merged_6(a0, a1, a2, b0, b1, b2):
    """Merge two sorted lists of 3."""
    a0, b0 = _ordered(a0, b0)
    a2, b2 = _ordered(a2, b2)
    a2, b0 = _ordered(a2, b0)
    a1, b1 = _ordered(a1, b1)
    a1, a2 = _ordered(a1, a2)
    b1, b0 = _ordered(b1, b0)
    return a0, a1, a2, b1, b0, b2


@njit(cache=True, nogil=True)
def _merged_9(a0, a1, a2, a3, a4, a5, b0, b1, b2):
    """Merge sorted lists of 6 and 3."""
    a0, b0 = _ordered(a0, b0)
    a4, b0 = _ordered(a4, b0)
    a2, b2 = _ordered(a2, b2)
    a2, a4 = _ordered(a2, a4)
    b2, b0 = _ordered(b2, b0)
    a1, b1 = _ordered(a1, b1)
    a5, b1 = _ordered(a5, b1)
    a3, a5 = _ordered(a3, a5)
    a1, a2 = _ordered(a1, a2)
    a3, a4 = _ordered(a3, a4)
    a5, b2 = _ordered(a5, b2)
    b1, b0 = _ordered(b1, b0)
    return a0, a1, a2, a3, a4, a5, b2, b1, b0


@njit(cache=True, nogil=True)
def _middle_of_18(a0, a1, a2, a3, a4, a5, a6, a7, a8, b0, b1, b2, b3, b4, b5, b6, b7, b8):
    """Return the elements 4 to 13 of two sorted lists of 9."""
    b0 = _greater(a0, b0)
    a8 = _lesser(a8, b8)
    a8, b0 = _ordered(a8, b0)
    a4, b4 = _ordered(a4, b4)
    a4, a8 = _ordered(a4, a8)
    b4, b0 = _ordered(b4, b0)
    a2, b2 = _ordered(a2, b2)
    a6, b6 = _ordered(a6, b6)
    a6, b2 = _ordered(a6, b2)
    a4 = _greater(a2, a4)
    a6, a8 = _ordered(a6, a8)
    b2, b4 = _ordered(b2, b4)
    b6 = _lesser(b6, b0)
    b1 = _greater(a1, b1)
    a5, b5 = _ordered(a5, b5)
    a5, b1 = _ordered(a5, b1)
    a3, b3 = _ordered(a3, b3)
    a7 = _lesser(a7, b7)
    a7, b3 = _ordered(a7, b3)
    a3, a5 = _ordered(a3, a5)
    a7, b1 = _ordered(a7, b1)
    b3, b5 = _ordered(b3, b5)
    a4 = _greater(a3, a4)
    a5, a6 = _ordered(a5, a6)
    a7, a8 = _ordered(a7, a8)
    b1, b2 = _ordered(b1, b2)
    b3, b4 = _ordered(b3, b4)
    b5 = _lesser(b5, b6)
    return a4, a5, a6, a7, a8, b1, b2, b3, b4, b5


@njit(cache=True, nogil=True)
def _fourteenth(m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, e0, e1, e2, e3, e4, e5, e6, e7, e8):
    """Return element 13 of 27 from the elements 4 to 13 of sorted 18 and all of sorted 9: least of the greater ones of all splits."""
    a = _lesser(_greater(m4, e8), _greater(m5, e7))
    b = _lesser(_greater(m6, e6), _greater(m7, e5))
    c = _lesser(_greater(m8, e4), _greater(m9, e3))
    d = _lesser(_greater(m10, e2), _greater(m11, e1))
    return _lesser(_lesser(_lesser(a, b), _lesser(c, d)), _lesser(_greater(m12, e0), m13))


@njit(cache=True, nogil=True)
def _sorted_nines(rows, count, first, second):
    """From four rows, padded by one voxel on both sides, make two lists of 9 sorted values for every voxel: of rows 0 to 2 and 1 to 3."""
    for k in range(count):
        a0, a1, a2 = _sorted_3(rows[k], rows[k + 1], rows[k + 2])
        b0, b1, b2 = _sorted_3(rows[k + STRIDE], rows[k + STRIDE + 1], rows[k + STRIDE + 2])
        c0, c1, c2 = _sorted_3(rows[k + 2 * STRIDE], rows[k + 2 * STRIDE + 1], rows[k + 2 * STRIDE + 2])
        d0, d1, d2 = _sorted_3(rows[k + 3 * STRIDE], rows[k + 3 * STRIDE + 1], rows[k + 3 * STRIDE + 2])
        m0, m1, m2, m3, m4, m5 = _merged_6(b0, b1, b2, c0, c1, c2)
        s0, s1, s2, s3, s4, s5, s6, s7, s8 = _merged_9(m0, m1, m2, m3, m4, m5, a0, a1, a2)
        first[k], first[k + STRIDE], first[k + 2 * STRIDE] = s0, s1, s2
        first[k + 3 * STRIDE], first[k + 4 * STRIDE], first[k + 5 * STRIDE] = s3, s4, s5
        first[k + 6 * STRIDE], first[k + 7 * STRIDE], first[k + 8 * STRIDE] = s6, s7, s8
        s0, s1, s2, s3, s4, s5, s6, s7, s8 = _merged_9(m0, m1, m2, m3, m4, m5, d0, d1, d2)
        second[k], second[k + STRIDE], second[k + 2 * STRIDE] = s0, s1, s2
        second[k + 3 * STRIDE], second[k + 4 * STRIDE], second[k + 5 * STRIDE] = s3, s4, s5
        second[k + 6 * STRIDE], second[k + 7 * STRIDE], second[k + 8 * STRIDE] = s6, s7, s8


@njit(cache=True, nogil=True, inline="always")
def _nine(rows, k):
    return (
        rows[k],
        rows[k + STRIDE],
        rows[k + 2 * STRIDE],
        rows[k + 3 * STRIDE],
        rows[k + 4 * STRIDE],
        rows[k + 5 * STRIDE],
        rows[k + 6 * STRIDE],
        rows[k + 7 * STRIDE],
        rows[k + 8 * STRIDE],
    )


@njit(cache=True, nogil=True)
def _medians(a, b, c, d, count, found):
    """From four lists of 9 sorted values for every voxel make two medians: of the lists a, b, c and of b, c, d."""
    for k in range(count):
        b0, b1, b2, b3, b4, b5, b6, b7, b8 = _nine(b, k)
        c0, c1, c2, c3, c4, c5, c6, c7, c8 = _nine(c, k)
        m4, m5, m6, m7, m8, m9, m10, m11, m12, m13 = _middle_of_18(b0, b1, b2, b3, b4, b5, b6, b7, b8, c0, c1, c2, c3, c4, c5, c6, c7, c8)
        e0, e1, e2, e3, e4, e5, e6, e7, e8 = _nine(a, k)
        found[k] = _fourteenth(m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, e0, e1, e2, e3, e4, e5, e6, e7, e8)
        e0, e1, e2, e3, e4, e5, e6, e7, e8 = _nine(d, k)
        found[k + STRIDE] = _fourteenth(m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, e0, e1, e2, e3, e4, e5, e6, e7, e8)


@njit(cache=True, nogil=True)
def cube_median(image, out):
    """Set `out` to the median of 3 x 3 x 3 voxels of `image`, (x, y, z) float32, the outermost voxel twice."""
    nx, ny, nz = image.shape
    list_of_9 = 9 * STRIDE
    rows = np.empty(4 * STRIDE, dtype=np.float32)
    found = np.empty(2 * STRIDE, dtype=np.float32)
    ring = np.empty(4 * _ROWS * list_of_9, dtype=np.float32)
    for y in range(0, ny, _ROWS):
        deep = min(_ROWS, ny - y)
        for z in range(0, nz, LENGTH):
            count = min(LENGTH, nz - z)
            ready = -1  # the first plane that is not in the ring
            for x in range(0, nx, 2):
                while ready < x + 3:
                    source = min(max(ready, 0), nx - 1)
                    slot = (ready + 1) % 4 * _ROWS * list_of_9
                    for j in range(0, deep, 2):
                        for i in range(4):
                            line = image[source, min(max(y + j + i - 1, 0), ny - 1), z : z + count]
                            copy = rows[i * STRIDE : (i + 1) * STRIDE]
                            for k in range(count):
                                copy[k + 1] = line[k]
                            copy[0] = image[source, min(max(y + j + i - 1, 0), ny - 1), max(z - 1, 0)]
                            copy[count + 1] = image[source, min(max(y + j + i - 1, 0), ny - 1), min(z + count, nz - 1)]
                        here = slot + j * list_of_9
                        _sorted_nines(rows, count, ring[here : here + list_of_9], ring[here + list_of_9 : here + 2 * list_of_9])
                    ready += 1
                for j in range(deep):
                    a = (x % 4 * _ROWS + j) * list_of_9
                    b = ((x + 1) % 4 * _ROWS + j) * list_of_9
                    c = ((x + 2) % 4 * _ROWS + j) * list_of_9
                    d = ((x + 3) % 4 * _ROWS + j) * list_of_9
                    _medians(
                        ring[a : a + list_of_9],
                        ring[b : b + list_of_9],
                        ring[c : c + list_of_9],
                        ring[d : d + list_of_9],
                        count,
                        found,
                    )
                    for i in range(min(2, nx - x)):
                        target = out[x + i, y + j, z : z + count]
                        median = found[i * STRIDE : (i + 1) * STRIDE]
                        for k in range(count):
                            target[k] = median[k]
