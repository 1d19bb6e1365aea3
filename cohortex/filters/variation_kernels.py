"""Compiled loops of `cohortex.filters.total_variation`; compiled code is cached beside this file or in the user's cache.

Dual fields are (3, x, y, z) float32, one component an axis; `inverse` holds one over the spacings, 0 for an axis of one voxel. Several
iterations run through the image at once, each one plane behind the one before, so that planes are still in the cache when they are
needed again. Loops take few arrays each: with more the compiler gives up on proving that they do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cohortex.filters.arrays import aligned

_OPTIONS: Any = {"cache": True, "nogil": True, "error_model": "numpy"}
"""Divisions do not look for zeros, which would keep them apart."""

_ROWS = 8
"""Rows that are worked on at once: more than one, since a loop takes some time to begin."""


@njit(**_OPTIONS)
def _image_rows(out, noisy, x, x_before, y, y_before, z, ix, iy, iz):
    """Set `out` to rows of the noisy image minus the divergence of the dual field; `z` begins one element earlier."""
    z_here = z[1:]
    for k in range(out.size):
        out[k] = noisy[k] - ((x[k] - x_before[k]) * ix + (y[k] - y_before[k]) * iy + (z_here[k] - z[k]) * iz)


@njit(**_OPTIONS)
def image_plane(out, noisy, dual, i, inverse, nothing):
    """Set `out`, flat, to plane i of the image that belongs to a dual field; all arrays are flat but for the first axes."""
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    size, length = noisy.shape[1], (nothing.size - 1) // _ROWS
    x, y, z, before = dual[0, i], dual[1, i], dual[2, i], max(i - 1, 0)
    first = nothing[: length + 1]
    first[1:] = z[:length]
    x_before = dual[0, before, :length] if i > 0 else nothing[length + 1 : 2 * length + 1]
    zeros = nothing[length + 1 : 2 * length + 1]
    _image_rows(out[:length], noisy[i, :length], x, x_before, y, zeros, first, ix, iy, iz)
    first[1:] = np.float32(0)
    for start in range(length, size, length * (_ROWS - 1)):
        stop = min(size, start + length * (_ROWS - 1))
        # The component along z is 0 in the last voxel of a row, so the first one of the next row may look at it.
        if i > 0:
            _image_rows(
                out[start:stop], noisy[i, start:stop], x[start:], dual[0, before, start:], y[start:], y[start - length :],
                z[start - 1 :], ix, iy, iz,
            )  # fmt: skip
        else:
            _image_rows(
                out[start:stop], noisy[i, start:stop], x[start:], nothing, y[start:], y[start - length :], z[start - 1 :], ix, iy, iz
            )


@njit(**_OPTIONS)
def _damping(out, here, up, right, ix, iy, iz, step, weight):
    """Set `out` to 1 / (1 + step |gradient| / weight); `iz` is a row, with 0 in the last voxels."""
    one, factor, on = np.float32(1), step / weight, here[1:]
    for k in range(out.size):
        x, y, z = (up[k] - here[k]) * ix, (right[k] - here[k]) * iy, (on[k] - here[k]) * iz[k]
        out[k] = one / (one + np.sqrt(x * x + y * y + z * z) * factor)


@njit(**_OPTIONS)
def _damped(dual, here, after, scale, inverse, step):
    """Take a step of one component of the dual field against the gradient, and damp it."""
    for k in range(scale.size):
        dual[k] = (dual[k] - step * ((after[k] - here[k]) * inverse)) * scale[k]


@njit(**_OPTIONS)
def _damped_z(dual, here, scale, inverse, step):
    """Do the same along the row."""
    after = here[1:]
    for k in range(scale.size):
        dual[k] = (dual[k] - step * ((after[k] - here[k]) * inverse[k])) * scale[k]


@njit(**_OPTIONS)
def _projection(out, here, up, right, x, y, z, ix, iy, iz, step, weight):
    """Set `out` to what brings the dual field after a step back to a length of at most `weight`."""
    one, share, on = np.float32(1), np.float32(1) / weight, here[1:]
    for k in range(out.size):
        a, b = x[k] - step * ((up[k] - here[k]) * ix), y[k] - step * ((right[k] - here[k]) * iy)
        c = z[k] - step * ((on[k] - here[k]) * iz[k])
        length = np.sqrt(a * a + b * b + c * c) * share
        out[k] = one / (length if length > one else one)


@njit(**_OPTIONS)
def _projected(ahead, dual, here, after, scale, inverse, step, momentum):
    """Take a projected step of one component from `ahead`, keep it in `dual`, and go on ahead of it."""
    for k in range(scale.size):
        newer = (ahead[k] - step * ((after[k] - here[k]) * inverse)) * scale[k]
        ahead[k] = newer + momentum * (newer - dual[k])
        dual[k] = newer


@njit(**_OPTIONS)
def _projected_z(ahead, dual, here, scale, inverse, step, momentum):
    """Do the same along the row."""
    after = here[1:]
    for k in range(scale.size):
        newer = (ahead[k] - step * ((after[k] - here[k]) * inverse[k])) * scale[k]
        ahead[k] = newer + momentum * (newer - dual[k])
        dual[k] = newer


@njit(**_OPTIONS)
def _updated(dual, ahead, i, start, scale, here, up, right, inverse, iz, step, weight, momentum, accelerated):
    """Take a step in some rows of plane i."""
    ix, iy = inverse[0], inverse[1]
    if accelerated is None:
        _damping(scale, here, up, right, ix, iy, iz, step, weight)
        _damped(dual[0, i, start:], here, up, scale, ix, step)
        _damped(dual[1, i, start:], here, right, scale, iy, step)
        _damped_z(dual[2, i, start:], here, scale, iz, step)
    else:
        x, y, z = ahead[0, i, start:], ahead[1, i, start:], ahead[2, i, start:]
        _projection(scale, here, up, right, x, y, z, ix, iy, iz, step, weight)
        _projected(x, dual[0, i, start:], here, up, scale, ix, step, momentum)
        _projected(y, dual[1, i, start:], here, right, scale, iy, step, momentum)
        _projected_z(z, dual[2, i, start:], here, scale, iz, step, momentum)


def room(shape, depth):
    """Return what `descend` works in: two planes of every iteration and two pieces of rows, aligned."""
    even = (shape[1] * shape[2]) // 16 * 16 + 16
    return aligned((depth, 2, even)), aligned((2, (_ROWS * shape[2]) // 16 * 16 + 16))


@njit(**_OPTIONS)
def descend(volume, field, field_ahead, planes, rows, inverse, step, weight, momenta, accelerated):
    """Take as many iterations as there are momenta, in place.

    With `accelerated` None they are Chambolle's (the field damped, `field_ahead` is not used), with True projected steps with momentum.
    `planes` and `rows` are room to work in, see `room`.
    """
    nx, ny, length = volume.shape
    noisy, size = volume.reshape((nx, ny * length)), ny * length
    dual, ahead = field.reshape((3, nx, size)), field_ahead.reshape((3, nx, size))
    depth = momenta.size
    images = planes
    nothing = np.zeros(_ROWS * length + 1, dtype=np.float32)
    scale, iz = rows[0, : _ROWS * length], rows[1, : _ROWS * length]
    iz[:] = inverse[2]
    iz[length - 1 :: length] = np.float32(0)
    source = dual if accelerated is None else ahead
    for front in range(nx + depth - 1):
        for level in range(depth):
            i = front - level
            if i < 0 or i >= nx:
                continue
            image = images[level]
            if i == 0:
                image_plane(image[0, :size], noisy, source, 0, inverse, nothing)
            if i + 1 < nx:
                image_plane(image[(i + 1) % 2, :size], noisy, source, i + 1, inverse, nothing)
            here = image[i % 2]
            up = image[(i + 1) % 2] if i + 1 < nx else here
            last = size - length  # where the last row begins, which has none to its right
            for start in range(0, last, length * _ROWS):
                count = min(last - start, length * _ROWS)
                _updated(
                    dual, ahead, i, start, scale[:count], here[start:], up[start:], here[start + length :],
                    inverse, iz, step, weight, momenta[level], accelerated,
                )  # fmt: skip
            _updated(
                dual, ahead, i, last, scale[:length], here[last:], up[last:], here[last:],
                inverse, iz, step, weight, momenta[level], accelerated,
            )  # fmt: skip


@njit(**_OPTIONS)
def image_of(noisy, dual, inverse, out):
    """Set `out` to the image that belongs to a dual field."""
    nx, ny, length = noisy.shape
    nothing = np.zeros(_ROWS * length + 1, dtype=np.float32)
    flat, field, images = noisy.reshape((nx, ny * length)), dual.reshape((3, nx, ny * length)), out.reshape((nx, ny * length))
    for i in range(nx):
        image_plane(images[i], flat, field, i, inverse, nothing)


@njit(**_OPTIONS)
def gap_of(noisy, image, dual, inverse, weight):
    """Return the duality gap and the primal objective 1/2 |image - noisy|^2 + weight TV(image), for a field of lengths up to weight."""
    nx, ny, nz = image.shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    gap, objective = 0.0, 0.0
    for i in range(nx):
        up = min(i + 1, nx - 1)
        for j in range(ny):
            right = min(j + 1, ny - 1)
            for k in range(nz):
                here = image[i, j, k]
                x, y = (image[up, j, k] - here) * ix, (image[i, right, k] - here) * iy
                z = (image[i, j, min(k + 1, nz - 1)] - here) * iz
                length = weight * np.sqrt(np.float64(x * x + y * y + z * z))
                gap += length + np.float64(x * dual[0, i, j, k] + y * dual[1, i, j, k] + z * dual[2, i, j, k])
                objective += length + 0.5 * np.float64(here - noisy[i, j, k]) ** 2
    return gap, objective
