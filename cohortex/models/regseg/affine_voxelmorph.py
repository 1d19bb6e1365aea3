"""Affine and deformable registration by two networks that are trained as one.

Tang et al., ADMIR: affine and deformable medical image registration for drug-addicted brain images, IEEE Access 8, 2020,
doi:10.1109/ACCESS.2020.2986829: twelve numbers from the pair, a spatial transformer, and a deformable network that sees the moving image as
the affine map puts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.regseg.layers import RegistrationNetwork
from cohortex.models.regseg.voxelmorph import voxelmorph
from cohortex.models.regseg.warp import identity_points, warp

GRID = 2
"""Cells along each axis over which the last features are averaged, so that images of any size give as many numbers."""


class Moved(NamedTuple):
    """What the two networks say: displacements in voxels (B, 3, X, Y, Z) of the affine map, of the deformation, and of both together."""

    affine: torch.Tensor
    deformation: torch.Tensor
    whole: torch.Tensor


class AffineHead(nn.Module):
    """Strided convolutions and one dense layer, which begins with nothing: (B, 3, 4), what an affine map adds to the identity.

    The first three columns are added to the identity matrix, about the middle of the grid; the last one is a shift in halves of the longest
    axis.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        self.convolutions = nn.Sequential(
            *(nn.Sequential(nn.Conv3d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairwise([2, *widths]))
        )
        self.pool = nn.AdaptiveAvgPool3d(GRID)
        he_weights(self)
        self.dense = nn.Linear(GRID**3 * widths[-1], 12)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the twelve numbers."""
        return self.dense(self.pool(self.convolutions(pair)).flatten(1)).reshape(-1, 3, 4)


class AffineVoxelMorph(RegistrationNetwork):
    """An `AffineHead`, the moving image moved by what it says, and a `VoxelMorph` for the rest; their way together is the displacement."""

    def __init__(self, affine: Sequence[int], deformable: RegistrationNetwork):
        super().__init__()
        self.affine, self.deformable = AffineHead(affine), deformable
        self.multiple = deformable.multiple

    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of `multiple`."""
        return self.stages(pair).whole

    def stages(self, pair: torch.Tensor) -> Moved:
        """Return what each of the networks says of a pair whose axes are multiples of `multiple`."""
        added = self.affine(pair)
        points = identity_points(tuple(pair.shape[2:]), pair.device, pair.dtype)[None]
        affine = moved_by(added, points)
        deformation = self.deformable.displacement(torch.cat([pair[:, :1], warp(pair[:, 1:], affine)], dim=1))
        return Moved(affine, deformation, deformation + moved_by(added, points + deformation))


def moved_by(added: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return the displacement of points (B, 3, X, Y, Z), in voxels of a grid of X x Y x Z voxels, by what `AffineHead` gives."""
    shape = points.shape[2:]
    middle = torch.tensor([(n - 1) / 2 for n in shape], dtype=points.dtype, device=points.device).reshape(1, 3, 1, 1, 1)
    shift = added[:, :, 3, None, None, None] * (max(shape) / 2)
    return torch.einsum("bij,bjxyz->bixyz", added[:, :, :3], (points - middle).expand(len(added), -1, -1, -1, -1)) + shift


def affine_voxelmorph(
    affine: Sequence[int],
    encoder: Sequence[int],
    decoder: Sequence[int],
    final: Sequence[int],
    half_resolution: bool = False,
    integration_steps: int = 0,
) -> AffineVoxelMorph:
    """Build an `AffineVoxelMorph`: the widths of the affine head's convolutions, and the options of `voxelmorph`."""
    return AffineVoxelMorph(affine, voxelmorph(encoder, decoder, final, half_resolution, integration_steps))
