"""Scanners inside networks: linear operators that torch differentiates, and consistency with measured k-space.

Images have axes (..., x, y), sinograms (..., view, detector), complex images and k-space (..., y, x) and (..., ky, kx), as in
`cohortex.physics.ct` and `cohortex.physics.fourier`. Projections are computed on the CPU by the kernels of the simulations, in
float32; a tensor of another device goes there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from cohortex.physics import ct

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Operator:
    """A linear map of pictures whose gradient is its adjoint; call it with a tensor.

    Attributes
    ----------
    forward, adjoint : callables
        From a float32 array (a, b, n) to one (c, d, n) and back; n pictures go through together.
    inputs, outputs : (int, int)
        (a, b) and (c, d).

    Raises
    ------
    ValueError
        When the last two axes of the tensor are not `inputs`.
    """

    forward: Map
    adjoint: Map
    inputs: tuple[int, int]
    outputs: tuple[int, int]

    @property
    def transposed(self) -> Operator:
        """The adjoint as an operator."""
        return Operator(self.adjoint, self.forward, self.outputs, self.inputs)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the map of a tensor (..., a, b): (..., c, d) of its type, on its device."""
        if tuple(x.shape[-2:]) != self.inputs:
            raise ValueError(f"the operator takes pictures of {self.inputs}, not of {tuple(x.shape[-2:])}")
        return _Linear.apply(x, self)  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    """An `Operator` in the graph; its gradient is the transposed one in the graph, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, operator: Operator) -> torch.Tensor:
        ctx.operator = operator
        pictures = x.detach().reshape(-1, *operator.inputs).to("cpu", torch.float32)
        # The kernels run along the last axis.
        made = operator.forward(np.ascontiguousarray(pictures.numpy().transpose(1, 2, 0)))
        back = torch.from_numpy(np.ascontiguousarray(made.transpose(2, 0, 1)))
        return back.reshape(*x.shape[:-2], *operator.outputs).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return ctx.operator.transposed(gradients[0]), None


def radon_operator(shape: tuple[int, int], angles: np.ndarray, spacing_mm: float, detectors: int | None = None) -> Operator:
    """Return the parallel-beam transform `cohortex.physics.ct.radon` of pictures in 1/mm.

    Parameters
    ----------
    shape : (nx, ny)
        Of the pictures.
    angles : (view,) array
        Radians.
    spacing_mm : float
        Of pixels and of detector bins.
    detectors : int, optional
        Number of bins; as many as see the whole picture when None.

    Returns
    -------
    Operator
        (..., nx, ny) to (..., view, detector).
    """
    bins = ct.detectors_for(shape) if detectors is None else detectors
    return Operator(
        lambda image: ct.radon(image, angles, spacing_mm, bins),
        lambda rays: ct.radon_adjoint(rays, angles, spacing_mm, shape),
        shape,
        (len(angles), bins),
    )


def fbp_operator(
    shape: tuple[int, int],
    angles: np.ndarray,
    spacing_mm: float,
    detectors: int | None = None,
    window: Literal["ram-lak", "hann"] = "ram-lak",
) -> Operator:
    """Return the filtered backprojection `cohortex.physics.ct.fbp` as a layer; parameters as for `radon_operator`.

    Returns
    -------
    Operator
        (..., view, detector) to (..., nx, ny); the angles lie evenly over half a turn.
    """
    bins = ct.detectors_for(shape) if detectors is None else detectors
    return Operator(
        lambda rays: ct.fbp(rays, angles, spacing_mm, shape, window),
        lambda image: ct.fbp_adjoint(image, angles, spacing_mm, bins, window),
        (len(angles), bins),
        shape,
    )


def centred_fft2(image: torch.Tensor) -> torch.Tensor:
    """Return the k-space of images over the last two axes, centred and unitary like `cohortex.physics.fourier.centred_fft`."""
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def centred_ifft2(kspace: torch.Tensor) -> torch.Tensor:
    """Return the images of k-space: the inverse and the adjoint of `centred_fft2`."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=(-2, -1)), norm="ortho"), dim=(-2, -1))


def data_consistency(
    image: torch.Tensor, measured: torch.Tensor, mask: torch.Tensor, trust: float | torch.Tensor | None = None
) -> torch.Tensor:
    """Put the measured samples of k-space back into an image (Schlemper et al., IEEE Trans. Med. Imaging 37(2), 2018, eq. 6).

    Parameters
    ----------
    image : (..., y, x) complex tensor
        What a network made of one coil, or of each coil.
    measured : (..., ky, kx) complex tensor
        Of `centred_fft2`; what stands beside the mask is not looked at.
    mask : tensor that broadcasts to k-space
        True or 1 where measured.
    trust : float or tensor, optional
        Weight of the measurement against the network, above zero; None takes the measurement as it is (no noise).

    Returns
    -------
    (..., y, x) complex tensor
    """
    made = centred_fft2(image)
    kept = mask.to(made.real.dtype)
    share = kept if trust is None else kept * (trust / (1 + trust))
    return centred_ifft2(made + share * (torch.where(mask.bool(), measured, made) - made))


def coil_forward(image: torch.Tensor, sensitivities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the measured k-space (..., coil, ky, kx) of images (..., y, x) seen by coils (..., coil, y, x), zero beside the mask."""
    return centred_fft2(image.unsqueeze(-3) * sensitivities) * mask


def coil_adjoint(kspace: torch.Tensor, sensitivities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the adjoint of `coil_forward`: (..., coil, ky, kx) to (..., y, x)."""
    return (centred_ifft2(kspace * mask) * sensitivities.conj()).sum(dim=-3)
