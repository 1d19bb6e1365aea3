"""Interpolation between slices inside a network: the cubic spline through the slices' means, with a reach that ends.

`throughplane.agreeing_spline` solves for a whole line of slices. A network over blocks needs the same spline from the slices near a
voxel: its prefilter decays by 0.36 a slice and is cut at `REACH`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

REACH = 6
"""Slices on each side that the prefilter looks at; what is left out is below 0.001."""

PAD = REACH + 3
"""Slices by which a line is continued: a voxel beyond the outer centre has one more B-spline there."""

HALO = REACH + 2
"""Slices at most this far from a voxel decide about it: the prefilter, and two B-splines on each side."""


@lru_cache(maxsize=1)
def prefilter() -> np.ndarray:
    """Return the taps from slice means to the coefficients of the cubic spline that has these means, (2 * REACH + 1,) float64.

    The mean of a cubic B-spline over a slice is a quartic B-spline, (1, 76, 230, 76, 1) / 384 at the slices; this is its inverse.
    They sum to 1.

    References
    ----------
    Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16(6) (1999) 22-38.
    """
    seen = np.zeros(256)
    seen[[0, 1, 2, -2, -1]] = np.array([230, 76, 1, 1, 76]) / 384
    taps = np.roll(np.fft.ifft(1 / np.fft.fft(seen)).real, REACH)[: 2 * REACH + 1]
    taps /= taps.sum()
    taps.flags.writeable = False
    return taps


def fine_positions(slices: int, count: int) -> torch.Tensor:
    """Return where the centres of `count` fine voxels lie, in slices from the centre of the first slice, (count,) float64."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) * slices / count - 0.5


def spline(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return slices interpolated along the last axis at positions; linear functions are met, up to the outer faces.

    Parameters
    ----------
    x : (..., slices) float tensor
        Continued beyond its ends by its point reflection in the outer slices.
    positions : (count,) tensor
        At most half a slice beyond the outer slices' centres, see `fine_positions`.

    Returns
    -------
    (..., count) tensor
        In float32 also where autocast is on, since it is the image itself.
    """
    matrix = torch.from_numpy(_matrix(x.shape[-1], positions.detach().cpu().numpy().astype(np.float64)))
    with torch.autocast(x.device.type, enabled=False):
        return x.float() @ matrix.to(x.device, torch.float32)


def _matrix(slices: int, positions: np.ndarray) -> np.ndarray:
    """Return the (slices, count) matrix of `spline`."""
    taps = np.zeros((len(positions), slices + 2 * PAD))
    nearest, rows = np.floor(positions).astype(int), np.arange(len(positions))
    for tap in range(-1, 3):
        distance = np.abs(positions - nearest - tap)
        basis = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.maximum(2 - distance, 0) ** 3 / 6)
        for offset, share in zip(range(-REACH, REACH + 1), prefilter(), strict=True):
            np.add.at(taps, (rows, nearest + tap + offset + PAD), share * basis)
    return (taps @ _continued(slices)).T


@lru_cache(maxsize=64)
def _continued(slices: int) -> np.ndarray:
    """Return the matrix from slices to the same with `PAD` more on each side, point-reflected in the outer ones."""
    matrix = np.eye(slices)
    for _ in range(PAD if slices > 1 else 0):
        # one at a time: the partner of each is inside what is there already
        n = len(matrix) - slices
        below = 2 * matrix[n // 2] - matrix[n + 1]
        above = 2 * matrix[n // 2 + slices - 1] - matrix[slices - 2]
        matrix = np.vstack([below, matrix, above])
    if slices == 1:
        matrix = np.ones((1 + 2 * PAD, 1))
    matrix.flags.writeable = False
    return matrix
