"""SRCNN3D: three 3-D convolutions on an interpolated volume (Pham et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn


class Srcnn3d(nn.Module):
    """SRCNN in three dimensions, Pham et al., ISBI 2017.

    Convolutions of 9^3 (64 filters), 1^3 (32) and 5^3 (1) on a volume that was brought to the fine grid by interpolation;
    52,801 parameters. Input (batch, 1, x, y, z); each axis of the output is 12 voxels shorter, as nothing is padded:
    `cohortex.inference.run_network` gives it the halo.

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

    def first_weights(self, seed: int) -> None:
        """Let a residual network begin as the interpolation itself, looking at differences; the published one keeps what it has.

        The first filters are random under a Gaussian window and sum to zero, since the missing detail does not depend on the mean; the
        last layer is near zero.
        """
        if not self.residual:
            return
        generator = torch.Generator().manual_seed(seed)
        ticks = torch.arange(9) - 4.0
        window = torch.exp(-(ticks[:, None, None] ** 2 + ticks[None, :, None] ** 2 + ticks**2) / (2 * 1.6**2))
        filters = torch.randn(64, 9, 9, 9, generator=generator) * window
        filters -= window * (filters.sum((1, 2, 3), keepdim=True) / window.sum())
        filters *= 5 / filters.square().sum((1, 2, 3), keepdim=True).sqrt()
        with torch.no_grad():
            for layer in (self.features, self.mapping, self.reconstruction):
                torch.nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
            self.features.weight.copy_(filters[:, None])
            self.mapping.weight.normal_(0, (2 / 64) ** 0.5, generator=generator)
            self.reconstruction.weight.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail, without the halo."""
        y = torch.relu_(self._in_planes(x) if self.training and not x.is_cuda else self.features(x))
        y = torch.relu_(self.mapping(y))
        y = self.reconstruction(y)
        return y + x[:, :, 6:-6, 6:-6, 6:-6] if self.residual else y

    def _in_planes(self, x: torch.Tensor) -> torch.Tensor:
        """Return what ``features`` returns, with the 9 x 9 taps along x and y as channels of a convolution along z.

        A 9^3 kernel on one channel has slow gradients on a CPU: this makes a step of the training more than twice as fast.
        """
        batch, _, nx, ny, nz = x.shape
        taps = x[:, 0].unfold(1, 9, 1).unfold(2, 9, 1).permute(0, 1, 4, 5, 2, 3).reshape(-1, 81, ny - 8, nz)
        y = nn.functional.conv2d(taps, self.features.weight.reshape(64, 81, 1, 9), self.features.bias)
        return y.view(batch, nx - 8, 64, ny - 8, nz - 8).transpose(1, 2)


def srcnn3d(residual: bool = False) -> Srcnn3d:
    """Build SRCNN3D."""
    return Srcnn3d(residual)
