"""VGG (Simonyan and Zisserman, ICLR 2015): convolutions of size 3 alone, 11 to 19 layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.classify.network import ClassificationNetwork, Pooled, dense_layers, to_grid
from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.vgg import FEATURES, vgg_stages


class VGG(ClassificationNetwork):
    """Five stages of convolutions, each followed by a pooling by 2, and two hidden dense layers.

    Parameters
    ----------
    depth : {11, 13, 16, 19}
        Layers with weights.
    features : five ints
        Of the stages.
    hidden : int
        Of each dense layer.
    grid : int
        Edge of the maps that the dense layers see: other sizes are averaged to it.
    norm : str
        The paper has none; ``batch`` learns more easily from nothing.
    dropout : float
        Before each dense layer, and before the last one.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        depth: int = 16,
        features: Sequence[int] = FEATURES,
        hidden: int = 4096,
        grid: int = 7,
        norm: str = "none",
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        self.stages = vgg_stages(depth, dimensions, channels, features, norm)
        self.pool, self.grid = Pooled(), to_grid(dimensions, grid)
        self.dense = dense_layers(features[-1] * grid**dimensions, hidden, dropout)
        # the paper drops out behind the first two dense layers, not before the first
        self.dense[0] = nn.Identity()
        self.head = nn.Linear(hidden, classes)
        he_weights(self)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, hidden)."""
        for stage in self.stages:
            x = self.pool(stage(x))
        return self.dense(self.grid(x).flatten(1))
