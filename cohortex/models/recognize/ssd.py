"""SSD: default boxes on feature maps of several scales, with hard negatives (Liu et al., SSD: single shot multibox detector, ECCV 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.anchors import anchors_of, by_overlap, stretched
from cohortex.models.recognize.boxes import Boxes, Found, decode, encode
from cohortex.models.recognize.detector import Detector, rows_of, surest
from cohortex.models.recognize.focal import hardest
from cohortex.models.recognize.pyramid import SmallResNet
from cohortex.models.recognize.retinanet import Maps
from cohortex.models.segment.layers import conv_norm, max_pool
from cohortex.models.segment.vgg import vgg16

VARIANCES = (10.0, 5.0)
"""Inverse variances by which the authors' code multiplies shifts and logarithms of sizes."""


class Scaled(nn.Module):
    """Features of length 20 at every position, the length learnt channel by channel (Liu et al., ParseNet, 2015)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 20.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return functional.normalize(x, dim=1) * self.weight.view(-1, *[1] * (x.ndim - 2))


class Vgg300(nn.Module):
    """The paper's own network of 300 x 300 pixels: VGG-16 whose dense layers are convolutions, and four further scales."""

    features = (512, 1024, 512, 256, 256, 256)
    strides = (8, 16, 32, 64, 100, 300)

    def __init__(self, dimensions: int, channels: int):
        super().__init__()
        self.stages = vgg16(dimensions, channels)
        self.scaled = Scaled(512)
        self.dense = nn.Sequential(
            max_pool(dimensions, 3, stride=1, padding=1),
            conv_norm(dimensions, 512, 1024, norm="none", dilation=6),
            conv_norm(dimensions, 1024, 1024, 1, norm="none"),
        )
        self.further = nn.ModuleList(
            nn.Sequential(
                conv_norm(dimensions, inward, narrow, 1, norm="none"),
                conv_norm(dimensions, narrow, wide, norm="none", stride=stride, padding=padding),
            )
            for inward, narrow, wide, stride, padding in (
                (1024, 256, 512, 2, 1),
                (512, 128, 256, 2, 1),
                (256, 128, 256, 1, 0),
                (256, 128, 256, 1, 0),
            )
        )
        self.pool = max_pool(dimensions, 2, ceil_mode=True)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of six scales."""
        made = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number == 3:
                made.append(self.scaled(x))
            if number < 4:
                x = self.pool(x)
        made.append(self.dense(x))
        for layer in self.further:
            made.append(layer(made[-1]))
        return made


class SmallScales(nn.Module):
    """A small residual network, and further scales of half the resolution each."""

    def __init__(self, dimensions: int, channels: int, backbone: Sequence[int], stem: int, first: int, further: int, norm: str):
        super().__init__()
        self.first = first
        self.backbone = SmallResNet(dimensions, channels, backbone, stem, norm)
        width = self.backbone.features[-1]
        strides = self.backbone.strides[first:]
        self.further = nn.ModuleList(
            nn.Sequential(
                conv_norm(dimensions, width, width // 2, 1, norm=norm), conv_norm(dimensions, width // 2, width, norm=norm, stride=2)
            )
            for _ in range(further)
        )
        self.features = [*self.backbone.features[first:], *[width] * further]
        self.strides = [*strides, *[strides[-1] * 2 ** (number + 1) for number in range(further)]]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every scale."""
        made = self.backbone(x)[self.first :]
        for layer in self.further:
            made.append(layer(made[-1]))
        return made


