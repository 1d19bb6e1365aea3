"""The convolutions of VGG-16 (Simonyan and Zisserman, ICLR 2015), which FCN and the first DeepLab are built on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from cohortex.models.segment.layers import conv_norm

FEATURES = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)


def vgg16(
    dimensions: int, channels: int, features: Sequence[int] = FEATURES, norm: str = "none", dilations: Sequence[int] = (1, 1, 1, 1, 1)
) -> nn.ModuleList:
    """Return the five stages of convolutions of size 3, without the poolings between them.

    Parameters
    ----------
    features : five ints
    norm : str
        The paper has none, and then needs weights to begin with; ``batch`` learns from nothing.
    dilations : five ints
    """
    if len(features) != len(DEPTHS):
        raise ValueError(f"VGG-16 has five stages; features has {len(features)} widths")
    stages = nn.ModuleList()
    width = channels
    for own, depth, dilation in zip(features, DEPTHS, dilations, strict=True):
        widths = [width, *[own] * depth]
        stages.append(nn.Sequential(*(conv_norm(dimensions, a, b, norm=norm, dilation=dilation) for a, b in pairwise(widths))))
        width = own
    return stages
