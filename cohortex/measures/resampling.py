"""Nested cross-validation by subjects: what is chosen on inner folds is judged on outer ones that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.errors import Refused

Predict = Callable[[np.ndarray], np.ndarray]
"""From (m,) row numbers to (m, classes) probabilities."""
Fit = Callable[[np.ndarray, Any, int], Predict]
"""From (m,) training rows, a candidate and a seed to what predicts. It may look at these rows only: scaling, selection of features and
imputation belong into it."""


@dataclass(frozen=True)
class Nested:
    """What nested cross-validation found.

    Attributes
    ----------
    probability : (n, classes) float64 array
        Of every row by a model that saw no row of its subject, the mean over repeats.
    fold : (repeats, n) int64 array
        The outer fold in which each row was held out.
    chosen : list of list of int
        The number of the chosen candidate, of every outer fold of every repeat.
    inner_loss : (repeats, folds, candidates) float64 array
        By which it was chosen; NaN rows with one candidate, where nothing is to choose. Too good as a result, since the best is taken.
    """

    probability: np.ndarray
    fold: np.ndarray
    chosen: list[list[int]]
    inner_loss: np.ndarray


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


def log_loss(y: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean negative log-likelihood; a class is never given less than 1e-9."""
    return -float(np.log(np.clip(probability[np.arange(len(y)), y], 1e-9, None)).mean())


def nested_cross_validation(
    fit: Fit,
    candidates: Sequence[Any],
    y: np.ndarray,
    groups: np.ndarray,
    outer: int = 5,
    inner: int = 3,
    repeats: int = 1,
    seed: int = 0,
    loss: Callable[[np.ndarray, np.ndarray], float] = log_loss,
) -> Nested:
    """Judge a way of making models, the choice between candidates included.

    In every outer fold the candidate with the least mean loss over inner folds of the training subjects is fitted to all of them and tells
    the held-out ones. Subjects are never divided, and classes are spread evenly.

    Parameters
    ----------
    fit : function of (rows, candidate, seed)
        Returns a function from rows to probabilities.
    candidates : sequence
        Settings to choose from, as `fit` takes them.
    y : (n,) integer array
        Classes from 0 on.
    groups : (n,) array
        The subject of each row.
    outer, inner : int
        Numbers of folds.
    repeats : int
        The whole is done so many times with other folds.
    seed : int
    loss : function of (y, probability)
        Smaller is better.

    Returns
    -------
    Nested
        `cohortex.measures.classification.summary` tells its measures with intervals by subjects.

    Raises
    ------
    Refused
        For one class only, a class with fewer subjects than there are outer folds (or than the inner ones need), or no candidate.

    References
    ----------
    Varma and Simon, Bias in error estimation when using cross-validation for model selection, BMC Bioinformatics 2006; Cawley and Talbot,
    On over-fitting in model selection and subsequent selection bias in performance evaluation, JMLR 2010.
    """
    y, groups = np.asarray(y), np.asarray(groups)
    _check(y, groups, outer, inner, len(candidates))
    classes = int(y.max()) + 1
    total = np.zeros((len(y), classes))
    fold = np.empty((repeats, len(y)), dtype=np.int64)
    losses = np.full((repeats, outer, len(candidates)), np.nan)
    chosen: list[list[int]] = []
    for repeat in range(repeats):
        chosen.append([])
        for number, (train, held) in enumerate(grouped_folds(y, groups, outer, seed + 1000 * repeat)):
            its = seed + 1000 * repeat + number + 1
            if len(candidates) > 1:
                losses[repeat, number] = _inner_losses(fit, candidates, y, groups, train, inner, its, loss)
            best = int(np.argmin(losses[repeat, number])) if len(candidates) > 1 else 0
            chosen[-1].append(best)
            total[held] += fit(train, candidates[best], its)(held)
            fold[repeat, held] = number
    return Nested(total / repeats, fold, chosen, losses)


def _inner_losses(
    fit: Fit,
    candidates: Sequence[Any],
    y: np.ndarray,
    groups: np.ndarray,
    train: np.ndarray,
    inner: int,
    seed: int,
    loss: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Return the mean loss of every candidate over folds of the training rows."""
    cuts = grouped_folds(y[train], groups[train], inner, seed)
    each = [[loss(y[train[out]], fit(train[rows], c, seed)(train[out])) for rows, out in cuts] for c in candidates]
    return np.mean(each, axis=1)


def _check(y: np.ndarray, groups: np.ndarray, outer: int, inner: int, candidates: int) -> None:
    if len(y) != len(groups):
        raise Refused(f"Cross-validation needs the subject of every row: there are {len(y)} rows and {len(groups)} subjects.")
    if not candidates:
        raise Refused("Nested cross-validation needs at least one candidate to fit.")
    if outer < 2 or inner < 2:
        raise Refused(f"Cross-validation needs at least 2 folds, here are {outer} outer and {inner} inner ones.")
    _, first = np.unique(groups, return_index=True)
    counts = np.bincount(y[first], minlength=int(y.max()) + 1 if len(y) else 0)
    if (counts > 0).sum() < 2:
        raise Refused("A classifier needs subjects of at least two classes, here is one class only: check the labels.")
    fewest = int(counts.argmin())
    if counts[fewest] < outer or (candidates > 1 and counts[fewest] - -(-counts[fewest] // outer) < 2):
        raise Refused(
            f"Class {fewest} has {counts[fewest]} subjects, too few for {outer} outer and {inner} inner folds: "
            "add subjects or use fewer folds."
        )
