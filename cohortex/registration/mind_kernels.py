"""Compiled loops of MIND-SSC, quantised to a byte a channel; compiled code is cached beside this file or in the user's cache.

The image comes padded by `MARGIN` on every side. A voxel's self-similarities are the patch distances between pairs of its six neighbours at
distance `DILATION` whose connecting lines do not pass through it; patches are cubes of 3 voxels. Six shifts give all twelve pairs, each
shift two of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

CHANNELS = 12
DILATION = 2
MARGIN = 2 * DILATION + 1
"""Voxels beyond the image that the outermost descriptor looks at (patch of radius 1 at two dilations)."""
LONGEST = np.float32(8.0)
"""Distances over variances beyond this are as good as infinite: exp(-8) is a tenth of a byte's step."""

SHIFTS = np.array([[2, 2, 0], [-2, 2, 0], [2, 0, 2], [-2, 0, 2], [0, 2, 2], [0, -2, 2]])
"""From one neighbour to the other."""
STARTS = np.array(
    [
        [[-2, 0, 0], [0, -2, 0]],
        [[2, 0, 0], [0, -2, 0]],
        [[-2, 0, 0], [0, 0, -2]],
        [[2, 0, 0], [0, 0, -2]],
        [[0, -2, 0], [0, 0, -2]],
        [[0, 2, 0], [0, 0, -2]],
    ]
)
"""Where the two pairs of each shift begin, from the voxel."""


@njit(cache=True, nogil=True)
def mean_variance(padded, step):
    """Return the mean, over every `step`-th voxel along each axis, of the mean less the smallest of the twelve patch distances."""
    nx, ny, nz = padded.shape[0] - 2 * MARGIN, padded.shape[1] - 2 * MARGIN, padded.shape[2] - 2 * MARGIN
    total, count = 0.0, 0
    for i in range((nx - 1) % step // 2, nx, step):
        for j in range((ny - 1) % step // 2, ny, step):
            for k in range((nz - 1) % step // 2, nz, step):
                least, whole = np.inf, 0.0
                for s in range(6):
                    p, q, r = SHIFTS[s]
                    for t in range(2):
                        a, b, c = i + MARGIN + STARTS[s, t, 0], j + MARGIN + STARTS[s, t, 1], k + MARGIN + STARTS[s, t, 2]
                        distance = 0.0
                        for u in range(-1, 2):
                            for v in range(-1, 2):
                                for w in range(-1, 2):
                                    away = padded[a + u + p, b + v + q, c + w + r] - padded[a + u, b + v, c + w]
                                    distance += away * away
                        whole += distance
                        least = min(least, distance)
                total += whole / CHANNELS - least
                count += 1
    return total / max(count, 1)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _patches(padded, plane, s, flat, rows, across):
    """Set `flat` to the sums over 3 x 3 voxels of y and z of the squared differences of one shift in one plane x of the padded image."""
    p, q, r = SHIFTS[s]
    ny, nz = flat.shape
    # flat[j, k] is around padded voxel (plane, j + DILATION + 1, k + DILATION + 1)
    for j in range(ny + 2):
        here = padded[plane, j + DILATION, DILATION:]
        there = padded[plane + p, j + DILATION + q, DILATION + r :]
        line = rows[j]
        for k in range(nz + 2):
            away = there[k] - here[k]
            line[k] = away * away
    for j in range(ny):
        one, two, three = rows[j], rows[j + 1], rows[j + 2]
        for k in range(nz + 2):
            across[k] = one[k] + two[k] + three[k]
        line = flat[j]
        for k in range(nz):
            line[k] = across[k] + across[k + 1] + across[k + 2]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def descriptors(padded, floor, lowest, highest, out):
    """Set `out` (X, Y, Z, 12) uint8 to 255 exp(-distance / variance).

    `floor` is added to every variance, which is first kept between `lowest` and `highest`.
    """
    nx, ny, nz = out.shape[:3]
    my, mz = ny + 2 * DILATION, nz + 2 * DILATION
    flats = np.zeros((3, 6, my, mz), dtype=np.float32)
    ring = np.zeros((5, 6, my, mz), dtype=np.float32)
    rows = np.empty((my + 2, mz + 2), dtype=np.float32)
    across = np.empty(mz + 2, dtype=np.float32)
    lanes = np.empty((CHANNELS, nz), dtype=np.float32)
    least, scale = np.empty(nz, dtype=np.float32), np.empty(nz, dtype=np.float32)
    eighth = np.float32(0.125)
    for plane in range(DILATION, nx + 2 * MARGIN - DILATION):
        # Patches in y and z of this plane, then whole patches around the plane before.
        for s in range(6):
            _patches(padded, plane, s, flats[plane % 3, s], rows, across)
        if plane < DILATION + 2:
            continue
        for s in range(6):
            target = ring[(plane - 1) % 5, s]
            one, two, three = flats[0, s], flats[1, s], flats[2, s]
            for j in range(my):
                a, b, c, d = target[j], one[j], two[j], three[j]
                for k in range(mz):
                    a[k] = b[k] + c[k] + d[k]
        x = plane - 1 - DILATION - MARGIN
        if x < 0 or x >= nx:
            continue
        for j in range(ny):
            for s in range(6):
                for t in range(2):
                    source = ring[(x + MARGIN + STARTS[s, t, 0]) % 5, s, j + DILATION + STARTS[s, t, 1], DILATION + STARTS[s, t, 2] :]
                    lane = lanes[2 * s + t]
                    for k in range(nz):
                        lane[k] = source[k]
            for k in range(nz):
                least[k] = lanes[0, k]
                scale[k] = lanes[0, k]
            for c in range(1, CHANNELS):
                lane = lanes[c]
                for k in range(nz):
                    least[k] = min(least[k], lane[k])
                    scale[k] += lane[k]
            for k in range(nz):
                variance = scale[k] * np.float32(1 / CHANNELS) - least[k]
                variance = min(max(variance, lowest), highest) + floor
                scale[k] = np.float32(1) / variance
            for c in range(CHANNELS):
                lane = lanes[c]
                for k in range(nz):
                    # exp(-t) as the eighth power of a short series
                    t8 = min((lane[k] - least[k]) * scale[k], LONGEST) * eighth
                    e = np.float32(1) - t8 * (np.float32(1) - t8 * (np.float32(0.5) - t8 * (np.float32(1 / 6) - t8 * np.float32(1 / 24))))
                    e = e * e
                    e = e * e
                    lane[k] = e * e * np.float32(255) + np.float32(0.5)
            target = out[x, j]
            for k in range(nz):
                for c in range(CHANNELS):
                    target[k, c] = np.uint8(lanes[c, k])


@njit(cache=True, nogil=True)
def halved(source, out):
    """Set `out` (X, Y, Z, C) uint8 to the rounded means of 2 x 2 x 2 voxels."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                for c in range(out.shape[3]):
                    total = np.uint16(4)
                    for p in range(2):
                        for q in range(2):
                            here = source[2 * i + p, 2 * j + q]
                            total += np.uint16(here[2 * k, c]) + np.uint16(here[2 * k + 1, c])
                    out[i, j, k, c] = np.uint8(total >> np.uint16(3))
