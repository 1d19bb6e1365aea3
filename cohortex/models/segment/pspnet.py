"""PSPNet, pyramid scene parsing (Zhao et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.deeplab import pooled
from cohortex.models.segment.layers import SegmentationNetwork, conv_norm, drop, resized
from cohortex.models.segment.resnet import DilatedResNet


class PSPNet(SegmentationNetwork):
    """Dilated ResNet whose features are pooled over the whole image in bins of several sizes and joined to themselves.

    Parameters
    ----------
    bins : sequence of int
        Along each axis; (1,) is global pooling alone.
    pooling : {"average", "max"}
        The paper shows average to be better.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 21,
        depth: int | Sequence[int] = 50,
        width: int = 64,
        bins: Sequence[int] = (1, 2, 3, 6),
        pooling: str = "average",
        dropout: float = 0.1,
    ):
        super().__init__(dimensions, channels, classes, 8, corner=True)
        if pooling not in ("average", "max"):
            raise ValueError(f"pooling is average or max, not {pooling!r}")
        self.body = DilatedResNet(dimensions, channels, depth, 8, stem="deep", width=width)
        before, inward = self.body.features[-2:]
        part, middle = inward // len(bins), inward // 4
        self.bins, self.pooling = tuple(bins), pooling
        self.parts = nn.ModuleList(conv_norm(dimensions, inward, part, 1, bias=False) for _ in bins)
        self.join = nn.Sequential(
            conv_norm(dimensions, inward + part * len(bins), middle, bias=False),
            drop(dimensions, dropout),
            conv(dimensions, middle, classes, 1),
        )
        self.auxiliary = nn.Sequential(
            conv_norm(dimensions, before, before // 4, bias=False), drop(dimensions, dropout), conv(dimensions, before // 4, classes, 1)
        )
        self.outputs_weights = (1.0, 0.4)
        he_weights(self)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits on a coarse grid, and with `deep` those of the auxiliary head on the third stage."""
        *_, before, x = self.body(x)
        names = {("average", 2): "adaptive_avg_pool2d", ("average", 3): "adaptive_avg_pool3d"}
        pool = getattr(functional, names.get((self.pooling, self.dimensions), f"adaptive_max_pool{self.dimensions}d"))
        parts = [resized(pooled(part, pool(x, size)), x.shape[2:], corner=True) for part, size in zip(self.parts, self.bins, strict=True)]
        made = self.join(torch.cat([x, *parts], 1))
        return [made, self.auxiliary(before)] if deep else [made]


def pspnet(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 21,
    depth: int | Sequence[int] = 50,
    width: int = 64,
    bins: Sequence[int] = (1, 2, 3, 6),
    pooling: str = "average",
    dropout: float = 0.1,
) -> PSPNet:
    """Build the PSPNet."""
    return PSPNet(dimensions, channels, classes, depth, width, bins, pooling, dropout)
