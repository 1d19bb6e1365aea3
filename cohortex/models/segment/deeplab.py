"""DeepLab: v1 (Chen et al., ICLR 2015), v2 (Chen et al., IEEE TPAMI 40(4), 2018) and v3 (Chen et al., arXiv:1706.05587).

The fully connected CRF that v1 and v2 put behind the network is `cohortex.models.segment.crf`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, conv_norm, drop, max_pool, resized
from cohortex.models.segment.resnet import DilatedResNet
from cohortex.models.segment.vgg import DEPTHS, FEATURES, vgg16


class DeepLabV1(SegmentationNetwork):
    """LargeFOV: VGG-16 whose last two poolings have no stride, with dilation behind them (the hole algorithm), 3 x 3 at rate 12 on top.

    Parameters
    ----------
    hidden : int
        Width of the dense layers.
    rate : int
        Dilation of the first dense layer, which is what makes the field of view large.
    norm : str
        The paper has none and begins with the weights of a classifier.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 21,
        features: Sequence[int] = FEATURES,
        hidden: int = 1024,
        rate: int = 12,
        norm: str = "none",
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes, 8, corner=True)
        self.stages = vgg16(dimensions, channels, features, norm, (1, 1, 1, 1, 2))
        self.pools = nn.ModuleList(max_pool(dimensions, 3, stride=2 if number < 3 else 1, padding=1) for number in range(5))
        self.dense = nn.Sequential(
            conv(dimensions, features[-1], hidden, 3, dilation=rate),
            nn.ReLU(inplace=True),
            drop(dimensions, dropout),
            conv(dimensions, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            drop(dimensions, dropout),
        )
        self.score = conv(dimensions, hidden, classes, 1)
        he_weights(self, self.score)
        reach = Reach()
        for number, depth in enumerate(DEPTHS[16]):
            reach.conv(3, depth, 2 if number == 4 else 1).conv(3, stride=2 if number < 3 else 1)
        self.halo = reach.conv(3, dilation=rate).grow(8, linear=True).rounded(8)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits on a grid eight times as coarse."""
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
        return [self.score(self.dense(x))]


class DeepLabV2(SegmentationNetwork):
    """Dilated ResNet with atrous spatial pyramid pooling: 3 x 3 convolutions at several rates, straight to the classes, and summed.

    Parameters
    ----------
    depth : int or sequence of int
        See `DilatedResNet`.
    rates : sequence of int
        One alone is the network without a pyramid.
    scales : sequence of float
        Sizes at which the image is looked at; the largest logit of them counts (the paper's MSC has 1, 0.75 and 0.5). In training each of
        several has a loss of its own.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 21,
        depth: int | Sequence[int] = 101,
        width: int = 64,
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (1.0,),
    ):
        super().__init__(dimensions, channels, classes, 8, corner=True)
        self.scales = tuple(scales)
        self.body = DilatedResNet(dimensions, channels, depth, 8, width=width)
        self.heads = nn.ModuleList(conv(dimensions, self.body.features[-1], classes, 3, dilation=rate) for rate in rates)
        he_weights(self)
        if self.scales == (1.0,):
            reach = self.body.reach.conv(3, dilation=max(rates)).grow(8, linear=True)
            self.halo = reach.rounded(8)
        else:
            self.outputs_weights = (1.0,) * (1 + len(self.scales))

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits on a coarse grid, and with `deep` those of every scale where there are several."""
        made: list[torch.Tensor] = []
        for scale in self.scales:
            size = [1 + -(-round((n - 1) * scale) // 8) * 8 for n in x.shape[2:]]
            features = self.body(resized(x, size, corner=True))[-1]
            made.append(torch.stack([head(features) for head in self.heads]).sum(0))
        if len(made) == 1:
            return made
        first = made[0].shape[2:]
        joined = torch.stack([resized(y, first, corner=True) for y in made]).amax(0)
        return [joined, *(made if deep else [])]


class DeepLabV3(SegmentationNetwork):
    """Dilated ResNet with multi-grid, pyramid with batch norms and pooling of the whole image.

    Parameters
    ----------
    stride : {8, 16}
        Of the features; at 8 the rates are doubled.
    rates : sequence of int
        At stride 16.
    image_pooling : bool
        Off: the pyramid without the mean of the whole image, which then has a finite halo.
    grid : sequence of int
        Factors of the dilation in the last stage.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 21,
        depth: int | Sequence[int] = 101,
        width: int = 64,
        stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        grid: Sequence[int] = (1, 2, 4),
        image_pooling: bool = True,
        filters: int = 256,
    ):
        super().__init__(dimensions, channels, classes, stride, corner=True)
        self.body = DilatedResNet(dimensions, channels, depth, stride, grid, width=width)
        inward = self.body.features[-1]
        spread = [rate * 16 // stride for rate in rates]
        self.branches = nn.ModuleList([conv_norm(dimensions, inward, filters, 1, bias=False)])
        self.branches.extend(conv_norm(dimensions, inward, filters, 3, bias=False, dilation=rate) for rate in spread)
        # a norm over one value of each image in a batch: of a batch of one it would be zero, so that one uses the running means
        self.whole = conv_norm(dimensions, inward, filters, 1, bias=False) if image_pooling else None
        parts = len(self.branches) + image_pooling
        self.join = conv_norm(dimensions, parts * filters, filters, 1, bias=False)
        self.score = conv(dimensions, filters, classes, 1)
        he_weights(self)
        if not image_pooling:
            self.halo = self.body.reach.conv(3, dilation=max(spread)).grow(stride, linear=True).rounded(stride)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits on a coarse grid."""
        x = self.body(x)[-1]
        parts = [branch(x) for branch in self.branches]
        if self.whole is not None:
            mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
            parts.append(pooled(self.whole, mean).expand(-1, -1, *x.shape[2:]))
        return [self.score(self.join(torch.cat(parts, 1)))]


def pooled(layers: Any, x: torch.Tensor) -> torch.Tensor:
    """Return convolution, norm and ReLU of pooled features.

    A batch norm cannot learn from a single value a channel; of a single example in a batch it takes its running means.
    """
    if not layers.training or x[:, 0].numel() > 1:
        return layers(x)
    convolution, norm, act = layers
    assert isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)
    y = convolution(x)
    return act(nn.functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps))


def deeplab_v1(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 21,
    features: Sequence[int] = FEATURES,
    hidden: int = 1024,
    rate: int = 12,
    norm: str = "none",
    dropout: float = 0.5,
) -> DeepLabV1:
    """Build DeepLab v1."""
    return DeepLabV1(dimensions, channels, classes, features, hidden, rate, norm, dropout)


def deeplab_v2(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 21,
    depth: int | Sequence[int] = 101,
    width: int = 64,
    rates: Sequence[int] = (6, 12, 18, 24),
    scales: Sequence[float] = (1.0,),
) -> DeepLabV2:
    """Build DeepLab v2."""
    return DeepLabV2(dimensions, channels, classes, depth, width, rates, scales)


def deeplab_v3(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 21,
    depth: int | Sequence[int] = 101,
    width: int = 64,
    stride: int = 16,
    rates: Sequence[int] = (6, 12, 18),
    grid: Sequence[int] = (1, 2, 4),
    image_pooling: bool = True,
    filters: int = 256,
) -> DeepLabV3:
    """Build DeepLab v3."""
    return DeepLabV3(dimensions, channels, classes, depth, width, stride, rates, grid, image_pooling, filters)
