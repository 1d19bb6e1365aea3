"""Which features are worth learning from: told by the training subjects of one fold, never by those it is judged on."""

from __future__ import annotations

import numpy as np

ALIKE = 0.95
"""Two columns that correlate more than this say the same: the weaker one is left out."""
SELECTIONS = ("anova", "information", "l1", "none")
BINS = 4
"""Equally filled levels into which a feature is cut before its information is counted."""
PENALTIES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Inverse weights of the L1 penalty, tried in this order until enough columns are left."""


def select(x: np.ndarray, y: np.ndarray, count: int, method: str = "anova", seed: int = 0) -> np.ndarray:
    """Return the columns that a method chooses, in ascending order.

    Columns that are hardly ever there or do not vary are never chosen, nor a near copy (`ALIKE`) of one that was.

    Parameters
    ----------
    x : (n, features) array
        Of training subjects only. NaN where missing; replaced by the median for ``information`` and ``l1``.
    y : (n,) integer array
    count : int
        How many columns at most (``none``: all).
    method : str
        ``anova``: the largest F statistics. ``information``: one after the other, the one with the largest mutual information with
        the class less its mean information with those that were chosen before (mRMR). ``l1``: the largest weights of a logistic
        regression with an L1 penalty that leaves at least `count` columns. ``none``: all, the first of near copies.
    seed : int
        Of the L1 regression.

    Returns
    -------
    (k,) int64 array

    Raises
    ------
    ValueError
        When the method is unknown or no feature varies.

    References
    ----------
    Peng, Long and Ding, Feature selection based on mutual information: criteria of max-dependency, max-relevance, and
    min-redundancy, IEEE TPAMI 2005; Tibshirani, Regression shrinkage and selection via the lasso, JRSS B 1996.
    """
    varies, mean, scale = columns_that_vary(x)
    if method == "anova":
        return by_variance(x, y, varies, mean, scale, count)
    filled = _filled(x[:, varies])
    if method == "information":
        return np.sort(varies[_by_information(filled, y, count)])
    if method == "l1":
        scores = _weights(_scaled(filled, filled.mean(axis=0), filled.std(axis=0)), y, count, seed)
    elif method == "none":
        scores, count = np.zeros(varies.size), varies.size
    else:
        raise ValueError(f"there is no selection {method!r}; there are {', '.join(SELECTIONS)}")
    return np.sort(varies[_distinct(_scaled(filled, filled.mean(axis=0), filled.std(axis=0)), scores, count)])


def columns_that_vary(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns that enough rows have and that vary, and the mean and standard deviation of every column (0 elsewhere).

    Raises
    ------
    ValueError
        When there are none.
    """
    there = ~np.isnan(x)
    usable = there.sum(axis=0) >= max(min(3, len(x)), len(x) // 10)
    mean, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for column in np.flatnonzero(usable):
        values = x[there[:, column], column]
        mean[column], scale[column] = values.mean(), values.std()
    varies = np.flatnonzero(usable & (scale > 1e-9 * (1.0 + np.abs(mean))))
    if not varies.size:
        raise ValueError("no feature varies between the training subjects")
    return varies, mean, scale


def by_variance(x: np.ndarray, y: np.ndarray, columns: np.ndarray, mean: np.ndarray, scale: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` of some columns with the largest F statistic, without near copies of better ones."""
    scaled = np.nan_to_num((x[:, columns] - mean[columns]) / scale[columns], nan=0.0)
    return np.sort(columns[_distinct(scaled, f_statistics(x[:, columns], y), count)]).astype(np.int64)


def f_statistics(x: np.ndarray, y: np.ndarray) -> np.ndarray:
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


def mutual_information(levels: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mutual information of discrete columns (n, k) with another discrete variable (n,), in bits, (k,) float64."""
    a = np.stack([levels == value for value in range(int(levels.max(initial=0)) + 1)]).astype(np.float64)
    b = (np.unique(other)[:, None] == other[None, :]).astype(np.float64)
    joint = np.einsum("lnk,cn->klc", a, b, optimize=True) / len(other)
    apart = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
    ratio = np.divide(joint, apart, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log2(ratio)).sum(axis=(1, 2))


def _by_information(x: np.ndarray, y: np.ndarray, count: int) -> np.ndarray:
    """Return columns by minimal redundancy and maximal relevance, in the order in which they were chosen."""
    levels = np.stack([_levels(column) for column in x.T], axis=1)
    scaled = _scaled(x, x.mean(axis=0), x.std(axis=0))
    alike = np.abs(scaled.T @ scaled) / len(x)
    relevance, redundancy = mutual_information(levels, y), np.zeros(x.shape[1])
    left, chosen = np.ones(x.shape[1], dtype=bool), []
    while len(chosen) < count and left.any():
        score = np.where(left, relevance - redundancy / max(1, len(chosen)), -np.inf)
        best = int(score.argmax())
        chosen.append(best)
        left &= alike[best] <= ALIKE
        left[best] = False
        redundancy += mutual_information(levels, levels[:, best])
    return np.array(chosen, dtype=np.int64)


def _levels(column: np.ndarray) -> np.ndarray:
    """Return a column cut into `BINS` levels that are about equally filled."""
    return np.searchsorted(np.quantile(column, np.arange(1, BINS) / BINS), column, side="left")


def _weights(x: np.ndarray, y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the size of each column's weights in the sparsest L1 regression with at least `count` of them."""
    from sklearn.linear_model import LogisticRegression

    weights = np.zeros(x.shape[1])
    for strength in PENALTIES:
        for one in np.unique(y) if len(np.unique(y)) > 2 else np.unique(y)[1:]:
            model = LogisticRegression(
                C=strength, l1_ratio=1.0, solver="liblinear", class_weight="balanced", max_iter=500, random_state=seed
            ).fit(x, y == one)
            weights = np.maximum(weights, np.abs(model.coef_[0]))
        if (weights > 0).sum() >= count:
            break
    return weights


def _filled(x: np.ndarray) -> np.ndarray:
    """Return the columns with their medians where a value is missing."""
    return np.where(np.isnan(x), np.nanmedian(x, axis=0), x)


def _scaled(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and standard deviation 1."""
    return (x - mean) / np.where(scale > 0, scale, 1.0)


def _distinct(scaled: np.ndarray, scores: np.ndarray, count: int) -> np.ndarray:
    """Return the `count` centred columns with the largest scores, without near copies of better ones."""
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
    return np.array(chosen, dtype=np.int64)
