"""DenseNet (Huang et al., CVPR 2017): every layer of a block sees the maps of all layers before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.classify.network import MapsNetwork
from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import conv_norm, max_pool, norm_of


class DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1 convolution; norm, ReLU, 3 x 3 convolution to `growth` maps, put beside what comes in."""

    def __init__(self, dimensions: int, inward: int, growth: int, bottleneck: int):
        super().__init__()
        inner = bottleneck * growth
        self.layers = nn.Sequential(*_step(dimensions, inward, inner, 1), *_step(dimensions, inner, growth, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, inward + growth, ...)."""
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(MapsNetwork):
    """Blocks of dense layers with transitions that halve grid and width between them; DenseNet-121 by default.

    Parameters
    ----------
    growth : int
        Maps that each layer adds.
    blocks : sequence of int
        Layers of each block.
    width : int
        Behind the first convolution.
    bottleneck : int
        Maps of the 1 x 1 convolutions, as a multiple of `growth`.
    compression : float
        Share of the maps that a transition keeps.
    stem : {"paper", "small"}
        paper: a convolution of size 7 and a pooling, which halve the grid twice. small: one of size 3 on the grid of the input.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        growth: int = 32,
        blocks: Sequence[int] = (6, 12, 24, 16),
        width: int = 64,
        bottleneck: int = 4,
        compression: float = 0.5,
        stem: str = "paper",
        dropout: float = 0.0,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        if stem == "paper":
            layers: list[nn.Module] = [conv_norm(dimensions, channels, width, 7, stride=2, bias=False)]
            layers.append(max_pool(dimensions, 3, stride=2, padding=1))
        elif stem == "small":
            layers = [conv_norm(dimensions, channels, width, bias=False)]
        else:
            raise ValueError(f"the stem is paper or small, not {stem!r}")
        for number, count in enumerate(blocks):
            if number:
                kept = int(width * compression)
                layers += [*_step(dimensions, width, kept, 1), _halved(dimensions)]
                width = kept
            for _ in range(count):
                layers.append(DenseLayer(dimensions, width, growth, bottleneck))
                width += growth
        self.body = nn.Sequential(*layers, norm_of("batch", dimensions, width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, classes)
        he_weights(self, self.head)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps (n, width, ...)."""
        return self.body(x)


def _step(dimensions: int, inward: int, outward: int, size: int) -> list[nn.Module]:
    """Return norm, ReLU and convolution."""
    return [norm_of("batch", dimensions, inward), nn.ReLU(inplace=False), conv(dimensions, inward, outward, size, bias=False)]


def _halved(dimensions: int) -> nn.Module:
    """Return the transition's mean over 2 along each axis, which leaves one value of however small a map."""
    return (nn.AvgPool3d if dimensions == 3 else nn.AvgPool2d)(2, ceil_mode=True, count_include_pad=False)
