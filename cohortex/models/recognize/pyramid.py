"""Features of several scales: a small residual network, and a feature pyramid (Lin et al., Feature pyramid networks, CVPR 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.segment.layers import conv_norm, norm_of
from cohortex.models.segment.resnet import DilatedResNet


def backbone_of(
    dimensions: int, channels: int, backbone: int | Sequence[int] | Mapping[str, int], stem: int = 2, norm: str = "batch"
) -> SmallResNet | DilatedResNet:
    """Return a network of features: a ResNet of 18, 34, 50, 101 or 152 layers, or a small one of some widths.

    Parameters
    ----------
    backbone : int, mapping or sequence of int
        Layers of a ResNet, or ``{depth: 18, width: 32}`` for one that is narrower than the paper's (of 64), or widths of a small one.
    stem, norm
        Of a small one.
    """
    if isinstance(backbone, Mapping):
        unknown = sorted(backbone.keys() - {"depth", "width"})
        if unknown:
            raise ValueError(f"backbone has the depth and the width of a ResNet, not {unknown[0]!r}")
        return DilatedResNet(dimensions, channels, backbone.get("depth", 18), stride=32, width=backbone.get("width", 64))
    if isinstance(backbone, int):
        return DilatedResNet(dimensions, channels, backbone, stride=32)
    return SmallResNet(dimensions, channels, backbone, stem, norm)


def strides_of(network: SmallResNet | DilatedResNet) -> list[int]:
    """Return the voxels between neighbours of the features of every stage."""
    return network.strides if isinstance(network, SmallResNet) else [4, 8, 16, 32]


class Residual(nn.Module):
    """Two 3 x 3 convolutions with norms, added to what comes in (He et al., CVPR 2016)."""

    def __init__(self, dimensions: int, inward: int, outward: int, stride: int, norm: str):
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(dimensions, inward, outward, norm=norm, stride=stride, bias=norm == "none"),
            conv(dimensions, outward, outward, bias=norm == "none"),
            norm_of(norm, dimensions, outward),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inward != outward:
            self.shortcut = nn.Sequential(
                conv(dimensions, inward, outward, 1, stride=stride, bias=norm == "none"), norm_of(norm, dimensions, outward)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class SmallResNet(nn.Module):
    """One residual block a stage, each stage but the first at half the resolution of the one before.

    Parameters
    ----------
    widths : sequence of int
        Channels of each stage.
    stem : int
        Stride of the first convolution: 1 keeps things of a few voxels apart, 2 takes a quarter (an eighth) of the work.
    norm : str
        See `cohortex.models.segment.layers.norm_of`.
    """

    def __init__(self, dimensions: int, channels: int, widths: Sequence[int], stem: int = 2, norm: str = "batch"):
        super().__init__()
        self.features = [int(width) for width in widths]
        self.strides = [stem * 2**number for number in range(len(self.features))]
        self.stem = conv_norm(dimensions, channels, self.features[0], norm=norm, stride=stem, bias=norm == "none")
        inward = [self.features[0], *self.features[:-1]]
        self.stages = nn.ModuleList(
            Residual(dimensions, a, b, 1 if number == 0 else 2, norm)
            for number, (a, b) in enumerate(zip(inward, self.features, strict=True))
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every stage."""
        x = self.stem(x)
        made = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made


class Pyramid(nn.Module):
    """Features of all scales with the same meaning: each level adds what the coarser one knows; further levels are strided.

    Parameters
    ----------
    backbone : SmallResNet or DilatedResNet
    filters : int
        Of every level.
    first : int
        The backbone's stage that makes the finest level.
    further : int
        Coarser levels than the backbone has.

    Attributes
    ----------
    strides : list of int
        Voxels between neighbours of each level.
    """

    def __init__(self, dimensions: int, backbone: SmallResNet | DilatedResNet, filters: int, first: int = 1, further: int = 1):
        super().__init__()
        if not 0 <= first < len(backbone.features):
            raise ValueError(f"first is a stage of the backbone, 0 to {len(backbone.features) - 1}, not {first}")
        self.backbone, self.first, self.filters = backbone, first, filters
        strides = strides_of(backbone)[first:]
        self.strides = strides + [strides[-1] * 2 ** (number + 1) for number in range(further)]
        self.laterals = nn.ModuleList(conv(dimensions, width, filters, 1) for width in backbone.features[first:])
        self.outputs = nn.ModuleList(conv(dimensions, filters, filters) for _ in strides)
        self.further = nn.ModuleList(conv(dimensions, filters, filters, stride=2) for _ in range(further))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features (n, filters, ...) of every level, the finest first."""
        laterals = [layer(f) for layer, f in zip(self.laterals, self.backbone(x)[self.first :], strict=True)]
        for number in range(len(laterals) - 1, 0, -1):
            up = functional.interpolate(laterals[number], size=laterals[number - 1].shape[2:], mode="nearest")
            laterals[number - 1] = laterals[number - 1] + up
        levels = [layer(f) for layer, f in zip(self.outputs, laterals, strict=True)]
        for number, layer in enumerate(self.further):
            levels.append(layer(torch.relu(levels[-1]) if number else levels[-1]))
        return levels
