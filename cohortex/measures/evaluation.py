"""What is told of a classifier on cases with known classes: ROC, reliability, worth of decisions, groups, sets, ruling out.

Everything is a number, text, list or mapping, so that it can stand in a model's card; what the data do not define is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.measures.calibration import reliability
from cohortex.measures.classification import delong_interval, summary
from cohortex.measures.conformal import Conformal, coverage, coverage_range, fit_conformal, prediction_sets
from cohortex.measures.decisions import decision_curve, rule_out_threshold
from cohortex.measures.intervals import proportion_interval
from cohortex.measures.subgroups import audit

MOST_CLASSES = 8
"""Classes that are each held against the rest; of more only the most frequent."""
POINTS = 60
"""Points of a ROC curve that are kept."""
MOST_SUBJECTS = 5000
"""Subjects that an audit takes, drawn where there are more: each gap is looked at under a thousand permutations."""
LEVEL = 0.05
"""How often an audit of a classifier without gaps may raise an alarm at all, over all columns and classes."""


def evaluation(
    y: np.ndarray,
    probability: np.ndarray,
    subjects: np.ndarray,
    classes: Sequence[str],
    of: str | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what is told of probabilities of cases with known classes.

    Parameters
    ----------
    y : (n,) integer array
    probability : (n, classes) array
        Finite, on cases that the training did not see.
    subjects : (n,) array
    classes : sequence of str
    of : str, optional
        The class that two classes are told of; the rarer one otherwise.
    columns : mapping of str to (n,) array, optional
        Groups for the audit, see `cohortex.measures.attributes`.
    seed : int
        Of bootstraps and permutations.

    Returns
    -------
    dict
        ``scans``, ``subjects``, ``cases`` (subjects by class); ``roc``: one entry a class with ``auc`` (value, low, high) and ``points``
        (1 - specificity, sensitivity); ``reliability``: ``of`` (a class, or "" for the one predicted), ``error`` and ``bins`` (told,
        seen, low, high, cases); ``decisions``: one entry a class with ``threshold``, ``model``, ``everyone``, ``low``, ``high`` (interval
        of the model's gain over the better of treating all and none); ``audit`` where there are columns.
    """
    y, subjects = np.asarray(y), np.asarray(subjects).astype(str)
    cases = {name: len(np.unique(subjects[y == k])) for k, name in enumerate(classes)}
    looked = looked_at(cases, of)
    found: dict[str, Any] = {"scans": len(y), "subjects": len(np.unique(subjects)), "cases": cases, "roc": [], "decisions": []}
    for name in looked:
        positive, score = y == list(classes).index(name), probability[:, list(classes).index(name)]
        if positive.any() and not positive.all():
            found["roc"].append({"class": name, "auc": _auc(positive, score, subjects, seed), "points": _roc(positive, score)})
            curve = decision_curve(positive, np.clip(score, 0, 1), groups=subjects, resamples=300, seed=seed)
            told = {"threshold": curve.threshold, "model": curve.model, "everyone": curve.everyone}
            told |= {"low": curve.gain_low, "high": curve.gain_high}
            found["decisions"].append({"class": name, **{key: plain(value) for key, value in told.items()}})
    found["reliability"] = _reliability(y, probability, classes, looked[0] if len(classes) == 2 else "")
    if columns:
        found["audit"] = audits(y, probability, subjects, classes, looked, columns, seed)
    return found


def looked_at(cases: Mapping[str, int], of: str | None) -> list[str]:
    """Return the classes that are held against the rest: of two the one named or the rarer (the later of equal ones), of more each."""
    if len(cases) == 2:
        return [of if of is not None and of in cases else min(reversed(list(cases)), key=lambda name: cases[name])]
    common = sorted(cases, key=lambda name: -cases[name])[:MOST_CLASSES]
    return [name for name in cases if name in common]


def plain(values: Any) -> Any:
    """Return numbers with four decimals, None where one is not finite; arrays as lists."""
    if isinstance(values, (np.ndarray, list, tuple)):
        return [plain(value) for value in values]
    return round(float(values), 4) if np.isfinite(values) else None


def _auc(positive: np.ndarray, score: np.ndarray, subjects: np.ndarray, seed: int) -> list[float | None]:
    if len(np.unique(subjects)) == len(subjects):
        return plain(delong_interval(positive, score))
    both = np.stack([-score, score], axis=1)
    return plain(summary(positive.astype(np.int64), both, subjects, seed=seed, only=("auc",))["auc"])


