"""What features spoke for a class: exact contributions in a logistic regression, importance by permutation for any estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.models.classify.logistic import Logistic, design

FLOOR = 1e-9
"""As `cohortex.models.classify.fusion.FLOOR`: less is no probability."""


@dataclass(frozen=True)
class Importance:
    """How much worse an estimator is without a feature.

    Attributes
    ----------
    mean, spread : (groups,) float64 array
        Of the rise of the log-loss (nats) over the permutations, and its standard deviation.
    loss : float
        With all features as they are.
    """

    mean: np.ndarray
    spread: np.ndarray
    loss: float


def contributions(model: Logistic, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what every term of a regression adds to the logits, so that nothing is left over.

    A common summand of all classes changes no probability, so every feature's contributions are centred over the classes: those to
    all classes add up to 0, and `predict_logits` is the log-softmax of ``intercept + contributions.sum(axis=2)``.

    Parameters
    ----------
    model : Logistic
    x : (n, features) array
        NaN where missing: a feature that stands at the mean of the training subjects adds nothing.

    Returns
    -------
    contributions : (n, classes, k + m) float64 array
        Of the k columns, then of the m indicators of absence (`term_names`), in units of the calibrated logits.
    intercept : (classes,) float64 array

    References
    ----------
    For a linear model these are its Shapley values against the training mean: Lundberg and Lee, A unified approach to interpreting model
    predictions, NeurIPS 2017.
    """
    terms = design(model, x)[:, None, :] * model.coef[None] / model.temperature
    intercept = model.intercept / model.temperature
    return terms - terms.mean(axis=1, keepdims=True), intercept - intercept.mean()


def term_names(model: Logistic, names: Sequence[str]) -> list[str]:
    """Return what the terms of `contributions` are called; `names` are those of all features."""
    return [str(names[i]) for i in model.columns] + [f"{names[i]}_missing" for i in model.indicators]


def permutation_importance(
    predict: Callable[[np.ndarray], np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    seed: int,
    repeats: int = 10,
    groups: Sequence[Sequence[int]] | None = None,
) -> Importance:
    """Return by how much the log-loss rises when a feature is shuffled between the rows.

    Parameters
    ----------
    predict : callable
        Takes (n, features), gives probabilities (n, classes): any estimator. Rows of NaN count as even probabilities.
    x : (n, features) array
        Rows that the estimator was not fitted on.
    y : (n,) integer array
    seed : int
    repeats : int
        Permutations of each group.
    groups : sequence of sequences of int, optional
        Columns that are shuffled together (those that say the same); every column by itself otherwise.

    References
    ----------
    Breiman, Random forests, Machine Learning 45, 2001; Fisher et al., All models are wrong, but many are useful, JMLR 20, 2019.
    """
    rng = np.random.default_rng(seed)
    loss = _log_loss(predict(x), y)
    sets = [[column] for column in range(x.shape[1])] if groups is None else [list(each) for each in groups]
    rise = np.zeros((len(sets), repeats))
    for repeat in range(repeats):
        order = rng.permutation(len(x))
        for number, columns in enumerate(sets):
            shuffled = x.copy()
            shuffled[:, columns] = x[order][:, columns]
            rise[number, repeat] = _log_loss(predict(shuffled), y) - loss
    return Importance(rise.mean(axis=1), rise.std(axis=1), loss)


def _log_loss(probability: np.ndarray, y: np.ndarray) -> float:
    known = np.nan_to_num(probability, nan=1.0 / probability.shape[1])
    return -float(np.log(np.clip(known[np.arange(len(y)), y], FLOOR, None)).mean())
