"""Compiled loops over displacements (3, X, Y, Z) in voxels of their own grid; compiled code is cached beside this file or in the user's
cache. Beyond the grid a displacement goes on as at the border.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _cell(position, size):
    """Return the lower voxel of the cell of a position brought to the grid, the upper one, and the weight of that."""
    position = min(max(position, 0.0), size - 1.0)
    low = min(int(position), max(size - 2, 0))
    return low, min(low + 1, size - 1), position - low


@njit(cache=True, nogil=True)
def _sample(field, n, i0, i1, a, j0, j1, b, k0, k1, c):
    """Return one component in a cell, and how it changes along x, y and z there."""
    low0 = (1 - c) * field[n, i0, j0, k0] + c * field[n, i0, j0, k1]
    low1 = (1 - c) * field[n, i0, j1, k0] + c * field[n, i0, j1, k1]
    high0 = (1 - c) * field[n, i1, j0, k0] + c * field[n, i1, j0, k1]
    high1 = (1 - c) * field[n, i1, j1, k0] + c * field[n, i1, j1, k1]
    low, high = (1 - b) * low0 + b * low1, (1 - b) * high0 + b * high1
    along_y = (1 - a) * (low1 - low0) + a * (high1 - high0)
    near = (1 - b) * (field[n, i0, j0, k1] - field[n, i0, j0, k0]) + b * (field[n, i0, j1, k1] - field[n, i0, j1, k0])
    far = (1 - b) * (field[n, i1, j0, k1] - field[n, i1, j0, k0]) + b * (field[n, i1, j1, k1] - field[n, i1, j1, k0])
    return (1 - a) * low + a * high, high - low, along_y, (1 - a) * near + a * far


@njit(cache=True, nogil=True)
def composed(first, second, out):
    """Set `out` to going by `first` and from there by `second`."""
    _, nx, ny, nz = first.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                i0, i1, a = _cell(i + first[0, i, j, k], nx)
                j0, j1, b = _cell(j + first[1, i, j, k], ny)
                k0, k1, c = _cell(k + first[2, i, j, k], nz)
                for n in range(3):
                    value, _, _, _ = _sample(second, n, i0, i1, a, j0, j1, b, k0, k1, c)
                    out[n, i, j, k] = first[n, i, j, k] + value


@njit(cache=True, nogil=True)
def warped(image, field, out):
    """Set `out` to the image at every voxel's place after the displacement."""
    nx, ny, nz = image.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                i0, i1, a = _cell(i + field[0, i, j, k], nx)
                j0, j1, b = _cell(j + field[1, i, j, k], ny)
                k0, k1, c = _cell(k + field[2, i, j, k], nz)
                low = (1 - b) * ((1 - c) * image[i0, j0, k0] + c * image[i0, j0, k1])
                low += b * ((1 - c) * image[i0, j1, k0] + c * image[i0, j1, k1])
                high = (1 - b) * ((1 - c) * image[i1, j0, k0] + c * image[i1, j0, k1])
                high += b * ((1 - c) * image[i1, j1, k0] + c * image[i1, j1, k1])
                out[i, j, k] = (1 - a) * low + a * high


