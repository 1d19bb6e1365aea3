"""What was found in a whole image: boxes in its own voxels, and how boxes of slices become boxes of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LINK = 0.1
"""Overlap within the plane from which boxes of neighbouring slices are of one thing: its end slices are smaller than its middle."""
HOLE = 1
"""So many slices in a row may lack a box within one thing."""


@dataclass(frozen=True)
class Findings:
    """Boxes of one image, the surest first.

    Attributes
    ----------
    corners : (n, 6) float64 array, of slices (n, 4)
        ``[low..., high...]`` along x, y, z in voxels, with half-open edges: a box over voxels 3 to 5 is ``[3, 6)``.
    labels : (n,) int64 array
        The class of each from 0.
    scores : (n,) float64 array
        In 0..1; of what is known to be there 1.
    """

    corners: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)

    def some(self, chosen: np.ndarray) -> Findings:
        """Return those of a mask or of indices."""
        return Findings(self.corners[chosen], self.labels[chosen], self.scores[chosen])


def nothing(dimensions: int = 3) -> Findings:
    """Return no finding."""
    return Findings(np.zeros((0, 2 * dimensions)), np.zeros(0, np.int64), np.zeros(0))


def joined(parts: Sequence[Findings], dimensions: int = 3) -> Findings:
    """Return the findings of several parts, the surest first; of equal ones the first of the first part."""
    every = [nothing(dimensions), *parts]
    together = Findings(*(np.concatenate([getattr(part, name) for part in every]) for name in ("corners", "labels", "scores")))
    return together.some(np.argsort(-together.scores, kind="stable"))


def without_doubles(found: Findings, overlap: float) -> Findings:
    """Return findings without those that a surer one of their class overlaps by more than `overlap`."""
    import torch

    from cohortex.models.recognize.boxes import suppressed

    corners, scores, labels = (torch.from_numpy(np.ascontiguousarray(each)) for each in (found.corners, found.scores, found.labels))
    return found.some(suppressed(corners, scores, labels, overlap).numpy())


def standing(found: Findings, across: int, place: int) -> Findings:
    """Return the boxes of a slice, (n, 4), as boxes of the volume that it is cut from, one voxel thick along the axis `across`."""
    low, high = np.split(found.corners, 2, axis=1)
    corners = np.concatenate([np.insert(low, across, place, axis=1), np.insert(high, across, place + 1, axis=1)], axis=1)
    return Findings(corners, found.labels, found.scores)


def linked(slices: Sequence[Findings], across: int, overlap: float = LINK, hole: int = HOLE) -> Findings:
    """Return the boxes of a volume that boxes of its slices belong to.

    The surest box of all begins a thing: boxes of its class that overlap it within the plane, in slices that follow each other up to
    `hole` missing ones, are taken together. The thing has the score and the place within the plane of that box and reaches from the first
    to the last of these slices; then the surest of the boxes that are left begins the next one.

    Parameters
    ----------
    slices : sequence of Findings
        Of each slice, in order, (n, 4) corners.
    across : int
        The axis of the volume along which they follow each other.
    overlap : float
        Intersection over union within the plane.
    hole : int

    Returns
    -------
    Findings
        (n, 6) corners, the surest first.

    References
    ----------
    Jaeger et al., Retina U-Net: embarrassingly simple exploitation of segmentation supervision for medical object detection, ML4H 2020,
    arXiv:1811.08661.
    """
    place = np.repeat(np.arange(len(slices)), [len(each) for each in slices])
    every = [nothing(2), *slices]
    corners, labels, scores = (np.concatenate([getattr(each, name) for each in every]) for name in ("corners", "labels", "scores"))
    area = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    free = np.ones(len(labels), bool)
    things: list[Findings] = []
    for top in np.argsort(-scores, kind="stable"):
        if not free[top]:
            continue
        lengths = np.minimum(corners[:, 2:], corners[top, 2:]) - np.maximum(corners[:, :2], corners[top, :2])
        shared = np.prod(np.maximum(lengths, 0), axis=1)
        alike = free & (labels == labels[top]) & (shared > overlap * (area + area[top] - shared))
        alike[top] = True
        first, last = _stretch(np.unique(place[alike]), int(place[top]), hole)
        free &= ~(alike & (place >= first) & (place <= last))
        one = standing(Findings(corners[top : top + 1], labels[top : top + 1], scores[top : top + 1]), across, first)
        one.corners[:, 3 + across] = last + 1
        things.append(one)
    return joined(things)


def _stretch(places: np.ndarray, within: int, hole: int) -> tuple[int, int]:
    """Return the first and the last of ascending places that are joined to one of them without a hole larger than `hole`."""
    breaks = np.flatnonzero(np.diff(places) > hole + 1)
    part = int(np.searchsorted(places[breaks], within))
    starts, ends = np.r_[0, breaks + 1], np.r_[breaks, len(places) - 1]
    return int(places[starts[part]]), int(places[ends[part]])
