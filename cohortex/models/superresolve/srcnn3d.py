"""SRCNN3D: three 3-D convolutions on an interpolated volume (Pham et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn


class Srcnn3d(nn.Module):
    """SRCNN in three dimensions, Pham et al., ISBI 2017.

    Convolutions of 9^3 (64 filters), 1^3 (32) and 5^3 (1) on a volume that was brought to the fine grid by interpolation;
    52,801 parameters. Input (batch, 1, x, y, z); each axis of the output is 12 voxels shorter, as nothing is padded:
    `cohortex.blocks.run_network` gives it the halo.

    Parameters
    ----------
    residual : bool
        Add the input to the output, so that the network learns the missing detail only; off in the paper.
    """

    halo = 6
    """An output voxel depends on input voxels at most this far away."""

    def __init__(self, residual: bool = False):
        super().__init__()
        self.residual = residual
        self.features = nn.Conv3d(1, 64, 9)
        self.mapping = nn.Conv3d(64, 32, 1)
        self.reconstruction = nn.Conv3d(32, 1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail, without the halo."""
        y = torch.relu_(self.features(x))
        y = torch.relu_(self.mapping(y))
        y = self.reconstruction(y)
        return y + x[:, :, 6:-6, 6:-6, 6:-6] if self.residual else y


def srcnn3d(residual: bool = False) -> Srcnn3d:
    """Build SRCNN3D."""
    return Srcnn3d(residual)
