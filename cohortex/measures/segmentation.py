"""How well two label maps agree: overlap and distances of surfaces.

A label that neither map has agrees perfectly by saying nothing: its value is NaN and it is left out of means. A label
that only one of the two has overlaps by 0 and is infinitely far away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from cohortex.blocks import Box, over_blocks
from cohortex.volume import ArrayLike


def dice(a: ArrayLike, b: ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Return the Dice overlap of every label (Dice, Ecology 26(3), 1945).

    Parameters
    ----------
    a, b : array-likes of the same shape
        Label maps; may be lazy.
    labels : sequence of int, optional
        Which labels; by default all that occur.

    Returns
    -------
    dict
        Label to 2 |A n B| / (|A| + |B|); NaN where neither map has the label.
    """
    return {label: _ratio(2 * both, na + nb) for label, (both, na, nb) in _counts(a, b, labels).items()}


def iou(a: ArrayLike, b: ArrayLike, labels: Sequence[int] | None = None) -> dict[int, float]:
    """Return the intersection over union of every label; parameters and NaN as in `dice`."""
    return {label: _ratio(both, na + nb - both) for label, (both, na, nb) in _counts(a, b, labels).items()}


def overlaps(a: ArrayLike, b: ArrayLike, labels: Sequence[int] | None = None) -> dict[int, dict[str, float]]:
    """Return all measures of overlap of every label, voxels being counted once.

    Parameters
    ----------
    a, b : array-likes of the same shape
        The truth and the result; may be lazy.
    labels : sequence of int, optional
        By default all that occur.

    Returns
    -------
    dict
        Label to ``dice``, ``iou``, ``recall`` (share of the truth that the result has) and ``precision`` (share of the result that is
        true). NaN where neither map has the label; recall also where the truth has not, precision where the result has not.
    """
    return {
        label: {
            "dice": _ratio(2 * both, na + nb),
            "iou": _ratio(both, na + nb - both),
            "recall": _ratio(both, na),
            "precision": _ratio(both, nb),
        }
        for label, (both, na, nb) in _counts(a, b, labels).items()
    }


def mean_of(values: dict[int, float]) -> float:
    """Return the mean over the labels that have a value; NaN when none has."""
    known = [v for v in values.values() if not np.isnan(v)]
    return float(np.mean(known)) if known else float("nan")


def hausdorff95_mm(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the 95th percentile of the distances between two surfaces in mm, the larger of both directions.

    Parameters
    ----------
    a, b : boolean arrays (X, Y, Z)
    spacing : three floats
        Distance of the voxels in mm.

    Returns
    -------
    float
        NaN when both masks are empty, infinity when one is.
    """
    apart = _surface_distances(a, b, spacing)
    if not isinstance(apart, tuple):
        return apart
    return float(max(np.percentile(apart[0], 95), np.percentile(apart[1], 95)))


def average_surface_distance_mm(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float:
    """Return the mean distance between two surfaces in mm over both directions; parameters and empty masks as in `hausdorff95_mm`."""
    apart = _surface_distances(a, b, spacing)
    return float(np.concatenate(apart).mean()) if isinstance(apart, tuple) else apart


def surface_distances_mm(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Return all measures of the distance of two surfaces in mm, which are looked for once.

    Returns
    -------
    dict
        ``hd95`` (`hausdorff95_mm`), ``asd`` (`average_surface_distance_mm`) and ``mhd``, the larger of both directions' means (the modified
        Hausdorff distance of Dubuisson and Jain, ICPR 1994). Parameters and empty masks as in `hausdorff95_mm`.
    """
    apart = _surface_distances(a, b, spacing)
    if not isinstance(apart, tuple):
        return dict.fromkeys(("hd95", "asd", "mhd"), apart)
    there, back = apart
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "asd": float(np.concatenate(apart).mean()),
        "mhd": float(max(there.mean(), back.mean())),
    }


