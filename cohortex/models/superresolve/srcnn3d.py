"""SRCNN3D: three 3-D convolutions on an interpolated volume (Pham et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn


class Srcnn3d(nn.Module):
    """SRCNN in three dimensions, Pham et al., ISBI 2017.

    Convolutions of 9^3 (64 filters), 1^3 (32) and 5^3 (1) on a volume that was brought to the fine grid by interpolation;
    52,801 parameters with the default widths. Input (batch, 1, x, y, z); each axis of the output is 12 voxels shorter, as
    nothing is padded: `cohortex.blocks.run_network` gives it the halo.
    """

    halo = 6
    """An output voxel depends on input voxels at most this far away."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv3d(1, 64, 9)
        self.mapping = nn.Conv3d(64, 32, 1)
        self.reconstruction = nn.Conv3d(32, 1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail, without the halo."""
        x = torch.relu_(self.features(x))
        x = torch.relu_(self.mapping(x))
        return self.reconstruction(x)


def srcnn3d() -> Srcnn3d:
    """Build SRCNN3D."""
    return Srcnn3d()
