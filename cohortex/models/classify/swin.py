"""Swin transformer (Liu et al., ICCV 2021): attention within windows that shift from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.classify.network import MapsNetwork
from cohortex.models.denoise.layers import conv, to_multiple
from cohortex.models.segment.swin_unetr import Merging, WindowLayer
from cohortex.models.segment.transformer import even_weights


class Swin(MapsNetwork):
    """Stages of window attention with patches merged between them, the mean of the last tokens, one dense layer. Swin-T by default.

    The cost grows as the number of pixels, not as its square.

    Parameters
    ----------
    patch : int
        Edge of the first tokens in pixels; 2 or 1 for pictures of some tens of pixels.
    width : int
        Of the first stage; each further one has twice that.
    depths, heads : sequence of int
        Layers and heads of each stage.
    window : int
        Edge of the windows, in tokens.
    ratio : int
        Hidden width of the perceptrons, as a multiple.
    skip : float
        Share of images that skip the last layer in training; layers before skip less, the first never (the paper's is 0.2).
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        patch: int = 4,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        ratio: int = 4,
        skip: float = 0.2,
    ):
        super().__init__(dimensions, channels, classes)
        if len(heads) != len(depths):
            raise ValueError(f"there are {len(depths)} depths and {len(heads)} heads; give one number of heads a stage")
        self.patch = patch
        self.embed = conv(dimensions, channels, width, patch, stride=patch, padding=0)
        self.first_norm = nn.LayerNorm(width)
        layers: list[nn.Module] = []
        last, number = max(1, sum(depths) - 1), 0
        for stage, (depth, own) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                layers.append(Merging(dimensions, width))
                width *= 2
            for layer in range(depth):
                layers.append(WindowLayer(dimensions, width, own, window, layer % 2 == 1, ratio, skip * number / last))
                number += 1
        self.body = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        # the paper's weights, of standard deviation 0.02, are too small for narrow networks to learn from
        even_weights(self)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last tokens (n, width, ...)."""
        tokens = self.first_norm(self.embed(to_multiple(x, self.patch)).movedim(1, -1))
        return self.norm(self.body(tokens)).movedim(-1, 1)
