"""Losses of registration and of the joint training: likeness, overlap, agreement, smoothness, no folding, known and inverse ways."""

from __future__ import annotations

import torch

from cohortex.models.regseg.warp import compose

EPSILON = 1e-5
FLAT = 1e-6
"""Product of two local variances, of images within 0 and 1, at which `correlation_loss` counts half: noise in the air is below it."""


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
    """Return the mean amount by which the Jacobian determinant stays below `least` (B, 3, X, Y, Z, voxels).

    With a `least` of 0 it is the mean of FAIM's penalty of negative determinants (Kuang and Schmah, MLMI 2019).
    """
    gradients = [displacement.diff(dim=axis)[:, :, : n - 1, : m - 1, : k - 1] for axis, (n, m, k) in _cropped(displacement)]
    rows = torch.stack(gradients, dim=2)
    jacobian = rows.permute(0, 3, 4, 5, 1, 2) + torch.eye(3, dtype=displacement.dtype, device=displacement.device)
    return (least - _determinant(jacobian)).clamp(min=0).mean()


def axis_folding_loss(displacement: torch.Tensor) -> torch.Tensor:
    """Return ICNet's anti-folding loss (Zhang, arXiv:1809.03443, 2018): where points of an axis change their order.

    Along each axis the gradient of every component, plus 1, counts by its cube where it is below 0; no voxel folds where all of it is 0
    and shear is small. (B, 3, X, Y, Z), in voxels.
    """
    return torch.stack([(-displacement.diff(dim=axis) - 1).clamp(min=0).pow(3).mean() for axis in (2, 3, 4)]).mean()


def inverse_loss(forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """Return the mean squared component, in voxels, of the way there and back, begun at either end (Zhang, arXiv:1809.03443, 2018).

    `forward` and `backward` are (B, 3, X, Y, Z) displacements in voxels; 0 where each is the other's inverse.
    """
    return compose(forward, backward).square().mean() + compose(backward, forward).square().mean()


def endpoint_error(found: torch.Tensor, true: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean distance in voxels between where two displacements (B, 3, X, Y, Z) lead; of the voxels of a mask (B, 1, X, Y, Z)."""
    # The root has no gradient at 0.
    apart = ((found - true).square().sum(1, keepdim=True) + 1e-12).sqrt()
    return apart.mean() if mask is None else (apart * mask).sum() / mask.sum().clamp(min=1)


def correlation_loss(fixed: torch.Tensor, moved: torch.Tensor, window: int = 9) -> torch.Tensor:
    """Return one minus the mean squared local correlation of two images (NCC: Avants et al., Medical Image Analysis 12(1), 2008).

    Parameters
    ----------
    fixed, moved : (B, 1, X, Y, Z) tensors
        Within 0 and 1.
    window : int
        Edge, in voxels, of the cubes over which it is taken; only cubes that lie within the images count.

    Returns
    -------
    scalar tensor
        0: one is, around every voxel, a linear function of the other.
    """
    sizes = [min(window, n) for n in fixed.shape[2:]]
    a, b = (_means(x, sizes) for x in (fixed, moved))
    variances = (_means(fixed * fixed, sizes) - a * a).clamp(min=0) * (_means(moved * moved, sizes) - b * b).clamp(min=0)
    return 1 - ((_means(fixed * moved, sizes) - a * b).square() / (variances + FLAT)).mean()


def _means(x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return the means over boxes that lie within (B, 1, X, Y, Z), along one axis at a time."""
    for axis, size in enumerate(sizes, start=2):
        n = x.shape[axis] - size + 1
        total = x.narrow(axis, 0, n)
        for i in range(1, size):
            total = total + x.narrow(axis, i, n)
        x = total / size
    return x


def _cropped(displacement: torch.Tensor) -> list[tuple[int, tuple[int, int, int]]]:
    n, m, k = displacement.shape[2:]
    return [(axis, (n, m, k)) for axis in (2, 3, 4)]


def _determinant(m: torch.Tensor) -> torch.Tensor:
    a, b, c = m[..., 0, :].unbind(-1)
    d, e, f = m[..., 1, :].unbind(-1)
    g, h, i = m[..., 2, :].unbind(-1)
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
