"""HybridNet: dense paths of different depths side by side, each with its weight (Zheng et al. 2020)."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.superresolve import between
from cohortex.models.superresolve.blocks import Blocks
from cohortex.models.superresolve.layers import conv, first_weights, sees


class DensePath(nn.Module):
    """Densely connected 3 x 3 x 3 convolutions: each sees the block's input and all before it; 1 x 1 x 1 brings them back to `width`."""

    def __init__(self, width: int, growth: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(conv(width + i * growth, growth) for i in range(layers))
        self.out = conv(width + layers * growth, width, (1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the input's width."""
        for layer in self.layers:
            x = torch.cat([x, torch.relu_(layer(x))], 1)
        return self.out(x)


class HybridBlock(nn.Module):
    """Dense paths of one to `branches` layers beside each other, summed with learnt weights that sum to one, and the block's input."""

    def __init__(self, width: int, growth: int, branches: int):
        super().__init__()
        self.paths = nn.ModuleList(DensePath(width, growth, layers) for layers in range(1, branches + 1))
        self.weights = nn.Parameter(torch.zeros(branches)) if branches > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the input's width."""
        if self.weights is None:
            return x + self.paths[0](x)
        shares = torch.softmax(self.weights, 0)
        return x + sum(share * path(x) for share, path in zip(shares, self.paths, strict=True))


class HybridSr(Blocks):
    """HybridNet of Zheng et al., Medical Physics 47(7), 2020, in three dimensions on the slices' grid.

    Hybrid blocks widen the network by a multi-path structure of dense blocks; the features of all blocks are joined, and a sub-pixel
    convolution makes `factor` fine voxels of each slice.

    Input (n, 1, x, y, slices); output (n, 1, x, y, slices * factor), which is added to the interpolated slices. Chosen here: widths and
    counts (small, for a CPU), paths of one, two, ... dense layers, one learnt weight a path.

    Parameters
    ----------
    factor : int
    width, growth : int
        Channels between blocks, and of a dense layer.
    blocks : int
    branches : int
        Paths of a block; 1 is the ablation without branches.
    """

    grid = "slices"
    channels = 1

    def __init__(self, factor: int = 2, width: int = 32, growth: int = 16, blocks: int = 3, branches: int = 3):
        super().__init__()
        self.factor = factor
        self.head = sees(1, width)
        self.blocks = nn.ModuleList(HybridBlock(width, growth, branches) for _ in range(blocks))
        self.join = conv(blocks * width, width, (1, 1, 1))
        self.last = conv(width, factor)
        inner = [path.out for block in self.blocks for path in block.paths]  # pyright: ignore
        first_weights(self, self.last, inner=inner, heads=[self.head])  # pyright: ignore
        self.depth = 2 + blocks * branches

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels and slices at most this far away decide about a fine voxel."""
        return self.depth, self.depth, max(self.depth, between.HALO)


def hybrid_sr(factor: int = 2, width: int = 32, growth: int = 16, blocks: int = 3, branches: int = 3) -> HybridSr:
    """Build HybridNet."""
    return HybridSr(factor, width, growth, blocks, branches)
