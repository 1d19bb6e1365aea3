"""What networks with attention share: attention, the layer of transformers, and the residual blocks that UNETR and Swin UNETR decode by."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.denoise.layers import conv
from cohortex.models.segment.layers import transposed

SLOPE = 0.01
"""Of the leaky ReLU."""


def plain_instance(dimensions: int, width: int) -> nn.Module:
    """Return an instance norm without weights; of a grid of one voxel it leaves the values as they are."""
    return _Instance3d(width) if dimensions == 3 else _Instance2d(width)


class _Instance2d(nn.InstanceNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x[0, 0].numel() == 1 else super().forward(x)


class _Instance3d(nn.InstanceNorm3d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x[0, 0].numel() == 1 else super().forward(x)


class ResidualBlock(nn.Module):
    """Two convolutions of size 3 with instance norms, added to what comes in (by a 1 x 1 convolution where widths differ)."""

    def __init__(self, dimensions: int, inward: int, outward: int):
        super().__init__()
        self.first, self.second = conv(dimensions, inward, outward, bias=False), conv(dimensions, outward, outward, bias=False)
        self.first_norm, self.second_norm = plain_instance(dimensions, outward), plain_instance(dimensions, outward)
        self.shortcut: nn.Module = nn.Identity()
        if inward != outward:
            self.shortcut = nn.Sequential(conv(dimensions, inward, outward, 1, bias=False), plain_instance(dimensions, outward))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        y = nn.functional.leaky_relu(self.first_norm(self.first(x)), SLOPE)
        return nn.functional.leaky_relu(self.second_norm(self.second(y)) + self.shortcut(x), SLOPE)


class UpBlock(nn.Module):
    """A transposed convolution, the skip beside it, a residual block."""

    def __init__(self, dimensions: int, inward: int, outward: int):
        super().__init__()
        self.grow = transposed(dimensions, inward, outward, bias=False)
        self.block = ResidualBlock(dimensions, 2 * outward, outward)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return features of the skip's shape."""
        return self.block(torch.cat([self.grow(x), skip], 1))


class Perceptron(nn.Sequential):
    """Two dense layers with a Gaussian error linear unit."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Attention(nn.Module):
    """Attention of tokens to each other in several heads (Vaswani et al., NeurIPS 2017)."""

    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        if width % heads:
            raise ValueError(f"the width {width} is a multiple of the {heads} heads of the attention")
        self.heads = heads
        self.ask = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Return (n, tokens, width); `added`, which spreads to (n, heads, tokens, tokens), goes onto the logits of the attention."""
        query, key, value = self._asked(x)
        made = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=added)
        return self.out(made.transpose(1, 2).reshape(x.shape))

    def weights(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        """Return how much each token attends to each other one, (n, heads, tokens, tokens); each row sums to 1."""
        query, key, _ = self._asked(x)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return (logits if added is None else logits + added).softmax(-1)

    def _asked(self, x: torch.Tensor) -> torch.Tensor:
        """Return query, key and value, (3, n, heads, tokens, width of a head)."""
        n, tokens, width = x.shape
        return self.ask(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)


class Skipping(nn.Module):
    """Leaves out what a layer adds for a share of a batch's images in training, and makes up for it (Huang et al., ECCV 2016)."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, ...), zero for the images that skip the layer."""
        if not self.training or not self.share:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.share
        return x * kept / (1 - self.share)


class Layer(nn.Module):
    """A layer of the vision transformer (Dosovitskiy et al., ICLR 2021): attention and perceptron, each normed before and added.

    Parameters
    ----------
    bias : bool
        Whether queries, keys and values have one.
    skip : float
        See `Skipping`.
    """

    def __init__(self, width: int, hidden: int, heads: int, bias: bool = False, skip: float = 0.0):
        super().__init__()
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.perceptron = Attention(width, heads, bias=bias), Perceptron(width, hidden)
        self.skip = Skipping(skip)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens (n, tokens, width)."""
        x = x + self.skip(self.attention(self.first_norm(x)))
        return x + self.skip(self.perceptron(self.second_norm(x)))


def small_weights(network: nn.Module) -> None:
    """Give dense layers normal weights of standard deviation 0.02, as transformers have, cut off at two of them."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def even_weights(network: nn.Module) -> None:
    """Give dense layers uniform weights that keep the size of what passes either way (Glorot and Bengio, AISTATS 2010), no biases."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
