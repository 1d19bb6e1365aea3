"""3-D U-Net for segmentation (Cicek et al., MICCAI 2016).

Batch normalisation is the default: after training it is a fixed affine map, so a volume cut into blocks gets the same
labels as the whole one. Instance norms depend on the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.segment.layers import SegmentationNetwork


class UNet3D(SegmentationNetwork):
    """Four levels (or as many as `features` has), two convolutions each, skips by concatenation.

    Input (B, channels, X, Y, Z); output (B, classes, X, Y, Z), logits.
    With ``growing`` the first convolution of a level has half the width of the second (the paper's), otherwise both have the same.
    """

    def __init__(self, channels: int, classes: int, features: Sequence[int], growing: bool, upsampling: str, norm: str, norm_affine: bool):
        super().__init__(3, channels, classes, 2 ** (len(features) - 1))

        def pair(inward: int, middle: int, outward: int) -> nn.Sequential:
            return nn.Sequential(*_conv(inward, middle, norm, norm_affine), *_conv(middle, outward, norm, norm_affine))

        self.down = nn.ModuleList()
        width = channels
        for feature in features:
            self.down.append(pair(width, feature // 2 if growing else feature, feature))
            width = feature
        self.pool = nn.MaxPool3d(2)
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        for feature in reversed(features[:-1]):
            transposed = upsampling == "transposed"
            self.grow.append(
                nn.ConvTranspose3d(width, width, 2, stride=2, bias=False)
                if transposed
                else nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
            )
            self.up.append(pair(width + feature, feature, feature))
            width = feature
        self.head = nn.Conv3d(width, classes, 1)
        # two convolutions a level down and up, pooling and interpolation
        levels = len(self.down)
        self.halo = sum((2 + 2 * (level < levels - 1) + 3 * (level > 0)) * 2**level for level in range(levels))

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        skips = []
        for i, level in enumerate(self.down):
            x = level(self.pool(x) if i else x)
            skips.append(x)
        skips.pop()
        for grow, level in zip(self.grow, self.up, strict=True):
            x = level(torch.cat([grow(x), skips.pop()], dim=1))
        return [self.head(x)]


class _BatchNorm(nn.BatchNorm3d):
    """Batch norm without the count of batches, a lone integer that its momentum does not need."""

    def __init__(self, width: int, affine: bool):
        super().__init__(width, affine=affine)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any) -> None:
        # The parent would add the count to a state that comes from a file.
        nn.Module._load_from_state_dict(self, *args)


def unet3d(
    channels: int = 1,
    classes: int = 7,
    features: Sequence[int] = (8, 16, 32, 64),
    growing: bool = False,
    upsampling: str = "linear",
    norm: str = "batch",
    norm_affine: bool = True,
) -> UNet3D:
    """Build a `UNet3D`; upsampling is linear or transposed, norm batch, group or none."""
    if upsampling not in ("linear", "transposed"):
        raise ValueError(f"upsampling is linear or transposed, not {upsampling!r}")
    return UNet3D(channels, classes, features, growing, upsampling, norm, norm_affine)


def _conv(inward: int, outward: int, norm: str, affine: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv3d(inward, outward, 3, padding=1)]
    if norm == "batch":
        layers.append(_BatchNorm(outward, affine))
    elif norm == "group":
        layers.append(nn.GroupNorm(min(8, outward), outward, affine=affine))
    elif norm != "none":
        raise ValueError(f"norm is batch, group or none, not {norm!r}")
    layers.append(nn.ReLU(inplace=True))
    return layers
