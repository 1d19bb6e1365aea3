"""Progressive multi-contrast super-resolution with a reference contrast, and its critic (Lyu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.superresolve.layers import PLANES, conv, first_weights, sees


class Branch(nn.Module):
    """Features of one contrast: a convolution, then residual blocks of one convolution in each plane with the slice axis."""

    def __init__(self, width: int, blocks: int):
        super().__init__()
        self.head = sees(1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(width, width, PLANES[0]), nn.ReLU(inplace=True), conv(width, width, PLANES[1])) for _ in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `width` channels."""
        y = torch.relu_(self.head(x))
        for block in self.blocks:
            y = y + block(y)
        return torch.relu_(y)


class Level(nn.Module):
    """One level: a branch for the image, one for the reference, joined among high-level features, and the residual made of both."""

    def __init__(self, width: int, blocks: int, reference: bool):
        super().__init__()
        self.image = Branch(width, blocks)
        self.reference = Branch(width, blocks) if reference else None
        self.join = conv(2 * width if reference else width, width, (1, 1, 1))
        self.tail = nn.Sequential(
            conv(width, width, PLANES[0]), nn.ReLU(inplace=True), conv(width, width, PLANES[1]), nn.ReLU(inplace=True)
        )
        self.last = conv(width, 1)

    def forward(self, image: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
        """Return the image with this level's detail."""
        found = [self.image(image)]
        if self.reference is not None and reference is not None:
            found.append(self.reference(reference))
        y = torch.relu_(self.join(torch.cat(found, 1)))
        return image + self.last(self.tail(y))


class ProgressiveSr(nn.Module):
    """Generator of Lyu et al., IEEE Trans. Med. Imaging 39(9), 2020: two levels, a reference contrast joined at each.

    Input (n, channels, x, y, z) on the fine grid, slice axis last: the interpolated image, then the finely resolved reference
    contrast of the same subject. Output (n, 1, x, y, z). `levels` gives what every level made, the coarser one first: its aim is
    the image with slices half as thick as they were.

    Trained with mean squared error, a critic, a feature loss and a texture loss: objective ``progressive_gan_features``, with `Critic`.

    The paper is two-dimensional and upsamples in the network; chosen here: the volume was put on the fine grid by the spline before, so
    that any factor will do, and convolutions lie in the two planes that hold the slice axis.

    Parameters
    ----------
    width : int
    blocks : int
        Residual blocks of a branch.
    depth : int
        Levels; 1 is the paper's network without progression.
    inputs : sequence of str
        ``image`` alone, or ``image`` and ``reference``.
    """

    grid = "fine"

    def __init__(self, width: int = 24, blocks: int = 2, depth: int = 2, inputs: Sequence[str] = ("image", "reference")):
        super().__init__()
        if len(inputs) > 2:
            raise ValueError(f"one reference contrast at most, not {', '.join(inputs[1:])}")
        self.channels = len(inputs)
        self.stages = nn.ModuleList(Level(width, blocks, len(inputs) > 1) for _ in range(depth))
        branches = [module for module in self.modules() if isinstance(module, Branch)]
        inner = [block[-1] for branch in branches for block in branch.blocks]  # pyright: ignore
        first_weights(self, *[stage.last for stage in self.stages], inner=inner, heads=[b.head for b in branches])  # pyright: ignore
        self.blocks = blocks

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels at most this far away decide about a voxel: two cubes a level, and planes in turns."""
        across = len(self.stages) * (3 + self.blocks)
        return across, across, len(self.stages) * (4 + 2 * self.blocks)

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the image after every level, each (n, 1, x, y, z)."""
        image, reference = x[:, :1], x[:, 1:2] if self.channels > 1 else None
        made = []
        for stage in self.stages:
            image = stage(image, reference)
            made.append(image)
        return made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image after the last level."""
        return self.levels(x)[-1]


class Critic(nn.Module):
    """Critic of the generator: strided 3 x 3 x 3 convolutions, leaky ReLU, mean score over the patch; no normalisation.

    Input (n, 1, x, y, z) of at least 8 voxels along each axis; output (n,) scores, as a Wasserstein critic gives them. The paper's
    critic ends in dense layers for one size of pictures; the mean over the places, chosen here, takes patches of any size.
    """

    def __init__(self, width: int = 16, depth: int = 3):
        super().__init__()
        layers: list[nn.Module] = []
        inward = 1
        for level in range(depth):
            outward = width * 2**level
            layers += [nn.Conv3d(inward, outward, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            layers += [nn.Conv3d(outward, outward, 3, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            inward = outward
        self.layers = nn.Sequential(*layers, nn.Conv3d(inward, 1, 1))
        first_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a score of every example."""
        return self.layers(x).mean((1, 2, 3, 4))


def progressive_sr(width: int = 24, blocks: int = 2, depth: int = 2, inputs: Sequence[str] = ("image", "reference")) -> ProgressiveSr:
    """Build the progressive generator."""
    return ProgressiveSr(width, blocks, depth, inputs)


def critic(width: int = 16, depth: int = 3) -> Critic:
    """Build its critic."""
    return Critic(width, depth)
