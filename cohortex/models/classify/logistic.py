"""L2-regularised logistic regression on features that may be missing: fitted with scikit-learn, predicted with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.models.classify.fusion import fit_temperature, log_softmax

STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse weights of the penalty that are tried."""
ALIKE = 0.95
"""Two columns that correlate more than this say the same: the weaker one is left out."""


@dataclass(frozen=True)
class Logistic:
    """A fitted regression.

    Attributes
    ----------
    columns : (k,) int64 array
        Which features are used.
    mean, scale : (k,) float64 arrays
        Of the training subjects that have the feature.
    complete : (k,) bool array
        Whether every training subject had the feature: where one of these is missing, nothing can be said.
    indicators : (m,) int64 array
        Features whose absence is a feature of its own (1 absent, 0 there).
    coef : (classes, k + m) float64 array
    intercept : (classes,) float64 array
    temperature : float
        Logits are divided by it.
    """

    columns: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    complete: np.ndarray
    indicators: np.ndarray
    coef: np.ndarray
    intercept: np.ndarray
    temperature: float = 1.0

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        found = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        return {name: np.atleast_1d(array.astype(np.uint8) if array.dtype == bool else array) for name, array in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Logistic:
        """Return the regression that `tensors` described."""
        found = {name: np.asarray(tensors[name]) for name in cls.__dataclass_fields__}
        return cls(**{**found, "complete": found["complete"].astype(bool), "temperature": float(found["temperature"].item())})


def predict_logits(model: Logistic, x: np.ndarray) -> np.ndarray:
    """Return calibrated log-probabilities.

    Parameters
    ----------
    model : Logistic
    x : (n, features) array
        NaN where a feature is missing.

    Returns
    -------
    (n, classes) float64 array
        NaN rows where a feature is missing that every training subject had.
    """
    logits = design(model, x) @ model.coef.T + model.intercept
    found = log_softmax(logits / model.temperature)
    found[np.isnan(x[:, model.columns[model.complete]]).any(axis=1)] = np.nan
    return found


def fit_logistic(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    classes: int,
    seed: int,
    keep: Sequence[int] = (8, 24),
    folds: int = 3,
) -> Logistic:
    """Fit scaling, selection, penalty, weights and temperature on training subjects.

    The number of columns and the penalty are those with the smallest log-loss in a grouped cross-validation in which
    selection and scaling are done anew in every fold; its predictions also give the temperature.

    Parameters
    ----------
    x : (n, features) array
        NaN where missing.
    y : (n,) integer array
        Classes from 0 on.
    groups : (n,) array
        Subjects: all rows of one are on one side of every cut.
    classes : int
    seed : int
    keep : sequence of int
        Numbers of columns that are tried.
    folds : int

    Raises
    ------
    ValueError
        When no feature varies, or a class is missing.
    """
    if len(np.unique(y)) < classes:
        raise ValueError(f"there are {classes} classes, but only {len(np.unique(y))} of them have a subject")
    cuts = grouped_folds(y, groups, folds, seed)
    best: tuple[float, int, float, np.ndarray] | None = None
    for count in keep:
        for strength in STRENGTHS:
            out = np.full((len(y), classes), np.nan)
            for train, held in cuts:
                out[held] = predict_logits(_fit(x[train], y[train], classes, count, strength), x[held])
            out = np.where(np.isnan(out), -np.log(classes), out)
            loss = -float(out[np.arange(len(y)), y].mean())
            if best is None or loss < best[0] - 1e-9:
                best = (loss, count, strength, out)
    assert best is not None
    _, count, strength, out = best
    fitted = _fit(x, y, classes, count, strength)
    return Logistic(**{**fitted.__dict__, "temperature": fit_temperature(out, y)})


def grouped_folds(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut subjects into folds with about the same classes; return (training rows, held-out rows) of each.

    There are never more folds than the smallest class has subjects, so every training side has every class where
    that is possible at all.
    """
    rng = np.random.default_rng(seed)
    names, first = np.unique(groups, return_index=True)
    label = y[first]
    smallest = int(np.bincount(label)[np.unique(label)].min())
    number = max(2, min(folds, smallest))
    fold = np.empty(len(names), dtype=np.int64)
    start = 0
    for each in np.unique(label):
        members = rng.permutation(np.flatnonzero(label == each))
        fold[members] = (start + np.arange(len(members))) % number
        start += len(members)
    row_fold = fold[np.searchsorted(names, groups)]
    return [(np.flatnonzero(row_fold != k), np.flatnonzero(row_fold == k)) for k in range(number)]


def _fit(x: np.ndarray, y: np.ndarray, classes: int, count: int, strength: float) -> Logistic:
    """Fit one regression with given settings on all rows."""
    from sklearn.linear_model import LogisticRegression

    missing = np.isnan(x)
    usable = (~missing).sum(axis=0) >= max(min(3, len(y)), len(y) // 10)
    mean, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for column in np.flatnonzero(usable):
        values = x[~missing[:, column], column]
        mean[column], scale[column] = values.mean(), values.std()
    varies = usable & (scale > 1e-9 * (1.0 + np.abs(mean)))
    if not varies.any():
        raise ValueError("no feature varies between the training subjects")
    columns = _select(x, y, np.flatnonzero(varies), mean, scale, count)
    draft = Logistic(
        columns=columns,
        mean=mean[columns],
        scale=scale[columns],
        complete=np.logical_not(missing[:, columns].any(axis=0)),
        indicators=_indicators(missing),
        coef=np.zeros((classes, 0)),
        intercept=np.zeros(classes),
    )
    terms = design(draft, x)
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000).fit(terms, y)
    coef, intercept = regression.coef_, regression.intercept_
    if classes == 2:  # scikit-learn gives the second class only
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    return Logistic(**{**draft.__dict__, "coef": coef, "intercept": intercept})


def design(model: Logistic, x: np.ndarray) -> np.ndarray:
    """Return scaled columns (the mean where missing) and the indicators of absence, (n, k + m)."""
    scaled = np.nan_to_num((x[:, model.columns] - model.mean) / model.scale, nan=0.0)
    # An outlier of a scanner that was never seen must not outvote everything else.
    return np.concatenate([np.clip(scaled, -5.0, 5.0), np.isnan(x[:, model.indicators]).astype(np.float64)], axis=1)


def _indicators(missing: np.ndarray) -> np.ndarray:
    """Return one column for each pattern of absence that some but not all training subjects have."""
    some = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    _, first = np.unique(missing[:, some], axis=1, return_index=True)
    return np.sort(some[first]).astype(np.int64)


def _select(x: np.ndarray, y: np.ndarray, columns: np.ndarray, mean: np.ndarray, scale: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` columns with the largest F statistic, without near copies of better ones."""
    scores = _f_statistics(x[:, columns], y)
    scaled = np.nan_to_num((x[:, columns] - mean[columns]) / scale[columns], nan=0.0)
    norms = np.linalg.norm(scaled, axis=0)
    chosen: list[int] = []
    for candidate in np.argsort(-scores, kind="stable"):
        if len(chosen) == count:
            break
        if chosen:
            alike = np.abs(scaled[:, chosen].T @ scaled[:, candidate]) / (norms[chosen] * norms[candidate])
            if alike.max() > ALIKE:
                continue
        chosen.append(int(candidate))
    return np.sort(columns[chosen]).astype(np.int64)


def _f_statistics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return each column's F statistic of one-way analysis of variance among the subjects that have the feature.

    Classes with fewer than two such subjects are left out; with fewer than two classes the statistic is 0.
    """
    there = ~np.isnan(x)
    members = (y[:, None] == np.unique(y)[None, :]).astype(np.float64)
    number = members.T @ there
    there = there & ((members @ (number > 1)) > 0)
    number = np.where(number > 1, number, 0.0)
    classes, every = (number > 0).sum(axis=0), np.maximum(number.sum(axis=0), 1.0)
    # Centred first: sums of squares of large means would cancel.
    values = np.where(there, x - np.where(there, x, 0.0).sum(axis=0) / every, 0.0)
    means = members.T @ values / np.maximum(number, 1.0)
    between = (number * means**2).sum(axis=0) / np.maximum(classes - 1, 1)
    within = np.where(there, (values - members @ means) ** 2, 0.0).sum(axis=0) / np.maximum(every - classes, 1.0)
    ratio = np.divide(between, within, out=np.where(between > 0, np.inf, 0.0), where=within > 0)
    return np.where(classes > 1, ratio, 0.0)
