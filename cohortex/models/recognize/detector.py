"""What networks that put boxes around things have in common: the interface, and maps of predictions as rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.recognize.boxes import Boxes, Found, best


class Detector(nn.Module, ABC):
    """A network that finds things of some classes, in images of any size.

    ``forward(x)`` takes (n, channels, ...) and returns what the network says, in a structure of its own; `loss` holds that against what
    is there, `detections` makes boxes of it. No image needs to have a box.

    Attributes
    ----------
    dimensions : {2, 3}
    channels : int
        Of the input.
    classes : int
        Of things; the background is none of them.
    chooses : bool
        Whether it has options that are `chosen` on held-out examples after its training.
    """

    chooses = False

    def __init__(self, dimensions: int, channels: int, classes: int):
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"dimensions is 2 or 3, not {dimensions}")
        if classes < 1:
            raise ValueError(f"classes is at least 1, not {classes}: the background is not counted")
        self.dimensions, self.channels, self.classes = dimensions, channels, classes

    @abstractmethod
    def loss(self, raw: Any, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the loss of a batch, a scalar.

        Parameters
        ----------
        raw : structure of torch.Tensor
            What ``forward`` returned.
        targets : sequence of Boxes
            One of each image; it may have no box.
        """

    @abstractmethod
    def detections(self, raw: Any, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the boxes of each image.

        Parameters
        ----------
        raw : structure of torch.Tensor
            What ``forward`` returned.
        shape : tuple of int
            Of the images, without channels; boxes are cut to it.
        score : float
            Boxes below are left out.
        overlap : float
            Intersection over union above which the surer of two boxes of a class takes the other away.
        most : int
            At most so many boxes of an image.
        """

    def chosen(self, examples: Sequence[tuple[Any, Boxes]]) -> dict[str, Any]:
        """Take the options that a network chooses on held-out examples once it has learned, and return them; most have none.

        Parameters
        ----------
        examples : sequence of (structure of torch.Tensor, Boxes)
            What ``forward`` returned of one image, and what is in it.
        """
        return {}


def rows_of(maps: Sequence[torch.Tensor], values: int) -> torch.Tensor:
    """Return predictions of all levels as rows.

    Parameters
    ----------
    maps : sequence of torch.Tensor
        (n, anchors * values, ...) of each level.
    values : int
        Of each anchor.

    Returns
    -------
    torch.Tensor
        (n, rows, values) float32: position by position of a level, anchor by anchor of a position, as `anchors.anchors_of` has them.
    """
    return torch.cat([m.unflatten(1, (-1, values)).flatten(3).permute(0, 3, 1, 2).flatten(1, 2) for m in maps], 1).float()


def surest(
    corners: torch.Tensor, scores: torch.Tensor, shape: Sequence[int], score: float, overlap: float, most: int, candidates: int = 1000
) -> Found:
    """Return the boxes of one image whose every row has a score for each class.

    Parameters
    ----------
    corners : torch.Tensor
        (rows, 2 * dimensions).
    scores : torch.Tensor
        (rows, classes) in 0..1.
    """
    values, places = scores.flatten().topk(min(candidates, scores.numel()))
    fine = values >= score
    values, places = values[fine], places[fine]
    classes = scores.shape[1]
    return best(corners[places // classes], values, places % classes, shape, score, overlap, most, candidates)