class Ssd(Detector):
    """Each position of each scale says, of default boxes of several ratios, the class (one of them: nothing) and the offsets.

    Parameters
    ----------
    dimensions, channels, classes : int
    backbone : sequence of int, or "vgg16"
        Widths of a small residual network, or the paper's network, which takes 300 x 300 pixels.
    stem, first, further : int
        Of a small one: stride of its first convolution, the stage that makes the finest scale, scales beyond its stages.
    anchor : float
        Of a small one: edge of the default box in strides of its scale.
    ratios : sequence of sequence of float
        Of each scale (the last for all further ones); besides there are two boxes of ratio 1, the second larger by the root of 2 (for the
        paper's network, by what lies between its sizes).
    negatives : float
        Negatives that count for each positive, the hardest ones.
    norm : str
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        backbone: str | Sequence[int] = (16, 32, 64, 128),
        stem: int = 2,
        first: int = 1,
        further: int = 1,
        anchor: float = 4.0,
        ratios: Sequence[Sequence[float]] = ((2.0, 0.5),),
        negatives: float = 3.0,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        self.negatives = negatives
        if isinstance(backbone, str):
            if backbone != "vgg16":
                raise ValueError(f"backbone is vgg16 or widths of a small network, not {backbone!r}")
            self.scales: Vgg300 | SmallScales = Vgg300(dimensions, channels)
            sizes = [30.0, 60.0, 111.0, 162.0, 213.0, 264.0, 315.0]
            ratios = ((2.0, 0.5), *[(2.0, 0.5, 3.0, 1 / 3)] * 3, (2.0, 0.5), (2.0, 0.5))
        else:
            self.scales = SmallScales(dimensions, channels, backbone, stem, first, further, norm)
            sizes = [anchor * s for s in self.scales.strides]
            sizes.append(2 * sizes[-1])
        square = torch.ones(1, dimensions)
        self.extents = []
        for number, (size, larger) in enumerate(pairwise(sizes)):
            others = size * stretched(dimensions, ratios[min(number, len(ratios) - 1)])
            self.extents.append(torch.cat([size * square, (size * larger) ** 0.5 * square, others]))
        widths = list(zip(self.scales.features, self.extents, strict=True))
        self.class_heads = nn.ModuleList(conv(dimensions, width, len(e) * (classes + 1)) for width, e in widths)
        self.box_heads = nn.ModuleList(conv(dimensions, width, len(e) * 2 * dimensions) for width, e in widths)

    def forward(self, x: torch.Tensor) -> Maps:
        """Return the maps of all scales, the finest first; of the classes the first is that there is nothing."""
        levels = self.scales(x)
        return Maps(
            [head(level) for head, level in zip(self.class_heads, levels, strict=True)],
            [head(level) for head, level in zip(self.box_heads, levels, strict=True)],
        )

    def anchors(self, raw: Maps) -> torch.Tensor:
        """Return the default boxes (rows, 2 * dimensions)."""
        of = zip(raw.classes, self.scales.strides, self.extents, strict=True)
        return torch.cat([anchors_of(m.shape[2:], s, e.to(m.device)) for m, s, e in of])

    def loss(self, raw: Maps, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the cross entropy of positives and of the hardest negatives, and the smooth L1 loss of offsets, per positive."""
        anchors = self.anchors(raw)
        logits, offsets = rows_of(raw.classes, self.classes + 1), rows_of(raw.boxes, 2 * self.dimensions)
        total, count = logits.new_zeros(()), 0
        for said, moved, target in zip(logits, offsets, targets, strict=True):
            answer = by_overlap(target.corners, anchors, 0.5, 0.5)
            positive = answer >= 0
            truth = torch.zeros_like(answer)
            truth[positive] = target.labels[answer[positive]] + 1
            losses = functional.cross_entropy(said, truth, reduction="none")
            here = int(positive.sum())
            # an image without a box teaches what nothing looks like by as many as one with a box or two would
            hard = hardest(losses, ~positive, max(int(self.negatives * here), 8))
            total = total + losses[positive | hard].sum()
            wanted = encode(target.corners[answer[positive]], anchors[positive], VARIANCES)
            total = total + functional.smooth_l1_loss(moved[positive], wanted, reduction="sum")
            count += here
        return total / max(1, count)

    def detections(self, raw: Maps, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the boxes of each image."""
        anchors = self.anchors(raw)
        scores = rows_of(raw.classes, self.classes + 1).softmax(-1)[..., 1:]
        offsets = rows_of(raw.boxes, 2 * self.dimensions)
        return [surest(decode(o, anchors, VARIANCES), s, shape, score, overlap, most) for s, o in zip(scores, offsets, strict=True)]
