"""Boxes along the axes of an image, in two or three dimensions: overlap, suppression of doubles, offsets, clipping.

A box is ``[low..., high...]`` in voxels, in the order of the image's axes, with half-open edges: one over voxels 3 to 5 is ``[3, 6)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

FARTHEST = math.log(1000 / 16)
"""Largest logarithm of a size that `decode` takes: no box grows by more, whatever a network that has not learnt yet says."""


@dataclass(frozen=True)
class Boxes:
    """What is known to be in one image.

    Attributes
    ----------
    corners : torch.Tensor
        (n, 2 * dimensions) float32, ``[low..., high...]`` in voxels; n may be 0.
    labels : torch.Tensor
        (n,) int64, the class of each from 0 (the background is none).
    """

    corners: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device | str) -> Boxes:
        """Return them on a device."""
        return Boxes(self.corners.to(device), self.labels.to(device))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.corners)


@dataclass(frozen=True)
class Found:
    """What a network found in one image, the surest first.

    Attributes
    ----------
    corners : torch.Tensor
        (n, 2 * dimensions) float32, ``[low..., high...]`` in voxels.
    labels : torch.Tensor
        (n,) int64, the class of each from 0.
    scores : torch.Tensor
        (n,) float32 in 0..1.
    """

    corners: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor

    def to(self, device: torch.device | str) -> Found:
        """Return them on a device."""
        return Found(self.corners.to(device), self.labels.to(device), self.scores.to(device))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.corners)


def none_of(dimensions: int) -> Boxes:
    """Return the boxes of an image that has none."""
    return Boxes(torch.zeros(0, 2 * dimensions), torch.zeros(0, dtype=torch.int64))


def centres_sizes(corners: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centres and sizes, both (..., dimensions), of boxes (..., 2 * dimensions)."""
    low, high = corners.chunk(2, -1)
    return (low + high) / 2, high - low


def from_centres(centres: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Return boxes (..., 2 * dimensions) of centres and sizes (..., dimensions)."""
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


def volumes(corners: torch.Tensor) -> torch.Tensor:
    """Return the areas or volumes (...,) in voxels; 0 where a box is inside out."""
    low, high = corners.chunk(2, -1)
    return (high - low).clamp(min=0).prod(-1)


def overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of every pair.

    Parameters
    ----------
    a, b : torch.Tensor
        (n, 2 * dimensions) and (m, 2 * dimensions).

    Returns
    -------
    torch.Tensor
        (n, m) in 0..1; two empty boxes overlap by 0.
    """
    low_a, high_a = a.chunk(2, -1)
    low_b, high_b = b.chunk(2, -1)
    shared = (torch.minimum(high_a[:, None], high_b) - torch.maximum(low_a[:, None], low_b)).clamp(min=0).prod(-1)
    union = volumes(a)[:, None] + volumes(b) - shared
    return torch.where(union > 0, shared / union.clamp(min=1e-9), 0.0)


def generalised_overlaps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the generalised intersection over union of boxes in pairs (Rezatofighi et al., CVPR 2019), -1..1.

    It still falls with the distance of boxes that do not touch, so that there is a gradient.

    Parameters
    ----------
    a, b : torch.Tensor
        (n, 2 * dimensions) each.
    """
    low_a, high_a = a.chunk(2, -1)
    low_b, high_b = b.chunk(2, -1)
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    around = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).clamp(min=0).prod(-1).clamp(min=1e-6)
    union = (volumes(a) + volumes(b) - shared).clamp(min=1e-6)
    return shared / union - (around - union) / around


def suppressed(corners: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor | None = None, overlap: float = 0.3) -> torch.Tensor:
    """Return which boxes stay when every surer box of the same class takes away those that it overlaps by more than `overlap`.

    The greedy rule, exactly, without a loop over boxes: whether a box stays follows from the surer ones alone, so repeating the rule for
    all at once settles the longest chain of boxes that decide about each other, a few steps.

    Parameters
    ----------
    corners : torch.Tensor
        (n, 2 * dimensions).
    scores : torch.Tensor
        (n,); of equal ones the first is the surer.
    labels : torch.Tensor, optional
        (n,); boxes of different classes leave each other alone.
    overlap : float

    Returns
    -------
    torch.Tensor
        Indices (k,), the surest first.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    boxes = corners[order]
    takes = overlaps(boxes, boxes) > overlap
    if labels is not None:
        takes &= labels[order][:, None] == labels[order]
    takes = takes.triu(1)
    stays = torch.ones(len(order), dtype=torch.bool, device=corners.device)
    while True:
        now = ~(takes & stays[:, None]).any(0)
        if bool((now == stays).all()):
            return order[stays]
        stays = now


def encode(corners: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = (1.0, 1.0)) -> torch.Tensor:
    """Return what moves anchors onto boxes: shift in sizes of the anchor, logarithm of the ratio of sizes (R-CNN, CVPR 2014).

    Parameters
    ----------
    corners, anchors : torch.Tensor
        (n, 2 * dimensions) each, in pairs.
    weights : sequence of two floats
        Multiply shifts and logarithms, so that both have a deviation near one.

    Returns
    -------
    torch.Tensor
        (n, 2 * dimensions), the shifts first.
    """
    centre, size = centres_sizes(corners)
    middle, extent = centres_sizes(anchors)
    return torch.cat([weights[0] * (centre - middle) / extent, weights[1] * (size.clamp(min=1e-3) / extent).log()], -1)


def decode(offsets: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float] = (1.0, 1.0)) -> torch.Tensor:
    """Return the boxes (..., 2 * dimensions) that `encode` made these offsets (..., 2 * dimensions) of."""
    shift, growth = offsets.chunk(2, -1)
    middle, extent = centres_sizes(anchors)
    return from_centres(middle + shift / weights[0] * extent, extent * (growth / weights[1]).clamp(max=FARTHEST).exp())


def clipped(corners: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return boxes (..., 2 * dimensions) cut to an image of a shape; what lies outside becomes empty."""
    size = torch.tensor(shape, dtype=corners.dtype, device=corners.device)
    low, high = corners.chunk(2, -1)
    zero = torch.zeros_like(size)
    return torch.cat([torch.minimum(torch.maximum(low, zero), size), torch.minimum(torch.maximum(high, zero), size)], -1)


def best(
    corners: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    shape: Sequence[int],
    score: float = 0.05,
    overlap: float = 0.3,
    most: int = 100,
    candidates: int = 1000,
) -> Found:
    """Return the surest boxes of one image: above a score, cut to the image, not empty, without doubles.

    Parameters
    ----------
    corners : torch.Tensor
        (n, 2 * dimensions).
    scores : torch.Tensor
        (n,) in 0..1.
    labels : torch.Tensor
        (n,) from 0.
    shape : sequence of int
        Of the image.
    score : float
        Boxes below are left out.
    overlap : float
        See `suppressed`.
    most : int
        At most so many are returned.
    candidates : int
        At most so many, the surest, are compared with each other.
    """
    corners = clipped(corners.detach().float(), shape)
    low, high = corners.chunk(2, -1)
    fine = (scores >= score) & (high - low > 0).all(-1)
    corners, scores, labels = corners[fine], scores.detach().float()[fine], labels[fine]
    order = torch.argsort(scores, descending=True, stable=True)[:candidates]
    corners, scores, labels = corners[order], scores[order], labels[order]
    kept = suppressed(corners, scores, labels, overlap)[:most]
    return Found(corners[kept], labels[kept], scores[kept])
