"""Pieces that the networks of this package share: convolutions that keep the grid, first weights, moving channels to fine voxels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import nn

Padding = Literal["zeros", "replicate"]

CUBE = (3, 3, 3)
PLANES = ((3, 1, 3), (1, 3, 3))
"""Kernels of convolutions in the two planes that hold the slice axis: x-z and y-z."""


CONTRAST = 4.0
"""By what the first filters of layers that see an image are larger, since it differs little from voxel to voxel in a range of 0 to 1."""


def conv(inward: int, outward: int, kernel: Sequence[int] = CUBE, dilation: int = 1, padding_mode: Padding = "zeros") -> nn.Conv3d:
    """Return a 3-D convolution whose output has the size of its input; edges of the kernel are odd."""
    size = (kernel[0], kernel[1], kernel[2])
    around = (size[0] // 2 * dilation, size[1] // 2 * dilation, size[2] // 2 * dilation)
    return nn.Conv3d(inward, outward, size, padding=around, dilation=dilation, padding_mode=padding_mode)


def sees(inward: int, outward: int, kernel: Sequence[int] = CUBE) -> nn.Conv3d:
    """Return the convolution of a layer that sees an image: beyond its faces the image goes on as it ends, for zeros would be an edge."""
    return conv(inward, outward, kernel, padding_mode="replicate")


def first_weights(network: nn.Module, *last: nn.Module, inner: Iterable[nn.Module] = (), heads: Iterable[nn.Module] = ()) -> None:
    """Give all convolutions He's first weights and no bias; those that end in a sum are smaller.

    Parameters
    ----------
    network : nn.Module
    *last : nn.Module
        Layers whose output is added to the interpolation: a fortieth, so that the network begins near the interpolation.
    inner : iterable of nn.Module
        Layers whose output is added to features: three tenths, so that many blocks do not make the features grow.
    heads : iterable of nn.Module
        Layers that see an image whose missing detail is wanted: their filters sum to zero, as the detail does not depend on the mean, and
        are `CONTRAST` times as large. Else a network learns for hundreds of steps to forget how bright the image is.

    References
    ----------
    He et al., Delving deep into rectifiers, ICCV 2015, doi:10.1109/ICCV.2015.123.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for share, modules in ((0.025, last), (0.3, inner)):
            for module in modules:
                for parameter in module.parameters():
                    parameter.mul_(share)
        for head in heads:
            weight = head.weight
            assert isinstance(weight, torch.Tensor)
            weight.sub_(weight.flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))).mul_(CONTRAST)


def to_voxels(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Return the voxels that lie in the channels side by side on a finer grid (the sub-pixel shuffle in three dimensions).

    Parameters
    ----------
    x : (n, c * f1 * f2 * f3, x, y, z) tensor
        A channel's number is ``((channel * f1 + i) * f2 + j) * f3 + k`` for the voxel i, j, k of the fine ones that a coarse one becomes.
    factors : three ints

    Returns
    -------
    (n, c, x * f1, y * f2, z * f3) tensor

    Raises
    ------
    ValueError
        When the channels are no multiple of the product of the factors.

    References
    ----------
    Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural network,
    CVPR 2016, doi:10.1109/CVPR.2016.207.
    """
    many, (n, channels, *size) = math.prod(factors), x.shape
    if channels % many:
        raise ValueError(f"{channels} channels cannot become voxels of a grid {' x '.join(map(str, factors))} times finer")
    y = x.reshape(n, channels // many, *factors, *size).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return y.reshape(n, channels // many, *(edge * factor for edge, factor in zip(size, factors, strict=True)))


def to_channels(x: torch.Tensor, factors: Sequence[int]) -> torch.Tensor:
    """Return the fine voxels of every coarse one as channels: the inverse of `to_voxels`, without loss.

    Further inputs on the fine grid come to a network on the slices' grid in this way, with the factors (1, 1, factor).

    Raises
    ------
    ValueError
        When an axis is no multiple of its factor.
    """
    n, channels, *size = x.shape
    if any(edge % factor for edge, factor in zip(size, factors, strict=True)):
        raise ValueError(f"a grid of {' x '.join(map(str, size))} voxels is no multiple of {' x '.join(map(str, factors))}")
    (a, b, c), (i, j, k) = size, factors
    y = x.reshape(n, channels, a // i, i, b // j, j, c // k, k).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return y.reshape(n, channels * i * j * k, a // i, b // j, c // k)
