"""Swin UNETR (Hatamizadeh et al., BrainLes 2021): attention within windows that are shifted from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import SegmentationNetwork
from cohortex.models.segment.transformer import Attention, Perceptron, ResidualBlock, Skipping, UpBlock, small_weights

CLOSED = -100.0
"""Added to the logits of attention between voxels that are neighbours only because the shift goes round."""


class WindowLayer(nn.Module):
    """Attention within windows, with a learned bias for each offset in a window, and a perceptron (Liu et al., ICCV 2021).

    Parameters
    ----------
    window : int
        Edge; an axis that is shorter is one window.
    shifted : bool
        Windows begin half a window further on; what goes round the end of an axis does not attend to what was at the other end.
    skip : float
        See `Skipping`.
    """

    def __init__(self, dimensions: int, width: int, heads: int, window: int, shifted: bool, ratio: int, skip: float = 0.0):
        super().__init__()
        self.window, self.shifted = window, shifted
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.perceptron = Attention(width, heads, bias=True), Perceptron(width, ratio * width)
        self.skip = Skipping(skip)
        self.offsets = nn.Parameter(torch.zeros(heads, *[2 * window - 1] * dimensions))
        nn.init.trunc_normal_(self.offsets, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, ..., width), of the shape that comes in."""
        x = x + self.skip(self._attended(self.first_norm(x)))
        return x + self.skip(self.perceptron(self.second_norm(x)))

    def _attended(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[1:-1]
        axes = range(1, len(shape) + 1)
        window = [min(self.window, n) for n in shape]
        shift = [w // 2 if self.shifted and n > self.window else 0 for n, w in zip(shape, window, strict=True)]
        spare = [-n % w for n, w in zip(shape, window, strict=True)]
        if any(spare):
            x = functional.pad(x, [0, 0, *(n for s in reversed(spare) for n in (0, s))])
        padded = x.shape[1:-1]
        if any(shift):
            x = x.roll([-s for s in shift], tuple(axes))
        mask = _closed(padded, window, shift, x.device) if any(shift) else None
        windows = _windows(x, window)
        count = len(windows) // len(x)
        added = self._bias(window)
        if mask is not None:
            # (heads, t, t) and (windows, t, t): each window of each image
            added = (added[None] + mask[:, None]).repeat(len(x), 1, 1, 1)
        made = self.attention(windows, added)
        y = _joined(made.reshape(len(x), count, -1, made.shape[-1]), padded, window)
        if any(shift):
            y = y.roll(shift, tuple(axes))
        return y[(slice(None), *(slice(n) for n in shape))]

    def _bias(self, window: Sequence[int]) -> torch.Tensor:
        """Return the bias of each pair of voxels of a window, (heads, tokens, tokens)."""
        dimensions = len(window)
        axes = torch.meshgrid(*(torch.arange(n, device=self.offsets.device) for n in window), indexing="ij")
        place = torch.stack(axes).flatten(1)
        apart = place[:, :, None] - place[:, None, :] + self.window - 1
        return self.offsets[(slice(None), *(apart[axis] for axis in range(dimensions)))]


def _windows(x: torch.Tensor, window: Sequence[int]) -> torch.Tensor:
    """Cut (n, ..., width) into (n * windows, tokens, width)."""
    parts, order_windows, order_inside = [x.shape[0]], [], []
    for axis, (n, w) in enumerate(zip(x.shape[1:-1], window, strict=True)):
        parts += [n // w, w]
        order_windows.append(1 + 2 * axis)
        order_inside.append(2 + 2 * axis)
    y = x.reshape(*parts, x.shape[-1]).permute(0, *order_windows, *order_inside, len(parts))
    tokens = 1
    for w in window:
        tokens *= w
    return y.reshape(-1, tokens, x.shape[-1])


def _joined(x: torch.Tensor, shape: Sequence[int], window: Sequence[int]) -> torch.Tensor:
    """Put windows (n, windows, tokens, width) together to (n, ..., width)."""
    dimensions = len(shape)
    counts = [n // w for n, w in zip(shape, window, strict=True)]
    y = x.reshape(len(x), *counts, *window, x.shape[-1])
    order = [place for axis in range(dimensions) for place in (1 + axis, 1 + dimensions + axis)]
    return y.permute(0, *order, 1 + 2 * dimensions).reshape(len(x), *shape, x.shape[-1])


def _closed(shape: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return what closes the attention between voxels that were not neighbours before the shift: (windows, tokens, tokens)."""
    region = torch.zeros(1, *shape, 1, device=device)
    bounds = [((0, n - w), (n - w, n - s), (n - s, n)) if s else ((0, n),) for n, w, s in zip(shape, window, shift, strict=True)]
    for number, box in enumerate(product(*bounds)):
        region[(0, *(slice(a, b) for a, b in box), 0)] = number
    tokens = _windows(region, window)[..., 0]
    return (tokens[:, :, None] != tokens[:, None, :]).float() * CLOSED


class Merging(nn.Module):
    """Joins the voxels of a cube of 2 along each axis to one of twice the width; an axis of odd length gets zeros at its end."""

    def __init__(self, dimensions: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(2**dimensions * width)
        self.reduce = nn.Linear(2**dimensions * width, 2 * width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, ..., 2 width) of half the axes."""
        odd = [n % 2 for n in x.shape[1:-1]]
        if any(odd):
            x = functional.pad(x, [0, 0, *(n for s in reversed(odd) for n in (0, s))])
        corners = product((0, 1), repeat=x.ndim - 2)
        parts = [x[(slice(None), *(slice(a, None, 2) for a in corner))] for corner in corners]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class SwinUNETR(SegmentationNetwork):
    """Four stages of window attention, each followed by merging; convolutions bring them up again.

    Parameters
    ----------
    features : int
        Width behind the embedding, a multiple of the first number of heads.
    depths, heads : sequence of int
        Layers and heads of each stage.
    window : int
        Edge of the windows, in tokens (of 2 voxels at the first stage).
    shift : bool
        Off: all windows stay where they are.
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 14,
        features: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        ratio: int = 4,
        shift: bool = True,
    ):
        stages = len(depths)
        super().__init__(dimensions, channels, classes, 2 ** (stages + 1))
        if len(heads) != stages:
            raise ValueError(f"there are {stages} depths and {len(heads)} heads; give one number of heads a stage")
        self.embed = conv(dimensions, channels, features, 2, stride=2, padding=0)
        self.stages, self.merges = nn.ModuleList(), nn.ModuleList()
        for number, (depth, own) in enumerate(zip(depths, heads, strict=True)):
            width = features * 2**number
            self.stages.append(
                nn.Sequential(
                    *(WindowLayer(dimensions, width, own, window, shift and layer % 2 == 1, ratio) for layer in range(depth)),
                )
            )
            self.merges.append(Merging(dimensions, width))
        widths = [features * 2**number for number in range(stages + 1)]
        self.start = ResidualBlock(dimensions, channels, features)
        self.skips = nn.ModuleList(ResidualBlock(dimensions, width, width) for width in widths[: stages - 1])
        self.bottom = ResidualBlock(dimensions, widths[-1], widths[-1])
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(UpBlock(dimensions, below, own) for below, own in [*pairs, (features, features)])
        self.head = conv(dimensions, features, classes, 1)
        he_weights(self)
        small_weights(self)

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        y = self.embed(x).movedim(1, -1)
        states = [_normed(y)]
        for stage, merge in zip(self.stages, self.merges, strict=True):
            y = merge(stage(y))
            states.append(_normed(y))
        # the state before the last one is a skip as it is
        skips = [self.start(x), *(skip(z) for skip, z in zip(self.skips, states[:-2], strict=True)), states[-2]]
        y = self.bottom(states[-1])
        for up in self.up:
            y = up(y, skips.pop())
        return [self.head(y)]


def _normed(x: torch.Tensor) -> torch.Tensor:
    """Return (n, ..., width) as (n, width, ...), each voxel normed over its width."""
    return functional.layer_norm(x, x.shape[-1:]).movedim(-1, 1)


def swin_unetr(
    dimensions: int = 3,
    channels: int = 1,
    classes: int = 14,
    features: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    heads: Sequence[int] = (3, 6, 12, 24),
    window: int = 7,
    ratio: int = 4,
    shift: bool = True,
) -> SwinUNETR:
    """Build the Swin UNETR."""
    return SwinUNETR(dimensions, channels, classes, features, depths, heads, window, ratio, shift)
