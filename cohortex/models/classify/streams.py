"""Multi-stream multi-scale network (Ciompi et al., Sci. Rep. 2017): planes through a nodule at several scales, a stream for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.classify.network import ClassificationNetwork, small_stages, to_grid
from cohortex.models.denoise.layers import he_weights


class MultiStream(ClassificationNetwork):
    """Of a volume that is centred on a lesion, the three orthogonal planes through its middle at three scales: nine streams.

    Each plane is cut out at each scale, brought to one size, and goes through convolutions of its own stream; dense layers join the
    streams. The paper's patches are 10, 20 and 40 mm wide and have 64 x 64 pixels; of the volume's edge the scales here are shares, so an
    input of 40 mm has the paper's. Numbers and widths of the convolutions are this project's own. A 2-D picture has one plane.

    Parameters
    ----------
    scales : sequence of float
        Edges of the patches, as shares of the input's.
    size : int
        Edge of the patches in pixels.
    features : sequence of int
        Of a stream: two convolutions and a pooling each.
    hidden : int
        Of the dense layer of a stream, and of the one that joins them.
    shared : bool
        The planes of a scale have one set of weights, else each stream its own.
    dropout : float
        Before the last layer.
    """

    def __init__(
        self,
        dimensions: int = 3,
        channels: int = 1,
        classes: int = 6,
        scales: Sequence[float] = (0.25, 0.5, 1.0),
        size: int = 64,
        features: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        shared: bool = False,
        norm: str = "batch",
        dropout: float = 0.5,
    ):
        super().__init__(dimensions, channels, classes, dropout)
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"scales are shares of the input's edge, above 0 and at most 1, not {list(scales)}")
        self.scales, self.size, self.shared = tuple(scales), size, shared
        self.planes = 3 if dimensions == 3 else 1

        def stream() -> nn.Module:
            return nn.Sequential(
                small_stages(2, channels, features, norm),
                to_grid(2, 4),
                nn.Flatten(),
                nn.Linear(16 * features[-1], hidden),
                nn.ReLU(inplace=True),
            )

        own = 1 if shared else self.planes
        self.streams = nn.ModuleList(nn.ModuleList(stream() for _ in range(own)) for _ in self.scales)
        count = self.planes * len(self.scales)
        self.join = nn.Sequential(nn.Dropout(dropout), nn.Linear(count * hidden, hidden), nn.ReLU(inplace=True))
        self.head = nn.Linear(hidden, classes)
        he_weights(self, self.head)

    def patches(self, x: torch.Tensor) -> list[list[torch.Tensor]]:
        """Return of each scale the patches (n, channels, size, size) of each plane."""
        planes = [_middle(x, axis) for axis in range(2, 5)] if self.dimensions == 3 else [x]
        return [[zoomed(plane, scale, self.size) for plane in planes] for scale in self.scales]

    def vector(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features (n, hidden)."""
        made: list[torch.Tensor] = []
        for streams, patches in zip(self.streams, self.patches(x), strict=True):
            assert isinstance(streams, nn.ModuleList)
            if self.shared:
                made.extend(streams[0](torch.cat(patches)).chunk(self.planes))
            else:
                made.extend(stream(patch) for stream, patch in zip(streams, patches, strict=True))
        return self.join(torch.cat(made, 1))


def _middle(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the plane in the middle of an axis, between two voxels their mean."""
    n = x.shape[axis]
    return x.narrow(axis, (n - 1) // 2, 2 - n % 2).mean(axis)


def zoomed(x: torch.Tensor, scale: float, size: int) -> torch.Tensor:
    """Return the middle of pictures (n, c, y, x) that is `scale` of their edges, interpolated to `size` x `size` pixels."""
    eye = torch.eye(2, 3, dtype=x.dtype, device=x.device) * scale
    grid = functional.affine_grid(eye.expand(len(x), 2, 3), [len(x), x.shape[1], size, size], align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False, padding_mode="border")
