"""Arrays that lie in chunks on the disk and are read when they are indexed, with the axes of a volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cohortex.lazy import basic_index

Reader = Callable[[tuple[int, ...], int, int], np.ndarray]
"""Gives of the chunk at an index the planes from a first to before a last along the slowest stored axis; at the far borders a chunk may
be longer than the array along the other axes."""


class ChunkSource(Protocol):
    """What `Stored` reads from: an array in chunks with axes as they are stored."""

    @property
    def path(self) -> Path:
        """The file or folder."""
        ...

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Length along every stored axis."""
        ...

    @property
    def chunk(self) -> tuple[int, ...]:
        """Length of a chunk along every stored axis."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of a value, in the machine's byte order."""
        ...

    def opened(self) -> AbstractContextManager[Reader]:
        """Open what has to be open while chunks are read."""
        ...


class Stored:
    """An array in chunks with axes (x, y, z[, c]), read chunk by chunk when indexed.

    Indexing takes what numpy's basic indexing takes (integers, slices, an ellipsis). It holds no open file.

    Parameters
    ----------
    source : ChunkSource
    axes : sequence of int or None
        The stored axis of x, y, z[, c]; None for one that is not stored (its length is 1).
    fixed : mapping
        The index along every other stored axis.
    """

    def __init__(self, source: ChunkSource, axes: Sequence[int | None], fixed: Mapping[int, int] | None = None):
        self.source = source
        self.axes = tuple(axes)
        self.fixed = dict(fixed or {})
        self.shape = tuple(1 if axis is None else source.shape[axis] for axis in self.axes)
        self.chunks = tuple(1 if axis is None else source.chunk[axis] for axis in self.axes)
        self.dtype = source.dtype
        there = [axis for axis in self.axes if axis is not None]
        kept = sorted(there)
        self._order = tuple(kept.index(axis) for axis in there)
        self._absent = tuple(i for i, axis in enumerate(self.axes) if axis is None)

    @property
    def path(self) -> Path:
        """The file or folder that holds it."""
        return self.source.path

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.source.name

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array in memory."""
        return prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"Stored({self.name!r}, shape={self.shape}, dtype={self.dtype}, chunks={self.chunks})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        wanted, drop = basic_index(key, self.shape)
        starts = [min(r[0], r[-1]) if len(r) else 0 for r in wanted]
        stops = [max(r[0], r[-1]) + 1 if len(r) else 0 for r in wanted]
        box = np.empty([stop - start for start, stop in zip(starts, stops, strict=True)], dtype=self.dtype)
        if box.size:
            self._fill(box, starts, stops)
        # the box is the hull of what was asked for; steps and reversals are taken out of it
        picked = tuple(slice(r.start - s, None if r.stop < s else r.stop - s, r.step) for r, s in zip(wanted, starts, strict=True))
        out = box[picked]
        return out[tuple(0 if axis in drop else slice(None) for axis in range(self.ndim))]

    def _fill(self, box: np.ndarray, starts: Sequence[int], stops: Sequence[int]) -> None:
        first = [start // c for start, c in zip(starts, self.chunks, strict=True)]
        last = [-(-stop // c) for stop, c in zip(stops, self.chunks, strict=True)]
        where = [self.fixed.get(axis, 0) // c for axis, c in enumerate(self.source.chunk)]
        inside = [self.fixed[axis] % c if axis in self.fixed else slice(None) for axis, c in enumerate(self.source.chunk)]
        lead = self.axes.index(0) if 0 in self.axes else None
        if lead is None:
            inside[0] = 0
        with self.source.opened() as chunk_at:
            for index in product(*(range(a, b) for a, b in zip(first, last, strict=True))):
                into, out_of = [], []
                for axis, i, c, start, stop in zip(self.axes, index, self.chunks, starts, stops, strict=True):
                    if axis is not None:
                        where[axis] = i
                    low, high = max(start, i * c), min(stop, (i + 1) * c)
                    into.append(slice(low - start, high - start))
                    out_of.append(slice(low - i * c, high - i * c))
                if lead is None:
                    low = self.fixed[0] % self.source.chunk[0]
                    planes = slice(low, low + 1)
                else:
                    planes, out_of[lead] = out_of[lead], slice(None)
                block = chunk_at(tuple(where), planes.start, planes.stop)[tuple(inside)]
                box[tuple(into)] = np.expand_dims(block.transpose(self._order), self._absent)[tuple(out_of)]
