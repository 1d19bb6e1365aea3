"""Calibrates the Dice that labels are expected to have: a small regression on validation images that are made worse step by step.

What it is fitted to are true overlaps, what it sees is known without a truth (`cohortex.models.regseg.quality`). A fit that does not
predict subjects left out of it better than the mean of every label is withheld: the card then has no calibration, and nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cohortex.measures.segmentation import dice
from cohortex.models.regseg.quality import FEATURES, FURTHER, features, fitted, predicted_dice
from cohortex.models.regseg.uncertainty import changed, mirrors, tally
from cohortex.volume import ArrayLike

SEVERITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much worse each image is made."""
MOST_CASES = 6
"""Validation images that are looked at: each takes two looks of the network at every severity."""
LEAST_SUBJECTS, LEAST_ROWS = 2, 12
NOISE, BLUR, BIAS, FADE = 0.2, 2.2, 0.6, 0.6
"""At the highest severity: noise as a share of the range, standard deviation of a Gaussian in voxels, of the logarithm of a smooth gain at
the corners of a grid of 3 x 3 x 3, and the share of contrast that is lost."""

Look = Callable[[ArrayLike], ArrayLike]


@dataclass(frozen=True)
class Judged:
    """An image as a network sees it and its true labels on the same grid, of one subject; `low` and `high` bound nearly all values."""

    subject: str
    values: ArrayLike
    known: ArrayLike
    low: float = 0.0
    high: float = 1.0


