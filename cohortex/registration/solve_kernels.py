"""Compiled solution of the normal equations: bending energy of the coefficients and conjugate gradients with blocks of three as
preconditioner; compiled code is cached beside this file or in the user's cache.

Coefficients come flat: (3, A * B * C) float32, with the shape (A, B, C) beside them; the equations (9, A * B * C) as `spline_kernels` has
them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.registration.spline_kernels import FAST

DIAGONAL = np.float32(42)
"""Of the bending far from the ends: 6 for each axis, 8 for each pair of axes."""


@njit(cache=True, nogil=True, fastmath=FAST)
def _bent_along(v, out, outer, count, stride):
    """Add to `out` what second differences along one axis give; it has `count` coefficients, `stride` apart, `outer` times."""
    for o in range(outer):
        for n in range(1, count - 1):
            begin = (o * count + n) * stride
            for i in range(begin, begin + stride):
                d = v[i - stride] - 2 * v[i] + v[i + stride]
                out[i - stride] += d
                out[i] -= 2 * d
                out[i + stride] += d


@njit(cache=True, nogil=True, fastmath=FAST)
def _bent_across(v, out, na, nb, nc, ends, one, two):
    """Add to `out` twice what mixed differences between coefficients `one` and `two` apart give; `ends` are cut off the axes."""
    for a in range(na - ends[0]):
        for b in range(nb - ends[1]):
            begin = (a * nb + b) * nc
            for i in range(begin, begin + nc - ends[2]):
                d = 2 * (v[i] - v[i + one] - v[i + two] + v[i + one + two])
                out[i] += d
                out[i + one] -= d
                out[i + two] -= d
                out[i + one + two] += d


@njit(cache=True, nogil=True)
def bending(values, na, nb, nc, out):
    """Set `out` to the gradient of half the bending energy of coefficients.

    The energy is the sum of squares of second differences along each axis and, twice, of mixed differences, wherever all of the
    coefficients that they take exist: a linear displacement costs nothing.
    """
    out[:] = 0
    for n in range(3):
        v, o = values[n], out[n]
        _bent_along(v, o, 1, na, nb * nc)
        _bent_along(v, o, na, nb, nc)
        _bent_along(v, o, na * nb, nc, 1)
        _bent_across(v, o, na, nb, nc, (1, 1, 0), nb * nc, nc)
        _bent_across(v, o, na, nb, nc, (1, 0, 1), nb * nc, 1)
        _bent_across(v, o, na, nb, nc, (0, 1, 1), nc, 1)


@njit(cache=True, nogil=True, fastmath=FAST)
def _product(system, v, smooth, damping, out):
    """Set `out`, which is the bending of `v`, to (curvature + smooth * bending + damping) v, and return the product of both."""
    total = 0.0
    for i in range(v.shape[1]):
        x, y, z = v[0, i], v[1, i], v[2, i]
        p = smooth * out[0, i] + (system[0, i] + damping) * x + system[1, i] * y + system[2, i] * z
        q = smooth * out[1, i] + system[1, i] * x + (system[3, i] + damping) * y + system[4, i] * z
        r = smooth * out[2, i] + system[2, i] * x + system[4, i] * y + (system[5, i] + damping) * z
        out[0, i], out[1, i], out[2, i] = p, q, r
        total += np.float64(p * x + q * y + r * z)
    return total


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _preconditioned(system, r, diagonal, out):
    """Set `out` to `r` times the inverse of every point's 3 x 3 curvature with `diagonal` added, and return the product of both."""
    total = 0.0
    for i in range(r.shape[1]):
        xx, xy, xz = system[0, i] + diagonal, system[1, i], system[2, i]
        yy, yz, zz = system[3, i] + diagonal, system[4, i], system[5, i] + diagonal
        cxx, cxy, cxz = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
        cyy, cyz, czz = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
        over = np.float32(1) / (xx * cxx + xy * cxy + xz * cxz)
        x, y, z = r[0, i] * over, r[1, i] * over, r[2, i] * over
        p, q, s = cxx * x + cxy * y + cxz * z, cxy * x + cyy * y + cyz * z, cxz * x + cyz * y + czz * z
        out[0, i], out[1, i], out[2, i] = p, q, s
        total += np.float64(p * r[0, i] + q * r[1, i] + s * r[2, i])
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _add(target, factor, source):
    for n in range(3):
        for i in range(target.shape[1]):
            target[n, i] += factor * source[n, i]


@njit(cache=True, nogil=True)
def step(system, control, shape, smooth, damping, iterations, tolerance, out):
    """Set `out` to the Gauss-Newton step and return how many iterations of conjugate gradients it took.

    It solves (curvature + smooth * bending + damping) out = -(gradient + smooth * bending control), so that the bending is that of the
    whole displacement. Ends where the residual has shrunk by `tolerance`.
    """
    na, nb, nc = shape
    r, q, z = np.empty_like(control), np.empty_like(control), np.empty_like(control)
    bending(control, na, nb, nc, r)
    for n in range(3):
        for i in range(control.shape[1]):
            r[n, i] = -system[6 + n, i] - smooth * r[n, i]
            out[n, i] = 0
    diagonal = DIAGONAL * smooth + damping
    rz = _preconditioned(system, r, diagonal, z)
    p = z.copy()
    begun, done = rz, 0
    while done < iterations and rz > tolerance * tolerance * begun:
        bending(p, na, nb, nc, q)
        alpha = np.float32(rz / _product(system, p, smooth, damping, q))
        _add(out, alpha, p)
        _add(r, -alpha, q)
        after = _preconditioned(system, r, diagonal, z)
        beta = np.float32(after / rz)
        for n in range(3):
            for i in range(control.shape[1]):
                p[n, i] = z[n, i] + beta * p[n, i]
        rz = after
        done += 1
    return done
