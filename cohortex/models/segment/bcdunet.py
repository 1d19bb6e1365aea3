"""BCDU-Net: bi-directional ConvLSTM U-Net with densely connected convolutions (Azad et al., ICCV Workshops 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, double, max_pool, norm_of, transposed


class ConvLSTM(nn.Module):
    """Long short-term memory whose gates are convolutions of size 3 (Shi et al., NeurIPS 2015), without peepholes."""

    def __init__(self, dimensions: int, inward: int, width: int):
        super().__init__()
        self.width = width
        self.gates = conv(dimensions, inward + width, 4 * width)

    def forward(self, sequence: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the hidden state (n, width, ...) after a sequence of (n, inward, ...)."""
        first = sequence[0]
        hidden = first.new_zeros(len(first), self.width, *first.shape[2:])
        cell = hidden
        for x in sequence:
            enter, forget, leave, new = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(leave) * torch.tanh(cell)
        return hidden


class Fusion(nn.Module):
    """Joins a skip and the features from below, as a sequence of two that is read from both ends; or by concatenation.

    The paper's output gate of both directions is ``tanh`` of a convolution of both; its size is not said, 1 here.
    """

    def __init__(self, dimensions: int, width: int, lstm: bool):
        super().__init__()
        self.lstm = lstm
        if lstm:
            self.onward, self.backward_ = ConvLSTM(dimensions, width, width // 2), ConvLSTM(dimensions, width, width // 2)
            self.out = conv(dimensions, width // 2 * 2, width, 1)

    def forward(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Return (n, width, ...) of two of that shape; by concatenation (n, 2 width, ...)."""
        if not self.lstm:
            return torch.cat([skip, below], 1)
        return torch.tanh(self.out(torch.cat([self.onward([skip, below]), self.backward_([below, skip])], 1)))


class BCDUNet(SegmentationNetwork):
    """U-Net whose skips meet the way up in a bi-directional ConvLSTM, and whose lowest level is densely connected.

    Parameters
    ----------
    blocks : int
        At the lowest level, each of two convolutions that see what all blocks before made; 1 is a plain U-Net there.
    lstm : bool
        Off: skips by concatenation.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 3,
        lstm: bool = True,
        dropout: float = 0.5,
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2 ** (levels - 1))
        inward = [channels, *features[:-2]]
        self.down = nn.ModuleList(double(dimensions, a, b) for a, b in zip(inward, features[:-1], strict=True))
        self.pool = max_pool(dimensions)
        last = features[-1]
        widths = [features[-2], *(last * max(1, number) for number in range(1, blocks))]
        self.dense = nn.ModuleList(nn.Sequential(double(dimensions, width, last), nn.Dropout(dropout)) for width in widths)
        pairs = list(zip([*features[1:-1], last], features[:-1], strict=True))[::-1]
        self.grow = nn.ModuleList(
            nn.Sequential(transposed(dimensions, below, own), norm_of("batch", dimensions, own), nn.ReLU(inplace=True))
            for below, own in pairs
        )
        self.fuse = nn.ModuleList(Fusion(dimensions, own, lstm) for _, own in pairs)
        self.up = nn.ModuleList(double(dimensions, own if lstm else 2 * own, own) for _, own in pairs)
        self.head = conv(dimensions, features[0], classes, 1)
        he_weights(self)
        reach = Reach()
        for _ in range(levels - 1):
            reach.conv(times=2).pool()
        reach.conv(times=2 * blocks)
        for _ in range(levels - 1):
            reach.grow().conv(times=(2 if lstm else 0) + 2)
        self.halo = reach.rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        skips: list[torch.Tensor] = []
        for pair in self.down:
            x = pair(x)
            skips.append(x)
            x = self.pool(x)
        made: list[torch.Tensor] = []
        for block in self.dense:
            made.append(block(torch.cat(made, 1) if made else x))
        x = made[-1]
        for grow, fuse, pair in zip(self.grow, self.fuse, self.up, strict=True):
            x = pair(fuse(skips.pop(), grow(x)))
        return [self.head(x)]


def bcdunet(
    dimensions: int = 2,
    channels: int = 1,
    classes: int = 2,
    features: Sequence[int] = (64, 128, 256, 512),
    blocks: int = 3,
    lstm: bool = True,
    dropout: float = 0.5,
) -> BCDUNet:
    """Build the BCDU-Net."""
    return BCDUNet(dimensions, channels, classes, features, blocks, lstm, dropout)
