"""ViT (Dosovitskiy et al., ICLR 2021): patches of an image as the words of a transformer."""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.classify.network import ClassificationNetwork
from cohortex.models.denoise.layers import conv, to_multiple
from cohortex.models.segment.layers import resized
from cohortex.models.segment.transformer import Layer, even_weights


class ViT(ClassificationNetwork):
    """Patches and a token of the class attend to each other; what becomes of the token is the vector. ViT-B/16 by default.

    Parameters
    ----------
    size : int
        Edge of the images in training, a multiple of `patch`: each patch has a learned position. For images of other sizes the positions
        are interpolated.
    patch : int
        Edge of the patches.
    width, hidden, heads, layers : int
        Of the transformer.
    dropout : float
        Of the embedded patches.
    skip : float
        Share of images that skip the last layer in training; layers before skip less, the first never (0 in the paper).
    """

    def __init__(
        self,
        dimensions: int = 2,
        channels: int = 3,
        classes: int = 1000,
        size: int = 224,
        patch: int = 16,
        width: int = 768,
        hidden: int = 3072,
        heads: int = 12,
        layers: int = 12,
        dropout: float = 0.0,
        skip: float = 0.0,
    ):
        super().__init__(dimensions, channels, classes)
        if size % patch:
            raise ValueError(f"size is a multiple of the patch, not {size} of {patch}")
        self.patch = patch
        self.embed = conv(dimensions, channels, width, patch, stride=patch, padding=0)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.token_position = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, width, *[size // patch] * dimensions))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, hidden, heads, True, skip * n / max(1, layers - 1)) for n in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        even_weights(self)
        for values in (self.token, self.token_position, self.position):
            nn.init.trunc_normal_(values, std=0.02, a=-0.04, b=0.04)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Return the token of the class and the patches' with their positions, (n, 1 + patches, width)."""
        made = self.embed(to_multiple(x, self.patch))
        made = (made + resized(self.position, made.shape[2:])).flatten(2).transpose(1, 2)
        token = (self.token + self.token_position).expand(len(x), -1, -1)
        return torch.cat([token, made], 1)

    def transformed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what the layers make of the tokens, (n, 1 + patches, width)."""
        for layer in self.layers:
            tokens = layer(tokens)
        return self.norm(tokens)

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the token of the class (n, width)."""
        return self.transformed(self.drop(self.tokens(x)))[:, 0]

    def attention_weights(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return of each layer how much each token attends to each other one, (n, heads, 1 + patches, 1 + patches)."""
        tokens, made = self.tokens(x), []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            made.append(layer.attention.weights(layer.first_norm(tokens)))
            tokens = layer(tokens)
        return made
