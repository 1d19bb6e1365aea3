"""Whether maps that explain a network depend on what it learned: its weights are randomised, layer by layer from the output on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from cohortex.errors import Refused
from cohortex.models.classify.why import explain, feature_layer, layers_run

LOST = 0.5
"""Maps of a network with random weights may correlate with the learned ones by less than this."""
MOST_IMAGES = 4
"""So many maps are compared for the card of a model."""
Explainer = Callable[[nn.Module, np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Sanity:
    """What is left of maps while a network forgets.

    Attributes
    ----------
    layers : tuple of str
        Down to which layer the weights are random at each stage, the last stage has none that were learned.
    rank, ssim : (stages,) float64 array
        Spearman's rank correlation with the learned maps, and structural similarity, mean over the images; 0 where the map became flat.
    images : int
        How many maps were compared.
    """

    layers: tuple[str, ...]
    rank: np.ndarray
    ssim: np.ndarray
    images: int

    @property
    def passed(self) -> bool:
        """Whether the maps are gone with the weights: the rank correlation ends below `LOST`, and there were maps at all."""
        return self.images > 0 and abs(float(self.rank[-1])) < LOST

    def told(self) -> dict[str, Any]:
        """Return it for the card of a model."""
        return {
            "verdict": "passed" if self.passed else "failed",
            "rank_correlation": round(float(self.rank[-1]), 4),
            "ssim": round(float(self.ssim[-1]), 4),
            "images": self.images,
            "layers": list(self.layers),
            "cascade": [round(float(value), 4) for value in self.rank],
        }


def sanity_check(
    network: nn.Module,
    explainer: Explainer,
    inputs: Sequence[np.ndarray],
    targets: Sequence[int],
    seed: int,
    stages: int = 5,
    draws: int = 2,
) -> Sanity:
    """Compare maps of a network with those of the same network whose weights are random from the output down to a layer.

    Parameters
    ----------
    network : nn.Module
        Is not changed.
    explainer : callable
        ``explainer(network, input, target)`` gives a map on the input's grid.
    inputs : sequence of (channels, *space) arrays
    targets : sequence of int
        The class that each map speaks for; it stays the same whatever the random network would say.
    seed : int
    stages : int
        In so many steps the layers, from the last to the first, become random.
    draws : int
        Random networks of each stage.

    Notes
    -----
    A map that follows the edges of the image alone does not change at all: it would look convincing and explain nothing. Maps that were
    flat before are left out.

    References
    ----------
    Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018.
    """
    before = [explainer(network, image, target) for image, target in zip(inputs, targets, strict=True)]
    use = [number for number, each in enumerate(before) if float(np.ptp(each)) > 0]
    order = layers_from_output(network, inputs[0]) if len(inputs) else []
    cuts = np.unique(np.ceil(np.linspace(0, len(order), min(stages, len(order)) + 1)[1:]).astype(int))
    rank, ssim = np.zeros((len(cuts), draws)), np.zeros((len(cuts), draws))
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        random = copy.deepcopy(network)
        modules, done = dict(random.named_modules()), 0
        for stage, cut in enumerate(cuts):
            for name in order[done:cut]:
                randomise(modules[name], generator)
            done = int(cut)
            maps = [(before[i], explainer(random, inputs[i], targets[i])) for i in use]
            rank[stage, draw] = np.mean([rank_correlation(a, b) for a, b in maps]) if maps else 0.0
            ssim[stage, draw] = np.mean([similarity(a, b) for a, b in maps]) if maps else 0.0
    return Sanity(tuple(order[cut - 1] for cut in cuts), rank.mean(axis=1), ssim.mean(axis=1), len(use))


def layers_from_output(network: nn.Module, inputs: np.ndarray) -> list[str]:
    """Return the names of the modules that have weights of their own, from the output to the input; those that did not run come last."""
    run = [name for name, _, _ in layers_run(network, inputs)]
    place = {name: number for number, name in enumerate(run)}
    own = [name for name, module in network.named_modules() if next(module.parameters(recurse=False), None) is not None]
    return sorted(own, key=lambda name: -place.get(name, -1))


def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Give a module's own parameters random values, in place: matrices as He would begin, gains 1, offsets 0, statistics of none.

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015.
    """
    gains = isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)
    with torch.no_grad():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim >= 2:
                spread = sqrt(2.0 / max(1, prod(parameter.shape[1:])))
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.fill_(1.0 if gains and name == "weight" else 0.0)
        for name, buffer in module.named_buffers(recurse=False):
            if name in ("running_mean", "running_var"):
                buffer.fill_(1.0 if name == "running_var" else 0.0)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation of two maps; 0 where one of them is flat."""
    a, b = rankdata(first, axis=None), rankdata(second, axis=None)
    a, b = a - a.mean(), b - b.mean()
    scale = sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Return the structural similarity of two maps, each between its own smallest and largest value; 0 where one of them is flat."""
    from skimage.metrics import structural_similarity

    if min(float(np.ptp(first)), float(np.ptp(second))) == 0:
        return 0.0
    a, b = ((each - each.min()) / np.ptp(each) for each in (first.astype(np.float64), second.astype(np.float64)))
    edge = min(7, *(length - (1 - length % 2) for length in first.shape))
    if edge < 3:
        return 0.0
    found: Any = structural_similarity(a, b, win_size=edge, data_range=1.0)
    return float(found)


def for_card(network: nn.Module, inputs: np.ndarray, y: np.ndarray, method: str | None, seed: int) -> dict[str, dict[str, Any]]:
    """Return by method what `sanity_check` found on one input of each class, for the card of a model (``extra.sanity``).

    Parameters
    ----------
    network : nn.Module
    inputs : (n, channels, *space) float32 array
        Of the training: whether maps depend on the weights is not a question of images that were never seen.
    y : (n,) integer array
        Their classes, which the maps speak for.
    method : str or None
        What maps of the network will be made with; Grad-CAM is checked besides where the network has layers for it.
    seed : int
    """
    first = np.sort(np.unique(y, return_index=True)[1])[:MOST_IMAGES]
    images, targets = [inputs[i] for i in first], [int(y[i]) for i in first]
    methods = {method} - {None} | {"grad_cam"}
    try:
        feature_layer(network, images[0])
    except Refused:
        methods.discard("grad_cam")

    def explainer(name: str) -> Explainer:
        return lambda network, image, target: explain(network, image, target, name)

    return {name: sanity_check(network, explainer(name), images, targets, seed).told() for name in sorted(map(str, methods))}
