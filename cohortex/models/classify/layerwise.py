"""Networks that are trained layer by layer before they classify: stacked autoencoders and deep belief networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.classify.boltzmann import Boltzmann, batches
from cohortex.models.classify.network import ClassificationNetwork, to_grid


class LayeredNetwork(ClassificationNetwork):
    """Dense sigmoid layers over the values of an image that is averaged to a fixed grid, and a linear layer for the classes.

    Values are probabilities of being lit: images lie within 0..1, what is outside is cut off. ``pretrain(x)`` trains the layers on images
    without labels, each on what the one before makes of them; training then goes through all of them.

    Parameters
    ----------
    grid : int
        Edge of the grid; other sizes are averaged (or repeated) to it.
    widths : sequence of int
        Of the layers.
    dropout : float
        Before the last layer.
    """

    def __init__(self, dimensions: int, channels: int, classes: int, grid: int, widths: Sequence[int], dropout: float):
        super().__init__(dimensions, channels, classes, dropout)
        if not widths:
            raise ValueError("widths has at least one layer")
        self.grid = to_grid(dimensions, grid)
        self.widths = [channels * grid**dimensions, *widths]
        self.head = nn.Linear(self.widths[-1], classes)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values (n, width) of images on the grid."""
        return self.grid(x).flatten(1).clamp(0, 1)


class StackedAutoencoder(LayeredNetwork):
    """Stacked denoising autoencoder (Vincent et al., JMLR 2010): each layer learns to restore what it is shown in part.

    A layer's decoder has the transposed weights of the layer, and is needed in `pretrain` alone.

    Parameters
    ----------
    noise : float
        Share of a layer's inputs that are set to 0; 0 makes plain autoencoders.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 10,
        grid: int = 28,
        widths: Sequence[int] = (1000, 1000, 1000),
        noise: float = 0.25,
        dropout: float = 0.0,
    ):
        super().__init__(dimensions, channels, classes, grid, widths, dropout)
        self.noise = noise
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(self.widths))

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last code (n, width)."""
        return self.encoded(self.seen(x), len(self.layers))

    def encoded(self, values: torch.Tensor, layers: int) -> torch.Tensor:
        """Return the code (n, width) of values (n, width) behind so many layers."""
        for layer in list(self.layers)[:layers]:
            values = torch.sigmoid(layer(values))
        return values

    def pretrain(self, x: torch.Tensor, epochs: int = 10, batch: int = 20, rate: float = 1e-3, seed: int = 0) -> list[list[float]]:
        """Train each layer to restore its input, the ones before it fixed.

        Parameters
        ----------
        x : (n, channels, ...) tensor
            Images, on the device of the network.
        epochs, batch : int
        rate : float
            Of Adam (the paper has gradient steps).
        seed : int

        Returns
        -------
        list of list of float
            Of each layer the mean cross-entropy of each epoch, per value.
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            values = self.seen(x)
        history: list[list[float]] = []
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            visible = nn.Parameter(values.new_zeros(layer.in_features))
            optimizer = torch.optim.Adam([*layer.parameters(), visible], rate)
            history.append([])
            for _ in range(epochs):
                losses: list[float] = []
                for chosen in batches(len(values), batch, generator):
                    given = values[chosen.to(values.device)]
                    kept = (torch.rand(given.shape, generator=generator) >= self.noise).to(given)
                    code = torch.sigmoid(layer(given * kept))
                    loss = functional.binary_cross_entropy_with_logits(functional.linear(code, layer.weight.T, visible), given)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    losses.append(float(loss.detach()))
                history[-1].append(sum(losses) / len(losses))
            with torch.no_grad():
                values = torch.sigmoid(layer(values))
        return history


class DeepBelief(LayeredNetwork):
    """Deep belief network (Hinton et al., Neural Comput. 2006): restricted Boltzmann machines upon each other, then the classes.

    Each machine learns the activations of the one below by contrastive divergence (`pretrain`). Its weights upward, with the hidden
    units' probabilities for values, are the layers of the network; those downward serve to draw images (`sampled`).
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 10,
        grid: int = 28,
        widths: Sequence[int] = (500, 500, 2000),
        dropout: float = 0.0,
    ):
        super().__init__(dimensions, channels, classes, grid, widths, dropout)
        self.machines = nn.ModuleList(Boltzmann(a, b) for a, b in pairwise(self.widths))

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the last hidden units (n, width)."""
        return self.encoded(self.seen(x), len(self.machines))

    def encoded(self, values: torch.Tensor, layers: int) -> torch.Tensor:
        """Return the probabilities of the hidden units of the machine of that number, from 1, for values (n, width)."""
        for machine in list(self.machines)[:layers]:
            assert isinstance(machine, Boltzmann)
            values = machine.hidden_of(values)
        return values

    def pretrain(
        self, x: torch.Tensor, epochs: int = 10, batch: int = 20, rate: float = 0.1, seed: int = 0, steps: int = 1
    ) -> list[list[float]]:
        """Train each machine by contrastive divergence, the ones before it fixed.

        Parameters
        ----------
        x : (n, channels, ...) tensor
            Images, on the device of the network.
        epochs, batch, seed : int
        rate : float
        steps : int
            Of Gibbs sampling for each update.

        Returns
        -------
        list of list of float
            Of each machine the mean squared difference of its values and their reconstruction, of each epoch.
        """
        history: list[list[float]] = []
        with torch.no_grad():
            values = self.seen(x)
            for number, machine in enumerate(self.machines):
                assert isinstance(machine, Boltzmann)
                history.append(machine.learn(values, epochs, batch, rate, steps=steps, seed=seed + number))
                values = machine.hidden_of(values)
        return history

    @torch.no_grad()
    def sampled(self, number: int, sweeps: int = 200, seed: int = 0) -> torch.Tensor:
        """Return images (number, values on the grid) drawn from the network: Gibbs sampling in the last machine, then downward."""
        generator = torch.Generator().manual_seed(seed)
        machines = [m for m in self.machines if isinstance(m, Boltzmann)]
        last = machines[-1]
        state = last.drawn(torch.full((number, last.bias_visible.numel()), 0.5).to(last.weight), generator)
        for _ in range(sweeps):
            state = last.drawn(last.visible_of(last.drawn(last.hidden_of(state), generator)), generator)
        for machine in machines[-2::-1]:
            state = machine.visible_of(state)
            if machine is not machines[0]:
                state = machine.drawn(state, generator)
        return state
