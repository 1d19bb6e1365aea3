"""Browse, then focus (Guan et al., Pattern Recognit. Lett. 2020): the whole image, then the part that it points to, then both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cohortex.models.classify.densenet import DenseNet
from cohortex.models.classify.network import ClassificationNetwork, MapsNetwork, averaged
from cohortex.models.classify.resnet import ResNet

BACKBONES = ("densenet", "resnet")


class BrowseFocus(ClassificationNetwork):
    """A global branch sees the image, a local one the part where the global's features are largest, a dense layer what both found.

    The heat of a place is the largest of its feature maps; places above a share of the largest heat form regions, and the part is the box
    round the largest region. The box is picked, not learned; within it the image is interpolated to the size of the input. Each branch
    has a head of its own, of which training makes losses too (`outputs`). The paper trains the branches one after another, here all are
    trained together.

    Parameters
    ----------
    backbone : {"densenet", "resnet"}
        Of both branches, each with weights of its own.
    growth, blocks, width, stem
        Of the backbone; see `DenseNet` and `ResNet` (whose `blocks` are those of each stage; it has no `growth`).
    bottleneck : bool
        Of the blocks of a ResNet.
    threshold : float
        Share of the heat's range; the paper's best is 0.7.
    dropout : float
        Before the last layer.
    """

    sees_all = "whole"
    """The branch whose layers see the image as it is: that is where maps of what it looked at come from."""

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 14,
        backbone: str = "densenet",
        growth: int = 32,
        blocks: Sequence[int] = (6, 12, 24, 16),
        width: int = 64,
        stem: str = "paper",
        bottleneck: bool = True,
        threshold: float = 0.7,
        dropout: float = 0.0,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        if backbone not in BACKBONES:
            raise ValueError(f"the backbone is {' or '.join(BACKBONES)}, not {backbone!r}")

        def branch() -> MapsNetwork:
            if backbone == "densenet":
                return DenseNet(dimensions, channels, classes, growth, blocks, width, stem=stem, dropout=dropout)
            kind = "plain" if stem == "paper" else stem
            return ResNet(dimensions, channels, classes, blocks, width, kind, bottleneck, dropout)

        self.whole, self.part = branch(), branch()
        self.threshold = threshold
        self.head = nn.Linear(self.whole.head.in_features + self.part.head.in_features, classes)
        self.outputs_weights = (1.0, 1.0, 1.0)

    def focused(self, x: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return the part of each image (n, channels, ...) that its features (n, width, ...) point to, of the image's size."""
        boxes = torch.from_numpy(hottest(maps.detach().abs().amax(1).cpu().numpy(), self.threshold)).to(x.device, x.dtype)
        return cropped(x, boxes)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return what both branches found, (n, widths)."""
        return torch.cat(self._found(x), 1)

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits of both branches together, of the whole and of the part."""
        whole, part = self._found(x)
        joined = self.head(self.dropout(torch.cat([whole, part], 1)))
        return [joined, self.whole.head(self.dropout(whole)), self.part.head(self.dropout(part))]

    def _found(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.whole.maps(x)
        return averaged(maps), self.part.vector(self.focused(x, maps))


def hottest(heat: np.ndarray, threshold: float) -> np.ndarray:
    """Return the box round the largest region of heat.

    Parameters
    ----------
    heat : (n, ...) array
    threshold : float
        What is above that share of the range of an image's heat belongs to a region; neighbours share a face, an edge or a corner.

    Returns
    -------
    (n, axes, 2) float32 array
        First and last edge of the box along each axis, as shares of the image's edge. An image of one heat everywhere is its own box.
    """
    from scipy import ndimage

    boxes = np.empty((len(heat), heat.ndim - 1, 2), np.float32)
    for image, box in zip(heat, boxes, strict=True):
        low, high = float(image.min()), float(image.max())
        hot = image >= low + threshold * (high - low)
        labelled: Any = ndimage.label(hot, np.ones([3] * image.ndim))
        regions = labelled[0]
        largest = 1 + int(np.argmax(np.bincount(regions[hot])[1:]))
        places = np.nonzero(regions == largest)
        box[:] = [(at.min() / n, (at.max() + 1) / n) for at, n in zip(places, image.shape, strict=True)]
    return boxes


def cropped(x: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Return what lies in each image's box (n, axes, 2), as shares of its edges, interpolated to the images' size (n, channels, ...)."""
    middle, half = boxes.sum(2) - 1, boxes[:, :, 1] - boxes[:, :, 0]
    # the sampler counts the last axis first
    places = torch.cat([torch.diag_embed(half.flip(1)), middle.flip(1)[:, :, None]], 2)
    grid = functional.affine_grid(places, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False, padding_mode="border")
