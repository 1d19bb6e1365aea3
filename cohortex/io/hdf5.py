"""HDF5 files opened with care: no link leaves the file, no declared size is believed, no plug-in is loaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from cohortex.errors import BadInput
from cohortex.io.paths import check_file
from cohortex.io.plain import DEFLATE_MAX_RATIO

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "lzf"}
MOST_BYTES = 64 * 2**30


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
    with _ONE_AT_A_TIME, _opened(path, name) as file:
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
    if not isinstance(found, h5py.Dataset):
        return found
    if found.is_virtual or found.external:
        raise BadInput("foreign-data", f"{name} keeps `{key}` in another file: copy the data into it.")
    plist = found.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        code = plist.get_filter(i)[0]
        if code not in FILTERS:
            raise BadInput("unsupported-filter", f"{name} has `{key}` compressed by the HDF5 filter {code}: write it with gzip.")
    wanted = prod(int(n) for n in found.shape or ()) * found.dtype.itemsize
    stored = int(found.id.get_storage_size())
    if wanted > MOST_BYTES or wanted > max(stored * (DEFLATE_MAX_RATIO if plist.get_nfilters() else 1), 2**16):
        shape = "x".join(str(n) for n in found.shape or ())
        raise BadInput(
            "truncated", f"{name} declares {shape} values in `{key}`, of which {stored} bytes are there: copy it again from its source."
        )
    return found


def _check_length(dataset: Any, name: str, most: int) -> None:
    """Refuse a text whose length is absurd, before the library allocates it: the reference to it begins with four bytes of length."""
    import h5py

    at = dataset.id.get_offset()
    if h5py.check_string_dtype(dataset.dtype) is None or h5py.check_string_dtype(dataset.dtype).length is not None or at is None:
        return
    with Path(dataset.file.filename).open("rb") as file:
        file.seek(at)
        length = int.from_bytes(file.read(4), "little")
    if length > most:
        raise BadInput("bad-header", f"{name} has an XML header of {length} bytes: write it again.")


def text_of(dataset: Any, name: str, most: int = 16 * 2**20) -> bytes:
    """Return a short text dataset as bytes."""
    if dataset.shape not in ((), (1,)):
        raise BadInput("bad-header", f"{name} has an XML header that is not one text: write it again.")
    _check_length(dataset, name, most)
    value = dataset[()] if dataset.shape == () else dataset[0]
    data = value.encode() if isinstance(value, str) else bytes(value)
    if len(data) > most:
        raise BadInput("bad-header", f"{name} has an XML header of {len(data)} bytes: write it again.")
    return data