@njit(cache=True, nogil=True)
def inverse_at(field, points, tolerance, iterations, out):
    """Set `out` (3, N) to x - y where x + field(x) = y, for every point y (3, N), by Newton's method; return the largest residual."""
    _, nx, ny, nz = field.shape
    worst = 0.0
    u = np.zeros(3)
    d = np.zeros((3, 3))
    for p in range(points.shape[1]):
        y0, y1, y2 = float(points[0, p]), float(points[1, p]), float(points[2, p])
        x0, x1, x2 = y0, y1, y2
        best, b0, b1, b2 = np.inf, x0, x1, x2
        for _ in range(iterations):
            i0, i1, a = _cell(x0, nx)
            j0, j1, b = _cell(x1, ny)
            k0, k1, c = _cell(x2, nz)
            for n in range(3):
                u[n], d[n, 0], d[n, 1], d[n, 2] = _sample(field, n, i0, i1, a, j0, j1, b, k0, k1, c)
            r0, r1, r2 = x0 + u[0] - y0, x1 + u[1] - y1, x2 + u[2] - y2
            residual = max(abs(r0), abs(r1), abs(r2))
            if residual < best:
                best, b0, b1, b2 = residual, x0, x1, x2
            if residual < tolerance:
                break
            # Beyond the border the displacement does not change.
            if x0 < 0 or x0 > nx - 1:
                d[0, 0] = d[1, 0] = d[2, 0] = 0.0
            if x1 < 0 or x1 > ny - 1:
                d[0, 1] = d[1, 1] = d[2, 1] = 0.0
            if x2 < 0 or x2 > nz - 1:
                d[0, 2] = d[1, 2] = d[2, 2] = 0.0
            m00, m11, m22 = 1 + d[0, 0], 1 + d[1, 1], 1 + d[2, 2]
            c00, c01, c02 = m11 * m22 - d[1, 2] * d[2, 1], d[1, 2] * d[2, 0] - d[1, 0] * m22, d[1, 0] * d[2, 1] - m11 * d[2, 0]
            det = m00 * c00 + d[0, 1] * c01 + d[0, 2] * c02
            if det > 0.05:
                s0 = (c00 * r0 + (d[0, 2] * d[2, 1] - d[0, 1] * m22) * r1 + (d[0, 1] * d[1, 2] - d[0, 2] * m11) * r2) / det
                s1 = (c01 * r0 + (m00 * m22 - d[0, 2] * d[2, 0]) * r1 + (d[0, 2] * d[1, 0] - m00 * d[1, 2]) * r2) / det
                s2 = (c02 * r0 + (d[0, 1] * d[2, 0] - m00 * d[2, 1]) * r1 + (m00 * m11 - d[0, 1] * d[1, 0]) * r2) / det
                long = max(abs(s0), abs(s1), abs(s2))
                share = 1.0 if long <= 4.0 else 4.0 / long
            else:
                s0, s1, s2, share = r0, r1, r2, 0.5
            x0, x1, x2 = x0 - share * s0, x1 - share * s1, x2 - share * s2
        worst = max(worst, best)
        out[0, p], out[1, p], out[2, p] = b0 - y0, b1 - y1, b2 - y2
    return worst


@njit(cache=True, nogil=True)
def _slope(field, n, axis, i, j, k):
    """Return a central difference of one component along an axis, one-sided at the borders."""
    if axis == 0:
        low, high = max(i - 1, 0), min(i + 1, field.shape[1] - 1)
        return (field[n, high, j, k] - field[n, low, j, k]) / max(high - low, 1)
    if axis == 1:
        low, high = max(j - 1, 0), min(j + 1, field.shape[2] - 1)
        return (field[n, i, high, k] - field[n, i, low, k]) / max(high - low, 1)
    low, high = max(k - 1, 0), min(k + 1, field.shape[3] - 1)
    return (field[n, i, j, high] - field[n, i, j, low]) / max(high - low, 1)


@njit(cache=True, nogil=True)
def least_jacobian(field, limit, factor, spacing, marks):
    """Return the smallest Jacobian determinant, and set `marks` (A, B, C) to 1 at the coefficients of all voxels where it is below a limit.

    The voxels are `factor` voxels of the finest grid wide, the coefficients `spacing` of these apart (see `spline_kernels`).
    """
    least = np.inf
    for i in range(field.shape[1]):
        for j in range(field.shape[2]):
            for k in range(field.shape[3]):
                xx, xy, xz = 1 + _slope(field, 0, 0, i, j, k), _slope(field, 0, 1, i, j, k), _slope(field, 0, 2, i, j, k)
                yx, yy, yz = _slope(field, 1, 0, i, j, k), 1 + _slope(field, 1, 1, i, j, k), _slope(field, 1, 2, i, j, k)
                zx, zy, zz = _slope(field, 2, 0, i, j, k), _slope(field, 2, 1, i, j, k), 1 + _slope(field, 2, 2, i, j, k)
                det = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
                least = min(least, det)
                if det < limit:
                    a, b, c = (i * factor) // spacing, (j * factor) // spacing, (k * factor) // spacing
                    for p in range(a, min(a + 4, marks.shape[0])):
                        for q in range(b, min(b + 4, marks.shape[1])):
                            for r in range(c, min(c + 4, marks.shape[2])):
                                marks[p, q, r] = 1
    return least


@njit(cache=True, nogil=True)
def relaxed(coefficients, marks, out):
    """Set `out` to the coefficients, those that are marked half-way to the mean of their six neighbours."""
    _, na, nb, nc = coefficients.shape
    for n in range(3):
        for a in range(na):
            for b in range(nb):
                for c in range(nc):
                    value = coefficients[n, a, b, c]
                    if marks[a, b, c]:
                        total = coefficients[n, max(a - 1, 0), b, c] + coefficients[n, min(a + 1, na - 1), b, c]
                        total += coefficients[n, a, max(b - 1, 0), c] + coefficients[n, a, min(b + 1, nb - 1), c]
                        total += coefficients[n, a, b, max(c - 1, 0)] + coefficients[n, a, b, min(c + 1, nc - 1)]
                        value = np.float32(0.5) * value + total / np.float32(12)
                    out[n, a, b, c] = value
