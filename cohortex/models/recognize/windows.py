"""Several intensity windows with attention over them, before a feature pyramid (after Li et al., MVP-Net, MICCAI 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.retinanet import RetinaNet


class WindowedRetinaNet(RetinaNet):
    """Each window of the image goes through the same pyramid; at every position of every level attention says which to look at.

    Parameters
    ----------
    windows : sequence of (low, high)
        In the values of the input; what lies below and above becomes 0 and 1.
    **options
        Of `RetinaNet`.

    Notes
    -----
    MVP-Net has three windows of CT, a path with weights of its own for none of them, and attention of channels and places on the features
    of one level before a Faster R-CNN. Here it is attention of places, on every level, before the heads of RetinaNet.
    """

    def __init__(self, windows: Sequence[Sequence[float]] = ((0.0, 1.0), (0.0, 0.5), (0.25, 0.75)), **options: Any):
        super().__init__(**options)
        if not windows or any(len(window) != 2 or window[0] >= window[1] for window in windows):
            raise ValueError(f"windows are pairs of a low and a high value, not {windows}")
        self.windows = [(float(low), float(high)) for low, high in windows]
        filters = self.pyramid.outputs[0].out_channels
        assert isinstance(filters, int)
        self.attention = nn.Sequential(
            conv(self.dimensions, filters * len(self.windows), filters, 1),
            nn.ReLU(inplace=True),
            conv(self.dimensions, filters, len(self.windows)),
        )

    def views(self, x: torch.Tensor) -> torch.Tensor:
        """Return the windows of images (n, channels, ...) as images of their own, (n * windows, channels, ...)."""
        each = [((x - low) / (high - low)).clamp(0, 1) for low, high in self.windows]
        return torch.stack(each, 1).flatten(0, 1)

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the levels of the pyramid, each the mean of the windows' with the weights of the attention."""
        made = []
        for level in self.pyramid(self.views(x)):
            each = level.unflatten(0, (-1, len(self.windows)))
            weight = self.attention(each.flatten(1, 2)).softmax(1)
            made.append((weight[:, :, None] * each).sum(1))
        return made
