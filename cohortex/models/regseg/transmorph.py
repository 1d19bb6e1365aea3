"""TransMorph: a registration network whose encoder is a Swin transformer.

Chen et al., TransMorph: transformer for unsupervised medical image registration, Medical Image Analysis 82, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.regseg.layers import RegistrationNetwork, flow_layer
from cohortex.models.regseg.warp import double, integrate
from cohortex.models.segment.swin_unetr import Merging, WindowLayer
from cohortex.models.segment.transformer import plain_instance, small_weights

PATCH = 4
"""Voxels along each edge that are one token of the first stage."""


class TransMorph(RegistrationNetwork):
    """Stages of window attention over tokens of 4 voxels, convolutions that bring them up again, skips from both and from the images.

    Parameters
    ----------
    features : int
        Width of the first stage, a multiple of its heads; each further stage has twice as many.
    depths, heads : sequence of int
        Layers and heads of each stage.
    window : int
        Edge of the windows, in tokens.
    ratio : int
        Hidden units of the perceptrons, as a multiple of the width.
    final : int
        Width of the last layers.
    half_resolution : bool
        Off: the flow is made at the images' resolution, as in the paper. On: at half of it and then doubled, for a fraction of the time.
    integration_steps : int
        Above 0 the flow is a velocity, integrated by scaling and squaring (TransMorph-diff).
    """

    def __init__(
        self,
        features: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        ratio: int,
        final: int,
        half_resolution: bool,
        integration_steps: int,
    ):
        super().__init__()
        stages = len(depths)
        if len(heads) != stages:
            raise ValueError(f"there are {stages} depths and {len(heads)} heads; give one number of heads a stage")
        self.multiple = PATCH * 2 ** (stages - 1)
        self.half_resolution, self.integration_steps = half_resolution, integration_steps
        self.embed, self.embedded = nn.Conv3d(2, features, PATCH, stride=PATCH), nn.LayerNorm(features)
        widths = [features * 2**number for number in range(stages)]
        self.stages = nn.ModuleList(
            nn.Sequential(*(WindowLayer(3, width, own, window, layer % 2 == 1, ratio) for layer in range(depth)))
            for width, depth, own in zip(widths, depths, heads, strict=True)
        )
        self.merges = nn.ModuleList(Merging(3, width) for width in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        half = features // 2
        self.of_halves, self.of_images = _convolved(2, half), None if half_resolution else _convolved(2, final)
        self.up = nn.ModuleList(_Up(2 * width, width, width) for width in widths[-2::-1])
        self.up.append(_Up(features, half, half))
        if not half_resolution:
            self.up.append(_Up(half, final, final))
        he_weights(self)
        small_weights(self)
        self.flow = flow_layer(half if half_resolution else final)

    def displacement(self, pair: torch.Tensor) -> torch.Tensor:
        """Return the displacement of a pair whose axes are multiples of `multiple`."""
        skips = [] if self.of_images is None else [self.of_images(pair)]
        skips.append(self.of_halves(nn.functional.avg_pool3d(pair, 3, stride=2, padding=1)))
        y = self.embedded(self.embed(pair).movedim(1, -1))
        for number, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            y = stage(y if number == 0 else self.merges[number - 1](y))
            skips.append(norm(y).movedim(-1, 1))
        x = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        flow = self.flow(x)
        if self.integration_steps:
            flow = integrate(flow, self.integration_steps)
        return double(flow) if self.half_resolution else flow


class _Up(nn.Module):
    """Twice as many voxels along each axis, linearly between them, the skip beside it, two convolutions."""

    def __init__(self, inward: int, skip: int, outward: int):
        super().__init__()
        self.first, self.second = _convolved(inward + skip, outward), _convolved(outward, outward)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        grown = nn.functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        return self.second(self.first(torch.cat([grown, skip], dim=1)))


def _convolved(inward: int, outward: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inward, outward, 3, padding=1, bias=False), plain_instance(3, outward), nn.LeakyReLU(0.01))


def transmorph(
    features: int = 96,
    depths: Sequence[int] = (2, 2, 4, 2),
    heads: Sequence[int] = (4, 4, 8, 8),
    window: int = 7,
    ratio: int = 4,
    final: int = 16,
    half_resolution: bool = False,
    integration_steps: int = 0,
) -> TransMorph:
    """Build a `TransMorph`."""
    return TransMorph(features, depths, heads, window, ratio, final, half_resolution, integration_steps)
