"""Several networks, views and sub-classes that together give the probabilities of one classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Committee(nn.Module):
    """The mean of the probabilities of networks that look at the same input, each as it is and mirrored.

    Parameters
    ----------
    members : sequence of nn.Module
        Each from (batch, channels, *space) to (batch, classes * subclasses) logits.
    mirrored : bool
        Whether each looks at the input mirrored along its first axis of space too (left to right).
    subclasses : int
        Outputs of a class, side by side, whose probabilities add up to that of the class.
    """

    def __init__(self, members: Sequence[nn.Module], mirrored: bool = False, subclasses: int = 1):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mirrored = mirrored
        self.subclasses = subclasses

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the mean probabilities, (batch, classes)."""
        views = [x, x.flip(2)] if self.mirrored else [x]
        logs = [composed(torch.log_softmax(member(view), dim=1), self.subclasses) for member in self.members for view in views]
        return torch.logsumexp(torch.stack(logs), dim=0) - float(torch.tensor(float(len(logs))).log())


def one_view(network: nn.Module) -> nn.Module:
    """Return what a map of where a network looks is made of: of a committee its first member, which looks once."""
    return as_one([network.members[0]], False, network.subclasses) if isinstance(network, Committee) else network


def composed(logs: torch.Tensor, subclasses: int) -> torch.Tensor:
    """Return the log-probabilities of classes from those of their sub-classes, which lie side by side (DeTraC's composition)."""
    return logs if subclasses == 1 else torch.logsumexp(logs.unflatten(1, (-1, subclasses)), dim=2)


def as_one(members: Sequence[nn.Module], mirrored: bool = False, subclasses: int = 1) -> nn.Module:
    """Return a committee, or the network itself where it is alone and looks once."""
    plain = len(members) == 1 and not mirrored and subclasses == 1
    return members[0] if plain else Committee(members, mirrored, subclasses).eval()
