"""Slab super-resolution: each slice by itself first, then what neighbouring slices know joined across the slab."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.superresolve.layers import conv, first_weights, sees


class SlabSr(nn.Module):
    """Slice information integration: two-dimensional features of every slice, then three-dimensional fusion over a slab of slices.

    The interpolated slices pass a two-dimensional network one by one; its features are then joined with those of the slices above and
    below. Slice-wise networks decide about each slice alone, so that the slices jitter against each other; the fusion is what takes
    that away. The idea is described, without a network, in the review named below; layers and counts are chosen here.

    Input and output (n, 1, x, y, z) on the fine grid, slice axis last.

    Parameters
    ----------
    width : int
    layers : int
        Two-dimensional 3 x 3 layers after the first.
    slab : int
        Slices that are joined, odd: (slab - 1) / 2 layers of three.
    fusion : bool
        Off: the slice-wise twin with as many parameters, whose last layers look along x and y in turns instead of across slices.

    References
    ----------
    Recent advancements and future prospects in active deep learning for medical image segmentation and classification, IEEE Access 11,
    2023, doi:10.1109/ACCESS.2023.3313977, section III.A.2 and the text of its Fig. 4.
    """

    grid = "fine"
    channels = 1

    def __init__(self, width: int = 24, layers: int = 3, slab: int = 9, fusion: bool = True):
        super().__init__()
        if slab % 2 == 0 or slab < 3:
            raise ValueError(f"a slab has its slice in the middle: 3, 5, 7, ... slices, not {slab}")
        inside: list[nn.Module] = [sees(1, width, (3, 3, 1)), nn.ReLU(inplace=True)]
        for _ in range(layers):
            inside += [conv(width, width, (3, 3, 1)), nn.ReLU(inplace=True)]
        self.slice = nn.Sequential(*inside)
        twin = ((3, 1, 1), (1, 3, 1))
        self.slab = nn.ModuleList(conv(width, width, (1, 1, 3) if fusion else twin[i % 2]) for i in range(slab // 2))
        self.last = conv(width, 1, (3, 3, 1))
        first_weights(self, self.last, inner=self.slab, heads=[self.slice[0]])
        plain, joins = layers + 2, slab // 2
        self._halo = (plain, plain, joins) if fusion else (plain + (joins + 1) // 2, plain + joins // 2, 0)

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels at most this far away decide about a voxel."""
        return self._halo

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail."""
        y = self.slice(x)
        for layer in self.slab:
            y = y + torch.relu_(layer(y))
        return x + self.last(y)


def slab_sr(width: int = 24, layers: int = 3, slab: int = 9, fusion: bool = True) -> SlabSr:
    """Build the slab network or its slice-wise twin."""
    return SlabSr(width, layers, slab, fusion)
