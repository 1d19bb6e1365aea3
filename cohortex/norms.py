"""Norms that look at their whole input, over a volume that is cut into blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.inference import Runner

if TYPE_CHECKING:
    import torch
    from torch import nn


@contextmanager
def frozen_norms(network: nn.Module, parts: Callable[[], Iterator[np.ndarray]], device: str = "cpu", passes: int = 2) -> Iterator[int]:
    """Replace the statistics that instance norms take of their input by those of the whole volume, gathered block by block.

    A norm that looks at its own block gives a volume cut into blocks other labels than the whole. Each pass runs the network over all
    blocks and gathers the sums of every norm; norms have the statistics of the pass before, or their block's own in the first one.
    After n passes the first n norms along the network are those of the whole (up to the blocks' borders), the others close to it;
    after as many passes as there are norms all are. Two passes are the usual compromise; tests and docs/performance.md say how close.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; its instance norms without running statistics and its group norms are replaced while the context lasts.
    parts : callable
        Gives the blocks (x, y, z) float32 anew each time, of equal weight by voxel; where it gives none nothing is replaced.
    passes : int

    Yields
    ------
    int
        How many norms were frozen; 0 for a network that needs none, which is then not run.
    """
    from torch import nn

    instance = nn.modules.instancenorm._InstanceNorm
    layers = [m for m in network.modules() if isinstance(m, nn.GroupNorm) or (isinstance(m, instance) and not m.track_running_stats)]
    if not layers:
        yield 0
        return
    frozen = [_FrozenNorm(layer) for layer in layers]
    handles = [layer.register_forward_hook(each) for layer, each in zip(layers, frozen, strict=True)]
    try:
        for _ in range(passes):
            for part in parts():
                import torch

                Runner(network, device, (1, 1, 1))(torch.from_numpy(part)[None, None])
            for each in frozen:
                each.settle()
        for each in frozen:
            each.gathers = False
        yield len(frozen)
    finally:
        for handle in handles:
            handle.remove()


class _FrozenNorm:
    """A forward hook that gathers the statistics of a norm's input and answers with those settled before."""

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        self.count = 0
        self.sums: Any = None
        self.squares: Any = None
        self.mean: Any = None
        self.scale: Any = None
        self.gathers = True

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
        x = inputs[0]
        if self.gathers:
            flat = x.detach().double().flatten(2)
            self.count += flat.shape[0] * flat.shape[2]
            sums, squares = flat.sum((0, 2)), (flat * flat).sum((0, 2))
            self.sums = sums if self.sums is None else self.sums + sums
            self.squares = squares if self.squares is None else self.squares + squares
        if self.mean is None:
            return None
        wide = (1, -1) + (1,) * (x.ndim - 2)
        return ((x - self.mean.to(x.dtype).view(wide)) * self.scale.to(x.dtype).view(wide)).to(output.dtype)

    def settle(self) -> None:
        """Turn the sums into the affine map that stands in for the norm from now on."""
        import torch

        if self.count == 0:
            return
        mean = self.sums / self.count
        square = self.squares / self.count
        if hasattr(self.layer, "num_groups"):
            wide = (self.layer.num_groups, -1)
            mean, square = (x.view(wide).mean(1, keepdim=True).expand(x.view(wide).shape).reshape(-1) for x in (mean, square))
        variance = (square - mean * mean).clamp_min(0)
        scale = torch.rsqrt(variance + self.layer.eps)
        if self.layer.affine:
            scale = scale * self.layer.weight.double()
            mean = mean - self.layer.bias.double() / scale
        self.mean, self.scale = mean.float(), scale.float()
        self.count, self.sums, self.squares = 0, None, None
