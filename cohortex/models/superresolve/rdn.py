"""Residual dense network on planes (Zhang et al. 2018), the trunk of SAINT."""

from __future__ import annotations

import torch
from torch import nn


class ResidualDenseBlock(nn.Module):
    """Densely connected 3 x 3 convolutions, joined by 1 x 1, and a shortcut."""

    def __init__(self, width: int, growth: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width + i * growth, growth, 3, padding=1) for i in range(layers))
        self.join = nn.Conv2d(width + layers * growth, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the input's width."""
        seen = x
        for layer in self.layers:
            seen = torch.cat([seen, torch.relu_(layer(seen))], 1)
        return x + self.join(seen)


class ResidualDenseNetwork(nn.Module):
    """Features by a residual dense network, Zhang et al., CVPR 2018, doi:10.1109/CVPR.2018.00262, without its upsampling.

    Two convolutions, residual dense blocks, all blocks' outputs joined by 1 x 1 and 3 x 3 convolutions, and the first features again.
    Input (n, channels, rows, columns); output (n, width, rows, columns).
    """

    def __init__(self, channels: int, width: int, blocks: int, layers: int, growth: int):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate")
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(width, growth, layers) for _ in range(blocks))
        self.join = nn.Sequential(nn.Conv2d(blocks * width, width, 1), nn.Conv2d(width, width, 3, padding=1))
        self.halo = 3 + blocks * layers
        """Pixels at most this far away decide about a feature."""

    def sums(self) -> list[nn.Module]:
        """Return the layers whose output is added to features."""
        return [*(block.join for block in self.blocks), self.join[-1]]  # pyright: ignore[reportReturnType]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        first = self.first(x)
        y, found = self.second(first), []
        for block in self.blocks:
            y = block(y)
            found.append(y)
        return self.join(torch.cat(found, 1)) + first
