"""A network of the registry as training and stage call it: what its input lies on, what it looks at, which factors it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cohortex.models import registry


@dataclass(frozen=True)
class Fitted:
    """How a network is fed.

    Attributes
    ----------
    grid : {"fine", "slices"}
    any_factor : bool
        It is called with the factor.
    factor : float or None
        The only factor that it is for.
    inputs : tuple of str
        ``image``, and further ones: ``view``, ``reference``.
    halo : three ints
        How far it looks along x, y and the slice axis, in voxels of its own grid.
    """

    grid: str
    any_factor: bool
    factor: float | None
    inputs: tuple[str, ...]
    halo: tuple[int, int, int]


def fitted(name: str, options: Mapping[str, Any], network: nn.Module) -> Fitted:
    """Return how a network of the task ``superresolve`` is fed, from its entry, its options and its halo."""
    entry = registry.entry("superresolve", name)
    chosen = {**entry.options, **options}
    expects, halo = entry.expects, network.halo
    sizes: Any = (halo,) * 3 if isinstance(halo, int) else halo
    a, b, c = (int(n) for n in sizes)
    factor = float(chosen["factor"]) if expects.grid == "slices" and not expects.any_factor else None
    return Fitted(expects.grid, expects.any_factor, factor, tuple(chosen.get("inputs", expects.inputs)), (a, b, c))


class AtOnce(nn.Module):
    """A network with its factor, whose output is cut to the inner part that a patch's target shows.

    ``forward(x)`` or ``forward(x, factor)`` with factor a tensor that holds the batch's one factor.

    Parameters
    ----------
    network : nn.Module
    edge : int
        Of the target along x and y.
    length : callable or None
        Fine voxels of the target along the slice axis for a factor; None: `edge`.
    """

    def __init__(self, network: nn.Module, edge: int, length: Any = None):
        super().__init__()
        self.network = network
        self.edge = edge
        self.length = length

    def forward(self, x: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
        """Return the inner part of the network's output."""
        share = None if factor is None else float(factor.reshape(-1)[0])
        made = self.network(x) if share is None else self.network(x, share)
        sizes = (self.edge, self.edge, self.edge if self.length is None else self.length(share))
        for axis, size in enumerate(sizes, 2):
            spare = made.shape[axis] - size
            if spare:
                made = made.narrow(axis, spare // 2, size)
        return made
