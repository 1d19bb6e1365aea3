"""Compiled loop of `cohortex.filters.transform`; compiled code is cached beside this file or in the user's cache."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _forward(source, i, j, basis_a, basis_b, basis_c, columns, half, coefficients):
    """Transform the blocks at (i, j, every k); `coefficients` is (a * b * c, number of blocks)."""
    na, nb, nc = basis_a.shape[0], basis_b.shape[0], basis_c.shape[0]
    length, count = source.shape[2], coefficients.shape[1]
    for a in range(na):
        for v in range(nb):
            row = half[a * nb + v]
            first = basis_b[v, 0]
            line = source[i + a, j]
            for k in range(length):
                row[k] = first * line[k]
            for b in range(1, nb):
                factor = basis_b[v, b]
                line = source[i + a, j + b]
                for k in range(length):
                    row[k] += factor * line[k]
    for u in range(na):
        for v in range(nb):
            row = columns[u * nb + v]
            first = basis_a[u, 0]
            line = half[v]
            for k in range(length):
                row[k] = first * line[k]
            for a in range(1, na):
                factor = basis_a[u, a]
                line = half[a * nb + v]
                for k in range(length):
                    row[k] += factor * line[k]
    for uv in range(na * nb):
        line = columns[uv]
        for w in range(nc):
            row = coefficients[uv * nc + w]
            if nc == 4:
                d0, d1, d2, d3 = basis_c[w, 0], basis_c[w, 1], basis_c[w, 2], basis_c[w, 3]
                for k in range(count):
                    row[k] = d0 * line[k] + d1 * line[k + 1] + d2 * line[k + 2] + d3 * line[k + 3]
                continue
            for k in range(count):
                row[k] = basis_c[w, 0] * line[k]
            for c in range(1, nc):
                factor = basis_c[w, c]
                for k in range(count):
                    row[k] += factor * line[k + c]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _backward(coefficients, i, j, basis_a, basis_b, basis_c, columns, half, total):
    """Add the inverse transform of the blocks at (i, j, every k) to `total`."""
    na, nb, nc = basis_a.shape[0], basis_b.shape[0], basis_c.shape[0]
    length, count = total.shape[2], coefficients.shape[1]
    for uv in range(na * nb):
        line = columns[uv]
        line[:] = np.float32(0)
        for c in range(nc):
            if nc == 4:
                d0, d1, d2, d3 = basis_c[0, c], basis_c[1, c], basis_c[2, c], basis_c[3, c]
                r0, r1 = coefficients[uv * 4], coefficients[uv * 4 + 1]
                r2, r3 = coefficients[uv * 4 + 2], coefficients[uv * 4 + 3]
                for k in range(count):
                    line[k + c] += d0 * r0[k] + d1 * r1[k] + d2 * r2[k] + d3 * r3[k]
                continue
            for w in range(nc):
                factor = basis_c[w, c]
                row = coefficients[uv * nc + w]
                for k in range(count):
                    line[k + c] += factor * row[k]
    for a in range(na):
        for v in range(nb):
            row = half[a * nb + v]
            first = basis_a[0, a]
            line = columns[v]
            for k in range(length):
                row[k] = first * line[k]
            for u in range(1, na):
                factor = basis_a[u, a]
                line = columns[u * nb + v]
                for k in range(length):
                    row[k] += factor * line[k]
    for a in range(na):
        for b in range(nb):
            target = total[i + a, j + b]
            for v in range(nb):
                factor = basis_b[v, b]
                line = half[a * nb + v]
                for k in range(length):
                    target[k] += factor * line[k]


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def shrink(noisy, pilot, basis_a, basis_b, basis_c, threshold, total, weight):
    """Shrink every block of an image with noise of sigma 1 and add it, weighted, to `total`, its weight to `weight`.

    With a threshold above 0 coefficients below it are set to zero (the mean of a block never is), a block weighs one over
    the number of coefficients it keeps; with threshold 0 the gains are p^2 / (p^2 + 1) from the coefficients p of `pilot`,
    a block weighs one over the sum of the squared gains.
    """
    na, nb, nc = basis_a.shape[0], basis_b.shape[0], basis_c.shape[0]
    length = noisy.shape[2]
    count = length - nc + 1
    one = np.float32(1)
    columns = np.empty((na * nb, length), dtype=np.float32)
    half = np.empty((na * nb, length), dtype=np.float32)
    coefficients = np.empty((na * nb * nc, count), dtype=np.float32)
    predicted = np.empty((na * nb * nc, count), dtype=np.float32)
    energy = np.empty(count, dtype=np.float32)
    spread = np.empty(length, dtype=np.float32)
    squared = threshold * threshold
    for i in range(noisy.shape[0] - na + 1):
        for j in range(noisy.shape[1] - nb + 1):
            _forward(noisy, i, j, basis_a, basis_b, basis_c, columns, half, coefficients)
            energy[:] = one
            if threshold > 0:
                for f in range(1, na * nb * nc):
                    row = coefficients[f]
                    for k in range(count):
                        value = row[k]
                        keep = one if value * value > squared else np.float32(0)
                        row[k] = value * keep
                        energy[k] += keep
            else:
                _forward(pilot, i, j, basis_a, basis_b, basis_c, columns, half, predicted)
                for f in range(1, na * nb * nc):
                    row, guess = coefficients[f], predicted[f]
                    for k in range(count):
                        power = guess[k] * guess[k]
                        gain = power / (power + one)
                        row[k] *= gain
                        energy[k] += gain * gain
            for k in range(count):
                energy[k] = one / energy[k]
            for f in range(na * nb * nc):
                row = coefficients[f]
                for k in range(count):
                    row[k] *= energy[k]
            _backward(coefficients, i, j, basis_a, basis_b, basis_c, columns, half, total)
            spread[:] = np.float32(0)
            for c in range(nc):
                for k in range(count):
                    spread[k + c] += energy[k]
            for a in range(na):
                for b in range(nb):
                    target = weight[i + a, j + b]
                    for k in range(length):
                        target[k] += spread[k]
