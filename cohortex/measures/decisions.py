"""Thresholds chosen on one set of cases and judged on another, and what deciding by a probability is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.measures.classification import NAN, bootstrap_tail, grouped_bootstrap
from cohortex.measures.intervals import proportion_interval

Interval = tuple[float, float, float]
"""Value, low, high."""


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does on a set of cases, each rate with its interval.

    Attributes
    ----------
    threshold : float
        A case with at least this score counts as positive.
    sensitivity, specificity : (value, low, high)
    positive_value, negative_value : (value, low, high)
        Shares of those called positive (negative) that are; NaN where none is called so.
    ruled_out : (value, low, high)
        Share of cases called negative.
    """

    threshold: float
    sensitivity: Interval
    specificity: Interval
    positive_value: Interval
    negative_value: Interval
    ruled_out: Interval


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit over the probability from which on one would treat.

    Attributes
    ----------
    threshold : (k,) float64 array
    model, everyone : (k,) float64 arrays
        True positives less false positives, weighed by the odds of the threshold, per case; treating no one has 0.
    gain, gain_low, gain_high : (k,) float64 arrays
        The model's less the better of treating all and none, with its bootstrap interval.
    """

    threshold: np.ndarray
    model: np.ndarray
    everyone: np.ndarray
    gain: np.ndarray
    gain_low: np.ndarray
    gain_high: np.ndarray


def rule_out_threshold(positive: np.ndarray, score: np.ndarray, sensitivity: float = 0.95, sure: float | None = None) -> float:
    """Return the highest threshold that still finds a share of the positive cases, to rule out those below.

    Parameters
    ----------
    positive : (n,) bool array
    score : (n,) float array
        Higher for positive.
    sensitivity : float
        Share that must be found, in (0, 1].
    sure : float, optional
        How sure one wants to be that new cases reach it as well, such as .95: the threshold is then a tolerance limit, lower than the
        one that just reaches it on these cases, which on new ones falls short about every second time.

    Returns
    -------
    float
        -inf (no one is ruled out) where there are too few positive cases to be sure.

    Raises
    ------
    ValueError
        Without positive cases, or for shares outside their ranges.

    References
    ----------
    Wilks, Determination of sample sizes for setting tolerance limits, Annals of Mathematical Statistics 1941 (for `sure`).
    """
    from scipy.stats import binom

    above = np.sort(np.asarray(score, dtype=np.float64)[np.asarray(positive, dtype=bool)])
    if not len(above):
        raise ValueError("a threshold for a sensitivity needs positive cases, there is none")
    if not 0 < sensitivity <= 1 or (sure is not None and not 0 < sure < 1):
        raise ValueError(f"a sensitivity lies in (0, 1] and what one is sure of in (0, 1); here are {sensitivity} and {sure}")
    if sure is None:
        return float(above[int(np.floor(round(len(above) * (1 - sensitivity), 9)))])
    # The m + 1-th smallest positive score misses more than 1 - sensitivity of all positive cases only if m or fewer of the n fell among
    # that share, which is binomial.
    rare = binom.cdf(np.arange(len(above)), len(above), 1 - sensitivity) <= 1 - sure
    return float(above[int(rare.sum()) - 1]) if rare.any() else -np.inf


def youden_threshold(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1, of equal ones the highest.

    References
    ----------
    Youden, Index for rating diagnostic tests, Cancer 1950.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    ones, zeros = np.sort(score[positive]), np.sort(score[~positive])
    if not len(ones) or not len(zeros):
        raise ValueError("Youden's threshold needs cases of both classes")
    at = np.unique(score)[::-1]
    index = zeros.searchsorted(at, "left") / len(zeros) - ones.searchsorted(at, "left") / len(ones)
    return float(at[np.argmax(np.round(index, 12))])


def operating_point(
    positive: np.ndarray,
    score: np.ndarray,
    threshold: float,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> OperatingPoint:
    """Return what a threshold, chosen on other cases, does on these.

    Parameters
    ----------
    positive : (n,) bool array
    score : (n,) float array
    threshold : float
        From `rule_out_threshold` or `youden_threshold` of another set: on its own set the rates are too good.
    groups : (n,) array, optional
        The subject of each row: intervals by drawing subjects; exact ones (Clopper-Pearson) for independent cases otherwise.
    level, resamples, seed
        See `cohortex.measures.classification.grouped_bootstrap`.
    """
    positive = np.asarray(positive, dtype=bool)
    called = np.asarray(score, dtype=np.float64) >= threshold
    every = np.ones(len(positive), dtype=bool)
    rates = [(called, positive), (~called, ~positive), (positive, called), (~positive, ~called), (~called, every)]

    def rate(hit: np.ndarray, among: np.ndarray) -> Interval:
        if groups is None:
            return proportion_interval(int((hit & among).sum()), int(among.sum()), level)
        return grouped_bootstrap(
            lambda i: float(hit[i][among[i]].mean()) if among[i].any() else NAN, np.asarray(groups), level, resamples, seed
        )

    return OperatingPoint(float(threshold), *(rate(hit, among) for hit, among in rates))


def net_benefit(positive: np.ndarray, probability: np.ndarray, threshold: float) -> float:
    """Return the net benefit of treating cases with at least this probability: true less weighed false positives, per case.

    References
    ----------
    Vickers and Elkin, Decision curve analysis: a novel method for evaluating prediction models, Medical Decision Making 2006.
    """
    if not len(positive):
        return NAN
    return float(_worth(np.asarray(positive, dtype=bool), np.asarray(probability) >= threshold, threshold).mean())


def decision_curve(
    positive: np.ndarray,
    probability: np.ndarray,
    thresholds: Sequence[float] | np.ndarray | None = None,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> DecisionCurve:
    """Return the net benefit of a model over thresholds, beside those of treating everyone and no one.

    Parameters
    ----------
    positive : (n,) bool array
    probability : (n,) float array
        Calibrated; a score without that meaning has no decision curve.
    thresholds : sequence of float, optional
        Probabilities from which on one would treat, between 0 and 1 without them; .05, .1, ..., .95 otherwise. The odds of a threshold are
        how many false positives weigh as much as one true one.
    groups : (n,) array, optional
        The subject of each row.
    level, resamples, seed
        See `cohortex.measures.classification.grouped_bootstrap`.

    References
    ----------
    Vickers and Elkin, Decision curve analysis: a novel method for evaluating prediction models, Medical Decision Making 2006.
    """
    positive, probability = np.asarray(positive, dtype=bool), np.asarray(probability, dtype=np.float64)
    at = np.arange(1, 20) / 20 if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise ValueError("thresholds of a decision curve lie between 0 and 1, without them")
    if not len(positive) or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("a decision curve needs cases with probabilities between 0 and 1")
    units = np.arange(len(positive)) if groups is None else np.asarray(groups)
    model = np.stack([_worth(positive, probability >= threshold, threshold) for threshold in at])
    everyone = np.stack([_worth(positive, np.ones(len(positive), dtype=bool), threshold) for threshold in at])
    means = model.mean(axis=1), everyone.mean(axis=1)
    gain = means[0] - np.maximum(means[1], 0.0)
    low, high = _gain_interval(model, everyone, units, level, resamples, seed)
    return DecisionCurve(at, *means, gain, low, high)


def _gain_interval(
    model: np.ndarray, everyone: np.ndarray, units: np.ndarray, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bootstrap interval of the gain at every threshold, subjects drawn as `grouped_bootstrap` does, for all at once.

    Parameters
    ----------
    model, everyone : (k, n) arrays
        What each case adds at each threshold.
    """
    names, code = np.unique(units, return_inverse=True)
    if len(names) < 2:
        return np.full(len(model), NAN), np.full(len(model), NAN)
    size = np.bincount(code).astype(np.float64)
    sums = [np.stack([np.bincount(code, weights=row, minlength=len(names)) for row in rows]) for rows in (model, everyone)]
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, len(model)))
    for i in range(resamples):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        cases = times @ size
        drawn[i] = sums[0] @ times / cases - np.maximum(sums[1] @ times / cases, 0.0)
    tail = bootstrap_tail(len(names), level)
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return low, high


def _worth(positive: np.ndarray, treated: np.ndarray, threshold: float) -> np.ndarray:
    """Return what each case adds to the net benefit."""
    return treated * np.where(positive, 1.0, -threshold / (1 - threshold))
