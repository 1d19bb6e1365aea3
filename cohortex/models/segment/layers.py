"""What segmentation networks have in common: the interface, norms, sizes, and how far they look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, cut_to

NORMS = ("none", "batch", "instance", "group")


class SegmentationNetwork(nn.Module, ABC):
    """A network whose output is the logits of every class at every voxel of its input.

    ``forward(x)`` takes (n, channels, ...) of any size and returns (n, classes, ...) of that size. ``outputs(x)`` returns a list: the same
    logits first, then those of the further heads that the paper trains with (deep supervision, auxiliary losses), all of the input's size.
    Training makes a weighted sum of their losses; everybody else calls the network.

    Attributes
    ----------
    dimensions : {2, 3}
    channels, classes : int
    multiple : int
        Of voxels: blocks of an image begin at multiples of it, so that pooling falls as in the whole image.
    halo : int
        Voxels at most this far away decide about a voxel's logits. A network without this attribute looks at its whole input (it pools it,
        attends to it, or norms by it): it is applied to windows of the size that it was trained on.
    corner : bool
        The coarse grid has a point at either end (input sizes k * multiple + 1), as of networks with strided convolutions of odd size.
    outputs_weights : tuple of float
        What the losses of `outputs` count, the first for the logits themselves.
    """

    halo: int

    def __init__(self, dimensions: int, channels: int, classes: int, multiple: int = 1, corner: bool = False):
        super().__init__()
        if dimensions not in (2, 3):
            raise ValueError(f"dimensions is 2 or 3, not {dimensions}")
        self.dimensions, self.channels, self.classes = dimensions, channels, classes
        self.multiple, self.corner = multiple, corner
        self.outputs_weights: tuple[float, ...] = (1.0,)

    @abstractmethod
    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits, and with `deep` those of the further heads, of an input of fitting size; each of any size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes, ...)."""
        return self._full(self.compute(self._fitted(x), False)[0], x)

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits and those of the further heads, each (n, classes, ...)."""
        return [self._full(y, x) for y in self.compute(self._fitted(x), True)]

    def _fitted(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input continued at the far ends, by its last values, to a size that the network takes."""
        spare = [-(n - self.corner) % self.multiple for n in x.shape[2:]]
        if not any(spare):
            return x
        return functional.pad(x, [n for s in reversed(spare) for n in (0, s)], mode="replicate")

    def _full(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        size = [n + -(n - self.corner) % self.multiple for n in x.shape[2:]]
        return cut_to(resized(y, size, self.corner), x.shape[2:])


def resized(x: torch.Tensor, size: Sequence[int], corner: bool = False) -> torch.Tensor:
    """Return (n, c, ...) interpolated linearly to a size; with `corner` the outermost voxels stay where they are."""
    if list(x.shape[2:]) == list(size):
        return x
    return functional.interpolate(x, size=list(size), mode="trilinear" if x.ndim == 5 else "bilinear", align_corners=corner)


def norm_of(kind: str, dimensions: int, channels: int) -> nn.Module:
    """Return a norm with weights: none, batch, instance, or group (of 8 channels or as many as there are)."""
    if kind == "batch":
        return nn.BatchNorm3d(channels) if dimensions == 3 else nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True) if dimensions == 3 else nn.InstanceNorm2d(channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8) if channels % 8 == 0 else 1, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm is one of {', '.join(NORMS)}, not {kind!r}")


def shaped_conv(dimensions: int, inward: int, outward: int, kernel: Sequence[int], **options: Any) -> nn.Module:
    """Return a convolution with a size of its own along each axis, as large as its input where its stride is 1."""
    sizes = tuple(int(n) for n in kernel)
    kind: Any = nn.Conv3d if dimensions == 3 else nn.Conv2d
    return kind(inward, outward, sizes, padding=tuple(n // 2 for n in sizes), **options)


def conv_norm(
    dimensions: int, inward: int, outward: int, size: int = 3, norm: str = "batch", act: nn.Module | None = None, **options: Any
) -> nn.Sequential:
    """Return a convolution, its norm where there is one, and an activation (ReLU)."""
    layers: list[nn.Module] = [conv(dimensions, inward, outward, size, **options)]
    if norm != "none":
        layers.append(norm_of(norm, dimensions, outward))
    return nn.Sequential(*layers, nn.ReLU(inplace=True) if act is None else act)


def double(dimensions: int, inward: int, outward: int, norm: str = "none", **options: Any) -> nn.Sequential:
    """Return two convolutions of size 3, each with norm and ReLU."""
    return nn.Sequential(
        conv_norm(dimensions, inward, outward, norm=norm, **options), conv_norm(dimensions, outward, outward, norm=norm, **options)
    )


def transposed(dimensions: int, inward: int, outward: int, size: int = 2, **options: Any) -> nn.Module:
    """Return a transposed convolution of stride 2 unless `options` say another one."""
    options.setdefault("stride", 2)
    return (nn.ConvTranspose3d if dimensions == 3 else nn.ConvTranspose2d)(inward, outward, size, **options)


def max_pool(dimensions: int, size: int = 2, **options: Any) -> nn.Module:
    """Return a maximum pooling."""
    return (nn.MaxPool3d if dimensions == 3 else nn.MaxPool2d)(size, **options)


def unpooled(x: torch.Tensor, places: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return values put back to where a maximum pooling by 2 took them from, zeros elsewhere."""
    unpool: Any = functional.max_unpool3d if x.ndim == 5 else functional.max_unpool2d
    return unpool(x, places, 2, output_size=list(size))


def nearest(x: torch.Tensor, factor: int = 2) -> torch.Tensor:
    """Return (n, c, ...) with every value repeated along every axis."""
    return functional.interpolate(x, scale_factor=factor, mode="nearest")


def drop(dimensions: int, share: float) -> nn.Module:
    """Return a dropout of whole channels."""
    return (nn.Dropout3d if dimensions == 3 else nn.Dropout2d)(share)


@dataclass
class Reach:
    """Follows the longest way through a network, to bound how far it looks.

    Attributes
    ----------
    halo : int
        Voxels so far.
    jump : int
        Distance of neighbours on the present grid, in voxels.
    """

    halo: int = 0
    jump: int = 1

    def conv(self, size: int = 3, times: int = 1, dilation: int = 1, stride: int = 1) -> Reach:
        """Go through convolutions or poolings of one size that are centred on a voxel."""
        self.halo += (times * (size // 2) * dilation + stride - 1) * self.jump
        self.jump *= stride
        return self

    def pool(self, size: int = 2) -> Reach:
        """Go through a pooling of windows that do not overlap."""
        self.halo += (size - 1) * self.jump
        self.jump *= size
        return self

    def grow(self, factor: int = 2, linear: bool = False) -> Reach:
        """Go to a finer grid; with linear interpolation a voxel also sees the coarse one beside it."""
        self.halo += self.jump * linear
        self.jump //= factor
        return self

    def rounded(self, multiple: int) -> int:
        """Return the halo as a multiple, so that blocks with it begin where pooling does."""
        return -(-self.halo // multiple) * multiple
