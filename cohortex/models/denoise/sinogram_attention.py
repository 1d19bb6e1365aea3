"""Attention residual dense network that cleans sinograms before filtered backprojection (Ma et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.denoise.projection import scanner


class Attention(nn.Module):
    """Channel attention, then spatial attention (Woo et al., CBAM, ECCV 2018).

    Channels are weighted by what one small dense network says of their mean and of their maximum over the sinogram, places by a 7 x 7
    convolution over the channels' mean and maximum.
    """

    def __init__(self, filters: int, reduction: int = 8):
        super().__init__()
        # with fewer hidden channels all of them may be silent from the beginning
        hidden = max(4, filters // reduction)
        self.squeeze, self.excite = conv(2, filters, hidden, 1), conv(2, hidden, filters, 1)
        self.place = conv(2, 2, 1, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the weighted features, (n, filters, view, detector)."""
        mean, largest = (
            self.excite(torch.relu(self.squeeze(part))) for part in (x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True))
        )
        x = x * torch.sigmoid(mean + largest)
        return x * torch.sigmoid(self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class DenseBlock(nn.Module):
    """Residual dense block (Zhang et al., CVPR 2018) with attention before its features are added to what comes in."""

    def __init__(self, filters: int, growth: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(conv(2, filters + k * growth, growth) for k in range(layers))
        self.fusion = conv(2, filters + layers * growth, filters, 1)
        self.attention = Attention(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape that comes in."""
        found = [x]
        for layer in self.layers:
            found.append(torch.relu_(layer(torch.cat(found, 1))))
        return x + self.attention(self.fusion(torch.cat(found, 1)))


class SinogramAttention(nn.Module):
    """AttRDN of Ma, Ren, Feng et al., Sinogram denoising via attention residual dense CNN for low-dose CT, 2021.

    Two convolutions, residual dense blocks with attention, fusion of the features of all blocks, and two convolutions give the noise
    of a sinogram, which is taken away from it; filtered backprojection follows. Numbers of blocks, layers and filters are choices
    of ours.

    Input and output are whole slices (n, 1, x, y) of any size. An image whose raw data are not at hand is projected itself
    (`cohortex.models.denoise.projection`). Backprojection being linear, only the noise that the network finds goes through it: the
    image minus its reconstruction is what the image of the cleaned sinogram is, without the blur of projecting and going back. Where there
    are raw data, `clean` takes the sinogram.

    Parameters
    ----------
    filters, growth : int
        Of the convolutions outside the blocks and inside them.
    blocks, layers : int
        Dense blocks, and convolutions in each.
    views : int
        See `projection.scanner`.
    """

    halo = 0

    def __init__(self, filters: int = 32, growth: int = 16, blocks: int = 4, layers: int = 4, views: int = 0):
        super().__init__()
        self.views = views
        self.first, self.second = conv(2, 1, filters), conv(2, filters, filters)
        self.blocks = nn.ModuleList(DenseBlock(filters, growth, layers) for _ in range(blocks))
        self.fusion, self.fused = conv(2, blocks * filters, filters, 1), conv(2, filters, filters)
        self.last = conv(2, filters, 1)
        he_weights(self, self.last)

    def noise(self, sinogram: torch.Tensor) -> torch.Tensor:
        """Return the noise of sinograms (n, 1, view, detector)."""
        shallow = self.first(sinogram)
        y, found = self.second(shallow), []
        for block in self.blocks:
            y = block(y)
            found.append(y)
        return self.last(self.fused(self.fusion(torch.cat(found, 1))) + shallow)

    def clean(self, sinogram: torch.Tensor) -> torch.Tensor:
        """Return sinograms (n, 1, view, detector) without their noise."""
        return sinogram - self.noise(sinogram)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored slices, of the input's shape."""
        way = scanner((x.shape[2], x.shape[3]), self.views)
        return x - way.reconstruct(self.noise(way.project(x)))


def sinogram_attention(filters: int = 32, growth: int = 16, blocks: int = 4, layers: int = 4, views: int = 0) -> SinogramAttention:
    """Build the network."""
    return SinogramAttention(filters, growth, blocks, layers, views)
