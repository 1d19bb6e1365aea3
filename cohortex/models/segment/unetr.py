"""UNETR (Hatamizadeh et al., WACV 2022): a vision transformer as the way down, convolutions as the way up."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import SegmentationNetwork, resized, transposed
from cohortex.models.segment.transformer import Layer, ResidualBlock, UpBlock, small_weights

PATCH = 16


class UNETR(SegmentationNetwork):
    """Patches of 16 voxels along each axis are tokens; those behind a quarter, a half and three quarters of the layers are skips.

    Parameters
    ----------
    size : int
        Edge of the image in training, a multiple of 16: each patch of it has a learned position. For images of other sizes the positions
        are interpolated.
    features : int
        Of the finest level.
    width, hidden, heads, layers : int
        Of the transformer; the paper has that of ViT-B/16.
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 14,
        size: int = 96,
        features: int = 16,
        width: int = 768,
        hidden: int = 3072,
        heads: int = 12,
        layers: int = 12,
    ):
        super().__init__(dimensions, channels, classes, PATCH)
        if size % PATCH or layers % 4:
            raise ValueError(f"size is a multiple of {PATCH} and layers of 4, not {size} and {layers}")
        self.size = size
        self.embed = conv(dimensions, channels, width, PATCH, stride=PATCH, padding=0)
        self.position = nn.Parameter(torch.zeros(1, width, *[size // PATCH] * dimensions))
        self.layers = nn.ModuleList(Layer(width, hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.start = ResidualBlock(dimensions, channels, features)
        self.skips = nn.ModuleList()
        for number in range(3):
            own = 2 ** (number + 1) * features
            steps: list[nn.Module] = [transposed(dimensions, width, own, bias=False)]
            for _ in range(2 - number):
                steps += [transposed(dimensions, own, own, bias=False), ResidualBlock(dimensions, own, own)]
            self.skips.append(nn.Sequential(*steps))
        widths = [width, 8 * features, 4 * features, 2 * features, features]
        self.up = nn.ModuleList(UpBlock(dimensions, a, b) for a, b in pairwise(widths))
        self.head = conv(dimensions, features, classes, 1)
        he_weights(self)
        small_weights(self)
        nn.init.trunc_normal_(self.position, std=0.02, a=-0.04, b=0.04)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        y = self.embed(x)
        shape = y.shape
        y = (y + resized(self.position, shape[2:])).flatten(2).transpose(1, 2)
        kept: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            y = layer(y)
            if (number + 1) % (len(self.layers) // 4) == 0:
                last = number + 1 == len(self.layers)
                kept.append((self.norm(y) if last else y).transpose(1, 2).reshape(shape))
        *inner, y = kept
        skips = [self.start(x), *(skip(z) for skip, z in zip(self.skips, inner, strict=True))]
        for up in self.up:
            y = up(y, skips.pop())
        return [self.head(y)]


def unetr(
    dimensions: int = 3,
    channels: int = 1,
    classes: int = 14,
    size: int = 96,
    features: int = 16,
    width: int = 768,
    hidden: int = 3072,
    heads: int = 12,
    layers: int = 12,
) -> UNETR:
    """Build the UNETR."""
    return UNETR(dimensions, channels, classes, size, features, width, hidden, heads, layers)
