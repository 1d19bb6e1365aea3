"""Texture features of neighbourhoods: distance zones, grey-tone differences, grey-level dependence, local binary patterns."""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.models.classify.texture import DIRECTIONS, EMPHASIS_NAMES, counted_pairs, emphases, zones

NGTDM_NAMES = ("coarseness", "contrast", "busyness", "complexity", "strength")
NGLDM_NAMES = (*EMPHASIS_NAMES, "energy")
COARSEST = 1e6
"""What the coarseness of a region is where no voxel differs from its neighbours."""
AROUND = np.concatenate([DIRECTIONS, -DIRECTIONS])
"""The 26 neighbours of a voxel."""
LBP_POINTS = 8
LBP_NAMES = (*(f"uniform{ones}" for ones in range(LBP_POINTS + 1)), "other")
# Eight points on a circle of one pixel, in their order, as offsets along x and y.
CIRCLE = np.stack([np.cos(np.arange(LBP_POINTS) * np.pi / 4), np.sin(np.arange(LBP_POINTS) * np.pi / 4)], axis=1).round(12)


def gldzm(levels: np.ndarray, mask: np.ndarray, planar: bool = False) -> dict[str, float]:
    """Return grey-level distance-zone features: where in the region the zones of one level lie.

    Parameters
    ----------
    levels : (x, y, z) unsigned integer array
        0 outside the region, 1 and more inside. The grid should be isotropic.
    mask : (x, y, z) bool array
        The region whose edge counts; it may have voxels without a level.
    planar : bool
        The edge of the region is looked for within slices (those of a picture).

    Returns
    -------
    dict of str to float
        `EMPHASIS_NAMES`, where "short" and "long" are small and large distances to the edge (1 on it; a zone has the
        smallest of its voxels, in steps from face to face); all NaN for an empty region.

    References
    ----------
    Thibault et al., Advanced statistical matrices for texture characterization: application to cell classification,
    IEEE Trans. Biomedical Engineering 2014; IBSI reference manual, section 3.9.
    """
    from scipy import ndimage

    zone, level = zones(levels)
    padded = np.pad(mask.astype(bool), 1)  # beyond the border of the grid there is no region
    if planar:
        slices = [np.asarray(ndimage.distance_transform_cdt(padded[:, :, k], "taxicab")) for k in range(padded.shape[2])]
        near = np.stack(slices, axis=2)[1:-1, 1:-1, 1:-1]
    else:
        near = np.asarray(ndimage.distance_transform_cdt(padded, "taxicab"))[1:-1, 1:-1, 1:-1]
    inside = zone > 0
    distance = np.full(level.size, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(distance, zone[inside] - 1, near[inside])
    return emphases(*counted_pairs(level, distance), int(inside.sum()))


def ngtdm(levels: np.ndarray) -> dict[str, float]:
    """Return neighbourhood grey-tone difference features, of all neighbours within one voxel.

    Parameters
    ----------
    levels : (x, y, z) unsigned integer array
        0 outside the region, 1 and more inside. The grid should be isotropic; of one slice the neighbours are those in it.

    Returns
    -------
    dict of str to float
        `NGTDM_NAMES`; all NaN when no voxel has a neighbour. Coarseness is at most `COARSEST`; contrast and busyness
        of a single level are 0, and so is strength where nothing differs.

    References
    ----------
    Amadasun and King, Textural features corresponding to textural properties, IEEE SMC 1989; IBSI reference manual, section 3.10.
    """
    count, difference = _differences(_padded(levels), AROUND, int(levels.max(initial=0)))
    level = np.flatnonzero(count)
    if level.size == 0:
        return dict.fromkeys(NGTDM_NAMES, float("nan"))
    total = float(count.sum())
    p, s, i = count[level] / total, difference[level], level.astype(np.float64)
    weighted, number = float((p * s).sum()), level.size
    apart = i[:, None] - i[None, :]
    spread = (p[:, None] * p[None, :] * apart**2).sum()
    steps = np.abs((i * p)[:, None] - (i * p)[None, :]).sum()
    mixed = ((p * s)[:, None] + (p * s)[None, :]) / (p[:, None] + p[None, :])
    return {
        "coarseness": min(1.0 / weighted, COARSEST) if weighted > 0 else COARSEST,
        "contrast": float(spread / (number * (number - 1)) * s.sum() / total) if number > 1 else 0.0,
        "busyness": float(weighted / steps) if number > 1 and steps > 0 else 0.0,
        "complexity": float((np.abs(apart) * mixed).sum() / total),
        "strength": float(((p[:, None] + p[None, :]) * apart**2).sum() / s.sum()) if s.sum() > 0 else 0.0,
    }


def ngldm(levels: np.ndarray) -> dict[str, float]:
    """Return neighbouring grey-level dependence features: how many voxels around a voxel have its own level.

    Parameters are those of `ngtdm`. A voxel's dependence counts itself, so it is 1 to 27 (9 in one slice); levels must be
    equal (coarseness parameter 0). The same matrix is known as GLDM.

    Returns
    -------
    dict of str to float
        `NGLDM_NAMES`, where "short" and "long" are low and high dependence; all NaN for an empty region.

    References
    ----------
    Sun and Wee, Neighboring gray level dependence matrix for texture classification, CVGIP 1983; IBSI reference manual,
    section 3.11.
    """
    table = _dependences(_padded(levels), AROUND, int(levels.max(initial=0)))
    level, dependence = np.nonzero(table)
    counts = table[level, dependence]
    found = emphases(level, dependence, counts, int(counts.sum()))
    total = counts.sum()
    return found | {"energy": float(((counts / total) ** 2).sum()) if total else float("nan")}


def lbp(values: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Return the shares of local binary patterns in a picture, invariant to rotation and to any growing change of its values.

    Each pixel is compared with eight points at a distance of one pixel around it, interpolated linearly. A pattern
    is uniform where the circle changes at most twice between not darker and darker; it is named by the number of points
    that are not darker. Pixels with a neighbour outside the region are left out.

    Parameters
    ----------
    values : (x, y) float array
    mask : (x, y) bool array

    Returns
    -------
    dict of str to float
        `LBP_NAMES`, with sum 1; all NaN when no pixel has all its neighbours in the region.

    References
    ----------
    Ojala, Pietikainen and Maenpaa, Multiresolution gray-scale and rotation invariant texture classification with local
    binary patterns, IEEE TPAMI 2002.
    """
    counts = _patterns(np.ascontiguousarray(values, dtype=np.float64), np.ascontiguousarray(mask, dtype=np.bool_), CIRCLE)
    total = counts.sum()
    shares = counts / total if total else np.full(counts.shape, np.nan)
    return {name: float(share) for name, share in zip(LBP_NAMES, shares, strict=True)}


def _padded(levels: np.ndarray) -> np.ndarray:
    """Return the levels with a border of nothing."""
    return np.pad(levels.astype(np.uint16, copy=False), 1)


@njit(cache=True)
def _differences(levels: np.ndarray, around: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, by level, how many voxels have a neighbour and the sum of their distances to the mean of their neighbours."""
    nx, ny, nz = levels.shape
    number = np.zeros(count + 1, dtype=np.int64)
    difference = np.zeros(count + 1, dtype=np.float64)
    for x in range(1, nx - 1):
        for y in range(1, ny - 1):
            for z in range(1, nz - 1):
                here = levels[x, y, z]
                if here == 0:
                    continue
                total, near = 0, 0
                for d in range(around.shape[0]):
                    there = levels[x + around[d, 0], y + around[d, 1], z + around[d, 2]]
                    if there > 0:
                        total += there
                        near += 1
                if near > 0:
                    number[here] += 1
                    difference[here] += abs(here - total / near)
    return number, difference


@njit(cache=True)
def _dependences(levels: np.ndarray, around: np.ndarray, count: int) -> np.ndarray:
    """Count voxels by their level and by how many voxels around them have it, too (themselves included)."""
    nx, ny, nz = levels.shape
    table = np.zeros((count + 1, around.shape[0] + 2), dtype=np.int64)
    for x in range(1, nx - 1):
        for y in range(1, ny - 1):
            for z in range(1, nz - 1):
                here = levels[x, y, z]
                if here == 0:
                    continue
                alike = 1
                for d in range(around.shape[0]):
                    if levels[x + around[d, 0], y + around[d, 1], z + around[d, 2]] == here:
                        alike += 1
                table[here, alike] += 1
    return table


@njit(cache=True)
def _patterns(values: np.ndarray, mask: np.ndarray, circle: np.ndarray) -> np.ndarray:
    """Count the patterns of the pixels whose neighbours all lie in the region."""
    nx, ny = values.shape
    points = circle.shape[0]
    counts = np.zeros(points + 2, dtype=np.int64)
    brighter = np.zeros(points, dtype=np.bool_)
    for x in range(1, nx - 1):
        for y in range(1, ny - 1):
            whole = True
            for u in range(x - 1, x + 2):
                for v in range(y - 1, y + 2):
                    whole = whole and mask[u, v]
            if not whole:
                continue
            here = values[x, y]
            for k in range(points):
                a, b = circle[k, 0], circle[k, 1]
                u, v = int(np.floor(a)), int(np.floor(b))
                fu, fv = a - u, b - v
                # weights of 0 may not reach over the border of the picture
                u2, v2 = (u + 1 if fu > 0 else u), (v + 1 if fv > 0 else v)
                low = (1 - fv) * values[x + u, y + v] + fv * values[x + u, y + v2]
                high = (1 - fv) * values[x + u2, y + v] + fv * values[x + u2, y + v2]
                # equal values count as not darker; the rounding of the interpolation must not turn them around
                brighter[k] = (1 - fu) * low + fu * high - here >= -1e-12 * max(1.0, abs(here))
            ones, changes = 0, 0
            for k in range(points):
                ones += brighter[k]
                changes += brighter[k] != brighter[k - 1]
            counts[ones if changes <= 2 else points + 1] += 1
    return counts
