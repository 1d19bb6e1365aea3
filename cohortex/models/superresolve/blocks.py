"""What networks of blocks in a row have in common: all blocks are joined, and the result is added to the spline."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.superresolve import between
from cohortex.models.superresolve.layers import to_voxels


class Blocks(nn.Module):
    """A head, blocks in a row whose outputs are joined, and a last layer that makes the fine voxels of each slice.

    Attributes
    ----------
    factor : int
    head, join, last : nn.Module
    blocks : nn.ModuleList
    """

    factor: int
    head: nn.Module
    blocks: nn.ModuleList
    join: nn.Module
    last: nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fine grid (n, 1, x, y, factor slices) of slices (n, 1, x, y, slices)."""
        first = y = torch.relu_(self.head(x))
        found = []
        for block in self.blocks:
            y = block(y)
            found.append(y)
        y = torch.relu_(self.join(torch.cat(found, 1)) + first)
        slices = x.shape[-1]
        return to_voxels(self.last(y), (1, 1, self.factor)) + between.spline(x, between.fine_positions(slices, slices * self.factor))
