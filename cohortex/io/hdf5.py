"""HDF5 files opened with care: no link leaves the file, no declared size is believed, no plug-in is loaded."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from cohortex.errors import BadInput
from cohortex.io.paths import check_file
from cohortex.io.plain import DEFLATE_MAX_RATIO
from cohortex.watch import at_most

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}
MOST_BYTES = 64 * 2**30
HEAP = b"GCOL\x01\0\0\0"
"""How a global heap begins; of other bytes nobody would write these eight by chance."""
LEAST_CPU_S, BYTES_A_CPU_S = 60.0, 1e6
"""CPU time that a file may take while it is open, and bytes of it that are worth a further second; the library can turn in a circle."""


_ONE_AT_A_TIME = threading.RLock()
"""Threads that read arrays of variable length at once end the process inside h5py; the library works for one of them at a time anyway."""


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """Open an HDF5 file for reading, in one thread at a time: work on what was read belongs outside.

    Raises
    ------
    BadInput
        ``truncated``, ``not-hdf5``, ``busy`` (somebody writes to it); errors inside the file while it is read are ``corrupt``.
    """
    seconds = LEAST_CPU_S + (path.stat().st_size / BYTES_A_CPU_S if path.is_file() else 0)
    with _ONE_AT_A_TIME, at_most(seconds), _opened(path, name) as file:
        yield file


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    import h5py

    check_file(path, name)
    with path.open("rb") as raw:
        marked = raw.read(8) == b"\x89HDF\r\n\x1a\n"
    if not marked:
        raise BadInput("not-hdf5", f"{name} is not an HDF5 file: give raw k-space in the fastMRI or ISMRMRD layout.")
    try:
        file = h5py.File(path, "r")
    except BlockingIOError:
        raise BadInput("busy", f"{name} is still being written: run again when its writer has closed it.") from None
    except (OSError, RuntimeError) as error:
        if "already open for write" in str(error):
            raise BadInput("busy", f"{name} is still being written: run again when its writer has closed it.") from None
        raise BadInput("truncated", f"{name} is damaged or ends too early: copy it again from its source.") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError, UnicodeDecodeError):
            raise BadInput("corrupt", f"{name} has damaged data inside: copy it again from its source.") from None


def member(group: Any, key: str, name: str) -> Any:
    """Return a group or dataset by one name, or None where there is none.

    Raises
    ------
    BadInput
        ``foreign-data``: the name is a link to somewhere else, or the dataset's bytes lie in another file;
        ``unsupported-filter``; ``truncated``: it declares more than the file can hold.
    """
    import h5py

    if key not in group.keys():  # noqa: SIM118 - `in group` follows links
        return None
    if not isinstance(group.get(key, getlink=True), h5py.HardLink):
        raise BadInput("foreign-data", f"{name} has a link in place of `{key}`: copy the data into the file.")
    found = group[key]
    if isinstance(found, h5py.Group):
        return found
    damaged = BadInput("corrupt", f"{name} has damaged data inside: copy it again from its source.")
    if not isinstance(found, h5py.Dataset):
        raise damaged
    try:
        size = found.dtype.itemsize
    except (TypeError, ValueError):
        # no type of numpy has such numbers
        raise damaged from None
    if found.is_virtual or found.external:
        raise BadInput("foreign-data", f"{name} keeps `{key}` in another file: copy the data into it.")
    plist = found.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        code = plist.get_filter(i)[0]
        if code not in FILTERS:
            raise BadInput("unsupported-filter", f"{name} has `{key}` compressed by the HDF5 filter {code}: write it with gzip.")
    wanted = prod(int(n) for n in found.shape or ()) * size
    stored = int(found.id.get_storage_size())
    if wanted > MOST_BYTES or wanted > max(stored * (DEFLATE_MAX_RATIO if plist.get_nfilters() else 1), 2**16):
        shape = "x".join(str(n) for n in found.shape or ())
        raise BadInput(
            "truncated", f"{name} declares {shape} values in `{key}`, of which {stored} bytes are there: copy it again from its source."
        )
    return found


def attribute(place: Any, key: str, name: str) -> Any:
    """Return what an attribute of a group or dataset holds, None where there is none.

    Raises
    ------
    BadInput
        ``corrupt``.
    """
    try:
        return place.attrs.get(key)
    except (TypeError, ValueError):
        raise BadInput("corrupt", f"{name} has damaged data inside: copy it again from its source.") from None


def text_of(dataset: Any, name: str, most: int = 16 * 2**20) -> bytes:
    """Return a short text dataset as bytes.

    A text of variable length is read from the file's global heap here, without the library: in a damaged heap that turns in a circle for
    ever, and it allocates any length that the reference declares.

    Raises
    ------
    BadInput
        ``bad-header``: it is not one text, or a longer one than `most`; ``corrupt``.
    """
    import h5py

    kind = h5py.check_string_dtype(dataset.dtype)
    if dataset.shape not in ((), (1,)) or kind is None:
        raise BadInput("bad-header", f"{name} has an XML header that is not one text: write it again.")
    if kind.length is None:
        return _from_heap(dataset, name, most)
    if kind.length > most:
        raise BadInput("bad-header", f"{name} has an XML header of {kind.length} bytes: write it again.")
    return bytes(dataset[()] if dataset.shape == () else dataset[0])


def _from_heap(dataset: Any, name: str, most: int) -> bytes:
    """Return a text of variable length, which the file keeps in a heap: a reference of length, address and number, then the heap's objects.

    References
    ----------
    The HDF Group, HDF5 File Format Specification version 3.0, III.E (disk format: global heap) and VIII (references of variable length).
    """
    damaged = BadInput("corrupt", f"{name} has damaged data inside: copy it again from its source.")
    plist, identifier = dataset.id.get_create_plist(), dataset.id
    at = identifier.get_offset()
    if at is None and plist.get_nfilters() == 0 and dataset.chunks is not None and identifier.get_num_chunks() == 1:
        at = identifier.get_chunk_info(0).byte_offset
    if at is None:
        raise BadInput("bad-header", f"{name} has an XML header that is compressed or was never written: write it again, uncompressed.")
    start = dataset.file.userblock_size
    width = dataset.file.id.get_create_plist().get_sizes()[0]
    path = Path(dataset.file.filename)
    whole = path.stat().st_size
    with path.open("rb") as file:

        def numbers(where: int, *sizes: int) -> list[int]:
            if where > whole:
                raise damaged
            file.seek(where)
            raw = [file.read(size) for size in sizes]
            if any(len(part) < size for part, size in zip(raw, sizes, strict=True)):
                raise damaged
            return [int.from_bytes(part, "little") for part in raw]

        length, address, wanted = numbers(at, 4, width, 4)
        if length > most:
            raise BadInput("bad-header", f"{name} has an XML header of {length} bytes: write it again.")
        heap = start + address
        mark, size = numbers(heap, 4, 12)
        size >>= 32
        if mark != int.from_bytes(b"GCOL", "little"):
            raise damaged
        place, end = heap + 16, heap + size
        # every object is at least 16 bytes, so this ends whatever stands there
        while place + 16 <= end:
            number, _, _, stored = numbers(place, 2, 2, 4, 8)
            if number == wanted and number:
                if length > stored or place + 16 + length > end:
                    raise damaged
                file.seek(place + 16)
                text = file.read(length)
                if len(text) < length:
                    raise damaged
                return text
            if not number:
                break
            place += 16 + -(-stored // 8) * 8
    raise damaged


def check_heaps(path: Path, name: str) -> None:
    """Refuse a file one of whose global heaps has objects that do not follow each other; in such a heap the library turns for ever.

    To be called before arrays of variable length are read, which lie in these heaps. The whole file is looked through.

    Raises
    ------
    BadInput
        ``corrupt``.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        heap = raw.find(HEAP)
        while heap >= 0:
            end = heap + int.from_bytes(raw[heap + 8 : heap + 16], "little")
            place = heap + 16
            while place + 16 <= end <= len(raw):
                number, stored = int.from_bytes(raw[place : place + 2], "little"), int.from_bytes(raw[place + 8 : place + 16], "little")
                # what is free is told with its own head, and ends the heap
                step = stored if number == 0 else 16 + -(-stored // 8) * 8
                if place + step > end or step < 16:
                    raise BadInput("corrupt", f"{name} has damaged data inside: copy it again from its source.")
                place += step
            heap = raw.find(HEAP, heap + 8)
