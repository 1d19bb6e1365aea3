"""One network that registers and segments at once: the multi-task baseline of the joint training.

A shared encoder sees both images; one head gives the displacement, another the classes of both. Hard sharing of the encoder, as in the
comparison of Elmahdy et al., Joint registration and segmentation via multi-task learning, IEEE Access 9, 2021
(doi:10.1109/ACCESS.2021.3091011). Unlike the networks that learn in turns, no part of it can be exchanged for another network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from cohortex.models.regseg.layers import flow_layer
from cohortex.models.regseg.warp import double, integrate


class MultiTask(nn.Module):
    """A U-Net of two inputs with a head for the flow, at half the resolution, and one for the classes.

    Parameters
    ----------
    features : sequence of int
        Channels of the levels, each of half the resolution of the one before.
    classes : int
    integration_steps : int
        The flow is a velocity, integrated by scaling and squaring.
    """

    def __init__(self, features: Sequence[int], classes: int, integration_steps: int = 5):
        super().__init__()
        self.classes, self.integration_steps = classes, integration_steps
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in zip((2, *features), features, strict=False))
        self.up = nn.ModuleList(_convolutions(a + b, b) for a, b in zip(features[:0:-1], features[-2::-1], strict=True))
        self.flow = flow_layer(features[1])
        self.labels = nn.Conv3d(features[0], 2 * classes, 1)

    def forward(self, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the displacement (B, 3, X, Y, Z) in voxels and the logits (B, K, X, Y, Z) of the fixed and of the moving image.

        `pair` is (B, 2, X, Y, Z): fixed and moving image, X, Y and Z multiples of 2 ** (levels - 1).
        """
        skips, x = [], pair
        for layer in self.down:
            x = layer(F.max_pool3d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        flow = None
        for layer in self.up:
            if len(skips) == 1:
                flow = self.flow(x)
            x = layer(torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1))
        assert flow is not None
        fixed, moving = self.labels(x).split(self.classes, dim=1)
        return double(integrate(flow, self.integration_steps)), fixed, moving


def _convolutions(inward: int, outward: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inward, outward):
        layers += [nn.Conv3d(width, outward, 3, padding=1), nn.InstanceNorm3d(outward, affine=True), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
