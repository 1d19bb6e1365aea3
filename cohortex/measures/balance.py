"""Ways to deal with classes of unequal size: weights, drawing again, new cases between old ones, and moving the threshold.

None of them makes a classifier better at every threshold by itself: compare them by `recall_at_specificity`, where the number of false
alarms is the same for all, beside the recall at the threshold that one would use.
"""

from __future__ import annotations

import numpy as np

from cohortex.measures.classification import NAN


def class_weights(y: np.ndarray, classes: int) -> np.ndarray:
    """Return weights with which every class counts as much, (classes,) float64: their mean over cases is 1, 0 for a class without any."""
    counts = np.bincount(np.asarray(y), minlength=classes).astype(np.float64)
    there = int((counts > 0).sum())
    return np.divide(counts.sum() / max(there, 1), counts, out=np.zeros(classes), where=counts > 0)


def oversampled(y: np.ndarray, seed: int) -> np.ndarray:
    """Return row numbers with all rows, and rows of smaller classes drawn again until every class has as many as the largest.

    Only ever for training rows: drawn before a split, copies of one case lie on both sides of it.
    """
    rng, y = np.random.default_rng(seed), np.asarray(y)
    most = int(np.bincount(y).max())
    parts = [np.flatnonzero(y == k) for k in np.unique(y)]
    return np.concatenate([np.concatenate([part, rng.choice(part, most - len(part))]) for part in parts])


def smote(x: np.ndarray, y: np.ndarray, seed: int, neighbours: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return the cases with new ones of the smaller classes, each between a case and one of its nearest neighbours of that class.

    Parameters
    ----------
    x : (n, features) array
        Of training cases; scaled alike, since neighbours are by Euclidean distance. No NaN.
    y : (n,) integer array
    seed : int
    neighbours : int
        As many as the class has where it has fewer; a class of one case is drawn again as it is.

    Returns
    -------
    x : (m, features) float64 array
        The old rows first.
    y : (m,) integer array
        Every class has as many as the largest.

    References
    ----------
    Chawla et al., SMOTE: synthetic minority over-sampling technique, JAIR 2002.
    """
    rng, x, y = np.random.default_rng(seed), np.asarray(x, dtype=np.float64), np.asarray(y)
    most = int(np.bincount(y).max())
    made, named = [x], [y]
    for each in np.unique(y):
        part = x[y == each]
        lacking = most - len(part)
        if not lacking:
            continue
        start = rng.integers(0, len(part), lacking)
        other = start
        if len(part) > 1:
            squares = (part**2).sum(axis=1)
            distance = squares[:, None] + squares[None] - 2 * part @ part.T
            np.fill_diagonal(distance, np.inf)
            nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(neighbours, len(part) - 1)]
            other = nearest[start, rng.integers(0, nearest.shape[1], lacking)]
        made.append(part[start] + rng.random((lacking, 1)) * (part[other] - part[start]))
        named.append(np.full(lacking, each))
    return np.concatenate(made), np.concatenate(named)


def with_shares(probability: np.ndarray, trained: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the probabilities for other shares of the classes than those of training; with equal ones it moves the threshold.

    Parameters
    ----------
    probability : (n, classes) array
    trained, wanted : (classes,) arrays
        Shares of the classes in training, and where it is used.

    References
    ----------
    Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities, Neural Computation 2002.
    """
    weighed = np.asarray(probability, dtype=np.float64) * (np.asarray(wanted, dtype=np.float64) / np.asarray(trained, dtype=np.float64))
    return weighed / weighed.sum(axis=1, keepdims=True)


def recall_at_specificity(positive: np.ndarray, score: np.ndarray, specificity: float) -> float:
    """Return the largest recall at a threshold at which at least this share of the negative cases is called negative.

    NaN where there are no positive or no negative cases.
    """
    positive, score = np.asarray(positive, dtype=bool), np.asarray(score, dtype=np.float64)
    above, below = score[positive], np.sort(score[~positive])
    if not len(above) or not len(below):
        return NAN
    needed = int(np.ceil(round(specificity * len(below), 9)))
    return float((above > below[needed - 1]).mean()) if needed else 1.0
