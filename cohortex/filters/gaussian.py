"""Gaussian filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.filters.arrays import checked
from cohortex.filters.gaussian_kernels import separable
from cohortex.filters.steps import Resolved, Step, Triple, row_order, turned, turned_back, whole

_TRUNCATE = 4.0
"""Sigmas at which the kernel ends."""


def gaussian(array: np.ndarray, spacing_mm: Sequence[float], sigma_mm: float | Sequence[float] = 1.0) -> np.ndarray:
    """Return the image smoothed by a Gaussian of a width in mm.

    A detail of f cycles/mm keeps exp(-2 pi^2 sigma_mm^2 f^2) of its contrast: that is the edge loss. It holds to 2 % of the full
    contrast for sigmas from 0.9 voxels on; a narrower kernel, sampled at the voxels, smooths less than that (thick slices:
    nearly nothing across them).

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
    sigma_mm : float or three floats
        Standard deviation, of each axis where three are given.

    Returns
    -------
    (x, y, z) float32 array
        That of `scipy.ndimage.gaussian_filter` to 1e-6 of the largest magnitude; sums are float32.

    Raises
    ------
    ValueError
        NaN or infinite values, or a sigma below 0.

    Notes
    -----
    Edge rule: reflection, the outermost voxel twice. The kernel ends at 4 sigma.
    """
    values = checked(array, spacing_mm)
    return whole(STEP, values, _resolve(values, spacing_mm, sigma_mm))


def _resolve(array: Any, spacing_mm: Sequence[float], sigma_mm: float | Sequence[float] = 1.0) -> dict[str, Any]:
    """Return the weights along each axis."""
    sigma = np.broadcast_to(np.asarray(sigma_mm, dtype=np.float64), 3)
    if not (np.isfinite(sigma).all() and (sigma >= 0).all()):
        raise ValueError(f"a sigma is a number of mm not below 0, this one is {sigma_mm}")
    voxels = np.where(np.asarray(array.shape) > 1, sigma / np.asarray(spacing_mm, dtype=np.float64), 0)
    return {"weights": [_weights(width) for width in voxels], "order": row_order(array.shape)}


def _weights(sigma: float) -> np.ndarray:
    """Return the weights of the distances 0, 1, 2, ... voxels; with both sides they sum to 1."""
    distances = np.arange(int(_TRUNCATE * sigma + 0.5) + 1)
    if distances.size == 1:
        return np.ones(1, dtype=np.float32)
    heights = np.exp(-0.5 * (distances / sigma) ** 2)
    return (heights / (2 * heights.sum() - heights[0])).astype(np.float32)


def _halo(resolved: Resolved) -> Triple:
    """Return how far the weights reach."""
    x, y, z = (weights.size - 1 for weights in resolved["weights"])
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    order = resolved["order"]
    image = turned(values, order)
    out = np.empty_like(image)
    separable(image, out, *(resolved["weights"][axis] for axis in order))
    return turned_back(out, order)


STEP = Step(_resolve, _halo, _block)
