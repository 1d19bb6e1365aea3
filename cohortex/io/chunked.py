"""An array that is larger than memory while a step makes it: encoded chunks in one scratch file.

Every chunk is encoded and written once, by any thread and in any order; `cohortex.io.ozx.write_ozx` then copies the encoded bytes
into the volume's file in their order. So the work of a step is bounded by its blocks, and the same data give the same file.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.io.ozx import CHUNK, DTYPES, Stored, chunk_name, encode_chunk


class Chunked(Stored):
    """A writable array with axes (x, y, z), in chunks of 64 voxels like those of an .ozx file; its scratch file ends with it.

    Parameters
    ----------
    folder : Path
        Where the scratch file lies; its name begins with a dot and ends in ``.tmp``, so that what a killed process leaves is swept.
    shape : ints
    dtype
        One that an .ozx file can hold.

    Raises
    ------
    ValueError
        A dtype that has no place in an .ozx file.

    Notes
    -----
    Values are assigned in boxes that begin at multiples of 64 voxels and end there or at the end of the axis; no chunk twice.
    A chunk that was not written cannot be read.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: Any = np.float32):
        kind = np.dtype(dtype)
        if kind.name not in DTYPES:
            raise ValueError(f"an array of dtype {kind} cannot be stored: use one of {', '.join(DTYPES)}")
        path = Path(folder) / f".scratch.{uuid.uuid4().hex}.tmp"
        chunks = (CHUNK,) * 3 + (3,) * (len(shape) - 3)
        super().__init__(path, "a scratch array", tuple(int(n) for n in shape), chunks, kind, {})
        path.touch(mode=0o640)
        self._written: dict[str, tuple[int, int]] = {}
        self._places = self._written
        self._end = 0
        self._lock = threading.Lock()
        weakref.finalize(self, _remove, path, os.getpid())

    def __setitem__(self, key: Any, values: np.ndarray) -> None:
        box = [slice(*part.indices(n)) for part, n in zip(key, self.shape, strict=True)]
        for part, n, c in zip(box, self.shape, self.chunks, strict=True):
            if part.step != 1 or part.start % c or (part.stop % c and part.stop != n):
                raise ValueError(f"a chunked array takes whole chunks of {c} voxels, not {part.start}:{part.stop} of {n}")
        if values.shape != tuple(part.stop - part.start for part in box):
            raise ValueError(f"{values.shape} values do not fit into a box of {tuple(part.stop - part.start for part in box)}")
        counts = [range(part.start // c, -(-part.stop // c)) for part, c in zip(box, self.chunks, strict=True)]
        for index in product(*counts):
            inside = tuple(
                slice(i * c - part.start, min((i + 1) * c, part.stop) - part.start)
                for i, c, part in zip(index, self.chunks, box, strict=True)
            )
            self._put(chunk_name(tuple(reversed(index))), encode_chunk(values[inside].transpose(), tuple(reversed(self.chunks)), self.dtype))

    def _put(self, key: str, data: bytes) -> None:
        with self._lock:
            if key in self._written:
                raise ValueError(f"the chunk {key} is written a second time")
            offset, self._end = self._end, self._end + len(data)
            self._written[key] = (offset, len(data))
        with self.path.open("r+b") as file:
            done = 0
            while done < len(data):
                done += os.pwrite(file.fileno(), data[done:], offset + done)

    def _read(self, descriptor: int, key: str) -> bytes:
        offset, length = self._written[key]
        return os.pread(descriptor, length, offset)

    def complete(self) -> bool:
        """Tell whether every chunk was written."""
        return len(self._written) == prod(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))


def _remove(path: Path, pid: int) -> None:
    # A forked child shares the name but does not own the file.
    if os.getpid() == pid:
        path.unlink(missing_ok=True)
