"""What makes a result too good: images, subjects or answers that are on both sides of a split.

Copies are found whether they are the same to the bit or only look alike: shifted by a pixel, mirrored, brighter, noisier, resampled or
compressed. Every pair is compared, on thumbnails first, so time grows with the square of the number of images: 4,400 small pictures take
some seconds, 100,000 an hour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cohortex.errors import Refused
from cohortex.measures.classification import auc

ALIKE = 0.99
"""Correlation from which on two images are taken for one; X-rays of different chests stay below .97 after the best shift."""
GRID, CELLS = {2: 32, 3: 16}, {2: 8, 3: 4}
"""Voxels and thumbnail cells along each axis on which images are compared; smaller images keep their size."""
BEYOND = 0.85
"""Correlation beyond the mean from which on two images of one anatomy are taken for one. Of simulated heads, on the grid of a network,
copies with other noise, brightness or place keep .92 at least; different heads reach .66, and .81 where they are mere shells."""
ENOUGH = 8
"""Images whose mean says what all have in common."""
SLACK = 0.03
"""How much less two thumbnails may correlate than the images."""
_ROWS = 1024
"""Images compared with all others at once."""


@dataclass(frozen=True)
class Copy:
    """Two images that are one.

    Attributes
    ----------
    first, second : int
        Their numbers, the smaller one first.
    same : bool
        Whether their values are the same to the bit.
    correlation : float
        Of the two after the best shift and mirroring.
    mirrored : int
        Axis along which one is mirrored; -1 for none.
    """

    first: int
    second: int
    same: bool
    correlation: float
    mirrored: int


@dataclass(frozen=True)
class GoodFeature:
    """A feature that tells the class alone.

    Attributes
    ----------
    name : str
    auc : float
        Of the feature, or of its absence, for one class against the rest, turned to be at least .5.
    by_absence : bool
        Whether it is the absence (NaN) that tells.
    """

    name: str
    auc: float
    by_absence: bool


@dataclass(frozen=True)
class Leakage:
    """What is on both sides of a split.

    Attributes
    ----------
    copies : list of Copy
        Pairs across parts.
    repeats : list of Copy
        Pairs within a part: cases that count twice.
    subjects : list of str
        Subjects with rows in several parts.
    features : list of GoodFeature
    """

    copies: list[Copy]
    repeats: list[Copy]
    subjects: list[str]
    features: list[GoodFeature]

    @property
    def leaks(self) -> bool:
        """Whether something crosses the split or tells the class alone; repeats within a part do not leak."""
        return bool(self.copies or self.subjects or self.features)

    def sentences(self) -> list[str]:
        """Return what was found and what to do, a sentence each."""
        found = []
        for pairs, where, remedy in (
            (self.copies, "across parts of the split", "leave them out of training"),
            (self.repeats, "within a part", "leave one of each out, or they count twice"),
        ):
            if pairs:
                same = sum(p.same for p in pairs)
                found.append(f"{_count(len(pairs), 'pair')} of images are copies {where} ({same} the same to the bit): {remedy}.")
        if self.subjects:
            some = ", ".join(self.subjects[:5]) + (", ..." if len(self.subjects) > 5 else "")
            found.append(
                f"{_count(len(self.subjects), 'subject')} in several parts of the split ({some}): put all images of one into one part."
            )
        for feature in self.features:
            what = "The absence of feature" if feature.by_absence else "Feature"
            found.append(f"{what} {feature.name} alone tells the class (AUC {feature.auc:.3f}): is it the answer in disguise?")
        return found


def check_split(
    part: Sequence[str] | np.ndarray,
    images: Sequence[np.ndarray] | np.ndarray | None = None,
    subjects: Sequence[str] | np.ndarray | None = None,
    features: np.ndarray | None = None,
    y: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    beyond: float | None = None,
) -> Leakage:
    """Return what leaks between the parts of a split; what is not given is not looked at.

    Parameters
    ----------
    part : (n,) sequence of str
        The part of each row, such as train, validation, test or the number of a fold.
    images : n arrays, optional
        See `find_copies`.
    subjects : (n,) sequence of str, optional
    features : (n, k) array, optional
        NaN where missing.
    y : (n,) integer array, optional
        Classes; needed for features.
    names : k str, optional
        Of the features.
    beyond : float, optional
        See `find_copies`.
    """
    parts = np.asarray(part)
    pairs = [] if images is None else find_copies(images, beyond=beyond)
    crossing = [parts[p.first] != parts[p.second] for p in pairs]
    return Leakage(
        copies=[p for p, crosses in zip(pairs, crossing, strict=True) if crosses],
        repeats=[p for p, crosses in zip(pairs, crossing, strict=True) if not crosses],
        subjects=[] if subjects is None else shared_subjects(subjects, parts),
        features=[] if features is None or y is None else too_good_features(features, y, names),
    )


def refuse_leakage(found: Leakage) -> None:
    """Raise `Refused` with all sentences where something leaks."""
    if found.leaks:
        raise Refused("The split leaks, so its results would be too good: " + " ".join(found.sentences()))


def find_copies(
    images: Sequence[np.ndarray] | np.ndarray, alike: float = ALIKE, shift: int = 1, mirrors: bool = True, beyond: float | None = None
) -> list[Copy]:
    """Return all pairs of images that are one.

    Parameters
    ----------
    images : n arrays, (x, y) or (x, y, z), or one array of them
        Any values: brightness and contrast do not matter. Of a picture with colours give one grey channel.
    alike : float
        Correlation of the overlapping part from which on two are one.
    shift : int
        By how many voxels of the grid of comparison (up to 32 along each axis, 16 in 3-D) one may lie beside the other.
    mirrors : bool
        Whether one may be mirrored along an axis.
    beyond : float, optional
        Correlation that two must have left, on the grid of comparison, once the mean of all images is taken out of both; not asked of
        images that are the same to the bit, nor where there are fewer than `ENOUGH`. Heads in one box and eyes behind one lens are all
        alike; this asks for what one has and the others have not (`BEYOND` parts heads from their copies).

    Returns
    -------
    list of Copy
        By first and second number. Images without contrast are compared to the bit only.

    Raises
    ------
    ValueError
        For images that are neither 2-D nor 3-D, of both kinds, or with values that are not finite.
    """
    arrays = [np.asarray(image) for image in images]
    if len({a.ndim for a in arrays}) > 1 or any(a.ndim not in (2, 3) for a in arrays):
        raise ValueError(f"copies are looked for among 2-D or among 3-D images, here are {sorted({a.ndim for a in arrays})} dimensions")
    found = {(i, j): Copy(i, j, True, 1.0, -1) for i, j in _same(arrays)}
    if len(arrays) > 1:
        for copy in _alike(arrays, alike, shift, mirrors):
            found.setdefault((copy.first, copy.second), copy)
    pairs = [found[key] for key in sorted(found)]
    return pairs if beyond is None or len(arrays) < ENOUGH else _beyond_the_mean(pairs, arrays, beyond, shift)


def to_leave_out(pairs: Sequence[Copy], part: Sequence[str] | np.ndarray, keep: str) -> np.ndarray:
    """Return the rows to leave out so that no copy is left, (m,) integers.

    Of images that are one the first of part `keep` stays (the part that is judged on, say), or the first of all where that has none.
    """
    parts = np.asarray(part)
    root = {i: i for pair in pairs for i in (pair.first, pair.second)}

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for pair in pairs:
        root[top(pair.second)] = top(pair.first)
    clusters: dict[int, list[int]] = {}
    for i in sorted(root):
        clusters.setdefault(top(i), []).append(i)
    out = []
    for members in clusters.values():
        stays = next((i for i in members if parts[i] == keep), members[0])
        out += [i for i in members if i != stays]
    return np.array(sorted(out), dtype=np.int64)


def shared_subjects(subjects: Sequence[str] | np.ndarray, part: Sequence[str] | np.ndarray) -> list[str]:
    """Return the subjects that have rows in several parts, sorted."""
    where: dict[str, set[str]] = {}
    for subject, each in zip(subjects, part, strict=True):
        where.setdefault(str(subject), set()).add(str(each))
    return sorted(subject for subject, parts in where.items() if len(parts) > 1)


def too_good_features(
    x: np.ndarray, y: np.ndarray, names: Sequence[str] | None = None, limit: float = 0.99, chance: float = 0.01
) -> list[GoodFeature]:
    """Return the features that alone, by their value or by their absence, tell one class from the rest.

    Parameters
    ----------
    x : (n, k) array
        NaN where missing.
    y : (n,) integer array
    names : k str, optional
        Numbers otherwise.
    limit : float
        AUC above which a feature is too good.
    chance : float
        How likely it may be that any of them is by chance alone (rank test, times the number of tests): among a few subjects and many
        features some always separate.
    """
    from scipy.stats import mannwhitneyu

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    names = [str(k) for k in range(x.shape[1])] if names is None else list(names)
    classes = np.unique(y)
    classes = classes[1:] if len(classes) == 2 else classes
    found = []
    for column, name in enumerate(names):
        missing = np.isnan(x[:, column])
        best: GoodFeature | None = None
        for by_absence, rows, values in ((False, ~missing, x[:, column]), (True, np.ones(len(y), dtype=bool), missing.astype(np.float64))):
            for each in classes:
                positive, score = y[rows] == each, values[rows]
                if not positive.any() or positive.all() or np.ptp(score) == 0:
                    continue
                value = auc(positive, score)
                value = max(value, 1 - value)
                if value <= limit or (best is not None and value <= best.auc):
                    continue
                if mannwhitneyu(score[positive], score[~positive]).pvalue * 2 * len(names) * len(classes) <= chance:
                    best = GoodFeature(name, value, by_absence)
        if best is not None:
            found.append(best)
    return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- copies --------------------------------------------------------------------------------------------------------


def _same(arrays: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return the pairs with the same values, by their sha256."""
    by: dict[str, list[int]] = {}
    for number, array in enumerate(arrays):
        digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
        by.setdefault(digest.hexdigest(), []).append(number)
    return [(i, j) for members in by.values() for place, i in enumerate(members) for j in members[place + 1 :]]


