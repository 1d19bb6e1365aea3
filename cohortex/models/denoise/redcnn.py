"""RED-CNN: ten 5 x 5 convolutions, half of them transposed, with three shortcuts (Chen et al. 2017)."""

from __future__ import annotations

import torch
from torch import nn


class RedCnn(nn.Module):
    """Residual encoder-decoder of Chen et al., IEEE Trans. Med. Imaging 36(12), 2017.

    Five convolutions and five transposed convolutions, all 5 x 5 with stride 1 and no padding, so that each of the first
    takes four pixels away and each of the second gives them back; the input, the second and the fourth layer's output are
    added again where the sizes meet. Its input is (batch, 1, rows, columns) of at least 21 x 21 pixels; the output has its shape.

    Parameters
    ----------
    filters : int
        Channels of the hidden layers (96 in the paper: 1,848,865 parameters).
    """

    halo = 20
    """An output pixel depends on input pixels at most this far away."""

    def __init__(self, filters: int = 96):
        super().__init__()
        self.encoder = nn.ModuleList([nn.Conv2d(1 if i == 0 else filters, filters, 5) for i in range(5)])
        self.decoder = nn.ModuleList([nn.ConvTranspose2d(filters, 1 if i == 4 else filters, 5) for i in range(5)])

    def first_weights(self, seed: int) -> None:
        """Give the layers weights that keep the size of what passes (He et al. 2015), the last one small ones: near the identity."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in self.named_parameters():
                if name.endswith("bias"):
                    value.zero_()
                else:
                    last = name.startswith("decoder.4")
                    inputs = value.shape[0 if name.startswith("decoder") else 1] * value[0, 0].numel()
                    value.normal_(0, (0.1 if last else 1.0) * (2 / inputs) ** 0.5, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the restored image."""
        first = torch.relu_(self.encoder[0](x))
        second = torch.relu_(self.encoder[1](first))
        third = torch.relu_(self.encoder[2](second))
        fourth = torch.relu_(self.encoder[3](third))
        y = torch.relu_(self.encoder[4](fourth))
        y = torch.relu_(self.decoder[0](y) + fourth)
        y = torch.relu_(self.decoder[1](y))
        y = torch.relu_(self.decoder[2](y) + second)
        y = torch.relu_(self.decoder[3](y))
        return torch.relu_(self.decoder[4](y) + x)


def redcnn(filters: int = 96) -> RedCnn:
    """Build RED-CNN."""
    return RedCnn(filters)
