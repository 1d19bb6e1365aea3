"""SubSlice: a residual network on the slices themselves; what lies in a slice is a cosine series whose mean vanishes."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from cohortex.models.superresolve.throughplane import agreeing_matrix

REACH = 2
"""Voxels and slices to each side whose contrast counts."""

FLOOR = 0.01
"""Least contrast, in units of the image's range: what is flatter is not made larger."""


@lru_cache(maxsize=64)
def cosine_matrix(slices: int, count: int, terms: int) -> np.ndarray:
    """Return the fine voxels of a cosine series in every slice.

    A slice is the interval [0, 1] of t, and term k of its series is cos(pi k t); a fine voxel is the mean over its length, also where
    it belongs to two slices. The mean of every term over its slice is zero.

    Returns
    -------
    (count, slices * terms) float32 array
        Read-only; the term runs fastest.
    """
    edges = np.arange(count + 1) * slices / count
    k = np.arange(1, terms + 1)
    # The integral of every term from the slice's near face to a fine voxel's, nothing before and nothing after the slice.
    t = np.clip(edges[:, None] - np.arange(slices), 0, 1)[..., None]
    integral = np.sin(np.pi * k * t) / (np.pi * k)
    matrix = (np.diff(integral, axis=0) * (count / slices)).reshape(count, slices * terms).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


class Block(nn.Module):
    """Two convolutions, one in the plane of x and the slices, one in that of y and the slices, added to what came in; told the factor."""

    def __init__(self, channels: int):
        super().__init__()
        self.coronal = nn.Conv3d(channels, channels, (3, 1, 3), padding=(1, 0, 1))
        self.sagittal = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1))
        self.told = nn.Linear(2, channels)

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """Return features of the same size."""
        gain = 1 + self.told(factor)[:, :, None, None, None]
        return x + self.sagittal(torch.relu(self.coronal(x) * gain))


class SubSlice(nn.Module):
    """Fine voxels of thick slices, for any factor, computed on the grid of the slices.

    Input (batch, 1, x, y, slices), output (batch, 1, x, y, count) with count = slices x factor. The result is the cubic spline
    whose slice means are the slices, and on it in every slice the cosine series whose coefficients the network finds. Its mean over the
    slice vanishes, so the result agrees with the slices for the box profile and whole factors. All convolutions are on
    the slices, so a fine voxel costs the factor's share of one of a network on the fine grid; they are 3 x 3 in turn in both planes
    that hold the slice axis, as the views of Peng et al. (SAINT, CVPR 2020) are. What they see was divided by the local contrast
    and what they find is multiplied by it: the same image in other units, or of another contrast between two tissues, has the same detail.

    Parameters
    ----------
    channels, blocks : int
        Width, and how many pairs of convolutions.
    terms : int
        Of the cosine series: a factor of f can show f - 1 of them.
    """

    def __init__(self, channels: int = 32, blocks: int = 5, terms: int = 5):
        super().__init__()
        self.terms = terms
        self.halo = (blocks + 2 * REACH + 2, blocks + 2 * REACH + 2, 0)
        self.enter = nn.Conv3d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.leave = nn.Conv3d(channels, terms, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
            elif isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for block in self.blocks:
                assert isinstance(block, Block)
                # The sum of so many branches keeps the size of what came in.
                block.sagittal.weight.mul_(blocks**-0.5)
            self.leave.weight.mul_(0.1)

    def forward(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        """Return the fine grid."""
        slices = x.shape[4]
        count = round(slices * factor)
        share = math.log2(count / slices)
        told = x.new_tensor([[share - 1.5, 1 / max(share, 0.25) - 0.75]])
        mean, contrast = local(x)
        y = self.enter((x - mean) / contrast)
        for block in self.blocks:
            y = block(y, told)
        terms = self.leave(torch.relu(y)).float() * contrast
        spline, series = (
            torch.from_numpy(np.array(matrix, np.float32)).to(x.device)
            for matrix in (agreeing_matrix(slices, count), cosine_matrix(slices, count, self.terms))
        )
        with torch.autocast(x.device.type, enabled=False):
            detail = terms.permute(0, 2, 3, 4, 1).reshape(*x.shape[:1], *x.shape[2:], -1).flatten(3) @ series.T
            return (x[:, 0].float() @ spline.T + detail)[:, None]


def local(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the standard deviation around every voxel, the latter with a floor; of the shape of x."""
    size, pad = 2 * REACH + 1, (REACH,) * 6

    def box(values: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool3d(nn.functional.pad(values, pad, mode="replicate"), size, stride=1)

    mean = box(x.float())
    return mean, (box((x.float() - mean) ** 2) + FLOOR**2).sqrt()


def subslice(channels: int = 32, blocks: int = 5, terms: int = 5) -> SubSlice:
    """Build SubSlice."""
    return SubSlice(channels, blocks, terms)
