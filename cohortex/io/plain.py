"""Voxels as plain numbers in a file, the first axis fastest: read where they lie, or unpacked once where they are compressed.

What is compressed is decoded from front to back, its checksum verified, into memory where it may stay there and else into a scratch file;
nothing is allocated for a size that only a header declares.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from cohortex.blocks import fits_memory, plan
from cohortex.errors import BadInput
from cohortex.io.scratch import Spool
from cohortex.io.slices import Slices
from cohortex.volume import ArrayLike

DEFLATE_MAX_RATIO = 1032
"""Bytes that a byte of deflate can stand for."""
PIECE = 2**23
CONVERTED = 2**19
"""Bytes that are read and converted at once: they stay in the processor's cache."""


class Numbers:
    """Numbers of one type in a file, from an offset on, or in memory; read in runs.

    A file is read, never mapped: a file that becomes shorter under a map ends the process, here it makes a sentence.

    Parameters
    ----------
    source : Path, Spool or (n,) uint8 array
    offset : int
        Bytes before the first number.
    dtype
        Type and byte order in the file.
    name : str
        How messages call it.
    """

    def __init__(self, source: Path | Spool | np.ndarray, offset: int, dtype: Any, name: str):
        self.source = source
        self.offset = offset
        self.stored = np.dtype(dtype)
        self.dtype = self.stored.newbyteorder("=")
        self.name = name

    def run(self, start: int, count: int) -> np.ndarray:
        """Return `count` numbers from one on, in the machine's byte order.

        Raises
        ------
        BadInput
            ``truncated``: the file ends before, or has become shorter.
        """
        return next(self.runs((start,), count))

    def runs(self, starts: Iterable[int], count: int) -> Iterator[np.ndarray]:
        """Yield `count` numbers from each of these on, as `run` returns them; a file is opened once for all of them."""
        if isinstance(self.source, np.ndarray):
            for start in starts:
                begin = self.offset + start * self.stored.itemsize
                yield self.source[begin : begin + count * self.stored.itemsize].view(self.stored).astype(self.dtype, copy=False)
            return
        with self._opened(self.source) as file:
            for start in starts:
                values = np.empty(count, self.stored)
                self._fill(file, values, start)
                yield values.astype(self.dtype, copy=False)

    def converted(self, start: int, count: int, dtype: Any) -> np.ndarray:
        """Return `count` numbers from one on as another type; of a file no second array of all of them is held.

        Raises
        ------
        BadInput
            ``truncated``, as `run`.
        """
        values = np.empty(count, dtype)
        if isinstance(self.source, np.ndarray):
            values[:] = self.run(start, count)
            return values
        with self._opened(self.source) as file:
            if self.stored == values.dtype:
                self._fill(file, values, start)
                return values
            step = CONVERTED // self.stored.itemsize
            piece = np.empty(min(count, step), self.stored)
            for at in range(0, count, step):
                stored = piece[: count - at]
                self._fill(file, stored, start + at)
                values[at : at + step] = stored
        return values

    @staticmethod
    def _opened(source: Path | Spool) -> Any:
        return (source.path if isinstance(source, Spool) else source).open("rb", buffering=0)

    def _fill(self, file: Any, values: np.ndarray, start: int) -> None:
        view, at, begin = values.view(np.uint8).data, 0, self.offset + start * self.stored.itemsize
        while at < len(view):
            # the kernel gives at most 2 GB at once
            got = os.preadv(file.fileno(), [view[at:]], begin + at)
            if not got:
                raise BadInput("truncated", f"{self.name} ends inside its voxels: copy it again from its source.")
            at += got


