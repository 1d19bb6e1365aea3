"""Structural similarity of tensors, at one scale and at several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales, the finest first (Wang et al. 2003)."""

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def similarity(made: torch.Tensor, target: torch.Tensor, data_range: float = 1.0) -> torch.Tensor:
    """Return the mean structural similarity over windows that lie inside the pictures.

    Parameters
    ----------
    made, target : (n, 1, x, y) or (n, 1, x, y, z) tensors
        Volumes are compared slice by slice along z, as their patches are thin.
    data_range : float

    Returns
    -------
    scalar tensor

    References
    ----------
    Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 13 (2004) 600-612: Gaussian window of 11 pixels with sigma 1.5,
    smaller in smaller pictures.
    """
    whole, _ = _terms(pictures(made), pictures(target), data_range)
    return whole.mean()


def multiscale_similarity(
    made: torch.Tensor, target: torch.Tensor, data_range: float = 1.0, weights: Sequence[float] = WEIGHTS
) -> torch.Tensor:
    """Return the structural similarity over several scales, each half as fine as the one before.

    Parameters
    ----------
    made, target : (n, 1, x, y) or (n, 1, x, y, z) tensors
    data_range : float
    weights : sequence of float
        Of the scales. Only those whose pictures hold a whole window count, at least one; the weights of these are made to add up to 1.

    Returns
    -------
    scalar tensor
        Mean over the pictures.

    References
    ----------
    Wang, Simoncelli and Bovik, Asilomar Conference on Signals, Systems and Computers, 2003.
    """
    first, second = pictures(made), pictures(target)
    scales = 1
    while scales < len(weights) and min(first.shape[2:]) >> scales >= WINDOW:
        scales += 1
    used = torch.tensor(weights[:scales], dtype=first.dtype, device=first.device)
    used = used / used.sum()
    product = torch.ones(len(first), dtype=first.dtype, device=first.device)
    for scale in range(scales):
        whole, contrast = _terms(first, second, data_range)
        term = (whole if scale == scales - 1 else contrast).flatten(1).mean(1)
        # Pictures that are each other's negative would give the power of a negative number.
        product = product * term.clamp(min=1e-4) ** used[scale]
        if scale < scales - 1:
            first, second = functional.avg_pool2d(first, 2), functional.avg_pool2d(second, 2)
    return product.mean()


def pictures(tensor: torch.Tensor) -> torch.Tensor:
    """Return volumes (n, c, x, y, z) as pictures (n z, c, x, y); pictures stay what they are."""
    return tensor.permute(0, 4, 1, 2, 3).flatten(0, 1) if tensor.ndim == 5 else tensor


def _terms(made: torch.Tensor, target: torch.Tensor, data_range: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return similarity and its contrast-structure part, pixel by pixel."""
    windows = [_gaussian(min(WINDOW, size), made) for size in made.shape[2:]]

    def local(x: torch.Tensor) -> torch.Tensor:
        rows = functional.conv2d(x, windows[0][None, None, :, None])
        return functional.conv2d(rows, windows[1][None, None, None, :])

    mean_a, mean_b = local(made), local(target)
    var_a, var_b = local(made * made) - mean_a**2, local(target * target) - mean_b**2
    covariance = local(made * target) - mean_a * mean_b
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    contrast = (2 * covariance + c2) / (var_a + var_b + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * contrast, contrast


def _gaussian(size: int, like: torch.Tensor) -> torch.Tensor:
    ticks = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    window = torch.exp(-(ticks**2) / (2 * SIGMA**2))
    return window / window.sum()
