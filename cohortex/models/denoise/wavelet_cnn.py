"""Directional-wavelet network: a CNN cleans the bands of a contourlet transform (Kang, Min & Ye 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from cohortex.filters.contourlet import DIRECTIONS, contourlet, inverse_contourlet, reach
from cohortex.models.denoise.layers import batch_norm, conv, he_weights


class _Layers(nn.Sequential):
    """Convolutions of 3 x 3, each with batch normalisation and ReLU."""

    def __init__(self, *widths: int):
        layers: list[nn.Module] = []
        for inward, outward in pairwise(widths):
            layers += [conv(2, inward, outward), batch_norm(2, outward), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class WaveletCnn(nn.Module):
    """Network of Kang, Min & Ye, A deep convolutional neural network using directional wavelets, Med. Phys. 44(10), 2017.

    The image's non-subsampled contourlet transform (`cohortex.filters.contourlet`) has 15 bands. Three layers take these to 128 channels;
    six modules follow, each three layers whose output is added to the module's input; what came into each module and what came out of the
    last is joined to 896 channels, and three layers make 15 bands of them: 24 convolutions of 3 x 3, all but the last with batch
    normalisation and ReLU. The network makes the bands themselves, but of the low-pass band what is to be added to it. Layers and bypass
    are those of the authors' published code; the filters of the transform are the ones of `cohortex.filters.contourlet`, shorter ones of
    the same construction.

    The loss is taken of the bands: `coefficients` gives those that the network makes, `coefficients_of` those of an image; `forward` gives
    the image of the first.

    Parameters
    ----------
    filters : int
        128 in the paper.
    modules : int
        6 in the paper.
    directions : sequence of int
        Of every scale, the finest first.
    bypass : {"lowest", "all"}
        Which bands are added to what the network makes: the low-pass band (the paper), or all of them, so that the network makes
        the noise of every band (their next one, WavResNet).
    """

    scale = 50.0
    """Of the bands inside the network, for images whose 0 to 1 are 2600 HU: the authors' 1000 for images in 1/mm."""

    def __init__(
        self,
        filters: int = 128,
        modules: int = 6,
        directions: Sequence[int] = DIRECTIONS,
        bypass: Literal["lowest", "all"] = "lowest",
    ):
        super().__init__()
        if bypass not in ("lowest", "all"):
            raise ValueError(f"bypass is lowest or all, not {bypass!r}")
        self.directions, self.bypass = tuple(directions), bypass
        bands = 1 + sum(self.directions)
        self.first = _Layers(bands, filters, filters, filters)
        self.steps = nn.ModuleList(_Layers(filters, filters, filters, filters) for _ in range(modules))
        self.joined = _Layers((modules + 1) * filters, filters, filters)
        self.last = conv(2, filters, bands)
        self.halo = sum(reach(self.directions)) + 6 + 3 * modules
        he_weights(self, self.last)

    def coefficients_of(self, image: torch.Tensor) -> torch.Tensor:
        """Return the bands of images (n, 1, rows, columns): (n, bands, rows, columns), times `scale`."""
        return self.scale * contourlet(image[:, 0], self.directions)

    def coefficients(self, x: torch.Tensor) -> torch.Tensor:
        """Return the cleaned bands of images, times `scale`."""
        bands = self.coefficients_of(x)
        y = self.first(bands)
        found = [y]
        for step in self.steps:
            y = torch.relu_(step(y) + y)
            found.append(y)
        made = self.last(self.joined(torch.cat(found, 1)))
        if self.bypass == "all":
            return made + bands
        return torch.cat([made[:, :1] + bands[:, :1], made[:, 1:]], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored image, of the input's shape (n, 1, rows, columns)."""
        return inverse_contourlet(self.coefficients(x) / self.scale, self.directions)[:, None]


def wavelet_cnn(
    filters: int = 128, modules: int = 6, directions: Sequence[int] = DIRECTIONS, bypass: Literal["lowest", "all"] = "lowest"
) -> WaveletCnn:
    """Build the network."""
    return WaveletCnn(filters, modules, directions, bypass)
