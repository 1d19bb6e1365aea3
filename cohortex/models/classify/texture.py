"""Texture features: how grey levels lie beside each other (co-occurrence, runs, zones), in three dimensions."""

from __future__ import annotations

import numpy as np
from numba import njit

GLCM_NAMES = (
    "joint_maximum",
    "joint_average",
    "joint_variance",
    "joint_entropy",
    "difference_average",
    "difference_variance",
    "difference_entropy",
    "sum_average",
    "sum_variance",
    "sum_entropy",
    "angular_second_moment",
    "contrast",
    "dissimilarity",
    "inverse_difference",
    "inverse_difference_normalised",
    "inverse_difference_moment",
    "inverse_difference_moment_normalised",
    "inverse_variance",
    "correlation",
    "autocorrelation",
    "cluster_tendency",
    "cluster_shade",
    "cluster_prominence",
    "information_correlation1",
    "information_correlation2",
)
EMPHASIS_NAMES = (
    "short",
    "long",
    "low",
    "high",
    "short_low",
    "short_high",
    "long_low",
    "long_high",
    "level_nonuniformity",
    "level_nonuniformity_normalised",
    "length_nonuniformity",
    "length_nonuniformity_normalised",
    "percentage",
    "level_variance",
    "length_variance",
    "entropy",
)

# One of each pair of opposite neighbours: the 13 directions of a 3 x 3 x 3 neighbourhood.
DIRECTIONS = np.array(
    [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1) if (x, y, z) > (0, 0, 0)],
    dtype=np.int64,
)


IN_PLANE = DIRECTIONS[DIRECTIONS[:, 2] == 0]
"""The four of them within a slice."""


def glcm(levels: np.ndarray, count: int, directions: np.ndarray = DIRECTIONS) -> dict[str, float]:
    """Return grey-level co-occurrence features, the directions merged before the features are taken.

    Parameters
    ----------
    levels : (x, y, z) unsigned integer array
        0 outside the region, 1 to `count` inside. The grid should be isotropic: all neighbours count alike.
    count : int
        Number of grey levels that the discretisation allows.
    directions : (n, 3) integer array
        `DIRECTIONS`, or `IN_PLANE` for slices that have nothing to do with each other.

    Returns
    -------
    dict of str to float
        `GLCM_NAMES`; all NaN when the region has no two neighbouring voxels. Entropies are in bits.

    References
    ----------
    Haralick et al., Textural features for image classification, IEEE SMC 1973; IBSI reference manual, section 3.6.
    """
    pairs = _cooccurrence(np.ascontiguousarray(levels, dtype=np.uint16), directions, count)
    pairs = pairs + pairs.T
    if pairs.sum() == 0:
        return dict.fromkeys(GLCM_NAMES, float("nan"))
    p = pairs / pairs.sum()
    number = np.arange(1, count + 1, dtype=np.float64)
    i, j = number[:, None], number[None, :]
    marginal = p.sum(axis=1)
    apart = np.abs(i - j)
    difference = np.bincount(apart.astype(int).ravel(), weights=p.ravel(), minlength=count)
    total = np.bincount((i + j).astype(int).ravel(), weights=p.ravel())
    k, s = np.arange(difference.size), np.arange(total.size)
    average = float((marginal * number).sum())
    variance = float((marginal * (number - average) ** 2).sum())
    difference_average, sum_average = float((k * difference).sum()), float((s * total).sum())
    cluster = i + j - 2.0 * average
    hx, hxy = _bits(marginal), _bits(p)
    product = marginal[:, None] * marginal[None, :]
    logs = np.log2(product, out=np.zeros_like(product), where=product > 0)
    hxy1, hxy2 = float(-(p * logs).sum()), float(-(product * logs).sum())
    off = apart > 0
    return {
        "joint_maximum": float(p.max()),
        "joint_average": average,
        "joint_variance": variance,
        "joint_entropy": hxy,
        "difference_average": difference_average,
        "difference_variance": float(((k - difference_average) ** 2 * difference).sum()),
        "difference_entropy": _bits(difference),
        "sum_average": sum_average,
        "sum_variance": float(((s - sum_average) ** 2 * total).sum()),
        "sum_entropy": _bits(total),
        "angular_second_moment": float((p**2).sum()),
        "contrast": float((p * apart**2).sum()),
        "dissimilarity": float((p * apart).sum()),
        "inverse_difference": float((p / (1 + apart)).sum()),
        "inverse_difference_normalised": float((p / (1 + apart / count)).sum()),
        "inverse_difference_moment": float((p / (1 + apart**2)).sum()),
        "inverse_difference_moment_normalised": float((p / (1 + apart**2 / count**2)).sum()),
        "inverse_variance": float((p[off] / apart[off] ** 2).sum()),
        # a region of one level is perfectly correlated with itself
        "correlation": float((p * (i - average) * (j - average)).sum() / variance) if variance > 0 else 1.0,
        "autocorrelation": float((p * i * j).sum()),
        "cluster_tendency": float((p * cluster**2).sum()),
        "cluster_shade": float((p * cluster**3).sum()),
        "cluster_prominence": float((p * cluster**4).sum()),
        "information_correlation1": (hxy - hxy1) / hx if hx > 0 else 0.0,
        "information_correlation2": float(np.sqrt(max(0.0, 1.0 - np.exp(-2.0 * (hxy2 - hxy))))),
    }


