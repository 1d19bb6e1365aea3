"""GoogLeNet (Szegedy et al., CVPR 2015): convolutions of several sizes side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cohortex.models.classify.network import MapsNetwork, Pooled, averaged, to_grid
from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.layers import conv_norm

MODULES: tuple[tuple[tuple[int, int, int, int, int, int], ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""The paper's table: of each module of stages 3, 4 and 5 the widths of 1 x 1, 3 x 3 (reduced first), 5 x 5 (reduced first), pooled."""


class Inception(nn.Module):
    """Four branches side by side: 1 x 1; 1 x 1 then 3 x 3; 1 x 1 then 5 x 5; pooling then 1 x 1."""

    def __init__(self, dimensions: int, inward: int, widths: tuple[int, ...], norm: str, large: int):
        super().__init__()
        one, three_less, three, five_less, five, pool = widths
        bias = norm == "none"

        def step(before: int, own: int, size: int) -> nn.Module:
            return conv_norm(dimensions, before, own, size, norm=norm, bias=bias)

        self.branches = nn.ModuleList(
            [
                step(inward, one, 1),
                nn.Sequential(step(inward, three_less, 1), step(three_less, three, 3)),
                nn.Sequential(step(inward, five_less, 1), step(five_less, five, large)),
                nn.Sequential(_same_pool(dimensions), step(inward, pool, 1)),
            ]
        )
        self.width = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the branches' maps beside each other."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Auxiliary(nn.Sequential):
    """A further head on maps in the middle: averaged to 4 along each axis, 1 x 1 convolution, dense layer, classes."""

    def __init__(self, dimensions: int, inward: int, classes: int, narrow: int, hidden: int):
        super().__init__(
            to_grid(dimensions, 4),
            conv_norm(dimensions, inward, narrow, 1, norm="none"),
            nn.Flatten(),
            nn.Linear(narrow * 4**dimensions, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.7),
            nn.Linear(hidden, classes),
        )


class GoogLeNet(MapsNetwork):
    """Nine modules in three stages, the mean of the last maps, one dense layer.

    Parameters
    ----------
    width : float
        Factor of all widths.
    stem : {"paper", "small"}
        paper: halves the grid three times before the modules. small: convolutions of size 3 on the grid of the input, one pooling.
    norm : str
        none: as in the paper, with local response norms. batch: as in the version that others trained since, which learns without the
        further heads.
    large : {5, 3}
        Size of the large convolutions; the versions with batch norms have 3 (6,624,904 parameters with both).
    auxiliary : bool
        Further heads behind the first and the fourth module of stage 4; their losses count 0.3 (`outputs`).
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        width: float = 1.0,
        stem: str = "paper",
        norm: str = "none",
        large: int = 5,
        auxiliary: bool = False,
        dropout: float = 0.4,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        if stem not in ("paper", "small"):
            raise ValueError(f"the stem is paper or small, not {stem!r}")

        def wide(number: int) -> int:
            return max(1, round(number * width))

        def step(before: int, own: int, size: int, **options: Any) -> nn.Module:
            return conv_norm(dimensions, before, own, size, norm=norm, bias=norm == "none", **options)

        def response() -> list[nn.Module]:
            return [nn.LocalResponseNorm(5)] if norm == "none" else []

        paper = stem == "paper"
        self.stem = nn.Sequential(
            step(channels, wide(64), 7, stride=2) if paper else step(channels, wide(64), 3),
            *([Pooled(3)] if paper else []),
            *response(),
            step(wide(64), wide(64), 1),
            step(wide(64), wide(192), 3),
            *response(),
            Pooled(3),
        )
        inward = wide(192)
        self.stages = nn.ModuleList()
        fed: list[int] = []
        for stage in MODULES:
            modules = nn.ModuleList()
            for widths in stage:
                modules.append(Inception(dimensions, inward, tuple(wide(n) for n in widths), norm, large))
                inward = sum(wide(n) for n in (widths[0], widths[2], widths[4], widths[5]))
                fed.append(inward)
            self.stages.append(modules)
        self.pool = Pooled(3)
        self.auxiliary = nn.ModuleList(Auxiliary(dimensions, fed[n], classes, wide(128), wide(1024)) for n in ((2, 5) if auxiliary else ()))
        if auxiliary:
            self.outputs_weights = (1.0, 0.3, 0.3)
        self.head = nn.Linear(inward, classes)
        he_weights(self, self.head)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last feature maps (n, width, ...)."""
        return self._made(x)[-1]

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits and, where there are further heads, theirs."""
        made = self._made(x)
        further = [head(made[n]) for head, n in zip(self.auxiliary, (2, 5), strict=False)]
        return [self.head(self.dropout(averaged(made[-1]))), *further]

    def _made(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of all nine modules."""
        x = self.stem(x)
        made: list[torch.Tensor] = []
        for number, stage in enumerate(self.stages):
            x = self.pool(x) if number else x
            assert isinstance(stage, nn.ModuleList)
            for module in stage:
                x = module(x)
                made.append(x)
        return made


def _same_pool(dimensions: int) -> nn.Module:
    """Return a maximum over 3 along each axis, as large as its input."""
    return (nn.MaxPool3d if dimensions == 3 else nn.MaxPool2d)(3, stride=1, padding=1)
