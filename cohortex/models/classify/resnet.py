"""Residual networks that classify (He et al., CVPR 2016), in two and, as Hara et al. (CVPR 2018) have them, three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.classify.network import MapsNetwork
from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.resnet import Block, Bottleneck, DilatedResNet


class ResNet(MapsNetwork):
    """Residual blocks in four stages, the mean of their last maps, one dense layer.

    Of a block with a bottleneck the 3 x 3 convolution has the stride, which the paper gives to the first; the count is the same.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}
        Layers; or a sequence with the number of blocks of each stage.
    width : int
        Of the first stage; each further one has twice that.
    stem : {"plain", "deep", "small"}
        See `cohortex.models.segment.resnet.DilatedResNet`; small is for pictures of some tens of pixels.
    bottleneck : bool, optional
        Kind of the blocks; when absent that of the depth.
    dropout : float
        Before the last layer.
    skips : bool
        Without them nothing is added to what the blocks make: the plain network of the same depth that the paper compares with.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        depth: int | Sequence[int] = 18,
        width: int = 64,
        stem: str = "plain",
        bottleneck: bool | None = None,
        dropout: float = 0.0,
        skips: bool = True,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        self.body = DilatedResNet(dimensions, channels, depth, 32, stem=stem, width=width, bottleneck=bottleneck)
        for block in () if skips else self.body.modules():
            if isinstance(block, Block | Bottleneck):
                block.shortcut = Nothing()
        self.head = nn.Linear(self.body.features[-1], classes)
        he_weights(self, self.head)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps (n, width, ...)."""
        return self.body(x)[-1]


class Nothing(nn.Module):
    """Adds nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return 0."""
        return x.new_zeros(())