def glrlm(levels: np.ndarray, count: int, directions: np.ndarray = DIRECTIONS) -> dict[str, float]:
    """Return grey-level run-length features, the directions merged.

    Parameters are those of `glcm`; "short" and "long" in `EMPHASIS_NAMES` are runs. All NaN for an empty region.

    References
    ----------
    Galloway, Texture analysis using gray level run lengths, CGIP 1975; IBSI reference manual, section 3.7.
    """
    longest = max(levels.shape)
    runs = _runs(np.ascontiguousarray(levels, dtype=np.uint16), directions, count, longest)
    level, length = np.nonzero(runs)
    return emphases(level + 1, length + 1, runs[level, length], int((levels > 0).sum()) * len(directions))


def glszm(levels: np.ndarray) -> dict[str, float]:
    """Return grey-level size-zone features: zones are 26-connected voxels of one level.

    Parameters are those of `glcm`; "short" and "long" in `EMPHASIS_NAMES` are small and large zones. All NaN for an empty region.

    References
    ----------
    Thibault et al., Texture indexes and gray level size zone matrix, PRIP 2009; IBSI reference manual, section 3.8.
    """
    zone, level = zones(levels)
    sizes = np.bincount(zone.ravel(), minlength=level.size + 1)[1:]
    return emphases(*counted_pairs(level, sizes), int(sizes.sum()))


def zones(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each voxel's zone (0 outside the region) and the level of each zone, from the first one on."""
    import cc3d

    zone = np.asarray(cc3d.connected_components(np.ascontiguousarray(levels, dtype=np.uint16), connectivity=26))
    inside = zone > 0
    level = np.zeros(int(zone.max(initial=0)) + 1, dtype=np.int64)
    level[zone[inside]] = levels[inside]
    return zone, level[1:]


def counted_pairs(level: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of two non-negative integers that occur, in ascending order, and how often each does."""
    base = int(other.max(initial=0)) + 1
    codes, counts = np.unique(level.astype(np.int64) * base + other, return_counts=True)
    return codes // base, codes % base, counts


def emphases(level: np.ndarray, length: np.ndarray, counts: np.ndarray, possible: int) -> dict[str, float]:
    """Return `EMPHASIS_NAMES` of a sparse matrix of (level, length) counts; `possible` is the number of runs of length 1."""
    total = float(counts.sum())
    if total == 0:
        return dict.fromkeys(EMPHASIS_NAMES, float("nan"))
    i, j, p = level.astype(np.float64), length.astype(np.float64), counts / total
    by_level = np.bincount(level, weights=counts)
    by_length = np.unique(length, return_inverse=True)[1]
    by_length = np.bincount(by_length, weights=counts)
    i_mean, j_mean = (i * p).sum(), (j * p).sum()
    values = (
        (p / j**2).sum(),
        (p * j**2).sum(),
        (p / i**2).sum(),
        (p * i**2).sum(),
        (p / (i * j) ** 2).sum(),
        (p * i**2 / j**2).sum(),
        (p * j**2 / i**2).sum(),
        (p * (i * j) ** 2).sum(),
        (by_level**2).sum() / total,
        (by_level**2).sum() / total**2,
        (by_length**2).sum() / total,
        (by_length**2).sum() / total**2,
        total / possible,
        (p * (i - i_mean) ** 2).sum(),
        (p * (j - j_mean) ** 2).sum(),
        _bits(p),
    )
    return {name: float(value) for name, value in zip(EMPHASIS_NAMES, values, strict=True)}


def _bits(p: np.ndarray) -> float:
    """Return the entropy of probabilities in bits."""
    present = p[p > 0]
    return float(-(present * np.log2(present)).sum())


@njit(cache=True)
def _cooccurrence(levels: np.ndarray, directions: np.ndarray, count: int) -> np.ndarray:
    """Count the pairs of neighbours by their levels, each pair once."""
    nx, ny, nz = levels.shape
    pairs = np.zeros((count, count), dtype=np.int64)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                here = levels[x, y, z]
                if here == 0:
                    continue
                for d in range(directions.shape[0]):
                    u, v, w = x + directions[d, 0], y + directions[d, 1], z + directions[d, 2]
                    if 0 <= u < nx and 0 <= v < ny and 0 <= w < nz:
                        there = levels[u, v, w]
                        if there > 0:
                            pairs[here - 1, there - 1] += 1
    return pairs


@njit(cache=True)
def _runs(levels: np.ndarray, directions: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Count the runs of equal levels by level and length, along every direction."""
    nx, ny, nz = levels.shape
    runs = np.zeros((count, longest), dtype=np.int64)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                here = levels[x, y, z]
                if here == 0:
                    continue
                for d in range(directions.shape[0]):
                    dx, dy, dz = directions[d, 0], directions[d, 1], directions[d, 2]
                    u, v, w = x - dx, y - dy, z - dz
                    if 0 <= u < nx and 0 <= v < ny and 0 <= w < nz and levels[u, v, w] == here:
                        continue  # not the first voxel of its run
                    length = 1
                    u, v, w = x + dx, y + dy, z + dz
                    while 0 <= u < nx and 0 <= v < ny and 0 <= w < nz and levels[u, v, w] == here:
                        length += 1
                        u, v, w = u + dx, v + dy, w + dz
                    runs[here - 1, length - 1] += 1
    return runs
