"""Compiled loops of `cohortex.filters.anisotropic_diffusion`; compiled code is cached beside this file or in the user's cache."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def mean_squared_gradient(image, inverse):
    """Return the mean of the squared central gradient; `inverse` holds one over the spacings, 0 for an axis of one voxel."""
    nx, ny, nz = image.shape
    total = 0.0
    for i in range(nx):
        up, down = min(i + 1, nx - 1), max(i - 1, 0)
        for j in range(ny):
            right, left = min(j + 1, ny - 1), max(j - 1, 0)
            line = np.float32(0)
            for k in range(nz):
                x = (image[up, j, k] - image[down, j, k]) * inverse[0]
                y = (image[i, right, k] - image[i, left, k]) * inverse[1]
                z = (image[i, j, min(k + 1, nz - 1)] - image[i, j, max(k - 1, 0)]) * inverse[2]
                line += x * x + y * y + z * z
            total += line
    return 0.25 * total / (nx * ny * nz)


@njit(cache=True, nogil=True, inline="always")
def _open(squared, along_exp):
    """Return the conductance of a squared gradient over the squared scale."""
    return np.exp(-squared) if along_exp else np.float32(1) / (np.float32(1) + squared)


@njit(cache=True, nogil=True, fastmath=True)
def fluxes(image, inverse, over_scale, along_exp, change):
    """Add what flows into every voxel to `change`.

    Between two voxels the gradient is their difference along their axis and the mean of both central differences across it.
    """
    nx, ny, nz = image.shape
    ix, iy, iz = inverse[0], inverse[1], inverse[2]
    quarter = np.float32(0.0625)
    for i in range(nx):
        up, down = min(i + 1, nx - 1), max(i - 1, 0)
        for j in range(ny):
            right, left = min(j + 1, ny - 1), max(j - 1, 0)
            for k in range(nz):
                after, before = min(k + 1, nz - 1), max(k - 1, 0)
                here = image[i, j, k]
                x = (image[up, j, k] - image[down, j, k]) * ix
                y = (image[i, right, k] - image[i, left, k]) * iy
                z = (image[i, j, after] - image[i, j, before]) * iz
                if i + 1 < nx:
                    step = (image[up, j, k] - here) * ix
                    across_y = y + (image[up, right, k] - image[up, left, k]) * iy
                    across_z = z + (image[up, j, after] - image[up, j, before]) * iz
                    flow = step * ix * _open((step * step + quarter * (across_y * across_y + across_z * across_z)) * over_scale, along_exp)
                    change[i, j, k] += flow
                    change[i + 1, j, k] -= flow
                if j + 1 < ny:
                    step = (image[i, right, k] - here) * iy
                    across_x = x + (image[up, right, k] - image[down, right, k]) * ix
                    across_z = z + (image[i, right, after] - image[i, right, before]) * iz
                    flow = step * iy * _open((step * step + quarter * (across_x * across_x + across_z * across_z)) * over_scale, along_exp)
                    change[i, j, k] += flow
                    change[i, j + 1, k] -= flow
                if k + 1 < nz:
                    step = (image[i, j, after] - here) * iz
                    across_x = x + (image[up, j, after] - image[down, j, after]) * ix
                    across_y = y + (image[i, right, after] - image[i, left, after]) * iy
                    flow = step * iz * _open((step * step + quarter * (across_x * across_x + across_y * across_y)) * over_scale, along_exp)
                    change[i, j, k] += flow
                    change[i, j, k + 1] -= flow
