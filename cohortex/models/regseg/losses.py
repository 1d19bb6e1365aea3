"""Losses of the joint training: overlap, agreement of the two segmentations, smoothness, no folding."""

from __future__ import annotations

import torch

EPSILON = 1e-5


def soft_dice(a: torch.Tensor, b: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    """Return one minus the mean Dice of two soft segmentations, background counted as a class (Milletari et al., 3DV 2016).

    Parameters
    ----------
    a, b : (B, K, X, Y, Z) tensors
        Probabilities or one-hot labels.
    present : (B, K) tensor, optional
        Which classes count; by default those that either of the two has at least half a voxel of.
    """
    axes = (2, 3, 4)
    volume = a.sum(axes) + b.sum(axes)
    score = (2 * (a * b).sum(axes) + EPSILON) / (volume + EPSILON)
    counts = (volume > 0.5).to(a.dtype) if present is None else present.to(a.dtype)
    return 1 - (score * counts).sum() / counts.sum().clamp(min=1)


def dice_loss(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return E_dice: `soft_dice` against true labels (one-hot), over the classes that the truth has in this crop, plus background."""
    present = labels.sum((2, 3, 4)) > 0.5
    return soft_dice(probabilities, labels, present)


def consistency_loss(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None, least: float = 0.25) -> torch.Tensor:
    """Return E_consistency: how far two soft segmentations of the same anatomy disagree.

    Two empty or constant masks would agree perfectly. Two things close that trap: the mean is over the classes with
    background among them, each class by its own Dice; and where the foreground share of one segmentation falls below
    `least` of the other's, the ratio is charged as well, so shrinking both in turn never pays.

    Parameters
    ----------
    first, second : (B, K, X, Y, Z) tensors
        Probabilities; class 0 is background.
    mask : (B, 1, X, Y, Z) tensor, optional
        Where both segmentations are known.
    """
    if mask is not None:
        first, second = first * mask, second * mask
    axes = (2, 3, 4)
    volume = first.sum(axes) + second.sum(axes)
    score = (2 * (first * second).sum(axes) + EPSILON) / (volume + EPSILON)
    # Every class counts at least a little, or a class that both drop would be free.
    known = volume[:, 1:].sum(1, keepdim=True)
    weight = (volume / known.clamp(min=1)).clamp(min=0.01, max=1.0).detach()
    agreement = (score * weight).sum() / weight.sum()
    return 1 - agreement + imbalance(first, second, least)


def imbalance(first: torch.Tensor, second: torch.Tensor, least: float = 0.25) -> torch.Tensor:
    """Return how far the smaller of two foregrounds is below `least` of the larger (0: not at all, 1: empty)."""
    a, b = (x[:, 1:].sum((1, 2, 3, 4)) for x in (first, second))
    ratio = torch.minimum(a, b) / torch.maximum(a, b).clamp(min=1.0)
    return ((least - ratio).clamp(min=0) / least).mean()


def foreground_kept(probabilities: torch.Tensor, volume: torch.Tensor, least: float = 0.5) -> torch.Tensor:
    """Return the penalty for a foreground below `least` of the volume (in voxels) that it had before the turn."""
    now = probabilities[:, 1:].sum((1, 2, 3, 4))
    return ((least - now / volume.clamp(min=1.0)).clamp(min=0) / least).mean()


def diffusion(displacement: torch.Tensor) -> torch.Tensor:
    """Return the mean squared first difference of a displacement (B, 3, X, Y, Z), in voxels per voxel squared."""
    terms = [displacement.diff(dim=axis).square().mean() for axis in (2, 3, 4)]
    return torch.stack(terms).mean()


def bending(displacement: torch.Tensor) -> torch.Tensor:
    """Return the mean squared second difference (Rueckert et al., IEEE TMI 18(8), 1999): affine maps cost nothing."""
    pure = [displacement.diff(n=2, dim=axis).square().mean() for axis in (2, 3, 4)]
    mixed = [2 * displacement.diff(dim=a).diff(dim=b).square().mean() for a, b in ((2, 3), (2, 4), (3, 4))]
    return torch.stack(pure + mixed).sum() / 9


def folding_loss(displacement: torch.Tensor, least: float = 0.1) -> torch.Tensor:
    """Return the mean amount by which the Jacobian determinant stays below `least` (B, 3, X, Y, Z, voxels)."""
    gradients = [displacement.diff(dim=axis)[:, :, : n - 1, : m - 1, : k - 1] for axis, (n, m, k) in _cropped(displacement)]
    rows = torch.stack(gradients, dim=2)
    jacobian = rows.permute(0, 3, 4, 5, 1, 2) + torch.eye(3, dtype=displacement.dtype, device=displacement.device)
    return (least - _determinant(jacobian)).clamp(min=0).mean()


def _cropped(displacement: torch.Tensor) -> list[tuple[int, tuple[int, int, int]]]:
    n, m, k = displacement.shape[2:]
    return [(axis, (n, m, k)) for axis in (2, 3, 4)]


def _determinant(m: torch.Tensor) -> torch.Tensor:
    a, b, c = m[..., 0, :].unbind(-1)
    d, e, f = m[..., 1, :].unbind(-1)
    g, h, i = m[..., 2, :].unbind(-1)
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
