"""Compiled loops of `cohortex.filters.gaussian`; compiled code is cached beside this file or in the user's cache.

Sums have one order wherever a voxel lies. No more than seven rows enter one loop: beyond that the compiler gives up on proving that
the result overlaps none of them, and takes single voxels.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.filters.median_kernels import mirrored


@njit(cache=True, nogil=True)
def _begin(out, centre, weights, below1, above1, below2, above2, below3, above3):
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for k in range(out.size):
        out[k] = w0 * centre[k] + w1 * (below1[k] + above1[k]) + w2 * (below2[k] + above2[k]) + w3 * (below3[k] + above3[k])


@njit(cache=True, nogil=True)
def _add_three(out, w1, below1, above1, w2, below2, above2, w3, below3, above3):
    for k in range(out.size):
        out[k] = out[k] + w1 * (below1[k] + above1[k]) + w2 * (below2[k] + above2[k]) + w3 * (below3[k] + above3[k])


@njit(cache=True, nogil=True)
def _weighted(out, rows, source, centre, weights):
    """Set `out` to the weighted sum of rows of a matrix; `source` says which row stands for each position around `centre`."""
    r = weights.size - 1
    n = out.size
    c = centre
    if r < 3:
        line, w = rows[source[c]], weights[0]
        for k in range(n):
            out[k] = w * line[k]
        done = 0
    else:
        _begin(
            out,
            rows[source[c]],
            weights,
            rows[source[c - 1]],
            rows[source[c + 1]],
            rows[source[c - 2]],
            rows[source[c + 2]],
            rows[source[c - 3]],
            rows[source[c + 3]],
        )
        done = 3
    while done + 3 <= r:
        i, j, k = done + 1, done + 2, done + 3
        _add_three(
            out,
            weights[i],
            rows[source[c - i]],
            rows[source[c + i]],
            weights[j],
            rows[source[c - j]],
            rows[source[c + j]],
            weights[k],
            rows[source[c - k]],
            rows[source[c + k]],
        )
        done += 3
    for i in range(done + 1, r + 1):
        below, above, w = rows[source[c - i]], rows[source[c + i]], weights[i]
        for k in range(n):
            out[k] += w * (below[k] + above[k])


@njit(cache=True, nogil=True)
def _along_row(out, padded, weights):
    """Set `out` to the weighted sum along a row that is longer by the reach of the weights on both sides."""
    r = weights.size - 1
    n = out.size
    w0 = weights[0]
    for k in range(n):
        out[k] = w0 * padded[k + r]
    i = 1
    while i + 3 <= r:
        w1, w2, w3, w4 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
        # Slices, so that the compiler need not ask whether an index is below 0.
        a1, b1, a2, b2 = padded[r - i :], padded[r + i :], padded[r - i - 1 :], padded[r + i + 1 :]
        a3, b3, a4, b4 = padded[r - i - 2 :], padded[r + i + 2 :], padded[r - i - 3 :], padded[r + i + 3 :]
        for k in range(n):
            out[k] = out[k] + w1 * (a1[k] + b1[k]) + w2 * (a2[k] + b2[k]) + w3 * (a3[k] + b3[k]) + w4 * (a4[k] + b4[k])
        i += 4
    while i <= r:
        w1, a1, b1 = weights[i], padded[r - i :], padded[r + i :]
        for k in range(n):
            out[k] += w1 * (a1[k] + b1[k])
        i += 1


@njit(cache=True, nogil=True)
def separable(image, out, weights_x, weights_y, weights_z):
    """Set `out` to `image` weighted along the three axes; weights are those of the voxel itself and of the distances 1, 2, ..."""
    nx, ny, nz = image.shape
    rx, ry, rz = weights_x.size - 1, weights_y.size - 1, weights_z.size - 1
    plane = np.empty((ny, nz), dtype=np.float32)
    padded = np.empty(nz + 2 * rz, dtype=np.float32)
    row = padded[rz : rz + nz]
    lines = image.reshape(nx * ny, nz)
    source_x = np.empty((ny, nx + 2 * rx), dtype=np.int64)
    source_y = np.empty(ny + 2 * ry, dtype=np.int64)
    for j in range(ny):
        for i in range(nx + 2 * rx):
            source_x[j, i] = mirrored(i - rx, nx) * ny + j
    for j in range(ny + 2 * ry):
        source_y[j] = mirrored(j - ry, ny)
    for i in range(nx):
        for j in range(ny):
            _weighted(plane[j], lines, source_x[j], i + rx, weights_x)
        for j in range(ny):
            _weighted(row, plane, source_y, j + ry, weights_y)
            for k in range(rz):
                padded[rz - 1 - k] = row[mirrored(-1 - k, nz)]
                padded[rz + nz + k] = row[mirrored(nz + k, nz)]
            _along_row(out[i, j], padded, weights_z)