def volumes_ml(labels: ArrayLike, spacing: Sequence[float]) -> dict[int, float]:
    """Return the volume of every label that occurs, in millilitres; the map may be lazy."""
    each = float(np.prod(np.asarray(spacing, float))) / 1000.0
    tallies = over_blocks(lambda _, block: _tally(block), labels)
    return {label: count * each for label, count in sorted(_added(tallies).items()) if label}


def _counts(a: ArrayLike, b: ArrayLike, labels: Sequence[int] | None) -> dict[int, tuple[int, int, int]]:
    """Return how many voxels have a label in both maps, in the first and in the second; block by block."""
    if a.shape != b.shape:
        raise ValueError(f"label maps on one grid are compared, these are {a.shape} and {b.shape}")
    if len(a.shape) != 3:
        a, b = (np.asarray(x[...]).reshape(-1, 1, 1) for x in (a, b))

    def one(_: Box, x: np.ndarray, y: np.ndarray) -> tuple[Counter[int], Counter[int], Counter[int]]:
        return _tally(x[x == y]), _tally(x), _tally(y)

    both, na, nb = (_added(tallies) for tallies in zip(*over_blocks(one, a, b), strict=True))
    wanted = sorted({*na, *nb} - {0}) if labels is None else labels
    return {k: (both[k], na[k], nb[k]) for k in wanted}


def swapped(a: ArrayLike, b: ArrayLike) -> list[tuple[int, int, int, int]]:
    """Return the pairs of labels that seem to have changed places between two maps.

    Parameters
    ----------
    a, b : (X, Y, Z) array-likes
        Label maps on one grid; may be lazy.

    Returns
    -------
    list of (one, other, crossed, same)
        Labels whose voxels in common carry the other's number more often than their own: ``crossed`` voxels against ``same``.
    """

    def one(_: Box, x: np.ndarray, y: np.ndarray) -> Counter[tuple[int, int]]:
        there = (x > 0) & (y > 0)
        if not there.any():
            return Counter()
        pairs, counts = np.unique(np.stack([x[there], y[there]]).astype(np.int64), axis=1, return_counts=True)
        return Counter({(int(p), int(q)): int(n) for (p, q), n in zip(pairs.T, counts, strict=True)})

    seen: Counter[tuple[int, int]] = Counter()
    for tally in over_blocks(one, a, b):
        seen.update(tally)
    found = []
    for p, q in sorted(seen):
        crossed, same = (seen[p, q], seen[q, p]), (seen[p, p], seen[q, q])
        if p < q and min(crossed) > max(same):
            found.append((p, q, sum(crossed), sum(same)))
    return found


def _tally(values: np.ndarray) -> Counter[int]:
    """Return how often each value occurs."""
    flat = values.reshape(-1)
    if flat.dtype.kind in "bui" and flat.size and flat.min() >= 0 and flat.max() < 2**16:
        # without sorting
        counts = np.bincount(flat.astype(np.intp, copy=False))
        return Counter({int(label): int(counts[label]) for label in np.flatnonzero(counts)})
    found, counts = np.unique(flat, return_counts=True)
    return Counter({int(label): int(count) for label, count in zip(found, counts, strict=True)})


def _added(tallies: Iterable[Counter[int]]) -> Counter[int]:
    total: Counter[int] = Counter()
    for tally in tallies:
        total.update(tally)
    return total


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _surface_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float | tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage as ndi

    if a.shape != b.shape:
        raise ValueError(f"masks on one grid are compared, these are {a.shape} and {b.shape}")
    a, b = a.astype(bool), b.astype(bool)
    if not a.any() and not b.any():
        return float("nan")
    if not a.any() or not b.any():
        return float("inf")
    union = ndi.find_objects((a | b).astype(np.uint8))[0]
    a, b = (np.pad(x[union], 1) for x in (a, b))
    # Surfaces are the voxels of a mask that touch its outside by a face.
    rim_a, rim_b = (x & np.logical_not(ndi.binary_erosion(x)) for x in (a, b))
    to_a, to_b = (np.asarray(ndi.distance_transform_edt(~x, sampling=tuple(spacing))) for x in (rim_a, rim_b))
    return to_b[rim_a], to_a[rim_b]