def _alike(arrays: Sequence[np.ndarray], alike: float, shift: int, mirrors: bool) -> list[Copy]:
    """Return the pairs that correlate after some shift and mirroring, the best one of each pair."""
    grid = _grids(arrays)
    dims, shape = grid.ndim - 1, grid.shape[1:]
    if not np.isfinite(grid).all():
        raise ValueError("some images have values that are not finite: they cannot be compared")
    best: dict[tuple[int, int], Copy] = {}
    for axis in (-1, *range(dims)) if mirrors else (-1,):
        mirrored = grid if axis < 0 else np.flip(grid, axis=axis + 1)
        for step in product(*[range(-min(shift, size - 2), min(shift, size - 2) + 1) for size in shape]):
            here = grid[(slice(None), *(slice(max(s, 0), size + min(s, 0)) for s, size in zip(step, shape, strict=True)))]
            there = mirrored[(slice(None), *(slice(max(-s, 0), size + min(-s, 0)) for s, size in zip(step, shape, strict=True)))]
            for first, second, correlation in _correlated(here, there, alike):
                known = best.get((first, second))
                if known is None or correlation > known.correlation + 1e-6:
                    best[first, second] = Copy(first, second, False, correlation, axis)
    return list(best.values())


def _beyond_the_mean(pairs: list[Copy], arrays: Sequence[np.ndarray], least: float, shift: int) -> list[Copy]:
    """Return the pairs that are the same to the bit, or correlate once the mean of all images is taken out."""
    asked = [pair for pair in pairs if not pair.same]
    if not asked:
        return pairs
    grid = _grids(arrays)
    own = _unit(grid.reshape(len(grid), -1))
    own = (own - own.mean(axis=0)).reshape(grid.shape)
    kept = set()
    # Volumes that a network sees are centred; pictures are not.
    reach = range(-shift, shift + 1) if arrays[0].ndim == 2 else (0,)
    for pair in asked:
        here, there = own[pair.first], own[pair.second]
        there = there if pair.mirrored < 0 else np.flip(there, axis=pair.mirrored)
        for step in product(reach, repeat=here.ndim):
            one = here[tuple(slice(max(s, 0), size + min(s, 0)) for s, size in zip(step, here.shape, strict=True))]
            other = there[tuple(slice(max(-s, 0), size + min(-s, 0)) for s, size in zip(step, here.shape, strict=True))]
            if float((_unit(one.reshape(1, -1)) * _unit(other.reshape(1, -1))).sum()) >= least:
                kept.add((pair.first, pair.second))
                break
    return [pair for pair in pairs if pair.same or (pair.first, pair.second) in kept]


