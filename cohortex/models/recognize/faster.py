"""Faster R-CNN: one network proposes boxes, a second head looks into each (Ren et al., NeurIPS 2015; pyramid: Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.anchors import anchors_of, by_overlap, stretched
from cohortex.models.recognize.boxes import Boxes, Found, best, centres_sizes, decode, encode
from cohortex.models.recognize.detector import Detector, rows_of
from cohortex.models.recognize.pyramid import Pyramid, backbone_of
from cohortex.models.recognize.regions import roi_align, roi_pool

WEIGHTS = (10.0, 5.0)
"""By which the second head's shifts and logarithms of sizes are multiplied."""


@dataclass(frozen=True)
class Said:
    """The features, and what the first head says of every anchor: that there is something, and its box."""

    levels: list[torch.Tensor]
    things: list[torch.Tensor]
    boxes: list[torch.Tensor]
    shape: tuple[int, ...]


class FasterRcnn(Detector):
    """A head proposes boxes of anything, another looks at the features within each and says the class and a better box.

    Parameters
    ----------
    dimensions, channels, classes : int
    backbone, stem, first, further, norm
        Of the pyramid, as of `retinanet.RetinaNet`.
    filters : int
        Of the pyramid; the paper's is 256.
    hidden : int
        Of the second head's two dense layers; the paper's is 1024.
    anchor : float
        Edge of a level's anchor in strides of the level.
    ratios, scales : sequence of float
        As of `retinanet.RetinaNet`.
    proposals : int
        Boxes of an image that the second head looks at.
    size : int
        Cells along each axis of the grid within a box.
    regions : {"align", "pool"}
        How features come onto that grid: interpolated, or the maxima of rounded cells (Fast R-CNN).
    sampled_anchors, sampled_boxes : int
        Of an image, that each head learns from; at most a half and a quarter of them have a thing in them.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        backbone: int | Sequence[int] = (16, 32, 64, 128),
        stem: int = 2,
        first: int = 1,
        further: int = 1,
        filters: int = 64,
        hidden: int = 128,
        anchor: float = 4.0,
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        scales: Sequence[float] = (1.0, 2**0.5),
        proposals: int = 100,
        size: int = 7,
        regions: str = "align",
        sampled_anchors: int = 256,
        sampled_boxes: int = 64,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        if regions not in ("align", "pool"):
            raise ValueError(f"regions is align or pool, not {regions!r}")
        self.proposed, self.size, self.regions, self.anchor = proposals, size, regions, anchor
        self.sampled_anchors, self.sampled_boxes = sampled_anchors, sampled_boxes
        self.pyramid = Pyramid(dimensions, backbone_of(dimensions, channels, backbone, stem, norm), filters, first, further)
        self.extents = torch.cat([anchor * scale * stretched(dimensions, ratios) for scale in scales])
        self.looked = nn.Sequential(conv(dimensions, filters, filters), nn.ReLU(inplace=True))
        self.thing = conv(dimensions, filters, len(self.extents), 1)
        self.moved = conv(dimensions, filters, len(self.extents) * 2 * dimensions, 1)
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(filters * size**dimensions, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        self.class_head = nn.Linear(hidden, classes + 1)
        self.box_head = nn.Linear(hidden, classes * 2 * dimensions)
        for layer, deviation in ((self.thing, 0.01), (self.moved, 0.01), (self.class_head, 0.01), (self.box_head, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> Said:
        """Return the features and what the first head says."""
        levels = self.pyramid(x)
        looked = [self.looked(level) for level in levels]
        return Said(levels, [self.thing(f) for f in looked], [self.moved(f) for f in looked], tuple(x.shape[2:]))

    def anchors(self, raw: Said) -> torch.Tensor:
        """Return the anchors (rows, 2 * dimensions)."""
        extents = self.extents.to(raw.levels[0].device)
        return torch.cat([anchors_of(m.shape[2:], s, s * extents) for m, s in zip(raw.levels, self.pyramid.strides, strict=True)])

    def proposals(self, raw: Said) -> list[torch.Tensor]:
        """Return the boxes of each image that the second head looks at, (n, 2 * dimensions), without gradients."""
        anchors = self.anchors(raw)
        sure, offsets = rows_of(raw.things, 1).detach().sigmoid()[..., 0], rows_of(raw.boxes, 2 * self.dimensions).detach()
        made = []
        for score, moved in zip(sure, offsets, strict=True):
            values, places = score.topk(min(1000, len(score)))
            corners = decode(moved[places], anchors[places])
            made.append(best(corners, values, torch.zeros_like(places), raw.shape, 0.0, 0.7, self.proposed).corners)
        return made

    def second(self, levels: Sequence[torch.Tensor], number: int, corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the second head's logits (n, classes + 1), the first for nothing, and offsets (n, classes, 2 * dimensions)."""
        # a box is looked at in the level whose anchors are as large as it is, or half as large
        edge = centres_sizes(corners)[1].clamp(min=1e-3).log2().mean(1).exp2()
        which = (edge / (self.anchor * self.pyramid.strides[0])).log2().floor().long().clamp(0, len(levels) - 1)
        inside = levels[0].new_zeros(len(corners), levels[0].shape[1], *[self.size] * self.dimensions)
        order = []
        parts = []
        for level, (features, stride) in enumerate(zip(levels, self.pyramid.strides, strict=True)):
            own = (which == level).nonzero()[:, 0]
            if len(own):
                look = roi_align if self.regions == "align" else roi_pool
                order.append(own)
                parts.append(look(features[number], corners[own], self.size, stride))
        if parts:
            inside = torch.cat(parts)[torch.argsort(torch.cat(order))]
        seen = self.dense(inside)
        return self.class_head(seen), self.box_head(seen).unflatten(1, (self.classes, 2 * self.dimensions))

    def loss(self, raw: Said, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the losses of both heads (cross entropy and smooth L1), of anchors and boxes that are drawn at random."""
        anchors = self.anchors(raw)
        sure, offsets = rows_of(raw.things, 1)[..., 0], rows_of(raw.boxes, 2 * self.dimensions)
        total = sure.new_zeros(())
        for number, (proposed, target) in enumerate(zip(self.proposals(raw), targets, strict=True)):
            answer = by_overlap(target.corners, anchors, 0.3, 0.7)
            positive, negative = drawn(answer >= 0, answer == -1, self.sampled_anchors, 0.5)
            chosen = torch.cat([positive, negative])
            truth = (answer[chosen] >= 0).float()
            total = total + functional.binary_cross_entropy_with_logits(sure[number, chosen], truth)
            wanted = encode(target.corners[answer[positive]], anchors[positive])
            total = total + functional.smooth_l1_loss(offsets[number, positive], wanted, reduction="sum", beta=1 / 9) / len(chosen)
            total = total + self._second_loss(raw, number, torch.cat([proposed, target.corners]), target)
        return total / max(1, len(targets))

    def _second_loss(self, raw: Said, number: int, corners: torch.Tensor, target: Boxes) -> torch.Tensor:
        answer = by_overlap(target.corners, corners, 0.5, 0.5, rescue=False)
        positive, negative = drawn(answer >= 0, answer < 0, self.sampled_boxes, 0.25)
        chosen = torch.cat([positive, negative])
        if not len(chosen):
            return corners.new_zeros(())
        logits, offsets = self.second(raw.levels, number, corners[chosen])
        labels = target.labels[answer[positive]]
        truth = torch.zeros_like(chosen)
        truth[: len(positive)] = labels + 1
        wanted = encode(target.corners[answer[positive]], corners[positive], WEIGHTS)
        moved = offsets[torch.arange(len(positive), device=corners.device), labels]
        entropy = functional.cross_entropy(logits.float(), truth)
        return entropy + functional.smooth_l1_loss(moved.float(), wanted, reduction="sum") / len(chosen)

    def detections(self, raw: Said, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the boxes of each image."""
        made = []
        for number, corners in enumerate(self.proposals(raw)):
            logits, offsets = self.second(raw.levels, number, corners)
            scores = logits.float().softmax(1)[:, 1:]
            moved = decode(offsets.float(), corners[:, None], WEIGHTS)
            labels = torch.arange(self.classes, device=corners.device).expand(len(corners), -1)
            made.append(best(moved.flatten(0, 1), scores.flatten(), labels.flatten(), shape, score, overlap, most))
        return made


def drawn(positive: torch.Tensor, negative: torch.Tensor, count: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random places (of torch's generator) of ones of two masks: at most `share` of `count` of the first, others of the second."""
    chosen = []
    most = int(count * share)
    for mask in (positive, negative):
        places = mask.nonzero()[:, 0]
        chosen.append(places[torch.randperm(len(places))[:most].to(places.device)])
        most = count - len(chosen[0])
    return chosen[0], chosen[1]
