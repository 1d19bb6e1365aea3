"""What a network takes over of one that was trained before, and what can be learned on top of features that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.measures.resampling import grouped_folds

if TYPE_CHECKING:
    from torch import nn

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse weights of the penalty of a regression on frozen features."""
BATCH = 32
"""Examples at once where nothing is learned."""


def class_tensors(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return the names of the tensors of a network whose shape depends on the number of classes: its heads.

    Parameters
    ----------
    name : str
        Of a network of the task ``classify``.
    options : mapping
        Overlay the registry's.

    Raises
    ------
    Refused
        When the network has no option ``classes``, and as `registry.build`.
    """
    import torch

    from cohortex.models import registry

    if "classes" not in registry.entry("classify", name).options:
        raise Refused(f"The network {name} is for classes of its own; it cannot be trained further for others.")
    with torch.device("meta"):
        one, other = (registry.build("classify", name, **{**options, "classes": n}).state_dict() for n in (5, 7))
    return [key for key in one if one[key].shape != other[key].shape]


def taken_over(folder: Path, network: str, options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of a model folder with which a network begins: all but the head's.

    Parameters
    ----------
    folder : Path
        Of the task ``classify``, its part ``cnn`` or the model itself being the same network.
    network, options
        What is trained.

    Raises
    ------
    Refused
        When the folder is broken, or holds another network, or one with other widths or channels.
    """
    import torch

    from cohortex.models.folder import read_model
    from cohortex.models.registry import build

    card, tensors = read_model(folder)
    part = card.get("parts", {}).get("cnn")
    there = (part or card)["network"]
    if card["task"] != "classify" or there != network:
        raise Refused(
            f"classify.default.training.start: the model {card['name']} has the network {there} ({card['task']}), but {network} is to be "
            "trained; name a folder of that network, or the other network under classify.default.network."
        )
    own = {name.removeprefix("cnn."): t for name, t in tensors.items() if name.startswith("cnn.")} if part else tensors
    head = set(class_tensors(network, options))
    with torch.device("meta"):
        wanted = {name: tuple(t.shape) for name, t in build("classify", network, **options).state_dict().items() if name not in head}
    for name, shape in wanted.items():
        if name not in own or own[name].shape != shape:
            found = f"of shape {own[name].shape}" if name in own else "missing"
            raise Refused(
                f"classify.default.training.start: the tensor {name} of the model {card['name']} is {found}, where {shape} is wanted; "
                "give the network the same options, and the same channels (classify.default.input.labels)."
            )
    return {name: own[name] for name in wanted}


def head_of(network: nn.Module, head: list[str]) -> tuple[str, nn.Linear]:
    """Return the name and the only linear layer that gives the classes.

    Raises
    ------
    Refused
        When the head is something else.
    """
    from torch import nn

    modules = sorted({name.rpartition(".")[0] for name in head})
    found = network.get_submodule(modules[0]) if len(modules) == 1 else None
    if not isinstance(found, nn.Linear):
        raise Refused(
            "classify.default.training: frozen and decompose look at the features before the last linear layer, but this network has "
            f"{len(modules)} heads ({', '.join(modules) or 'none'}); name another network under classify.default.network."
        )
    return modules[0], found


def features_of(network: nn.Module, layer: nn.Module, inputs: np.ndarray, device: str) -> np.ndarray:
    """Return what the head of a network sees of inputs (n, channels, *space): (n, features) float64."""
    import torch

    seen: list[np.ndarray] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1).double().cpu().numpy()))
    network.eval()
    try:
        with torch.inference_mode():
            for first in range(0, len(inputs), BATCH):
                network(torch.from_numpy(np.ascontiguousarray(inputs[first : first + BATCH])).to(device))
    finally:
        hook.remove()
    return np.concatenate(seen)


def fit_head(layer: nn.Linear, features: np.ndarray, y: np.ndarray, groups: np.ndarray, balance: str, seed: int) -> float:
    """Give a network's last layer the weights of a logistic regression on its features; return the penalty's inverse weight.

    Parameters
    ----------
    layer : nn.Linear
        With a bias; changed in place.
    features : (n, features) array
    y : (n,) integer array
    groups : (n,) array
        Subjects; the penalty is chosen on some of them that the regression did not see.
    balance : str
        With ``none`` the probabilities are those of the cohort's frequencies, else of equally frequent classes.
    seed : int
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-9] = 1.0
    design = (features - mean) / scale
    weight = None if balance == "none" else "balanced"

    def fitted(rows: np.ndarray, strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight=weight, max_iter=2000).fit(design[rows], y[rows])

    def loss(strength: float) -> float:
        total = 0.0
        for rest, held in grouped_folds(y, groups, 3, seed):
            total -= float(fitted(rest, strength).predict_log_proba(design[held])[np.arange(len(held)), y[held]].sum())
        return total

    best = min(STRENGTHS, key=loss)
    found = fitted(np.arange(len(y)), best)
    coef, intercept = found.coef_, found.intercept_
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(coef / scale))
        layer.bias.copy_(torch.from_numpy(intercept - coef @ (mean / scale)))
    return best
