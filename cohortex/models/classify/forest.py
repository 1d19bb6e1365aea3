"""Random forest: grown with scikit-learn, kept as arrays, asked with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Forest:
    """Trees as arrays over the nodes of all of them, one tree after the other.

    Attributes
    ----------
    roots : (trees,) int64 array
        Where each tree begins.
    feature : (nodes,) int64 array
        Column that a node looks at; 0 for a leaf.
    threshold : (nodes,) float64 array
        A value up to this goes left.
    children : (nodes, 2) int64 array
        Where it goes then, left and right; a leaf leads to itself.
    share : (nodes, classes) float64 array
        Of the classes among the training subjects of the node.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    children: np.ndarray
    share: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Forest:
        """Return the forest that `tensors` described."""
        return cls(**{name: np.asarray(tensors[name]) for name in cls.__dataclass_fields__})


def fit_forest(x: np.ndarray, y: np.ndarray, classes: int, seed: int, trees: int = 200, leaf: int = 1) -> Forest:
    """Grow a forest; classes weigh the same in every tree however frequent they are.

    Parameters
    ----------
    x : (n, k) float64 array
        Complete.
    y : (n,) integer array
    classes : int
    seed : int
    trees : int
    leaf : int
        Training subjects that a leaf has at least.

    References
    ----------
    Breiman, Random forests, Machine Learning 2001.
    """
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(trees, min_samples_leaf=leaf, class_weight="balanced_subsample", random_state=seed, n_jobs=1).fit(x, y)
    return from_grown([each.tree_ for each in model.estimators_], np.asarray(model.classes_), classes)


def from_grown(trees: list, present: np.ndarray, classes: int) -> Forest:
    """Return scikit-learn's trees as arrays; `present` are the classes that they know."""
    sizes = np.array([tree.node_count for tree in trees])
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    feature, threshold, children, share = [], [], [], []
    for tree, root in zip(trees, roots, strict=True):
        own = np.arange(tree.node_count)
        is_leaf = tree.children_left < 0
        feature.append(np.where(is_leaf, 0, tree.feature).astype(np.int64))
        threshold.append(np.where(is_leaf, 0.0, tree.threshold))
        both = np.stack([tree.children_left, tree.children_right], axis=1)
        children.append(np.where(is_leaf[:, None], own[:, None], both) + root)
        counts = np.zeros((tree.node_count, classes))
        counts[:, present] = tree.value[:, 0, :]
        share.append(counts / counts.sum(axis=1, keepdims=True))
    joined = (np.concatenate(each) for each in (feature, threshold, children, share))
    return Forest(roots, *joined)


def forest_shares(forest: Forest, x: np.ndarray) -> np.ndarray:
    """Return the mean over the trees of the shares in the leaves that subjects end in, (n, classes) float64.

    Values are compared in single precision, in which the trees were grown.
    """
    single = x.astype(np.float32)
    total = np.zeros((len(x), forest.share.shape[1]))
    rows = np.arange(len(x))
    for root in forest.roots:  # a tree at a time, in the order in which they were added when it was grown
        node = np.full(len(x), root)
        while True:
            right = single[rows, forest.feature[node]] > forest.threshold[node]
            following = forest.children[node, right.astype(np.int64)]
            if (following == node).all():
                break
            node = following
        total += forest.share[node]
    return total / len(forest.roots)


def forest_scores(forest: Forest, x: np.ndarray) -> np.ndarray:
    """Return log-probabilities, (n, classes) float64, none below that of half a tree in the whole forest."""
    least = 0.5 / len(forest.roots)
    return np.log((forest_shares(forest, x) + least) / (1 + least * forest.share.shape[1]))
