"""Restricted Boltzmann machines: contrastive divergence (Hinton, 2002) and what their likelihood is (Salakhutdinov and Murray, 2008)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import torch
from torch import nn
from torch.nn import functional

EXACT = 20
"""Units of the smaller side up to which all states can be gone through."""


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield numbers below `count` in a drawn order, `size` at a time (the last batch may be smaller)."""
    yield from torch.randperm(count, generator=generator).split(size)


class Boltzmann(nn.Module):
    """Binary units, visible and hidden, each of one kind connected to all of the other.

    The energy of a state is ``-b v - c h - h W v``. Visible values within 0..1 are taken as probabilities.

    Attributes
    ----------
    weight : (hidden, visible) parameter
    bias_visible, bias_hidden : parameters
    """

    def __init__(self, visible: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, visible))
        self.bias_visible, self.bias_hidden = nn.Parameter(torch.zeros(visible)), nn.Parameter(torch.zeros(hidden))
        nn.init.normal_(self.weight, std=0.01)
        # what is drawn downward is no part of classification
        self.bias_visible.requires_grad_(False)

    def hidden_of(self, visible: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the hidden units (n, hidden) given the visible ones."""
        return torch.sigmoid(functional.linear(visible, self.weight, self.bias_hidden))

    def visible_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the visible units (n, visible) given the hidden ones."""
        return torch.sigmoid(functional.linear(hidden, self.weight.T, self.bias_visible))

    @staticmethod
    def drawn(probability: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return units that are 1 with these probabilities, else 0."""
        return (torch.rand(probability.shape, generator=generator).to(probability.device) < probability).to(probability.dtype)

    def free_energy(self, visible: torch.Tensor) -> torch.Tensor:
        """Return (n,), the logarithm of the unnormalised probability of visible states, negated."""
        inner = functional.linear(visible, self.weight, self.bias_hidden)
        return -(visible @ self.bias_visible) - functional.softplus(inner).sum(1)

    @torch.no_grad()
    def learn(
        self,
        values: torch.Tensor,
        epochs: int = 10,
        batch: int = 20,
        rate: float = 0.1,
        momentum: float = 0.5,
        decay: float = 1e-4,
        steps: int = 1,
        seed: int = 0,
    ) -> list[float]:
        """Learn by contrastive divergence.

        Parameters
        ----------
        values : (n, visible) tensor
            Within 0..1.
        epochs, batch : int
        rate, momentum, decay : float
            The weights, not the biases, decay.
        steps : int
            Of Gibbs sampling, which begins at the values.
        seed : int

        Returns
        -------
        list of float
            The mean squared difference of values and their reconstruction, of each epoch.
        """
        generator = torch.Generator().manual_seed(seed)
        # the visible units begin at how often they are lit
        share = values.mean(0).clamp(0.01, 0.99)
        if not self.bias_visible.any():
            self.bias_visible.copy_(torch.logit(share))
        speed = [torch.zeros_like(p) for p in (self.weight, self.bias_visible, self.bias_hidden)]
        history: list[float] = []
        for _ in range(epochs):
            apart, count = 0.0, 0
            for chosen in batches(len(values), batch, generator):
                given = values[chosen.to(values.device)]
                first = hidden = self.hidden_of(given)
                seen = given
                for step in range(steps):
                    seen = self.visible_of(self.drawn(hidden, generator))
                    apart += float((seen - given).square().mean()) * len(given) if step == 0 else 0.0
                    if step < steps - 1:
                        seen = self.drawn(seen, generator)
                    hidden = self.hidden_of(seen)
                count += len(given)
                change = (
                    (first.T @ given - hidden.T @ seen) / len(given) - decay * self.weight,
                    (given - seen).mean(0),
                    (first - hidden).mean(0),
                )
                for value, moving, step_ in zip((self.weight, self.bias_visible, self.bias_hidden), speed, change, strict=True):
                    moving.mul_(momentum).add_(step_, alpha=rate)
                    value.add_(moving)
            history.append(apart / count)
        return history

    @torch.no_grad()
    def log_partition(self) -> float:
        """Return the logarithm of the partition function from all states of the smaller side.

        Raises
        ------
        ValueError
            When both sides have more than `EXACT` units.
        """
        hidden, visible = self.weight.shape
        if min(hidden, visible) > EXACT:
            raise ValueError(f"both sides have more than {EXACT} units; estimate the partition function by annealed importance sampling")
        states = torch.tensor(list(product((0.0, 1.0), repeat=min(hidden, visible))), dtype=torch.float64)
        weight, below, above = self.weight.double(), self.bias_visible.double(), self.bias_hidden.double()
        if visible <= hidden:
            logs = states @ below + functional.softplus(states @ weight.T + above).sum(1)
        else:
            logs = states @ above + functional.softplus(states @ weight + below).sum(1)
        return float(logs.logsumexp(0))

    @torch.no_grad()
    def annealed_log_partition(
        self, base: torch.Tensor | None = None, runs: int = 100, temperatures: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """Estimate the logarithm of the partition function by annealed importance sampling.

        Parameters
        ----------
        base : (visible,) tensor, optional
            How often each visible unit is lit in the data: the independent units that sampling begins with. When absent one half.
        runs, temperatures : int
        seed : int

        Returns
        -------
        value, error : float
            The estimate, and one standard deviation of the mean weight, relative to it.
        """
        generator = torch.Generator().manual_seed(seed)
        weight, below, above = (p.double() for p in (self.weight, self.bias_visible, self.bias_hidden))
        begin = torch.zeros_like(below) if base is None else torch.logit(base.double().clamp(0.01, 0.99))
        hidden = len(above)

        def log_probability(states: torch.Tensor, heat: float) -> torch.Tensor:
            inner = heat * functional.linear(states, weight, above)
            return (1 - heat) * (states @ begin) + heat * (states @ below) + functional.softplus(inner).sum(1)

        states = self.drawn(torch.sigmoid(begin).expand(runs, -1), generator)
        logs = torch.zeros(runs, dtype=torch.float64, device=weight.device)
        heats = torch.linspace(0, 1, temperatures).tolist()
        for heat, hotter in pairwise(heats):
            logs += log_probability(states, hotter) - log_probability(states, heat)
            lit = self.drawn(torch.sigmoid(hotter * functional.linear(states, weight, above)), generator)
            states = self.drawn(torch.sigmoid((1 - hotter) * begin + hotter * (below + lit @ weight)), generator)
        first = float(functional.softplus(begin).sum()) + hidden * float(torch.tensor(2.0).log())
        value = float(logs.logsumexp(0)) - float(torch.tensor(float(runs)).log())
        spread = torch.exp(logs - logs.max())
        return first + value, float(spread.std() / spread.mean() / runs**0.5)

    @torch.no_grad()
    def log_likelihood(self, values: torch.Tensor, log_partition: float) -> float:
        """Return the mean log-likelihood, in nats, of binary values (n, visible)."""
        return float(-self.free_energy(values).double().mean()) - log_partition


@torch.no_grad()
def layered_bound(machines: Sequence[Boltzmann], values: torch.Tensor, log_partition: float, draws: int = 20, seed: int = 0) -> float:
    """Return a lower bound of the mean log-likelihood of binary values (n, visible) under a deep belief network, in nats.

    Hidden units of all machines but the last are drawn from their probabilities upward; the bound is the mean of what they say of the
    units below, of the entropy of the drawing, and of the log-likelihood under the last machine (Salakhutdinov and Murray, 2008). Of one
    machine it is the log-likelihood itself.

    Parameters
    ----------
    machines : sequence of Boltzmann
        From the lowest.
    values : tensor
    log_partition : float
        Of the last machine.
    draws : int
        Drawings of each value.
    seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    *below, last = machines
    state, total = values.repeat(draws, 1), torch.zeros(draws * len(values), dtype=torch.float64, device=values.device)
    for machine in below:
        up = machine.hidden_of(state)
        above = machine.drawn(up, generator)
        down = machine.visible_of(above)
        total += _log_of(state, down) - _log_of(above, up)
        state = above
    return float((total - last.free_energy(state).double()).mean()) - log_partition


def _log_of(states: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    """Return (n,), the logarithm of the probability of binary states of independent units."""
    kept = probability.double().clamp(1e-12, 1 - 1e-12)
    return (states * kept.log() + (1 - states) * (-kept).log1p()).sum(1)
