"""Filters over a volume that may be lazy, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.filters.chain import filter_block, filter_everywhere, halo, links, resolve
from cohortex.filters.steps import Resolved, Triple
from cohortex.volume import ArrayLike


def run_filter(name: str, data: ArrayLike, spacing_mm: Sequence[float], parameters: Mapping[str, Any]) -> Any:
    """Run one filter of `cohortex.filters.chain.STEPS` over an array that may be lazy, in bounded memory.

    Returns
    -------
    (x, y, z) float32 array-like
        Equal byte for byte to what the filter returns for the whole image.
    """
    numbers = resolve(name, data, spacing_mm, parameters)
    around = halo(name, numbers)
    if around is None:
        return filter_everywhere(name, data, numbers)
    return map_blocks(partial(_block, name, numbers), data, halo=around, placed=True)


def run_chain(data: ArrayLike, spacing_mm: Sequence[float], chain: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> Any:
    """Run filters one after the other over an array that may be lazy; see `run_filter`.

    Parameters
    ----------
    data : (x, y, z) float32 array-like
        Finite.
    spacing_mm : three floats
    chain : sequence of mappings
        See `cohortex.filters.chain.links`, which says what is refused. Of a whole image each filter by itself gives the same bytes.
    """
    for name, parameters in links(chain):
        data = run_filter(name, data, spacing_mm, parameters)
    return data


def _block(name: str, numbers: Resolved, origin: Triple, values: np.ndarray) -> np.ndarray:
    return filter_block(name, values, numbers, origin)
