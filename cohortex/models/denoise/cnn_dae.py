"""Convolutional denoising autoencoder (Gondara 2016)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv, cut_to, he_weights, pooled_halo, to_multiple


class CnnDae(nn.Module):
    """Denoising autoencoder of Gondara, Medical image denoising using convolutional denoising autoencoders, ICDM Workshops 2016.

    Two convolutions of 3 x 3 with 64 filters, each followed by max pooling over 2 x 2; one more where it is smallest; the mirror image,
    a convolution with nearest-neighbour upsampling before it, twice; the last of these has one filter and a sigmoid. ReLU elsewhere.
    Input and output are (n, 1, rows, columns) of any size.

    The sigmoid ends at `CnnDae.span`, above 1: images scaled by percentiles have values beyond it, and so has noise around what is
    bright, which has to go as well. What lies above the span in the mean over 3 x 3 pixels is passed on as it is.

    Parameters
    ----------
    filters : int
        Of all layers but the last (64 in the paper).
    output : {"sigmoid", "linear"}
    """

    span = 1.5
    """Largest value of the sigmoid's output."""

    halo = pooled_halo(3, 1)
    multiple = 4

    def __init__(self, filters: int = 64, output: str = "sigmoid"):
        super().__init__()
        if output not in ("sigmoid", "linear"):
            raise ValueError(f"output is sigmoid or linear, not {output!r}")
        self.down = nn.ModuleList([conv(2, 1, filters), conv(2, filters, filters)])
        self.middle = conv(2, filters, filters)
        self.up = nn.ModuleList([conv(2, filters, filters), conv(2, filters, 1)])
        self.output = output
        he_weights(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored image."""
        y = to_multiple(x, self.multiple)
        for layer in self.down:
            y = functional.max_pool2d(torch.relu_(layer(y)), 2)
        y = torch.relu_(self.middle(y))
        y = torch.relu_(self.up[0](functional.interpolate(y, scale_factor=2)))
        y = cut_to(self.up[1](functional.interpolate(y, scale_factor=2)), x.shape[2:])
        if self.output == "linear":
            return y
        beyond = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False) > self.span
        return torch.where(beyond, x, self.span * torch.sigmoid(y))


def cnn_dae(filters: int = 64, output: str = "sigmoid") -> CnnDae:
    """Build the autoencoder."""
    return CnnDae(filters, output)
