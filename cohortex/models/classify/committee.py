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


class OwnScale(nn.Module):
    """A network that looks at each input in units of its own mean and deviation, see `own_scale`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the network says."""
        return self.network(own_scale(x))


def own_scale(x: torch.Tensor) -> torch.Tensor:
    """Return inputs (batch, channels, *space) whose image, the first channel, has mean 0 and deviation 1 over each of them."""
    axes = tuple(range(2, x.ndim))
    image = x[:, :1]
    centred = image - image.mean(dim=axes, keepdim=True)
    deviation = centred.square().mean(dim=axes, keepdim=True).sqrt().clamp_min(1e-6)
    return torch.cat([centred / deviation, x[:, 1:]], dim=1)


def one_view(network: nn.Module) -> nn.Module:
    """Return what a map of where a network looks is made of: of a committee its first member, which looks once."""
    return as_one([network.members[0]], False, network.subclasses) if isinstance(network, Committee) else network


def composed(logs: torch.Tensor, subclasses: int) -> torch.Tensor:
    """Return the log-probabilities of classes from those of their sub-classes, which lie side by side (DeTraC's composition)."""
    return logs if subclasses == 1 else torch.logsumexp(logs.unflatten(1, (-1, subclasses)), dim=2)


def as_one(members: Sequence[nn.Module], mirrored: bool = False, subclasses: int = 1, own_scale: bool = False) -> nn.Module:
    """Return a committee, or the network itself where it is alone and looks once; with `own_scale` every second one is an `OwnScale`."""
    if own_scale:
        members = [OwnScale(member) if number % 2 else member for number, member in enumerate(members)]
    plain = len(members) == 1 and not mirrored and subclasses == 1
    return members[0] if plain else Committee(members, mirrored, subclasses).eval()
