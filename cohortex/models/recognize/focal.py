"""Losses of classes that are rare: focal loss (Lin et al., Focal loss for dense object detection, ICCV 2017), and hard negatives."""

from __future__ import annotations

import torch
from torch.nn import functional

LOSSES = ("focal", "cross_entropy")


def focal_loss(logits: torch.Tensor, truth: torch.Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> torch.Tensor:
    """Return the focal loss of every logit: cross entropy times ``(1 - p)^gamma`` of the probability p that the truth is given.

    Parameters
    ----------
    logits : torch.Tensor
        Of independent classes (sigmoid).
    truth : torch.Tensor
        0 or 1, of the same shape.
    gamma : float
        How much less what is right already counts; 0 leaves cross entropy.
    alpha : float, optional
        Weight of ones; zeros have ``1 - alpha``. None weighs both by 1.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    loss = entropy
    if gamma:
        right = torch.sigmoid(torch.where(truth > 0.5, logits, -logits))
        loss = entropy * (1 - right) ** gamma
    if alpha is not None:
        loss = loss * torch.where(truth > 0.5, alpha, 1 - alpha)
    return loss


def class_loss(kind: str, logits: torch.Tensor, truth: torch.Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> torch.Tensor:
    """Return the loss of every logit, focal or plain cross entropy (without weights)."""
    if kind not in LOSSES:
        raise ValueError(f"loss is one of {', '.join(LOSSES)}, not {kind!r}")
    return focal_loss(logits, truth, gamma, alpha) if kind == "focal" else focal_loss(logits, truth, 0.0, None)


def hardest(losses: torch.Tensor, negative: torch.Tensor, count: int) -> torch.Tensor:
    """Return a mask of the `count` negatives with the largest losses (hard negative mining: Liu et al., SSD, ECCV 2016).

    Parameters
    ----------
    losses : torch.Tensor
        (n,).
    negative : torch.Tensor
        (n,) bool.
    count : int
        At most as many as there are.
    """
    ranked = torch.where(negative, losses.detach(), -torch.inf)
    places = ranked.topk(min(count, int(negative.sum()))).indices
    mask = torch.zeros_like(negative)
    mask[places] = True
    return mask
