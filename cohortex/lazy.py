"""Arrays that are read when they are indexed: a function of another array or of places, a part of one, one with turned axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cohortex.volume import ArrayLike

Box = tuple[tuple[int, int], ...]

ALIGN = 64
"""Blocks begin at multiples of a chunk's edge, so that every chunk is read and written as a whole."""


def align_of(array: Any) -> int:
    """Return the multiples of voxels at which boxes begin that an array takes."""
    return int(getattr(array, "align", ALIGN))


class Elementwise:
    """A lazy array whose values are a function of another's, voxel by voxel."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], array: ArrayLike, dtype: Any = np.float32):
        self.function = function
        self.array = array
        self.shape = array.shape
        self.dtype = np.dtype(dtype)
        self.slow = getattr(array, "slow", None)

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.function(np.asarray(self.array[key]))


class Within:
    """A box of an array, seen as an array of its own; what lies in it is read when it is asked for."""

    def __init__(self, array: ArrayLike, box: Box):
        self.array = array
        self.origin = tuple(a for a, _ in box)
        self.shape = tuple(b - a for a, b in box)
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        parts = (slice(None),) * len(self.shape) if key is Ellipsis else key
        ends = (part.indices(n)[:2] for part, n in zip(parts, self.shape, strict=True))
        return np.asarray(self.array[tuple(slice(a + o, b + o) for (a, b), o in zip(ends, self.origin, strict=True))])


class Computed:
    """A lazy array (x, y, z) whose values are a function of where they lie.

    Parameters
    ----------
    function : callable
        Given the indices along each axis (three integer arrays) it returns the values there.
    shape : three ints
    dtype
    """

    def __init__(self, function: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray], shape: Sequence[int], dtype: Any = np.float32):
        self.function = function
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in keys:
            at = keys.index(Ellipsis)
            keys[at : at + 1] = [slice(None)] * (4 - len(keys))
        keys += [slice(None)] * (3 - len(keys))
        x, y, z = (np.atleast_1d(np.arange(n)[part]) for part, n in zip(keys, self.shape, strict=True))
        return self.function(x, y, z)[tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in keys)]


class Turned:
    """An array seen with its axes in another order; what is assigned goes through to it."""

    def __init__(self, array: ArrayLike, order: Sequence[int]):
        self.array: Any = array
        self.order = tuple(order)
        self.shape = tuple(array.shape[axis] for axis in self.order)
        self.align = align_of(array)
        self.dtype = np.dtype(array.dtype)

    def _key(self, key: tuple[slice, ...]) -> tuple[slice, ...]:
        return tuple(key[self.order.index(axis)] for axis in range(len(self.order)))

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(self.array[self._key(key)]).transpose(self.order)

    def __setitem__(self, key: tuple[slice, ...], values: np.ndarray) -> None:
        self.array[self._key(key)] = values.transpose(np.argsort(self.order))
