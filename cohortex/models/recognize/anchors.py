"""Anchors: boxes laid regularly over an image, and which of them answer for which thing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cohortex.models.recognize.boxes import centres_sizes, from_centres, overlaps

BACKGROUND, IGNORED = -1, -2
"""What an anchor answers for that answers for no box, and one that is not asked."""


def stretched(dimensions: int, ratios: Sequence[float]) -> torch.Tensor:
    """Return shapes of one area or volume (n, dimensions): along an axis `ratio` times as long as along the others.

    A ratio other than 1 gives one shape in two dimensions (its inverse lies across) and in three dimensions one along each axis.
    """
    shapes = []
    for ratio in ratios:
        for axis in range(1 if ratio == 1 or dimensions == 2 else dimensions):
            sides = [ratio if a == axis else 1.0 for a in range(dimensions)]
            mean = math.prod(sides) ** (1 / dimensions)
            shapes.append([side / mean for side in sides])
    return torch.tensor(shapes)


def anchors_of(space: Sequence[int], stride: float, extents: torch.Tensor) -> torch.Tensor:
    """Return the anchors of a level.

    Parameters
    ----------
    space : sequence of int
        Size of the level's map.
    stride : float
        Voxels of the image between neighbours of the map.
    extents : torch.Tensor
        (anchors, dimensions), sizes of the anchors of every position, in voxels.

    Returns
    -------
    torch.Tensor
        (positions * anchors, 2 * dimensions), around the middles of the map's cells, in the order of `detector.rows_of`.
    """
    device = extents.device
    axes = [(torch.arange(n, device=device, dtype=torch.float32) + 0.5) * stride for n in space]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, len(space))
    return from_centres(centres, extents[None]).flatten(0, 1)


def by_overlap(boxes: torch.Tensor, anchors: torch.Tensor, low: float = 0.4, high: float = 0.5, rescue: bool = True) -> torch.Tensor:
    """Return which box each anchor answers for, by fixed thresholds (Ren et al., NeurIPS 2015; Lin et al., ICCV 2017).

    Parameters
    ----------
    boxes : torch.Tensor
        (n, 2 * dimensions).
    anchors : torch.Tensor
        (m, 2 * dimensions).
    low, high : float
        Anchors that overlap no box by `low` are background, those that overlap one by `high` answer for it, others are ignored.
    rescue : bool
        The anchors that overlap a box most answer for it, however little that is, so that none goes without.

    Returns
    -------
    torch.Tensor
        (m,) int64: the index of a box, `BACKGROUND` or `IGNORED`.
    """
    if not len(boxes):
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    shared = overlaps(boxes, anchors)
    most, which = shared.max(0)
    answer = torch.where(most >= high, which, torch.where(most < low, BACKGROUND, IGNORED))
    if rescue:
        # of a box that many anchors overlap equally all are taken; of boxes that want the same anchor the one it overlaps most
        wanted = (shared >= shared.max(1, keepdim=True).values - 1e-6) & (shared > 0)
        value, box = torch.where(wanted, shared, -1.0).max(0)
        answer = torch.where(value > 0, box, answer)
    return answer


def adaptive(boxes: torch.Tensor, levels: Sequence[torch.Tensor], nearest: int = 9, per_place: int = 1) -> torch.Tensor:
    """Return which box each anchor answers for, by a threshold of each box's own (ATSS: Zhang et al., CVPR 2020).

    The candidates of a box are the anchors whose centres are nearest, some of each level; those that overlap it by more than the mean
    plus the deviation of all candidates, and whose centre lies within it, answer for it. The best candidate always does, so that a box
    between the centres does not go without (the paper has none so small).

    Parameters
    ----------
    boxes : torch.Tensor
        (n, 2 * dimensions).
    levels : sequence of torch.Tensor
        The anchors (m, 2 * dimensions) of each level.
    nearest : int
        Candidates of a level.
    per_place : int
        Anchors of a position, all of which are as near: `nearest` is multiplied by it.

    Returns
    -------
    torch.Tensor
        (anchors of all levels,) int64: the index of a box, or `BACKGROUND`.
    """
    anchors = torch.cat(list(levels))
    answer = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if not len(boxes):
        return answer
    middles, _ = centres_sizes(boxes)
    chosen, begin = [], 0
    for level in levels:
        centres, _ = centres_sizes(level)
        away = torch.cdist(middles, centres, compute_mode="donot_use_mm_for_euclid_dist")
        chosen.append(away.topk(min(nearest * per_place, len(level)), dim=1, largest=False).indices + begin)
        begin += len(level)
    candidates = torch.cat(chosen, 1)
    shared = overlaps(boxes, anchors).gather(1, candidates)
    threshold = shared.mean(1, keepdim=True) + shared.std(1, keepdim=True, correction=0)
    centres, _ = centres_sizes(anchors[candidates])
    low, high = boxes[:, None].chunk(2, -1)
    answers = (shared >= threshold) & ((centres > low) & (centres < high)).all(-1)
    answers |= torch.arange(candidates.shape[1], device=boxes.device) == shared.argmax(1, keepdim=True)
    # an anchor that several boxes want answers for the one that it overlaps most
    wanted = torch.full((len(boxes), len(anchors)), -1.0, device=boxes.device)
    wanted.scatter_(1, candidates, torch.where(answers, shared, -1.0))
    value, box = wanted.max(0)
    return torch.where(value >= 0, box, answer)
