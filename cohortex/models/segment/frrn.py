"""Full-resolution residual networks A and B (Pohlen et al., CVPR 2017): two streams, one of which is never pooled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, conv_norm, nearest, norm_of

DOWN = {"A": ((96, 3), (192, 4), (384, 2), (384, 2)), "B": ((96, 3), (192, 4), (384, 2), (384, 2), (384, 2))}
"""Filters and units of each level on the way down."""
UP = {"A": ((192, 2), (192, 2), (96, 2)), "B": ((192, 2), (192, 2), (192, 2), (96, 2))}
"""And on the way up; the level of full resolution has none."""


class ResidualUnit(nn.Module):
    """Two convolutions with batch norms, added to what comes in."""

    def __init__(self, dimensions: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            conv_norm(dimensions, width, width, bias=False),
            conv(dimensions, width, width, bias=False),
            norm_of("batch", dimensions, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape that comes in."""
        return x + self.layers(x)


class FullResolutionUnit(nn.Module):
    """Sees both streams at the pooled resolution; makes the pooled stream anew and adds to the other one at full resolution."""

    def __init__(self, dimensions: int, inward: int, width: int, lane: int, scale: int):
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            conv_norm(dimensions, inward + lane, width, bias=False), conv_norm(dimensions, width, width, bias=False)
        )
        self.back = conv(dimensions, width, lane, 1)

    def forward(self, pooled: torch.Tensor, lane: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both streams."""
        y = self.layers(torch.cat([pooled, _pool(lane, self.scale)], 1))
        return y, lane + nearest(self.back(y), self.scale)


class FRRN(SegmentationNetwork):
    """A stream of residuals at full resolution and one that is pooled and unpooled, joined in every unit.

    Parameters
    ----------
    kind : {"A", "B"}
        B has one more pooling.
    width, lane : int
        Filters of the residual units at both ends, and of the stream at full resolution.
    factor : float
        Of all numbers of filters of the pooled stream.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 19,
        kind: str = "A",
        width: int = 48,
        lane: int = 32,
        factor: float = 1.0,
    ):
        if kind not in DOWN:
            raise ValueError(f"kind is A or B, not {kind!r}")
        super().__init__(dimensions, channels, classes, 2 ** len(DOWN[kind]))
        self.start = nn.Sequential(
            conv_norm(dimensions, channels, width, 5, bias=False), *(ResidualUnit(dimensions, width) for _ in range(3))
        )
        self.split = conv(dimensions, width, lane, 1)
        self.units = nn.ModuleList()
        self.levels: list[tuple[int, int]] = []
        """Of each level its scale and its number of units, in their order."""
        inward, scale, reach = width, 1, Reach().conv(5).conv(times=6)
        plan: Sequence[tuple[int, int, int]] = [(f, n, 2) for f, n in DOWN[kind]] + [(f, n, -2) for f, n in UP[kind]]
        for filters, count, step in plan:
            own = max(1, round(filters * factor))
            scale = scale * 2 if step > 0 else scale // 2
            reach = reach.pool() if step > 0 else reach.grow()
            for _ in range(count):
                self.units.append(FullResolutionUnit(dimensions, inward, own, lane, scale))
                inward = own
            reach.conv(times=2 * count)
            self.levels.append((scale, count))
        self.join = conv(dimensions, inward + lane, width, 1)
        self.end = nn.Sequential(*(ResidualUnit(dimensions, width) for _ in range(3)), conv(dimensions, width, classes, 1))
        he_weights(self)
        self.halo = reach.grow().conv(times=6).rounded(self.multiple)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        x = self.start(x)
        lane, before = self.split(x), 1
        units = iter(self.units)
        for scale, count in self.levels:
            x = _pool(x, 2) if scale > before else nearest(x)
            before = scale
            for _ in range(count):
                x, lane = next(units)(x, lane)
        return [self.end(self.join(torch.cat([nearest(x), lane], 1)))]


def _pool(x: torch.Tensor, size: int) -> torch.Tensor:
    return (functional.max_pool3d if x.ndim == 5 else functional.max_pool2d)(x, size)


def frrn(
    dimensions: int = 2,
    channels: int = 3,
    classes: int = 19,
    kind: str = "A",
    width: int = 48,
    lane: int = 32,
    factor: float = 1.0,
) -> FRRN:
    """Build an FRRN."""
    return FRRN(dimensions, channels, classes, kind, width, lane, factor)
