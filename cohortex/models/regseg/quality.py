"""The overlap that labels are expected to have with true ones, from what can be seen without a truth.

A small regression on features of the prediction, as in Robinson et al. (MICCAI 2018) and Valindria et al. (IEEE TMI 36(8), 2017) networks
and atlases do it: how sure the network is, whether the label is in one piece, whether its volume is one that the training knows, whether
a changed image gives the same. It is fitted where the truth is known (`cohortex.training.quality`) and stands in the model's card; a model
without it predicts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.measures.components import find_components
from cohortex.models.regseg.uncertainty import Tally
from cohortex.volume import ArrayLike

FEATURES = ("entropy", "expected", "split", "volume")
"""Known of every label that occurs."""
FURTHER = "agreement"
"""Known where the image was looked at again a little changed."""
FARTHEST = 6.0
"""Standard deviations from the training's mean volume that count."""
ALWAYS = 0.95
"""Of training images that have a label, from which on one without it has lost it."""


def features(counted: Tally, labels: ArrayLike, voxel_ml: float, volumes: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Return the features of every label that occurs.

    Parameters
    ----------
    counted : Tally
        Of the class probabilities.
    labels : (X, Y, Z) array-like
        Their most probable classes, on the same grid.
    voxel_ml : float
        Volume of a voxel.
    volumes : mapping
        By label (as text): ``mean`` and ``sd`` of the logarithm of its volume in ml over training images.

    Returns
    -------
    dict
        Label to ``entropy`` (mean), ``expected`` (log-odds of the Dice that the probabilities themselves expect), ``split`` (logarithm of
        the share that its largest piece lacks, to that of a thousandth), ``volume`` (distance from the training's mean in its standard
        deviations) and, with changed images, ``agreement`` (log-odds of their Dice).
    """
    pieces = find_components(labels)
    found: dict[int, dict[str, float]] = {}
    for label in np.flatnonzero(counted.voxels[1:] > 0) + 1:
        count = float(counted.voxels[label])
        sizes = pieces.voxels[pieces.labels == label]
        expected = 2 * counted.inside[label] / (counted.mass[label] + count)
        row = {
            "entropy": counted.mean(counted.entropy, int(label)),
            "expected": log_odds(expected),
            "split": float(np.log10(max(1e-3, 1 - sizes.max() / count))) + 3 if len(sizes) else 0.0,
            "volume": 0.0,
        }
        known = volumes.get(str(label))
        if known is not None:
            away = (np.log(count * voxel_ml) - known["mean"]) / max(known["sd"], 0.05)
            row["volume"] = float(min(abs(away), FARTHEST))
        if len(counted.theirs):
            row[FURTHER] = log_odds(counted.agreement(int(label)))
        found[int(label)] = row
    return found


def predicted_dice(quality: Mapping[str, Any], found: Mapping[int, Mapping[str, float]]) -> dict[int, float]:
    """Return the Dice that every label is expected to have with the truth.

    Parameters
    ----------
    quality : mapping
        What `cohortex.training.quality` put into the card.
    found : mapping
        What `features` gave.

    Returns
    -------
    dict
        0 for a label that (nearly) every training image has and this one has not; labels that the fit never saw are not in it.
    """
    made: dict[int, float] = {}
    for label, row in found.items():
        fit = quality["fits"].get("changed" if FURTHER in row else "plain") or quality["fits"]["plain"]
        if str(label) in fit["labels"]:
            values = [(row[name] - mean) / sd for name, mean, sd in zip(fit["features"], fit["mean"], fit["sd"], strict=True)]
            made[label] = float(1 / (1 + np.exp(-(fit["labels"][str(label)] + np.dot(values, fit["weights"])))))
    lost = [int(k) for k, v in quality["volumes"].items() if v["present"] >= ALWAYS and int(k) not in found]
    return dict(sorted({**made, **dict.fromkeys(lost, 0.0)}.items()))


def log_odds(share: float, least: float = 5e-3) -> float:
    """Return log(p / (1 - p)) of a share, kept away from 0 and 1."""
    inside = min(max(float(share), least), 1 - least)
    return float(np.log(inside / (1 - inside)))


def fitted(
    rows: Sequence[Mapping[str, float]], labels: Sequence[int], true: Sequence[float], names: Sequence[str], ridge: float = 1.0
) -> dict[str, Any]:
    """Return a ridge regression of the log-odds of Dice on features, with an intercept for every label, as plain values for a card.

    Parameters
    ----------
    rows : sequence of mappings
        Features, one a label of an image.
    labels : sequence of int
    true : sequence of float
        Dice with the truth.
    names : sequence of str
        Which features.
    ridge : float
        Penalty on the weights of standardised features; intercepts are pulled to their mean as much.
    """
    matrix = np.array([[row[name] for name in names] for row in rows], float)
    target = np.array([log_odds(t) for t in true])
    mean, sd = matrix.mean(0), np.maximum(matrix.std(0), 1e-3)
    kinds = sorted(set(labels))
    own = np.array([[float(label == kind) for kind in kinds] for label in labels])
    design = np.hstack([(matrix - mean) / sd, own])
    middle = float(target.mean())
    solved = np.linalg.solve(design.T @ design + ridge * np.eye(design.shape[1]), design.T @ (target - middle))
    count = len(names)
    return {
        "features": list(names),
        "mean": [_short(v) for v in mean],
        "sd": [_short(v) for v in sd],
        "weights": [_short(v) for v in solved[:count]],
        "labels": {str(kind): _short(middle + v) for kind, v in zip(kinds, solved[count:], strict=True)},
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
