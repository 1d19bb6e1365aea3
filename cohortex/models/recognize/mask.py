"""Mask R-CNN: Faster R-CNN with a third head that says which voxels of a box belong to the thing (He et al., ICCV 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.boxes import Boxes, Found
from cohortex.models.recognize.faster import FasterRcnn, Said
from cohortex.models.recognize.regions import roi_align
from cohortex.models.segment.layers import transposed


@dataclass(frozen=True)
class MaskedBoxes(Boxes):
    """Boxes whose voxels are known.

    Attributes
    ----------
    masks : torch.Tensor
        (n, ...) bool, of the image's size.
    """

    masks: torch.Tensor

    def to(self, device: torch.device | str) -> MaskedBoxes:
        """Return them on a device."""
        return MaskedBoxes(self.corners.to(device), self.labels.to(device), self.masks.to(device))


@dataclass(frozen=True)
class FoundMasks(Found):
    """What was found, with the voxels of each.

    Attributes
    ----------
    masks : torch.Tensor
        (n, ...) bool, of the image's size.
    """

    masks: torch.Tensor

    def to(self, device: torch.device | str) -> FoundMasks:
        """Return them on a device."""
        return FoundMasks(self.corners.to(device), self.labels.to(device), self.scores.to(device), self.masks.to(device))


def pasted(shares: torch.Tensor, corners: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the voxels of things whose shares are known on a grid within their boxes.

    Parameters
    ----------
    shares : torch.Tensor
        (n, size, ...) in 0..1.
    corners : torch.Tensor
        (n, 2 * dimensions).
    shape : sequence of int
        Of the image.

    Returns
    -------
    torch.Tensor
        (n, ...) bool: where the linearly interpolated share at a voxel's middle is a half at least; nowhere beyond the box.
    """
    d = len(shape)
    made = torch.zeros(len(shares), *shape, dtype=torch.bool, device=shares.device)
    for number, (share, box) in enumerate(zip(shares, corners, strict=True)):
        low, high = box[:d].tolist(), box[d:].tolist()
        # the voxels whose middle lies within the box
        begin = [max(0, math.ceil(a - 0.5)) for a in low]
        end = [min(n, math.ceil(b - 0.5)) for b, n in zip(high, shape, strict=True)]
        if any(b <= a for a, b in zip(begin, end, strict=True)):
            continue
        axes = [
            2 * (torch.arange(a, b, device=share.device) + 0.5 - o) / (h - o) - 1 for a, b, o, h in zip(begin, end, low, high, strict=True)
        ]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1)
        values = functional.grid_sample(share[None, None], grid[None], padding_mode="border", align_corners=False)[0, 0]
        made[(number, *[slice(a, b) for a, b in zip(begin, end, strict=True)])] = values >= 0.5
    return made


class MaskRcnn(FasterRcnn):
    """Faster R-CNN that knows the voxels of what it finds, too.

    It learns masks from `MaskedBoxes`; `Boxes` alone teach it boxes alone. `detections` returns `FoundMasks`.

    Parameters
    ----------
    mask_size : int
        Cells along each axis of the grid within a box on which the third head works; its answer has twice as many (28 in the paper).
    mask_convs : int
        Convolutions of the third head (four in the paper).
    **options
        Of `FasterRcnn`.
    """

    def __init__(self, mask_size: int = 14, mask_convs: int = 2, **options: Any):
        super().__init__(**options)
        self.mask_size = mask_size
        filters = self.pyramid.filters
        layers: list[nn.Module] = []
        for _ in range(mask_convs):
            layers += [conv(self.dimensions, filters, filters), nn.ReLU(inplace=True)]
        layers += [transposed(self.dimensions, filters, filters), nn.ReLU(inplace=True), conv(self.dimensions, filters, self.classes, 1)]
        self.mask_head = nn.Sequential(*layers)

    def further_loss(self, raw: Said, number: int, corners: torch.Tensor, answer: torch.Tensor, target: Boxes) -> torch.Tensor | float:
        """Return the cross entropy of the masks of each box's own class."""
        if not isinstance(target, MaskedBoxes) or not len(corners):
            return 0.0
        logits = self.mask_head(self.inside(raw.levels, number, corners, self.mask_size)).float()
        logits = logits[torch.arange(len(answer), device=answer.device), target.labels[answer]]
        cells = 2 * self.mask_size
        masks = [roi_align(target.masks[own][None].float(), box[None], cells)[0, 0] for own, box in zip(answer, corners, strict=True)]
        return functional.binary_cross_entropy_with_logits(logits, (torch.stack(masks) >= 0.5).float())

    def detections(self, raw: Said, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the boxes and voxels of each image."""
        made: list[Found] = []
        for number, found in enumerate(super().detections(raw, shape, score, overlap, most)):
            shares = self.mask_head(self.inside(raw.levels, number, found.corners, self.mask_size)).float().sigmoid()
            own = shares[torch.arange(len(found), device=shares.device), found.labels]
            made.append(FoundMasks(found.corners, found.labels, found.scores, pasted(own, found.corners, shape)))
        return made
