"""The table of filters, and a chain of them as the configuration names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.filters import anisotropic_diffusion as _diffusion
from cohortex.filters import gaussian as _gaussian
from cohortex.filters import median as _median
from cohortex.filters import total_variation as _variation
from cohortex.filters import transform as _transform
from cohortex.filters import wavelet as _wavelet
from cohortex.filters import wiener as _wiener
from cohortex.filters.steps import Resolved, Step, Triple

FILTERS: dict[str, Callable[..., np.ndarray]] = {
    "median": _median.median,
    "gaussian": _gaussian.gaussian,
    "wavelet": _wavelet.wavelet,
    "wiener": _wiener.wiener,
    "anisotropic_diffusion": _diffusion.anisotropic_diffusion,
    "total_variation": _variation.total_variation,
}
"""Every filter takes (array, spacing_mm, **parameters): a whole image in memory."""

STEPS: dict[str, Step] = {
    "median": _median.STEP,
    "gaussian": _gaussian.STEP,
    "wavelet": _wavelet.STEP,
    "wiener": _wiener.STEP,
    "anisotropic_diffusion": _diffusion.STEP,
    "total_variation": _variation.STEP,
    "transform": _transform.STEP,
}
"""What the filters, and the denoiser `transform`, are made of: for images in blocks."""


def resolve(name: str, array: Any, spacing_mm: Sequence[float], parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the numbers that `halo` and `filter_block` need, from one look at the whole image (x, y, z), which may be lazy."""
    return _step(name).resolve(array, spacing_mm, **(parameters or {}))


def halo(name: str, resolved: Resolved) -> Triple | None:
    """Return by how many voxels along x, y and z a block has to be larger on every side that is not a border of the image.

    None where a voxel depends on the whole image (wiener with psf_sigma_mm), see `filter_everywhere`.
    """
    return _step(name).halo(resolved)


def filter_everywhere(name: str, array: Any, resolved: Resolved) -> Any:
    """Filter a whole image, which may be lazy, by a filter without a halo; in bounded memory."""
    everywhere = _step(name).everywhere
    if everywhere is None:
        raise ValueError(f"the filter {name} goes block by block")
    return everywhere(array, resolved)


def filter_block(name: str, values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a block.

    Parameters
    ----------
    name : str
    values : (x, y, z) float32 array
        The block with its halo, which ends at the border of the image. Finite.
    resolved : mapping
        Of `resolve`, for the whole image.
    origin : three ints
        Where in the image the first voxel of `values` lies.

    Returns
    -------
    (x, y, z) float32 array
        Within its halo not to be used; the rest has the bytes that the filter gives for the whole image.
    """
    return _step(name).block(np.ascontiguousarray(values, dtype=np.float32), resolved, origin)


def _step(name: str) -> Step:
    """Return a row of the table."""
    if name not in STEPS:
        raise ValueError(f"there is no filter {name!r}; known are {', '.join(STEPS)}")
    return STEPS[name]


def links(chain: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> list[tuple[str, dict[str, Any]]]:
    """Return names and parameters of the filters of a chain.

    Parameters
    ----------
    chain : sequence of mappings
        Each with one key, the name of a filter, whose value holds its parameters (nothing for the defaults).

    Raises
    ------
    ValueError
        A name that is not in `FILTERS`, or a link with several.
    """
    found = []
    for link in chain:
        if len(link) != 1:
            raise ValueError(f"each filter of a chain is one name with its parameters, this one has the keys {sorted(link)}")
        ((name, parameters),) = link.items()
        if name not in FILTERS:
            raise ValueError(f"there is no filter {name!r}; known are {', '.join(FILTERS)}")
        found.append((name, dict(parameters or {})))
    return found
