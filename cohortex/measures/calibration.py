"""Reliability of probabilities: how often what is told with a probability comes true, bin by bin, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cohortex.measures.classification import NAN
from cohortex.measures.intervals import proportion_interval

Binning = Literal["width", "mass"]


@dataclass(frozen=True)
class Reliability:
    """A reliability table, one row a bin that has cases.

    Attributes
    ----------
    low, high : (bins,) float64 arrays
        Edges in probability; a case on an edge belongs to the bin below (the smallest to the first).
    cases : (bins,) int64 array
    told : (bins,) float64 array
        Mean probability.
    seen : (bins,) float64 array
        Share that came true.
    seen_low, seen_high : (bins,) float64 arrays
        The exact interval of that share.
    """

    low: np.ndarray
    high: np.ndarray
    cases: np.ndarray
    told: np.ndarray
    seen: np.ndarray
    seen_low: np.ndarray
    seen_high: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of told from seen, weighted by cases."""
        return float(self.cases @ np.abs(self.told - self.seen) / self.cases.sum()) if len(self.cases) else NAN

    @property
    def largest(self) -> float:
        """The largest distance of told from seen in a bin."""
        return float(np.abs(self.told - self.seen).max()) if len(self.cases) else NAN


def reliability(
    positive: np.ndarray, probability: np.ndarray, bins: int = 10, binning: Binning = "width", level: float = 0.95
) -> Reliability:
    """Return the reliability table of a probability.

    Bins of equal width are easy to read, but leave some nearly empty; those of equal mass have about as many cases each, and their
    error is less biased.

    Parameters
    ----------
    positive : (n,) bool array
        Whether it came true: a class is the right one, or the predicted class is.
    probability : (n,) float array
        What was told, 0 to 1.
    bins : int
    binning : "width" or "mass"
        Equal probabilities stay in one bin, so bins of equal mass can be fewer than asked for.
    level : float
        Of the interval of each bin.

    Raises
    ------
    ValueError
        For probabilities outside 0 to 1, lengths that differ, or no bin.

    References
    ----------
    Guo et al., On calibration of modern neural networks, ICML 2017; Nixon et al., Measuring calibration in deep learning, CVPR workshops
    2019 (equal mass); Broecker and Smith, Increasing the reliability of reliability diagrams, Weather and Forecasting 2007.
    """
    positive, probability = np.asarray(positive, dtype=bool), np.asarray(probability, dtype=np.float64)
    if positive.shape != probability.shape or positive.ndim != 1:
        raise ValueError(f"each case needs one probability: there are {positive.shape} cases and {probability.shape} probabilities")
    if bins < 1:
        raise ValueError(f"a reliability table needs at least one bin, here are {bins}")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities lie between 0 and 1, some of these do not")
    low, high, cases, told, hits = _binned(positive, probability, bins, binning)
    rows = np.array([proportion_interval(int(h), int(n), level) for h, n in zip(hits, cases, strict=True)]).reshape(len(cases), 3)
    return Reliability(low, high, cases, told, rows[:, 0], rows[:, 1], rows[:, 2])


def reliability_error(positive: np.ndarray, probability: np.ndarray, bins: int = 10, binning: Binning = "width") -> float:
    """Return `Reliability.error` without the intervals, for the many draws of a bootstrap; NaN without cases."""
    _, _, cases, told, hits = _binned(np.asarray(positive, dtype=bool), np.asarray(probability, dtype=np.float64), bins, binning)
    return float(np.abs(cases * told - hits).sum() / cases.sum()) if len(cases) else NAN


def _binned(positive: np.ndarray, probability: np.ndarray, bins: int, binning: Binning) -> tuple[np.ndarray, ...]:
    """Return low and high edge, cases, mean probability and hits of each bin that has cases."""
    if binning == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)
    else:
        inner = np.quantile(probability, np.arange(1, bins) / bins, method="inverted_cdf") if len(probability) else np.zeros(0)
        edges = np.concatenate([[0.0], np.unique(inner), [1.0]])
    place = np.searchsorted(edges[1:-1], probability, side="left")
    cases = np.bincount(place, minlength=len(edges) - 1)
    there = np.flatnonzero(cases)
    hits = np.bincount(place, weights=positive, minlength=len(cases))[there].astype(np.int64)
    told = np.bincount(place, weights=probability, minlength=len(cases))[there] / cases[there]
    return edges[there], edges[there + 1], cases[there], told, hits
