"""What lies in a box, on a grid of its own: RoIAlign (He et al., ICCV 2017) and RoI pooling (Girshick, Fast R-CNN, ICCV 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def roi_align(features: torch.Tensor, corners: torch.Tensor, size: int, stride: float = 1.0, samples: int = 2) -> torch.Tensor:
    """Return features within boxes, each on a grid of the same size: the mean of linearly interpolated points of every cell.

    Parameters
    ----------
    features : torch.Tensor
        (channels, ...) of one image.
    corners : torch.Tensor
        (n, 2 * dimensions) in voxels of the image.
    size : int
        Cells along each axis.
    stride : float
        Voxels of the image between neighbours of the features.
    samples : int
        Points of a cell along each axis.

    Returns
    -------
    torch.Tensor
        (n, channels, size, ...); beyond the image its outermost values go on.
    """
    dimensions = features.ndim - 1
    points = size * samples
    low, high = corners.to(features.dtype).chunk(2, -1)
    shares = (torch.arange(points, device=features.device, dtype=features.dtype) + 0.5) / points
    # (n, points, dimensions), in -1..1 from edge to edge of the map
    shape = torch.tensor(features.shape[1:], device=features.device, dtype=features.dtype)
    places = 2 * (low[:, None] + shares[:, None] * (high - low)[:, None]) / (stride * shape) - 1
    count = len(corners)
    grid = torch.stack(
        [
            places[..., axis].view(count, *[points if a == axis else 1 for a in range(dimensions)]).expand(count, *[points] * dimensions)
            for axis in reversed(range(dimensions))
        ],
        -1,
    )
    rows = grid.reshape(1, count * points, *[points] * (dimensions - 1), dimensions)
    if not count:
        return features.new_zeros(0, features.shape[0], *[size] * dimensions)
    sampled = functional.grid_sample(features[None], rows, padding_mode="border", align_corners=False)[0]
    each = sampled.unflatten(1, (count, points)).movedim(1, 0)
    if samples == 1:
        return each
    return functional.avg_pool3d(each, samples) if dimensions == 3 else functional.avg_pool2d(each, samples)


def roi_pool(features: torch.Tensor, corners: torch.Tensor, size: int, stride: float = 1.0) -> torch.Tensor:
    """Return the maxima of features within the cells of boxes, whose edges are rounded to whole positions of the map.

    Parameters and result as of `roi_align`; a box takes at least one position along each axis.
    """
    dimensions = features.ndim - 1
    pool = functional.adaptive_max_pool3d if dimensions == 3 else functional.adaptive_max_pool2d
    whole = (corners / stride).round().long().tolist()
    made = [pool(features[(slice(None), *_window(corner, features.shape[1:]))], [size] * dimensions) for corner in whole]
    return torch.stack(made) if made else features.new_zeros(0, features.shape[0], *[size] * dimensions)


def _window(corner: Sequence[int], shape: Sequence[int]) -> list[slice]:
    """Return the positions of a box within a map, at least one along each axis."""
    window = []
    for axis, n in enumerate(shape):
        begin = min(max(corner[axis], 0), n - 1)
        window.append(slice(begin, min(max(corner[axis + len(shape)], begin + 1), n)))
    return window
