"""Classes that are not equally frequent: what a training does about them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BALANCES = ("none", "weights", "sampling", "focal", "logit_adjust")
"""none: every example counts alike; weights: each class as a whole; sampling: each class is drawn as often; focal: as weights, and
examples that are right already count little; logit_adjust: the frequencies are added to the logits while it learns, so that what is
left without them holds for equally frequent classes."""

FOCUS = 2.0
"""Exponent of the focal loss."""

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def loss_for(balance: str, y: np.ndarray, classes: int, device: str, smoothing: float = 0.05) -> Loss:
    """Return the loss of logits (batch, classes) and classes (batch,) for examples with the frequencies of `y`.

    Parameters
    ----------
    balance : str
        One of `BALANCES`.
    y : (n,) integer array
        Of all examples that are learned from.
    smoothing : float
        Probability that is spread over all classes (not by the focal loss, nor with logits that are adjusted).

    References
    ----------
    Lin et al., Focal loss for dense object detection, ICCV 2017; Menon et al., Long-tail learning via logit adjustment, ICLR 2021.
    """
    import torch
    from torch.nn.functional import cross_entropy

    counts = np.maximum(np.bincount(y, minlength=classes), 1)
    weight = torch.tensor(len(y) / (classes * counts), dtype=torch.float32, device=device)
    prior = torch.tensor(np.log(counts / counts.sum()), dtype=torch.float32, device=device)

    def weighted(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, target, weight=weight, label_smoothing=smoothing)

    def plain(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, target, label_smoothing=smoothing)

    def focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logs = torch.log_softmax(logits, dim=1).gather(1, target[:, None])[:, 0]
        return -(weight[target] * (1 - logs.exp()) ** FOCUS * logs).sum() / weight[target].sum()

    def adjusted(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        # with smoothed targets a rare class would be expected more often than it is
        return cross_entropy(logits + prior, target)

    return {"none": plain, "weights": weighted, "sampling": plain, "focal": focal, "logit_adjust": adjusted}[balance]


def one_pass(balance: str, y: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of one pass over the examples, in random order.

    Parameters
    ----------
    balance : str
        ``sampling`` draws each class as often, the examples of each as evenly as that allows.
    y : (n,) integer array
    allowed : (m,) integer array
        Rows that may be drawn.
    rng : Generator

    Returns
    -------
    (m,) int64 array (of a few more with ``sampling``)
    """
    if balance != "sampling":
        return allowed[rng.permutation(len(allowed))] if len(allowed) < len(y) else rng.permutation(len(y))
    there = np.unique(y[allowed])
    each = -(-len(allowed) // len(there))
    rows = []
    for label in there:
        own = allowed[y[allowed] == label]
        rows.append(np.concatenate([rng.permutation(own) for _ in range(-(-each // len(own)))])[:each])
    return rng.permutation(np.concatenate(rows))
