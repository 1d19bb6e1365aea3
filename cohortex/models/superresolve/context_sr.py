"""Context-sensitive super-resolution: what lies around decides which detail is added (McDonagh et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.superresolve.layers import conv, first_weights, sees

DILATIONS = (1, 2, 4, 8)
"""Of the context branch: it sees 15 voxels in every direction with four small convolutions."""


class ContextSr(nn.Module):
    """Residual network with a context branch, after McDonagh et al., MICCAI RAMBO workshop 2017.

    Residual blocks of two 3 x 3 x 3 convolutions work on the interpolated volume. Beside them a context branch sees a four times wider
    neighbourhood, in which organ and orientation can be told, and scales and shifts the features of the trunk voxel by voxel before
    the residual is made of them.

    Input (n, channels, x, y, z) on the fine grid, slice axis last; output (n, 1, x, y, z). Further stacks of the same subject, or maps
    such as organ labels, are further channels. The paper's summary fixes the residual network and that context decides; chosen here:
    the dilated branch (convolutions keep results independent of the block, which pooling would not) and the way in which it acts.

    Parameters
    ----------
    width, context_width : int
        Channels of the trunk and of the context branch.
    blocks : int
        Residual blocks.
    context : bool
        Off, the trunk alone.
    inputs : sequence of str
        What the channels are, the image first.
    """

    grid = "fine"

    def __init__(self, width: int = 24, context_width: int = 8, blocks: int = 3, context: bool = True, inputs: Sequence[str] = ("image",)):
        super().__init__()
        self.channels = len(inputs)
        self.head = sees(self.channels, width)
        self.blocks = nn.ModuleList(nn.Sequential(conv(width, width), nn.ReLU(inplace=True), conv(width, width)) for _ in range(blocks))
        self.last = conv(width, 1)
        self.context = None
        if context:
            layers: list[nn.Module] = []
            for index, dilation in enumerate(DILATIONS):
                layer = conv(context_width, context_width, dilation=dilation) if index else sees(self.channels, context_width)
                layers += [layer, nn.ReLU(inplace=True)]
            self.context = nn.Sequential(*layers, conv(context_width, 2 * width, (1, 1, 1)))
        first_weights(
            self,
            self.last,
            *([] if self.context is None else [self.context[-1]]),
            inner=[block[-1] for block in self.blocks],  # pyright: ignore
            heads=[self.head, *([] if self.context is None else [self.context[0]])],
        )

    @property
    def halo(self) -> int:
        """Voxels at most this far away decide about a voxel."""
        trunk = 1 + 2 * len(self.blocks)
        return 1 + (trunk if self.context is None else max(trunk, sum(DILATIONS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail."""
        y = torch.relu_(self.head(x))
        for block in self.blocks:
            y = y + block(y)
        if self.context is not None:
            scale, shift = self.context(x).chunk(2, 1)
            y = y * (1 + scale) + shift
        return x[:, :1] + self.last(torch.relu_(y))


def context_sr(
    width: int = 24, context_width: int = 8, blocks: int = 3, context: bool = True, inputs: Sequence[str] = ("image",)
) -> ContextSr:
    """Build the context-sensitive network."""
    return ContextSr(width, context_width, blocks, context, inputs)
