"""Bayesian image quality transfer: 3-D sub-pixel network that says how sure it is of every voxel (Tanno et al. 2017)."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.superresolve import between
from cohortex.models.superresolve.layers import Padding, first_weights, to_voxels

FILTERS = (50, 100)
"""Of the two hidden layers."""

MIDDLE, SPREAD = -6.0, 8.0
"""The logarithm of the variance in the network's range 0..1 begins near the first and stays within the second of it."""

FIRST_RATE = -4.0
"""First value of the logarithm of the dropout's rate."""


class VariationalConv3d(nn.Conv3d):
    """Convolution whose weights are Gaussian around their values: variational dropout with one learnt rate a filter.

    A weight w has the variance rate * w^2, rate at most 1. With ``noisy`` on, a sample of the output is drawn (local
    reparametrisation), else its mean is given.

    References
    ----------
    Kingma, Salimans and Welling, Variational dropout and the local reparameterization trick, NeurIPS 2015, arXiv:1506.02557.
    """

    def __init__(self, inward: int, outward: int, edge: int, padding_mode: Padding = "zeros"):
        super().__init__(inward, outward, edge, padding=edge // 2, padding_mode=padding_mode)
        self.log_rate = nn.Parameter(torch.full((outward,), FIRST_RATE))
        self.noisy = False
        self.generator: torch.Generator | None = None

    def rate(self) -> torch.Tensor:
        """Return the rate of every filter, (outward,)."""
        return self.log_rate.clamp(max=0.0).exp()

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (torch's own name)
        """Return the mean of the output, or a sample of it."""
        mean = super().forward(input)
        if not self.noisy:
            return mean
        spread = self.rate()[:, None, None, None, None] * self.weight.square()
        variance = self._conv_forward(input.square(), spread, None)
        noise = torch.randn(mean.shape, generator=self.generator).to(mean)
        return mean + (variance + 1e-12).sqrt() * noise

    def divergence(self) -> torch.Tensor:
        """Return the divergence of the weights from their log-uniform prior, Kingma et al.'s approximation without its constant."""
        rate = self.rate()
        one = -(0.5 * rate.log() + 1.16145124 * rate - 1.50204118 * rate**2 + 0.58629921 * rate**3)
        return one.sum() * self.weight[0].numel()


class Espcn3d(nn.Module):
    """Convolutions of 3^3 (50 filters), 1^3 (100) and 3^3 (channels * product of factors), then the sub-pixel shuffle."""

    def __init__(self, channels: int, factors: Sequence[int], dropout: bool):
        super().__init__()
        self.factors = tuple(factors)
        layer = VariationalConv3d if dropout else _conv3d
        self.layers = nn.Sequential(
            layer(channels, FILTERS[0], 3, "replicate"),
            nn.ReLU(inplace=True),
            layer(FILTERS[0], FILTERS[1], 1),
            nn.ReLU(inplace=True),
            layer(FILTERS[1], channels * math.prod(factors), 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fine grid."""
        return to_voxels(self.layers(x), self.factors)


class BayesianEspcn(nn.Module):
    """3-D ESPCN with a variance network and variational dropout, Tanno et al., MICCAI 2017.

    Two networks of three layers see the same coarse grid: one gives the mean of every fine voxel, one the logarithm of its variance
    (intrinsic uncertainty: what the coarse grid cannot know). Variational dropout in the mean network gives samples, whose
    spread is the uncertainty of the weights.

    Input (n, channels, x, y, z); output, in evaluation, the mean (n, channels, x * f1, y * f2, z * f3). While it trains the
    output has twice the channels: the means, then the logarithms of the variances, which is what the objective ``heteroscedastic``
    takes; weights are sampled then.

    With six channels (a diffusion tensor), factors (2, 2, 2) and neither variance nor dropout it has the 142,898 parameters of the paper's
    network. Chosen here: one dropout rate a filter, `residual`, bounds of the variance.

    Parameters
    ----------
    channels : int
        6 in the paper.
    factor : int
        Fine voxels a slice.
    in_plane : int
        Fine voxels a voxel along x and y: 1 for thick slices, `factor` in the paper.
    variance, dropout : bool
        The variance network; variational dropout.
    residual : bool
        Add the interpolated slices to the means; off in the paper. Only with in_plane 1.
    """

    grid = "slices"

    def __init__(
        self, channels: int = 1, factor: int = 2, in_plane: int = 1, variance: bool = True, dropout: bool = True, residual: bool = True
    ):
        super().__init__()
        if residual and in_plane > 1:
            raise ValueError("the interpolation that is added goes between slices only: residual needs in_plane 1")
        self.channels, self.factor, self.residual = channels, factor, residual
        factors = (in_plane, in_plane, factor)
        self.mean = Espcn3d(channels, factors, dropout)
        self.variance = Espcn3d(channels, factors, False) if variance else None
        heads = [*([self.mean.layers[0]] if residual else []), *([] if self.variance is None else [self.variance.layers[0]])]
        first_weights(self, *([self.mean.layers[-1]] if residual else []), heads=heads)
        if dropout:
            # The rates are no weights of a convolution: they begin where they are told to.
            for layer in self.noisy_layers():
                nn.init.constant_(layer.log_rate, FIRST_RATE)
        if self.variance is not None:
            last = self.variance.layers[-1]
            with torch.no_grad():
                last.weight.mul_(0.1)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels and slices at most this far away decide about a fine voxel."""
        return 2, 2, between.HALO if self.residual else 2

    def noisy_layers(self) -> list[VariationalConv3d]:
        """Return the layers with variational dropout."""
        return [layer for layer in self.mean.layers if isinstance(layer, VariationalConv3d)]

    def divergence(self) -> torch.Tensor:
        """Return the divergence of all weights from their prior; 0 without dropout. Divided by the number of examples it is a loss."""
        layers = self.noisy_layers()
        return torch.stack([layer.divergence() for layer in layers]).sum() if layers else torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means; while it trains also the logarithms of the variances."""
        if not self.training:
            return self._mean(x, False)
        # The noise of a step follows from its batch, so that a training that was killed and resumed draws the same.
        batch = zlib.crc32(x.detach().float().cpu().numpy().tobytes())
        mean = self._mean(x, True, torch.Generator().manual_seed(batch))
        return mean if self.variance is None else torch.cat([mean, self.log_variance(x)], 1)

    def log_variance(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the intrinsic variance of every fine voxel.

        Raises
        ------
        ValueError
            When the network was built without.
        """
        if self.variance is None:
            raise ValueError("this network was built without a variance network")
        # Not cut off, so that a variance that went to a bound finds its way back.
        return MIDDLE + SPREAD * torch.tanh(self.variance(x) / SPREAD)

    @torch.no_grad()
    def predict(self, x: torch.Tensor, samples: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the predictive mean, the intrinsic variance and the variance by the weights, from samples of the weights.

        Parameters
        ----------
        x : (n, channels, x, y, z) tensor
        samples : int
            At least 2.
        seed : int
            The same seed gives the same samples.

        Returns
        -------
        three (n, channels, fine x, fine y, fine z) tensors
            The variance of a voxel is the sum of the last two. Without a variance network, or without dropout, its part is 0.
        """
        generator = torch.Generator().manual_seed(seed)
        first = self._mean(x, False)
        total, squares = torch.zeros_like(first), torch.zeros_like(first)
        for _ in range(samples):
            # around the first one, so that small variances survive float32
            step = self._mean(x, True, generator) - first
            total += step
            squares += step.square()
        between_samples = (squares - total.square() / samples).clamp(min=0) / (samples - 1)
        intrinsic = torch.zeros_like(first) if self.variance is None else self.log_variance(x).exp()
        return first + total / samples, intrinsic, between_samples

    def _mean(self, x: torch.Tensor, noisy: bool, generator: torch.Generator | None = None) -> torch.Tensor:
        for layer in self.noisy_layers():
            layer.noisy, layer.generator = noisy, generator
        made = self.mean(x)
        slices = x.shape[-1]
        return made + between.spline(x, between.fine_positions(slices, slices * self.factor)) if self.residual else made


def _conv3d(inward: int, outward: int, edge: int, padding_mode: Padding = "zeros") -> nn.Conv3d:
    return nn.Conv3d(inward, outward, edge, padding=edge // 2, padding_mode=padding_mode)


def bayesian_espcn(
    channels: int = 1, factor: int = 2, in_plane: int = 1, variance: bool = True, dropout: bool = True, residual: bool = True
) -> BayesianEspcn:
    """Build the Bayesian sub-pixel network."""
    return BayesianEspcn(channels, factor, in_plane, variance, dropout, residual)
