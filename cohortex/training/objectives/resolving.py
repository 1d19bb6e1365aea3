"""Objectives of networks that add resolution: likelihood with a variance of its own, and a critic with features and textures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.superresolve.bayesian_espcn import VariationalConv3d
from cohortex.models.superresolve.progressive_sr import Critic
from cohortex.training.loop import fresh
from cohortex.training.objectives.adversarial import WassersteinFeatures
from cohortex.training.objectives.objective import Objective, Start, output, within
from cohortex.training.objectives.pixel import squared_error
from cohortex.training.objectives.structure import pictures


def gaussian_surprise(mean: torch.Tensor, log_variance: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``(error^2 / variance + log variance) / 2``, the negative logarithm of a Gaussian without its constant.

    Parameters
    ----------
    mean, log_variance, target : (n, c, ...) tensors
        The smallest value for a given error is at a variance of error^2.
    """
    return 0.5 * ((target - mean).square() * (-log_variance).exp() + log_variance).mean()


class Heteroscedastic(Objective):
    """Likelihood of the target under a mean and a variance of each voxel: Tanno et al. (MICCAI 2017).

    The network gives, while it trains, the means and then the logarithms of the variances as channels; one that gives the means only
    learns by the mean squared error. Where it has variational dropout the divergence of its weights from their prior is added.

    Parameters
    ----------
    voxels : float
        So many voxels share the divergence: the more data, the less the prior counts.
    """

    def __init__(self, voxels: float):
        self.voxels = voxels
        self._told: dict[str, float] = {}

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the surprise (or the squared error) and the share of the divergence."""
        made = output(network, source)
        wanted = within(target, made)
        if made.shape[1] == 2 * wanted.shape[1]:
            mean, log_variance = made.float().chunk(2, 1)
            found = gaussian_surprise(mean, log_variance, wanted)
        else:
            found = squared_error(made, wanted)
        layers = [module for module in network.modules() if isinstance(module, VariationalConv3d)]
        divergence = torch.stack([layer.divergence() for layer in layers]).sum() if layers else found.new_zeros(())
        self._told = {"surprise": float(found.detach()), "divergence": float(divergence.detach()) / self.voxels}
        return found + divergence / self.voxels

    def told(self) -> dict[str, float]:
        """Return both parts."""
        return self._told


def texture_distance(made: Sequence[torch.Tensor], target: Sequence[torch.Tensor], variances: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean squared distance of the correlations between features, wherever in the picture they lie.

    Parameters
    ----------
    made, target : sequences of (n, filters, rows, columns) tensors
        Outputs of the layers of a feature network.
    variances : sequence of (filters,) tensors
        Of its filters.

    Returns
    -------
    scalar tensor
        0 where every pair of filters goes together as often.

    References
    ----------
    Gatys, Ecker and Bethge, Texture synthesis using convolutional neural networks, NeurIPS 2015, arXiv:1505.07376.
    """
    terms = []
    for first, second, variance in zip(made, target, variances, strict=True):
        scale = variance.rsqrt()[:, None]
        grams = [torch.einsum("nap,nbp->nab", flat, flat) / flat.shape[2] for flat in (each.flatten(2) * scale for each in (first, second))]
        terms.append((grams[0] - grams[1]).square().mean())
    return torch.stack(terms).mean()


class ProgressiveGanFeatures(WassersteinFeatures):
    """Squared error, Wasserstein critic, features and textures: Lyu et al. (IEEE Trans. Med. Imaging 39(9), 2020).

    The features are those of a small network that learns on the training's own patches first, the critic is that of the progressive
    network.

    Parameters
    ----------
    texture_weight : float
        Of `texture_distance`, over the two coarser layers of the feature network.
    """

    def __init__(self, texture_weight: float, **options: Any):
        super().__init__(**options, hidden=1)
        self.texture_weight = texture_weight

    def begin(self, start: Start) -> None:
        """Train the feature network, or take up its checkpoint; make the critic."""
        super().begin(start)
        # in the place of the one for patches of a fixed size
        self.critic = fresh(lambda: Critic(self.width), start.seed + 1).to(start.device)
        self.turns = torch.optim.Adam(self.critic.parameters(), lr=start.rate * self.critic_rate, betas=self.betas)

    def content(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return squared error, distance of features and distance of textures, weighted."""
        network = self.distance.network
        first, second = (network.layers(pictures(each))[1:] for each in (made, target))
        return super().content(made, target) + self.texture_weight * texture_distance(first, second, list(network.variance)[1:])
