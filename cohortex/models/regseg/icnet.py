"""ICNet: one network for both directions of a pair, trained so that they are each other's inverse.

Zhang, Inverse-consistent deep networks for unsupervised deformable image registration, arXiv:1809.03443, 2018. The paper's two networks
share their weights, so there is one; that it is asked in both directions is a matter of the training (`InverseConsistent` of
`cohortex.training.objectives.registering`).
"""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.regseg.layers import RegistrationNetwork, flow_layer


class ICNet(RegistrationNetwork):
    """Five levels of two convolutions, strided between them, and up again; a hyperbolic tangent bounds the flow.

    Parameters
    ----------
    width : int
        Channels at full resolution; each level below has twice as many.
    reach : float
        Largest displacement along each axis, in voxels.
    """

    multiple = 16

    def __init__(self, width: int, reach: float):
        super().__init__()
        self.reach = reach
        w = width
        self.first = nn.Sequential(_conv(2, w), _conv(w, w))
        self.down = nn.ModuleList(nn.Sequential(_conv(n * w, 2 * n * w, 2), _conv(2 * n * w, 2 * n * w)) for n in (1, 2, 4))
        self.down.append(nn.Sequential(_conv(8 * w, 16 * w, 2), _conv(16 * w, 8 * w)))
        self.grow = nn.ModuleList(nn.Sequential(nn.ConvTranspose3d(n * w, n * w, 2, stride=2), nn.ReLU()) for n in (8, 4, 2, 2))
        self.up = nn.ModuleList(
            nn.Sequential(_conv(a * w, b * w), _conv(b * w, c * w)) for a, b, c in ((16, 8, 4), (8, 4, 2), (4, 4, 2), (3, 2, 2))
        )
        # twenty layers without biases: what passes has to keep its size
        he_weights(self)
        self.flow = flow_layer(2 * w, size=1, bias=False)

    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of 16."""
        skips = [self.first(pair)]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for grow, up in zip(self.grow, self.up, strict=True):
            x = up(torch.cat([grow(x), skips.pop()], dim=1))
        return self.reach * torch.tanh(self.flow(x))


def icnet(width: int = 8, reach: float = 7.0) -> ICNet:
    """Build an `ICNet`."""
    return ICNet(width, reach)


def _conv(inward: int, outward: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inward, outward, 3, stride=stride, padding=1, bias=False), nn.ReLU())
