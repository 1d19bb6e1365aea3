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


class Scratch:
    """A writable array, read and written in boxes; its pages are in memory only while a box is copied.

    Parameters
    ----------
    folder : Path
        Where its file lies; the name begins with a dot and ends in ``.tmp``, so that what a killed process leaves is swept.
    shape : ints
    dtype

    Raises
    ------
    OSError
        ENOSPC where the folder has no room for the array.

    Notes
    -----
    Any number of threads may write boxes that do not touch. `whole` tells whether as many voxels were written as there are.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: Any = np.float32):
        self.path = Path(folder) / f".scratch.{uuid.uuid4().hex}.tmp"
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._lock = threading.Lock()
        self._written = 0
        weakref.finalize(self, _remove, self.path, os.getpid())
        with self.path.open("wb") as file:
            os.fchmod(file.fileno(), 0o640)
            _reserve(file, prod(self.shape) * self.dtype.itemsize)

    def __getitem__(self, key: Any) -> np.ndarray:
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            values = np.frombuffer(pages, self.dtype).reshape(self.shape)
            copy = np.array(values[key])
            # the map cannot be closed while an array looks at it
            del values
        return copy

    def __setitem__(self, key: Any, values: Any) -> None:
        with self.path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
            there = np.frombuffer(pages, self.dtype).reshape(self.shape)
            box = there[key]
            box[...] = values
            size = box.size
            del box, there
        with self._lock:
            self._written += size

    def __getstate__(self) -> dict[str, Any]:
        # a copy in another process reads, and leaves the file to its owner
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def whole(self) -> bool:
        """Tell whether every voxel was written; what was not would be read as 0."""
        return self._written == prod(self.shape)


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
