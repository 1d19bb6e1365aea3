"""How sure labels and deformations are: entropy of the classes, what small changes of the image alter, where another start ends.

Entropy of the softmax and test-time augmentation as in Wang et al., Neurocomputing 338, 2019; the error of the inverse and the spread over
starts take the place of a truth that a registration does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.blocks import at_hand, new_array
from cohortex.models.regseg.grid import Displacement, Grid, field_on
from cohortex.volume import ArrayLike

SHIFT = 3
"""Voxels by which an image is moved at most: where blocks begin and poolings fall changes with it."""
GAMMA, GAIN = 0.12, 0.06
"""Standard deviations of the logarithms of exponent and factor of the intensities."""
SIDES = re.compile(r"(?:^|_)(?:left|right|l|r|lh|rh)(?:_|$)", re.IGNORECASE)
"""Names of labels that say on which side they lie."""
START_MM, START_DEG = 1.5, 1.0
"""Standard deviations of the shift along, and of the turn about, each axis by which a registration starts elsewhere."""


@dataclass
class Tally:
    """Sums over the voxels that are labelled k, for every class k (arrays of K).

    Attributes
    ----------
    voxels : array
    mass : array
        Probabilities of class k over the whole grid.
    inside : array
        Of these what lies where k is the label.
    entropy : array
        In units of that of not knowing at all (log K).
    variance : array
        Mean over classes of the variance over `samples` changed images.
    agreed : (S, K) array
        Voxels that a changed image labels k, too.
    theirs : (S, K) array
        Voxels that a changed image labels k.
    """

    voxels: np.ndarray
    mass: np.ndarray
    inside: np.ndarray
    entropy: np.ndarray
    variance: np.ndarray
    agreed: np.ndarray
    theirs: np.ndarray

    def mean(self, sums: np.ndarray, label: int | None = None) -> float:
        """Return the mean of a sum over a label's voxels, or over all that are not background; NaN where there are none."""
        which = slice(1, None) if label is None else slice(label, label + 1)
        count = float(self.voxels[which].sum())
        return float(sums[which].sum()) / count if count else float("nan")

    def agreement(self, label: int) -> float:
        """Return the Dice of a label in the changed images with the one as it is, the mean over them; NaN without any."""
        both = self.voxels[label] + self.theirs[:, label]
        return float(np.mean(2 * self.agreed[both > 0, label] / both[both > 0])) if (both > 0).any() else float("nan")


def entropy(soft: np.ndarray) -> np.ndarray:
    """Return the entropy of class probabilities (K, ...) at every voxel, 0 (sure) to 1 (all alike), float32."""
    safe = np.maximum(soft, np.float32(1e-7))
    return -(soft * np.log(safe)).sum(0, dtype=np.float32) / np.float32(np.log(max(2, len(soft))))


def tally(soft: ArrayLike, again: Sequence[ArrayLike] = ()) -> Tally:
    """Count once through class probabilities, slab by slab, so that they may be larger than memory.

    Parameters
    ----------
    soft : (K, X, Y, Z) array-like
        Of the image as it is.
    again : sequence of (K, X, Y, Z) array-like
        Of changed images, on the same grid.
    """
    classes, samples = soft.shape[0], len(again)
    voxels, mass, within, unsure, variance = (np.zeros(classes) for _ in range(5))
    agreed, theirs = np.zeros((samples, classes)), np.zeros((samples, classes))
    for slab in _slabs(soft):
        here = np.asarray(soft[slab], np.float32)
        labels = here.argmax(0).ravel()
        inside = here.reshape(classes, -1)[labels, np.arange(labels.size)]
        voxels += np.bincount(labels, minlength=classes)
        mass += here.reshape(classes, -1).sum(1, dtype=np.float64)
        within += np.bincount(labels, inside, classes)
        unsure += np.bincount(labels, entropy(here).ravel(), classes)
        if not samples:
            continue
        others = [np.asarray(each[slab], np.float32) for each in again]
        variance += np.bincount(labels, np.var([here, *others], axis=0).mean(0).ravel(), classes)
        for number, other in enumerate(others):
            said = other.argmax(0).ravel()
            theirs[number] += np.bincount(said, minlength=classes)
            agreed[number] += np.bincount(labels[said == labels], minlength=classes)
    return Tally(voxels, mass, within, unsure, variance, agreed, theirs)


def entropy_map(soft: ArrayLike, again: Sequence[ArrayLike] = ()) -> np.ndarray:
    """Return the entropy of the mean of class probabilities and those of changed images, (X, Y, Z) float32 in memory or scratch."""
    made = new_array(soft.shape[1:], np.float32)
    for slab in _slabs(soft):
        together = np.mean([np.asarray(each[slab], np.float32) for each in (soft, *again)], axis=0)
        made[slab[1:]] = entropy(together)
    return made