def frame_of(
    numbers: Numbers,
    shape: Sequence[int],
    index: int,
    count: int = 1,
    interleaved: bool = False,
    dtype: Any = None,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ArrayLike:
    """Return one (x, y, z) volume of several in a file: an array of what is in memory as it is, else slices that are read when indexed.

    Parameters
    ----------
    shape : three ints
    index, count : int
        Which of how many volumes.
    interleaved : bool
        Whether the values of all volumes at one voxel lie together (as components), or the volumes one after the other.
    dtype, change
        Type of the values, and what makes them of those of a slice; as stored where not given.
    """
    width, height, depth = shape
    plane = width * height
    together = count if interleaved else 1
    if change is None and not interleaved and isinstance(numbers.source, np.ndarray):
        return numbers.run(index * plane * depth, plane * depth).reshape(shape, order="F")

    def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        starts = (z * plane * together if interleaved else (index * depth + z) * plane for z in wanted)
        for run in numbers.runs(starts, plane * together):
            values = run.reshape((together, width, height), order="F")[index if interleaved else 0]
            yield values if change is None else change(values)

    def whole(wanted: np.dtype) -> np.ndarray:
        return numbers.converted(index * plane * depth, plane * depth, wanted).reshape(shape, order="F")

    at_once = whole if change is None and not interleaved else None
    return Slices(shape, numbers.dtype if dtype is None else dtype, read, whole=at_once)


@contextmanager
def gunzipped(file: Any, name: str) -> Iterator[Any]:
    """Give the content of gzip data as a file; at its end the checksum was verified, and nothing but further members may follow.

    Raises
    ------
    BadInput
        ``truncated`` or ``corrupt``, while it is read.
    """
    from isal import igzip, isal_zlib

    try:
        with igzip.IGzipFile(fileobj=file, mode="rb") as content:
            yield content
    except EOFError:
        raise BadInput("truncated", f"{name} ends too early: copy it again from its source.") from None
    except (igzip.BadGzipFile, zlib.error, cast(type[Exception], isal_zlib.error)):
        raise BadInput("corrupt", f"{name} is damaged (its gzip data or checksum is wrong): copy it again from its source.") from None


class Inflated(io.RawIOBase):
    """The content of one zlib (or gzip) stream, which must be whole and the last thing in its file; raises as `gunzipped` does."""

    def __init__(self, file: Any, name: str):
        self._file = file
        self._name = name
        self._machine = zlib.decompressobj(47)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what comes next; 0 at the end of the stream, whose checksum was then verified."""
        try:
            while not self._machine.eof:
                data = self._machine.unconsumed_tail or self._file.read(2**20)
                if not data:
                    raise BadInput("truncated", f"{self._name} ends too early: copy it again from its source.")
                out = self._machine.decompress(data, len(buffer))
                if out:
                    buffer[: len(out)] = out
                    return len(out)
        except zlib.error:
            raise BadInput(
                "corrupt", f"{self._name} is damaged (its compressed data or checksum is wrong): copy it again from its source."
            ) from None
        if self._machine.unused_data or self._file.read(1):
            raise BadInput("corrupt", f"{self._name} has something behind its voxels: copy it again from its source.")
        return 0


def unpacked(content: Any, size: int, name: str, skipped: int = 0) -> Spool | np.ndarray:
    """Read bytes to the end of a decompressed file and keep the first `size` of them, in memory or in a scratch file.

    Parameters
    ----------
    content : file
        With ``readinto``.
    size : int
        Bytes to keep.
    skipped : int
        Bytes that must follow them, too; whatever lies behind is read for the checksum's sake.

    Raises
    ------
    BadInput
        ``truncated``.
    OSError
        ENOSPC where the disk is full.
    """
    kept: Spool | np.ndarray = np.empty(size, np.uint8) if fits_memory((size,), 1) else Spool(plan().folder)
    piece = memoryview(bytearray(PIECE)) if isinstance(kept, Spool) else None
    filled = 0
    while filled < size:
        into = kept.data[filled : filled + PIECE] if isinstance(kept, np.ndarray) else cast(memoryview, piece)[: size - filled]
        got = content.readinto(into)
        if not got:
            break
        if isinstance(kept, Spool):
            kept.append(into[:got])
        filled += got
    rest = bytearray(2**20)
    behind = 0
    while filled == size and (got := content.readinto(rest)):
        behind += got
    if filled < size or behind < skipped:
        raise BadInput("truncated", f"{name} holds {filled + behind} of {size + skipped} bytes of voxels: copy it again from its source.")
    return kept


def size_of(shape: Iterable[int], dtype: Any) -> int:
    """Return the bytes of an array, in whole numbers of any size."""
    return prod(int(n) for n in shape) * np.dtype(dtype).itemsize
