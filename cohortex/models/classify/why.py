"""Where a network looked: Grad-CAM, occlusion and integrated gradients, as maps on the grid of its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.errors import Refused
from cohortex.models.classify.committee import Committee, as_one, one_view

METHODS = ("grad_cam", "occlusion", "integrated_gradients")
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_VALUES = 2**22
"""Values of the inputs that go through a network at once."""
MOST_STEPS = 512
"""Points on the way of integrated gradients, at most."""
POOLS = tuple(getattr(nn, f"{kind}Pool{d}d") for kind in ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax") for d in (1, 2, 3))
NOT_FEATURES = (*POOLS, nn.Sigmoid, nn.Softmax, nn.Upsample)
"""Layers whose output on the grid of the last convolution is not its features: pooled to another size, or gates."""


@dataclass(frozen=True)
class Attributions:
    """What integrated gradients gave.

    Attributes
    ----------
    values : (channels, *space) float64 array
        Share of every value of the input in the difference of the logits; signed.
    difference : float
        Logit of the input less that of the baseline.
    gap : float
        How far the sum of `values` is from `difference`, divided by its size.
    steps : int
        Points on the way.
    """

    values: np.ndarray
    difference: float
    gap: float
    steps: int


def explain(network: nn.Module, inputs: np.ndarray, target: int, method: str, layer: str | None = None) -> np.ndarray:
    """Return the map of what speaks for a class, between 0 and 1.

    Parameters
    ----------
    network : nn.Module
        Takes (batch, channels, *space), gives logits (batch, classes); is looked at in evaluation mode on its own device.
    inputs : (channels, *space) float32 array
        Of two or three spatial axes.
    target : int
        The class.
    method : {"grad_cam", "occlusion", "integrated_gradients"}
        With the defaults of the functions of these names.
    layer : str, optional
        Name of the layer that Grad-CAM looks at (`feature_layer` otherwise).

    Returns
    -------
    (*space) float32 array
        What speaks against the class is 0; the largest value is 1 unless all are 0.

    Raises
    ------
    Refused
        When Grad-CAM is asked of a network that has no convolutional layer to look at.
    """
    if method == "grad_cam":
        return unit(grad_cam(network, inputs, target, layer))
    if method == "occlusion":
        return unit(occlusion(network, inputs, target))
    if method == "integrated_gradients":
        return unit(integrated_gradients(network, inputs, target).values.sum(axis=0))
    raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")


def unit(values: np.ndarray) -> np.ndarray:
    """Return what is positive, divided by the largest value, float32."""
    positive = np.clip(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), 0.0, None)
    highest = float(positive.max(initial=0.0))
    return (positive / highest if highest > 0 else positive).astype(np.float32)


# --- Grad-CAM --------------------------------------------------------------------------------------------------


def grad_cam(network: nn.Module, inputs: np.ndarray, target: int, layer: str | None = None) -> np.ndarray:
    """Return the class activation map of one input, interpolated to its grid.

    The channels of the layer are weighed with the mean over the grid of the logit's gradient, added up, and what is negative is cut
    off. Maps of the slices of a volume, along its last axis, are put together to one of the volume. A layer that runs several times
    counts with its last run. Of a committee it is the mean of the maps of all members and views, each with 1 at its strongest place.

    Parameters
    ----------
    network, inputs, target
        See `explain`.
    layer : str, optional
        A module by its name in ``network.named_modules()``, whose output is (batch, channels, *grid); `feature_layer` otherwise.

    Returns
    -------
    (*space) float64 array
        Not negative, in units of the logit.

    References
    ----------
    Selvaraju et al., Grad-CAM: visual explanations from deep networks via gradient-based localization, ICCV 2017.
    """
    if isinstance(network, Committee) and (network.mirrored or len(network.members) > 1):
        alone = [as_one([member], False, network.subclasses) for member in network.members]
        maps = [unit(grad_cam(each, inputs, target, layer)) for each in alone]
        if network.mirrored:
            maps += [unit(grad_cam(each, np.flip(inputs, 1), target, layer))[::-1] for each in alone]
        return np.mean(maps, axis=0, dtype=np.float64)
    with _ready(network):
        x = _tensor(network, inputs[None])
        name = layer if layer is not None else feature_layer(network, inputs)
        modules = dict(network.named_modules())
        if name not in modules:
            raise Refused(f"The network has no layer {name!r}; some that it has: {', '.join(list(modules)[-3:])}.")
        kept: list[Any] = []
        hook = modules[name].register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            # The weights are frozen, so the way to the layer has a gradient only through the input.
            logits = network(x.requires_grad_(True))
        finally:
            hook.remove()
        maps = kept[-1] if kept else None
        gradient = None
        if isinstance(maps, torch.Tensor) and maps.requires_grad and _is_map(tuple(maps.shape), inputs.shape):
            (gradient,) = torch.autograd.grad(logits[0, target], maps, allow_unused=True)
        if gradient is None:
            raise Refused(f"The layer {name!r} gives no maps of channels on a grid; name another, or use occlusion.")
        if maps.ndim < x.ndim:
            maps, gradient = (each.movedim(0, -1)[None] for each in (maps, gradient))
        axes = tuple(range(2, x.ndim))
        weighed = torch.relu((gradient.mean(dim=axes, keepdim=True) * maps).sum(dim=1, keepdim=True)).detach()
        fine = nn.functional.interpolate(weighed, size=x.shape[2:], mode=MODES[x.ndim - 2], align_corners=False)
        return fine[0, 0].double().cpu().numpy()


def feature_layer(network: nn.Module, inputs: np.ndarray) -> str:
    """Return the name of the layer whose output is the last maps of features: of the last convolution that runs, or of what follows it on
    its grid (normalisation, activation, the sum of a residual block, the channels of a dense block).

    Parameters
    ----------
    network : nn.Module
        One that looks at a part of the image again names in its attribute ``sees_all`` the module that sees all of it. Of a committee
        its first member.
    inputs : (channels, *space) float32 array
        One input that the network may see.

    Raises
    ------
    Refused
        When fewer than two convolutions give maps of several channels: a transformer has one, which cuts the image into patches.
    """
    network = one_view(network)
    within = next((f"{name}.{module.sees_all}".strip(".") for name, module in network.named_modules() if hasattr(module, "sees_all")), "")
    seen = [
        (name, module, shape)
        for name, module, shape in layers_run(network, inputs)
        if name.startswith(within) and _is_map(shape, inputs.shape) and shape[1] > 1 and prod(shape[2:]) > 1
    ]
    places = [place for place, (_, module, _) in enumerate(seen) if isinstance(module, CONVOLUTIONS)]
    if len(places) < 2:
        raise Refused(
            f"{type(network).__name__} has no convolutional layers that Grad-CAM could look at; "
            "use occlusion or integrated_gradients (classify.default.why)."
        )
    last = seen[places[-1]][2]
    following = [
        name
        for name, module, shape in seen[places[-1] :]
        if (shape[0], *shape[2:]) == (last[0], *last[2:]) and not isinstance(module, NOT_FEATURES)
    ]
    return following[-1]


def _is_map(shape: tuple[int, ...], inputs: tuple[int, ...]) -> bool:
    """Tell whether an output is maps of the one input (channels, *space): of all of it, or of each slice of its last axis."""
    whole = len(shape) == len(inputs) + 1 and shape[0] == 1
    return whole or (len(shape) == len(inputs) == 4 and shape[0] == inputs[-1])


def layers_run(network: nn.Module, inputs: np.ndarray) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Return name, module and shape of the output of every module that runs, in the order in which they end."""
    seen: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def told(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, out: object) -> None:
            if isinstance(out, torch.Tensor):
                seen.append((name, module, tuple(out.shape)))

        return hook

    hooks = [module.register_forward_hook(told(name)) for name, module in network.named_modules() if name]
    try:
        with _ready(network), torch.no_grad():
            network(_tensor(network, inputs[None]))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


