"""Fully convolutional network (Long et al., CVPR 2015): FCN-32s, FCN-16s and FCN-8s on VGG-16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, cut_to, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, drop, max_pool, transposed
from cohortex.models.segment.vgg import FEATURES, vgg16


class FCN(SegmentationNetwork):
    """VGG-16 whose dense layers are convolutions, with classes read off at several strides and brought up by bilinear kernels.

    The authors' code pads the image by 100 pixels and crops the result; here the first dense layer (7 x 7) is padded instead, which gives
    the same inside and keeps everything aligned. Kernels of the upsampling between strides begin as bilinear ones and are learned, the last
    one stays what it is (section 4.3 of the paper).

    Parameters
    ----------
    stride : {32, 16, 8}
        Of the finest features that classes are read off: 8 adds those behind the fourth and the third pooling.
    hidden : int
        Width of the dense layers.
    norm : str
        Of the convolutions; the paper has none and begins with the weights of a classifier.
    dropout : float
        Behind each dense layer.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 21,
        stride: int = 8,
        features: Sequence[int] = FEATURES,
        hidden: int = 4096,
        norm: str = "none",
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes, 32)
        if stride not in (8, 16, 32):
            raise ValueError(f"stride is 32, 16 or 8, not {stride}")
        self.stride = stride
        self.stages = vgg16(dimensions, channels, features, norm)
        self.pool = max_pool(dimensions)
        self.dense = nn.Sequential(
            conv(dimensions, features[-1], hidden, 7),
            nn.ReLU(inplace=True),
            drop(dimensions, dropout),
            conv(dimensions, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            drop(dimensions, dropout),
        )
        self.score = conv(dimensions, hidden, classes, 1)
        number = {32: 0, 16: 1, 8: 2}[stride]
        self.scores = nn.ModuleList(conv(dimensions, features[3 - i], classes, 1) for i in range(number))
        self.grow = nn.ModuleList(transposed(dimensions, classes, classes, 4, padding=1, bias=False) for _ in range(number))
        he_weights(self)
        with torch.no_grad():
            for layer in [self.score, *self.scores]:
                layer.weight.zero_()  # pyright: ignore
            for layer in self.grow:
                weight = layer.weight
                assert isinstance(weight, torch.Tensor)
                weight.copy_(bilinear(classes, 2, dimensions))
        reach = Reach()
        for depth in (2, 2, 3, 3, 3):
            reach.conv(times=depth).pool()
        reach.conv(7)
        for factor in [2] * number + [stride]:
            reach.grow(factor, linear=True)
        self.halo = reach.rounded(32)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        pooled: list[torch.Tensor] = []
        y = x
        for stage in self.stages:
            y = self.pool(stage(y))
            pooled.append(y)
        y = self.score(self.dense(y))
        for number, (grow, score) in enumerate(zip(self.grow, self.scores, strict=True)):
            y = grow(y) + score(pooled[3 - number])
        grown = functional.conv_transpose3d if self.dimensions == 3 else functional.conv_transpose2d
        kernel = bilinear(1, self.stride, self.dimensions).to(y)
        # each class by itself, with the one fixed kernel
        n, shape = len(y), y.shape[2:]
        wide = grown(y.reshape(n * self.classes, 1, *shape), kernel, stride=self.stride, padding=self.stride // 2)
        return [cut_to(wide.reshape(n, self.classes, *wide.shape[2:]), x.shape[2:])]


def bilinear(classes: int, factor: int, dimensions: int) -> torch.Tensor:
    """Return the kernel of a transposed convolution that interpolates linearly by a factor, each class by itself."""
    size = 2 * factor
    line = 1 - (torch.arange(size, dtype=torch.float32) - (size - 1) / 2).abs() / factor
    kernel = line
    for _ in range(dimensions - 1):
        kernel = kernel[..., None] * line
    whole = torch.zeros(classes, classes, *kernel.shape)
    whole[range(classes), range(classes)] = kernel
    return whole


def fcn(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 21,
    stride: int = 8,
    features: Sequence[int] = FEATURES,
    hidden: int = 4096,
    norm: str = "none",
    dropout: float = 0.5,
) -> FCN:
    """Build the FCN."""
    return FCN(dimensions, channels, classes, stride, features, hidden, norm, dropout)
