"""Nearest neighbours among the training subjects, in coordinates that were learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cohortex.models.classify.manifold import Embedding, embed, place


@dataclass(frozen=True)
class Nearest:
    """The training subjects in their coordinates.

    Attributes
    ----------
    embedding : Embedding
    points : (n, dimensions) float64 array
    labels : (n,) int64 array
    weight : (classes,) float64 array
        How much a neighbour of a class counts: the rarer it is, the more. 0 for a class without a subject.
    count : int64 array of one value
        Neighbours that are asked.
    """

    embedding: Embedding
    points: np.ndarray
    labels: np.ndarray
    weight: np.ndarray
    count: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        own = {name: np.asarray(getattr(self, name)) for name in ("points", "labels", "weight", "count")}
        return own | {f"embedding.{name}": value for name, value in self.embedding.tensors().items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Nearest:
        """Return what `tensors` described."""
        parts = {name.removeprefix("embedding."): value for name, value in tensors.items() if name.startswith("embedding.")}
        own = {name: np.asarray(tensors[name]) for name in ("points", "labels", "weight", "count")}
        return cls(Embedding.from_tensors(parts), **own)


def fit_nearest(
    x: np.ndarray, y: np.ndarray, classes: int, seed: int, embedding: str = "neighbourhood", dimensions: int = 3, count: int = 9
) -> Nearest:
    """Learn coordinates (`cohortex.models.classify.manifold.embed`) and keep the training subjects in them.

    Parameters
    ----------
    x : (n, k) float64 array
        Complete and of comparable scale.
    y : (n,) integer array
    classes : int
    seed : int
    embedding : str
    dimensions : int
    count : int
        Neighbours that are asked, at most all.

    References
    ----------
    Cover and Hart, Nearest neighbor pattern classification, IEEE Trans. Information Theory 1967.
    """
    learned = embed(x, y, dimensions, embedding, seed=seed)
    frequency = np.bincount(y, minlength=classes).astype(np.float64)
    weight = np.divide(len(y) / max(1, (frequency > 0).sum()), frequency, out=np.zeros(classes), where=frequency > 0)
    return Nearest(learned, place(learned, x), y.astype(np.int64), weight, np.array([min(count, len(y))]))


def nearest_scores(nearest: Nearest, x: np.ndarray) -> np.ndarray:
    """Return log-probabilities, (n, classes) float64: shares of the neighbours by weight, as if one more were of all classes alike."""
    from scipy.spatial.distance import cdist

    count, classes = int(nearest.count[0]), len(nearest.weight)
    near = np.argsort(cdist(place(nearest.embedding, x), nearest.points), axis=1, kind="stable")[:, :count]
    labels = nearest.labels[near]
    votes = np.stack([(labels == k).sum(axis=1) * nearest.weight[k] for k in range(classes)], axis=1) + 1.0 / classes
    return np.log(votes / votes.sum(axis=1, keepdims=True))
