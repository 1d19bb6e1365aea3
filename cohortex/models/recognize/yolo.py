"""YOLO: one look, one grid (Redmon et al., You only look once: unified, real-time object detection, CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.boxes import Boxes, Found, centres_sizes, from_centres, overlaps
from cohortex.models.recognize.detector import Detector, surest
from cohortex.models.recognize.pyramid import SmallResNet
from cohortex.models.segment.layers import conv_norm


class Yolo(Detector):
    """The first version: each cell of one coarse grid says a few boxes with their confidence, and the class of what lies in the cell.

    The cell that holds the middle of a thing is asked about it: of the cell's boxes the one that overlaps the thing most answers for it,
    its confidence should be that overlap, all other confidences 0, and all errors are squared. Of a cell one thing alone can be found.

    Parameters
    ----------
    dimensions, channels, classes : int
    backbone : sequence of int
        Widths of a small residual network; the grid is that of its last stage.
    stem : int
        Stride of its first convolution.
    filters : int
        Of the layer before the answers.
    boxes : int
        That a cell says.
    largest : float
        Voxels: no box is larger.
    coordinates, nothing : float
        Weights of the errors of boxes, and of confidences where nothing is.
    norm : str

    Notes
    -----
    The paper's last layers are dense over the whole image, of 448 x 448 pixels. These are convolutions, so that images may have any size;
    sizes of boxes are shares of `largest` instead of the image. What is a share (places, roots of sizes, confidences, classes) goes
    through a logistic function, as in later versions.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        backbone: Sequence[int] = (16, 32, 64, 128),
        stem: int = 2,
        filters: int = 128,
        boxes: int = 2,
        largest: float = 128.0,
        coordinates: float = 5.0,
        nothing: float = 0.5,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        self.boxes, self.largest, self.coordinates, self.nothing = boxes, float(largest), coordinates, nothing
        self.backbone = SmallResNet(dimensions, channels, backbone, stem, norm)
        self.stride = self.backbone.strides[-1]
        width = self.backbone.features[-1]
        self.head = nn.Sequential(
            conv_norm(dimensions, width, filters, norm=norm, bias=norm == "none"),
            conv(dimensions, filters, boxes * (2 * dimensions + 1) + classes, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, boxes * (2 * dimensions + 1) + classes, ...) on the grid, before the logistic function."""
        return self.head(self.backbone(x)[-1])

    def _said(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return places in the cell and roots of sizes (n, cells, boxes, dimensions), confidences, classes, and boxes in voxels."""
        d = self.dimensions
        space = raw.shape[2:]
        rows = raw.float().flatten(2).mT.sigmoid()
        each = rows[..., : self.boxes * (2 * d + 1)].unflatten(-1, (self.boxes, 2 * d + 1))
        place, root, sure = each[..., :d], each[..., d : 2 * d], each[..., -1]
        axes = [torch.arange(n, device=raw.device, dtype=torch.float32) for n in space]
        cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, d)
        corners = from_centres((cells + place) * self.stride, root**2 * self.largest)
        return place, root, sure, rows[..., self.boxes * (2 * d + 1) :], corners

    def loss(self, raw: torch.Tensor, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the sum of squared errors of an image, on the average."""
        place, root, sure, classes, corners = self._said(raw)
        space = raw.shape[2:]
        total = raw.new_zeros((), dtype=torch.float32)
        for number, target in enumerate(targets):
            wanted = torch.zeros_like(sure[number])
            weight = torch.full_like(wanted, self.nothing)
            if len(target):
                middle, size = centres_sizes(target.corners)
                most = torch.tensor(space, device=raw.device) - 1
                at = torch.minimum((middle / self.stride).floor().long().clamp(min=0), most)
                cell = torch.zeros(len(target), dtype=torch.int64, device=raw.device)
                for axis, n in enumerate(space):
                    cell = cell * n + at[:, axis]
                # of several things in one cell the last one counts: a row is written once
                latest = torch.full((len(wanted),), -1, dtype=torch.int64, device=raw.device)
                latest.scatter_reduce_(0, cell, torch.arange(len(target), device=raw.device), "amax")
                taken = latest[latest >= 0]
                cell = cell[taken]
                shared = overlaps(corners[number, cell].detach().flatten(0, 1), target.corners[taken])
                own = torch.arange(len(taken), device=raw.device)
                shared = shared.unflatten(0, (len(taken), self.boxes))[own, :, own]
                value, box = shared.max(1)
                wanted[cell, box] = value
                weight[cell, box] = 1.0
                moved = place[number, cell, box] - (middle[taken] / self.stride - at[taken])
                grown = root[number, cell, box] - (size[taken] / self.largest).clamp(0, 1).sqrt()
                total = total + self.coordinates * (moved.square().sum() + grown.square().sum())
                truth = torch.nn.functional.one_hot(target.labels[taken], self.classes)
                total = total + (classes[number, cell] - truth).square().sum()
            total = total + (weight * (sure[number] - wanted).square()).sum()
        return total / max(1, len(targets))

    def detections(
        self, raw: torch.Tensor, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100
    ) -> list[Found]:
        """Return the boxes of each image; a score is the confidence times the probability of the class."""
        _, _, sure, classes, corners = self._said(raw)
        scores = sure[..., None] * classes[..., None, :]
        return [surest(c.flatten(0, 1), s.flatten(0, 1), shape, score, overlap, most) for c, s in zip(corners, scores, strict=True)]
