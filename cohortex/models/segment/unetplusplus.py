"""U-Net++, also called nested U-Net (Zhou et al., DLMIA 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, double, max_pool, transposed


class UNetPlusPlus(SegmentationNetwork):
    """A triangle of nodes: node (i, j) sees all nodes (i, 0) to (i, j - 1) and the upsampled node (i + 1, j - 1).

    With deep supervision the nodes (0, 1), (0, 2), ... have a head each, and the logits are their mean (the paper's accurate mode). With
    `level` the output is that of the head (0, level) alone, and only what it needs is computed: the pruned network of the paper, which has
    the same weights. Without deep supervision the last node alone has a head, as in the count that the authors state.

    Parameters
    ----------
    norm : str
        The paper's count is without.
    level : int
        0: all heads.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 1,
        classes: int = 1,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str = "none",
        deep_supervision: bool = False,
        level: int = 0,
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2 ** (levels - 1))
        if not 0 <= level < levels or (level and not deep_supervision):
            raise ValueError(f"level is 0 (all) to {levels - 1}, and not 0 with deep_supervision only; it is {level}")
        self.level, self.levels = level, levels
        self.pool = max_pool(dimensions)
        self.nodes, self.grow = nn.ModuleDict(), nn.ModuleDict()
        for i, own in enumerate(features):
            self.nodes[f"{i}_0"] = double(dimensions, features[i - 1] if i else channels, own, norm)
            for j in range(1, levels - i):
                self.grow[f"{i}_{j}"] = transposed(dimensions, features[i + 1], own)
                self.nodes[f"{i}_{j}"] = double(dimensions, (j + 1) * own, own, norm)
        self.heads = nn.ModuleList(conv(dimensions, features[0], classes, 1) for _ in range(levels - 1 if deep_supervision else 1))
        if deep_supervision:
            self.outputs_weights = (0.0, *[1 / (levels - 1)] * (levels - 1))
        he_weights(self)
        reach = Reach()
        for _ in range(levels - 1):
            reach.conv(times=2).pool()
        reach.conv(times=2)
        for _ in range(levels - 1):
            reach.grow().conv(times=2)
        self.halo = reach.rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the mean of the heads, and with `deep` each head."""
        last = self.levels - 1 if deep or not self.level else self.level
        made: dict[tuple[int, int], torch.Tensor] = {}
        for i in range(last + 1):
            made[i, 0] = self.nodes[f"{i}_0"](self.pool(made[i - 1, 0]) if i else x)
        for j in range(1, last + 1):
            for i in range(last + 1 - j):
                before = [made[i, k] for k in range(j)]
                made[i, j] = self.nodes[f"{i}_{j}"](torch.cat([*before, self.grow[f"{i}_{j}"](made[i + 1, j - 1])], 1))
        if self.level and not deep:
            return [self.heads[self.level - 1](made[0, self.level])]
        if len(self.heads) == 1:
            return [self.heads[0](made[0, self.levels - 1])]
        heads = [head(made[0, j + 1]) for j, head in enumerate(self.heads)]
        mean = torch.stack(heads).mean(0)
        return [heads[self.level - 1] if self.level else mean, *(heads if deep else [])]


def unetplusplus(
    dimensions: int = 2,
    channels: int = 1,
    classes: int = 1,
    features: Sequence[int] = (32, 64, 128, 256, 512),
    norm: str = "none",
    deep_supervision: bool = False,
    level: int = 0,
) -> UNetPlusPlus:
    """Build the U-Net++."""
    return UNetPlusPlus(dimensions, channels, classes, features, norm, deep_supervision, level)
