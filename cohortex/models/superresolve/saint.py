"""SAINT: two views across the slices, super-resolved by any factor, then fused in the plane of the slices (Peng et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from cohortex.errors import Refused
from cohortex.models.superresolve import between
from cohortex.models.superresolve.layers import first_weights
from cohortex.models.superresolve.rdn import ResidualDenseNetwork
from cohortex.models.superresolve.throughplane import fine_count

PRESETS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "paper": ((64, 6, 8, 32), (64, 4, 6, 12)),
    "compact": ((32, 3, 3, 16), (16, 1, 2, 8)),
}
"""Of the marginal and of the fusing network: width, blocks, layers of a block, growth."""

LARGEST = 6.0
"""Largest factor that the network is made for."""

META = (32, 64, 64, 64)
"""Channels of the network that predicts the interpolation."""

AT_ONCE = 2**22
"""Values of one feature layer at once in evaluation: planes go through the network in groups, so that memory stays small."""


class MetaInterpolation(nn.Module):
    """Anisotropic meta interpolation: a small network gives the 3 x 3 weights that make a fine voxel of features on the slices.

    The weights of a fine voxel follow from where it lies: for each of the 3 x 3 places around its nearest slice the network is told
    the distance along the slice axis in slices, the same in fine voxels, and the distance in the plane. So one network serves every
    factor, whole or not. Five 3 x 3 convolutions on these maps, ReLU between them. What they give is divided by the number of values that
    a fine voxel sums over, since a step of the training moves all of these together.
    """

    def __init__(self, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        inward = 3
        for outward in META:
            layers += [nn.Conv2d(inward, outward, 3, padding=1), nn.ReLU(inplace=True)]
            inward = outward
        self.last = nn.Conv2d(inward, width, 3, padding=1)
        self.weights = nn.Sequential(*layers, self.last)
        self.gain = 1 / (9 * width)

    def kernels(self, fractions: torch.Tensor, factor: float) -> torch.Tensor:
        """Return the weights (count, width, 3, 3) of fine voxels that lie `fractions` of a slice beyond their nearest slice's centre."""
        weight = self.last.weight
        fractions = fractions.to(weight)
        step = torch.arange(-1.0, 2.0).to(weight)
        through = (step[None, None, :] - fractions[:, None, None]).expand(-1, 3, 3)
        across = step[None, :, None].expand_as(through)
        maps = torch.stack([through, through * (factor / LARGEST), across], 1)
        # bfloat16 has too few digits for positions
        with torch.autocast(weight.device.type, enabled=False):
            return self.weights(maps) * self.gain

    def forward(self, features: torch.Tensor, positions: torch.Tensor, factor: float) -> torch.Tensor:
        """Return the fine voxels.

        Parameters
        ----------
        features : (n, width, rows, slices) tensor
        positions : (count,) float64 tensor
            Of the fine voxels, in slices from the centre of the first.
        factor : float
            Fine voxels a slice.

        Returns
        -------
        (n, 1, rows, count) tensor
        """
        slices = features.shape[-1]
        nearest = torch.floor(positions + 0.5).clamp(0, slices - 1)
        fractions = positions - nearest
        whole = round(factor)
        if len(positions) == whole * slices and torch.equal(positions, between.fine_positions(slices, whole * slices)):
            # Every slice is cut alike: one convolution with a channel for each of its fine voxels.
            made = nn.functional.conv2d(features, self.kernels(fractions[:whole], factor), padding=1)
            return made.permute(0, 2, 3, 1).reshape(len(made), 1, made.shape[2], -1)
        kernels = self.kernels(fractions, factor)
        around = nn.functional.pad(features, (1, 1))
        columns = [
            nn.functional.conv2d(around[..., k : k + 3], kernels[m : m + 1], padding=(1, 0))
            for m, k in enumerate(nearest.to(torch.int64).tolist())
        ]
        return torch.cat(columns, -1)


