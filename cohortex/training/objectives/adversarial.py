"""Trainings against a critic: Wasserstein distance with gradient penalty, least squares, and what stands beside them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.models.denoise.critics import ConvCritic, PatchCritic
from cohortex.training.features import FeatureDistance
from cohortex.training.loop import fresh, on_device, take_turn, weight_of
from cohortex.training.objectives.objective import Objective, Start, output, within
from cohortex.training.objectives.pixel import absolute_error, squared_error
from cohortex.training.objectives.structure import multiscale_similarity, similarity

Judge = Callable[[torch.Tensor], torch.Tensor]


def gradient_penalty(critic: Judge, real: torch.Tensor, made: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance from 1 of the norm of a critic's gradient, between real and made examples.

    Parameters
    ----------
    critic : callable
        (n, c, ...) to (n, 1).
    real, made : (n, c, ...) tensors
    share : (n,) tensor
        From 0 (made) to 1 (real): where on the line between the two.

    Returns
    -------
    scalar tensor
        0 for a critic whose gradient has length 1 everywhere; it can be differentiated.

    References
    ----------
    Gulrajani et al., Improved training of Wasserstein GANs, NeurIPS 2017.
    """
    along = share.reshape(-1, *[1] * (real.ndim - 1))
    between = (along * real + (1 - along) * made).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # A root has no gradient at zero.
    norm = (gradient.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


def wasserstein_gap(critic: Judge, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return how much more a critic gives real examples than made ones: an estimate of the Wasserstein distance."""
    return critic(real).mean() - critic(made).mean()


def least_squares(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return a critic's loss by Mao et al. (ICCV 2017): half the squared distances from 1 and from 0.

    Parameters
    ----------
    real, made : tensors
        What the critic says of real examples, and of made ones.
    """
    return 0.5 * ((real - 1).square().mean() + made.square().mean())


class Adversarial(Objective):
    """A network and a critic in turns; the network's loss is a content term and what the critic says.

    Parameters
    ----------
    critic_weight : float
        Of what the critic says, in the network's loss.
    critic_steps : int
        Turns of the critic before each step of the network, each on a batch of its own.
    critic_rate : float
        The critic's learning rate as a share of the network's.
    betas : two floats
        Of Adam, for both.
    width : int
        Filters of the critic's first layer.
    """

    def __init__(self, critic_weight: float, critic_steps: int, critic_rate: float, betas: Sequence[float], width: int):
        self.critic_weight, self.critic_rate = critic_weight, critic_rate
        self.betas = (float(betas[0]), float(betas[1]))
        self.width = width
        self.draws = 1 + critic_steps
        self._told: dict[str, float] = {}
        self._gap = 0.0

    def begin(self, start: Start) -> None:
        """Make a critic for patches of the size that the network gives."""
        super().begin(start)
        source, _ = on_device(start.device, start.sampler(np.random.default_rng(start.seed), 1))
        start.network.eval()
        with torch.no_grad():
            made = output(start.network, source)
        start.network.train()
        self.critic = fresh(lambda: self.new_critic(made.shape[2:]), start.seed + 1).to(start.device)
        self.turns = torch.optim.Adam(self.critic.parameters(), lr=start.rate * self.critic_rate, betas=self.betas)
        self.weight = weight_of(start.batch)

    @abstractmethod
    def new_critic(self, edges: Sequence[int]) -> nn.Module:
        """Return a critic of patches with these edges."""

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the critic."""
        return {"critic": self.critic}

    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Return the critic's optimiser."""
        return {"critic": self.turns}

    def optimiser(self, groups: Iterable[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(groups, lr=rate, betas=self.betas)

    def before(self, network: nn.Module, batches: Sequence[tuple[Any, Any]], step: int, share: float) -> None:
        """Take the critic's turns."""
        for group in self.turns.param_groups:
            group["lr"] = self.start.rate * self.critic_rate * share
        self.critic.requires_grad_(True)
        for number, (source, target) in enumerate(batches):
            with torch.no_grad():
                made = output(network, source).float()
            real = within(target, made)
            take_turn(self.critic, self.turns, self.judgement(real, made, step, number), self.weight)
        # What the network's loss asks of it is not the critic's to learn.
        self.critic.requires_grad_(False)
        self._told["critic_gap"] = self._gap

    @abstractmethod
    def judgement(self, real: torch.Tensor, made: torch.Tensor, step: int, number: int) -> torch.Tensor:
        """Return the critic's loss and note its gap."""

    @abstractmethod
    def persuasion(self, made: torch.Tensor) -> torch.Tensor:
        """Return what the network makes small of what the critic says."""

    @abstractmethod
    def content(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the rest of the network's loss."""

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the content term and what the critic says."""
        made = output(network, source)
        wanted = within(target, made)
        content, said = self.content(made, wanted), self.persuasion(made)
        self._told |= {"content": float(content.detach()), "critic": float(said.detach())}
        return content + self.critic_weight * said

    def told(self) -> Mapping[str, float]:
        """Return the critic's gap, the content term and what the critic says of what was made."""
        return self._told


class Wasserstein(Adversarial):
    """An adversarial objective whose critic estimates the Wasserstein distance, with gradient penalty.

    Parameters
    ----------
    penalty : float
        Weight of the gradient penalty in the critic's loss.
    hidden : int
        Of the critic's first fully connected layer.
    """

    def __init__(self, penalty: float, hidden: int, **options: Any):
        super().__init__(**options)
        self.penalty, self.hidden = penalty, hidden

    def new_critic(self, edges: Sequence[int]) -> nn.Module:
        """Return the critic of WGAN-VGG and SMGAN."""
        return ConvCritic(edges, self.width, self.hidden)

    def judgement(self, real: torch.Tensor, made: torch.Tensor, step: int, number: int) -> torch.Tensor:
        """Return the gap, negative, with the penalty."""
        share = torch.rand(len(real), generator=self.generator(step, number)).to(real.device)
        gap = wasserstein_gap(self.critic, real, made)
        self._gap = float(gap.detach())
        return self.penalty * gradient_penalty(self.critic, real, made, share) - gap

    def persuasion(self, made: torch.Tensor) -> torch.Tensor:
        """Return what the critic gives, negative."""
        return -self.critic(made).mean()


class WassersteinFeatures(Wasserstein):
    """Wasserstein distance and distance of features: WGAN-VGG of Yang et al. (IEEE Trans. Med. Imaging 37(6), 2018).

    The features are not VGG's: they are those of a small network that learns on the training's own patches first
    (`cohortex.training.features`).

    Parameters
    ----------
    feature_weight, pixel_weight : float
        Of the distance of features, and of the mean squared error (0 in the paper).
    feature_steps, feature_width : int
        How long the feature network learns, and its filters.
    pixel_share : float
        Share of the steps, the first ones, in which the squared error alone counts for the network (0 in the paper). Features of what is
        still far from an image say little of what to change; the critic takes its turns from the first step.
    """

    def __init__(
        self, feature_weight: float, pixel_weight: float, feature_steps: int, feature_width: int, pixel_share: float = 0.0, **options: Any
    ):
        super().__init__(**options)
        self.feature_weight, self.pixel_weight, self.pixel_share = feature_weight, pixel_weight, pixel_share
        self.distance = FeatureDistance(feature_steps, feature_width)

    def begin(self, start: Start) -> None:
        """Train the feature network, or take up its checkpoint; make the critic."""
        self.distance.begin(start)
        super().begin(start)

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the squared error in the first steps, then the whole."""
        if step >= self.pixel_share * self.start.steps:
            return super().loss(network, source, target, step)
        made = output(network, source)
        found = squared_error(made, within(target, made))
        self._told |= {"content": float(found.detach()), "critic": 0.0}
        return found

    def content(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the weighted distance of features, and the squared error where it counts."""
        found = self.feature_weight * self.distance(made, target)
        return found + self.pixel_weight * squared_error(made, target) if self.pixel_weight else found

    def facts(self) -> Mapping[str, Any]:
        """Return how the feature network was trained."""
        return {"features": self.distance.facts()}


class WassersteinStructure(Wasserstein):
    """Wasserstein distance, structural similarity at several scales and L1: SMGAN of You et al. (IEEE Access 6, 2018).

    Parameters
    ----------
    tau : float
        Share of the structural term in the content, the rest is the mean absolute error.
    """

    def __init__(self, tau: float, **options: Any):
        super().__init__(**options)
        self.tau = tau

    def content(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return ``tau (1 - MS-SSIM) + (1 - tau) L1``."""
        return structure_and_error(made, target, self.tau)


def structure_and_error(made: torch.Tensor, target: torch.Tensor, tau: float) -> torch.Tensor:
    """Return ``tau (1 - MS-SSIM) + (1 - tau) L1`` (Zhao et al., IEEE Trans. Computational Imaging 3(1), 2017), 0 for equal images."""
    return tau * (1 - multiscale_similarity(made, target)) + (1 - tau) * absolute_error(made, target)


class LeastSquares(Adversarial):
    """Least-squares GAN with structural similarity and L1: Ma, Wei, Feng et al. (IEEE Access 8, 2020).

    Parameters
    ----------
    structure_weight, absolute_weight : float
        Of 1 - SSIM and of the mean absolute error.
    """

    def __init__(self, structure_weight: float, absolute_weight: float, **options: Any):
        super().__init__(**options)
        self.structure_weight, self.absolute_weight = structure_weight, absolute_weight

    def new_critic(self, edges: Sequence[int]) -> nn.Module:
        """Return a critic that judges every neighbourhood for itself."""
        return PatchCritic(len(edges), self.width)

    def judgement(self, real: torch.Tensor, made: torch.Tensor, step: int, number: int) -> torch.Tensor:
        """Return the least-squares loss of the critic."""
        first, second = self.critic(real), self.critic(made)
        self._gap = float((first.mean() - second.mean()).detach())
        return least_squares(first, second)

    def persuasion(self, made: torch.Tensor) -> torch.Tensor:
        """Return half the squared distance from 1 of what the critic says."""
        return 0.5 * (self.critic(made) - 1).square().mean()

    def content(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the structural term and the absolute error."""
        return self.structure_weight * (1 - similarity(made, target)) + self.absolute_weight * absolute_error(made, target)
