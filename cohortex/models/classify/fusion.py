"""Weighs the probabilities of several classifiers against each other and calibrates the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FLOOR = 1e-9
"""No class is given less: a finite cohort cannot show more certainty."""


@dataclass(frozen=True)
class Fusion:
    """How the probabilities of parts become one.

    Attributes
    ----------
    weights : (parts,) float64 array
        Not negative, with sum 1.
    temperatures : (parts,) float64 array
        The log-probabilities of each part are divided by its own before they are averaged.
    temperature : float
        ... and the logarithm of the average by this one.
    shift : (classes,) float64 array, optional
        What is added to the logarithms of the calibrated probabilities in the end, see `shift_of`.
    """

    weights: np.ndarray
    temperatures: np.ndarray
    temperature: float = 1.0
    shift: np.ndarray | None = None


@dataclass(frozen=True)
class Compared:
    """A part of a fusion, or the fusion itself, on cases that nothing was fitted on.

    Attributes
    ----------
    auc, low, high : float
        With DeLong's interval.
    gain, gain_low, gain_high : float
        AUC of the fusion less that of the part, with the interval of the paired difference; 0 for the fusion.
    p : float
        Of the two-sided test that they do not differ; 1 for the fusion.
    """

    auc: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    p: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def soft_targets(y: np.ndarray, classes: int) -> np.ndarray:
    """Return the probabilities that a calibration should aim at, (n, classes).

    Even when every held-out case is right, k cases of a class do not show more than (k + 1 / classes) / (k + 1): what is believed before
    any case was seen weighs as much as one case, spread over the classes. Without it, separable classes would end with probabilities of 0
    and 1; with one case of weight for each class (the rule of succession) classifiers of few cases are told to be less sure than they are.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, Advances in large margin classifiers 1999 (targets that are not 0 and 1).
    Perks, Some observations on inverse probability including a new indifference rule, Journal of the Institute of Actuaries 1947.
    """
    counts = np.bincount(y, minlength=classes)[y].astype(np.float64)[:, None]
    return (np.eye(classes)[y] * counts + 1.0 / classes) / (counts + 1.0)


def fit_temperature(logits: np.ndarray, y: np.ndarray, low: float = 0.1, high: float = 1000.0) -> float:
    """Return the temperature with the smallest log-loss on held-out logits, against `soft_targets`.

    Parameters
    ----------
    logits : (n, classes) array
    y : (n,) integer array
    low, high : float
        Limits of the search.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    targets = soft_targets(y, logits.shape[1])

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(logits / np.exp(log_temperature))).sum(axis=1).mean())

    # The loss is convex in 1 / temperature, so a golden section finds its only minimum.
    ratio = (np.sqrt(5.0) - 1.0) / 2.0
    a, b = float(np.log(low)), float(np.log(high))
    for _ in range(60):
        c, d = b - ratio * (b - a), a + ratio * (b - a)
        if loss(c) <= loss(d):
            b = d
        else:
            a = c
    return float(np.exp((a + b) / 2.0))


def fit_fusion(parts: Sequence[np.ndarray], y: np.ndarray, fixed: Sequence[float | None], steps: int = 20) -> Fusion:
    """Choose weights and temperatures on held-out predictions.

    Parameters
    ----------
    parts : sequence of (n, classes) arrays
        Log-probabilities of each of one or two parts; NaN rows where a part said nothing (left out of the fit).
    y : (n,) integer array
    fixed : sequence of float or None
        The temperature of a part, where it is calibrated already.
    steps : int
        Weights are multiples of 1 / steps.

    Raises
    ------
    ValueError
        When there are neither one nor two parts.
    """
    if len(parts) not in (1, 2):
        raise ValueError(f"one or two parts can be fused, here are {len(parts)}")
    whole = ~np.isnan(np.stack(parts)).any(axis=(0, 2))
    known, y = [part[whole] for part in parts], y[whole]
    if len(y) == 0:
        return Fusion(np.full(len(parts), 1.0 / len(parts)), np.array([t or 1.0 for t in fixed]))
    temperatures = np.array([fit_temperature(part, y) if t is None else t for part, t in zip(known, fixed, strict=True)])
    probabilities = [np.exp(log_softmax(part / t)) for part, t in zip(known, temperatures, strict=True)]
    candidates = [np.array([1.0])] if len(parts) == 1 else [np.array([k / steps, 1.0 - k / steps]) for k in range(steps + 1)]
    rows = np.arange(len(y))

    def loss(weights: np.ndarray) -> float:
        return -float(np.log(np.clip(np.tensordot(weights, np.stack(probabilities), 1)[rows, y], FLOOR, None)).mean())

    # Of weights that are equally good the most even ones win: two opinions fail less often together.
    weights = min(candidates, key=lambda w: (round(loss(w), 4), float((w**2).sum())))
    average = np.log(np.clip(np.tensordot(weights, np.stack(probabilities), 1), FLOOR, None))
    return Fusion(weights, temperatures, fit_temperature(average, y))


