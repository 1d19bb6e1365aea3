"""L2-regularised logistic regression on features that may be missing: fitted with scikit-learn, predicted with numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify.fusion import fit_temperature, log_softmax
from cohortex.models.classify.preparation import absences
from cohortex.models.classify.selection import by_variance, columns_that_vary

STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse weights of the penalty that are tried."""


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


def _fit(x: np.ndarray, y: np.ndarray, classes: int, count: int, strength: float) -> Logistic:
    """Fit one regression with given settings on all rows."""
    from sklearn.linear_model import LogisticRegression

    missing = np.isnan(x)
    varies, mean, scale = columns_that_vary(x)
    columns = by_variance(x, y, varies, mean, scale, count)
    draft = Logistic(
        columns=columns,
        mean=mean[columns],
        scale=scale[columns],
        complete=np.logical_not(missing[:, columns].any(axis=0)),
        indicators=absences(missing),
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
