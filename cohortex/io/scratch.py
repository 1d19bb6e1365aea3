"""An array that is larger than memory while a step works on it: plain numbers in one file that ends with the array.

Nothing is encoded: blocks with a halo are read several times, and a volume's file is encoded once, when it is written. The disk is
asked for the whole room at the start, so that a full one is an error there and never in the middle.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
import uuid
import weakref
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.lazy import basic_index

WINDOW = 64 * 2**20
"""Bytes of the file that are mapped at once: pages of a mapped file count as the memory of a process."""


class Scratch:
    """A writable array, read and written in boxes; its pages are in memory only while a box is copied, `WINDOW` of them at once.

    Parameters
    ----------
    folder : Path
        Where its file lies; the name begins with a dot and ends in ``.tmp``, so that what a killed process leaves is swept.
    shape : ints
    dtype
    slow : int
        The axis along which the file is laid. A box of whole slices along it is one piece of the file; of a file that is written so along
        another axis every page would be touched for every box.

    Raises
    ------
    OSError
        ENOSPC where the folder has no room for the array.

    Notes
    -----
    Any number of threads may write boxes that do not touch. `whole` tells whether as many voxels were written as there are.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: Any = np.float32, slow: int = 0):
        self.path = scratch_file(folder, self)
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        axes = range(len(self.shape))
        self._order = tuple(axes) if slow == 0 else (slow, *(axis for axis in reversed(axes) if axis != slow))
        self._lock = threading.Lock()
        self._written = 0
        with self.path.open("wb") as file:
            os.fchmod(file.fileno(), 0o640)
            _reserve(file, prod(self.shape) * self.dtype.itemsize)

    def __getitem__(self, key: Any) -> np.ndarray:
        ranges, drop = basic_index(key, self.shape)
        if not all(len(r) for r in ranges):
            return np.empty([len(r) for axis, r in enumerate(ranges) if axis not in drop], self.dtype)
        lows, highs = ([f(r[0], r[-1]) for r in ranges] for f in (min, max))
        box = np.empty([high + 1 - low for low, high in zip(lows, highs, strict=True)], self.dtype)
        with self.path.open("rb") as file:
            self._move(file, box, lows, write=False)
        if any(r.step != 1 for r in ranges):
            # the box is the hull of what was asked for; steps and reversals are taken out of it
            picked = tuple(slice(r.start - s, None if r.stop < s else r.stop - s, r.step) for r, s in zip(ranges, lows, strict=True))
            box = np.ascontiguousarray(box[picked])
        return box[tuple(0 if axis in drop else slice(None) for axis in range(len(ranges)))]

    def __setitem__(self, key: Any, values: Any) -> None:
        ranges, _ = basic_index(key, self.shape)
        if any(r.step != 1 for r in ranges):
            raise IndexError("a scratch array is written in boxes, without steps")
        box = np.broadcast_to(values, [len(r) for r in ranges])
        if not box.size:
            return
        with self.path.open("r+b") as file:
            self._move(file, box, [r.start for r in ranges], write=True)
        with self._lock:
            self._written += box.size

    def _move(self, file: Any, box: np.ndarray, lows: Sequence[int], write: bool) -> None:
        """Copy a box into the file or out of it, through one window after the other."""
        sizes = [self.shape[axis] for axis in self._order]
        starts = [lows[axis] for axis in self._order]
        turned = box.transpose(self._order)
        plane = prod(sizes[1:]) * self.dtype.itemsize
        if plane <= WINDOW or len(sizes) == 1:
            most = max(1, WINDOW // plane)
            for i in range(0, turned.shape[0], most):
                part = turned[i : i + most]
                inside = tuple(slice(start, start + n) for start, n in zip(starts[1:], part.shape[1:], strict=True))
                self._copy(file, (starts[0] + i) * plane, (part.shape[0], *sizes[1:]), (slice(None), *inside), part, write)
            return
        # one slice is more than a window: its rows are taken in pieces
        row = prod(sizes[2:]) * self.dtype.itemsize
        most = max(1, WINDOW // row)
        for i in range(turned.shape[0]):
            for j in range(0, turned.shape[1], most):
                part = turned[i, j : j + most]
                inside = tuple(slice(start, start + n) for start, n in zip(starts[2:], part.shape[1:], strict=True))
                begin = (starts[0] + i) * plane + (starts[1] + j) * row
                self._copy(file, begin, (part.shape[0], *sizes[2:]), (slice(None), *inside), part, write)

    def _copy(self, file: Any, begin: int, shape: tuple[int, ...], inside: tuple[slice, ...], part: np.ndarray, write: bool) -> None:
        shift = begin % mmap.ALLOCATIONGRANULARITY
        length = shift + prod(shape) * self.dtype.itemsize
        access = mmap.ACCESS_WRITE if write else mmap.ACCESS_READ
        with mmap.mmap(file.fileno(), length, access=access, offset=begin - shift) as pages:
            there = np.frombuffer(pages, self.dtype, prod(shape), shift).reshape(shape)
            if write:
                there[inside] = part
            else:
                part[...] = there[inside]
            # the map cannot be closed while an array looks at it
            del there

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process reads, and leaves the file to its owner
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def whole(self) -> bool:
        """Tell whether every voxel was written; what was not would be read as 0."""
        return self._written == prod(self.shape)


class Spool:
    """Bytes that come one after the other and are then read anywhere, in a scratch file."""

    def __init__(self, folder: Path):
        self.path = scratch_file(folder, self)
        with self.path.open("wb") as file:
            os.fchmod(file.fileno(), 0o640)

    def append(self, data: Any) -> None:
        """Write what comes next.

        Raises
        ------
        OSError
            ENOSPC where the disk is full.
        """
        with self.path.open("ab", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]


def scratch_file(folder: Path, owner: Any) -> Path:
    """Return the path of a new scratch file that goes when its owner goes."""
    path = Path(folder) / f".scratch.{uuid.uuid4().hex}.tmp"
    weakref.finalize(owner, _remove, path, os.getpid())
    return path


def _reserve(file: Any, size: int) -> None:
    """Have the file system keep room for a file; where it knows no such call, write it full of zeros."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        zeros = bytes(2**22)
        for start in range(0, size, len(zeros)):
            file.write(zeros[: size - start])


def _remove(path: Path, pid: int) -> None:
    # A forked child shares the name but does not own the file.
    if os.getpid() == pid:
        path.unlink(missing_ok=True)
