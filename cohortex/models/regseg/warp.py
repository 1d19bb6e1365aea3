"""Spatial transformer: look volumes up at displaced points, differentiably, on and off regular grids.

Jaderberg et al., Spatial transformer networks, NeurIPS 2015. Points and displacements are in voxels here, axes (x, y, z);
`cohortex.models.regseg.grid` turns millimetres into voxels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

Outside = Literal["border", "zeros"]


def identity_points(shape: tuple[int, ...], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the voxel coordinates of a grid, (3, X, Y, Z)."""
    axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(
    volume: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", outside: Outside = "border", exact: bool = True
) -> torch.Tensor:
    """Look a volume up at points.

    Parameters
    ----------
    volume : (B, C, X, Y, Z) tensor
    points : (B, 3, U, V, W) tensor
        Voxel coordinates along x, y and z.
    mode : {"bilinear", "nearest"}
        Linear along each of the three axes, or the nearest voxel.
    outside : {"border", "zeros"}
        What lies beyond the volume: its border voxel, or 0.
    exact : bool
        Points at whole voxels return these voxels' very values. The volume is padded to powers of two for this, so
        that the normalised coordinates lose nothing to rounding; leave it off for large volumes.

    Returns
    -------
    (B, C, U, V, W) tensor
    """
    shape = volume.shape[2:]
    if outside == "border":
        points = torch.stack([points[:, i].clamp(0, shape[i] - 1) for i in range(3)], dim=1)
    if exact:
        sizes = [1 << (n - 1).bit_length() for n in shape]
        padding = [amount for n, size in zip(reversed(shape), reversed(sizes), strict=True) for amount in (0, size - n)]
        volume = F.pad(volume, padding) if any(padding) else volume
        normalised = [(2 * points[:, i] + (1 - sizes[i])) / sizes[i] for i in range(3)]
    else:
        normalised = [2 * points[:, i] / max(shape[i] - 1, 1) - 1 for i in range(3)]
    where = torch.stack(normalised[::-1], dim=-1)
    return F.grid_sample(volume, where, mode=mode, padding_mode="zeros" if exact else outside, align_corners=not exact)


def warp(volume: torch.Tensor, displacement: torch.Tensor, mode: str = "bilinear", outside: Outside = "border") -> torch.Tensor:
    """Return the volume whose value at p is that of `volume` at p + displacement(p).

    `volume` is (B, C, X, Y, Z), `displacement` (B, 3, X, Y, Z) in voxels on the same grid.
    """
    points = identity_points(tuple(displacement.shape[2:]), displacement.device, displacement.dtype) + displacement
    return sample(volume, points, mode, outside)


def compose(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the displacement of going by `first` and from there by `second`, both (B, 3, X, Y, Z) in voxels."""
    return first + warp(second, first)


def integrate(velocity: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the displacement that a stationary velocity makes in unit time, by scaling and squaring.

    Arsigny et al., MICCAI 2006. `velocity` is (B, 3, X, Y, Z) in voxels; the time is halved `steps` times.
    """
    displacement = velocity / 2**steps
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def invert(displacement: torch.Tensor, iterations: int = 15) -> torch.Tensor:
    """Return the displacement that leads back, by fixed-point iteration (Chen et al., Medical Physics 35(1), 2008).

    Converges where the displacement changes by less than its distance (no folding). (B, 3, X, Y, Z), in voxels.
    """
    backward = -displacement
    for _ in range(iterations):
        backward = -warp(displacement, backward)
    return backward


def double(displacement: torch.Tensor) -> torch.Tensor:
    """Return a displacement in voxels on the grid of twice as many voxels an axis, whose voxels are half as large.

    Voxel 0 of both grids is at the same corner of the box, so centres are a quarter of a coarse voxel apart.
    """
    return 2 * F.interpolate(displacement, scale_factor=2, mode="trilinear", align_corners=False)
