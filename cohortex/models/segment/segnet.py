"""SegNet (Badrinarayanan et al., IEEE TPAMI 39(12), 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, conv_norm, max_pool, resized, unpooled

DEPTHS = (2, 2, 3, 3, 3)


class SegNet(SegmentationNetwork):
    """The 13 convolutions of VGG-16 with batch norms, and as many on the way up, where values return to the places of their maxima.

    Parameters
    ----------
    features : sequence of int
        Of the five levels.
    unpooling : {"indices", "linear"}
        linear: the twin that interpolates instead (same parameters).
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 12,
        features: Sequence[int] = (64, 128, 256, 512, 512),
        unpooling: str = "indices",
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2**levels)
        if unpooling not in ("indices", "linear"):
            raise ValueError(f"unpooling is indices or linear, not {unpooling!r}")
        if levels > len(DEPTHS):
            raise ValueError(f"SegNet has at most {len(DEPTHS)} levels, features has {levels}")
        self.unpooling = unpooling
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = channels
        for own, depth in zip(features, DEPTHS, strict=False):
            widths = [width, *[own] * depth]
            self.down.append(nn.Sequential(*(conv_norm(dimensions, a, b) for a, b in pairwise(widths))))
            width = own
        for level in reversed(range(levels)):
            # the last convolution of a level has the width of the level above, the very last one the classes
            widths = [features[level]] * DEPTHS[level] + [features[level - 1] if level else classes]
            layers: list[nn.Module] = [conv_norm(dimensions, a, b) for a, b in pairwise(widths)]
            if level == 0:
                layers[-1] = conv(dimensions, features[0], classes)
            self.up.append(nn.Sequential(*layers))
        self.pool = max_pool(dimensions, return_indices=True)
        he_weights(self)
        reach = Reach()
        for depth in DEPTHS[:levels]:
            reach.conv(times=depth).pool()
        for depth in reversed(DEPTHS[:levels]):
            reach.grow(linear=unpooling == "linear").conv(times=depth)
        self.halo = reach.rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        places: list[tuple[torch.Tensor, torch.Size]] = []
        for level in self.down:
            x = level(x)
            size = x.shape
            x, where = self.pool(x)
            places.append((where, size))
        for level in self.up:
            where, size = places.pop()
            x = level(unpooled(x, where, size[2:]) if self.unpooling == "indices" else resized(x, size[2:]))
        return [x]


def segnet(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 12,
    features: Sequence[int] = (64, 128, 256, 512, 512),
    unpooling: str = "indices",
) -> SegNet:
    """Build the SegNet."""
    return SegNet(dimensions, channels, classes, features, unpooling)
