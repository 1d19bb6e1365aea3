"""Compiled loops of `cohortex.filters.anisotropic_diffusion`; compiled code is cached beside this file or in the user's cache.

Rows along z begin `LEFT` elements after a multiple of as many, where vectors are loaded fastest, with copies of the outer voxels beside
them: voxel k is element LEFT + k. `rational` and `curvature` are None or True, so that for
every kind of diffusion a loop of its own is compiled. `inverse` holds one over the spacings, 0 for an axis of one voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

LEFT = 16
"""Elements before a row; a vector of the widest kind that processors have."""

_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
"""Divisions do not look for zeros, which would keep them apart; a product and a sum may be one operation, nothing else is loosened."""

_FLAT = np.float32(1e-10)
"""Added to squared gradients before the root, as ITK does."""


@intrinsic
def _float_of(typingctx, bits):  # pyright: ignore[reportUnusedParameter]
    """Return the float32 of 32 bits."""

    def built(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), built


@intrinsic
def _bits_of(typingctx, value):  # pyright: ignore[reportUnusedParameter]
    """Return the 32 bits of a float32."""

    def built(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), built


@njit(**_OPTIONS)
def power_of_two(y):
    """Return 2^y of a float32 from -126 to 0, less is taken for -126, to 3e-7; unlike the library's exp it is computed for many at once."""
    y = y if y > np.float32(-126) else np.float32(-126)
    # Adding 1.5 * 2^23 rounds to a whole number, which then stands in the last bits.
    rounded = y + np.float32(12582912)
    t = y - (rounded - np.float32(12582912))
    p = np.float32(0.00131851698)
    p = p * t + np.float32(0.009673969119)
    p = p * t + np.float32(0.05550970115)
    p = p * t + np.float32(0.2402215415)
    p = p * t + np.float32(0.6931468307)
    p = p * t + np.float32(1)
    power = np.int32((_bits_of(rounded) << np.int32(23)) + np.int32(0x3F800000))  # pyright: ignore[reportCallIssue]
    return p * _float_of(power)  # pyright: ignore[reportCallIssue]


@njit(**_OPTIONS)
def _flow(step, weighted, scale, rational, curvature):
    """Return what flows along a difference; the square of the whole gradient comes over that of kappa, times -log2(e)."""
    if rational is None:  # noqa: SIM108  the compiler leaves out a branch, not a part of an expression
        opened = power_of_two(weighted)
    else:
        opened = np.float32(1) / (np.float32(1) - weighted * np.float32(0.6931471805599453))
    if curvature is None:
        return step * opened
    return step / np.sqrt(weighted * scale + _FLAT) * opened


@njit(**_OPTIONS)
def _flow_across(out, here, left, right, there, there_left, there_right, w_step, w_side, w_z, scale, rational, curvature):
    """Set `out` to the flow between two rows; left and right are their neighbours along the third axis."""
    here_on, there_on, here_in, there_in = here[LEFT + 1 :], there[LEFT + 1 :], here[LEFT:], there[LEFT:]
    here, there = here[LEFT - 1 :], there[LEFT - 1 :]
    left, right, there_left, there_right = left[LEFT:], right[LEFT:], there_left[LEFT:], there_right[LEFT:]
    for k in range(out.size):
        step = there_in[k] - here_in[k]
        side = (right[k] - left[k]) + (there_right[k] - there_left[k])
        z = (here_on[k] - here[k]) + (there_on[k] - there[k])
        out[k] = _flow(step, step * step * w_step + side * side * w_side + z * z * w_z, scale, rational, curvature)


@njit(**_OPTIONS)
def _flow_along(out, here, left, right, down, up, w_x, w_y, w_step, scale, rational, curvature):
    """Set `out` to the flows into the voxels of a row from the ones before, and into the one after the last."""
    here_on, left_on, right_on, down_on, up_on = here[LEFT:], left[LEFT:], right[LEFT:], down[LEFT:], up[LEFT:]
    here, left, right, down, up = here[LEFT - 1 :], left[LEFT - 1 :], right[LEFT - 1 :], down[LEFT - 1 :], up[LEFT - 1 :]
    for k in range(out.size):
        step = here_on[k] - here[k]
        x = (up[k] - down[k]) + (up_on[k] - down_on[k])
        y = (right[k] - left[k]) + (right_on[k] - left_on[k])
        out[k] = _flow(step, step * step * w_step + x * x * w_x + y * y * w_y, scale, rational, curvature)


@njit(**_OPTIONS)
def _gathered(out, after_x, before_x, after_y, before_y, z, fx, fy, fz):
    """Set `out` to what flows in."""
    z_on = z[1:]
    for k in range(out.size):
        out[k] = (after_x[k] - before_x[k]) * fx + (after_y[k] - before_y[k]) * fy + (z_on[k] - z[k]) * fz


@njit(**_OPTIONS)
def _moved(out, here, after_x, before_x, after_y, before_y, z, fx, fy, fz):
    """Set `out` to a row after what flows in."""
    z_on = z[1:]
    for k in range(out.size):
        out[k] = here[k] + ((after_x[k] - before_x[k]) * fx + (after_y[k] - before_y[k]) * fy + (z_on[k] - z[k]) * fz)


