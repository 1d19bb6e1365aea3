"""What a stage asks of a whole volume before it works on its blocks: range, foreground, and a part that statistics are taken from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from cohortex.blocks import ALIGN, Box, at_hand, read_block
from cohortex.volume import ArrayLike, Volume

LARGEST = 2**25
"""Voxels up to which statistics look at everything; above it they look at `CUBES` cubes, whatever the memory."""
CUBES = 64
"""Of 64^3 voxels, evenly spread: 2^24 voxels."""


@dataclass(frozen=True)
class Survey:
    """One look at a volume.

    Attributes
    ----------
    data : (x, y, z) array-like
        In memory where the plan allows it, else in a scratch file.
    low, high : float
        Smallest and largest finite value.
    wrong : int
        Voxels that are NaN or infinite.
    """

    data: ArrayLike
    low: float
    high: float
    wrong: int

    @cached_property
    def inside(self) -> Any:
        """The foreground (`cohortex.filters.foreground`), lazy where the data are."""
        from cohortex.filters.foreground import foreground

        return foreground(self.data)

    @cached_property
    def cubes(self) -> list[Box] | None:
        """The boxes that statistics look at, None for everything."""
        return spread(self.data.shape)

    def of(self, array: ArrayLike) -> np.ndarray:
        """Return what statistics look at of an array on this volume's grid: all of it, or its cubes in a row along x."""
        return sample_of(array)

    @cached_property
    def sample_inside(self) -> np.ndarray:
        """The foreground on `of`; where two cubes touch nothing counts, since their seam is no edge of the image."""
        mask = self.of(self.inside)
        return mask if self.cubes is None else mask & self._seamless

    @cached_property
    def sample_outside(self) -> np.ndarray:
        """The rest, likewise."""
        mask = ~self.of(self.inside)
        return mask if self.cubes is None else mask & self._seamless

    @cached_property
    def _seamless(self) -> np.ndarray:
        rows = np.ones(sum(b - a for ((a, b), _, _) in self.cubes or ()), bool)
        ends = np.cumsum([b - a for ((a, b), _, _) in self.cubes or ()])
        rows[ends - 1] = False
        rows[np.r_[0, ends[:-1]]] = False
        return rows[:, None, None]


def spread(shape: tuple[int, ...]) -> list[Box] | None:
    """Return evenly spread boxes of one cross-section that stand for a volume too large to look at as a whole, else None."""
    if prod(shape) <= LARGEST:
        return None
    # whole chunks only, so that all have one cross-section; a thin axis is taken whole
    edges = [min(ALIGN, n) for n in shape]
    chunks = [n // edge for n, edge in zip(shape, edges, strict=True)]
    counts = [1, 1, 1]
    while prod(counts) < CUBES and any(c < n for c, n in zip(counts, chunks, strict=True)):
        # the axis on which they stand widest apart gets the next ones
        axis = max((a for a in range(3) if counts[a] < chunks[a]), key=lambda a: chunks[a] / counts[a])
        counts[axis] = min(chunks[axis], counts[axis] * 2)
    starts = [[int((i + 0.5) * n / c) * edge for i in range(c)] for n, c, edge in zip(chunks, counts, edges, strict=True)]
    return [((x, x + edges[0]), (y, y + edges[1]), (z, z + edges[2])) for x in starts[0] for y in starts[1] for z in starts[2]]


def sample_of(array: ArrayLike) -> np.ndarray:
    """Return what statistics look at of an array: all of it, or the cubes of `spread` in a row along x."""
    cubes = spread(tuple(int(n) for n in array.shape))
    return np.asarray(array[...]) if cubes is None else np.concatenate([read_block(array, box, (0, 0, 0)) for box in cubes])


def survey(volume: Volume) -> Survey:
    """Look at a volume once, in blocks where it does not fit into memory."""

    def one(box: Box, values: np.ndarray) -> tuple[float, float, int]:
        values = np.asarray(values, dtype=np.float32)
        low, high = float(values.min()), float(values.max())
        if np.isfinite([low, high]).all():
            return low, high, 0
        good = values[np.isfinite(values)]
        if good.size == 0:
            return np.inf, -np.inf, values.size
        return float(good.min()), float(good.max()), values.size - good.size

    data, found = at_hand(volume.data, look=one)
    return Survey(data, min(f[0] for f in found), max(f[1] for f in found), sum(f[2] for f in found))
