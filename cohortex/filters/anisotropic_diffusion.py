"""Anisotropic diffusion of Perona and Malik."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cohortex.filters.arrays import checked, relative_spacing
from cohortex.filters.diffusion_kernels import fluxes, mean_squared_gradient

Conductance = Literal["exp", "rational"]


def anisotropic_diffusion(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    iterations: int = 3,
    kappa: float | None = None,
    contrast: float = 1.0,
    conductance: Conductance = "exp",
    time_step: float | None = None,
) -> np.ndarray:
    """Return the image after some time of diffusion that stops at edges.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
        Lengths are counted in the smallest spacing, so that less flows across thick slices.
    iterations : int
    kappa : float, optional
        Gradient, in intensity over the smallest spacing, from which on diffusion stops. Where it is not given it follows the image in every
        iteration: `contrast` times the square root of twice the mean squared gradient.
    contrast : float
        See `kappa`.
    conductance : {"exp", "rational"}
        exp(-(g / kappa)^2) or 1 / (1 + (g / kappa)^2) of the magnitude g of the whole gradient between two voxels.
    time_step : float, optional
        In units of the smallest spacing squared. By default 9 tenths of the largest stable one, 1 / (2 sum of 1 / h_i^2).

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, a time step that is not stable, or another parameter out of its range.

    Notes
    -----
    Edge rule: nothing flows through the border of the image, so its mean is kept. No new extremes arise. On cubic voxels this is ITK's
    GradientAnisotropicDiffusion with the conductance parameter `contrast`; on others the two differ.

    References
    ----------
    Perona and Malik, IEEE Trans. Pattern Analysis and Machine Intelligence 12 (1990) 629-639.
    """
    values = checked(array, spacing_mm)
    relative = relative_spacing(values.shape, spacing_mm)
    inverse = np.where(np.asarray(values.shape) > 1, 1 / relative, 0.0).astype(np.float32)
    largest = largest_stable_step(values.shape, spacing_mm)
    step = 0.9 * largest if time_step is None else float(time_step)
    if not 0 < step <= largest * (1 + 1e-6):
        raise ValueError(f"a time step above 0 and up to {largest:.4g} is stable on this grid, {time_step} is not")
    if iterations < 0:
        raise ValueError(f"the number of iterations is not below 0, this one is {iterations}")
    if conductance not in ("exp", "rational"):
        raise ValueError(f"the conductance is exp or rational, not {conductance!r}")
    if not (contrast > 0 and (kappa is None or kappa > 0)):
        raise ValueError(f"kappa and contrast are above 0, they are {kappa} and {contrast}")
    current = values.copy()
    change = np.empty_like(current)
    for _ in range(iterations):
        squared = kappa**2 if kappa is not None else 2 * contrast**2 * mean_squared_gradient(current, inverse)
        if not squared > 0:
            break
        change[:] = 0
        fluxes(current, inverse, np.float32(1 / squared), conductance == "exp", change)
        current += np.float32(step) * change
    return current


def largest_stable_step(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Return the largest time step, in squares of the smallest spacing, for which no voxel overshoots its neighbours."""
    relative = relative_spacing(shape, spacing_mm)
    pull = sum(1 / step**2 for step, size in zip(relative, shape, strict=True) if size > 1)
    return float(1 / (2 * pull)) if pull else 1.0
