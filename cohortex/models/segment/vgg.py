"""The convolutions of VGG (Simonyan and Zisserman, ICLR 2015); FCN and the first DeepLab are built on those of 16 layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from cohortex.models.segment.layers import conv_norm

FEATURES = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by the layers that have weights (three of them dense)."""


def vgg16(
    dimensions: int, channels: int, features: Sequence[int] = FEATURES, norm: str = "none", dilations: Sequence[int] = (1, 1, 1, 1, 1)
) -> nn.ModuleList:
    """Return `vgg_stages` of VGG-16."""
    return vgg_stages(16, dimensions, channels, features, norm, dilations)


def vgg_stages(
    depth: int,
    dimensions: int,
    channels: int,
    features: Sequence[int] = FEATURES,
    norm: str = "none",
    dilations: Sequence[int] = (1, 1, 1, 1, 1),
) -> nn.ModuleList:
    """Return the five stages of convolutions of size 3, without the poolings between them.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
    features : five ints
    norm : str
        The paper has none, and then needs weights to begin with; ``batch`` learns from nothing.
    dilations : five ints
    """
    if depth not in DEPTHS:
        raise ValueError(f"VGG has {', '.join(str(n) for n in DEPTHS)} layers, not {depth}")
    if len(features) != len(DEPTHS[depth]):
        raise ValueError(f"VGG-{depth} has five stages; features has {len(features)} widths")
    stages = nn.ModuleList()
    width = channels
    for own, count, dilation in zip(features, DEPTHS[depth], dilations, strict=True):
        widths = [width, *[own] * count]
        stages.append(nn.Sequential(*(conv_norm(dimensions, a, b, norm=norm, dilation=dilation) for a, b in pairwise(widths))))
        width = own
    return stages