def shift_of(expected: Sequence[float], y: np.ndarray) -> np.ndarray:
    """Return what turns log-probabilities for the shares of the classes `y` into those for expected shares, (classes,) float64.

    Parameters
    ----------
    expected : sequence of float
        Share of each class where the classifier will be used; none is 0.
    y : (n,) integer array
        Classes that the probabilities were calibrated on; none is absent.

    References
    ----------
    Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural Computation 14, 2002.
    """
    wanted = np.asarray(expected, dtype=np.float64)
    return np.log(wanted / wanted.sum()) - np.log(np.bincount(y, minlength=len(wanted)) / len(y))


def fuse(parts: Sequence[np.ndarray], fusion: Fusion) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the fused probabilities and those of each part, all calibrated.

    Where a part said nothing (NaN) the others decide; where none did the result is NaN.

    Parameters
    ----------
    parts : sequence of (n, classes) arrays
        Log-probabilities.
    fusion : Fusion

    Returns
    -------
    fused : (n, classes) float64 array
        Rows sum to 1.
    calibrated : list of (n, classes) float64 arrays
    """
    calibrated = [np.exp(log_softmax(part / t)) for part, t in zip(parts, fusion.temperatures, strict=True)]
    stacked, shift = np.stack(calibrated), 0.0 if fusion.shift is None else fusion.shift
    if fusion.shift is not None:
        calibrated = [np.exp(log_softmax(part / t + shift)) for part, t in zip(parts, fusion.temperatures, strict=True)]
    silent = np.isnan(stacked).any(axis=2)
    weights = np.where(silent, 0.0, np.maximum(fusion.weights, 1e-9)[:, None])
    total = weights.sum(axis=0)
    weights = weights / np.where(total > 0, total, 1.0)
    average = np.einsum("pn,pnc->nc", weights, np.nan_to_num(stacked, nan=0.0))
    fused = np.exp(log_softmax(np.log(np.clip(average, FLOOR, None)) / fusion.temperature + shift))
    fused[total == 0] = np.nan
    return fused, calibrated


def compare_parts(
    y: np.ndarray,
    parts: Mapping[str, np.ndarray],
    fused: np.ndarray,
    subjects: np.ndarray | None = None,
    of: int = 1,
    level: float = 0.95,
) -> dict[str, Compared]:
    """Tell how well the parts of a fusion and the fusion find a class, and whether the fusion is better than each.

    Parameters
    ----------
    y : (n,) integer array
    parts : mapping of str to (n, classes) array
        Log-probabilities, of cases that the part was not fitted on.
    fused : (n, classes) array
        Probabilities; weights and temperatures must not have been chosen on these cases either.
    subjects : (n,) array, optional
        The subject of each row, when one may have several: DeLong's test needs independent cases, so the mean of its scores counts.
    of : int
        The class that is looked for among all others.
    level : float
        Of the intervals.

    Returns
    -------
    dict of str to Compared
        The parts, then ``fused``; from the rows that all of them said something of. NaN where there are not two cases on each side.

    Raises
    ------
    ValueError
        When rows of one subject are of different classes.

    References
    ----------
    DeLong et al., Comparing the areas under two or more correlated ROC curves, Biometrics 1988.
    """
    from cohortex.measures.classification import delong_interval, delong_test

    with np.errstate(divide="ignore"):
        scores = {name: _odds(logs, of) for name, logs in parts.items()} | {"fused": _odds(np.log(np.clip(fused, FLOOR, None)), of)}
    known = ~np.isnan(np.stack(list(scores.values()))).any(axis=0)
    positive = y[known] == of
    scores = {name: score[known] for name, score in scores.items()}
    if subjects is not None:
        _, number = np.unique(subjects[known], return_inverse=True)
        size = np.bincount(number)
        share = np.bincount(number, weights=positive) / size
        if not np.isin(share, (0.0, 1.0)).all():
            raise ValueError("rows of one subject are of different classes: compare rows, without subjects")
        positive = share == 1.0
        scores = {name: np.bincount(number, weights=score) / size for name, score in scores.items()}
    found = {}
    for name, score in scores.items():
        test = delong_test(positive, scores["fused"], score, level)
        found[name] = Compared(*delong_interval(positive, score, level), test.difference, test.low, test.high, test.p)
    return found


def _odds(logs: np.ndarray, of: int) -> np.ndarray:
    """Return the log-odds of one class against all others."""
    others = np.delete(logs, of, axis=1)
    top = others.max(axis=1)
    return logs[:, of] - (top + np.log(np.exp(others - top[:, None]).sum(axis=1)))