@dataclass
class Seen:
    """Of every label of every image, one after the other: its features, its value, its true Dice, and (case, severity)."""

    rows: list[dict[str, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    true: list[float] = field(default_factory=list)
    images: list[tuple[int, int]] = field(default_factory=list)


def degraded(values: np.ndarray, severity: float, rng: np.random.Generator, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Return an image (X, Y, Z) made worse by some of noise, blur, bias field and lost contrast, float32.

    `severity` is 0 (as it is) to 1; `low` and `high` are the values of air and of the brightest tissue.
    """
    from scipy import ndimage as ndi

    if severity <= 0:
        return np.asarray(values, np.float32)
    image = (np.asarray(values, np.float32) - low) / (high - low)
    chosen = rng.random(4) < 0.6
    chosen[int(rng.integers(4))] = True
    amounts = severity * rng.uniform(0.5, 1.0, 4)
    if chosen[0]:
        sigma = [BLUR * amounts[0] if n > 1 else 0.0 for n in image.shape]
        image = ndi.gaussian_filter(image, sigma)
    if chosen[1]:
        corners = rng.normal(0, BIAS * amounts[1], (3, 3, 3))
        places = np.meshgrid(*(np.linspace(0, 2, n) for n in image.shape), indexing="ij")
        image = image * np.exp(ndi.map_coordinates(corners, places, order=1)).astype(np.float32)
    if chosen[2]:
        inside = image[image > 0.05]
        middle = float(inside.mean()) if inside.size else 0.5
        image = np.where(image > 0.05, middle + (1 - FADE * amounts[2]) * (image - middle), image)
    if chosen[3]:
        image = image + rng.normal(0, NOISE * amounts[3], image.shape)
    return np.asarray(low + (high - low) * np.clip(image, 0, 1.3), np.float32)


def volumes_of(known: Iterable[ArrayLike], classes: int, voxel_ml: float) -> dict[str, dict[str, float]]:
    """Return of every label but the background the mean and spread of the logarithm of its volume in ml, and how many images have it."""
    counts = np.array([np.bincount(np.asarray(k[...]).ravel().astype(np.int64), minlength=classes)[:classes] for k in known], float)
    found = {}
    for label in range(1, classes):
        held = counts[counts[:, label] > 0, label] if len(counts) else np.zeros(0)
        if len(held):
            logs = np.log(held * voxel_ml)
            # Of a few images the spread is not known: a quarter is taken for granted.
            sd = float(np.sqrt((np.square(logs - logs.mean()).sum() + 2 * 0.25**2) / (len(held) + 1)))
            found[str(label)] = {"mean": _short(logs.mean()), "sd": _short(sd), "present": _short(len(held) / len(counts))}
    return found


def calibrated(
    cases: Sequence[Judged], look: Look, names: Sequence[str], voxel_ml: float, volumes: Mapping[str, Any], seed: int
) -> dict[str, Any] | None:
    """Return the calibration of a network for its card, None where there is nothing that it could be trusted on.

    Parameters
    ----------
    cases : sequence of Judged
        Images that the network did not learn from; at most `MOST_CASES` are taken, evenly.
    look : callable
        Values (X, Y, Z) to class probabilities (K, X, Y, Z).
    names : sequence of str
        Of the classes, the background first.
    voxel_ml : float
    volumes : mapping
        What `volumes_of` gave of training images.
    seed : int

    Returns
    -------
    dict
        ``volumes``; ``fits`` for images that were looked at once (``plain``) and again a little changed (``changed``); ``checked``:
        ``images``, ``subjects``, and of every subject predicted by the others the mean absolute error and the rank correlation of an
        image's mean Dice.
    """
    chosen = [cases[int(i)] for i in np.unique(np.linspace(0, len(cases) - 1, min(MOST_CASES, len(cases))).round())] if cases else []
    if len({case.subject for case in chosen}) < LEAST_SUBJECTS:
        return None
    seen = observations(chosen, look, names, voxel_ml, volumes, seed)
    return calibration(seen, [chosen[i].subject for i, _ in seen.images], volumes)


def calibration(seen: Seen, whose: Sequence[str], volumes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what `calibrated` returns, of observations and the subject of each."""
    rows, labels, true, images = seen.rows, seen.labels, seen.true, seen.images
    subjects = sorted(set(whose))
    if len(subjects) < LEAST_SUBJECTS or len(rows) < LEAST_ROWS:
        return None

    def fit(kept: Sequence[int]) -> dict[str, Any]:
        some = ([rows[i] for i in kept], [labels[i] for i in kept], [true[i] for i in kept])
        return {"volumes": dict(volumes), "fits": {"plain": fitted(*some, FEATURES), "changed": fitted(*some, (*FEATURES, FURTHER))}}

    expected, plainly = np.zeros(len(rows)), np.zeros(len(rows))
    for subject in subjects:
        others, own = ([i for i, s in enumerate(whose) if (s == subject) is mine] for mine in (False, True))
        found = fit(others)
        for i in own:
            alike = [true[k] for k in others if labels[k] == labels[i]]
            plainly[i] = float(np.mean(alike)) if alike else float(np.mean([true[k] for k in others]))
            row = {name: rows[i][name] for name in FEATURES}
            expected[i] = predicted_dice({**found, "volumes": {}}, {labels[i]: row}).get(labels[i], plainly[i])
    if np.abs(expected - true).mean() >= np.abs(plainly - true).mean():
        return None
    means = by_image(images, expected), by_image(images, true)
    checked = {
        "images": len(means[0]),
        "subjects": len(subjects),
        "mae": _short(np.abs(means[0] - means[1]).mean()),
        "spearman": _short(rank_correlation(means[0], means[1])),
    }
    return {**fit(range(len(rows))), "checked": checked}


def observations(cases: Sequence[Judged], look: Look, names: Sequence[str], voxel_ml: float, volumes: Mapping[str, Any], seed: int) -> Seen:
    """Return what is seen of every label of every image, as it is and made worse."""
    seen = Seen()
    for number, case in enumerate(cases):
        values, known = np.asarray(case.values[...], np.float32), np.asarray(case.known[...])
        axis = 0 if mirrors(names) else None
        for step, severity in enumerate(SEVERITIES):
            rng = np.random.default_rng([seed % 2**63, number, step])
            image = degraded(values, severity, rng, case.low, case.high)
            soft = look(image)
            other, back = changed(image, rng, axis, case.low, case.high)
            counted = tally(soft, [back(look(other))])
            said = np.asarray(soft[...]).argmax(0).astype(np.uint16)
            scores = dice(known, said, range(1, len(names)))
            for label, row in features(counted, said, voxel_ml, volumes).items():
                seen.rows.append(row)
                seen.labels.append(label)
                seen.true.append(float(scores[label]))
                seen.images.append((number, step))
    return seen


def by_image(images: Sequence[tuple[int, int]], values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the mean of the values of every image."""
    order = sorted(set(images))
    return np.array([np.mean([v for v, i in zip(values, images, strict=True) if i == image]) for image in order])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where either does not vary."""
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
