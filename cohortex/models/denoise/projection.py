"""From images to their projections and back, inside networks that clean projections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from cohortex.physics.ct import view_angles
from cohortex.physics.torch_operators import Operator, fbp_operator, radon_operator

VIEWS = 3
"""Over half a turn, for two pixels."""


@dataclass(frozen=True)
class Scanner:
    """Parallel-beam projection and filtered backprojection of slices of one size.

    Lengths are counted in the square root of the pixels along the longer edge: then white noise keeps its standard deviation, about, on
    the way back, whatever the size.

    Backprojection interpolates between bins, which damps what is fine; that is undone before it. Without it, and with fewer views,
    a network that finds all noise of the sinogram would leave half of the image's where it is.
    """

    radon: Operator
    fbp: Operator

    def project(self, image: torch.Tensor) -> torch.Tensor:
        """Return the sinograms (n, c, view, detector[, z]) of images (n, c, x, y[, z]), slice by slice."""
        return _slicewise(self.radon, image)

    def reconstruct(self, sinogram: torch.Tensor) -> torch.Tensor:
        """Return the images (n, c, x, y[, z]) of sinograms (n, c, view, detector[, z])."""
        return _slicewise(self.fbp, _sharper(sinogram.float()))


@lru_cache(maxsize=8)
def scanner(shape: tuple[int, int], views: int = 0) -> Scanner:
    """Return the scanner of slices of a size.

    Parameters
    ----------
    shape : (int, int)
    views : int
        Over half a turn; 0 takes three for two pixels of the longer edge, as many as the outer pixels need.
    """
    longest = max(shape)
    angles, spacing = view_angles(views or VIEWS * longest // 2), longest**-0.5
    return Scanner(radon_operator(shape, angles, spacing), fbp_operator(shape, angles, spacing))


def _sharper(sinogram: torch.Tensor) -> torch.Tensor:
    """Return sinograms divided by the response of linear interpolation between bins: the square of a sinc."""
    bins = sinogram.shape[3]
    response = torch.sinc(torch.fft.rfftfreq(2 * bins, device=sinogram.device)).square()
    spectrum = torch.fft.rfft(sinogram, 2 * bins, dim=3) / response.reshape(-1, *[1] * (sinogram.ndim - 4))
    return torch.fft.irfft(spectrum, 2 * bins, dim=3)[:, :, :, :bins]


def _slicewise(operator: Operator, x: torch.Tensor) -> torch.Tensor:
    if x.ndim == 4:
        return operator(x)
    return operator(x.movedim(-1, 2)).movedim(2, -1)
