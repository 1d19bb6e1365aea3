"""Compiled loops of cubic B-splines, for `cohortex.filters.resample` and `bias_field`; compiled code is cached beside this file or in the
user's cache.

A spline is given by its coefficients along each axis; at a position between coefficients four of them count, those from `first` on. All
sums have one order wherever a block begins, so that a voxel's value does not depend on the blocks.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MARGIN = 2
"""Coefficients beyond either end of an axis that positions up to half a voxel outside ask for; an axis of one voxel has none."""

_POLE = np.float32(np.sqrt(3.0) - 2.0)
_SNAP = 1e-6


@njit(cache=True, nogil=True)
def prefilter(block, out):
    """Set `out` to the coefficients of the interpolating spline along the first axis, which is longer than that of `block` by the margins.

    Lines go on beyond their ends with the outermost value for ever. Both are (lines' axis, any, any) float32.
    """
    n, rows, lanes = block.shape
    length = n + 2 * MARGIN
    z = _POLE
    strip = np.empty((length, lanes), dtype=np.float32)
    for j in range(rows):
        for k in range(length):
            source, line = block[min(max(k - MARGIN, 0), n - 1), j], strip[k]
            for i in range(lanes):
                line[i] = np.float32(6) * source[i]
        first, last, end = strip[0], strip[length - 1], np.empty(lanes, dtype=np.float32)
        for i in range(lanes):
            first[i] = first[i] / (np.float32(1) - z)
            end[i] = last[i] / (np.float32(1) - z)
        for k in range(1, length):
            before, line = strip[k - 1], strip[k]
            for i in range(lanes):
                line[i] = line[i] + z * before[i]
        # Beyond the end the forward sums go to `end` as the powers of z do.
        for i in range(lanes):
            last[i] = -z * (end[i] / (np.float32(1) - z) + (last[i] - end[i]) / (np.float32(1) - z * z))
        for k in range(length - 2, -1, -1):
            after, line = strip[k + 1], strip[k]
            for i in range(lanes):
                line[i] = z * (after[i] - line[i])
        for k in range(length):
            line, target = strip[k], out[k, j]
            for i in range(lanes):
                target[i] = line[i]


@njit(cache=True, nogil=True, inline="always")
def _weights(t: float) -> tuple[float, float, float, float]:
    """Return the weights of the four coefficients around a position, `t` beyond the second of them."""
    u = 1.0 - t
    return u * u * u / 6.0, 2.0 / 3.0 - t * t * (2.0 - t) / 2.0, 2.0 / 3.0 - u * u * (2.0 - u) / 2.0, t * t * t / 6.0


@njit(cache=True, nogil=True)
def table(positions, spans):
    """Return for positions from 0 to `spans` the first coefficient and the weights (4, positions); coefficient 1 lies at position 0."""
    first = np.empty(positions.size, dtype=np.int64)
    weights = np.empty((4, positions.size), dtype=np.float64)
    for k in range(positions.size):
        first[k] = min(max(int(np.floor(positions[k])), 0), spans - 1)
        weights[0, k], weights[1, k], weights[2, k], weights[3, k] = _weights(positions[k] - first[k])
    return first, weights


@njit(cache=True, nogil=True)
def lattice(coefficients, first_x, weights_x, first_y, weights_y, first_z, weights_z, out):
    """Set `out` (x, y, z) float32 to a spline of few float64 coefficients, by the tables of its three axes."""
    _, rows, count = coefficients.shape
    plane = np.empty((rows, count), dtype=np.float64)
    line = np.empty(count, dtype=np.float32)
    share = weights_z.astype(np.float32)
    size = out.shape[2]
    for i in range(out.shape[0]):
        a = first_x[i]
        for b in range(rows):
            for c in range(count):
                low = weights_x[0, i] * coefficients[a, b, c] + weights_x[1, i] * coefficients[a + 1, b, c]
                plane[b, c] = low + (weights_x[2, i] * coefficients[a + 2, b, c] + weights_x[3, i] * coefficients[a + 3, b, c])
        for j in range(out.shape[1]):
            b = first_y[j]
            for c in range(count):
                low = weights_y[0, j] * plane[b, c] + weights_y[1, j] * plane[b + 1, c]
                line[c] = low + (weights_y[2, j] * plane[b + 2, c] + weights_y[3, j] * plane[b + 3, c])
            row = out[i, j]
            start = 0
            while start < size:
                # Between two coefficients the same four count.
                c = first_z[start]
                stop = start + 1
                while stop < size and first_z[stop] == c:
                    stop += 1
                c0, c1, c2, c3 = line[c], line[c + 1], line[c + 2], line[c + 3]
                w0, w1, w2, w3, here = share[0, start:], share[1, start:], share[2, start:], share[3, start:], row[start:stop]
                for k in range(here.size):
                    here[k] = (c0 * w0[k] + c1 * w1[k]) + (c2 * w2[k] + c3 * w3[k])
                start = stop


@njit(cache=True, nogil=True, inline="always")
def _four(position: float, size: int) -> tuple[int, float, float, float, float]:
    """Return the first of the four coefficients (with the margin) at a position in voxels, and their weights; -1 outside."""
    if position < -0.5 - _SNAP or position > size - 0.5 + _SNAP:
        return -1, 0.0, 0.0, 0.0, 0.0
    if size == 1:
        return 0, 1.0, 0.0, 0.0, 0.0
    low = int(np.floor(position))
    w0, w1, w2, w3 = _weights(position - low)
    return low - 1 + MARGIN, w0, w1, w2, w3


@njit(cache=True, nogil=True)
def _axis(step, offset, begin, count, size, corner):
    """Return firsts, less the corner, and weights (4, count) along an axis that runs parallel in both grids."""
    first = np.empty(count, dtype=np.int64)
    weights = np.empty((4, count), dtype=np.float32)
    for k in range(count):
        at, w0, w1, w2, w3 = _four(step * (k + begin) + offset, size)
        first[k] = at - corner if at >= 0 else -1
        weights[0, k], weights[1, k], weights[2, k], weights[3, k] = w0, w1, w2, w3
    return first, weights


@njit(cache=True, nogil=True)
def _mixed(out, a, b, c, d, w0, w1, w2, w3):
    for k in range(out.size):
        out[k] = (w0 * a[k] + w1 * b[k]) + (w2 * c[k] + w3 * d[k])


@njit(cache=True, nogil=True)
def _parallel(source, matrix, out, fill, first, corner, nx, ny, nz):
    """Sample where the axes of both grids are parallel: one axis after the other."""
    firsts_x, weights_x = _axis(matrix[0, 0], matrix[0, 3], first[0], out.shape[0], nx, corner[0])
    firsts_y, weights_y = _axis(matrix[1, 1], matrix[1, 3], first[1], out.shape[1], ny, corner[1])
    firsts_z, weights_z = _axis(matrix[2, 2], matrix[2, 3], first[2], out.shape[2], nz, corner[2])
    plane = np.empty((source.shape[1], source.shape[2]), dtype=np.float32)
    line = np.empty(source.shape[2], dtype=np.float32)
    w0, w1, w2, w3 = weights_z[0], weights_z[1], weights_z[2], weights_z[3]
    for i in range(out.shape[0]):
        a = firsts_x[i]
        if a < 0:
            out[i] = fill
            continue
        if nx > 1:
            u0, u1, u2, u3 = weights_x[0, i], weights_x[1, i], weights_x[2, i], weights_x[3, i]
            for b in range(source.shape[1]):
                _mixed(plane[b], source[a, b], source[a + 1, b], source[a + 2, b], source[a + 3, b], u0, u1, u2, u3)
        else:
            plane[:] = source[a]
        for j in range(out.shape[1]):
            b = firsts_y[j]
            row = out[i, j]
            if b < 0:
                row[:] = fill
                continue
            if ny > 1:
                u0, u1, u2, u3 = weights_y[0, j], weights_y[1, j], weights_y[2, j], weights_y[3, j]
                _mixed(line, plane[b], plane[b + 1], plane[b + 2], plane[b + 3], u0, u1, u2, u3)
            else:
                line[:] = plane[b]
            for k in range(row.size):
                c = firsts_z[k]
                if c < 0:
                    row[k] = fill
                elif nz > 1:
                    row[k] = (w0[k] * line[c] + w1[k] * line[c + 1]) + (w2[k] * line[c + 2] + w3[k] * line[c + 3])
                else:
                    row[k] = line[c]


@njit(cache=True, nogil=True)
def _oblique(source, matrix, out, fill, first, corner, nx, ny, nz):
    """Sample on any grid: 64 coefficients a voxel."""
    u0, v0, w0 = first
    a0, b0, c0 = corner
    along_x, along_y = np.empty(4, dtype=np.float32), np.empty(4, dtype=np.float32)
    taps_x, taps_y = 4 if nx > 1 else 1, 4 if ny > 1 else 1
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x0 = matrix[0, 0] * (i + u0) + matrix[0, 1] * (j + v0) + matrix[0, 3]
            y0 = matrix[1, 0] * (i + u0) + matrix[1, 1] * (j + v0) + matrix[1, 3]
            z0 = matrix[2, 0] * (i + u0) + matrix[2, 1] * (j + v0) + matrix[2, 3]
            for k in range(out.shape[2]):
                a, along_x[0], along_x[1], along_x[2], along_x[3] = _four(x0 + matrix[0, 2] * (k + w0), nx)
                b, along_y[0], along_y[1], along_y[2], along_y[3] = _four(y0 + matrix[1, 2] * (k + w0), ny)
                c, s0, s1, s2, s3 = _four(z0 + matrix[2, 2] * (k + w0), nz)
                if a < 0 or b < 0 or c < 0:
                    out[i, j, k] = fill
                    continue
                a, b, c = a - a0, b - b0, c - c0
                t0, t1, t2, t3 = np.float32(s0), np.float32(s1), np.float32(s2), np.float32(s3)
                total = np.float32(0)
                for p in range(taps_x):
                    part = np.float32(0)
                    for q in range(taps_y):
                        row = source[a + p, b + q]
                        if nz > 1:
                            part += along_y[q] * ((t0 * row[c] + t1 * row[c + 1]) + (t2 * row[c + 2] + t3 * row[c + 3]))
                        else:
                            part += along_y[q] * row[c]
                    total += along_x[p] * part
                out[i, j, k] = total


@njit(cache=True, nogil=True)
def cubic(source, matrix, out, fill, first, corner, shape):
    """Sample the spline of coefficients that `prefilter` made along every axis of more than one voxel.

    The arguments are those of the kernels in `cohortex.filters.resample_kernels`, the matrix goes to voxels of the image (not to its
    coefficients), `source` and `corner` are of the coefficients, `shape` is that of all coefficients. A point is inside when it lies in a
    voxel, up to half a voxel beyond the outermost centres.
    """
    nx = shape[0] - 2 * MARGIN if shape[0] > 1 else 1
    ny = shape[1] - 2 * MARGIN if shape[1] > 1 else 1
    nz = shape[2] - 2 * MARGIN if shape[2] > 1 else 1
    parallel = True
    for p in range(3):
        for q in range(3):
            if p != q and matrix[p, q] != 0.0:
                parallel = False
    if parallel:
        _parallel(source, matrix, out, fill, first, corner, nx, ny, nz)
    else:
        _oblique(source, matrix, out, fill, first, corner, nx, ny, nz)
