"""What the networks that classify pictures and volumes have in common: a vector of features, a last layer, and the losses' heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.segment.layers import conv_norm


class ClassificationNetwork(nn.Module, ABC):
    """A network whose output is the logits of the classes of an image.

    ``forward(x)`` takes (n, channels, ...) float32 and returns (n, classes), the last layer `head` of ``vector(x)``. ``outputs(x)``
    returns a list: the same logits first, then those of the further heads that the paper trains with. Training makes a weighted sum of
    their losses; everybody else calls the network.

    Attributes
    ----------
    dimensions : {2, 3}
    channels, classes : int
    head : nn.Linear
        The last layer.
    outputs_weights : tuple of float
        What the losses of `outputs` count, the first for the logits themselves.
    """

    head: nn.Linear

    def __init__(self, dimensions: int, channels: int, classes: int, dropout: float = 0.0):
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"dimensions is 2 or 3, not {dimensions}")
        self.dimensions, self.channels, self.classes = dimensions, channels, classes
        self.dropout = nn.Dropout(dropout)
        self.outputs_weights: tuple[float, ...] = (1.0,)

    @abstractmethod
    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, width) that the last layer looks at."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes)."""
        return self.head(self.dropout(self.vector(x)))

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits and those of the further heads, each (n, classes)."""
        return [self(x)]


class MapsNetwork(ClassificationNetwork):
    """A network whose vector is the mean of its last feature maps over space, so that a class has a map of where it comes from."""

    @abstractmethod
    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps (n, width, ...)."""

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, width) that the last layer looks at."""
        return averaged(self.maps(x))


def averaged(x: torch.Tensor) -> torch.Tensor:
    """Return the mean (n, width) of (n, width, ...) over space."""
    return x.flatten(2).mean(2)


class Pooled(nn.Module):
    """A maximum pooling whose last window may be cut off by the end, so that however small a map keeps at least one value."""

    def __init__(self, size: int = 2, stride: int = 2):
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maxima (n, c, ...) of (n, c, ...)."""
        pool: Any = functional.max_pool3d if x.ndim == 5 else functional.max_pool2d
        return pool(x, [min(self.size, n) for n in x.shape[2:]], self.stride, ceil_mode=True)


def to_grid(dimensions: int, grid: int) -> nn.Module:
    """Return an average pooling to `grid` values along each axis, whatever comes in."""
    return (nn.AdaptiveAvgPool3d if dimensions == 3 else nn.AdaptiveAvgPool2d)(grid)


def dense_layers(inward: int, hidden: int, dropout: float) -> nn.Sequential:
    """Return the two hidden dense layers of AlexNet and VGG, with ReLU, and dropout before each."""
    rows = [[nn.Dropout(dropout), nn.Linear(a, b), nn.ReLU(inplace=True)] for a, b in pairwise([inward, hidden, hidden])]
    return nn.Sequential(*(layer for row in rows for layer in row))


def small_stages(dimensions: int, channels: int, widths: Sequence[int], norm: str = "batch") -> nn.Sequential:
    """Return two convolutions of size 3 and a pooling a width, which halves the grid."""
    layers: list[nn.Module] = []
    for before, own in pairwise((channels, *widths)):
        bias = norm == "none"
        layers += [conv_norm(dimensions, before, own, norm=norm, bias=bias), conv_norm(dimensions, own, own, norm=norm, bias=bias)]
        layers.append(Pooled())
    return nn.Sequential(*layers)
