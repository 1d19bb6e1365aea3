"""Whether a classifier works as well for every group of people: measures by group with intervals, and tests of every gap.

A gap is that of a group to all others. Whether it is chance is tried by permuting who belongs to which group, and each gap is held against
the largest one of all groups and measures under such permutations, so an audit of a classifier without gaps raises an alarm at all at most
as often as its level says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cohortex.measures.calibration import reliability_error
from cohortex.measures.classification import NAN, auc, delong_interval, grouped_bootstrap
from cohortex.measures.intervals import proportion_interval

MEASURES = ("auc", "sensitivity", "specificity", "calibration")
"""What is tested: calibration is the mean of what was told less what came true (calibration in the large)."""
_CHUNK = 4_000_000
"""Numbers held in memory at once."""


@dataclass(frozen=True)
class Group:
    """How a classifier does on one group.

    Attributes
    ----------
    name : str
    subjects, positives, negatives : int
        Subjects, and those among them of either class.
    measures : dict of str to (value, low, high)
        Those of `MEASURES`, and ``calibration_error`` (of bins of equal mass; larger in small groups by chance alone, so it is not tested).
    """

    name: str
    subjects: int
    positives: int
    negatives: int
    measures: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class Gap:
    """A group against all others in one measure.

    Attributes
    ----------
    group, measure : str
    value : float
        The group's less the others'.
    p : float
        Of the permutation test of this gap alone; NaN where the group or the others have too few cases.
    corrected : float
        For all gaps of the audit that were tested.
    alarm : bool
        Whether the corrected p is at most the level.
    """

    group: str
    measure: str
    value: float
    p: float
    corrected: float
    alarm: bool


@dataclass(frozen=True)
class Audit:
    """All groups and gaps.

    Attributes
    ----------
    groups : list of Group
    gaps : list of Gap
    """

    groups: list[Group]
    gaps: list[Gap]

    @property
    def alarms(self) -> list[Gap]:
        """Gaps that are more than chance."""
        return [gap for gap in self.gaps if gap.alarm]

    def worst(self, measure: str) -> float:
        """Return the largest difference between two groups in a measure; NaN where fewer than two have it."""
        known = [v for g in self.groups if np.isfinite(v := g.measures[measure][0])]
        return max(known) - min(known) if len(known) > 1 else NAN


def audit(
    positive: np.ndarray,
    probability: np.ndarray,
    attribute: np.ndarray,
    groups: np.ndarray | None = None,
    threshold: float = 0.5,
    level: float = 0.05,
    least: int = 10,
    permutations: int = 999,
    resamples: int = 500,
    seed: int = 0,
) -> Audit:
    """Compare a classifier between groups of people.

    Parameters
    ----------
    positive : (n,) bool array
    probability : (n,) float array
        Of being positive, on cases that no training saw.
    attribute : (n,) array
        The group of each row (sex, scanner, band of age); empty text, NaN and None are rows without one, which are left out.
    groups : (n,) array, optional
        The subject of each row; all rows of one belong to one group. Every row is its own subject otherwise.
    threshold : float
        From which on a case counts as positive, for sensitivity and specificity.
    level : float
        How often an audit without gaps may raise an alarm at all.
    least : int
        A measure of a group with fewer subjects of a class that it needs is told, but not tested.
    permutations, resamples, seed : int
        Of the tests, and of the intervals (0: none).

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        When there are fewer than two groups, or a subject is in two.

    Notes
    -----
    For AUC, sensitivity and specificity the group is permuted among subjects of the same class: that a disease is more frequent in a
    group is no gap of these. For calibration it is permuted among all. Statistics are divided by their standard errors, so the tests
    hold asymptotically for groups with different spread too.

    References
    ----------
    Westfall and Young, Resampling-based multiple testing, Wiley 1993 (the largest statistic); Chung and Romano, Multivariate and multiple
    permutation tests, Journal of Econometrics 2016 (divided by standard errors); Seyyed-Kalantari et al., Underdiagnosis bias of artificial
    intelligence algorithms applied to chest radiographs in under-served patient populations, Nature Medicine 2021.
    """
    positive, probability = np.asarray(positive, dtype=bool), np.asarray(probability, dtype=np.float64)
    names = np.array(["" if _absent(a) else str(a) for a in np.asarray(attribute, dtype=object)], dtype=object)
    subject = np.arange(len(positive)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    known = names != ""
    positive, probability, names = positive[known], probability[known], names[known].astype(str)
    values = np.unique(names)
    if len(values) < 2:
        raise ValueError(f"an audit compares groups, here is {'no group' if not len(values) else f'only {str(values[0])!r}'}")
    subject = np.unique(subject[known], return_inverse=True)[1]
    first = np.unique(subject, return_index=True)[1]
    of_subject = names[first]
    if (of_subject[subject] != names).any():
        raise ValueError("a subject is in two groups: give each subject one")
    # A subject with rows of both classes is permuted among such subjects.
    ones = np.bincount(subject, weights=positive)
    kind = np.where(ones == 0, 0, np.where(ones == np.bincount(subject), 1, 2))
    rng = np.random.default_rng(seed)
    within = _permuted(len(first), kind, permutations, rng)
    anyhow = _permuted(len(first), np.zeros(len(first), dtype=int), permutations, rng)
    every: list[Group] = []
    gaps: list[tuple[str, str, float, np.ndarray | None]] = []
    for value in values.tolist():
        member = of_subject == value
        rows = names == value
        every.append(_group(value, positive[rows], probability[rows], subject[rows], threshold, resamples, seed))
        if len(values) == 2 and value == values[1]:
            continue  # its gaps are the other group's with another sign: told once, tested once
        counts = [[int((k & side).sum()) for k in (ones > 0, kind != 1)] for side in (member, ~member)]
        for name in MEASURES:
            order = anyhow if name == "calibration" else within
            # One row a way of choosing the group, the real one first.
            chosen = np.concatenate([member[None], member[order]])[:, subject]
            difference, statistic = _statistics(name, positive, probability, chosen, threshold)
            needs = {"auc": (0, 1), "sensitivity": (0,), "specificity": (1,), "calibration": ()}[name]
            enough = all(side[k] >= least for side in counts for k in needs) and min(member.sum(), (~member).sum()) >= least
            gaps.append((value, name, difference, statistic if enough else None))
    return Audit(every, _tested(gaps, level))


def _tested(gaps: list[tuple[str, str, float, np.ndarray | None]], level: float) -> list[Gap]:
    """Return gaps with their p-values: each against the largest of its kind of permutation, and twice that for the two kinds."""
    largest: dict[bool, np.ndarray] = {}
    for _, name, _, statistic in gaps:
        if statistic is not None:
            kind = name == "calibration"
            largest[kind] = statistic if kind not in largest else np.maximum(largest[kind], statistic)

    def rarer(size: float, others: np.ndarray) -> float:
        return (1 + int((others[1:] >= size * (1 - 1e-6)).sum())) / len(others)

    found = []
    for group, name, difference, statistic in gaps:
        p = corrected = NAN
        if statistic is not None:
            p = rarer(statistic[0], statistic)
            corrected = min(1.0, len(largest) * rarer(statistic[0], largest[name == "calibration"]))
        found.append(Gap(group, name, difference, p, corrected, bool(corrected <= level)))
    return found


def _group(
    name: str, positive: np.ndarray, probability: np.ndarray, subject: np.ndarray, threshold: float, resamples: int, seed: int
) -> Group:
    called = probability >= threshold

    def share(hit: np.ndarray, among: np.ndarray) -> float:
        return float(hit[among].mean()) if among.any() else NAN

    functions: dict[str, Callable[[np.ndarray], float]] = {
        "auc": lambda i: auc(positive[i], probability[i]),
        "sensitivity": lambda i: share(called[i], positive[i]),
        "specificity": lambda i: share(~called[i], ~positive[i]),
        "calibration": lambda i: float((probability[i] - positive[i]).mean()),
        "calibration_error": lambda i: reliability_error(positive[i], probability[i], 5, "mass"),
    }
    measures = {
        key: grouped_bootstrap(function, subject, 0.95, resamples, seed) if resamples else (function(np.arange(len(positive))), NAN, NAN)
        for key, function in functions.items()
    }
    if resamples and len(np.unique(subject)) == len(subject):
        # Of independent cases intervals are known, also where all are right and draws say nothing.
        measures["auc"] = delong_interval(positive, probability)
        measures["sensitivity"] = proportion_interval(int(called[positive].sum()), int(positive.sum()))
        measures["specificity"] = proportion_interval(int((~called[~positive]).sum()), int((~positive).sum()))
    counts = (len(np.unique(subject)), len(np.unique(subject[positive])), len(np.unique(subject[~positive])))
    return Group(str(name), *counts, measures)


def _permuted(subjects: int, kind: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Return (permutations, subjects) numbers of subjects, each exchanged with others of its kind only."""
    found = np.tile(np.arange(subjects), (permutations, 1))
    for each in np.unique(kind):
        places = np.flatnonzero(kind == each)
        found[:, places] = rng.permuted(found[:, places], axis=1)
    return found


