"""Classes that are of several kinds, cut into sub-classes by what a network already sees in them."""

from __future__ import annotations

import numpy as np

AXES = 20
"""Principal axes of the features in which is clustered."""


def subclasses(features: np.ndarray, y: np.ndarray, each: int, seed: int) -> np.ndarray:
    """Return the sub-class of every example: ``y * each`` and the number of its cluster within its class.

    Parameters
    ----------
    features : (n, features) array
        Of a trained network.
    y : (n,) integer array
    each : int
        Clusters of a class; one with fewer than twice as many examples stays whole.
    seed : int

    References
    ----------
    Abbas et al., Classification of COVID-19 in chest X-ray images using DeTraC deep convolutional neural network, Applied
    Intelligence 2021 (principal components of deep features, k-means in each class, fine-tuning, composition).
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    axes = min(AXES, features.shape[1], len(features) - 1)
    seen = PCA(axes, svd_solver="full").fit_transform(features)
    found = y.astype(np.int64) * each
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        if len(own) >= 2 * each:
            found[own] += KMeans(each, n_init=5, random_state=seed % 2**32).fit_predict(seen[own])  # pyright: ignore[reportArgumentType]
    return found
