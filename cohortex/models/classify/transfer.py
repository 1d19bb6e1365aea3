"""What a network has learned, for other classes: its features without the last layer, and its weights in a new network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.models import registry

if TYPE_CHECKING:
    import torch
    from torch import nn


def features(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what the last layer of a network sees of images, in evaluation mode and without gradients.

    Parameters
    ----------
    network : nn.Module
        A network of the task ``classify``, whose last layer is its ``head``.
    x : (n, channels, ...) float32 tensor
        Images, on the device of the network.

    Returns
    -------
    (n, features) float32 tensor

    Raises
    ------
    Refused
        When the network has no last layer of that name.
    """
    import torch

    head = getattr(network, "head", None)
    if not isinstance(head, torch.nn.Linear):
        raise Refused(
            f"{type(network).__name__} has no last dense layer `head`, so its features cannot be taken; name a network of classify."
        )
    taken: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        with torch.no_grad():
            network(x)
    finally:
        hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return taken[-1].float()


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

    if "classes" not in registry.entry("classify", name).options:
        raise Refused(f"The network {name} is for classes of its own; it cannot be trained further for others.")
    with torch.device("meta"):
        one, other = (registry.build("classify", name, **{**options, "classes": n}).state_dict() for n in (5, 7))
    return [key for key in one if one[key].shape != other[key].shape]


def transferred(
    tensors: Mapping[str, Any], name: str, options: Mapping[str, Any], classes: int, source: str = "the weights"
) -> tuple[nn.Module, list[str]]:
    """Build a network for other classes with the weights of a trained one, all but its heads.

    Parameters
    ----------
    tensors : mapping
        The state of the trained network.
    name : str
        Of the network, of the task ``classify``.
    options : mapping
        Those of the trained network.
    classes : int
        Of the new one.
    source : str
        What the weights are called in a sentence.

    Returns
    -------
    network : nn.Module
        Its heads have fresh weights.
    fresh : list of str
        Names of those tensors.

    Raises
    ------
    Refused
        When tensors are missing or have other shapes, naming the first five.
    """
    import torch

    fresh = class_tensors(name, options)
    network = registry.build("classify", name, **{**options, "classes": classes})
    state = network.state_dict()
    misfits = [key for key in state if key not in fresh and (key not in tensors or tuple(tensors[key].shape) != tuple(state[key].shape))]
    misfits += [key for key in tensors if key not in state]
    if misfits:
        more = f" and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        raise Refused(
            f"The tensors {', '.join(misfits[:5])}{more} of {source} do not fit the network {name}; "
            "give the network and the options that it was trained with."
        )
    taken = {key: torch.from_numpy(np.array(tensors[key])) for key in state if key not in fresh}
    network.load_state_dict({**state, **taken})
    return network, fresh


def transferred_from(folder: str | Path, classes: int) -> tuple[nn.Module, list[str]]:
    """Build a network for other classes with the weights in a model folder, all but its heads.

    Parameters
    ----------
    folder : path
        A model of the task ``classify`` with a network: its own, or its part ``cnn``.
    classes : int

    Returns
    -------
    As `transferred`.

    Raises
    ------
    Refused
        As `cohortex.models.folder.read_model` and `transferred`, and when the model is for another task or has no network.
    """
    from cohortex.models.folder import read_model

    card, tensors = read_model(folder)
    called = f"the model {card['name']}"
    if card["task"] != "classify":
        raise Refused(f"{called.capitalize()} is for {card['task']}, not for classify; name a folder of that task.")
    parts = card.get("parts", {})
    wanted = parts.get("cnn", card)
    if wanted is not card:
        tensors = {key.removeprefix("cnn."): value for key, value in tensors.items() if key.startswith("cnn.")}
    else:
        tensors = {key: value for key, value in tensors.items() if key.split(".")[0] not in parts}
    known = [entry.name for entry in registry.entries("classify")]
    if wanted["network"] not in known:
        raise Refused(f"{called.capitalize()} has no network whose weights could be used again; name a model that has one.")
    return transferred(tensors, wanted["network"], wanted.get("options", {}), classes, called)


def freeze_all_but(network: nn.Module, trained: Sequence[str]) -> None:
    """Let gradients reach only the parameters of those names (such as the fresh ones of `transferred`)."""
    for name, value in network.named_parameters():
        value.requires_grad_(name in trained)
