"""Compiled loops of displacements on cubic B-splines and of their normal equations; compiled code is cached beside this file or in the
user's cache.

Coefficients are (3, A, B, C) float32 in voxels of the finest grid; coefficient 1 of an axis lies at its voxel 0, and the tables (`first`,
`weights`) of an axis say which four coefficients a voxel has and how much of each. The arrays of the normal equations are
(9, A, B, C): xx, xy, xz, yy, yz, zz of the curvature, then the x, y and z of the gradient.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAST = {"contract", "reassoc", "nsz"}
"""Sums in the order that the processor likes: the same on every run of one kind of processor."""


@njit(cache=True, nogil=True)
def _planes(source, first, weights, i, plane):
    """Set `plane` (n, B, C) to the mix of four of the planes of `source` (n, A, B, C)."""
    a = first[i]
    w0, w1, w2, w3 = weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3]
    for n in range(plane.shape[0]):
        for b in range(plane.shape[1]):
            p0, p1, p2, p3, target = source[n, a, b], source[n, a + 1, b], source[n, a + 2, b], source[n, a + 3, b], plane[n, b]
            for c in range(plane.shape[2]):
                target[c] = (w0 * p0[c] + w1 * p1[c]) + (w2 * p2[c] + w3 * p3[c])


@njit(cache=True, nogil=True)
def _lines(plane, first, weights, j, line):
    """Set `line` (n, C) to the mix of four of the lines of `plane` (n, B, C)."""
    b = first[j]
    w0, w1, w2, w3 = weights[j, 0], weights[j, 1], weights[j, 2], weights[j, 3]
    for n in range(line.shape[0]):
        p0, p1, p2, p3, target = plane[n, b], plane[n, b + 1], plane[n, b + 2], plane[n, b + 3], line[n]
        for c in range(line.shape[1]):
            target[c] = (w0 * p0[c] + w1 * p1[c]) + (w2 * p2[c] + w3 * p3[c])


@njit(cache=True, nogil=True)
def _row(line, first, weights, row):
    """Set `row` (3, n) to the spline along a line of coefficients (3, C)."""
    for n in range(3):
        source, target = line[n], row[n]
        for k in range(target.size):
            c = first[k]
            target[k] = (weights[k, 0] * source[c] + weights[k, 1] * source[c + 1]) + (
                weights[k, 2] * source[c + 2] + weights[k, 3] * source[c + 3]
            )


@njit(cache=True, nogil=True)
def _line_up(line, plane, first, weights, j):
    """Add `line` (9, C) to the four lines of `plane` (9, B, C) that it was made of, and empty it."""
    b = first[j]
    for n in range(9):
        source = line[n]
        for t in range(4):
            w, target = weights[j, t], plane[n, b + t]
            for c in range(source.size):
                target[c] += w * source[c]
        for c in range(source.size):
            source[c] = 0


@njit(cache=True, nogil=True)
def _plane_up(plane, out, first, weights, i):
    """Add `plane` (9, B, C) to the four planes of `out` (9, A, B, C) that it was made of, and empty it."""
    a = first[i]
    for n in range(9):
        for b in range(plane.shape[1]):
            source = plane[n, b]
            for t in range(4):
                w, target = weights[i, t], out[n, a + t, b]
                for c in range(source.size):
                    target[c] += w * source[c]
            for c in range(source.size):
                source[c] = 0


@njit(cache=True, nogil=True)
def displacement(control, fx, wx, fy, wy, fz, wz, scale, out):
    """Set `out` (3, X, Y, Z) to `scale` times the displacement at every voxel."""
    plane = np.empty((3, control.shape[2], control.shape[3]), dtype=np.float32)
    line, row = np.empty((3, control.shape[3]), dtype=np.float32), np.empty((3, fz.size), dtype=np.float32)
    for i in range(fx.size):
        _planes(control, fx, wx, i, plane)
        for j in range(fy.size):
            _lines(plane, fy, wy, j, line)
            _row(line, fz, wz, row)
            for n in range(3):
                target, source = out[n, i, j], row[n]
                for k in range(fz.size):
                    target[k] = scale * source[k]


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", inline="always")
def _of_descriptors(fixed, moving, i, j, k, i0, j0, k0, a, b, c):
    """Return what a voxel's descriptors (12,) uint8 give: square of their difference, xx to zz, x to z, as `system` sums them.

    The cell of the moving image begins at `i0`, `j0`, `k0`; `a`, `b`, `c` are the shares of its upper ends.
    """
    byte = np.float32(1 / 255)
    target = fixed[i, j, k]
    m000, m001, m010, m011 = moving[i0, j0, k0], moving[i0, j0, k0 + 1], moving[i0, j0 + 1, k0], moving[i0, j0 + 1, k0 + 1]
    m100, m101 = moving[i0 + 1, j0, k0], moving[i0 + 1, j0, k0 + 1]
    m110, m111 = moving[i0 + 1, j0 + 1, k0], moving[i0 + 1, j0 + 1, k0 + 1]
    xx = xy = xz = yy = yz = zz = px = py = pz = square = np.float32(0)
    for n in range(12):
        v00, v01 = np.float32(m000[n]), np.float32(m001[n])
        v10, v11 = np.float32(m010[n]), np.float32(m011[n])
        w00, w01 = np.float32(m100[n]), np.float32(m101[n])
        w10, w11 = np.float32(m110[n]), np.float32(m111[n])
        dv0, dv1, dw0, dw1 = v01 - v00, v11 - v10, w01 - w00, w11 - w10
        v0, v1, w0, w1 = v00 + c * dv0, v10 + c * dv1, w00 + c * dw0, w10 + c * dw1
        v, w = v0 + b * (v1 - v0), w0 + b * (w1 - w0)
        gx = (w - v) * byte
        gy = ((v1 - v0) + a * ((w1 - w0) - (v1 - v0))) * byte
        dv, dw = dv0 + b * (dv1 - dv0), dw0 + b * (dw1 - dw0)
        gz = (dv + a * (dw - dv)) * byte
        away = (v + a * (w - v) - np.float32(target[n])) * byte
        square += away * away
        xx += gx * gx
        xy += gx * gy
        xz += gx * gz
        yy += gy * gy
        yz += gy * gz
        zz += gz * gz
        px += gx * away
        py += gy * away
        pz += gz * away
    return square, xx, xy, xz, yy, yz, zz, px, py, pz


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy", inline="always")
def _of_intensities(fixed, moving, i, j, k, i0, j0, k0, a, b, c):
    """Return what a voxel's intensity gives, as `_of_descriptors`."""
    v00, v01, v10, v11 = moving[i0, j0, k0], moving[i0, j0, k0 + 1], moving[i0, j0 + 1, k0], moving[i0, j0 + 1, k0 + 1]
    w00, w01 = moving[i0 + 1, j0, k0], moving[i0 + 1, j0, k0 + 1]
    w10, w11 = moving[i0 + 1, j0 + 1, k0], moving[i0 + 1, j0 + 1, k0 + 1]
    dv0, dv1, dw0, dw1 = v01 - v00, v11 - v10, w01 - w00, w11 - w10
    v0, v1, w0, w1 = v00 + c * dv0, v10 + c * dv1, w00 + c * dw0, w10 + c * dw1
    v, w = v0 + b * (v1 - v0), w0 + b * (w1 - w0)
    gx = w - v
    gy = (v1 - v0) + a * ((w1 - w0) - (v1 - v0))
    dv, dw = dv0 + b * (dv1 - dv0), dw0 + b * (dw1 - dw0)
    gz = dv + a * (dw - dv)
    away = v + a * gx - fixed[i, j, k]
    return away * away, gx * gx, gx * gy, gx * gz, gy * gy, gy * gz, gz * gz, gx * away, gy * away, gz * away


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def system(fixed, moving, weight, control, fx, wx, fy, wy, fz, wz, scale, out):
    """Add the normal equations of a difference to `out`; return its energy and the voxels that counted.

    What is compared are descriptors (X, Y, Z, 12) uint8 or images (X, Y, Z) float32: the number of axes decides when this is compiled.
    `weight` (X, Y, Z) uint8 says where to look at all; places beyond the moving image do not count. `scale` turns displacements into
    voxels of these arrays.
    """
    nx, ny, nz = moving.shape[0], moving.shape[1], moving.shape[2]
    plane = np.empty((3, control.shape[2], control.shape[3]), dtype=np.float32)
    line, row = np.empty((3, control.shape[3]), dtype=np.float32), np.empty((3, fz.size), dtype=np.float32)
    sums_line = np.zeros((9, control.shape[3]), dtype=np.float32)
    sums_plane = np.zeros((9, control.shape[2], control.shape[3]), dtype=np.float32)
    energy, count = 0.0, 0
    for i in range(fx.size):
        _planes(control, fx, wx, i, plane)
        some_plane = False
        for j in range(fy.size):
            some = False
            for k in range(fz.size):
                some = some or weight[i, j, k] != 0
            if not some:
                continue
            _lines(plane, fy, wy, j, line)
            _row(line, fz, wz, row)
            some_plane = True
            for k in range(fz.size):
                if weight[i, j, k] == 0:
                    continue
                x, y, z = np.float32(i) + scale * row[0, k], np.float32(j) + scale * row[1, k], np.float32(k) + scale * row[2, k]
                if x < 0 or y < 0 or z < 0 or x > nx - 1 or y > ny - 1 or z > nz - 1:
                    continue
                i0, j0, k0 = min(int(x), nx - 2), min(int(y), ny - 2), min(int(z), nz - 2)
                a, b, c = x - np.float32(i0), y - np.float32(j0), z - np.float32(k0)
                if fixed.ndim == 4:
                    square, xx, xy, xz, yy, yz, zz, px, py, pz = _of_descriptors(fixed, moving, i, j, k, i0, j0, k0, a, b, c)
                else:
                    square, xx, xy, xz, yy, yz, zz, px, py, pz = _of_intensities(fixed, moving, i, j, k, i0, j0, k0, a, b, c)
                energy += square
                count += 1
                first = fz[k]
                for t in range(4):
                    share = wz[k, t]
                    at = first + t
                    sums_line[0, at] += share * xx
                    sums_line[1, at] += share * xy
                    sums_line[2, at] += share * xz
                    sums_line[3, at] += share * yy
                    sums_line[4, at] += share * yz
                    sums_line[5, at] += share * zz
                    sums_line[6, at] += share * px
                    sums_line[7, at] += share * py
                    sums_line[8, at] += share * pz
            _line_up(sums_line, sums_plane, fy, wy, j)
        if some_plane:
            _plane_up(sums_plane, out, fx, wx, i)
    return energy, count
