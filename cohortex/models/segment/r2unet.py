"""R2U-Net: recurrent residual U-Net (Alom et al., arXiv:1802.06955; J. Med. Imaging 6(1), 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, conv_norm, max_pool, nearest


class Recurrent(nn.Module):
    """One convolution that sees its input and what it made the time before, `steps` times again."""

    def __init__(self, dimensions: int, width: int, steps: int):
        super().__init__()
        self.steps = steps
        self.layer = conv_norm(dimensions, width, width, act=nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the last step."""
        y = self.layer(x)
        for _ in range(self.steps):
            y = self.layer(x + y)
        return y


class Block(nn.Module):
    """A 1 x 1 convolution and two recurrent ones, whose result is added to what the first made."""

    def __init__(self, dimensions: int, inward: int, width: int, steps: int):
        super().__init__()
        self.first = conv(dimensions, inward, width, 1)
        self.layers = nn.Sequential(Recurrent(dimensions, width, steps), Recurrent(dimensions, width, steps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        x = self.first(x)
        return x + self.layers(x)


class R2UNet(SegmentationNetwork):
    """U-Net of recurrent residual blocks, with upsampling by repetition and a convolution.

    Parameters
    ----------
    steps : int
        Recurrences of each convolution, t in the paper; 0 is a residual U-Net with the same parameters.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        steps: int = 2,
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2 ** (levels - 1))
        inward = [channels, *features[:-1]]
        self.down = nn.ModuleList(Block(dimensions, a, b, steps) for a, b in zip(inward, features, strict=True))
        self.pool = max_pool(dimensions)
        pairs = list(zip(features[1:], features[:-1], strict=True))[::-1]
        self.grow = nn.ModuleList(conv_norm(dimensions, below, own) for below, own in pairs)
        self.up = nn.ModuleList(Block(dimensions, 2 * own, own, steps) for _, own in pairs)
        self.head = conv(dimensions, features[0], classes, 1)
        he_weights(self)
        reach, times = Reach(), 2 * (steps + 1)
        for _ in range(levels - 1):
            reach.conv(times=times).pool()
        reach.conv(times=times)
        for _ in range(levels - 1):
            reach.grow().conv(times=1 + times)
        self.halo = reach.rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        skips: list[torch.Tensor] = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        x = skips.pop()
        for grow, block in zip(self.grow, self.up, strict=True):
            x = block(torch.cat([skips.pop(), grow(nearest(x))], 1))
        return [self.head(x)]


def r2unet(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 1,
    features: Sequence[int] = (64, 128, 256, 512, 1024),
    steps: int = 2,
) -> R2UNet:
    """Build the R2U-Net."""
    return R2UNet(dimensions, channels, classes, features, steps)
