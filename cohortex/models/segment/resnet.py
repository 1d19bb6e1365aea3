"""Residual networks of bottlenecks whose last stages are dilated instead of strided (He et al., CVPR 2016; Chen et al., TPAMI 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv
from cohortex.models.segment.layers import Reach, conv_norm, max_pool, norm_of

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with batch norms, added to what comes in."""

    def __init__(self, dimensions: int, inward: int, width: int, stride: int, dilation: int):
        super().__init__()
        outward = 4 * width
        self.layers = nn.Sequential(
            conv_norm(dimensions, inward, width, 1, bias=False),
            conv_norm(dimensions, width, width, 3, bias=False, stride=stride, dilation=dilation),
            conv(dimensions, width, outward, 1, bias=False),
            norm_of("batch", dimensions, outward),
        )
        if stride == 1 and inward == outward:
            self.shortcut: nn.Module = nn.Identity()
        else:
            self.shortcut = nn.Sequential(
                conv(dimensions, inward, outward, 1, stride=stride, bias=False), norm_of("batch", dimensions, outward)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class DilatedResNet(nn.Module):
    """ResNet with bottlenecks, without its classifier.

    Parameters
    ----------
    depth : {50, 101, 152}
        Layers; or a sequence with the number of blocks of each of the four stages.
    stride : {8, 16, 32}
        Voxels between neighbours of the output: stages that would go beyond it are dilated.
    grid : sequence of int
        Factors of the dilation of the last stage's blocks (multi-grid), repeated as needed.
    stem : {"plain", "deep"}
        plain: one convolution of size 7; deep: three of size 3.
    width : int
        Of the first stage; the paper's is 64.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        depth: int | Sequence[int] = 50,
        stride: int = 8,
        grid: Sequence[int] = (1,),
        stem: str = "plain",
        width: int = 64,
    ):
        super().__init__()
        blocks = DEPTHS[depth] if isinstance(depth, int) else tuple(depth)
        if stride not in (8, 16, 32):
            raise ValueError(f"the output stride is 8, 16 or 32, not {stride}")
        if stem == "deep":
            first = [
                conv_norm(dimensions, channels, width, 3, stride=2, bias=False),
                conv_norm(dimensions, width, width, 3, bias=False),
                conv_norm(dimensions, width, 2 * width, 3, bias=False),
            ]
            inward = 2 * width
        else:
            first = [conv_norm(dimensions, channels, width, 7, stride=2, bias=False)]
            inward = width
        self.reach = Reach().conv(7, stride=2) if stem != "deep" else Reach().conv(3, stride=2).conv(3, 2)
        self.reach.conv(3, stride=2)
        self.stem = nn.Sequential(*first, max_pool(dimensions, 3, stride=2, padding=1))
        self.stages = nn.ModuleList()
        jump, dilation = 4, 1
        for number, count in enumerate(blocks):
            step = 1 if number == 0 else 2
            if jump * step > stride:
                dilation, step = dilation * step, 1
            jump *= step
            layers: list[nn.Module] = []
            for block in range(count):
                spread = dilation * (grid[block % len(grid)] if number == 3 else 1)
                layers.append(Bottleneck(dimensions, inward, width * 2**number, step if block == 0 else 1, spread))
                self.reach.conv(3, dilation=spread, stride=step if block == 0 else 1)
                inward = 4 * width * 2**number
            self.stages.append(nn.Sequential(*layers))
        self.features = [4 * width * 2**number for number in range(4)]
        self.stride = stride

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of the four stages."""
        x = self.stem(x)
        made: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made
