"""Compiled sampling loops of `cohortex.filters.resample`; compiled code is cached beside this file or in the user's cache.

All take a part of the source (x, y, z), the 4 x 4 float64 matrix from indices of the new grid to indices of the source, the part `out`
of the new grid that they fill, the value outside, and three triples of integers: where `out` begins in the new grid, where the part
begins in the source, and the shape of the whole source. A point is inside when it lies in a voxel: between -0.5 and n - 0.5; beyond
the outermost centres the outermost value counts. A voxel's value does not depend on the parts.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_SNAP = 1e-6


@njit(cache=True, nogil=True, inline="always")
def _below(position: float, size: int) -> tuple[int, int, float]:
    """Return the two voxels around a position and the weight of the second; (-1, -1, 0) outside."""
    if position < -0.5 - _SNAP or position > size - 0.5 + _SNAP:
        return -1, -1, 0.0
    position = min(max(position, 0.0), size - 1.0)
    close = np.floor(position + 0.5)
    if abs(position - close) < _SNAP:
        return int(close), int(close), 0.0
    low = int(position)
    return low, low + 1, position - low


@njit(cache=True, nogil=True)
def trilinear(source, matrix, out, fill, first, corner, shape):
    """Sample an image linearly."""
    nx, ny, nz = shape
    u0, v0, w0 = first
    a0, b0, c0 = corner
    flat = matrix[0, 2] == 0.0 and matrix[1, 2] == 0.0
    last = np.empty(out.shape[2], dtype=np.int64)
    after = np.empty(out.shape[2], dtype=np.int64)
    share = np.empty(out.shape[2], dtype=np.float32)
    ruled = matrix[2, 0] == 0.0 and matrix[2, 1] == 0.0
    if ruled:
        for k in range(out.shape[2]):
            k0, k1, wk = _below(matrix[2, 2] * (k + w0) + matrix[2, 3], nz)
            last[k], after[k], share[k] = k0, k1, wk
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x0 = matrix[0, 0] * (i + u0) + matrix[0, 1] * (j + v0) + matrix[0, 3]
            y0 = matrix[1, 0] * (i + u0) + matrix[1, 1] * (j + v0) + matrix[1, 3]
            z0 = matrix[2, 0] * (i + u0) + matrix[2, 1] * (j + v0) + matrix[2, 3]
            if flat and ruled:
                # Grids whose axes are parallel: the four columns are the same for a whole row.
                i0, i1, wi = _below(x0, nx)
                j0, j1, wj = _below(y0, ny)
                if i0 < 0 or j0 < 0:
                    out[i, j, :] = fill
                    continue
                i0, i1, j0, j1 = i0 - a0, i1 - a0, j0 - b0, j1 - b0
                a = np.float32((1 - wi) * (1 - wj))
                b = np.float32((1 - wi) * wj)
                c = np.float32(wi * (1 - wj))
                d = np.float32(wi * wj)
                for k in range(out.shape[2]):
                    k0, k1, w = last[k], after[k], share[k]
                    if k0 < 0:
                        out[i, j, k] = fill
                        continue
                    k0, k1 = k0 - c0, k1 - c0
                    low = a * source[i0, j0, k0] + b * source[i0, j1, k0] + c * source[i1, j0, k0] + d * source[i1, j1, k0]
                    high = a * source[i0, j0, k1] + b * source[i0, j1, k1] + c * source[i1, j0, k1] + d * source[i1, j1, k1]
                    out[i, j, k] = low + w * (high - low)
                continue
            for k in range(out.shape[2]):
                i0, i1, wi = _below(x0 + matrix[0, 2] * (k + w0), nx)
                j0, j1, wj = _below(y0 + matrix[1, 2] * (k + w0), ny)
                k0, k1, wk = _below(z0 + matrix[2, 2] * (k + w0), nz)
                if i0 < 0 or j0 < 0 or k0 < 0:
                    out[i, j, k] = fill
                    continue
                i0, i1, j0, j1, k0, k1 = i0 - a0, i1 - a0, j0 - b0, j1 - b0, k0 - c0, k1 - c0
                low = (1 - wj) * ((1 - wk) * source[i0, j0, k0] + wk * source[i0, j0, k1])
                low += wj * ((1 - wk) * source[i0, j1, k0] + wk * source[i0, j1, k1])
                high = (1 - wj) * ((1 - wk) * source[i1, j0, k0] + wk * source[i1, j0, k1])
                high += wj * ((1 - wk) * source[i1, j1, k0] + wk * source[i1, j1, k1])
                out[i, j, k] = (1 - wi) * low + wi * high


@njit(cache=True, nogil=True, inline="always")
def _closest(position: float, size: int) -> int:
    """Return the voxel that a position lies in, -1 outside; a position half-way belongs to the lower voxel."""
    if position < -0.5 - _SNAP or position > size - 0.5 + _SNAP:
        return -1
    return min(max(int(np.ceil(position - 0.5 - _SNAP)), 0), size - 1)


@njit(cache=True, nogil=True)
def nearest(source, matrix, out, fill, first, corner, shape):
    """Sample the voxel that each point lies in (images or labels)."""
    nx, ny, nz = shape
    u0, v0, w0 = first
    a0, b0, c0 = corner
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x0 = matrix[0, 0] * (i + u0) + matrix[0, 1] * (j + v0) + matrix[0, 3]
            y0 = matrix[1, 0] * (i + u0) + matrix[1, 1] * (j + v0) + matrix[1, 3]
            z0 = matrix[2, 0] * (i + u0) + matrix[2, 1] * (j + v0) + matrix[2, 3]
            for k in range(out.shape[2]):
                a = _closest(x0 + matrix[0, 2] * (k + w0), nx)
                b = _closest(y0 + matrix[1, 2] * (k + w0), ny)
                c = _closest(z0 + matrix[2, 2] * (k + w0), nz)
                out[i, j, k] = fill if a < 0 or b < 0 or c < 0 else source[a - a0, b - b0, c - c0]


@njit(cache=True, nogil=True)
def labels_linear(source, matrix, out, fill, first, corner, shape):
    """Sample the label with the largest linear weight (ties: the smallest label), without an image a label."""
    nx, ny, nz = shape
    u0, v0, w0 = first
    a0, b0, c0 = corner
    found = np.empty(8, dtype=source.dtype)
    weights = np.empty(8, dtype=np.float64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x0 = matrix[0, 0] * (i + u0) + matrix[0, 1] * (j + v0) + matrix[0, 3]
            y0 = matrix[1, 0] * (i + u0) + matrix[1, 1] * (j + v0) + matrix[1, 3]
            z0 = matrix[2, 0] * (i + u0) + matrix[2, 1] * (j + v0) + matrix[2, 3]
            for k in range(out.shape[2]):
                i0, i1, wi = _below(x0 + matrix[0, 2] * (k + w0), nx)
                j0, j1, wj = _below(y0 + matrix[1, 2] * (k + w0), ny)
                k0, k1, wk = _below(z0 + matrix[2, 2] * (k + w0), nz)
                if i0 < 0 or j0 < 0 or k0 < 0:
                    out[i, j, k] = fill
                    continue
                i0, i1, j0, j1, k0, k1 = i0 - a0, i1 - a0, j0 - b0, j1 - b0, k0 - c0, k1 - c0
                label = source[i0, j0, k0]
                if (
                    label == source[i0, j0, k1]
                    and label == source[i0, j1, k0]
                    and label == source[i0, j1, k1]
                    and label == source[i1, j0, k0]
                    and label == source[i1, j0, k1]
                    and label == source[i1, j1, k0]
                    and label == source[i1, j1, k1]
                ):
                    out[i, j, k] = label
                    continue
                count = 0
                for corner in range(8):
                    a, u = (i1, wi) if corner & 4 else (i0, 1 - wi)
                    b, v = (j1, wj) if corner & 2 else (j0, 1 - wj)
                    c, w = (k1, wk) if corner & 1 else (k0, 1 - wk)
                    label = source[a, b, c]
                    place = 0
                    while place < count and found[place] != label:
                        place += 1
                    if place == count:
                        found[count] = label
                        weights[count] = 0.0
                        count += 1
                    weights[place] += u * v * w
                best = 0
                for place in range(1, count):
                    ahead = weights[place] - weights[best]
                    if ahead > 1e-9 or (ahead > -1e-9 and found[place] < found[best]):
                        best = place
                out[i, j, k] = found[best]
