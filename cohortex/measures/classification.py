"""Measures of classifiers with their intervals: AUC, accuracy, sensitivity and the like, Brier score, calibration error.

Labels are integers from 0 on, probabilities (n, classes) with rows that sum to 1. A measure that the data do not
define (one class only, nothing predicted positive) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NAN = float("nan")
MEASURES = ("auc", "accuracy", "sensitivity", "specificity", "f1", "brier", "calibration_error")
"""What `summary` tells."""


def auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a positive case scores above a negative one, ties counting one half.

    Parameters
    ----------
    positive : (n,) bool array
    score : (n,) float array
        Higher for positive.

    References
    ----------
    Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score)
    above, below = score[positive], np.sort(score[~positive])
    if not above.size or not below.size:
        return NAN
    wins = below.searchsorted(above, "left").sum() + below.searchsorted(above, "right").sum()
    return float(wins / (2 * above.size * below.size))


def auc_macro(y: np.ndarray, probability: np.ndarray) -> float:
    """Return the AUC (two classes: of the second; more: the mean over classes, each against the rest).

    NaN when a class is absent.
    """
    classes = probability.shape[1]
    if classes == 2:
        return auc(y == 1, probability[:, 1])
    return float(np.mean([auc(y == k, probability[:, k]) for k in range(classes)]))


@dataclass(frozen=True)
class Rates:
    """Rates of one class against the rest.

    Attributes
    ----------
    sensitivity, specificity, precision, f1 : float
        NaN where the denominator is 0 (f1 is 0 where cases exist but none was found).
    """

    sensitivity: float
    specificity: float
    precision: float
    f1: float


def rates(y: np.ndarray, predicted: np.ndarray, of: int = 1) -> Rates:
    """Return sensitivity (recall), specificity, precision and F1 of class `of`.

    Parameters
    ----------
    y, predicted : (n,) integer arrays
    of : int
    """
    every = _every_rate(np.asarray(y) == of, np.asarray(predicted) == of, 2)
    return Rates(*(float(rate) for rate in every[:, 1]))


def macro_rates(y: np.ndarray, predicted: np.ndarray, classes: int) -> Rates:
    """Return the means of `rates` over all classes; NaN where one of them is."""
    return Rates(*(float(rate) for rate in _every_rate(y, predicted, classes).mean(axis=1)))


def _every_rate(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return (sensitivity, specificity, precision, f1) of every class as a (4, classes) array."""
    table = np.bincount(np.asarray(y) * classes + np.asarray(predicted), minlength=classes**2).reshape(classes, classes)
    hit, cases, found = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    rejected = len(y) - cases - found + hit
    above = np.stack([hit, rejected, hit, 2 * hit]).astype(np.float64)
    below = np.stack([cases, len(y) - cases, found, cases + found])
    return np.divide(above, below, out=np.full(above.shape, NAN), where=below > 0)


