"""What every objective of a training has; a loss alone is one with nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.training.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser, tensors_of, tensors_under
from cohortex.training.team import team

Batch = torch.Tensor | tuple[torch.Tensor, ...]
"""(examples, channels, ...) float32, or several of them for a network with several arguments."""


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Attributes
    ----------
    network : nn.Module
        On `device`, with its first weights.
    sampler : callable
        ``sampler(generator, count)``: source and target arrays.
    steps, batch : int
        Of the training, in all processes together.
    rate : float
        Largest learning rate.
    seed : int
    device : str
    checkpoint : Checkpoint
        Of the training; `Checkpoint.beside` is that of something which is trained before it.
    """

    network: nn.Module
    sampler: Callable[[np.random.Generator, int], tuple[Any, Any]]
    steps: int
    batch: int
    rate: float
    seed: int
    device: str
    checkpoint: Checkpoint


class Objective(ABC):
    """What a training makes small. Override `loss`, and whatever else the objective needs.

    The order of calls: `begin` once, then for each step `before` (turns of the objective's own networks, each with its own batch) and
    `loss`. Whatever is drawn at a step must come from `generator`, which depends on seed, step and process only, and whatever is learnt
    must be in `networks` and `optimisers`: then a training that is killed and taken up again ends with the same bytes.
    """

    draws = 1
    """Batches that a step draws: the first one is for `loss`, the others are for `before`."""

    start: Start
    """Set by `begin`."""

    def begin(self, start: Start) -> None:
        """Make the objective's own networks, from ``start.seed`` alone; the state of a checkpoint is restored after this."""
        self.start = start

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the objective's own networks that learn during the training, by name."""
        return {}

    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Return their optimisers, by name."""
        return {}

    def optimiser(self, groups: Iterable[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return the optimiser of the trained network.

        Parameters
        ----------
        groups : iterable of dict
            ``params`` and ``largest``, the learning rate of the group.
        rate : float
        """
        return torch.optim.AdamW(groups, lr=rate, weight_decay=1e-4)

    def before(  # noqa: B027  (most have no networks of their own)
        self, network: nn.Module, batches: Sequence[tuple[Batch, Batch]], step: int, share: float
    ) -> None:
        """Take the turns of the objective's own networks before the network's step.

        Parameters
        ----------
        network : nn.Module
        batches : sequence of (source, target)
            As many as `draws` says beside the first one.
        step : int
        share : float
            The learning rate of this step as a share of the largest.
        """

    @abstractmethod
    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return what is made small, a scalar: the mean over this process's share of the batch.

        Parameters
        ----------
        network : nn.Module
            In training mode.
        source, target : tensor, or tuple of tensors
            On the device.
        step : int
        """

    def told(self) -> Mapping[str, float]:
        """Return numbers of the last step for the card's curves, by name; each step gives the same names."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """Return what the card says of the objective beyond its name and options, such as how its feature network was trained."""
        return {}

    def generator(self, step: int, purpose: int = 0) -> torch.Generator:
        """Return a random generator (on the CPU) of this step, process and purpose."""
        key = np.random.SeedSequence(team().stream(self.start.seed, step, 1 + purpose))
        return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def state(self) -> dict[str, torch.Tensor]:
        """Return the own networks and optimisers as tensors for the checkpoint."""
        found: dict[str, torch.Tensor] = {}
        for name, network in self.networks().items():
            found |= tensors_under(f"network/{name}", network.state_dict())
        for name, optimiser in self.optimisers().items():
            found |= tensors_under(f"optimiser/{name}", optimiser_tensors(optimiser))
        return found

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` returned."""
        for name, network in self.networks().items():
            network.load_state_dict(tensors_of(f"network/{name}", tensors))
        for name, optimiser in self.optimisers().items():
            restore_optimiser(optimiser, tensors_of(f"optimiser/{name}", tensors))


class Plain(Objective):
    """A loss of output and target, without anything else."""

    def __init__(self, of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
        self.of = of

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of the network's output."""
        made = output(network, source)
        return self.of(made, within(target, made))


def output(network: nn.Module, source: Any) -> torch.Tensor:
    """Return the network's output for a source, which may be a tuple of arguments."""
    return network(*source) if isinstance(source, tuple) else network(source)


def within(target: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return the middle of a target that is larger than the output of a network which loses its halo.

    Parameters
    ----------
    target : (n, c, ...) tensor
    made : (n, c, ...) tensor
        As large along every axis, or smaller by an even number.

    Returns
    -------
    tensor
        Of the output's spatial shape; the target itself where they agree.
    """
    for axis in range(2, made.ndim):
        spare = target.shape[axis] - made.shape[axis]
        if spare:
            target = target.narrow(axis, spare // 2, made.shape[axis])
    return target
