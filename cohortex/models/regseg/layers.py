"""What the networks that register have in common: sizes that strides divide, and a flow that begins with nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

FLOW_STD = 1e-5
"""Spread of the flow layer's fresh weights: training starts from the identity."""


class RegistrationNetwork(nn.Module, ABC):
    """A network that looks at a fixed and a moving image and gives the displacement between them.

    Input (B, 2, X, Y, Z): fixed and moving image, within 0 and 1.
    Output (B, 3, X, Y, Z): displacement in voxels along x, y and z; fixed(p) is to be like moving(p + displacement(p)).

    Attributes
    ----------
    multiple : int
        Of voxels that `displacement` takes along each axis; `forward` repeats the last voxels of images whose axes are no such multiples.
    """

    multiple: int

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement in voxels that takes the fixed image's points to the moving image's."""
        shape = pair.shape[2:]
        return self.displacement(self.padded(pair))[:, :, : shape[0], : shape[1], : shape[2]]

    def padded(self, pair: torch.Tensor) -> torch.Tensor:
        """Return a pair whose axes are multiples of what the strides need."""
        spare = [amount for n in reversed(pair.shape[2:]) for amount in (0, -n % self.multiple)]
        return nn.functional.pad(pair, spare, mode="replicate") if any(spare) else pair

    @abstractmethod
    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of `multiple`."""


def flow_layer(inward: int, size: int = 3, bias: bool = True) -> nn.Conv3d:
    """Return the convolution that gives the flow, next to nothing at first."""
    layer = nn.Conv3d(inward, 3, size, padding=size // 2, bias=bias)
    nn.init.normal_(layer.weight, 0.0, FLOW_STD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
