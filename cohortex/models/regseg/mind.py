"""MIND and MIND-SSC: what a neighbourhood looks like, whatever the contrast.

Heinrich et al., MIND: modality independent neighbourhood descriptor, Medical Image Analysis 16(7), 2012, and Towards
realtime multimodal fusion for image-guided interventions using self-similarities, MICCAI 2013 (the twelve-channel
self-similarity context, SSC, which compares neighbours with each other instead of with the voxel itself).
`multiscale_mind_loss` is the structural loss of MC-RSNet: several patch radii and dilations, equal weights (the review that
names the loss fixes neither).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch.nn import functional as F

SCALES: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (2, 2))
"""(patch radius, dilation) in voxels."""
Kind = Literal["mind", "mind_ssc"]
FLOOR = 0.05
"""Share of the image's mean patch distance that is added to every local variance, so that flat noise has no structure."""


def _pairs(dilation: int) -> list[tuple[tuple[int, int, int], list[tuple[int, int, int]]]]:
    """Return the six shifts between neighbours at squared distance two, each with the two places where it occurs."""
    neighbours = [tuple(sign * dilation if axis == i else 0 for i in range(3)) for axis in range(3) for sign in (-1, 1)]
    shifts: dict[tuple[int, int, int], list[tuple[int, int, int]]] = {}
    for i, a in enumerate(neighbours):
        for b in neighbours[i + 1 :]:
            if sum(map(abs, a)) and sum(x * y for x, y in zip(a, b, strict=True)) == 0:
                shift = tuple(y - x for x, y in zip(a, b, strict=True))
                start = a
                # A pair and its reverse have the same distance: one direction stands for both.
                if shift < (0, 0, 0):
                    shift, start = tuple(-s for s in shift), b
                shifts.setdefault(shift, []).append(start)  # type: ignore[arg-type]
    return list(shifts.items())


def mind_ssc(image: torch.Tensor, radius: int = 1, dilation: int = 2, floor: float = FLOOR) -> torch.Tensor:
    """Return the twelve self-similarities of every voxel.

    Parameters
    ----------
    image : (B, 1, X, Y, Z) tensor
    radius : int
        The patches compared are cubes of 2 * radius + 1 voxels.
    dilation : int
        Distance of the six neighbours from the voxel, in voxels.
    floor : float
        See `FLOOR`.

    Returns
    -------
    (B, 12, X, Y, Z) tensor
        1 for the most alike pair of neighbours, towards 0 for unlike ones. Unchanged when the image is scaled, shifted or inverted.
    """
    margin = dilation + radius
    shape = image.shape[2:]
    padded = F.pad(image, [margin] * 6, mode="replicate")
    distances = []
    for shift, starts in _pairs(dilation):
        # Rolled values that wrap around reach only places that are never read.
        squared = (torch.roll(padded, [-s for s in shift], dims=(2, 3, 4)) - padded) ** 2
        patches = _box(squared, radius)
        for start in starts:
            where = [slice(dilation + s, dilation + s + n) for s, n in zip(start, shape, strict=True)]
            distances.append(patches[(slice(None), slice(None), *where)])
    return _descriptor(torch.cat(distances, dim=1), floor)


def mind(image: torch.Tensor, radius: int = 1, dilation: int = 1, floor: float = FLOOR) -> torch.Tensor:
    """Return how alike the patch of every voxel and those of its six neighbours are, the descriptor of 2012.

    Parameters
    ----------
    image : (B, 1, X, Y, Z) tensor
    radius, dilation, floor
        As in `mind_ssc`.

    Returns
    -------
    (B, 6, X, Y, Z) tensor
        Along -x, +x, -y, +y, -z, +z: 1 for the most alike neighbour, towards 0 for unlike ones.
    """
    margin = dilation + radius
    shape = image.shape[2:]
    padded = F.pad(image, [margin] * 6, mode="replicate")
    distances = []
    for axis in (2, 3, 4):
        patches = _box((torch.roll(padded, -dilation, dims=axis) - padded) ** 2, radius)
        # One distance belongs to the voxel with the neighbour above it, and to that neighbour with the voxel below it.
        for start in (0, dilation):
            where = [slice(start if a == axis else dilation, (start if a == axis else dilation) + n) for a, n in enumerate(shape, 2)]
            distances.append(patches[(slice(None), slice(None), *where)])
    return _descriptor(torch.cat(distances, dim=1), floor)


def _descriptor(distance: torch.Tensor, floor: float) -> torch.Tensor:
    """Return exp(-distance / variance), the smallest distance of every voxel taken off, the variance their mean within bounds."""
    distance = distance - distance.amin(dim=1, keepdim=True)
    variance = distance.mean(dim=1, keepdim=True)
    mean = variance.mean(dim=(2, 3, 4), keepdim=True).detach()
    variance = torch.maximum(torch.minimum(variance, 1000 * mean), 0.001 * mean) + floor * mean
    return torch.exp(-distance / variance.clamp(min=1e-12))


def multiscale_mind(image: torch.Tensor, scales: Sequence[tuple[int, int]] = SCALES, kind: Kind = "mind_ssc") -> torch.Tensor:
    """Return the descriptors of all scales, (B, 12 * scales, X, Y, Z), or six a scale of the kind ``mind``."""
    describe = {"mind": mind, "mind_ssc": mind_ssc}[kind]
    return torch.cat([describe(image, radius, dilation) for radius, dilation in scales], dim=1)


def multiscale_mind_loss(
    fixed: torch.Tensor,
    warped: torch.Tensor,
    scales: Sequence[tuple[int, int]] = SCALES,
    mask: torch.Tensor | None = None,
    kind: Kind = "mind_ssc",
) -> torch.Tensor:
    """Return E_msMIND: the mean absolute difference of the descriptors, every scale with the same weight.

    Parameters
    ----------
    fixed, warped : (B, 1, X, Y, Z) tensors
    scales : sequence of (radius, dilation)
    mask : (B, 1, X, Y, Z) tensor, optional
        Weight of every voxel.
    kind : {"mind", "mind_ssc"}
    """
    return difference(multiscale_mind(fixed, scales, kind), multiscale_mind(warped, scales, kind), mask)


def difference(fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean absolute difference of two descriptors, weighted by a mask."""
    apart = (fixed - moving).abs().mean(dim=1, keepdim=True)
    return apart.mean() if mask is None else (apart * mask).sum() / mask.sum().clamp(min=1)


def _box(x: torch.Tensor, radius: int) -> torch.Tensor:
    """Mean over cubes, along one axis at a time, without padding."""
    size = 2 * radius + 1
    for axis in (2, 3, 4):
        # Added slices take a tenth of the time of avg_pool3d.
        n = x.shape[axis] - size + 1
        total = x.narrow(axis, 0, n)
        for i in range(1, size):
            total = total + x.narrow(axis, i, n)
        x = total
    return x / size**3
