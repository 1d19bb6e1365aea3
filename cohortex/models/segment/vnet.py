"""V-Net (Milletari et al., 3DV 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, norm_of, transposed


class Stage(nn.Module):
    """Convolutions of size 5 with PReLU, the input of the stage added before the last PReLU."""

    def __init__(self, dimensions: int, inward: int, width: int, times: int, norm: str):
        super().__init__()
        self.convs = nn.ModuleList(conv(dimensions, inward if i == 0 else width, width, 5) for i in range(times))
        self.norms = nn.ModuleList(norm_of(norm, dimensions, width) for _ in range(times))
        self.acts = nn.ModuleList(nn.PReLU(width) for _ in range(times))

    def forward(self, x: torch.Tensor, added: torch.Tensor) -> torch.Tensor:
        """Return the stage's features; `added` has their width."""
        for number, (layer, norm, act) in enumerate(zip(self.convs, self.norms, self.acts, strict=True)):
            x = norm(layer(x))
            x = act(x + added if number == len(self.convs) - 1 else x)
        return x


class VNet(SegmentationNetwork):
    """Residual stages, convolutions of size 2 and stride 2 instead of pooling, transposed ones on the way up.

    On the way up a stage sees what comes from below beside the skip, and adds the one from below, brought to its width by the transposed
    convolution. The first stage adds the image, repeated to the width. Widths below and above are the paper's (its figure 2); trained
    with the Dice of squared sums, `squared_dice` of `cohortex.training.objectives.labels`.

    Parameters
    ----------
    features, depths : sequence of int
        Width and convolutions of each stage on the way down.
    norm : str
        The paper has none.
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        depths: Sequence[int] = (1, 2, 3, 3, 3),
        norm: str = "none",
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2 ** (levels - 1))
        if features[0] % channels:
            raise ValueError(f"the first width, {features[0]}, is a multiple of the {channels} channels, which are repeated to it")
        if len(depths) != levels:
            raise ValueError(f"there are {levels} features and {len(depths)} depths; give one depth a stage")
        self.shrink, self.down = nn.ModuleList(), nn.ModuleList()
        for level, (width, depth) in enumerate(zip(features, depths, strict=True)):
            if level:
                before = conv(dimensions, features[level - 1], width, 2, stride=2, padding=0)
                self.shrink.append(nn.Sequential(before, norm_of(norm, dimensions, width), nn.PReLU(width)))
            self.down.append(Stage(dimensions, width if level else channels, width, depth, norm))
        self.grow, self.up = nn.ModuleList(), nn.ModuleList()
        # on the way up a stage is twice as wide as its skip: the skip and as much from below
        below = features[-1]
        for width, depth in list(zip(features[:-1], depths[:-1], strict=True))[::-1]:
            self.grow.append(nn.Sequential(transposed(dimensions, below, width), norm_of(norm, dimensions, width), nn.PReLU(width)))
            self.up.append(Stage(dimensions, 2 * width, 2 * width, depth, norm))
            below = 2 * width
        self.head = conv(dimensions, below, classes, 1)
        he_weights(self)
        reach = Reach()
        for depth in depths[:-1]:
            reach.conv(5, depth).pool()
        reach.conv(5, depths[-1])
        for depth in reversed(depths[:-1]):
            reach.grow().conv(5, depth)
        self.halo = reach.rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        skips: list[torch.Tensor] = []
        for level, stage in enumerate(self.down):
            if level:
                x = self.shrink[level - 1](x)
                x = stage(x, x)
            else:
                width = stage.convs[0].out_channels  # pyright: ignore
                x = stage(x, x.repeat_interleave(width // self.channels, 1))
            skips.append(x)
        x = skips.pop()
        for grow, stage in zip(self.grow, self.up, strict=True):
            joined = torch.cat([grow(x), skips.pop()], 1)
            x = stage(joined, joined)
        return [self.head(x)]


def vnet(
    dimensions: int = 3,
    channels: int = 1,
    classes: int = 2,
    features: Sequence[int] = (16, 32, 64, 128, 256),
    depths: Sequence[int] = (1, 2, 3, 3, 3),
    norm: str = "none",
) -> VNet:
    """Build the V-Net."""
    return VNet(dimensions, channels, classes, features, depths, norm)
