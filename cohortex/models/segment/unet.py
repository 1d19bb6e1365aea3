"""U-Net (Ronneberger et al., MICCAI 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, cut_to, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, double, max_pool, transposed


class UNet(SegmentationNetwork):
    """Two convolutions of size 3 a level, pooling by 2, up-convolutions of size 2, skips by concatenation.

    Parameters
    ----------
    valid : bool
        The paper's: convolutions without padding, so that the output is smaller than what comes in. Here the input is then continued by
        reflection beforehand (the paper's overlap-tile strategy), and the output is as large as the input. Off: zeros around.
    norm : str
        The paper has none.
    dropout : float
        At the end of the way down.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        valid: bool = True,
        norm: str = "none",
        dropout: float = 0.5,
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 1 if valid else 2 ** (levels - 1))
        self.valid, around = valid, 0 if valid else 1
        inward = [channels, *features[:-1]]
        self.down = nn.ModuleList(double(dimensions, a, b, norm, padding=around) for a, b in zip(inward, features, strict=True))
        self.pool = max_pool(dimensions)
        self.drop = nn.Dropout(dropout)
        steps = list(zip(features[1:], features[:-1], strict=True))[::-1]
        self.grow = nn.ModuleList(transposed(dimensions, below, own) for below, own in steps)
        self.up = nn.ModuleList(double(dimensions, 2 * own, own, norm, padding=around) for _, own in steps)
        self.head = conv(dimensions, features[0], classes, 1)
        he_weights(self)
        reach = Reach()
        for _ in range(levels - 1):
            reach.conv(times=2).pool()
        reach.conv(times=2)
        for _ in range(levels - 1):
            reach.grow().conv(times=2)
        self.multiple = 2 ** (levels - 1)
        self.halo = reach.rounded(self.multiple)

    def _fitted(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.valid else super()._fitted(x)

    def _full(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return cut_to(y, x.shape[2:])

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        if self.valid:
            for axis in range(2, x.ndim):
                x = mirrored(x, axis, *valid_margins(x.shape[axis], len(self.down)))
        skips: list[torch.Tensor] = []
        for level, pair in enumerate(self.down):
            x = pair(self.pool(x) if level else x)
            skips.append(x)
        x = self.drop(skips.pop())
        for grow, pair in zip(self.grow, self.up, strict=True):
            x = grow(x)
            skip = skips.pop()
            spare = [(a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
            kept = (slice(None), slice(None), *(slice(s, s + n) for s, n in zip(spare, x.shape[2:], strict=True)))
            x = pair(torch.cat([skip[kept], x], 1))
        return [self.head(x)]


def valid_margins(size: int, levels: int) -> tuple[int, int]:
    """Return how many voxels come before and behind `size` so that unpadded convolutions leave at least these.

    Two convolutions of size 3 a level take 4 voxels each time; every pooling halves an even number.
    """
    bottom = 1
    while True:
        inward, outward = bottom + 4, bottom
        for _ in range(levels - 1):
            inward, outward = 2 * inward + 4, 2 * outward - 4
        if outward >= size:
            margin = (inward - outward) // 2
            return margin, inward - margin - size
        bottom += 1


def mirrored(x: torch.Tensor, axis: int, before: int, behind: int) -> torch.Tensor:
    """Return a tensor continued along an axis by reflection, as often as is needed."""
    size = x.shape[axis]
    place = torch.arange(-before, size + behind, device=x.device)
    period = max(1, 2 * (size - 1))
    place = place.remainder(period)
    return x.index_select(axis, torch.where(place > size - 1, period - place, place))


def unet(
    dimensions: int = 2,
    channels: int = 1,
    classes: int = 2,
    features: Sequence[int] = (64, 128, 256, 512, 1024),
    valid: bool = True,
    norm: str = "none",
    dropout: float = 0.5,
) -> UNet:
    """Build the U-Net."""
    return UNet(dimensions, channels, classes, features, valid, norm, dropout)
