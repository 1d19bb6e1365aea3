"""An optimiser whose steps are orthogonal matrices, for networks that have to learn in few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.95
"""Share of the running mean of gradients kept at each step."""

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8
"""Of Adam, for the other parameters."""

DECAY = 0.01
"""Weight decay, times the learning rate."""

FASTER = 2.5
"""Learning rate of the kernels over that of the others, where nothing else is said; found for the shipped MR denoiser."""


def muon(network: nn.Module, groups: Iterable[dict[str, Any]], rate: float, faster: float = FASTER) -> Muon:
    """Return `Muon` for a network: orthogonal steps for convolutions from several channels to several.

    Parameters
    ----------
    network : nn.Module
    groups : iterable of dict
        Of its parameters, with ``params`` and perhaps ``lr``.
    rate, faster : float
    """
    return Muon(groups, rate, [p for p in network.parameters() if p.ndim > 2 and min(p.shape[:2]) > 1], faster)


class Muon(torch.optim.Optimizer):
    """Muon for the kernels of hidden layers, AdamW for everything else.

    The step of a kernel (out, in, ...), seen as a matrix (out, the rest), is its averaged gradient with all singular values brought
    to about 1 (Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, kellerjordan.github.io/posts/muon). It is
    scaled such that its entries are as large as those of a step of AdamW (Liu et al., Muon is scalable for LLM training, 2025,
    arXiv:2502.16982).

    Parameters
    ----------
    groups : iterable of dict
        ``params``; ``lr`` is the learning rate of AdamW.
    rate : float
        Where a group has none.
    kernels : collection of tensors
        The parameters, of two axes or more, that take orthogonal steps.
    faster : float
        Learning rate of the kernels over that of the others.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], rate: float, kernels: Collection[torch.Tensor], faster: float = 1.0):
        super().__init__(groups, {"lr": rate})
        self.kernels = {id(kernel) for kernel in kernels}
        self.faster = faster

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step with the gradients that the parameters have."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if id(parameter) in self.kernels:
                    self._orthogonal_step(parameter, self.faster * group["lr"])
                else:
                    self._adam_step(parameter, group["lr"])

    def _orthogonal_step(self, parameter: torch.Tensor, rate: float) -> None:
        state = self.state[parameter]
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - MOMENTUM)  # pyright: ignore[reportArgumentType]
        ahead = parameter.grad.lerp(mean, MOMENTUM).reshape(len(parameter), -1)  # pyright: ignore[reportOptionalMemberAccess]
        made = orthogonal(ahead)
        parameter.mul_(1 - rate * DECAY).add_(made.reshape(parameter.shape), alpha=-rate * 0.2 * math.sqrt(max(made.shape)))

    def _adam_step(self, parameter: torch.Tensor, rate: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        steps, gradient = float(state["step"]), parameter.grad
        assert gradient is not None
        state["mean"].lerp_(gradient, 1 - FIRST)
        state["square"].lerp_(gradient.square(), 1 - SECOND)
        spread = (state["square"] / (1 - SECOND**steps)).sqrt_().add_(TINY)
        parameter.mul_(1 - rate * DECAY).addcdiv_(state["mean"], spread, value=-rate / (1 - FIRST**steps))


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return a matrix with the same singular vectors and singular values of about 1 (0.7 to 1.2), by five steps of a quintic iteration.

    Parameters
    ----------
    matrix : (m, n) float32 tensor

    Returns
    -------
    (m, n) float32 tensor
        Zero where the matrix is.
    """
    tall = len(matrix) > matrix.shape[1]
    made = matrix.T if tall else matrix
    made = made / (made.norm() + 1e-12)
    for _ in range(5):
        square = made @ made.T
        made = 3.4445 * made + (-4.7750 * square + 2.0315 * square @ square) @ made
    return made.T if tall else made
