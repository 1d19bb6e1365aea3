"""Parts that several of the networks have: convolutions in two or three dimensions, first weights, sizes that pooling divides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional


def conv(dimensions: int, inward: int, outward: int, size: int = 3, **options: Any) -> nn.Conv2d | nn.Conv3d:
    """Return a convolution whose output is as large as its input where its stride is 1 (zeros beyond it, if no option says otherwise)."""
    kind = nn.Conv3d if dimensions == 3 else nn.Conv2d
    options.setdefault("padding", (size // 2) * options.get("dilation", 1))
    return kind(inward, outward, size, **options)


def faces(dimensions: int) -> Literal["zeros", "replicate"]:
    """Return what a network of that many dimensions has beyond its input.

    In a stack of a few slices most voxels are near its ends, and a network that is used where the volume goes on must not learn to expect
    nothing beyond them: three-dimensional ones see the outer slice again.
    """
    return "replicate" if dimensions == 3 else "zeros"


def batch_norm(dimensions: int, channels: int) -> nn.BatchNorm2d | nn.BatchNorm3d:
    """Return a batch normalisation: an affine map in evaluation, so that results do not depend on blocks."""
    return nn.BatchNorm3d(channels) if dimensions == 3 else nn.BatchNorm2d(channels)


def he_weights(network: nn.Module, last: nn.Module | None = None) -> None:
    """Give convolutions and dense layers weights that keep the size of what passes (He et al., ICCV 2015), without biases.

    Parameters
    ----------
    network : nn.Module
    last : nn.Module, optional
        The layer that makes the output: its weights are a hundredth of that, so a network which adds its output to its input begins near
        the identity.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer is last:
                with torch.no_grad():
                    layer.weight.mul_(0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def pass_on(layers: Sequence[nn.Module]) -> None:
    """Let the first channel of a row of convolutions pass what comes in unchanged, so that the row begins near the identity.

    The middle of the first filter's kernel for that channel is 1, all else of the filter 0; the other filters stay what they are, and the
    last layer takes a tenth of what it takes of the other channels.
    """
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight
            assert isinstance(weight, torch.Tensor)
            middle = [n // 2 for n in weight.shape[2:]]
            # of adjacent slices the middle one is wanted
            channel = weight.shape[1] // 2 if layer is layers[0] else 0
            weight[0] *= 0.1 if layer is layers[-1] else 0
            weight[0, channel] = 0
            weight[(0, channel, *middle)] = 1


class ConvStack(nn.Module):
    """Convolutions of size 3 with ReLU between them, as large as the input; begins near the identity.

    Parameters
    ----------
    dimensions : {2, 3}
    filters : int
        Of every layer but the last one, which has one.
    layers : int
    channels : int
        Of the input.
    """

    def __init__(self, dimensions: int, filters: int, layers: int, channels: int = 1):
        super().__init__()
        widths = [channels, *[filters] * (layers - 1), 1]
        self.layers = nn.ModuleList(conv(dimensions, a, b, padding_mode=faces(dimensions)) for a, b in pairwise(widths))
        self.halo = layers
        he_weights(self)
        pass_on(list(self.layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image made of (n, channels, ...): (n, 1, ...)."""
        for layer in self.layers[:-1]:
            x = torch.relu_(layer(x))
        return self.layers[-1](x)


class ResidualBlock(nn.Module):
    """Two convolutions of size 3 with batch normalisation, added to what comes in (He et al., CVPR 2016)."""

    def __init__(self, dimensions: int, filters: int):
        super().__init__()
        self.first, self.second = (conv(dimensions, filters, filters, padding_mode=faces(dimensions)) for _ in range(2))
        self.first_norm, self.second_norm = batch_norm(dimensions, filters), batch_norm(dimensions, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape that comes in."""
        y = torch.relu_(self.first_norm(self.first(x)))
        return torch.relu_(self.second_norm(self.second(y)) + x)


class ResidualStack(nn.Module):
    """A convolution, residual blocks, and a convolution to one channel: what is to be taken away from an image.

    Parameters
    ----------
    dimensions : {2, 3}
    filters, blocks : int
    """

    def __init__(self, dimensions: int, filters: int, blocks: int):
        super().__init__()
        self.first = conv(dimensions, 1, filters, padding_mode=faces(dimensions))
        self.blocks = nn.Sequential(*(ResidualBlock(dimensions, filters) for _ in range(blocks)))
        self.last = conv(dimensions, filters, 1, padding_mode=faces(dimensions))
        self.halo = 2 + 2 * blocks
        he_weights(self, self.last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 1, ...) of (n, 1, ...)."""
        return self.last(self.blocks(torch.relu_(self.first(x))))


def in_pieces(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, halo: int, most: int = 64) -> torch.Tensor:
    """Return what a network of convolutions makes of (n, c, rows, ...), `most` rows at a time where no gradient is asked for.

    Features of stacks of whole slices do not fit into memory otherwise. The pieces depend on nothing but the size of the input.

    Parameters
    ----------
    network : callable
        Its output is as large as its input.
    halo : int
        How many rows it looks at beyond a row.
    """
    rows = x.shape[2]
    if torch.is_grad_enabled() or rows <= most:
        return network(x)
    made: list[torch.Tensor] = []
    for start in range(0, rows, most):
        stop, first = min(start + most, rows), max(0, start - halo)
        piece = network(x[:, :, first : min(stop + halo, rows)])
        made.append(piece[:, :, start - first : stop - first])
    return torch.cat(made, 2)


def to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Return (n, c, ...) with axes that are multiples of `multiple`: the last values are repeated beyond the far ends."""
    spare = [-n % multiple for n in x.shape[2:]]
    if not any(spare):
        return x
    return functional.pad(x, [n for s in reversed(spare) for n in (0, s)], mode="replicate")


def cut_to(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return (n, c, ...) without what `to_multiple` added: its axes begin at 0 and have the lengths of `shape`."""
    return x[(slice(None), slice(None), *(slice(n) for n in shape))]


def pooled_halo(levels: int, convolutions: int) -> int:
    """Return how far a network with pooling by 2 between its levels looks, as a multiple of the last level's pixel.

    Parameters
    ----------
    levels : int
        Of resolution; the way down and the way up have so many, joined by skips or not.
    convolutions : int
        Of size 3, on each level on the way down and again on the way up (the last level has them once).

    Returns
    -------
    int
        Blocks that begin at multiples of ``2 ** (levels - 1)`` and have this halo give what the whole image gives.
    """
    multiple = 2 ** (levels - 1)
    farthest = 0
    for pixel in range(multiple):
        # pixels first to last of each level that the way up looks at, then what the way down makes of them
        spans = [(pixel, pixel)]
        for level in range(levels):
            first, last = spans[level]
            spans[level] = (first - convolutions, last + convolutions)
            if level < levels - 1:
                spans.append((spans[level][0] // 2, spans[level][1] // 2))
        first, last = spans[-1]
        for level in reversed(range(levels - 1)):
            first, last = min(2 * first, spans[level][0]) - convolutions, max(2 * last + 1, spans[level][1]) + convolutions
        farthest = max(farthest, pixel - first, last - pixel)
    return -(-farthest // multiple) * multiple
