"""FAIM: registration with few weights, by sums where a U-Net puts features side by side.

Kuang and Schmah, FAIM: a ConvNet method for unsupervised 3D medical image registration, MLMI 2019. The paper penalises negative Jacobian
determinants (`losses.folding_loss` with ``least=0``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.regseg.layers import RegistrationNetwork, flow_layer


class FAIM(RegistrationNetwork):
    """A first layer that looks over several distances at once, two strided convolutions, two transposed ones, sums across.

    Parameters
    ----------
    width : int
        Of every layer; each size of the first layer has an equal share of it.
    sizes : sequence of int
        Edges of the first layer's kernels (after Inception: Szegedy et al., CVPR 2015).
    """

    multiple = 4

    def __init__(self, width: int, sizes: Sequence[int]):
        super().__init__()
        if width % len(sizes):
            raise ValueError(f"the width {width} is shared evenly by {len(sizes)} sizes of kernels; give a multiple of that")
        self.looks = nn.ModuleList(_Even(2, width // len(sizes), size) for size in sizes)
        self.looked = nn.PReLU(width)
        self.down = nn.ModuleList(
            [
                nn.Sequential(nn.Conv3d(width, width, 3, stride=2, padding=1), nn.PReLU(width)),
                nn.Sequential(nn.Conv3d(width, width, 3, padding=1), nn.Conv3d(width, width, 3, stride=2, padding=1), nn.PReLU(width)),
            ]
        )
        self.bottom = _Even(width, width, 2)
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(width, width, 3, stride=2, padding=1, output_padding=1),
                nn.Conv3d(width, width, 3, padding=1),
                nn.PReLU(width),
            )
            for _ in range(2)
        )
        he_weights(self)
        self.flow = flow_layer(width)

    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of 4."""
        whole = self.looked(torch.cat([look(pair) for look in self.looks], dim=1))
        half = self.down[0](whole)
        quarter = self.down[1](half)
        x = self.up[0](self.bottom(quarter) + quarter) + half
        return self.flow(self.up[1](x) + whole)


class _Even(nn.Module):
    """A convolution whose kernel may have even edges: its output is as large as its input."""

    def __init__(self, inward: int, outward: int, size: int):
        super().__init__()
        self.around = [(size - 1) // 2, size // 2] * 3
        self.convolution = nn.Conv3d(inward, outward, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(nn.functional.pad(x, self.around))


def faim(width: int = 32, sizes: Sequence[int] = (2, 5, 7, 11)) -> FAIM:
    """Build a `FAIM`."""
    return FAIM(width, sizes)
