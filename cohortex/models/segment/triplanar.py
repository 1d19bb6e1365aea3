"""Tri-planar 2.5-D network (Moeskops et al., MICCAI 2016): three orthogonal patches through a voxel decide about its label."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.denoise.layers import he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, norm_of, shaped_conv


class TriPlanar(SegmentationNetwork):
    """Three rows of 2-D convolutions, one for each plane through a voxel, joined by dense layers.

    Evaluated for all voxels of a volume at once: a convolution in a plane is one of 3 x 3 x 1, and the dense layers are convolutions
    of size 1. That gives for each voxel what the network gives for its three patches, without doing the work that neighbouring patches
    share again. Parameters grow as those of a 2-D network. The paper's patches have 51 x 51 voxels, 25 convolutions of size 3 without
    pooling, and one network serves several tasks: `classes` are then those of all of them together. Its own numbers of filters are
    32 a plane and 192 in the dense layer; exponential linear units and batch norms.

    Parameters
    ----------
    layers : int
        Convolutions of each plane.
    features, hidden : int
    dropout : float
        Before the dense layers.
    kernels : {"planes", "plane", "cubes"}
        The last two are the twins that three planes are held against: one plane (across the last axis) alone, and one row of
        3 x 3 x 3 convolutions; both have as many features in all as the three planes.
    """

    def __init__(
        self,
        channels: int = 1,
        classes: int = 2,
        layers: int = 25,
        features: int = 32,
        hidden: int = 192,
        dropout: float = 0.5,
        kernels: str = "planes",
    ):
        super().__init__(3, channels, classes)
        shapes = {"planes": [(1, 3, 3), (3, 1, 3), (3, 3, 1)], "plane": [(3, 3, 1)], "cubes": [(3, 3, 3)]}
        if kernels not in shapes:
            raise ValueError(f"kernels is planes, plane or cubes, not {kernels!r}")
        self.planes = nn.ModuleList()
        width = 3 * features // len(shapes[kernels])
        for kernel in shapes[kernels]:
            row: list[nn.Module] = []
            for number in range(layers):
                row.append(shaped_conv(3, width if number else channels, width, kernel))
                row += [norm_of("batch", 3, width), nn.ELU(inplace=True)]
            self.planes.append(nn.Sequential(*row))
        self.dense = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv3d(3 * features, hidden, 1),
            norm_of("batch", 3, hidden),
            nn.ELU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv3d(hidden, classes, 1),
        )
        he_weights(self)
        self.halo = Reach().conv(times=layers).halo

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        return [self.dense(torch.cat([plane(x) for plane in self.planes], 1))]


def triplanar(
    channels: int = 1,
    classes: int = 2,
    layers: int = 25,
    features: int = 32,
    hidden: int = 192,
    dropout: float = 0.5,
    kernels: str = "planes",
) -> TriPlanar:
    """Build the tri-planar network."""
    return TriPlanar(channels, classes, layers, features, hidden, dropout, kernels)