@njit(**_OPTIONS)
def _carried(out, here, down, up, left, right, speed, ix, iy, iz):
    """Set `out` to a row after its level sets moved by their speed, with the gradient taken from where they come."""
    zero = np.float32(0)
    here_in, here_on, here = here[LEFT:], here[LEFT + 1 :], here[LEFT - 1 :]
    down, up, left, right = down[LEFT:], up[LEFT:], left[LEFT:], right[LEFT:]
    for k in range(out.size):
        value = here_in[k]
        a, b = (up[k] - value) * ix, (value - down[k]) * ix
        c, d = (right[k] - value) * iy, (value - left[k]) * iy
        e, f = (here_on[k] - value) * iz, (value - here[k]) * iz
        sign = np.float32(1) if speed[k] > zero else np.float32(-1)
        a, b, c, d, e, f = sign * a, sign * b, sign * c, sign * d, sign * e, sign * f
        a, c, e = (a if a > zero else zero), (c if c > zero else zero), (e if e > zero else zero)
        b, d, f = (b if b < zero else zero), (d if d < zero else zero), (f if f < zero else zero)
        out[k] = value + speed[k] * np.sqrt((a * a + b * b) + (c * c + d * d) + (e * e + f * f))


@njit(**_OPTIONS)
def diffuse(source, target, nz, start, stop, inverse, scale, time_step, rational, curvature):
    """Set the planes start to stop - 1 of `target` to those of `source` after one time step; `scale` is the square of kappa."""
    nx, ny = source.shape[0], source.shape[1]
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    # Squares of differences become powers of two of gradients over kappa; across, two central differences are averaged.
    fall = np.float32(-1.4426950408889634) / scale
    wx, wy, wz = ix * ix * fall, iy * iy * fall, iz * iz * fall
    back = np.float32(1) / fall
    fx, fy, fz = time_step * ix * ix, time_step * iy * iy, time_step * iz * iz
    sixteenth = np.float32(0.0625)
    sx, sy, sz = sixteenth * wx, sixteenth * wy, sixteenth * wz
    before_x = np.zeros((ny, nz), dtype=np.float32)
    after_x, before_y, after_y = np.zeros(nz, dtype=np.float32), np.zeros(nz, dtype=np.float32), np.zeros(nz, dtype=np.float32)
    z, speed = np.zeros(nz + 1, dtype=np.float32), np.zeros(nz, dtype=np.float32)
    for i in range(max(start - 1, 0), stop):
        up, down = min(i + 1, nx - 1), max(i - 1, 0)
        before_y[:] = np.float32(0)
        for j in range(ny):
            right, left = min(j + 1, ny - 1), max(j - 1, 0)
            here = source[i, j]
            _flow_across(
                after_x, here, source[i, left], source[i, right], source[up, j], source[up, left], source[up, right],
                wx, sy, sz, back, rational, curvature,
            )  # fmt: skip
            if i >= start:
                _flow_across(
                    after_y, here, source[down, j], source[up, j], source[i, right], source[down, right], source[up, right],
                    wy, sx, sz, back, rational, curvature,
                )  # fmt: skip
                _flow_along(
                    z, here, source[i, left], source[i, right], source[down, j], source[up, j],
                    sx, sy, wz, back, rational, curvature,
                )  # fmt: skip
                row = target[i, j, LEFT : LEFT + nz]
                if curvature is None:
                    _moved(row, here[LEFT:], after_x, before_x[j], after_y, before_y, z, fx, fy, fz)
                else:
                    _gathered(speed, after_x, before_x[j], after_y, before_y, z, fx, fy, fz)
                    _carried(
                        row, here, source[down, j], source[up, j], source[i, left], source[i, right],
                        speed, ix, iy, iz,
                    )  # fmt: skip
                target[i, j, LEFT - 1], target[i, j, LEFT + nz] = row[0], row[nz - 1]
            before_x[j] = after_x
            before_y, after_y = after_y, before_y


@njit(**_OPTIONS)
def _add_squares(out, here, left, right, down, up, ix, iy, iz):
    here_on, here = here[LEFT + 1 :], here[LEFT - 1 :]
    left, right, down, up = left[LEFT:], right[LEFT:], down[LEFT:], up[LEFT:]
    for k in range(out.size):
        x, y, z = (up[k] - down[k]) * ix, (right[k] - left[k]) * iy, (here_on[k] - here[k]) * iz
        out[k] += x * x + y * y + z * z


@njit(**_OPTIONS)
def squared_gradients(image, start, stop, inverse, lines, second):
    """Add four times the squared central gradients of the rows in the planes start to stop - 1 to `lines`.

    A row goes to the line of its plane along the first axis, or, if `second`, along the second one.
    """
    nx, ny = image.shape[0], image.shape[1]
    for i in range(start, stop):
        up, down = min(i + 1, nx - 1), max(i - 1, 0)
        for j in range(ny):
            right, left = min(j + 1, ny - 1), max(j - 1, 0)
            line = lines[j if second else i]
            _add_squares(
                line, image[i, j], image[i, left], image[i, right], image[down, j], image[up, j], inverse[0], inverse[1], inverse[2]
            )
