"""Cardiac super-resolution: learned upsampling between the slices, then a residual, from one or several views (Oktay et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.superresolve import between
from cohortex.models.superresolve.layers import CONTRAST, conv, first_weights, sees, to_voxels


class CardiacSr(nn.Module):
    """Multi-input residual network of Oktay et al., MICCAI 2016.

    A transposed convolution puts the slices on the fine grid as `width` features; a branch of 3 x 3 x 3 convolutions looks at every view
    with the same weights; what the branches found is joined and becomes the residual that is added to the interpolated slices.

    Input (n, channels, x, y, slices): channel 0 is the image; every further view, resampled onto the image's fine grid, is `factor`
    channels (`layers.to_channels`). Output (n, 1, x, y, slices * factor).

    The paper leaves open, chosen here: a fine voxel's features come from the 3 x 3 x 3 slices' voxels around it, with weights for each
    place in a slice, so that the branch knows where in its slice a voxel lies; the branch has two convolutions of `width` channels and
    the trunk two, of which the second has half the width; views are joined by their concatenation and one more convolution (with one
    view: the same convolution on that view); a further view is on the fine grid already, where one convolution takes the place of the
    upsampling; the interpolation is the cubic spline that agrees with the slices instead of a linear one.

    Parameters
    ----------
    factor : int
        Fine voxels a slice; 5 in the paper (10 mm to 2 mm).
    width : int
        Channels.
    inputs : sequence of str
        Names of the views, the image first.
    """

    grid = "slices"

    def __init__(self, factor: int = 5, width: int = 32, inputs: Sequence[str] = ("image",)):
        super().__init__()
        self.factor, self.views = factor, len(inputs)
        self.channels = 1 + (self.views - 1) * factor
        self.upsampling = nn.ConvTranspose3d(1, width, (3, 3, 3 * factor), stride=(1, 1, factor), padding=(2, 2, 2 * factor))
        self.view = sees(1, width) if self.views > 1 else None
        self.branch = nn.Sequential(
            nn.ReLU(inplace=True), conv(width, width), nn.ReLU(inplace=True), conv(width, width), nn.ReLU(inplace=True)
        )
        self.join = conv(width * self.views, width)
        self.detail = conv(width, width // 2)
        self.last = conv(width // 2, 1)
        first_weights(self, self.last, heads=[] if self.view is None else [self.view])
        with torch.no_grad():
            # As the first filters of the others, for each place in a slice: 27 weights that sum to zero.
            filters = torch.randn(width, 3, 3, 3, factor) * (CONTRAST * (2 / 27) ** 0.5)
            filters -= filters.mean((1, 2, 3), keepdim=True)
            self.upsampling.weight.copy_(filters.reshape(1, width, 3, 3, 3 * factor))
            nn.init.zeros_(self.upsampling.bias)  # pyright: ignore[reportArgumentType]

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels and slices at most this far away decide about a fine voxel: six layers in the plane, five of them on the fine grid."""
        return 6, 6, max(between.HALO, 1 + -(-6 // self.factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the fine grid."""
        image, factor = x[:, :1], self.factor
        slices = x.shape[-1]
        # Beyond its faces the image goes on as it ends.
        views = [self.upsampling(nn.functional.pad(image, (1,) * 6, mode="replicate"))]
        if self.view is not None:
            views += [self.view(to_voxels(x[:, i : i + factor], (1, 1, factor))) for i in range(1, x.shape[1], factor)]
        y = torch.relu_(self.join(torch.cat([self.branch(view) for view in views], 1)))
        y = self.last(torch.relu_(self.detail(y)))
        return y + between.spline(image, between.fine_positions(slices, slices * factor))


def cardiac_sr(factor: int = 5, width: int = 32, inputs: Sequence[str] = ("image",)) -> CardiacSr:
    """Build the cardiac network."""
    return CardiacSr(factor, width, inputs)