def _slabs(soft: ArrayLike) -> Iterator[tuple[slice, ...]]:
    """Yield slabs along x of (K, X, Y, Z) that are small enough for some copies."""
    rows = max(1, int(2**22 // max(1, np.prod(soft.shape) // soft.shape[1])))
    for start in range(0, soft.shape[1], rows):
        yield slice(None), slice(start, min(start + rows, soft.shape[1])), slice(None), slice(None)


def mirrors(names: Sequence[str]) -> bool:
    """Say whether a mirrored image has the same labels: none is called left or right."""
    return not any(SIDES.search(name) for name in names)


def changed(
    values: ArrayLike, rng: np.random.Generator, mirror_axis: int | None, low: float = 0.0, high: float = 1.0
) -> tuple[np.ndarray, Callable[[ArrayLike], np.ndarray]]:
    """Return an image a little changed, and what brings class probabilities of it back to where they belong.

    Parameters
    ----------
    values : (X, Y, Z) array-like
    rng : numpy.random.Generator
    mirror_axis : int, optional
        Along which it is mirrored in every other case.
    low, high : float
        What the intensities are taken to lie between when they are made brighter or darker.

    Returns
    -------
    (X, Y, Z) float32 array, callable
        Moved by whole voxels (the borders go on outwards), so that nothing is interpolated and the way back is exact.
    """
    array, _ = at_hand(values)
    image = np.asarray(array[...], np.float32)
    unit = np.clip((image - low) / (high - low), 0, None)
    gamma, gain = np.exp(rng.normal(0, GAMMA)), np.exp(rng.normal(0, GAIN))
    # what lies below the range stays there: of standardised images that is the air
    image = np.where(image > low, low + (high - low) * np.float32(gain) * unit ** np.float32(gamma), image).astype(np.float32)
    shift = [int(rng.integers(-SHIFT, SHIFT + 1)) if n > 4 * SHIFT else 0 for n in image.shape]
    mirror = mirror_axis is not None and bool(rng.random() < 0.5)
    if mirror:
        image = np.flip(image, mirror_axis)  # type: ignore[arg-type]
    image = np.ascontiguousarray(_moved(image, shift))

    def back(soft: ArrayLike) -> np.ndarray:
        out = _moved(np.asarray(soft[...], np.float32), [0, *(-s for s in shift)])
        return np.ascontiguousarray(np.flip(out, mirror_axis + 1) if mirror and mirror_axis is not None else out)

    return image, back


def _moved(array: np.ndarray, shift: Sequence[int]) -> np.ndarray:
    """Return an array moved by whole voxels; what comes in is the border's value."""
    for axis, by in enumerate(shift):
        if by:
            places = np.clip(np.arange(array.shape[axis]) - by, 0, array.shape[axis] - 1)
            array = np.take(array, places, axis=axis)
    return array


def nudged(matrix: np.ndarray, middle: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Return an affine that is moved and turned a little about a point of the fixed world; lengths are multiplied by `unit`."""
    from cohortex.models.regseg.affine import rotation

    move = np.eye(4)
    move[:3, :3] = rotation(rng.normal(0, START_DEG, 3).tolist())
    move[:3, 3] = middle - move[:3, :3] @ middle + rng.normal(0, START_MM * unit, 3)
    return matrix @ move


def spread_mm(grid: Grid, body: np.ndarray, ways: Sequence[tuple[np.ndarray, Displacement | None]]) -> tuple[float, float]:
    """Return how far apart several registrations of one pair put the points of a body, mean and 95th percentile in mm.

    Parameters
    ----------
    grid : Grid
        In the fixed world.
    body : (X, Y, Z) bool array
        Points of it that count.
    ways : sequence of (matrix, displacement)
        World of the fixed to world of the moving image: matrix(p + displacement(p)).

    Returns
    -------
    mean, p95 : float
        Of the root of the mean squared distance from the mean place; 0 where nothing counts.
    """
    places = np.argwhere(body)
    if not len(places) or len(ways) < 2:
        return 0.0, 0.0
    points = places @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    ends = []
    for matrix, displacement in ways:
        moved = points if displacement is None else points + field_on(grid, displacement)[body]
        ends.append(moved @ matrix[:3, :3].T + matrix[:3, 3])
    apart = np.sqrt(np.square(ends - np.mean(ends, axis=0)).sum(-1).mean(0))
    return float(apart.mean()), float(np.percentile(apart, 95))
