"""From easy to hard: the order of examples by the loss of a teacher."""

from __future__ import annotations

import numpy as np

FIRST = 0.3
"""Share of the examples, the easiest of each class, with which it begins."""
WHOLE = 0.5
"""Share of the steps after which all examples are learned from."""


def easiest(hardness: np.ndarray, y: np.ndarray, done: float) -> np.ndarray:
    """Return the rows that may be drawn at a point of the training, ascending.

    The share of each class grows in a straight line from `FIRST` to all of it, so the frequencies of the classes stay.

    Parameters
    ----------
    hardness : (n,) array
        Such as the loss of a teacher.
    y : (n,) integer array
    done : float
        Share of the steps that are done, 0 to 1.

    References
    ----------
    Hacohen and Weinshall, On the power of curriculum learning in training deep networks, ICML 2019.
    """
    share = min(1.0, FIRST + (1 - FIRST) * done / WHOLE)
    rows = []
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        rows.append(own[np.argsort(hardness[own], kind="stable")][: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(rows))


def losses_of(logs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return how hard a teacher found each example: minus its log-probability (n, classes) of the right class."""
    return -logs[np.arange(len(y)), y]