def accuracy(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of cases with the right class."""
    return float(np.mean(np.asarray(y) == np.asarray(predicted))) if len(y) else NAN


def brier(y: np.ndarray, probability: np.ndarray) -> float:
    """Return the Brier score: the mean squared difference to the truth.

    For two classes it is that of the second class (0 to 1), for more the sum over classes (0 to 2).

    References
    ----------
    Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 1950.
    """
    if not len(y):
        return NAN
    truth = np.eye(probability.shape[1])[y]
    total = float(((probability - truth) ** 2).sum(axis=1).mean())
    return total / 2 if probability.shape[1] == 2 else total


def calibration_error(y: np.ndarray, probability: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error of the predicted class.

    The cases are put into `bins` intervals of equal width by the probability of the predicted class; the error is the
    mean distance of that probability from the share of right predictions, weighted by the number of cases.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    if not len(y):
        return NAN
    confidence, predicted = probability.max(axis=1), probability.argmax(axis=1)
    right = (predicted == y).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.abs(np.bincount(place, weights=confidence - right, minlength=bins))
    return float(gap.sum() / len(y))


def delong_interval(positive: np.ndarray, score: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return an AUC and its DeLong interval, symmetric on the logit scale.

    Where both classes are separated completely there is no variance to estimate; the interval then begins where disjoint
    pairs would all be in order with probability (1 - level) / 2 (and ends at 1).

    Parameters
    ----------
    positive : (n,) bool array
        Independent cases.
    score : (n,) float array
    level : float

    Returns
    -------
    auc, low, high : float
        NaN when a class is absent; the interval is NaN when a class has one case only.

    References
    ----------
    DeLong et al., Comparing the areas under two or more correlated ROC curves, Biometrics 1988; Sun and Xu, Fast
    implementation of DeLong's algorithm, IEEE Signal Processing Letters 2014.
    """
    from scipy.stats import norm

    positive = np.asarray(positive, dtype=bool)
    ones, zeros = int(positive.sum()), int((~positive).sum())
    value = auc(positive, score)
    if ones < 2 or zeros < 2:
        return value, NAN, NAN
    if value in (0.0, 1.0):
        bound = _perfect_bound(min(ones, zeros), level)
        return (value, bound, 1.0) if value == 1.0 else (value, 0.0, 1.0 - bound)
    above, below = auc_components(positive, score)
    error = np.sqrt(above.var(ddof=1) / ones + below.var(ddof=1) / zeros)
    centre = np.log(value / (1 - value))
    width = norm.ppf((1 + level) / 2) * error / (value * (1 - value))
    return value, float(1 / (1 + np.exp(-(centre - width)))), float(1 / (1 + np.exp(-(centre + width))))


def auc_components(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what each case adds to an AUC, by ranks: of a positive one the share of negative ones that it beats, and the other way round.

    Parameters
    ----------
    positive : (n,) bool array
    score : (n,) float array

    Returns
    -------
    (positives,) and (negatives,) float64 arrays
        The mean of either is the AUC.

    References
    ----------
    DeLong et al., Biometrics 1988 (structural components); Sun and Xu, IEEE Signal Processing Letters 2014 (by ranks).
    """
    from scipy.stats import rankdata

    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    ranks = rankdata(score)
    above = (ranks[positive] - rankdata(score[positive])) / max(int((~positive).sum()), 1)
    below = 1.0 - (ranks[~positive] - rankdata(score[~positive])) / max(int(positive.sum()), 1)
    return above, below


@dataclass(frozen=True)
class AucDifference:
    """Two AUCs on the same cases, and how sure their difference is.

    Attributes
    ----------
    first, second : float
        The AUCs.
    difference, low, high : float
        First minus second, with its interval.
    p : float
        Of the two-sided test that both are equal.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def delong_test(positive: np.ndarray, first: np.ndarray, second: np.ndarray, level: float = 0.95) -> AucDifference:
    """Test whether two scores of the same cases have the same AUC.

    Parameters
    ----------
    positive : (n,) bool array
        Independent cases; for several rows of a subject draw subjects with `grouped_bootstrap` instead.
    first, second : (n,) float arrays
    level : float
        Of the interval of the difference.

    Returns
    -------
    AucDifference
        Interval and p are NaN where a class has fewer than two cases, or where neither score's AUC varies though they differ (nothing can
        be said); two scores with the same ranks have p = 1.

    References
    ----------
    DeLong et al., Comparing the areas under two or more correlated ROC curves, Biometrics 1988; Sun and Xu, Fast implementation of
    DeLong's algorithm, IEEE Signal Processing Letters 2014.
    """
    from scipy.stats import norm

    positive = np.asarray(positive, dtype=bool)
    if not len(positive) == len(first) == len(second):
        raise ValueError(f"a paired test needs the same cases: there are {len(positive)} labels, {len(first)} and {len(second)} scores")
    one, other = auc(positive, first), auc(positive, second)
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if ones < 2 or zeros < 2:
        return AucDifference(one, other, one - other, NAN, NAN, NAN)
    pairs = zip(auc_components(positive, first), auc_components(positive, second), strict=True)
    above, below = (a - b for a, b in pairs)
    error = float(np.sqrt(above.var(ddof=1) / ones + below.var(ddof=1) / zeros))
    if error < 1e-12:
        return AucDifference(one, other, one - other, *((0.0, 0.0, 1.0) if abs(one - other) < 1e-12 else (NAN, NAN, NAN)))
    width = float(norm.ppf((1 + level) / 2)) * error
    p = 2 * float(norm.sf(abs(one - other) / error))
    return AucDifference(one, other, one - other, one - other - width, one - other + width, p)


def grouped_bootstrap(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return a statistic and its bootstrap interval, drawing whole subjects.

    The percentile interval is widened to the tails of Student's t, because the plain one is too narrow for few subjects.

    Parameters
    ----------
    statistic : function of (m,) integer array to float
        Gets row numbers, some of them several times. NaN is allowed (a draw without some class) and left out.
    groups : (n,) array
        The subject of each row: its rows are drawn together.
    level : float
    resamples : int
    seed : int

    Returns
    -------
    value, low, high : float
        The interval is NaN for fewer than two subjects or when most draws have no value.

    References
    ----------
    Hesterberg, What teachers should know about the bootstrap, The American Statistician 69 (2015) 371-386.
    """
    names, code = np.unique(np.asarray(groups), return_inverse=True)
    value = float(statistic(np.arange(len(code))))
    if len(names) < 2:
        return value, NAN, NAN
    rows = [np.flatnonzero(code == k) for k in range(len(names))]
    single = np.concatenate(rows) if all(r.size == 1 for r in rows) else None
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(0, len(names), len(names))
        drawn[i] = statistic(single[chosen] if single is not None else np.concatenate([rows[k] for k in chosen]))
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < resamples / 2:
        return value, NAN, NAN
    tail = bootstrap_tail(len(names), level)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return value, float(low), float(high)


def bootstrap_tail(subjects: int, level: float) -> float:
    """Return below which share of the draws an interval begins, by Student's t: the plain share is too large for few subjects."""
    from scipy import stats

    return float(stats.norm.cdf(np.sqrt(subjects / (subjects - 1)) * stats.t.ppf((1 - level) / 2, subjects - 1)))


def summary(
    y: np.ndarray,
    probability: np.ndarray,
    groups: np.ndarray,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    only: Sequence[str] = MEASURES,
) -> dict[str, tuple[float, float, float]]:
    """Return the measures that a model's card tells, each with its interval by drawing subjects.

    The AUC of complete separation gets the interval of `delong_interval` (of the smallest class).

    Parameters
    ----------
    y : (n,) integer array
    probability : (n, classes) array
    groups : (n,) array
        The subject of each row.
    level, resamples, seed
        See `grouped_bootstrap`.
    only : sequence of str
        Some of `MEASURES`; sensitivity, specificity and f1 are means over the classes.

    Returns
    -------
    dict of str to (value, low, high)
    """
    predicted, classes = probability.argmax(axis=1), probability.shape[1]
    functions: dict[str, Callable[[np.ndarray], float]] = {
        "auc": lambda i: auc_macro(y[i], probability[i]),
        "accuracy": lambda i: accuracy(y[i], predicted[i]),
        "sensitivity": lambda i: macro_rates(y[i], predicted[i], classes).sensitivity,
        "specificity": lambda i: macro_rates(y[i], predicted[i], classes).specificity,
        "f1": lambda i: macro_rates(y[i], predicted[i], classes).f1,
        "brier": lambda i: brier(y[i], probability[i]),
        "calibration_error": lambda i: calibration_error(y[i], probability[i]),
    }
    found = {name: grouped_bootstrap(functions[name], groups, level, resamples, seed) for name in only}
    if "auc" in found and found["auc"][0] == 1.0:
        subjects = min(len(np.unique(np.asarray(groups)[y == k])) for k in range(classes))
        found["auc"] = (1.0, _perfect_bound(subjects, level), 1.0)
    return found


def _perfect_bound(pairs: int, level: float) -> float:
    """Return the AUC at which `pairs` independent pairs are all in order with probability (1 - level) / 2."""
    return float(((1 - level) / 2) ** (1 / pairs))
