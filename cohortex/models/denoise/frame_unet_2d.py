"""The shrinkage network of slices: a learnable redundant frame of 8 x 8 windows whose coefficients a small U-Net weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights

EDGE = 8
"""Edge of the frame's windows in pixels; they lie two pixels apart."""

SPARE = EDGE - 2
"""Pixels added at the border, so that every pixel lies in as many windows as any other."""

SATURATED = 6.0
"""Coefficients beyond so many standard deviations of the noise all say the same: there is signal."""

THRESHOLD, STEEPNESS = 2.8, 4.0
"""Where half of a coefficient is taken for noise in the first pass before the training, and how sharply that changes."""

LEAST = 0.01
"""Energy of a pilot's coefficient, in units of the noise's variance, below which all is noise."""


class FrameUnet2d(nn.Module):
    """Shrinkage of the coefficients of a redundant block transform of slices, each by a factor that a U-Net gives.

    As `cohortex.models.denoise.frame_unet`, in two dimensions, for stacks of thick slices. The image is in units of the standard deviation
    of its noise. Windows of 8 x 8 pixels, two apart, are analysed by 64 learnable functions that begin as the discrete cosine transform,
    as in the redundant block DCT (Yu and Sapiro, Image Processing On Line 1, 2011, doi:10.5201/ipol.2011.ys-dct). A first pass takes away
    what lies below a threshold; the coefficients of the pilot that remains predict the share of each coefficient that is noise, as in a
    Wiener filter (after the two passes of Dabov et al., IEEE Trans. Image Process. 16(8), 2007). A residual U-Net of two resolutions (after
    Ronneberger et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_28) looks at both and moves these shares, and makes a small
    correction. Before any training it is the transform with its two passes, so a training of minutes, without any clean image, begins
    where a classical method ends.

    Parameters
    ----------
    fine, coarse : int
        Channels at two and at four pixels.
    blocks : int
        Residual blocks at four pixels; at two there are one convolution before them and one block after them.
    """

    in_noise_units = True
    """Its input's noise has a standard deviation of 1."""

    multiple = 4
    """Blocks of an image begin at multiples of it, or the windows of a block would not be those of the image."""

    def __init__(self, fine: int = 32, coarse: int = 64, blocks: int = 2):
        super().__init__()
        frame = half_grid(cosines()[:, None])
        level = torch.ones(len(frame), 1, 1, 1)
        # The mean of a window would saturate at once.
        level[0] = 1 / EDGE
        count = len(frame)
        self.values, self.sizes = conv(2, 2 * count, fine, 1), conv(2, 2 * count, fine, 1, bias=False)
        self.before = conv(2, fine, fine)
        self.down = conv(2, fine, coarse, 2, stride=2, padding=0)
        self.middle = nn.Sequential(*(_Residual(coarse) for _ in range(blocks)))
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.after = _Residual(fine)
        self.noise, self.correction = conv(2, fine, count, 1), conv(2, fine, 4, 1)
        he_weights(self)
        self.analysis = nn.Parameter(frame * level)
        # Of the size of the analysis: a step of the optimiser, which is alike for all parameters, would be a large share of smaller ones.
        self.synthesis = nn.Parameter((frame / level).flip((2, 3)).transpose(0, 1).contiguous())
        self.threshold = nn.Parameter(torch.full((1, count, 1, 1), THRESHOLD))
        # A pixel is made of windows that begin up to three cells before it, and so is the pilot in them; three convolutions and the place
        # within four pixels reach four cells further, each block two of twice the width.
        reach = 2 * (3 + 3 + 4) + 1 + 8 * blocks
        self.halo = -(-reach // self.multiple) * self.multiple
        with torch.no_grad():
            self.noise.weight.mul_(0.1)
            # Nothing is taken from a window's mean, neither in the first pass nor in the second.
            self.noise.bias[0] = -10.0  # pyright: ignore[reportOptionalSubscript]
            self.threshold[:, 0] = -THRESHOLD
            for parameter in self.correction.parameters():
                parameter.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image without its noise.

        Parameters
        ----------
        x : (n, 1, x, y) tensor
            In units of the noise, 0 where there is no signal.

        Returns
        -------
        tensor of the same shape
        """
        shape = x.shape[2:]
        # The number of windows is even along each axis.
        ends = [rest + 4 * -(-max(SPARE - rest, 0) // 4) for rest in (-n % 4 for n in reversed(shape))]
        image = half_grid(functional.pad(x, [side for end in ends for side in (SPARE, end)], mode="replicate"))
        found = functional.conv2d(image, self.analysis)
        pilot = functional.conv2d(image - self.made(found * torch.sigmoid(STEEPNESS * (self.threshold - found.abs()))), self.analysis)
        seen = torch.cat([found, pilot], 1).clamp(-SATURATED, SATURATED)
        y = torch.relu(self.values(seen) + self.sizes(seen.abs()))
        y = torch.relu(y + self.before(y))
        y = self.after(y + self.up(self.middle(torch.relu(self.down(y)))))
        # The logistic function of this is 1 / (1 + pilot^2): the Wiener filter's share of noise.
        share = torch.sigmoid(self.noise(y) - torch.log(pilot.square() + LEAST))
        # A window holds four cells along each axis; its correction is that of one in its middle.
        removed = self.made(found * share) + functional.pad(self.correction(y), (1, 2, 1, 2))
        made = functional.pixel_shuffle(image - removed, 2)
        return made[(..., *(slice(SPARE, SPARE + size) for size in shape))]

    def made(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return the cells that coefficients of windows make."""
        made = functional.conv2d(functional.pad(coefficients, [SPARE // 2] * 4), self.synthesis)
        # So many windows hold a pixel.
        return made / (EDGE // 2) ** 2


class _Residual(nn.Module):
    """Two convolutions of size 3 whose result is added to what they look at."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = conv(2, channels, channels), conv(2, channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu_(self.first(x)))


def cosines() -> torch.Tensor:
    """Return the orthonormal basis of the discrete cosine transform of a window, (64, 8, 8)."""
    at, order = torch.arange(EDGE), torch.arange(EDGE)[:, None]
    basis = torch.cos(math.pi * (at + 0.5) * order / EDGE) * math.sqrt(2 / EDGE)
    basis[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", basis, basis).reshape(-1, EDGE, EDGE)


def half_grid(x: torch.Tensor) -> torch.Tensor:
    """Return (n, 1, 2 a, 2 b) as (n, 4, a, b): the four pixels of each cell of 2 x 2, as `pixel_shuffle` undoes it."""
    return functional.pixel_unshuffle(x, 2)


def frame_unet_2d(fine: int = 32, coarse: int = 64, blocks: int = 2) -> FrameUnet2d:
    """Build the network."""
    return FrameUnet2d(fine, coarse, blocks)
