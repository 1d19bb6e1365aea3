"""VoxelMorph: a U-Net that looks at a fixed and a moving image and gives the displacement between them.

Balakrishnan et al., IEEE TMI 38(8), 2019; Dalca et al., Medical Image Analysis 57, 2019 (the diffeomorphic form).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.regseg.layers import RegistrationNetwork, flow_layer
from cohortex.models.regseg.mind import multiscale_mind
from cohortex.models.regseg.warp import double, integrate


class VoxelMorph(RegistrationNetwork):
    """Encoder of strided convolutions, decoder with skips, and a layer that gives the flow.

    With ``half_resolution`` the decoder stops one level early and the flow is doubled by interpolation, which costs a
    tenth and suits smooth deformations. With ``integration_steps`` the flow is a velocity, integrated by scaling and squaring.
    With ``mind``, pairs of a radius and a dilation, the network looks at self-similarities (`cohortex.models.regseg.mind`) instead of the
    images: what it learns in some contrasts holds in others.

    Input and output are those of `RegistrationNetwork`; each level of the encoder halves the axes.
    """

    def __init__(
        self,
        encoder: Sequence[int],
        decoder: Sequence[int],
        final: Sequence[int],
        half_resolution: bool,
        integration_steps: int,
        mind: Sequence[Sequence[int]] = (),
    ):
        super().__init__()
        self.mind = tuple((int(radius), int(dilation)) for radius, dilation in mind)
        self.multiple = 2 ** len(encoder)
        self.half_resolution = half_resolution
        self.integration_steps = integration_steps
        self.encoder = nn.ModuleList()
        skips = [24 * len(self.mind) or 2]
        for width in encoder:
            self.encoder.append(_conv(skips[-1], width, stride=2))
            skips.append(width)
        width = skips.pop()
        self.decoder = nn.ModuleList()
        for out in decoder:
            self.decoder.append(_conv(width, out))
            width = out + (skips.pop() if len(skips) > (1 if half_resolution else 0) else 0)
        self.final = nn.ModuleList()
        for out in final:
            self.final.append(_conv(width, out))
            width = out
        # as in the authors' code: without it little of the images is left behind nine layers, and learning is slow
        he_weights(self)
        self.flow = flow_layer(width)

    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of `multiple`."""
        if self.mind:
            pair = torch.cat([multiscale_mind(pair[:, n : n + 1].float(), self.mind) for n in range(2)], dim=1)
        skips, x = [pair], pair
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        skips.pop()
        for layer in self.decoder:
            x = layer(x)
            if len(skips) > (1 if self.half_resolution else 0):
                skip = skips.pop()
                x = torch.cat([nn.functional.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], dim=1)
        for layer in self.final:
            x = layer(x)
        flow = self.flow(x)
        if self.integration_steps:
            flow = integrate(flow, self.integration_steps)
        return double(flow) if self.half_resolution else flow


def voxelmorph(
    encoder: Sequence[int],
    decoder: Sequence[int],
    final: Sequence[int],
    half_resolution: bool = False,
    integration_steps: int = 0,
    mind: Sequence[Sequence[int]] = (),
) -> VoxelMorph:
    """Build a `VoxelMorph`; ``decoder`` has one width a level of the ``encoder``."""
    if len(encoder) != len(decoder):
        raise ValueError(f"encoder and decoder must have as many levels, these have {len(encoder)} and {len(decoder)}")
    return VoxelMorph(encoder, decoder, final, half_resolution, integration_steps, mind)


def _conv(inward: int, outward: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inward, outward, 3, stride=stride, padding=1), nn.LeakyReLU(0.2))
