"""Attention U-Net (Oktay et al., MIDL 2018): skips weighted by additive attention, deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cohortex.models.denoise.layers import conv, he_weights
from cohortex.models.segment.layers import Reach, SegmentationNetwork, conv_norm, double, max_pool, norm_of, resized


class Gate(nn.Module):
    """Weights the features of a skip by how they agree with a coarser gating signal (additive attention, a weight a voxel)."""

    def __init__(self, dimensions: int, features: int, gating: int):
        super().__init__()
        self.theta = conv(dimensions, features, features, 2, stride=2, padding=0, bias=False)
        self.phi = conv(dimensions, gating, features, 1)
        self.psi = conv(dimensions, features, 1, 1)
        self.out = nn.Sequential(conv(dimensions, features, features, 1), norm_of("batch", dimensions, features))

    def forward(self, x: torch.Tensor, gating: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted features, and the weights (n, 1, ...) within 0 and 1."""
        theta = self.theta(x)
        agree = torch.relu(theta + resized(self.phi(gating), theta.shape[2:]))
        weight = resized(torch.sigmoid(self.psi(agree)), x.shape[2:])
        return self.out(weight * x), weight


class AttentionUNet(SegmentationNetwork):
    """U-Net with linear upsampling whose skips go through gates; every level of the way up has a head.

    The gating signal of a skip is what the way up has at the level below it (grid attention); the finest skip has no gate, as in the
    authors' code. The heads of all levels are interpolated to the input's size and joined by a last convolution (their deep supervision).
    Without gates it has the 5.88 million parameters that the paper states for its U-Net; with them 6.19, where the paper says 6.40.

    Parameters
    ----------
    features : sequence of int
        The authors': 64 to 1024, divided by 4.
    gates : bool
        Off: the U-Net that the paper compares with.
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 2,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        gates: bool = True,
    ):
        levels = len(features)
        super().__init__(dimensions, channels, classes, 2 ** (levels - 1))
        inward = [channels, *features[:-1]]
        self.down = nn.ModuleList(double(dimensions, a, b, "batch") for a, b in zip(inward, features, strict=True))
        self.pool = max_pool(dimensions)
        self.signal = conv_norm(dimensions, features[-1], features[-1], 1) if gates else nn.Identity()
        # the coarsest gate first; its gating signal has the width of the level below
        gated = range(levels - 2, 0, -1)
        self.gates = nn.ModuleList(Gate(dimensions, features[i], features[i + 1]) for i in gated) if gates else None
        self.up = nn.ModuleList(double(dimensions, features[i + 1] + features[i], features[i], "batch") for i in range(levels - 2, -1, -1))
        self.heads = nn.ModuleList(conv(dimensions, features[i], classes, 1) for i in range(levels - 2, -1, -1))
        self.last = conv(dimensions, (levels - 1) * classes, classes, 1)
        he_weights(self)
        reach = Reach()
        for _ in range(levels - 1):
            reach.conv(times=2).pool()
        # a gate looks through its own stride at the interpolated signal
        reach.conv(times=2)
        for _ in range(levels - 1):
            reach.conv().grow(linear=True).conv(times=2)
        self.halo = reach.rounded(self.multiple)

    def gated(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the logits of every level, the coarsest first, and the weights of the gates, of the size of their skips."""
        skips: list[torch.Tensor] = []
        for level, pair in enumerate(self.down):
            x = pair(self.pool(x) if level else x)
            skips.append(x)
        x = skips.pop()
        signal, heads, weights = self.signal(x), [], []
        for number, (pair, head) in enumerate(zip(self.up, self.heads, strict=True)):
            skip = skips.pop()
            if self.gates is not None and number < len(self.gates):
                skip, weight = self.gates[number](skip, signal if number == 0 else x)
                weights.append(weight)
            x = pair(torch.cat([skip, resized(x, skip.shape[2:])], 1))
            heads.append(head(x))
        return heads, weights

    def compute(self, x: torch.Tensor, deep: bool) -> list[torch.Tensor]:
        """Return the logits."""
        heads, _ = self.gated(x)
        return [self.last(torch.cat([resized(head, x.shape[2:]) for head in heads], 1))]


def attention_unet(
    dimensions: int = 3, channels: int = 1, classes: int = 2, features: Sequence[int] = (16, 32, 64, 128, 256), gates: bool = True
) -> AttentionUNet:
    """Build the Attention U-Net."""
    return AttentionUNet(dimensions, channels, classes, features, gates)
