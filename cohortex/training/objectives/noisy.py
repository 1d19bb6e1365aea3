"""Trainings that see noisy images only: blind spots, Stein's unbiased risk, images that were made noisier, independent halves.

Of an objective that reads ``noisy`` the target is (image, sigma): what was measured, and the standard deviation of its noise in the
network's range, a number for each example. One that reads ``halves`` or ``projections`` has two images with independent noise.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from cohortex.training.objectives.objective import Objective, output, within
from cohortex.training.objectives.pixel import squared_error

Fill = Literal["neighbour", "mean"]


def lattice(shape: torch.Size, pitch: int, generator: torch.Generator) -> torch.Tensor:
    """Return blind spots: each example has a lattice of its own phase.

    Parameters
    ----------
    shape : (n, c, ...)
    pitch : int
        Distance of two spots along every axis; axes shorter than it hold at most one.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    (n, 1, ...) bool tensor
    """
    axes = len(shape) - 2
    phases = torch.randint(pitch, (shape[0], axes), generator=generator)
    spots = torch.ones((shape[0], 1, *shape[2:]), dtype=torch.bool)
    for axis in range(axes):
        size = shape[2 + axis]
        # An axis of one slice has no phase: that slice has spots in every example.
        phase = phases[:, axis] if size > 1 else torch.zeros_like(phases[:, axis])
        on = (torch.arange(size) - phase[:, None]) % pitch == 0
        spots &= on.reshape(shape[0], 1, *[size if a == axis else 1 for a in range(axes)])
    return spots


def blinded(image: torch.Tensor, spots: torch.Tensor, fill: Fill, generator: torch.Generator) -> torch.Tensor:
    """Return an image whose spots hold nothing of their own values.

    Parameters
    ----------
    image : (n, 1, ...) tensor
    spots : (n, 1, ...) bool tensor
        Of `lattice`, with a pitch of at least 3: then no neighbour of a spot is a spot.
    fill : {"neighbour", "mean"}
        The value of a random one of the nearest neighbours (Krull et al., Noise2Void, CVPR 2019), or the mean of those that share a
        face (Batson and Royer, Noise2Self, ICML 2019).
    generator : torch.Generator

    Returns
    -------
    tensor
        Of the image's shape.
    """
    axes = [axis for axis in range(2, image.ndim) if image.shape[axis] > 1]
    shifted = [_shifted(image, axis, by) for axis in axes for by in (-1, 1)]
    if fill == "mean":
        return torch.where(spots, torch.stack(shifted).mean(0), image)
    which = torch.randint(len(shifted), image.shape, generator=generator).to(image.device)
    return torch.where(spots, torch.stack(shifted).gather(0, which[None])[0], image)


def _shifted(image: torch.Tensor, axis: int, by: int) -> torch.Tensor:
    """Return the neighbour of every voxel along an axis; beyond the border that on the other side."""
    index = (torch.arange(image.shape[axis], device=image.device) + by).abs()
    last = image.shape[axis] - 1
    return image.index_select(axis, torch.where(index > last, 2 * last - index, index))


def stein_risk(
    made: torch.Tensor, again: torch.Tensor, image: torch.Tensor, probe: torch.Tensor, sigma: torch.Tensor, step: float | torch.Tensor
) -> torch.Tensor:
    """Return Stein's unbiased estimate of the mean squared error of a denoiser, by one random probe.

    ``mean (f(y) - y)^2 - sigma^2 + 2 sigma^2 div f(y) / N`` with the divergence ``probe . (f(y + step probe) - f(y)) / step``.

    Parameters
    ----------
    made, again : (n, 1, ...) tensors
        The denoiser's output for the image, and for the image with `step` times the probe added.
    image, probe : (n, 1, ...) tensors
    sigma : (n, 1, ...) tensor
        Standard deviation of the white Gaussian noise.
    step : float or (n, 1, ...) tensor

    Returns
    -------
    scalar tensor

    References
    ----------
    Ramani, Blu and Unser, Monte-Carlo SURE, IEEE Trans. Image Processing 17(9), 2008.
    """
    divergence = probe * (again - made) / step
    return ((made - image).square() - sigma**2 + 2 * sigma**2 * divergence).mean()


def recorrupted(image: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two images whose noise is independent where that of the image is Gaussian with this standard deviation.

    ``y + share sigma z`` and ``y - sigma z / share``.

    Parameters
    ----------
    image, noise : (n, 1, ...) tensors
        `noise` is standard normal.
    sigma : tensor
    share : float

    References
    ----------
    Pang, Zheng, Quan and Ji, Recorrupted-to-Recorrupted, CVPR 2021.
    """
    return image + share * sigma * noise, image - sigma / share * noise


