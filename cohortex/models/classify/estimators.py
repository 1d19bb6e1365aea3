"""Classifiers of feature vectors by name: logistic regression, support vector machine, random forest, nearest neighbours.

All are fitted on training subjects that may lack features, choose features, settings and calibration within them, are kept as plain
arrays, and answer with calibrated log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify import logistic
from cohortex.models.classify.forest import Forest, fit_forest, forest_scores
from cohortex.models.classify.fusion import log_softmax, soft_targets
from cohortex.models.classify.logistic import Logistic, fit_logistic
from cohortex.models.classify.nearest import Nearest, fit_nearest, nearest_scores
from cohortex.models.classify.preparation import Preparation, fit_preparation, prepare, speechless
from cohortex.models.classify.svm import Svm, fit_svm, svm_scores

ESTIMATORS = ("logistic", "svm", "forest", "nearest")

TRIED: dict[str, dict[str, tuple[Any, ...]]] = {
    "svm": {"keep": (8, 24), "strength": (0.1, 1.0, 10.0), "kernel": ("rbf",)},
    "forest": {"keep": (48,), "trees": (200,), "leaf": (1, 4)},
    "nearest": {"keep": (24,), "embedding": ("neighbourhood",), "dimensions": (2, 4), "count": (9, 21)},
}
"""Settings of which the best are chosen in a cross-validation within the training subjects; `keep` are numbers of features."""
STEEPEST = 20.0
"""Largest slope of the calibration: scores that separate the classes do not show more certainty."""


@dataclass(frozen=True)
class Estimator:
    """A fitted classifier other than the logistic regression.

    Attributes
    ----------
    name : str
        One of `TRIED`.
    preparation : Preparation
    model : Svm or Forest or Nearest
    slope : float64 array of one value
    offset : (classes,) float64 array
        Scores times the slope plus the offset are the logits (Platt's calibration, for any number of classes).
    """

    name: str
    preparation: Preparation
    model: Svm | Forest | Nearest
    slope: np.ndarray
    offset: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder; the name is the first part of those of the model."""
        own = {f"{self.name}.{name}": value for name, value in self.model.tensors().items()}
        prepared = {f"preparation.{name}": value for name, value in self.preparation.tensors().items()}
        return own | prepared | {"slope": np.atleast_1d(self.slope), "offset": self.offset}


def fit_estimator(
    name: str, x: np.ndarray, y: np.ndarray, subjects: np.ndarray, classes: int, seed: int, **options: Any
) -> Logistic | Estimator:
    """Fit a classifier on training subjects.

    Features, settings and calibration come from a grouped cross-validation within these subjects, in which selection and scaling are
    done anew in every fold: the settings with the smallest log-loss, and the calibration of their predictions.

    Parameters
    ----------
    name : str
        One of `ESTIMATORS`.
    x : (n, features) array
        NaN where missing.
    y : (n,) integer array
        Classes from 0 on.
    subjects : (n,) array
        All rows of one are on one side of every cut.
    classes : int
    seed : int
    **options
        selection: see `cohortex.models.classify.selection.select` (``anova``); folds: 3; and for each setting in `TRIED` a value or a
        sequence of values to choose from. The logistic regression has keep and folds.

    Raises
    ------
    ValueError
        When name or option is unknown, no feature varies, or a class is missing.
    """
    if name == "logistic":
        if options.pop("selection", "anova") != "anova":
            raise ValueError("the logistic regression selects by analysis of variance")
        return fit_logistic(x, y, subjects, classes, seed, **options)
    if name not in TRIED:
        raise ValueError(f"there is no estimator {name!r}; there are {', '.join(ESTIMATORS)}")
    if len(np.unique(y)) < classes:
        raise ValueError(f"there are {classes} classes, but only {len(np.unique(y))} of them have a subject")
    selection, folds = options.pop("selection", "anova"), options.pop("folds", 3)
    grid = _grid(name, options)
    cuts = grouped_folds(y, subjects, folds, seed)
    others = [key for key in grid if key != "keep"]
    every = [dict(zip(others, values, strict=True)) for values in product(*(grid[key] for key in others))]
    best: tuple[float, int, dict[str, Any], np.ndarray, np.ndarray] | None = None
    for count in grid["keep"]:
        prepared = [fit_preparation(x[train], y[train], count, selection, seed) for train, _ in cuts]
        for settings in every:
            scores = np.full((len(y), classes), np.nan)
            for (train, held), preparation in zip(cuts, prepared, strict=True):
                model = _fit(name, prepare(preparation, x[train]), y[train], classes, seed, settings)
                scores[held] = np.where(speechless(preparation, x[held])[:, None], np.nan, _scores(model, prepare(preparation, x[held])))
            slope, offset = fit_platt(scores, y)
            loss = _loss(log_softmax(slope * scores + offset), y)
            if best is None or loss < best[0] - 1e-9:
                best = (loss, count, settings, slope, offset)
    assert best is not None
    _, count, settings, slope, offset = best
    preparation = fit_preparation(x, y, count, selection, seed)
    return Estimator(name, preparation, _fit(name, prepare(preparation, x), y, classes, seed, settings), slope, offset)


def predict_logits(estimator: Logistic | Estimator, x: np.ndarray) -> np.ndarray:
    """Return calibrated log-probabilities.

    Parameters
    ----------
    estimator : Logistic or Estimator
    x : (n, features) array
        NaN where a feature is missing.

    Returns
    -------
    (n, classes) float64 array
        NaN rows where a feature is missing that every training subject had.
    """
    if isinstance(estimator, Logistic):
        return logistic.predict_logits(estimator, x)
    scores = _scores(estimator.model, prepare(estimator.preparation, x))
    found = log_softmax(estimator.slope * scores + estimator.offset)
    found[speechless(estimator.preparation, x)] = np.nan
    return found


def from_tensors(tensors: Mapping[str, np.ndarray]) -> Logistic | Estimator:
    """Return the classifier that `tensors` described, told apart by the names of its tensors.

    Raises
    ------
    KeyError
        When a tensor is missing.
    """
    kinds: dict[str, Any] = {"svm": Svm, "forest": Forest, "nearest": Nearest}
    name = next((kind for kind in kinds if any(key.startswith(f"{kind}.") for key in tensors)), None)
    if name is None:
        return Logistic.from_tensors(tensors)

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}

    preparation = Preparation.from_tensors(part("preparation"))
    return Estimator(name, preparation, kinds[name].from_tensors(part(name)), np.asarray(tensors["slope"]), np.asarray(tensors["offset"]))


