"""Compiled loops of `cohortex.filters.anisotropic_diffusion`; compiled code is cached beside this file or in the user's cache.

An image is a contiguous array seen as one row of numbers; its rows along z are copied into rows of a workplace as the sweep along x
comes to them, and a plane may be written where it was read. A row of the workplace has `LEFT` elements before its first voxel and ends at a
multiple of 16, with copies of the outer voxels beside them. What lies further out is finite and never used. `rational` and `curvature` are
None or True, so that for every kind of diffusion a loop of its own is compiled. `inverse` holds one over the spacings, 0 for an axis of
one voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cohortex.filters.vectors import LANES, larger, load, moved_in, root, smaller, spread, store, times_plus, times_power, with_sign

LEFT = 16
"""Elements before a row."""

_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy"}

_FLAT = np.float32(1e-10)
"""Added to squared gradients before the root, as ITK does."""

_OTHERS = 11
"""Rows of the workplace besides three planes."""


@njit(**_OPTIONS)
def pitch(length):
    """Return the elements from one row of a workplace to the next, for rows of some length."""
    return LEFT + (length + LANES) // LANES * LANES + LANES


def workplace_rows(rows: int) -> int:
    """Return the rows of a workplace for planes of so many rows."""
    return 3 * rows + _OTHERS


@njit(inline="always")
def _power_of_two(y):
    """Return 2^y of a vector from -100 to 0, less is taken for -100, to 3e-7."""
    y = larger(y, spread(np.float32(-100)))
    # Adding 1.5 * 2^23 rounds to a whole number, which then stands in the last bits.
    magic = spread(np.float32(12582912))
    shifted = y + magic
    t = y - (shifted - magic)
    p = times_plus(spread(np.float32(0.00131851698)), t, spread(np.float32(0.009673969119)))
    p = times_plus(p, t, spread(np.float32(0.05550970115)))
    p = times_plus(p, t, spread(np.float32(0.2402215415)))
    p = times_plus(p, t, spread(np.float32(0.6931468307)))
    p = times_plus(p, t, spread(np.float32(1)))
    return times_power(p, shifted)


@njit(**_OPTIONS)
def powers_of_two(exponents):
    """Replace numbers from -100 to 0, a multiple of 16, by the powers of two as the kernels compute them."""
    for k in range(0, exponents.size, LANES):
        store(exponents, k, _power_of_two(load(exponents, k)))


@njit(inline="always")
def _flow(step, one, other, w_step, w_one, w_other, back, rational, curvature):
    """Return what flows along a difference; `one` and `other` are four times those across, the weights -log2(e) over kappa squared."""
    weighted = times_plus(step * w_step, step, times_plus(one * w_one, one, other * w_other * other))
    if rational is None:  # the compiler leaves out a branch, not a part of an expression
        opened = step * _power_of_two(weighted)
    else:
        opened = step / times_plus(weighted, spread(np.float32(-0.6931471805599453)), spread(np.float32(1)))
    if curvature is None:
        return opened
    return opened / root(times_plus(weighted, back, spread(_FLAT)))


@njit(**_OPTIONS)
def _enter(image, begin, length, rows, here, across, before):
    """Bring a row of the plane after the next into the place of the one two planes before it, which goes to the row `before`.

    The difference of both goes to the row `across`.
    """
    whole = length // LANES * LANES
    for k in range(0, whole, LANES):
        new, old = load(image, begin + k), load(rows, here + k)
        store(rows, before + k, old)
        store(rows, across + k, new - old)
        store(rows, here + k, new)
    for k in range(whole, length):
        rows[before + k] = rows[here + k]
        rows[across + k] = image[begin + k] - rows[here + k]
        rows[here + k] = image[begin + k]
    rows[here - 1], rows[here + length] = rows[here], rows[here + length - 1]


@njit(**_OPTIONS)
def _across(rows, length, a, left, right, b, b_left, b_right, flow, weights, back, rational, curvature):
    """Set the row `flow` to the flows from the row a of one plane to b of the next."""
    w, side, along, back = spread(weights[0]), spread(weights[4]), spread(weights[5]), spread(back)
    for k in range(0, length, LANES):
        step = load(rows, b + k) - load(rows, a + k)
        one = (load(rows, right + k) - load(rows, left + k)) + (load(rows, b_right + k) - load(rows, b_left + k))
        other = (load(rows, a + k + 1) - load(rows, a + k - 1)) + (load(rows, b + k + 1) - load(rows, b + k - 1))
        store(rows, flow + k, _flow(step, one, other, w, side, along, back, rational, curvature))


@njit(**_OPTIONS)
def _swept(
    rows, length, a, left, right, b, b_left, b_right, x, x_right, flow_x, flow_y, made, before, weights, factors, inverse, back,
    rational, curvature,
):  # fmt: skip
    """Set the row `made` to the row a after one time step, and the rows of flows to those behind it.

    x and x_right are the differences along x at a and at the row to its right, flow_x and flow_y what flows into a from before it.
    """
    wx, wy, wz = spread(weights[0]), spread(weights[1]), spread(weights[2])
    sx, sy, sz = spread(weights[3]), spread(weights[4]), spread(weights[5])
    fx, fy, fz = spread(factors[0]), spread(factors[1]), spread(factors[2])
    ix, iy, iz = spread(inverse[0]), spread(inverse[1]), spread(inverse[2])
    back, zero = spread(back), spread(np.float32(0))
    last = zero
    for k in range(0, length, LANES):
        here, down, up = load(rows, a + k), load(rows, a + k - 1), load(rows, a + k + 1)
        beside, beside_up = load(rows, right + k), load(rows, right + k + 1)
        opposite = load(rows, left + k)
        y, z = beside - opposite, up - down
        there = load(rows, b + k)
        y_there = load(rows, b_right + k) - load(rows, b_left + k)
        z_there = load(rows, b + k + 1) - load(rows, b + k - 1)
        after_x = _flow(there - here, y + y_there, z + z_there, wx, sy, sz, back, rational, curvature)
        x_here = load(rows, x + k)
        z_beside = beside_up - load(rows, right + k - 1)
        after_y = _flow(beside - here, x_here + load(rows, x_right + k), z + z_beside, wy, sx, sz, back, rational, curvature)
        x_up, y_up = load(rows, x + k + 1), beside_up - load(rows, left + k + 1)
        after_z = _flow(up - here, x_here + x_up, y + y_up, wz, sx, sy, back, rational, curvature)
        in_x, in_y, in_z = after_x - load(rows, flow_x + k), after_y - load(rows, flow_y + k), after_z - moved_in(last, after_z)
        last = after_z
        store(rows, flow_x + k, after_x)
        store(rows, flow_y + k, after_y)
        gathered = times_plus(in_x, fx, times_plus(in_y, fy, in_z * fz))
        if curvature is None:
            store(rows, made + k, here + gathered)
        else:
            # level sets move by their speed, with the gradient taken from where they come
            behind = load(rows, before + k)
            a_x, b_x = with_sign((there - here) * ix, gathered), with_sign((here - behind) * ix, gathered)
            a_y, b_y = with_sign((beside - here) * iy, gathered), with_sign((here - opposite) * iy, gathered)
            a_z, b_z = with_sign((up - here) * iz, gathered), with_sign((here - down) * iz, gathered)
            a_x, a_y, a_z = larger(a_x, zero), larger(a_y, zero), larger(a_z, zero)
            b_x, b_y, b_z = smaller(b_x, zero), smaller(b_y, zero), smaller(b_z, zero)
            squared = times_plus(a_x, a_x, times_plus(a_y, a_y, a_z * a_z)) + times_plus(b_x, b_x, times_plus(b_y, b_y, b_z * b_z))
            store(rows, made + k, times_plus(gathered, root(squared), here))


@njit(**_OPTIONS)
def _add_within(lines, line, rows, length, here, left, right, iy, iz):
    """Add the squared differences along y and z at a row to a line."""
    iy, iz = spread(iy), spread(iz)
    for k in range(0, length, LANES):
        y = (load(rows, right + k) - load(rows, left + k)) * iy
        z = (load(rows, here + k + 1) - load(rows, here + k - 1)) * iz
        store(lines, line + k, load(lines, line + k) + times_plus(y, y, z * z))


@njit(**_OPTIONS)
def _add_across(lines, line, image, up, down, rows, length, across, ix):
    """Add the squared differences along x at a row to a line; the row `across` is used."""
    whole = length // LANES * LANES
    ix = spread(ix)
    for k in range(0, whole, LANES):
        x = (load(image, up + k) - load(image, down + k)) * ix
        store(lines, line + k, times_plus(x, x, load(lines, line + k)))
    if whole == length:
        return
    for k in range(whole, length):
        rows[across + k] = image[up + k] - image[down + k]
    x = load(rows, across + whole) * ix
    store(lines, line + whole, times_plus(x, x, load(lines, line + whole)))


@njit(**_OPTIONS)
def _copied(source, begin, length, target, to):
    """Copy a row."""
    whole = length // LANES * LANES
    for k in range(0, whole, LANES):
        store(target, to + k, load(source, begin + k))
    for k in range(whole, length):
        target[to + k] = source[begin + k]


@njit(**_OPTIONS)
def _bring(image, begin, length, rows, here):
    """Copy a row of an image into the workplace."""
    _copied(image, begin, length, rows, here)
    rows[here - 1], rows[here + length] = rows[here], rows[here + length - 1]


@njit(**_OPTIONS)
def squared_gradients(image, shape, start, stop, inverse, lines, rows):
    """Add four times the squared central gradients of the rows in the planes start to stop - 1 to the lines of their planes."""
    _, ny, length = shape
    step = pitch(length)
    for i in range(start, stop):
        for j in range(ny):
            if j == 0:
                _bring(image, i * ny * length, length, rows, LEFT)
            if j + 1 < ny:
                _bring(image, (i * ny + j + 1) * length, length, rows, LEFT + (j + 1) % 3 * step)
            left, right = LEFT + max(j - 1, 0) % 3 * step, LEFT + min(j + 1, ny - 1) % 3 * step
            _add_within(lines, i * step, rows, length, LEFT + j % 3 * step, left, right, inverse[1], inverse[2])
        squared_across(image, shape, i, inverse[0], lines, rows)


@njit(**_OPTIONS)
def squared_across(image, shape, i, ix, lines, rows):
    """Add the part of `squared_gradients` along x of one plane."""
    nx, ny, length = shape
    for j in range(ny):
        up, down = (min(i + 1, nx - 1) * ny + j) * length, (max(i - 1, 0) * ny + j) * length
        _add_across(lines, i * pitch(length), image, up, down, rows, length, LEFT, ix)


@njit(**_OPTIONS)
def diffuse(source, target, before, after, shape, start, stop, inverse, scale, time_step, rational, curvature, lines, summed, rows):
    """Set the planes start to stop - 1 of `target` to those of `source` after one time step.

    Parameters
    ----------
    source, target : (x * y * z,) float32 arrays
        May be the same.
    before, after : (y * z,) float32 arrays
        The planes of `source` before start and from stop on; at the border of the image the outer plane again.
    shape : three ints
    start, stop : int
    inverse : (3,) float32 array
    scale, time_step : float32
        `scale` is the square of kappa.
    rational, curvature : None or True
    lines : (x * pitch(z),) float32 array
        If `summed`, four times the squared gradients of the new image are added to the lines of their planes, as by `squared_gradients`,
        except the part along x of the planes start and stop - 1, which needs the new planes beside them.
    summed : bool
    rows : (workplace_rows(y) * pitch(z),) float32 array
        The workplace, finite.
    """
    _, ny, length = shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    step = pitch(length)
    # Squares of differences become powers of two of gradients over kappa; across, two central differences are averaged.
    fall = np.float32(-1.4426950408889634) / scale
    sixteenth = np.float32(0.0625) * fall
    weights = np.array([ix * ix * fall, iy * iy * fall, iz * iz * fall, ix * ix * sixteenth, iy * iy * sixteenth, iz * iz * sixteenth])
    factors = np.array([time_step * ix * ix, time_step * iy * iy, time_step * iz * iz])
    back = np.float32(1) / fall
    flows, others = LEFT + 2 * ny * step, LEFT + 3 * ny * step
    flow_y, made, across, behind, spare = others, others + step, others + 4 * step, others + 6 * step, others + 8 * step
    even, odd = LEFT, LEFT + ny * step
    for j in range(ny):
        _bring(before, j * length, length, rows, (odd if start % 2 == 0 else even) + j * step)
        _bring(source, (start * ny + j) * length, length, rows, (even if start % 2 == 0 else odd) + j * step)
    here, there = (odd, even) if start % 2 == 0 else (even, odd)
    for j in range(ny):
        left, right = max(j - 1, 0) * step, min(j + 1, ny - 1) * step
        _across(
            rows, length, here + j * step, here + left, here + right, there + j * step, there + left, there + right,
            flows + j * step, weights, back, rational, curvature,
        )  # fmt: skip
    for i in range(start, stop):
        here, there = there, here
        plane, begin = (source, (i + 1) * ny * length) if i + 1 < stop else (after, 0)
        _enter(plane, begin, length, rows, there, across, behind)
        for k in range(0, length, LANES):
            store(rows, flow_y + k, spread(np.float32(0)))
        for j in range(ny):
            left, right, own, next_row = max(j - 1, 0) * step, min(j + 1, ny - 1) * step, j % 2 * step, (j + 1) % 2 * step
            if j + 1 < ny:
                _enter(plane, begin + (j + 1) * length, length, rows, there + right, across + next_row, behind + next_row)
            else:
                next_row = own
            new = made + j % 3 * step
            _swept(
                rows, length, here + j * step, here + left, here + right, there + j * step, there + left, there + right,
                across + own, across + next_row, flows + j * step, flow_y, new, behind + own, weights, factors, inverse, back,
                rational, curvature,
            )  # fmt: skip
            to = (i * ny + j) * length
            _copied(rows, new, length, target, to)
            if summed:
                rows[new - 1], rows[new + length] = rows[new], rows[new + length - 1]
                if j > 0:
                    first = made + max(j - 2, 0) % 3 * step
                    _add_within(lines, i * step, rows, length, made + (j - 1) % 3 * step, first, new, iy, iz)
                if j == ny - 1:
                    _add_within(lines, i * step, rows, length, new, made + max(j - 1, 0) % 3 * step, new, iy, iz)
                if i > start + 1:
                    _add_across(lines, (i - 1) * step, target, to, to - 2 * ny * length, rows, length, spare, ix)
