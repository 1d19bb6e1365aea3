"""Volumes whose slices are decoded one at a time, when they are indexed; their mean; and what can only be made as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from cohortex.lazy import basic_index
from cohortex.volume import ArrayLike

Note = tuple[str, str]
"""A code and a sentence: something was odd, but the image can be used."""


class Slices:
    """An array (x, y, z) of slices along z, decoded one by one when it is indexed. It holds no open file.

    Parameters
    ----------
    shape : three ints
    dtype
        Of the values that come out.
    read : callable
        ``read(numbers)`` yields the slices of these numbers, one (x, y) array after the other.
    odd : callable, optional
        Gives what was found odd while slices were read (`cohortex.io.series.settled`).
    whole : callable, optional
        ``whole(dtype)`` gives all of it as a type, where that is cheaper than slice by slice.

    Notes
    -----
    Whoever reads all of it takes whole slices (`slow`), since a slice costs the same whatever part of it is wanted.
    """

    slow = 2
    """The axis along which slices are decoded."""

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        read: Callable[[Sequence[int]], Iterable[np.ndarray]],
        odd: Callable[[], list[Note]] | None = None,
        whole: Callable[[np.dtype], np.ndarray] | None = None,
    ):
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.read = read
        self.whole = whole
        self.odd = odd or list

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 3

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # converted slice by slice, while each is in the processor's cache
        return self._taken(..., self.dtype if dtype is None else np.dtype(dtype))

    def __getitem__(self, key: Any) -> np.ndarray:
        return self._taken(key, self.dtype)

    def _taken(self, key: Any, dtype: np.dtype) -> np.ndarray:
        (xs, ys, zs), drop = basic_index(key, self.shape)
        if self.whole is not None and not drop and all(r == range(n) for r, n in zip((xs, ys, zs), self.shape, strict=True)):
            return self.whole(dtype)
        out = np.empty((len(xs), len(ys), len(zs)), dtype=dtype, order="F")
        if out.size:
            part = (_slice(xs), _slice(ys))
            for k, plane in zip(range(len(zs)), self.read(list(zs)), strict=True):
                if plane.shape != self.shape[:2]:
                    raise ValueError(f"a slice of {plane.shape} came where {self.shape[:2]} is wanted")
                out[:, :, k] = plane[part]
        return out[tuple(0 if axis in drop else slice(None) for axis in range(3))]


def _slice(values: range) -> slice:
    return slice(values.start, None if values.stop < 0 else values.stop, values.step)


class Averaged:
    """The mean of arrays of one shape in float32, summed in double precision, of the box that is asked for."""

    def __init__(self, arrays: Sequence[ArrayLike]):
        self.arrays = tuple(arrays)
        self.shape = tuple(int(n) for n in arrays[0].shape)
        self.dtype = np.dtype(np.float32)
        self.slow = getattr(arrays[0], "slow", None)

    def odd(self) -> list[Note]:
        """Return what was found odd in any of them."""
        return [note for array in self.arrays for note in getattr(array, "odd", list)()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        # from 0 on, so that a mean of -0 is 0
        total = np.add(self.arrays[0][key], 0.0, dtype=np.float64)
        for array in self.arrays[1:]:
            total += array[key]
        return (total / len(self.arrays)).astype(np.float32)


class Once:
    """An array that can only be made as a whole: it is made when it is first looked at, and kept.

    Parameters
    ----------
    shape : ints
    dtype
    make : callable
        Gives the array, at hand.
    odd : callable, optional
        As in `Slices`.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, make: Callable[[], ArrayLike], odd: Callable[[], list[Note]] | None = None):
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.odd = odd or list
        self._make = make
        self._made: ArrayLike | None = None
        self._lock = threading.Lock()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        with self._lock:
            if self._made is None:
                self._made = self._make()
        return np.asarray(self._made[key])
