"""RetinaNet: a dense one-stage detector on a feature pyramid (Lin et al., Focal loss for dense object detection, ICCV 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.anchors import IGNORED, adaptive, anchors_of, by_overlap, stretched
from cohortex.models.recognize.boxes import Boxes, Found, decode, encode
from cohortex.models.recognize.detector import Detector, rows_of, surest
from cohortex.models.recognize.focal import class_loss
from cohortex.models.recognize.pyramid import Pyramid, backbone_of

MATCHINGS = ("adaptive", "overlap")


@dataclass(frozen=True)
class Maps:
    """What is said at every position of every level: (n, anchors * classes, ...) and (n, anchors * 2 * dimensions, ...)."""

    classes: list[torch.Tensor]
    boxes: list[torch.Tensor]


def tower(dimensions: int, filters: int, convs: int, outward: int, prior: float | None = None) -> nn.Sequential:
    """Return a head: convolutions with ReLU, and one that answers; with `prior` it says this probability before it has learnt."""
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [conv(dimensions, filters, filters), nn.ReLU(inplace=True)]
    layers.append(conv(dimensions, filters, outward))
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.normal_(layer.weight, std=0.01 if layer is layers[-1] else math.sqrt(2 / (filters * 3**dimensions)))
            assert layer.bias is not None
            nn.init.constant_(layer.bias, -math.log(1 / prior - 1) if prior is not None and layer is layers[-1] else 0.0)
    return nn.Sequential(*layers)


class RetinaNet(Detector):
    """Feature pyramid with two heads that all levels share: the classes, and the box, of every anchor.

    Parameters
    ----------
    dimensions, channels, classes : int
    backbone : int, mapping or sequence of int
        50 for the paper's ResNet-50, or the widths of a small residual network (see `pyramid.backbone_of`).
    stem : int
        Stride of a small network's first convolution.
    first, further : int
        See `Pyramid`; the paper's levels P3 to P7 are ``first=1, further=2``.
    filters, convs : int
        Of the pyramid and heads; the paper's are 256 and 4.
    anchor : float
        Edge of a level's smallest anchor in strides of the level.
    ratios, scales : sequence of float
        Each position has anchors of all ratios (see `stretched`) and of all sizes within the octave.
    matching : {"adaptive", "overlap"}
        How anchors are matched with boxes: by a threshold of each box's own, which does not leave small ones without, or by the paper's.
    loss : {"focal", "cross_entropy"}
    gamma, alpha : float
        Of the focal loss.
    norm : str
        Of a small residual network.

    Notes
    -----
    Weights of the heads' towers keep the size of what passes (He et al., ICCV 2015) where the paper has deviations of .01, which a short
    training does not get away from.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        backbone: int | Sequence[int] | Mapping[str, int] = (16, 32, 64, 128),
        stem: int = 2,
        first: int = 1,
        further: int = 1,
        filters: int = 64,
        convs: int = 4,
        anchor: float = 4.0,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        matching: str = "adaptive",
        loss: str = "focal",
        gamma: float = 2.0,
        alpha: float = 0.25,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        if matching not in MATCHINGS:
            raise ValueError(f"matching is one of {', '.join(MATCHINGS)}, not {matching!r}")
        self.matching, self.kind, self.gamma, self.alpha = matching, loss, gamma, alpha
        self.pyramid = Pyramid(dimensions, backbone_of(dimensions, channels, backbone, stem, norm), filters, first, further)
        shapes = stretched(dimensions, ratios)
        self.extents = torch.cat([anchor * scale * shapes for scale in scales])
        self.class_head = tower(dimensions, filters, convs, len(self.extents) * classes, prior=0.01)
        self.box_head = tower(dimensions, filters, convs, len(self.extents) * 2 * dimensions)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the levels of the pyramid."""
        return self.pyramid(x)

    def forward(self, x: torch.Tensor) -> Maps:
        """Return the maps of all levels, the finest first."""
        levels = self.features(x)
        return Maps([self.class_head(level) for level in levels], [self.box_head(level) for level in levels])

    def anchors(self, raw: Maps) -> list[torch.Tensor]:
        """Return the anchors of each level, (positions * anchors, 2 * dimensions)."""
        extents = self.extents.to(raw.classes[0].device)
        return [anchors_of(m.shape[2:], s, s * extents) for m, s in zip(raw.classes, self.pyramid.strides, strict=True)]

    def matched(self, boxes: torch.Tensor, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return which box each anchor answers for."""
        if self.matching == "adaptive":
            return adaptive(boxes, levels, per_place=len(self.extents))
        return by_overlap(boxes, torch.cat(list(levels)))

    def loss(self, raw: Maps, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the loss of classes, and the smooth L1 loss of offsets, per anchor that answers for a box."""
        levels = self.anchors(raw)
        anchors = torch.cat(levels)
        logits, offsets = rows_of(raw.classes, self.classes), rows_of(raw.boxes, 2 * self.dimensions)
        total, count = logits.new_zeros(()), 0
        for said, moved, target in zip(logits, offsets, targets, strict=True):
            answer = self.matched(target.corners, levels)
            positive = answer >= 0
            truth = torch.zeros_like(said)
            truth[positive, target.labels[answer[positive]]] = 1
            losses = class_loss(self.kind, said, truth, self.gamma, self.alpha)
            total = total + losses[answer != IGNORED].sum()
            wanted = encode(target.corners[answer[positive]], anchors[positive])
            total = total + functional.smooth_l1_loss(moved[positive], wanted, reduction="sum", beta=1 / 9)
            count += int(positive.sum())
        return total / max(1, count)

    def detections(self, raw: Maps, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the boxes of each image."""
        anchors = torch.cat(self.anchors(raw))
        scores, offsets = rows_of(raw.classes, self.classes).sigmoid(), rows_of(raw.boxes, 2 * self.dimensions)
        return [surest(decode(o, anchors), s, shape, score, overlap, most) for s, o in zip(scores, offsets, strict=True)]
