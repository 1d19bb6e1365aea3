"""Support vector machine, each class against the rest: fitted with scikit-learn, kept as arrays, asked with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Svm:
    """Fitted machines that share their support vectors.

    Attributes
    ----------
    support : (m, k) float64 array
        Support vectors of any of the machines.
    dual : (machines, m) float64 array
        Dual coefficients times the sign of the class; one machine for two classes, otherwise one a class.
    intercept : (machines,) float64 array
    gamma : float64 array of one value
        Of the radial kernel exp(-gamma distance^2); 0 for the linear one.
    """

    support: np.ndarray
    dual: np.ndarray
    intercept: np.ndarray
    gamma: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Svm:
        """Return the machines that `tensors` described."""
        return cls(**{name: np.asarray(tensors[name]) for name in cls.__dataclass_fields__})


def fit_svm(x: np.ndarray, y: np.ndarray, classes: int, strength: float = 1.0, kernel: str = "rbf") -> Svm:
    """Fit one machine for two classes, one against the rest for each of more; classes weigh the same however frequent they are.

    Parameters
    ----------
    x : (n, k) float64 array
        Complete and of comparable scale.
    y : (n,) integer array
    classes : int
    strength : float
        Inverse weight of the penalty (C).
    kernel : str
        ``rbf``, with gamma one over k times the variance of all values, or ``linear``.

    Raises
    ------
    ValueError
        When the kernel is unknown.

    References
    ----------
    Cortes and Vapnik, Support-vector networks, Machine Learning 1995.
    """
    from sklearn.svm import SVC

    if kernel not in ("rbf", "linear"):
        raise ValueError(f"there is no kernel {kernel!r}; there are rbf and linear")
    variance = float(x.var())
    gamma = (1.0 / (x.shape[1] * variance) if variance > 0 else 1.0) if kernel == "rbf" else 0.0
    found: list[tuple[np.ndarray, np.ndarray, float]] = []
    for one in range(classes) if classes > 2 else [1]:
        is_one = (y == one).astype(int)
        if is_one.min() == is_one.max():  # a class that is not there gets the margin of nobody
            found.append((np.zeros(0, dtype=np.int64), np.zeros(0), 1.0 if is_one[0] else -1.0))
            continue
        shape: dict[str, Any] = {"kernel": kernel} | ({"gamma": gamma} if kernel == "rbf" else {})
        machine = SVC(C=strength, class_weight="balanced", **shape).fit(x, is_one)
        found.append((machine.support_.astype(np.int64), machine.dual_coef_[0], float(machine.intercept_[0])))
    rows = np.unique(np.concatenate([support for support, _, _ in found]))
    dual = np.zeros((len(found), rows.size))
    for number, (support, weights, _) in enumerate(found):
        dual[number, np.searchsorted(rows, support)] = weights
    return Svm(np.ascontiguousarray(x[rows]), dual, np.array([each[2] for each in found]), np.array([gamma]))


def margins(svm: Svm, x: np.ndarray) -> np.ndarray:
    """Return the decision values of the machines, (n, machines) float64: beyond 1 on the class's side of the margin."""
    from scipy.spatial.distance import cdist

    gamma = float(svm.gamma[0])
    kernel = np.exp(-gamma * cdist(x, svm.support, "sqeuclidean")) if gamma > 0 else x @ svm.support.T
    return kernel @ svm.dual.T + svm.intercept


def svm_scores(svm: Svm, x: np.ndarray) -> np.ndarray:
    """Return a score a class, (n, classes) float64; of two classes one is the other's opposite."""
    found = margins(svm, x)
    return np.concatenate([-found, found], axis=1) if found.shape[1] == 1 else found
