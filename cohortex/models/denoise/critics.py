"""Critics: what adversarial objectives train against the networks that restore."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights

SLOPE = 0.2
"""Of the leaky ReLU."""


class ConvCritic(nn.Module):
    """Critic of WGAN-VGG (Yang et al. 2018) and, in three dimensions, of SMGAN (You et al. 2018).

    Six convolutions of size 3 with 64, 64, 128, 128, 256 and 256 filters, every second one with stride 2, then a dense layer of 1024
    and one of 1; leaky ReLU between them. No norm, so that the gradient of an example is its own (gradient penalty), and no sigmoid.

    Parameters
    ----------
    edges : sequence of two or three ints
        Of the patches that it judges.
    filters : int
        Of the first two convolutions; the others follow.
    dense : int
    channels : int
        Of the patches.
    """

    def __init__(self, edges: Sequence[int], filters: int = 64, dense: int = 1024, channels: int = 1):
        super().__init__()
        self.edges = tuple(edges)
        widths = [channels] + [filters * 2 ** (k // 2) for k in range(6)]
        self.layers = nn.ModuleList(conv(len(self.edges), a, b, stride=1 + k % 2) for k, (a, b) in enumerate(pairwise(widths)))
        # a stride of 2 halves an axis, rounded up
        self.dense = nn.Linear(widths[-1] * prod(-(-n // 8) for n in self.edges), dense)
        self.judged = nn.Linear(dense, 1)
        he_weights(self)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return one number a patch, (n, 1), of patches (n, channels, *edges): high for what looks real."""
        x = patches
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
        return self.judged(functional.leaky_relu(self.dense(x.flatten(1)), SLOPE))


class PatchCritic(nn.Module):
    """A critic that judges every neighbourhood for itself (Isola et al., CVPR 2017), for patches of any size.

    Convolutions of size 4 with stride 2, of which each has twice the filters of the one before, then one of size 3 to one channel;
    leaky ReLU between them, no norm and no sigmoid: the least-squares objective (Mao et al., ICCV 2017) pulls its answers to 0 and 1.

    Parameters
    ----------
    dimensions : {2, 3}
    filters : int
        Of the first convolution.
    layers : int
        Convolutions with stride 2.
    channels : int
        Of the patches.
    """

    def __init__(self, dimensions: int = 2, filters: int = 64, layers: int = 3, channels: int = 1):
        super().__init__()
        widths = [channels] + [filters * 2**k for k in range(layers)]
        self.layers = nn.ModuleList(conv(dimensions, a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.judged = conv(dimensions, widths[-1], 1)
        he_weights(self)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return what it thinks of each neighbourhood, (n, 1, ...), of patches (n, channels, ...)."""
        x = patches
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
        return self.judged(x)
