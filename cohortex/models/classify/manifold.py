"""Low-dimensional coordinates of subjects: principal components, Isomap, Laplacian eigenmaps, neighbourhood components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

METHODS = ("pca", "isomap", "laplacian", "neighbourhood")


@dataclass(frozen=True)
class Embedding:
    """Coordinates that were learned, and how a new subject gets its own.

    Attributes
    ----------
    method : int64 array of one value
        Place in `METHODS`.
    centre : (features,) float64 array
        Subtracted first (``pca`` and ``neighbourhood``).
    axes : (dimensions, features) float64 array
        Of the linear methods; empty otherwise.
    points : (n, features) float64 array
        The training subjects of the other methods; empty otherwise.
    paths : (n, n) float64 array
        Distances along the graph (``isomap``).
    coordinates : (n, dimensions) float64 array
        Of the training subjects (``isomap`` and ``laplacian``).
    scale : (dimensions,) float64 array
        What the extension divides by: roots of the eigenvalues, or 1 less the eigenvalues of the Laplacian.
    neighbours : int64 array of one value
    width : float64 array of one value
        Of the heat kernel (``laplacian``).
    """

    method: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    points: np.ndarray
    paths: np.ndarray
    coordinates: np.ndarray
    scale: np.ndarray
    neighbours: np.ndarray
    width: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Embedding:
        """Return the embedding that `tensors` described."""
        return cls(**{name: np.asarray(tensors[name]) for name in cls.__dataclass_fields__})


def embed(x: np.ndarray, y: np.ndarray, dimensions: int, method: str = "neighbourhood", neighbours: int = 8, seed: int = 0) -> Embedding:
    """Learn coordinates of subjects.

    Parameters
    ----------
    x : (n, features) float64 array
        Features of comparable scale, complete.
    y : (n,) integer array
        Classes; only ``neighbourhood`` looks at them.
    dimensions : int
        Fewer are given where the data do not have so many.
    method : str
        ``pca``: principal components, the linear baseline. ``isomap``: distances along a graph of nearest neighbours are kept.
        ``laplacian``: subjects that are neighbours stay close (eigenvectors of the graph's Laplacian).
        ``neighbourhood``: the linear map under which neighbours are of the same class most often.
    neighbours : int
        Of each subject in the graph. Parts of it that are not connected are joined by their shortest link.
    seed : int
        Of ``neighbourhood``.

    Raises
    ------
    ValueError
        When the method is unknown, a value is missing, or there are fewer than three subjects.

    References
    ----------
    Tenenbaum et al., A global geometric framework for nonlinear dimensionality reduction, Science 2000; Belkin and Niyogi, Laplacian
    eigenmaps for dimensionality reduction and data representation, Neural Computation 2003; Bengio et al., Out-of-sample extensions
    for LLE, Isomap, MDS, eigenmaps and spectral clustering, NeurIPS 2003; Goldberger et al., Neighbourhood components analysis,
    NeurIPS 2004.
    """
    if method not in METHODS:
        raise ValueError(f"there is no embedding {method!r}; there are {', '.join(METHODS)}")
    if len(x) < 3 or not np.isfinite(x).all():
        raise ValueError(f"an embedding is learned from at least three complete subjects, here are {len(x)}, or a value is missing")
    neighbours = max(1, min(neighbours, len(x) - 1))
    dimensions = max(1, min(dimensions, x.shape[1] if method in ("pca", "neighbourhood") else len(x) - 2))
    parts = {
        "centre": x.mean(axis=0),
        "axes": np.zeros((0, x.shape[1])),
        "points": np.zeros((0, x.shape[1])),
        "paths": np.zeros((0, 0)),
        "coordinates": np.zeros((0, dimensions)),
        "scale": np.ones(dimensions),
        "width": np.ones(1),
    }
    if method == "pca":
        parts["axes"] = _principal_axes(x, dimensions)
    elif method == "neighbourhood":
        parts["axes"] = _neighbourhood_axes(x, y, dimensions, seed)
    else:
        distances = _distances(x, x)
        parts["points"] = x
        if method == "isomap":
            paths = _paths(distances, neighbours)
            parts["coordinates"], parts["scale"] = _scaling(paths, dimensions)
            parts["paths"] = paths
        else:
            parts["width"] = np.array([max(float(np.median(np.sort(distances, axis=1)[:, neighbours])), 1e-12)])
            parts["coordinates"], parts["scale"] = _eigenmap(distances, neighbours, float(parts["width"][0]), dimensions)
    return Embedding(np.array([METHODS.index(method)]), neighbours=np.array([neighbours]), **parts)


def place(embedding: Embedding, x: np.ndarray) -> np.ndarray:
    """Return the coordinates of subjects that may be new.

    Parameters
    ----------
    embedding : Embedding
    x : (n, features) float64 array

    Returns
    -------
    (n, dimensions) float64 array
        Linear methods project. Isomap takes the distances along the graph through the subject's nearest neighbours, the
        Laplacian the mean of its neighbours by the heat kernel, so that a training subject comes nearly to where it was.
    """
    method, neighbours = METHODS[int(embedding.method[0])], int(embedding.neighbours[0])
    if method in ("pca", "neighbourhood"):
        return (x - embedding.centre) @ embedding.axes.T
    distances = _distances(x, embedding.points)
    near = np.argsort(distances, axis=1, kind="stable")[:, :neighbours]
    here = np.take_along_axis(distances, near, axis=1)
    if method == "isomap":
        paths = (here[:, :, None] + embedding.paths[near]).min(axis=1)
        squared = embedding.paths**2
        centred = squared.mean(axis=0) - paths**2 + (paths**2).mean(axis=1, keepdims=True) - squared.mean()
        return 0.5 * centred @ embedding.coordinates / embedding.scale**2
    weights = np.exp(-((here / embedding.width[0]) ** 2))
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, 1.0)  # far from everything: all neighbours alike
    mean = (weights[:, :, None] * embedding.coordinates[near]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    return mean / embedding.scale


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances between the rows of two arrays."""
    from scipy.spatial.distance import cdist

    return cdist(a, b)


def _principal_axes(x: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the directions of the largest variance, each with its largest entry positive."""
    _, _, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    axes = axes[:dimensions]
    return axes * _signs(axes.T)[:, None]


def _neighbourhood_axes(x: np.ndarray, y: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """Return the linear map under which a subject's neighbours have its class most often.

    The search begins at the axes that part the classes best and, where more are asked for, at the principal axes of the rest: from
    the principal axes of all it ends in whatever varies most.
    """
    from sklearn.neighbors import NeighborhoodComponentsAnalysis

    centred = x - x.mean(axis=0)
    start = _parting_axes(centred, y, dimensions)
    if len(start) < dimensions:
        rest = centred - centred @ start.T @ start
        start = np.concatenate([start, _principal_axes(rest, dimensions - len(start))])
    begun: Any = start
    model = NeighborhoodComponentsAnalysis(init=begun, max_iter=60, random_state=seed)
    return np.asarray(model.fit(centred, y).components_, dtype=np.float64)


def _parting_axes(centred: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Return orthonormal directions along which the means of the classes differ most for their spread, fewer than there are classes."""
    names = np.unique(y)
    means = np.stack([centred[y == name].mean(axis=0) for name in names])
    within = centred - means[np.searchsorted(names, y)]
    spread = within.T @ within / len(y)
    # a tenth of the mean variance on the diagonal: few subjects do not know the spread in every direction
    spread += np.eye(len(spread)) * max(0.1 * np.trace(spread) / len(spread), 1e-9)
    directions = np.linalg.solve(spread, (means - means.mean(axis=0)).T).T
    _, sizes, axes = np.linalg.svd(directions, full_matrices=False)
    axes = axes[sizes > 1e-9 * max(float(sizes.max(initial=0.0)), 1e-12)][: min(most, len(names) - 1)]
    return axes * _signs(axes.T)[:, None] if len(axes) else axes


def _graph(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """Return which pairs are linked: each subject with its nearest ones, and the parts of the graph by their shortest links."""
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    order = np.argsort(distances + np.diag(np.full(len(distances), -1.0)), axis=1, kind="stable")[:, 1 : neighbours + 1]
    linked = np.zeros(distances.shape, dtype=bool)
    np.put_along_axis(linked, order, True, axis=1)
    linked |= linked.T
    if connected_components(linked)[0] > 1:
        # equal subjects are 0 apart, which a sparse matrix would take for no link at all
        tree = minimum_spanning_tree(np.where(linked, 1e-12, np.maximum(distances, 1e-9))).toarray() > 0
        linked |= tree | tree.T
    np.fill_diagonal(linked, False)
    return linked


def _paths(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """Return the lengths of the shortest paths along the graph."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    linked = _graph(distances, neighbours)
    return shortest_path(csr_array(np.where(linked, np.maximum(distances, 1e-12), 0.0)), directed=False)


def _scaling(paths: np.ndarray, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates whose distances are nearest to the paths (classical scaling), and the roots of their eigenvalues."""
    squared = paths**2
    means = squared.mean(axis=0)
    inner = -0.5 * (squared - means[:, None] - means[None, :] + means.mean())
    values, vectors = np.linalg.eigh(inner)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    kept = values > 1e-9 * max(float(values[0]), 1e-12)
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * _signs(vectors[:, kept]) * roots, roots


def _eigenmap(distances: np.ndarray, neighbours: int, width: float, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smoothest coordinates on the graph but the constant one, and 1 less their eigenvalues."""
    linked = _graph(distances, neighbours)
    # a far link that joins two parts must not vanish in the rounding
    weights = np.where(linked, np.maximum(np.exp(-((distances / width) ** 2)), 1e-6), 0.0)
    degree = weights.sum(axis=1)
    values, vectors = np.linalg.eigh(weights / np.sqrt(degree[:, None] * degree[None, :]))
    values, vectors = values[::-1][1 : dimensions + 1], vectors[:, ::-1][:, 1 : dimensions + 1]
    kept = values > 1e-6
    coordinates = vectors[:, kept] / np.sqrt(degree)[:, None]
    coordinates = coordinates * _signs(coordinates)
    return coordinates / np.where(coordinates.std(axis=0) > 0, coordinates.std(axis=0), 1.0), values[kept]


def _signs(columns: np.ndarray) -> np.ndarray:
    """Return the sign of the largest entry of each column: eigenvectors have no sign of their own."""
    return np.where(np.take_along_axis(columns, np.abs(columns).argmax(axis=0)[None], axis=0)[0] < 0, -1.0, 1.0)
