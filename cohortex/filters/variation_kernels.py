"""Compiled loops of `cohortex.filters.total_variation`; compiled code is cached beside this file or in the user's cache.

`dual` is (3, x, y, z), one component an axis; `inverse` holds one over the spacings, 0 for an axis of one voxel.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def primal_of(noisy, dual, inverse, image):
    """Set `image` to noisy plus the divergence of `dual` (minus the adjoint of the gradient); return half its sum of squares."""
    nx, ny, nz = noisy.shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    total = 0.0
    for i in range(nx):
        for j in range(ny):
            row = image[i, j]
            for k in range(nz):
                row[k] = noisy[i, j, k] + ix * dual[0, i, j, k] + iy * dual[1, i, j, k] + iz * dual[2, i, j, k]
            if i > 0:
                for k in range(nz):
                    row[k] -= ix * dual[0, i - 1, j, k]
            if j > 0:
                for k in range(nz):
                    row[k] -= iy * dual[1, i, j - 1, k]
            for k in range(1, nz):
                row[k] -= iz * dual[2, i, j, k - 1]
            for k in range(nz):
                total += row[k] * np.float64(row[k])
    return 0.5 * total


@njit(cache=True, nogil=True)
def ascend(image, dual, inverse, step, newer):
    """Set `newer` to `dual` after one projected step along the gradient of `image`."""
    nx, ny, nz = image.shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    one = np.float32(1)
    for i in range(nx):
        up = min(i + 1, nx - 1)
        for j in range(ny):
            right = min(j + 1, ny - 1)
            for k in range(nz):
                here = image[i, j, k]
                x = dual[0, i, j, k] + step * ix * (image[up, j, k] - here)
                y = dual[1, i, j, k] + step * iy * (image[i, right, k] - here)
                z = dual[2, i, j, k] + step * iz * (image[i, j, min(k + 1, nz - 1)] - here)
                scale = one / max(one, np.sqrt(x * x + y * y + z * z))
                newer[0, i, j, k] = x * scale
                newer[1, i, j, k] = y * scale
                newer[2, i, j, k] = z * scale


@njit(cache=True, nogil=True)
def gap_of(noisy, image, dual, inverse):
    """Return the duality gap and the primal objective 1/2 |image - noisy|^2 + TV(image)."""
    nx, ny, nz = image.shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    gap = 0.0
    objective = 0.0
    for i in range(nx):
        up = min(i + 1, nx - 1)
        for j in range(ny):
            right = min(j + 1, ny - 1)
            for k in range(nz):
                here = image[i, j, k]
                x = ix * (image[up, j, k] - here)
                y = iy * (image[i, right, k] - here)
                z = iz * (image[i, j, min(k + 1, nz - 1)] - here)
                length = np.sqrt(np.float64(x * x + y * y + z * z))
                gap += length - x * dual[0, i, j, k] - y * dual[1, i, j, k] - z * dual[2, i, j, k]
                objective += length + 0.5 * np.float64(here - noisy[i, j, k]) ** 2
    return gap, objective
