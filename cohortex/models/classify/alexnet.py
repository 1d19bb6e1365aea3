"""AlexNet (Krizhevsky et al., NeurIPS 2012), with the widths of its authors' version for one device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.classify.network import ClassificationNetwork, Pooled, dense_layers, to_grid
from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.layers import conv_norm

FEATURES = (64, 192, 384, 256, 256)


class AlexNet(ClassificationNetwork):
    """Five convolutions with three poolings, two hidden dense layers.

    The two halves that the paper computes on two devices are one here, as in Krizhevsky's own later version (arXiv:1404.5997), whose
    widths these are: 61,100,840 parameters. Local response norms are left out there too.

    Parameters
    ----------
    features : five ints
    hidden : int
        Of each dense layer.
    grid : int
        Edge of the maps that the dense layers see: other sizes are averaged to it.
    stem : {"paper", "small"}
        small: the first convolution has size 3 and stride 1 instead of 11 and 4, for pictures of some tens of pixels.
    norm : str
        The paper has none; ``batch`` learns more easily from nothing.
    dropout : float
        Before each dense layer but the last.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        features: Sequence[int] = FEATURES,
        hidden: int = 4096,
        grid: int = 6,
        stem: str = "paper",
        norm: str = "none",
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes)
        if len(features) != len(FEATURES) or stem not in ("paper", "small"):
            raise ValueError(f"AlexNet has five widths and the stem paper or small, not {list(features)} and {stem!r}")
        one, two, three, four, five = features
        first: dict[str, Any] = {"size": 11, "stride": 4, "padding": 2} if stem == "paper" else {"size": 3, "stride": 1, "padding": 1}
        self.convolutions = nn.Sequential(
            conv_norm(dimensions, channels, one, norm=norm, **first),
            Pooled(3),
            conv_norm(dimensions, one, two, 5, norm=norm),
            Pooled(3),
            conv_norm(dimensions, two, three, norm=norm),
            conv_norm(dimensions, three, four, norm=norm),
            conv_norm(dimensions, four, five, norm=norm),
            Pooled(3),
            to_grid(dimensions, grid),
        )
        self.dense = dense_layers(five * grid**dimensions, hidden, dropout)
        self.head = nn.Linear(hidden, classes)
        he_weights(self)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, hidden)."""
        return self.dense(self.convolutions(x).flatten(1))