class Saint(nn.Module):
    """SAINT of Peng et al., CVPR 2020: one network for every through-plane factor.

    Stage 1, marginal super-resolution: every sagittal plane (with its two neighbours as channels) passes a residual dense network,
    `MetaInterpolation` makes its fine voxels; every coronal plane passes the same weights. Stage 2, residual fusion: on every
    fine axial plane a second residual dense network sees both estimates and corrects their mean.

    ``forward(x, factor)``: x (n, 1, x, y, slices), output (n, 1, x, y, count) with count = ``fine_count(slices, factor)``, or as many as
    `positions` has. In evaluation one channel; while it trains three, fused, sagittal and coronal, so that a plain error against one
    target (n, 1, ...) is the mean of three losses and each view learns to stand for itself.

    Chosen here: both stages learn together; the views add to the interpolated slices (`between.spline`) what is missing, where the paper
    predicts values outright; the voxels' distances are signed and given for both axes; of the paper's two sizes of trunks the smaller one.

    Parameters
    ----------
    preset : {"compact", "paper"}
        paper: marginal network of 6 blocks of 8 layers at 64 channels, fusing network of 4 blocks of 6 layers. compact: 3 blocks of 3
        layers at 32 channels, and 1 block of 2 at 16; for CPUs.
    """

    grid = "slices"
    any_factor = True
    channels = 1

    def __init__(self, preset: str = "compact"):
        super().__init__()
        if preset not in PRESETS:
            raise Refused(f"SAINT has no preset {preset!r}; it has: {', '.join(PRESETS)}.")
        marginal, fusing = PRESETS[preset]
        self.marginal = ResidualDenseNetwork(3, *marginal)
        self.meta = MetaInterpolation(marginal[0])
        self.fusing = ResidualDenseNetwork(2, *fusing)
        self.last = nn.Conv2d(fusing[0], 1, 3, padding=1)
        inner = [layer for trunk in (self.marginal, self.fusing) for layer in trunk.sums()]
        first_weights(self, self.last, inner=inner, heads=[self.marginal.first, self.fusing.first])

    @property
    def halo(self) -> tuple[int, int, int]:
        """Voxels and slices at most this far away decide about a fine voxel."""
        view = self.marginal.halo + 1
        across = view + self.fusing.halo + 1
        return across, across, max(view, between.HALO)

    def estimates(
        self, x: torch.Tensor, factor: float, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the fused volume and those of the sagittal and the coronal view, each (n, 1, x, y, count)."""
        slices = x.shape[-1]
        if positions is None:
            positions = between.fine_positions(slices, fine_count(slices, factor))
        start = between.spline(x, positions)
        sagittal = start + self._view(x, positions, factor)
        coronal = start + self._view(x.transpose(2, 3), positions, factor).transpose(2, 3)
        return self._fused(sagittal, coronal), sagittal, coronal

    def forward(self, x: torch.Tensor, factor: float, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Return the fine grid.

        Parameters
        ----------
        x : (n, 1, x, y, slices) tensor
        factor : float
            Fine voxels a slice, 2 to 6 as trained by default; need not be whole.
        positions : (count,) float64 tensor, optional
            Centres of the fine voxels, in slices from the centre of the first slice of x, where x is a part of a volume; in order.

        Returns
        -------
        (n, 1 or 3, x, y, count) tensor
            See the class.
        """
        made = self.estimates(x, factor, positions)
        return torch.cat(made, 1) if self.training else made[0]

    def _view(self, x: torch.Tensor, positions: torch.Tensor, factor: float) -> torch.Tensor:
        """Return the detail that planes along the second spatial axis show, (n, 1, x, y, count)."""
        n, _, size, rows, slices = x.shape
        # Beyond its faces the image goes on as it ends.
        around = torch.cat([x[:, 0, :1], x[:, 0], x[:, 0, -1:]], 1)
        planes = around.unfold(1, 3, 1).permute(0, 1, 4, 2, 3).reshape(n * size, 3, rows, slices)
        made = self._in_groups(planes, lambda group: self.meta(self.marginal(group), positions, factor), self.marginal)
        return made.reshape(n, size, 1, rows, -1).transpose(1, 2)

    def _fused(self, sagittal: torch.Tensor, coronal: torch.Tensor) -> torch.Tensor:
        """Return what the axial planes make of both views."""
        n, _, nx, ny, count = sagittal.shape
        both = torch.cat([sagittal, coronal], 1)
        planes = both.permute(0, 4, 1, 2, 3).reshape(n * count, 2, nx, ny)
        made = self._in_groups(planes, lambda group: self.last(torch.relu(self.fusing(group))), self.fusing)
        return both.mean(1, keepdim=True) + made.reshape(n, count, 1, nx, ny).permute(0, 2, 3, 4, 1)

    def _in_groups(self, planes: torch.Tensor, one: Callable[[torch.Tensor], torch.Tensor], network: ResidualDenseNetwork) -> torch.Tensor:
        """Return what a function makes of planes, a group of them at a time where no gradient is wanted."""
        if torch.is_grad_enabled():
            return one(planes)
        group = max(1, AT_ONCE // (network.second.out_channels * planes.shape[2] * planes.shape[3]))
        return torch.cat([one(part.contiguous(memory_format=torch.channels_last)) for part in planes.split(group)])


def saint(preset: str = "compact") -> Saint:
    """Build SAINT."""
    return Saint(preset)
