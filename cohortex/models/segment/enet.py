"""ENet (Paszke et al., arXiv:1606.02147): few filters, most of the work at an eighth of the resolution."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, drop, max_pool, norm_of, shaped_conv, transposed, unpooled

SECOND = ((3, 1), (3, 2), (5, 0), (3, 4), (3, 1), (3, 8), (5, 0), (3, 16))
"""Size and dilation of the bottlenecks of the second and the third stage; dilation 0 is an asymmetric one."""


def _norm_act(dimensions: int, channels: int, relu: bool) -> list[nn.Module]:
    return [norm_of("batch", dimensions, channels), nn.ReLU() if relu else nn.PReLU(channels)]


class Bottleneck(nn.Module):
    """Projection to a quarter of the filters, a convolution, expansion, dropout of channels; added to what comes in.

    Parameters
    ----------
    kind : {"regular", "down", "up"}
        down: stride 2, the other way pools and adds empty channels; up: a transposed convolution, the other way puts the values back to
        where the maxima of that pooling were.
    size, dilation : int
        Of the convolution in the middle; dilation 0: one along each axis in turn (asymmetric).
    relu : bool
        Instead of PReLU, as on the way up.
    """

    def __init__(
        self,
        dimensions: int,
        inward: int,
        outward: int,
        dropout: float,
        kind: str = "regular",
        size: int = 3,
        dilation: int = 1,
        relu: bool = False,
    ):
        super().__init__()
        self.kind, self.inward, self.outward = kind, inward, outward
        middle = max(1, inward // 4)
        first = {"size": 2, "stride": 2, "padding": 0} if kind == "down" else {"size": 1}
        if kind == "up":
            core: list[nn.Module] = [transposed(dimensions, middle, middle, 3, padding=1, output_padding=1, bias=False)]
        elif dilation == 0:
            core = []
            for axis in range(dimensions):
                kernel = [size if a == axis else 1 for a in range(dimensions)]
                core.append(shaped_conv(dimensions, middle, middle, kernel, bias=False))
        else:
            core = [conv(dimensions, middle, middle, size, dilation=dilation, bias=False)]
        self.main = nn.Sequential(
            conv(dimensions, inward, middle, bias=False, **first),  # pyright: ignore[reportArgumentType]
            *_norm_act(dimensions, middle, relu),
            *core,
            *_norm_act(dimensions, middle, relu),
            conv(dimensions, middle, outward, 1, bias=False),
            norm_of("batch", dimensions, outward),
            drop(dimensions, dropout),
        )
        self.act = nn.ReLU() if relu else nn.PReLU(outward)
        self.pool = max_pool(dimensions, return_indices=True)
        self.match = nn.Sequential(conv(dimensions, inward, outward, 1, bias=False), norm_of("batch", dimensions, outward))
        if kind != "up":
            self.match = nn.Sequential()

    def forward(self, x: torch.Tensor, places: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the features, and of a pooling where its maxima were."""
        found = None
        y = self.main(x)
        if self.kind == "down":
            other, found = self.pool(x)
            other = functional.pad(other, [0, 0] * (other.ndim - 2) + [0, self.outward - self.inward])
        elif self.kind == "up":
            assert places is not None
            other = unpooled(self.match(x), places, y.shape[2:])
        else:
            other = x
        return self.act(y + other), found


class ENet(SegmentationNetwork):
    """Initial block, two stages at a quarter and two eight-fold ones of dilated and asymmetric bottlenecks, a small way up.

    Parameters
    ----------
    width : int
        Filters of the initial block, 16 in the paper; the stages have 4 and 8 times as many.
    """

    def __init__(self, dimensions: int = 2, channels: int = 3, classes: int = 19, width: int = 16, dropout: float = 0.1):
        super().__init__(dimensions, channels, classes, 8)
        if width <= channels:
            raise ValueError(f"the initial block has the {channels} channels of the image beside its own filters; width is {width}")
        self.start = conv(dimensions, channels, width - channels, 3, stride=2, bias=False)
        self.start_norm = nn.Sequential(*_norm_act(dimensions, width, False))
        self.pool = max_pool(dimensions)
        few, many, early = 4 * width, 8 * width, dropout / 10
        regular = [Bottleneck(dimensions, few, few, early) for _ in range(4)]
        self.first = nn.ModuleList([Bottleneck(dimensions, width, few, early, "down"), *regular])
        self.second = nn.ModuleList([Bottleneck(dimensions, few, many, dropout, "down")])
        self.second.extend(Bottleneck(dimensions, many, many, dropout, size=s, dilation=d) for s, d in SECOND * 2)
        self.third = nn.ModuleList([Bottleneck(dimensions, many, few, dropout, "up", relu=True)])
        self.third.extend(Bottleneck(dimensions, few, few, dropout, relu=True) for _ in range(2))
        self.fourth = nn.ModuleList([Bottleneck(dimensions, few, width, dropout, "up", relu=True)])
        self.fourth.append(Bottleneck(dimensions, width, width, dropout, relu=True))
        self.head = transposed(dimensions, width, classes)
        he_weights(self)
        reach = Reach().conv(stride=2).pool().conv(times=4).pool()
        for size, dilation in SECOND * 2:
            reach.conv(size, dilation=max(1, dilation))
        self.halo = reach.grow(linear=True).conv(times=2).grow(linear=True).conv().grow().rounded(8)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        x = self.start_norm(torch.cat([self.start(x), self.pool(x)], 1))
        places: list[torch.Tensor] = []
        for stage in (self.first, self.second):
            for block in stage:
                x, found = block(x)
                if found is not None:
                    places.append(found)
        for stage in (self.third, self.fourth):
            where = places.pop()
            for block in stage:
                x, _ = block(x, where)
        return [self.head(x)]


def enet(dimensions: int = 2, channels: int = 3, classes: int = 19, width: int = 16, dropout: float = 0.1) -> ENet:
    """Build the ENet."""
    return ENet(dimensions, channels, classes, width, dropout)
