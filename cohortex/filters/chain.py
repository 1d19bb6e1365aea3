"""A chain of filters as the configuration names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.filters.anisotropic_diffusion import anisotropic_diffusion
from cohortex.filters.gaussian import gaussian
from cohortex.filters.median import median
from cohortex.filters.total_variation import total_variation
from cohortex.filters.wavelet import wavelet
from cohortex.filters.wiener import wiener

FILTERS: dict[str, Callable[..., np.ndarray]] = {
    "median": median,
    "gaussian": gaussian,
    "wavelet": wavelet,
    "wiener": wiener,
    "anisotropic_diffusion": anisotropic_diffusion,
    "total_variation": total_variation,
}
"""Every filter takes (array, spacing_mm, **parameters)."""


def apply_chain(array: np.ndarray, spacing_mm: Sequence[float], chain: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> np.ndarray:
    """Run filters one after the other.

    Parameters
    ----------
    array : (x, y, z) float32 array
    spacing_mm : three floats
    chain : sequence of mappings
        Each with one key, the name of a filter, whose value holds its parameters (nothing for the defaults).

    Raises
    ------
    ValueError
        A name that is not in `FILTERS`, or what a filter refuses.
    """
    for link in chain:
        if len(link) != 1:
            raise ValueError(f"each filter of a chain is one name with its parameters, this one has the keys {sorted(link)}")
        ((name, parameters),) = link.items()
        if name not in FILTERS:
            raise ValueError(f"there is no filter {name!r}; known are {', '.join(FILTERS)}")
        array = FILTERS[name](array, spacing_mm, **(parameters or {}))
    return array