# --- occlusion -------------------------------------------------------------------------------------------------


def occlusion(
    network: nn.Module,
    inputs: np.ndarray,
    target: int,
    size: Sequence[int] | None = None,
    step: Sequence[int] | None = None,
    fill: float | Sequence[float] = 0.0,
    batch: int | None = None,
) -> np.ndarray:
    """Return by how much the probability of a class falls when a block around a voxel is hidden.

    Parameters
    ----------
    network, inputs, target
        See `explain`.
    size : sequence of int, optional
        Voxels of a block along every spatial axis; a fifth of a picture and a quarter of a volume otherwise.
    step : sequence of int, optional
        From a block to the next; half of `size` otherwise. Blocks end at the border of the input, and the last one lies there.
    fill : float or one a channel
        What stands in a hidden block.
    batch : int, optional
        Blocks at once; what `BATCH_VALUES` allow otherwise. The result does not depend on it beyond rounding.

    Returns
    -------
    (*space) float64 array
        The mean over all blocks that hide a voxel; negative where hiding it raises the probability.

    References
    ----------
    Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014, doi:10.1007/978-3-319-10590-1_53.
    """
    space = inputs.shape[1:]
    size = [min(length, edge) for length, edge in zip(size or [ceil(n / (5 if len(space) < 3 else 4)) for n in space], space, strict=True)]
    step = step or [max(1, edge // 2) for edge in size]
    starts = [sorted({*range(0, length - edge, stride), length - edge}) for length, edge, stride in zip(space, size, step, strict=True)]
    blocks = [tuple(slice(a, a + edge) for a, edge in zip(corner, size, strict=True)) for corner in product(*starts)]
    hidden = np.broadcast_to(np.asarray(fill, np.float32).reshape(-1, *[1] * len(space)), (len(inputs), *size))
    whole = _log_odds(network, inputs[None], target)[0]
    fallen, count = np.zeros(space), np.zeros(space)
    batch = batch or max(1, BATCH_VALUES // inputs.size)
    for first in range(0, len(blocks), batch):
        some = blocks[first : first + batch]
        changed = np.repeat(inputs[None], len(some), axis=0)
        for copy, block in zip(changed, some, strict=True):
            copy[(slice(None), *block)] = hidden
        for block, rest in zip(some, _log_odds(network, changed, target), strict=True):
            fallen[block] += _fall(whole, rest)
            count[block] += 1
    # Where the steps are longer than the blocks some voxels are never hidden.
    return fallen / np.maximum(count, 1)


def _log_odds(network: nn.Module, inputs: np.ndarray, target: int) -> np.ndarray:
    """Return the logarithm of the odds of a class for (n, channels, *space), float64."""
    with _ready(network), torch.no_grad():
        logits = network(_tensor(network, inputs)).double()
        rest = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
        return (logits[:, target] - torch.logsumexp(rest, dim=1)).cpu().numpy()


def _fall(whole: float, hidden: float) -> float:
    """Return the difference of two probabilities from their log-odds, exact also where both are almost 0 or 1."""
    if min(whole, hidden) > 0:
        return float(1 / (1 + np.exp(hidden)) - 1 / (1 + np.exp(whole)))
    return float(1 / (1 + np.exp(-whole)) - 1 / (1 + np.exp(-hidden)))


# --- integrated gradients --------------------------------------------------------------------------------------


def integrated_gradients(
    network: nn.Module,
    inputs: np.ndarray,
    target: int,
    baseline: np.ndarray | float = 0.0,
    steps: int = 32,
    tolerance: float = 0.01,
    batch: int | None = None,
) -> Attributions:
    """Return the share of every value of an input in a logit: the gradient, integrated on the straight way from a baseline.

    The integral is a sum over the middles of equal parts. As long as it misses the difference of the logits by more than `tolerance`, the
    number of parts is doubled, up to `MOST_STEPS`: what is added up is then known to be complete.

    Parameters
    ----------
    network, inputs, target
        See `explain`.
    baseline : array or float
        What shows nothing; the networks of classifiers see 0 as the median of the body.
    steps : int
        Parts to begin with.
    tolerance : float
        Relative to the difference of the logits.
    batch : int, optional
        Points of the way at once; what `BATCH_VALUES` allow otherwise.

    References
    ----------
    Sundararajan et al., Axiomatic attribution for deep networks, ICML 2017.
    """
    start = np.broadcast_to(np.asarray(baseline, np.float32), inputs.shape)
    way = (inputs - start).astype(np.float64)
    with _ready(network), torch.no_grad():
        ends = network(_tensor(network, np.stack([inputs, start])))[:, target].double().cpu().numpy()
    difference = float(ends[0] - ends[1])
    batch = batch or max(1, BATCH_VALUES // inputs.size)
    while True:
        values = way * _mean_gradient(network, start, inputs, target, steps, batch)
        gap = abs(float(values.sum()) - difference) / max(abs(difference), 1e-6)
        if gap <= tolerance or 2 * steps > MOST_STEPS:
            return Attributions(values, difference, gap, steps)
        steps *= 2


def _mean_gradient(network: nn.Module, start: np.ndarray, end: np.ndarray, target: int, steps: int, batch: int) -> np.ndarray:
    """Return the mean gradient of a logit over the middles of the parts of the way, float64."""
    total = np.zeros(end.shape)
    middles = (np.arange(steps, dtype=np.float32) + 0.5) / steps
    for first in range(0, steps, batch):
        shares = middles[first : first + batch].reshape(-1, *[1] * end.ndim)
        with _ready(network):
            x = _tensor(network, start[None] + shares * (end - start)[None]).requires_grad_(True)
            (gradient,) = torch.autograd.grad(network(x)[:, target].sum(), x)
        total += gradient.double().sum(dim=0).cpu().numpy()
    return total / steps


# --- how a network is asked ------------------------------------------------------------------------------------


@contextmanager
def _ready(network: nn.Module) -> Iterator[None]:
    """Have a network in evaluation mode for a while; without cuDNN, whose recurrent layers have a gradient in training mode only."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        with torch.backends.cudnn.flags(enabled=False), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _tensor(network: nn.Module, inputs: np.ndarray) -> torch.Tensor:
    """Return inputs as float32 on the network's device."""
    found = next((each for each in (*network.parameters(), *network.buffers())), None)
    return torch.from_numpy(np.array(inputs, np.float32)).to("cpu" if found is None else found.device)