def lacks(estimator: Logistic | Estimator, x: np.ndarray) -> np.ndarray:
    """Return which rows lack a feature that every training subject had, so that nothing can be said of them, (n,) bool."""
    part = estimator if isinstance(estimator, Logistic) else estimator.preparation
    return np.asarray(np.isnan(x[:, part.columns[part.complete]]).any(axis=1))


def feature_effects(estimator: Estimator, x: np.ndarray) -> np.ndarray:
    """Return what the value of each feature does to the log-probabilities, against the median of the training subjects.

    Parameters
    ----------
    estimator : Estimator
    x : (n, features) array

    Returns
    -------
    (n, classes, k) float64 array
        Of the columns of the preparation; those to all classes add up to 0. What features do together is not told apart, so
        their sum is not the whole of the answer.
    """
    here = predict_logits(estimator, x)
    effects = np.zeros((*here.shape, len(estimator.preparation.columns)))
    for number, (column, middle) in enumerate(zip(estimator.preparation.columns, estimator.preparation.middle, strict=True)):
        other = x.copy()
        other[:, column] = middle
        effects[:, :, number] = here - predict_logits(estimator, other)
    return effects - effects.mean(axis=1, keepdims=True)


def used_features(estimator: Logistic | Estimator) -> np.ndarray:
    """Return the columns that a classifier looks at, in ascending order."""
    return np.asarray(estimator.columns if isinstance(estimator, Logistic) else estimator.preparation.columns)


def fit_platt(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and offset of the logits that fit held-out scores best, classes weighing the same.

    Parameters
    ----------
    scores : (n, classes) array
        Of subjects that they were not fitted on. NaN rows are left out.
    y : (n,) integer array

    Returns
    -------
    slope : float64 array of one value
        Not negative, at most `STEEPEST`.
    offset : (classes,) float64 array
        With sum 0.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, Advances in large margin classifiers 1999.
    """
    from scipy.optimize import minimize

    known = ~np.isnan(scores).any(axis=1)
    scores, y, classes = scores[known], y[known], scores.shape[1]
    if not len(y):
        return np.ones(1), np.zeros(classes)
    targets = soft_targets(y, classes)
    weight = 1.0 / np.bincount(y, minlength=classes)[y]
    weight /= weight.sum()

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(values[0] * scores + values[1:])
        wrong = weight[:, None] * (np.exp(logs) - targets)
        # a little pull to 0 keeps offsets finite that nothing else holds
        value = -float((weight[:, None] * targets * logs).sum()) + 1e-6 * float((values[1:] ** 2).sum())
        return value, np.concatenate([[(wrong * scores).sum()], wrong.sum(axis=0) + 2e-6 * values[1:]])

    bounds = [(0.0, STEEPEST), *[(None, None)] * classes]
    found = minimize(loss, np.concatenate([[1.0], np.zeros(classes)]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return np.array([found[0]]), found[1:] - found[1:].mean()


def _grid(name: str, options: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the values of every setting that are tried."""
    unknown = options.keys() - TRIED[name].keys()
    if unknown:
        raise ValueError(f"the estimator {name} has no setting {sorted(unknown)[0]!r}; it has {', '.join(TRIED[name])}")
    given = {
        key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) for key, value in options.items()
    }
    return TRIED[name] | given


def _fit(name: str, design: np.ndarray, y: np.ndarray, classes: int, seed: int, settings: Mapping[str, Any]) -> Svm | Forest | Nearest:
    """Fit a model with given settings."""
    if name == "svm":
        return fit_svm(design, y, classes, **settings)
    fit: Callable[..., Forest | Nearest] = fit_forest if name == "forest" else fit_nearest
    return fit(design, y, classes, seed, **settings)


def _scores(model: Svm | Forest | Nearest, design: np.ndarray) -> np.ndarray:
    """Return what a model says, (n, classes), not calibrated."""
    if isinstance(model, Svm):
        return svm_scores(model, design)
    return forest_scores(model, design) if isinstance(model, Forest) else nearest_scores(model, design)


def _loss(logs: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log-loss over the classes; who got no answer counts as undecided."""
    right = np.where(np.isnan(logs).any(axis=1), -np.log(logs.shape[1]), logs[np.arange(len(y)), y])
    return -float(np.mean([right[y == k].mean() for k in np.unique(y)]))