def _statistics(name: str, positive: np.ndarray, probability: np.ndarray, chosen: np.ndarray, threshold: float) -> tuple[float, np.ndarray]:
    """Return the gap of the first choice, and the size of every choice's gap in standard errors.

    Parameters
    ----------
    chosen : (k, n) bool array
    """
    if name == "auc":
        one, its = _auc_moments(positive, probability, chosen)
        other, others = _auc_moments(positive, probability, ~chosen)
    elif name == "calibration":
        one, its = _moments(probability - positive, chosen)
        other, others = _moments(probability - positive, ~chosen)
    else:
        right = (probability >= threshold) if name == "sensitivity" else (probability < threshold)
        of = positive if name == "sensitivity" else ~positive
        one, its = _shares(right[of], chosen[:, of])
        other, others = _shares(right[of], ~chosen[:, of])
    gap, error = one - other, np.sqrt(its + others)
    statistic = np.divide(np.abs(gap), error, out=np.where(np.abs(gap) > 1e-12, np.inf, 0.0), where=error > 1e-12)
    # A choice that leaves a side without cases says nothing.
    return float(gap[0]), np.where(np.isnan(gap), 0.0, statistic)


def _moments(values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of the mean of each choice."""
    count = chosen.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = chosen @ values / count
        spread = np.maximum(chosen @ values**2 / count - mean**2, 0.0)
        return mean, spread / np.maximum(count - 1, 1)


def _shares(hit: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of hits in each choice, and its variance with one hit and one miss added, so that it is never 0."""
    count, hits = chosen.sum(axis=1), (chosen @ hit.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        added = (hits + 1) / (count + 2)
        return hits / count, added * (1 - added) / (count + 2)


def _auc_moments(positive: np.ndarray, score: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUC and its DeLong variance of each choice, from the wins of every pair."""
    ones, zeros = chosen[:, positive].astype(np.float32), chosen[:, ~positive].astype(np.float32)
    above, below = score[positive], score[~positive]
    count, against = ones.sum(axis=1, dtype=np.float64), zeros.sum(axis=1, dtype=np.float64)
    beaten = np.zeros((len(chosen), len(below)))
    total, squares = np.zeros(len(chosen)), np.zeros(len(chosen))
    step = max(1, _CHUNK // max(len(below), len(chosen), 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        for start in range(0, len(above), step):
            part = above[start : start + step, None]
            wins = ((part > below) + 0.5 * (part == below)).astype(np.float32)
            member = ones[:, start : start + step]
            share = (zeros @ wins.T) / against[:, None]
            total += (member * share).sum(axis=1)
            squares += (member * share**2).sum(axis=1)
            beaten += member @ wins
        value = total / count
        spread = np.maximum(squares / count - value**2, 0.0) / np.maximum(count - 1, 1)
        lost = beaten / count[:, None]
        second = np.maximum((zeros * lost**2).sum(axis=1) / against - value**2, 0.0) / np.maximum(against - 1, 1)
    return value, spread + second


def _absent(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and bool(np.isnan(value)))
