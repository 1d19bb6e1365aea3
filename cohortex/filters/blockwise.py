"""Filters as functions of a block: how far each looks, in one place, and a chain of them over a volume that may be lazy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.filters.arrays import half_widths
from cohortex.filters.chain import FILTERS, apply_chain
from cohortex.volume import ArrayLike

Halo = tuple[int, int, int]


def _median(shape: Sequence[int], spacing_mm: Sequence[float], radius_mm: float | None) -> Halo:
    x, y, z = half_widths(shape, spacing_mm, radius_mm)
    return x, y, z


def _gaussian(shape: Sequence[int], spacing_mm: Sequence[float], sigma_mm: float | Sequence[float]) -> Halo:
    sigma = np.where(np.asarray(shape) > 1, np.broadcast_to(np.asarray(sigma_mm, np.float64), 3) / np.asarray(spacing_mm), 0)
    # the kernel ends at 4 sigma, rounded
    x, y, z = (int(4.0 * float(s) + 0.5) for s in sigma)
    return x, y, z


def _diffusion(shape: Sequence[int], spacing_mm: Sequence[float], iterations: int, kappa: float | None, **others: Any) -> Halo | None:
    if kappa is None:
        # the contrast is measured anew in the whole image at every step
        return None
    x, y, z = (iterations if n > 1 else 0 for n in shape)
    return x, y, z


HALOS: dict[str, Callable[..., Halo | None]] = {"median": _median, "gaussian": _gaussian, "anisotropic_diffusion": _diffusion}
"""Each takes (shape, spacing_mm, all parameters of the filter by name) and returns how far it looks, None where that is everything."""


def halo_of(name: str, shape: Sequence[int], spacing_mm: Sequence[float], parameters: Mapping[str, Any]) -> Halo | None:
    """Return how many voxels a filter looks away along each axis; None where its result depends on the whole image."""
    if name not in HALOS:
        return None
    defaults = {key: each.default for key, each in list(signature(FILTERS[name]).parameters.items())[2:]}
    return HALOS[name](shape, spacing_mm, **{**defaults, **parameters})


def run_chain(data: ArrayLike, spacing_mm: Sequence[float], chain: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> Any:
    """Run filters one after the other over an array that may be lazy.

    A filter with a halo goes block by block, in bounded memory; one that looks at the whole image loads it.

    Parameters
    ----------
    data : (x, y, z) float32 array-like
    spacing_mm, chain
        As in `cohortex.filters.chain.apply_chain`.

    Returns
    -------
    (x, y, z) float32 array-like
        Equal byte for byte to what `apply_chain` returns.
    """
    for link in chain:
        name = next(iter(link), "")
        halo = halo_of(name, data.shape, spacing_mm, link[name] or {}) if len(link) == 1 and name in FILTERS else None
        if halo is None:
            data = apply_chain(np.asarray(data[...]), spacing_mm, [link])
            continue

        def one(values: np.ndarray, link: Any = link) -> np.ndarray:
            return apply_chain(values, spacing_mm, [link])

        data = map_blocks(one, data, halo=halo)
    return data
