"""Which samples of k-space are measured: masks whose acceleration is exactly the nominal one.

Lines of `cohortex.physics.mr.cartesian_mask` are one more kind. The centre of n samples is n // 2. Every mask has exactly
``round(samples / acceleration)`` True values.
"""

from __future__ import annotations

import math

import numba
import numpy as np


def uniform_lines(lines: int, acceleration: float, centre: float, rng: np.random.Generator) -> np.ndarray:
    """Return lines that lie evenly, and all of the centre (as in fastMRI, Zbontar et al., arXiv:1811.08839).

    Parameters
    ----------
    lines : int
        Of the full k-space.
    acceleration : float
        Lines of the full k-space over measured lines, at least 1.
    centre : float
        Share of the lines around the centre that is always measured.
    rng : numpy.random.Generator
        Draws where the first line lies.

    Returns
    -------
    (lines,) bool array

    Raises
    ------
    ValueError
        When the centre alone holds more lines than are to be measured.
    """
    wanted, mask = _centre_lines(lines, acceleration, centre)
    free = np.flatnonzero(~mask)
    outside = wanted - int(mask.sum())
    if outside:
        step = len(free) / outside
        mask[free[np.floor((np.arange(outside) + rng.random()) * step).astype(int)]] = True
    return mask


def gaussian_lines(lines: int, acceleration: float, centre: float, rng: np.random.Generator, width: float = 0.2) -> np.ndarray:
    """Return random lines whose density falls as a Gaussian from the centre, which is measured whole.

    Parameters are those of `uniform_lines`; `width` is the standard deviation as a share of the lines (Yang et al., DAGAN, IEEE
    Trans. Med. Imaging 37(6), 2018, use such masks).
    """
    wanted, mask = _centre_lines(lines, acceleration, centre)
    distance = (np.arange(lines) - lines // 2) / (width * lines)
    return _drawn(mask, np.exp(-(distance**2) / 2), wanted, rng)


def gaussian_points(shape: tuple[int, int], acceleration: float, centre: float, rng: np.random.Generator, width: float = 0.2) -> np.ndarray:
    """Return random points of a plane of phase encodings, denser near the centre as a Gaussian.

    Parameters
    ----------
    shape : (int, int)
        Of the plane.
    acceleration : float
        Points of the full plane over measured points, at least 1.
    centre : float
        Share of the points, in an ellipse around the centre, that is always measured.
    rng : numpy.random.Generator
    width : float
        Standard deviation, as a share of the length of either axis.

    Returns
    -------
    array of `shape`, bool

    Raises
    ------
    ValueError
        When the centre alone holds more points than are to be measured.
    """
    wanted, mask, distance = _centre_points(shape, acceleration, centre)
    return _drawn(mask, np.exp(-((distance / (2 * width)) ** 2) / 2), wanted, rng)


def poisson_disc(shape: tuple[int, int], acceleration: float, centre: float, rng: np.random.Generator, growth: float = 1.0) -> np.ndarray:
    """Return random points that keep a distance from each other, one that grows from the centre (Poisson disc).

    Points are drawn in a random order; one is taken if none that was taken lies nearer than its distance (dart throwing, Cook,
    ACM Trans. Graph. 5(1), 1986). The distance is the largest one that still gives enough points, and of those that are too many
    random ones are left out again, so distances hold. Other parameters are those of `gaussian_points`.

    Parameters
    ----------
    growth : float
        How much larger the distance is at the edge of the plane than in the middle, 0 for an even density.
    """
    wanted, mask, distance = _centre_points(shape, acceleration, centre)
    inner = mask.copy()
    missing = wanted - int(inner.sum())
    if not missing:
        return mask
    order = rng.permutation(np.flatnonzero(~inner.ravel()))
    least = (1 + growth * np.minimum(distance, 1)).astype(np.float32)
    low, high = 0.0, float(max(shape))
    found = np.zeros(shape, bool)
    for _ in range(24):
        middle = (low + high) / 2
        taken = _darts(order, least * np.float32(middle), shape[0], shape[1])
        if np.count_nonzero(taken) >= missing:
            low, found = middle, taken
        else:
            high = middle
        if np.count_nonzero(found) == missing:
            break
    if not found.any():  # not even touching points suffice: all are taken
        found = ~inner
    mask.ravel()[rng.choice(np.flatnonzero(found.ravel()), missing, replace=False)] = True
    return mask


def radial(shape: tuple[int, int], acceleration: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Return the grid points along spokes that are the golden angle apart (Winkelmann et al., IEEE Trans. Med. Imaging 26(1), 2007).

    Parameters
    ----------
    shape : (int, int)
        Of k-space.
    acceleration : float
        Points of the full k-space over measured points, at least 1; the last spoke ends where their number is reached.
    rng : numpy.random.Generator, optional
        Draws the first angle; it is 0 when None.

    Returns
    -------
    array of `shape`, bool
    """
    wanted = _wanted(shape[0] * shape[1], acceleration)
    mask = np.zeros(shape, bool)
    reach = math.hypot(*shape) / 2 + 1
    steps = np.arange(0, reach, 0.5)
    away = np.stack([steps, -steps], axis=1).ravel()  # from the centre outwards, on both sides
    angle = float(rng.uniform(0, math.pi)) if rng is not None else 0.0
    count = 0
    for _ in range(64 * sum(shape)):
        points = np.stack([shape[0] // 2 + away * math.cos(angle), shape[1] // 2 + away * math.sin(angle)])
        i, j = np.rint(points).astype(int)
        inside = (i >= 0) & (j >= 0) & (i < shape[0]) & (j < shape[1])
        places = i[inside] * shape[1] + j[inside]
        fresh = places[~mask.ravel()[places]]
        _, first = np.unique(fresh, return_index=True)
        fresh = fresh[np.sort(first)][: wanted - count]
        mask.ravel()[fresh] = True
        count += len(fresh)
        if count == wanted:
            return mask
        angle += math.pi * (math.sqrt(5) - 1) / 2
    left = np.flatnonzero(~mask.ravel())  # spokes that leave hardly anything out: what they never meet, from the centre outwards
    i, j = np.unravel_index(left, shape)
    order = np.argsort(np.hypot(i - shape[0] // 2, j - shape[1] // 2), kind="stable")
    mask.ravel()[left[order[: wanted - count]]] = True
    return mask


def acceleration_of(mask: np.ndarray) -> float:
    """Return the samples of a mask over those that are measured."""
    return mask.size / int(np.count_nonzero(mask))


def _wanted(samples: int, acceleration: float) -> int:
    if acceleration < 1:
        raise ValueError(f"an acceleration of {acceleration:g} measures more than there is: give 1 or more")
    return max(1, round(samples / acceleration))


def _centre_lines(lines: int, acceleration: float, centre: float) -> tuple[int, np.ndarray]:
    """Return how many lines are wanted, and a mask of the centre."""
    wanted, inner = _wanted(lines, acceleration), round(lines * centre)
    if inner > wanted:
        raise ValueError(f"{wanted} of {lines} lines cannot hold a centre of {inner}: lower the acceleration or the centre")
    mask = np.zeros(lines, bool)
    mask[np.argsort(np.abs(np.arange(lines) - lines // 2), kind="stable")[:inner]] = True
    return wanted, mask


def _centre_points(shape: tuple[int, int], acceleration: float, centre: float) -> tuple[int, np.ndarray, np.ndarray]:
    """Return how many points are wanted, a mask of the centre, and each point's distance from it (1 at the middles of the edges)."""
    wanted, inner = _wanted(shape[0] * shape[1], acceleration), round(shape[0] * shape[1] * centre)
    if inner > wanted:
        raise ValueError(f"{wanted} of {shape[0] * shape[1]} points cannot hold a centre of {inner}: lower the acceleration or the centre")
    axes = [2 * (np.arange(n) - n // 2) / n for n in shape]
    distance = np.hypot(axes[0][:, None], axes[1])
    mask = np.zeros(shape, bool)
    mask.ravel()[np.argsort(distance.ravel(), kind="stable")[:inner]] = True
    return wanted, mask, distance


def _drawn(mask: np.ndarray, density: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return a mask with as many more samples, without replacement, as are wanted."""
    missing = wanted - int(mask.sum())
    if missing:
        # A floor keeps far samples possible where the density is 0 in floating point.
        chance = np.maximum(density, 1e-9).ravel() * ~mask.ravel()
        mask.ravel()[rng.choice(mask.size, missing, replace=False, p=chance / chance.sum())] = True
    return mask


@numba.njit(cache=True)
def _darts(order: np.ndarray, distance: np.ndarray, rows: int, columns: int) -> np.ndarray:  # pragma: no cover
    taken = np.zeros((rows, columns), np.bool_)
    for place in order:
        i, j = place // columns, place % columns
        least = distance[i, j]
        reach = int(least)
        free = True
        for di in range(-reach, reach + 1):
            for dj in range(-reach, reach + 1):
                a, b = i + di, j + dj
                if 0 <= a < rows and 0 <= b < columns and taken[a, b] and di * di + dj * dj < least * least:
                    free = False
                    break
            if not free:
                break
        taken[i, j] = free
    return taken