def _roc(positive: np.ndarray, score: np.ndarray) -> list[list[float]]:
    """Return (1 - specificity, sensitivity) of thresholds from above all scores to below all, at most `POINTS`."""
    at = np.concatenate([[np.inf], np.unique(score)[::-1]])
    ones, zeros = np.sort(score[positive]), np.sort(score[~positive])
    x, y = 1 - zeros.searchsorted(at, "left") / len(zeros), 1 - ones.searchsorted(at, "left") / len(ones)
    # Between corners the curve is straight.
    corner = np.ones(len(at), dtype=bool)
    corner[1:-1] = np.abs((x[1:-1] - x[:-2]) * (y[2:] - y[1:-1]) - (y[1:-1] - y[:-2]) * (x[2:] - x[1:-1])) > 1e-12
    kept = np.flatnonzero(corner)
    kept = kept[np.unique(np.linspace(0, len(kept) - 1, POINTS).round().astype(int))]
    return plain(np.stack([x, y], axis=1)[kept])


def _reliability(y: np.ndarray, probability: np.ndarray, classes: Sequence[str], of: str) -> dict[str, Any]:
    """Return the reliability table of a class's probability, or of that of the predicted class, in bins of about as many cases each."""
    if of:
        positive, told = y == list(classes).index(of), probability[:, list(classes).index(of)]
    else:
        positive, told = y == probability.argmax(axis=1), probability.max(axis=1)
    table = reliability(positive, np.clip(told, 0.0, 1.0), int(np.clip(len(y) // 12, 3, 10)), "mass")
    columns = (table.told, table.seen, table.seen_low, table.seen_high)
    bins = [[*plain(row[:4]), int(row[4])] for row in zip(*columns, table.cases, strict=True)]
    return {"of": of, "error": plain(table.error), "bins": bins}


# --- groups of people ------------------------------------------------------------------------------------------------


def audits(
    y: np.ndarray,
    probability: np.ndarray,
    subjects: np.ndarray,
    classes: Sequence[str],
    looked: Sequence[str],
    columns: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """Return the audits of all columns and classes; p-values are corrected for all of them.

    Within a column `cohortex.measures.subgroups.audit` corrects for its groups and measures; what it gives is multiplied by the number of
    audits (Bonferroni).

    Returns
    -------
    dict
        ``level``, ``audits`` (how many), ``groups`` and ``gaps`` as lists of mappings; ``drawn``: how many subjects, where not all.
    """
    people = np.unique(subjects)
    if len(people) > MOST_SUBJECTS:
        rows = np.isin(subjects, np.random.default_rng(seed).choice(people, MOST_SUBJECTS, replace=False))
        y, probability, subjects = y[rows], probability[rows], subjects[rows]
        columns = {name: values[rows] for name, values in columns.items() if len({cell for cell in values[rows] if cell}) > 1}
    number = len(columns) * len(looked)
    # So many that the smallest p, corrected, can still be below the level.
    permutations = max(999, round(2 * 2 * number / LEVEL))
    groups, gaps = [], []
    for column, values in columns.items():
        for name in looked:
            k = list(classes).index(name)
            found = audit(y == k, probability[:, k], values, subjects, level=LEVEL, permutations=permutations, resamples=300, seed=seed)
            for group in found.groups:
                told = {key: plain(value) for key, value in group.measures.items()}
                counts = {"subjects": group.subjects, "positives": group.positives}
                groups.append({"column": column, "class": name, "group": group.name, **counts, **told})
            for gap in found.gaps:
                corrected = min(1.0, gap.corrected * number)
                told = {"value": plain(gap.value), "p": plain(gap.p), "corrected": plain(corrected)}
                alarm = bool(corrected <= LEVEL)
                gaps.append({"column": column, "class": name, "group": gap.group, "measure": gap.measure, **told, "alarm": alarm})
    drawn = {"drawn": MOST_SUBJECTS} if len(people) > MOST_SUBJECTS else {}
    return {"level": LEVEL, "audits": number, **drawn, "groups": groups, "gaps": gaps}


# --- sets and ruling out ---------------------------------------------------------------------------------------------


def sets_of(
    y: np.ndarray, probability: np.ndarray, subjects: np.ndarray, fold: np.ndarray, classes: Sequence[str], level: float, seed: int
) -> dict[str, Any]:
    """Return the thresholds of sets that hold the true class with probability `level`, whichever it is, and how sets did in turn.

    Parameters
    ----------
    y, probability, subjects : (n,), (n, classes), (n,) arrays
        Out of fold.
    fold : (n,) integer array
        For the check the thresholds of all other folds are used on each.
    level : float

    Returns
    -------
    dict
        ``level``, ``score``, ``by_class``, ``threshold`` and ``cases`` (a number a class; a threshold of None: too few subjects, so the
        class is in every set), ``expected`` (mean coverage of the smallest class's calibration, and between what it lies with probability
        .95), ``checked`` (covered, low, high, by_class, size, single).
    """
    error = 1 - level
    model = fit_conformal(probability, y, error, by_class=True, groups=subjects, seed=seed)
    member = np.zeros(probability.shape, dtype=bool)
    for each in np.unique(fold):
        held = fold == each
        own = fit_conformal(probability[~held], y[~held], error, by_class=True, groups=subjects[~held], seed=seed)
        member[held] = prediction_sets(own, probability[held]).member
    checked = coverage(type(prediction_sets(model, probability))(member, np.zeros(len(y), dtype=bool)), y)
    return {
        "level": level,
        "score": model.score,
        "by_class": True,
        # Not rounded: a case of the calibration lies on each threshold.
        "threshold": [float(t) if np.isfinite(t) else None for t in model.threshold],
        "cases": {name: int(count) for name, count in zip(classes, model.cases, strict=True)},
        "expected": plain(coverage_range(int(model.cases.min()), error)),
        "checked": {
            "covered": plain([checked.covered, checked.low, checked.high]),
            "by_class": plain(checked.by_class),
            "size": plain(checked.size),
            "single": plain(checked.single),
        },
    }


def conformal_of(told: Mapping[str, Any]) -> Conformal:
    """Return the rule that `sets_of` told."""
    threshold = np.array([np.inf if t is None else float(t) for t in told["threshold"]])
    return Conformal(1 - float(told["level"]), told["score"], bool(told["by_class"]), threshold, np.zeros(len(threshold), dtype=np.int64))


def rule_out_of(
    positive: np.ndarray, score: np.ndarray, subjects: np.ndarray, name: str, sensitivity: float, sure: float, seed: int
) -> dict[str, Any]:
    """Return the operating point that rules a class out, and what is to be expected of it.

    Parameters
    ----------
    positive : (n,) bool array
    score : (n,) float array
        The probability of the class, out of fold.
    subjects : (n,) array
    name : str
        Of the class.
    sensitivity, sure : float
        See `cohortex.measures.decisions.rule_out_threshold`.
    seed : int
        Of the draw of one scan of each subject: what is promised is promised for one scan of a new subject.

    Returns
    -------
    dict
        ``class``, ``sensitivity``, ``sure``, ``cases`` (subjects of the class), ``needed`` (how many it takes), ``threshold`` (None: they
        are too few to be sure, no one is ruled out), ``expected``: ``sensitivity`` and ``specificity`` (value, low, high) and
        ``ruled_out`` (share of the subjects here).

    Notes
    -----
    Of a threshold that is the m + 1-th smallest of n positive scores the sensitivity on endlessly many new cases is Beta(n - m, m + 1)
    distributed, whatever the scores (an order statistic, as the coverage of conformal sets). No negative case has chosen the threshold, so
    their specificity is what is seen.
    """
    from scipy.stats import beta

    order = np.random.default_rng(seed).permutation(len(score))
    first = order[np.unique(subjects[order], return_index=True)[1]]
    positive, score = positive[first], score[first]
    threshold = rule_out_threshold(positive, score, sensitivity, sure)
    cases, below = int(positive.sum()), int((score[positive] < threshold).sum())
    expected: list[float] = [1.0, 1.0, 1.0]
    if np.isfinite(threshold):
        expected = [(cases - below) / (cases + 1), *beta.ppf([0.025, 0.975], cases - below, below + 1)]
    rejected = int((score[~positive] < threshold).sum())
    return {
        "class": name,
        "sensitivity": sensitivity,
        "sure": sure,
        "cases": cases,
        "needed": int(np.ceil(round(float(np.log(1 - sure) / np.log(sensitivity)), 9))),
        # Not rounded: a case lies on it.
        "threshold": threshold if np.isfinite(threshold) else None,
        "expected": {
            "sensitivity": plain(expected),
            "specificity": plain(proportion_interval(rejected, len(positive) - cases)),
            "ruled_out": plain((below + rejected) / len(positive)),
        },
    }
