"""A chain of filters over a volume that may be lazy: every filter with a halo goes block by block."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.filters.chain import FILTERS, apply_chain
from cohortex.filters.steps import Resolved, Step, Triple
from cohortex.volume import ArrayLike


def step_of(name: str) -> Step | None:
    """Return what a filter is made of (``STEP`` in its module), None for one that is not in `FILTERS` or works on whole images only."""
    return getattr(sys.modules[FILTERS[name].__module__], "STEP", None) if name in FILTERS else None


def run_chain(data: ArrayLike, spacing_mm: Sequence[float], chain: Sequence[Mapping[str, Mapping[str, Any] | None]]) -> Any:
    """Run filters one after the other over an array that may be lazy.

    A filter with a halo goes block by block, in bounded memory; one that looks at the whole image loads it.

    Parameters
    ----------
    data : (x, y, z) float32 array-like
        Finite.
    spacing_mm, chain
        As in `cohortex.filters.chain.apply_chain`.

    Returns
    -------
    (x, y, z) float32 array-like
        Equal byte for byte to what `apply_chain` returns.
    """
    for link in chain:
        (name, parameters) = next(iter(link.items()), ("", None))
        step = step_of(name) if len(link) == 1 else None
        resolved, halo = ({}, None) if step is None else _plan(step, data, spacing_mm, parameters or {})
        if step is None or halo is None:
            data = apply_chain(np.asarray(data[...]), spacing_mm, [link])
        else:
            data = map_blocks(partial(_block, step, resolved), data, halo=halo, placed=True)
    return data


def _plan(step: Step, data: ArrayLike, spacing_mm: Sequence[float], parameters: Mapping[str, Any]) -> tuple[Resolved, Triple | None]:
    """Return a filter's numbers for an image, and its halo, None where no block is like the whole."""
    resolved = step.resolve(data, spacing_mm, **parameters)
    try:
        return resolved, step.halo(resolved)
    except ValueError:
        return resolved, None


def _block(step: Step, resolved: Resolved, origin: Triple, values: np.ndarray) -> np.ndarray:
    return step.block(np.ascontiguousarray(values, dtype=np.float32), resolved, origin)
