"""Arrays that are read when they are indexed: a function of another array or of places, a part of one, one with turned axes."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


def basic_index(key: Any, shape: tuple[int, ...]) -> tuple[list[range], set[int]]:
    """Turn a basic index into one range an axis, and the axes that an integer removes."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(k is Ellipsis for k in keys):
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + 1)
    keys += [slice(None)] * (len(shape) - len(keys))
    if len(keys) != len(shape):
        raise IndexError(f"{len(keys)} indices for an array of {len(shape)} axes")
    ranges, drop = [], set()
    for axis, (k, n) in enumerate(zip(keys, shape, strict=True)):
        if isinstance(k, slice):
            ranges.append(range(n)[k])
        elif isinstance(k, int | np.integer):
            i = int(k) + n if k < 0 else int(k)
            if not 0 <= i < n:
                raise IndexError(f"index {int(k)} is out of bounds for an axis of {n}")
            ranges.append(range(i, i + 1))
            drop.add(axis)
        else:
            raise TypeError("an array that is read when it is indexed takes integers, slices and an ellipsis; read it into memory for more")
    return ranges, drop


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
        ranges, drop = basic_index(key, self.shape)
        x, y, z = (np.asarray(each, dtype=np.intp) for each in ranges)
        return self.function(x, y, z)[_taken(drop)]


class Boxed(ABC):
    """An array (x, y, z) whose boxes are computed when they are asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abstractmethod
    def box(self, box: Box) -> np.ndarray:
        """Return the values of a box."""

    def __getitem__(self, key: Any) -> np.ndarray:
        ranges, drop = basic_index(key, self.shape)
        if any(each.step != 1 for each in ranges):
            raise IndexError("boxes are computed without steps")
        return self.box(tuple((each.start, max(each.start, each.stop)) for each in ranges))[_taken(drop)]


def _taken(drop: set[int]) -> tuple[slice | int, ...]:
    """Return the index that takes away the axes of which one voxel was asked for."""
    return tuple(0 if axis in drop else slice(None) for axis in range(3))


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