def _grids(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return all images on one grid, (n, *shape)."""
    dims = arrays[0].ndim
    shape = tuple(min(max(a.shape[k] for a in arrays), GRID[dims]) for k in range(dims))
    return np.stack([_on_grid(array, shape) for array in arrays])


def _correlated(here: np.ndarray, there: np.ndarray, alike: float) -> list[tuple[int, int, float]]:
    """Return (i, j, correlation) of all i < j for which here[i] and there[j] correlate."""
    cells = tuple(min(CELLS[here.ndim - 1], size) for size in here.shape[1:])
    small, other = (_unit(_cells(a, cells)) for a in (here, there))
    flat, other_flat = here.reshape(len(here), -1), there.reshape(len(there), -1)
    found = []
    for start in range(0, len(small), _ROWS):
        block = small[start : start + _ROWS] @ other[start:].T
        rows, columns = np.divmod(np.flatnonzero(block > alike - SLACK), block.shape[1])
        for chunk in range(0, len(rows), _ROWS):
            i, j = rows[chunk : chunk + _ROWS] + start, columns[chunk : chunk + _ROWS] + start
            i, j = i[i < j], j[i < j]
            exact = (_unit(flat[i]) * _unit(other_flat[j])).sum(axis=1)
            keep = exact >= alike
            found += zip(i[keep].tolist(), j[keep].tolist(), np.minimum(exact[keep], 1.0).tolist(), strict=True)
    return found


def _on_grid(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the means of an image over the cells of a grid, float32."""
    out = image.astype(np.float32)
    for axis, size in enumerate(shape):
        if out.shape[axis] != size:
            out = np.moveaxis(np.tensordot(_overlaps(out.shape[axis], size), out, axes=(1, axis)), 0, axis)
    return out


def _overlaps(old: int, new: int) -> np.ndarray:
    """Return (new, old) weights: how much of each new cell lies in each old one."""
    edges, cells = np.arange(old + 1), np.linspace(0, old, new + 1)
    shared = np.minimum(cells[1:, None], edges[None, 1:]) - np.maximum(cells[:-1, None], edges[None, :-1])
    weights = np.clip(shared, 0.0, None)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cells(stack: np.ndarray, cells: tuple[int, ...]) -> np.ndarray:
    """Return thumbnails of a stack of images, (n, cells of all axes)."""
    weights = np.ones((1, 1), np.float32)
    for size, old in zip(cells, stack.shape[1:], strict=True):
        weights = np.kron(weights, _overlaps(old, size))
    return stack.reshape(len(stack), -1) @ weights.T


def _unit(rows: np.ndarray) -> np.ndarray:
    """Return rows with mean 0 and length 1; 0 where a row has no contrast."""
    mean = rows.mean(axis=1, keepdims=True)
    rows = rows - mean
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # What rounding leaves of a constant is no contrast.
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-5 * np.abs(mean) * np.sqrt(rows.shape[1]) + 1e-30)
