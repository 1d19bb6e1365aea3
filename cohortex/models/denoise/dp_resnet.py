"""Domain-progressive residual network: 3-D residual networks for sinograms and for the images made of them (Yin et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from cohortex.models.denoise.layers import ResidualStack, in_pieces
from cohortex.models.denoise.projection import scanner


class DpResNet(nn.Module):
    """DP-ResNet of Yin, Zhao, Liu et al., Domain progressive 3D residual convolution network to improve low-dose CT imaging, 2019.

    SD-net cleans the sinograms of a stack of slices in three dimensions, filtered backprojection makes images of them, ID-net
    cleans these, also in three dimensions. Both give what is to be taken away; each is a convolution of 3 x 3 x 3, residual blocks of
    two with batch normalisation, and a convolution to one channel. Numbers of blocks and filters are choices of ours.

    Input and output are stacks of whole slices (n, 1, x, y, z). An image whose raw data are not at hand is projected itself, and only what
    SD-net takes away goes through the backprojection, see `SinogramAttention`; where there are raw data, `clean` takes the sinograms.

    Parameters
    ----------
    filters, blocks : int
        Of each of the two networks.
    domains : {"both", "projection", "image"}
        Which of them there are.
    views : int
        See `projection.scanner`.
    """

    def __init__(self, filters: int = 32, blocks: int = 2, domains: Literal["both", "projection", "image"] = "both", views: int = 0):
        super().__init__()
        if domains not in ("both", "projection", "image"):
            raise ValueError(f"domains is both, projection or image, not {domains!r}")
        self.views = views
        self.sinogram = ResidualStack(3, filters, blocks) if domains != "image" else None
        self.image = ResidualStack(3, filters, blocks) if domains != "projection" else None
        reach = sum(part.halo for part in (self.sinogram, self.image) if part is not None)
        self.halo = (0, 0, reach)
        """Slices are whole, and a slice looks at its neighbours."""

    @property
    def phases(self) -> tuple[str, ...]:
        """The parts in the order in which they are trained, each with those before it as they are (the paper's progressive training)."""
        return tuple(name for name in ("sinogram", "image") if getattr(self, name) is not None)

    def clean(self, sinogram: torch.Tensor) -> torch.Tensor:
        """Return stacks of sinograms (n, 1, view, detector, z) without their noise."""
        return sinogram if self.sinogram is None else sinogram - in_pieces(self.sinogram, sinogram, self.sinogram.halo)

    def train(self, mode: bool = True) -> DpResNet:
        """Go into training or out of it; the norms of a part of which no parameter is trained stay as they are."""
        super().train(mode)
        for part in (self.sinogram, self.image):
            if part is not None and not any(value.requires_grad for value in part.parameters()):
                part.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored slices, of the input's shape."""
        if self.sinogram is not None:
            way = scanner((x.shape[2], x.shape[3]), self.views)
            x = x - way.reconstruct(in_pieces(self.sinogram, way.project(x), self.sinogram.halo))
        return x if self.image is None else x - in_pieces(self.image, x, self.image.halo)


def dp_resnet(filters: int = 32, blocks: int = 2, domains: Literal["both", "projection", "image"] = "both", views: int = 0) -> DpResNet:
    """Build DP-ResNet."""
    return DpResNet(filters, blocks, domains, views)
