"""Compiled loop of `cohortex.filters.wiener`; compiled code is cached beside this file or in the user's cache.

Sums over boxes are added up anew for every voxel, in float64, and not carried along: so they have one order wherever a voxel lies, and the
difference of squares keeps its digits for any offset of the image.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.filters.median_kernels import mirrored


@njit(cache=True, nogil=True)
def _begin_one(line, total, squares):
    for k in range(total.size):
        value = np.float64(line[k])
        total[k] = value
        squares[k] = value * value


@njit(cache=True, nogil=True)
def _begin_three(first, second, third, total, squares):
    for k in range(total.size):
        a, b, c = np.float64(first[k]), np.float64(second[k]), np.float64(third[k])
        total[k] = a + b + c
        squares[k] = a * a + b * b + c * c


@njit(cache=True, nogil=True)
def _add_two(first, second, total, squares):
    for k in range(total.size):
        a, b = np.float64(first[k]), np.float64(second[k])
        total[k] = total[k] + a + b
        squares[k] = squares[k] + a * a + b * b


@njit(cache=True, nogil=True)
def _sum_rows(out, rows, first, count):
    """Set `out` to the sum of an odd number of rows of a ring."""
    size = rows.shape[0]
    line = rows[first % size]
    if count == 1:
        for k in range(out.size):
            out[k] = line[k]
    else:
        a, b = rows[(first + 1) % size], rows[(first + 2) % size]
        for k in range(out.size):
            out[k] = line[k] + a[k] + b[k]
    for i in range(3, count, 2):
        a, b = rows[(first + i) % size], rows[(first + i + 1) % size]
        for k in range(out.size):
            out[k] = out[k] + a[k] + b[k]


@njit(cache=True, nogil=True)
def _sum_along(out, padded, count):
    """Set `out` to the sums of an odd number of neighbours along a row."""
    if count == 1:
        for k in range(out.size):
            out[k] = padded[k]
    else:
        a, b = padded[1:], padded[2:]
        for k in range(out.size):
            out[k] = padded[k] + a[k] + b[k]
    for i in range(3, count, 2):
        a, b = padded[i:], padded[i + 1 :]
        for k in range(out.size):
            out[k] = out[k] + a[k] + b[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _pull(line, total, squares, share, noise, out):
    """Set `out` to the image pulled towards the mean of its box."""
    for k in range(out.size):
        mean = total[k] * share
        variance = squares[k] * share - mean * mean
        gain = (variance - noise) / (variance if variance > noise else 1.0)
        gain = gain if variance > noise else 0.0
        out[k] = np.float32(mean + gain * (np.float64(line[k]) - mean))


@njit(cache=True, nogil=True)
def _line(image, i, j, zero, nothing):
    """Return a row along z; outside the image that of its reflection or zeros."""
    if zero and (i < 0 or i >= image.shape[0]):
        return nothing
    return image[mirrored(i, image.shape[0]), j]


@njit(cache=True, nogil=True)
def local_wiener(image, out, half, noise, zero):
    """Set `out` to the filtered image; beyond its border lie zeros, or its reflection (the outermost voxel twice)."""
    nx, ny, nz = image.shape
    hx, hy, hz = half
    wy = 2 * hy + 1
    share = 1.0 / ((2 * hx + 1) * wy * (2 * hz + 1))
    nothing = np.zeros(nz, dtype=np.float32)
    totals, squares = np.empty((wy, nz)), np.empty((wy, nz))
    padded, padded_squares = np.zeros(nz + 2 * hz), np.zeros(nz + 2 * hz)
    row, row_squares = padded[hz : hz + nz], padded_squares[hz : hz + nz]
    total, square = np.empty(nz), np.empty(nz)
    for x in range(nx):
        for y in range(-hy, ny + hy):
            slot = (y + hy) % wy
            if zero and (y < 0 or y >= ny):
                totals[slot] = 0.0
                squares[slot] = 0.0
            else:
                j = mirrored(y, ny)
                first = _line(image, x - hx, j, zero, nothing)
                if hx == 0:
                    _begin_one(first, totals[slot], squares[slot])
                else:
                    second, third = _line(image, x - hx + 1, j, zero, nothing), _line(image, x - hx + 2, j, zero, nothing)
                    _begin_three(first, second, third, totals[slot], squares[slot])
                for i in range(x - hx + 3, x + hx + 1, 2):
                    _add_two(_line(image, i, j, zero, nothing), _line(image, i + 1, j, zero, nothing), totals[slot], squares[slot])
            if y < hy:
                continue
            _sum_rows(row, totals, y - hy, wy)
            _sum_rows(row_squares, squares, y - hy, wy)
            if not zero:
                for k in range(hz):
                    padded[hz - 1 - k], padded_squares[hz - 1 - k] = row[mirrored(-1 - k, nz)], row_squares[mirrored(-1 - k, nz)]
                    padded[hz + nz + k], padded_squares[hz + nz + k] = row[mirrored(nz + k, nz)], row_squares[mirrored(nz + k, nz)]
            _sum_along(total, padded, 2 * hz + 1)
            _sum_along(square, padded_squares, 2 * hz + 1)
            _pull(image[x, y - hy], total, square, share, noise, out[x, y - hy])