def of_recorrupted(network: nn.Module, source: torch.Tensor, given: torch.Tensor, share: float) -> torch.Tensor:
    """Return what a network makes of the source with the noisier image; one in units of the noise is given it in those of the new noise."""
    unit = (1 + share**2) ** 0.5 if getattr(network, "in_noise_units", False) else 1.0
    made = output(network, in_place_of(source, given) if unit == 1 else in_place_of(source, given) / unit)
    return made * unit


def consensus(first: torch.Tensor, second: torch.Tensor, one: torch.Tensor, two: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the loss of two outputs that are each to foretell the other half, and to agree.

    Parameters
    ----------
    first, second : tensors
        What was made of the first half and of the second.
    one, two : tensors
        The halves.
    weight : float
        Of the mean squared difference of the outputs.

    References
    ----------
    Wu, Gong, Kim and Li, Consensus neural network for medical imaging denoising with only noisy training samples, MICCAI 2019.
    """
    return 0.5 * (squared_error(first, two) + squared_error(second, one)) + weight * squared_error(first, second)


def middle(source: torch.Tensor) -> int:
    """Return the channel that is the slice itself."""
    return source.shape[1] // 2


def in_place_of(source: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Return the source with another image as its middle channel."""
    channel = middle(source)
    return torch.cat([source[:, :channel], image, source[:, channel + 1 :]], 1)


class BlindSpot(Objective):
    """The squared error at spots whose own values the network does not see (Noise2Void, Noise2Self).

    A network that cannot see them by its build (attribute ``blind_spot``) needs no spots: all pixels count.

    Parameters
    ----------
    pitch : int
        See `lattice`.
    fill : {"neighbour", "mean"}
        See `blinded`.
    """

    def __init__(self, pitch: int, fill: Fill):
        self.pitch = pitch
        self.fill: Fill = fill

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the mean squared error at the spots."""
        image, _ = target
        if getattr(network, "blind_spot", False):
            made = output(network, source)
            return squared_error(made, within(image, made))
        generator = self.generator(step)
        own = source[:, middle(source)][:, None]
        spots = lattice(own.shape, self.pitch, generator).to(own.device)
        made = output(network, in_place_of(source, blinded(own, spots, self.fill, generator)))
        here = within(spots.to(made.dtype), made)
        return ((made - within(image, made)).square() * here).sum() / here.sum().clamp(min=1)


class Stein(Objective):
    """Stein's unbiased risk estimate, see `stein_risk`; always computed in float32, since it is a difference of two nearly equal outputs.

    Parameters
    ----------
    step : float
        Length of the probe, in standard deviations of the noise.
    """

    def __init__(self, step: float):
        self.step = step

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the risk."""
        image, sigma = target
        own = source[:, middle(source)][:, None]
        length = self.step * sigma
        probe = torch.randn(own.shape, generator=self.generator(step)).to(own.device)
        with torch.autocast(own.device.type, enabled=False):
            made = output(network, source)
            again = output(network, in_place_of(source, own + length * probe))
        return stein_risk(made, again, within(image, made), within(probe, made), sigma, length)


class Recorrupted(Objective):
    """The squared error from one image made noisier to another, see `recorrupted`.

    Parameters
    ----------
    share : float
        Of the noise's standard deviation that is added to the input.
    """

    def __init__(self, share: float):
        self.share = share

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the mean squared error."""
        _, sigma = target
        own = source[:, middle(source)][:, None]
        noise = torch.randn(own.shape, generator=self.generator(step)).to(own.device)
        given, wanted = recorrupted(own, noise, sigma, self.share)
        made = of_recorrupted(network, source, given, self.share)
        return squared_error(made, within(wanted, made))


class Halves(Objective):
    """The squared error from one half to the other: what is not noise is all that can be foretold (Noise2Noise, Noise2Inverse)."""

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the mean squared error."""
        made = output(network, source)
        return squared_error(made, within(target[:, middle(target)][:, None], made))


class Consensus(Objective):
    """Both halves foretell each other, and what is made of them agrees, see `consensus`.

    A network of two (method ``of_half(x, number)``) gives each half its own part, as in the paper; any other makes both.

    Parameters
    ----------
    weight : float
        Of the agreement.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of both halves."""
        part = getattr(network, "of_half", None)
        first, second = (network(half) if part is None else part(half, number) for number, half in enumerate((source, target)))
        one, two = (within(half[:, middle(half)][:, None], first) for half in (source, target))
        return consensus(first, second, one, two, self.weight)
