"""Residual generator that predicts the noise (Ma et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from cohortex.models.denoise.layers import ResidualStack


class NoiseGan(nn.Module):
    """Generator of Ma, Wei, Feng et al., Low-dose CT image denoising using a GAN with a hybrid loss function for noise learning, 2020.

    The generator learns the noise, which is then taken away from the image. The paper trains it against a least-squares critic
    (`cohortex.models.denoise.critics.PatchCritic`) with structural similarity and absolute error beside it. Its layers are a choice of
    ours: a convolution, eight residual blocks of two convolutions with batch normalisation, and a convolution to one channel, all
    3 x 3 with 64 filters.

    Parameters
    ----------
    filters, blocks : int
    predicts : {"noise", "image"}
        The same generator may be asked for the clean image itself, which the paper compares with.
    """

    def __init__(self, filters: int = 64, blocks: int = 8, predicts: Literal["noise", "image"] = "noise"):
        super().__init__()
        if predicts not in ("noise", "image"):
            raise ValueError(f"predicts is noise or image, not {predicts!r}")
        self.predicts = predicts
        self.generator = ResidualStack(2, filters, blocks)
        self.halo = self.generator.halo

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored image, of the input's shape (n, 1, rows, columns)."""
        made = self.generator(x)
        return x - made if self.predicts == "noise" else made


def noise_gan(filters: int = 64, blocks: int = 8, predicts: Literal["noise", "image"] = "noise") -> NoiseGan:
    """Build the generator."""
    return NoiseGan(filters, blocks, predicts)
