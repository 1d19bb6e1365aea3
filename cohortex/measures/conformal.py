"""Sets of classes that hold the true one with a chosen probability, whatever the classifier (split conformal prediction).

The promise needs calibration cases that were not used in training and that are exchangeable with the new ones: the same scanners, the same
way of choosing subjects. It is one over the drawing of calibration and new case together; what a certain calibration set gives lies in
`coverage_range`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cohortex.measures.classification import NAN
from cohortex.measures.intervals import proportion_interval

Score = Literal["least", "adaptive"]
"""How odd a class is for a case: 1 minus its probability (the smallest sets), or the probability of all classes down to it
(sets that grow where a case is hard)."""
Empty = Literal["fill", "keep"]


@dataclass(frozen=True)
class Conformal:
    """A calibrated rule that makes sets of classes.

    Attributes
    ----------
    error : float
        How often a set may miss the true class.
    score : "least" or "adaptive"
    by_class : bool
        Whether the promise holds for each class (Mondrian), or over all cases only.
    threshold : (classes,) float64 array
        A class is in the set when its score is at most this. Infinite where there were too few calibration cases: the class is then
        in every set, which is all that can be promised.
    cases : (classes,) int64 array
        Calibration cases behind each threshold.
    """

    error: float
    score: Score
    by_class: bool
    threshold: np.ndarray
    cases: np.ndarray


@dataclass(frozen=True)
class Sets:
    """Sets of classes.

    Attributes
    ----------
    member : (n, classes) bool array
    empty : (n,) bool array
        Cases for which no class was as usual as the calibration cases of that class: the case is unlike all of them, and a person
        should look. Their set holds the most likely class after all (so it is never empty, and the coverage can only rise), or nothing
        if that was asked for.
    """

    member: np.ndarray
    empty: np.ndarray


@dataclass(frozen=True)
class Coverage:
    """How sets did on cases with known classes.

    Attributes
    ----------
    covered, low, high : float
        Share of sets with the true class, and its exact interval.
    by_class : (classes,) float64 array
        The same share for cases of each class; NaN where there are none.
    size : float
        Mean number of classes in a set.
    single : float
        Share of sets with one class.
    empty : float
        Share of sets that had none before the most likely class was put in.
    """

    covered: float
    low: float
    high: float
    by_class: np.ndarray
    size: float
    single: float
    empty: float


def fit_conformal(
    probability: np.ndarray,
    y: np.ndarray,
    error: float = 0.1,
    by_class: bool = False,
    score: Score = "least",
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Conformal:
    """Calibrate sets of classes on held-out cases.

    The threshold is the k-th smallest score of the true class with k = ceil((n + 1) (1 - error)), so a new case is covered with
    probability at least 1 - error, and at most 1 - error + 1 / (n + 1) where scores do not tie.

    Parameters
    ----------
    probability : (n, classes) array
        Of cases that no training and no choice of model saw.
    y : (n,) integer array
    error : float
        How often the true class may be missed, between 0 and 1.
    by_class : bool
        Promise it for each class: needed where classes are unbalanced, as a marginal promise can be kept while a rare class is missed.
    score : "least" or "adaptive"
    groups : (n,) array, optional
        The subject of each row. Rows of one subject are no independent cases, so one of each is drawn; the promise is then for one row of
        a new subject.
    seed : int
        Of that draw.

    Raises
    ------
    ValueError
        For an error outside (0, 1), no case, classes that are not there, or probabilities that are not finite.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005 (split and Mondrian); Sadinle, Lei and Wasserman, Least
    ambiguous set-valued classifiers with bounded error levels, JASA 2019; Romano, Sesia and Candes, Classification with valid and adaptive
    coverage, NeurIPS 2020; Angelopoulos and Bates, A gentle introduction to conformal prediction, 2021; Dunn, Wasserman and Ramdas,
    Distribution-free prediction sets for two-layer hierarchical models, JASA 2022 (one row a subject).
    """
    probability, y = _checked(probability), np.asarray(y)
    classes = probability.shape[1]
    if not 0 < error < 1:
        raise ValueError(f"the error of sets lies between 0 and 1, this one is {error}")
    if len(y) != len(probability) or not len(y):
        raise ValueError(f"a calibration needs cases with a class each: there are {len(probability)} rows and {len(y)} classes")
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"there are probabilities of {classes} classes, but cases of classes {y.min()} to {y.max()}")
    if groups is not None:
        order = np.random.default_rng(seed).permutation(len(y))
        _, first = np.unique(np.asarray(groups)[order], return_index=True)
        rows = order[first]
        probability, y = probability[rows], y[rows]
    own = _scores(probability, score)[np.arange(len(y)), y]
    parts = [own[y == k] for k in range(classes)] if by_class else [own] * classes
    return Conformal(error, score, by_class, np.array([_quantile(p, error) for p in parts]), np.array([len(p) for p in parts]))


def prediction_sets(model: Conformal, probability: np.ndarray, empty: Empty = "fill") -> Sets:
    """Return the set of classes of every case.

    Parameters
    ----------
    model : Conformal
    probability : (n, classes) array
    empty : "fill" or "keep"
        Put the most likely class into sets that are empty (told in `Sets.empty` in either case), or leave them.
    """
    probability = _checked(probability)
    if probability.shape[1] != len(model.threshold):
        raise ValueError(f"the sets were calibrated for {len(model.threshold)} classes, here are probabilities of {probability.shape[1]}")
    member = _scores(probability, model.score) <= model.threshold
    nothing = np.logical_not(np.any(member, axis=1))
    if empty == "fill":
        member[nothing, probability[nothing].argmax(axis=1)] = True
    return Sets(member, nothing)


def coverage(sets: Sets, y: np.ndarray, level: float = 0.95) -> Coverage:
    """Return how often sets hold the true class, and how large they are."""
    y = np.asarray(y)
    right = sets.member[np.arange(len(y)), y]
    size = sets.member.sum(axis=1)
    value, low, high = proportion_interval(int(right.sum()), len(y), level)
    each = [float(right[y == k].mean()) if (y == k).any() else NAN for k in range(sets.member.shape[1])]
    share = (float(size.mean()), float((size == 1).mean()), float(sets.empty.mean())) if len(y) else (NAN, NAN, NAN)
    return Coverage(value, low, high, np.array(each), *share)


def coverage_range(cases: int, error: float, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean coverage that a calibration with so many cases gives, and between what it lies with probability `level`.

    The coverage on endlessly many new cases is Beta(k, cases + 1 - k) distributed with k = ceil((cases + 1) (1 - error)), where scores do
    not tie; it is 1 where k exceeds the cases.

    References
    ----------
    Vovk, Conditional validity of inductive conformal predictors, Machine Learning 2013.
    """
    from scipy.stats import beta

    k = _rank(cases, error)
    if k > cases:
        return 1.0, 1.0, 1.0
    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], k, cases + 1 - k)
    return k / (cases + 1), float(low), float(high)


def _rank(cases: int, error: float) -> int:
    # 10 * (1 - .1) is 9, not a hair above it.
    return int(np.ceil(round((cases + 1) * (1 - error), 9)))


def _quantile(scores: np.ndarray, error: float) -> float:
    k = _rank(len(scores), error)
    return float(np.partition(scores, k - 1)[k - 1]) if 1 <= k <= len(scores) else np.inf


def _scores(probability: np.ndarray, score: Score) -> np.ndarray:
    """Return how odd each class is, (n, classes)."""
    if score == "least":
        return 1.0 - probability
    order = np.argsort(-probability, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(probability, order, axis=1), axis=1)
    found = np.empty_like(total)
    np.put_along_axis(found, order, total, axis=1)
    # Whether all classes sum to 1 or to a hair less is no difference between cases.
    return np.round(found, 12)


def _checked(probability: np.ndarray) -> np.ndarray:
    array = np.asarray(probability, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"sets need the probabilities of at least two classes, (n, classes); these are {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("some cases have no probabilities (NaN): leave them out first, nothing can be promised for them")
    return array
