"""Errors pixel by pixel."""

from __future__ import annotations

from typing import Any

import torch

from cohortex.errors import Refused
from cohortex.training.objectives.objective import Objective, Plain, Start


def squared_error(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return ((made - target) ** 2).mean()


def absolute_error(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error."""
    return (made - target).abs().mean()


def smooth_absolute_error(made: torch.Tensor, target: torch.Tensor, width: float = 1e-3) -> torch.Tensor:
    """Return the mean of ``sqrt(error^2 + width^2) - width`` (Charbonnier et al., ICIP 1994).

    Parameters
    ----------
    width : float
        Errors well above it count by their size, those below by their square.
    """
    return ((made - target).square() + width**2).sqrt().mean() - width


class SquaredError(Plain):
    """The mean squared error."""

    def __init__(self) -> None:
        super().__init__(squared_error)


class AbsoluteError(Plain):
    """The mean absolute error."""

    def __init__(self) -> None:
        super().__init__(absolute_error)


class SmoothAbsoluteError(Plain):
    """See `smooth_absolute_error`."""

    def __init__(self, width: float) -> None:
        super().__init__(lambda made, target: smooth_absolute_error(made, target, width))


class CoefficientError(Objective):
    """The mean squared error of the coefficients that a network in a transform makes, not of the image.

    Such a network has ``coefficients(x)``, what it makes of an image's coefficients, ``coefficients_of(image)`` and their ``scale``.
    """

    def begin(self, start: Start) -> None:
        """Look at the network.

        Raises
        ------
        Refused
            When it has no coefficients.
        """
        if not hasattr(start.network, "coefficients"):
            raise Refused("the objective coefficient_error is for networks in a transform, such as wavelet_cnn; name another objective.")
        super().begin(start)

    def loss(self, network: Any, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the mean squared error, in units of the image."""
        return squared_error(network.coefficients(source), network.coefficients_of(target)) / network.scale**2
