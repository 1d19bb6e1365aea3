"""Compiled loops that look an image or labels up at the points of a grid, displaced or not.

Every loop takes `route`, how a voxel (i, j, k) of the grid finds its place in the source: three 4 x 4 float64 matrices and a field.
Without a field (its first axis is empty) the place is `route[0] @ (i, j, k, 1)`. With a field (3, X, Y, Z) in mm it is
`route[2] @ (world + field at route[1] @ (i, j, k, 1))`, where world is `route[0] @ (i, j, k, 1)`.

A loop fills a part of the grid from a part of the source: `first` is where `out` begins in the grid, `corner` where `source` begins in
the whole source, `shape` the shape of that. A voxel's value does not depend on the parts. Compiled code is cached beside this
file or in the user's cache.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True, inline="always")
def around(position: float, size: int) -> tuple[int, int, float]:
    """Return the two voxels around a position, which is brought to the border, and the weight of the second."""
    position = min(max(position, 0.0), size - 1.0)
    low = int(position)
    return low, min(low + 1, size - 1), position - low


@njit(cache=True, nogil=True)
def _at(source, x, y, z, corner, shape):
    i0, i1, a = around(x, shape[0])
    j0, j1, b = around(y, shape[1])
    k0, k1, c = around(z, shape[2])
    i0, i1, j0, j1, k0, k1 = i0 - corner[0], i1 - corner[0], j0 - corner[1], j1 - corner[1], k0 - corner[2], k1 - corner[2]
    near = (1 - b) * ((1 - c) * source[i0, j0, k0] + c * source[i0, j0, k1])
    near += b * ((1 - c) * source[i0, j1, k0] + c * source[i0, j1, k1])
    far = (1 - b) * ((1 - c) * source[i1, j0, k0] + c * source[i1, j0, k1])
    far += b * ((1 - c) * source[i1, j1, k0] + c * source[i1, j1, k1])
    return (1 - a) * near + a * far


@njit(cache=True, nogil=True, inline="always")
def _through(m, i, j, k):
    x = m[0, 0] * i + m[0, 1] * j + m[0, 2] * k + m[0, 3]
    y = m[1, 0] * i + m[1, 1] * j + m[1, 2] * k + m[1, 3]
    z = m[2, 0] * i + m[2, 1] * j + m[2, 2] * k + m[2, 3]
    return x, y, z


@njit(cache=True, nogil=True, inline="always")
def _displacement(field, u, v, w):
    """Return the three components of a field (3, X, Y, Z) at a place."""
    i0, i1, a = around(u, field.shape[1])
    j0, j1, b = around(v, field.shape[2])
    k0, k1, c = around(w, field.shape[3])
    w000, w001, w010, w011 = (1 - a) * (1 - b) * (1 - c), (1 - a) * (1 - b) * c, (1 - a) * b * (1 - c), (1 - a) * b * c
    w100, w101, w110, w111 = a * (1 - b) * (1 - c), a * (1 - b) * c, a * b * (1 - c), a * b * c
    x, y, z = 0.0, 0.0, 0.0
    for n in range(3):
        value = w000 * field[n, i0, j0, k0] + w001 * field[n, i0, j0, k1] + w010 * field[n, i0, j1, k0] + w011 * field[n, i0, j1, k1]
        value += w100 * field[n, i1, j0, k0] + w101 * field[n, i1, j0, k1] + w110 * field[n, i1, j1, k0] + w111 * field[n, i1, j1, k1]
        if n == 0:
            x = value
        elif n == 1:
            y = value
        else:
            z = value
    return x, y, z


@njit(cache=True, nogil=True)
def place(route, i, j, k):
    """Return the place of a voxel in the source."""
    first, to_field, after, field = route
    x, y, z = _through(first, i, j, k)
    if field.shape[0] == 0:
        return x, y, z
    u, v, w = _through(to_field, i, j, k)
    dx, dy, dz = _displacement(field, u, v, w)
    return _through(after, x + dx, y + dy, z + dz)


@njit(cache=True, nogil=True, inline="always")
def inside(x, y, z, shape):
    """Return whether a place lies in a voxel of the source."""
    return -0.5 <= x <= shape[0] - 0.5 and -0.5 <= y <= shape[1] - 0.5 and -0.5 <= z <= shape[2] - 0.5


@njit(cache=True, nogil=True)
def linear(source, route, out, fill, filled, first, corner, shape):
    """Sample linearly; beyond the source `fill`, or the border's value where `filled` is false."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x, y, z = place(route, i + first[0], j + first[1], k + first[2])
                out[i, j, k] = fill if filled and not inside(x, y, z, shape) else _at(source, x, y, z, corner, shape)


@njit(cache=True, nogil=True)
def nearest(source, route, out, fill, filled, first, corner, shape):
    """Sample the nearest voxel, the lower one at equal distance; beyond the source `fill`, or the border's value."""
    nx, ny, nz = shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                x, y, z = place(route, i + first[0], j + first[1], k + first[2])
                if filled and not inside(x, y, z, shape):
                    out[i, j, k] = fill
                    continue
                # The last shift keeps what is a whole voxel up to rounding at that voxel, and halves at the lower one.
                a = min(max(int(x + 0.499999), 0), nx - 1)
                b = min(max(int(y + 0.499999), 0), ny - 1)
                c = min(max(int(z + 0.499999), 0), nz - 1)
                out[i, j, k] = source[a - corner[0], b - corner[1], c - corner[2]]


@njit(cache=True, nogil=True)
def field_at(field, to_field, out, first):
    """Sample a field (3, X, Y, Z) linearly into `out` (x, y, z, 3); beyond its grid it goes on as at the border."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                u, v, w = _through(to_field, i + first[0], j + first[1], k + first[2])
                out[i, j, k, 0], out[i, j, k, 1], out[i, j, k, 2] = _displacement(field, u, v, w)


@njit(cache=True, nogil=True)
def means(source, factors, out):
    """Write the means of blocks of `factors` voxels: rows along z first, then what they add up to."""
    a, b, c = factors
    count = out.dtype.type(a * b * c)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                total = out.dtype.type(0)
                for x in range(a):
                    for y in range(b):
                        row = out.dtype.type(0)
                        for z in range(c):
                            row += source[i * a + x, j * b + y, k * c + z]
                        total += row
                out[i, j, k] = total / count
