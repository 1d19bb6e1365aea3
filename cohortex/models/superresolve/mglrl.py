"""MGLRL: kernels of several sizes side by side, residuals in blocks and over the whole network (Shi et al. 2018)."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.superresolve.layers import conv, first_weights, sees

EDGES = (3, 5, 7)
"""Of the kernels that lie side by side."""


class Scales(nn.Module):
    """Convolutions of 3 x 3, 5 x 5 and 7 x 7 side by side in a plane that holds the slice axis, then ReLU."""

    def __init__(self, inward: int, width: int, plane: int):
        super().__init__()
        layer = sees if inward == 1 else conv
        self.kernels = nn.ModuleList(layer(inward, width, (1, e, e) if plane else (e, 1, e)) for e in EDGES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``3 * width`` channels."""
        return torch.relu_(torch.cat([kernel(x) for kernel in self.kernels], 1))


class Mglrl(nn.Module):
    """Multi-scale global and local residual learning of Shi et al., Phys. Med. Biol. 63(8), 2018.

    Parallel kernels of several sizes see edges of several widths; shallow blocks learn local residuals; the input is
    added to the output by a fixed skip connection (global residual).

    Input and output (n, 1, x, y, z) on the fine grid, slice axis last. The paper is two-dimensional; chosen here: planes x-z and y-z
    in turns, widths and counts.

    Parameters
    ----------
    width : int
        Channels of each kernel size.
    blocks : int
        Local residual blocks of two multi-scale layers (one in each plane).
    local_residual, global_residual : bool
        The shortcuts, for ablations.
    """

    grid = "fine"
    channels = 1

    def __init__(self, width: int = 8, blocks: int = 2, local_residual: bool = True, global_residual: bool = True):
        super().__init__()
        self.local_residual, self.global_residual = local_residual, global_residual
        wide = len(EDGES) * width
        self.head = nn.Sequential(Scales(1, width, 0), conv(wide, wide, (1, 1, 1)))
        self.blocks = nn.ModuleList(
            nn.Sequential(Scales(wide, width, 1), Scales(wide, width, 0), conv(wide, wide, (1, 1, 1))) for _ in range(blocks)
        )
        self.last = conv(wide, 1)
        inner = [block[-1] for block in self.blocks] if local_residual else []  # pyright: ignore
        heads = self.head[0].kernels if global_residual else []
        first_weights(self, *([self.last] if global_residual else []), inner=inner, heads=heads)  # pyright: ignore

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels at most this far away decide about a voxel: the head and half of the layers look along x, the other half along y."""
        reach, blocks = max(EDGES) // 2, len(self.blocks)
        return reach * (1 + blocks) + 1, reach * blocks + 1, reach * (1 + 2 * blocks) + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the volume with detail."""
        y = self.head(x)
        for block in self.blocks:
            y = y + block(y) if self.local_residual else block(y)
        y = self.last(torch.relu_(y))
        return y + x if self.global_residual else y


def mglrl(width: int = 8, blocks: int = 2, local_residual: bool = True, global_residual: bool = True) -> Mglrl:
    """Build MGLRL."""
    return Mglrl(width, blocks, local_residual, global_residual)
