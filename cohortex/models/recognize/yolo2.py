"""YOLO with prior boxes: one look, one grid that also sees finer features (Redmon and Farhadi, YOLO9000, CVPR 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.anchors import stretched
from cohortex.models.recognize.boxes import FARTHEST, Boxes, Found, centres_sizes, from_centres, generalised_overlaps, overlaps
from cohortex.models.recognize.detector import Detector, rows_of, surest
from cohortex.models.recognize.pyramid import SmallResNet
from cohortex.models.segment.layers import conv_norm

PRIOR = 0.01
"""Confidence of every box before anything was learnt."""
UNASKED = 0.5
"""A box that answers for nothing, but overlaps a thing by so much, is not told that nothing is there."""


def folded(x: torch.Tensor) -> torch.Tensor:
    """Return features (n, c, ...) on a grid of half the resolution, two to the number of axes as many (the paper's reorganisation)."""
    spare = [n for size in reversed(x.shape[2:]) for n in (0, size % 2)]
    x = functional.pad(x, spare, mode="replicate") if any(spare) else x
    every = product((0, 1), repeat=x.ndim - 2)
    return torch.cat([x[(slice(None), slice(None), *(slice(start, None, 2) for start in starts))] for starts in every], 1)


class Yolo2(Detector):
    """Each cell of one grid says how boxes of several prior sizes have to be moved, how sure each is, and its class.

    Of the boxes of the cell that holds the middle of a thing those answer for it whose prior has about its size, and always the one whose
    prior comes nearest; so things of several sizes may share a cell, which the first version (`yolo.Yolo`) does not allow.

    Parameters
    ----------
    dimensions, channels, classes : int
    backbone : sequence of int
        Widths of a small residual network; the grid is that of its last stage, and sees the stage before it `folded`.
    stem : int
        Stride of its first convolution.
    filters : int
        Of the layer before the answers.
    anchor : float
        Edge of the smallest prior in strides of the backbone's first stage.
    ratios, scales : sequence of float
        There is a prior of every ratio (see `anchors.stretched`) and every size, in multiples of the smallest.
    alike : float
        Overlap, were both around one middle, from which a prior has about the size of a thing.
    norm : str

    Notes
    -----
    The paper's squared errors gave way to cross entropies (Redmon and Farhadi, YOLOv3, 2018, arXiv:1804.02767) and to the generalised
    overlap; several priors for one thing, and places that reach half a cell beyond their own, are those of Bochkovskiy et al., YOLOv4,
    2020, arXiv:2004.10934. Priors are spaced evenly instead of found by clustering.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        backbone: Sequence[int] = (16, 32, 64, 128),
        stem: int = 2,
        filters: int = 128,
        anchor: float = 4.0,
        ratios: Sequence[float] = (1.0,),
        scales: Sequence[float] = (1.0, 2.0, 4.0),
        alike: float = 0.4,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        if len(backbone) < 2:
            raise ValueError("backbone has at least two stages: the grid sees the one before the last, too")
        self.alike = alike
        self.backbone = SmallResNet(dimensions, channels, backbone, stem, norm)
        self.stride = self.backbone.strides[-1]
        self.extents = torch.cat([anchor * self.backbone.strides[0] * scale * stretched(dimensions, ratios) for scale in scales])
        before, last = self.backbone.features[-2:]
        self.through = conv_norm(dimensions, before, before // 2, 1, norm=norm, bias=norm == "none")
        self.look = conv_norm(dimensions, last + 2**dimensions * (before // 2), filters, norm=norm, bias=norm == "none")
        self.answer = conv(dimensions, filters, len(self.extents) * (2 * dimensions + 1 + classes), 1)
        nn.init.normal_(self.answer.weight, std=0.01)
        assert self.answer.bias is not None
        bias = torch.zeros(len(self.extents), 2 * dimensions + 1 + classes)
        bias[:, 2 * dimensions] = -math.log(1 / PRIOR - 1)
        self.answer.bias.data.copy_(bias.flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, priors * (2 * dimensions + 1 + classes), ...) on the grid, before any logistic function."""
        before, last = self.backbone(x)[-2:]
        return self.answer(self.look(torch.cat([last, folded(self.through(before))], 1)))

    def _said(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return boxes in voxels (n, cells * priors, 2 * dimensions), and logits of confidences and of classes."""
        d, count = self.dimensions, len(self.extents)
        rows = rows_of([raw], 2 * d + 1 + self.classes)
        axes = [torch.arange(n, device=raw.device, dtype=torch.float32) for n in raw.shape[2:]]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, d).expand(-1, count, d).flatten(0, 1)
        middles = (cells - 0.5 + 2 * rows[..., :d].sigmoid()) * self.stride
        sizes = self.extents.to(raw.device).repeat(len(cells) // count, 1) * rows[..., d : 2 * d].clamp(max=FARTHEST).exp()
        return from_centres(middles, sizes), rows[..., 2 * d], rows[..., 2 * d + 1 :]

    def answers(self, target: Boxes, space: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which rows answer for things, and for which, both (k,) int64; a row answers for one thing, the last that wants it.

        Parameters
        ----------
        target : Boxes
        space : sequence of int
            Size of the grid.
        """
        device, count = target.corners.device, len(self.extents)
        middles, sizes = centres_sizes(target.corners)
        at = torch.minimum((middles / self.stride).floor().long().clamp(min=0), torch.tensor(space, device=device) - 1)
        cell = torch.zeros(len(target), dtype=torch.int64, device=device)
        for axis, n in enumerate(space):
            cell = cell * n + at[:, axis]
        extents = self.extents.to(device)
        shared = overlaps(from_centres(torch.zeros_like(sizes), sizes), from_centres(torch.zeros_like(extents), extents))
        wanted = (shared >= self.alike) | (shared >= shared.max(1, keepdim=True).values)
        thing, prior = wanted.nonzero(as_tuple=True)
        latest = torch.full((math.prod(space) * count,), -1, dtype=torch.int64, device=device)
        latest.scatter_reduce_(0, cell[thing] * count + prior, thing, "amax")
        rows = (latest >= 0).nonzero()[:, 0]
        return rows, latest[rows]

    def loss(self, raw: torch.Tensor, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return cross entropies of confidences and classes, and what boxes lack of the generalised overlap, per box that answers."""
        corners, sure, classes = self._said(raw)
        total, answering = sure.new_zeros(()), 0
        for box, confidence, said, target in zip(corners, sure, classes, targets, strict=True):
            truth, asked = torch.zeros_like(confidence), torch.ones_like(confidence)
            if len(target):
                asked = (overlaps(target.corners, box.detach()).amax(0) < UNASKED).float()
                rows, which = self.answers(target, raw.shape[2:])
                truth[rows] = asked[rows] = 1.0
                total = total + (1 - generalised_overlaps(box[rows], target.corners[which])).sum() * self.dimensions
                labels = functional.one_hot(target.labels[which], self.classes).float()
                total = total + functional.binary_cross_entropy_with_logits(said[rows], labels, reduction="sum")
                answering += len(rows)
            total = total + (asked * functional.binary_cross_entropy_with_logits(confidence, truth, reduction="none")).sum()
        return total / max(1, answering)

    def detections(
        self, raw: torch.Tensor, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100
    ) -> list[Found]:
        """Return the boxes of each image; a score is the confidence times the probability of the class."""
        corners, sure, classes = self._said(raw)
        scores = sure.sigmoid()[..., None] * classes.sigmoid()
        return [surest(c, s, shape, score, overlap, most) for c, s in zip(corners, scores, strict=True)]
