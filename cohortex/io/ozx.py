"""One volume in one zipped OME-Zarr 0.5 file (``.ozx``): what stages hand to each other.

The file is a ZIP archive without compression (OME-NGFF RFC 9: the root's ``zarr.json`` first, the version in the
archive's comment) of a Zarr v3 hierarchy. Chunks are 64 voxels wide, blosc (zstd level 1, bit-shuffled) and a
CRC-32C. They are encoded by several threads, and one writer appends each once, in a fixed order with a fixed date:
the same data give the same bytes. Stored axes are (z, y, x), for fields (c, z, y, x).

OME-Zarr 0.5 has scale and translation but no affine, so the whole geometry is beside it, in the attributes ``cohortex``.

The reader takes what the writer writes (any chunk size, these codecs only) and any zarr library can open it too. It reads
chunks by their position in the file and keeps neither an open file nor a thread, so a lazy volume works in a forked or
spawned process, too.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.paths import check_file, shown_name
from cohortex.io.scratch import Scratch
from cohortex.io.stored import Reader, Stored
from cohortex.publish import atomic_path
from cohortex.volume import Kind, Volume

CHUNK = 64
MAX_CHUNK_BYTES = 256 * 2**20
DTYPES = ("float32", "float64", "uint8", "uint16", "uint32", "int8", "int16", "int32")
CODECS = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle", "typesize": 0, "blocksize": 0}},
    {"name": "crc32c"},
]
COMMENT = json.dumps({"ome": {"version": "0.5"}}).encode()
DATE = (1980, 1, 1, 0, 0, 0)
MEMCPYED = 2
"""Flag of a blosc frame whose bytes are not compressed."""
LOCAL_HEADER = struct.Struct("<4s22xHH")


def write_ozx(path: Path, volume: Volume, threads: int = 1) -> None:
    """Write a volume as one file, atomically; the same data, geometry and history give the same bytes.

    Parameters
    ----------
    path : Path
        The file; it is complete or not there.
    volume : Volume
        May be lazy: it is read in rows of chunks along x.
    threads : int
        How many chunks are encoded at once.

    Raises
    ------
    ValueError
        The volume's dtype has no place in such a file, or it is a scratch array that was not written as a whole.
    """
    if isinstance(volume.data, Scratch) and not volume.data.whole():
        raise ValueError("a scratch array lacks voxels, which would be written as zeros")
    dtype = np.dtype(volume.data.dtype)
    if dtype.name not in DTYPES:
        raise ValueError(f"a volume of dtype {dtype} cannot be stored: use one of {', '.join(DTYPES)}")
    stored = tuple(int(n) for n in reversed(volume.data.shape))
    chunk = tuple(3 if axis == "c" else CHUNK for axis in _axes(volume.kind))
    with atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = COMMENT
        _append(archive, "zarr.json", _json({"zarr_format": 3, "node_type": "group", "attributes": attributes(volume)}))
        _append(archive, "0/zarr.json", _json(_array_metadata(stored, chunk, dtype, volume.kind)))
        for names, chunks in _encoded_rows(volume, stored, chunk, dtype, threads):
            for name, data in zip(names, chunks, strict=True):
                _append(archive, name, data)


def read_ozx(path: Path, name: str | None = None) -> Volume:
    """Open a volume lazily: geometry now, chunks when they are asked for.

    Parameters
    ----------
    path : Path
        A file of `write_ozx`, or a folder of `cohortex.io.sharded`.
    name : str, optional
        How messages call it.

    Returns
    -------
    Volume
        Its ``data`` is a `Stored` array with axes (x, y, z[, c]).

    Raises
    ------
    BadInput
        ``empty``, ``truncated``, ``bad-metadata``, ``missing-chunks``, ``unsupported-type``; while reading chunks
        ``corrupt``.
    """
    path = Path(path)
    name = name or shown_name(path)
    if path.is_dir():
        from cohortex.io.ome_zarr import read_ome_zarr

        return read_ome_zarr(path, name=name)[0]
    size = check_file(path, name)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            root, meta = (_load(archive, entries, key, name) for key in ("zarr.json", "0/zarr.json"))
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        # a directory of damaged numbers sends zipfile before the beginning of the file
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise BadInput("truncated", f"{name} is not a complete .ozx file: make it again.") from error
    own = root.get("attributes", {}).get("cohortex") if isinstance(root.get("attributes"), dict) else None
    if not isinstance(own, dict):
        raise BadInput("bad-metadata", f"{name} has no attributes `cohortex` beside its OME metadata: it was not written by this pipeline.")
    return volume_of(_stored_array(path, name, meta, entries, size), own, name)


def volume_of(data: Stored, own: Mapping[str, Any], name: str) -> Volume:
    """Return the volume that the attributes ``cohortex`` of a file or folder describe.

    Raises
    ------
    BadInput
        ``bad-metadata``.
    """
    try:
        affine = np.array(own["affine"], dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError("affine")
        kind = own["kind"]
        if kind not in ("image", "labels", "field"):
            raise ValueError("kind")
        history = tuple(dict(step) for step in own["history"])
        return Volume(data, affine, str(own["modality"]), cast(Kind, kind), str(own["body_part"]), history)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput("bad-metadata", f"{name} has attributes `cohortex` that describe no volume ({error}): make it again.") from None


@dataclass(frozen=True)
class Archived:
    """The chunks of an .ozx file by their places in it, axes as stored."""

    path: Path
    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype
    places: Mapping[str, tuple[int, int]]

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Open the file and give the function that reads a chunk."""
        decode = blosc().decode
        with self.path.open("rb") as file:
            yield lambda index, first, last: self._planes(file.fileno(), index, first, last, decode)

    def _planes(self, descriptor: int, index: tuple[int, ...], first: int, last: int, decode: Any) -> np.ndarray:
        from google_crc32c import value as crc32c

        key = _chunk_name(index)
        offset, length = self.places[key]
        name = key.encode()
        head = os.pread(descriptor, LOCAL_HEADER.size + len(name), offset)
        data = b""
        if len(head) == LOCAL_HEADER.size + len(name):
            magic, name_length, extra_length = LOCAL_HEADER.unpack_from(head)
            # the name too: a place that is off by some bits may be that of another chunk, which is whole
            if magic == b"PK\x03\x04" and name_length == len(name) and head.endswith(name):
                data = os.pread(descriptor, length, offset + len(head) + extra_length)
        if len(data) != length or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise BadInput("corrupt", f"{self.name} is damaged (checksum of {key}): make it again.")
        expected = prod(self.chunk) * self.dtype.itemsize
        # the decoded size stands in the blosc header; it is believed only after it was compared
        if int.from_bytes(data[4:8], "little") != expected:
            raise BadInput("corrupt", f"{self.name} has a chunk of another size than declared ({key}): make it again.")
        plane = expected // self.chunk[0]
        frame, begin = part_of_frame(data[:-4], first * plane, last * plane)
        values = np.frombuffer(
            decode(frame), dtype=self.dtype.newbyteorder("<"), count=(last - first) * plane // self.dtype.itemsize, offset=begin
        )
        return values.reshape(last - first, *self.chunk[1:])


def part_of_frame(frame: bytes, first: int, last: int) -> tuple[bytes, int]:
    """Return a blosc frame with only the blocks that hold some of the bytes, and where the first of these bytes is in what it decodes to.

    A frame has a header of 16 bytes, the place of each block, and the blocks, which are decoded one by one
    (https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst). Frames that are laid out otherwise are returned as they are.
    """
    size, block = int.from_bytes(frame[4:8], "little"), int.from_bytes(frame[8:12], "little")
    count = -(-size // block) if block else 1
    low, high = first // block if block else 0, -(-last // block) if block else 1
    if frame[2] & MEMCPYED or count < 2 or (low == 0 and high == count) or 16 + 4 * count > len(frame):
        return frame, first
    starts = np.append(np.frombuffer(frame, "<u4", count, 16).astype(np.int64), len(frame))
    if (np.diff(starts) <= 0).any() or starts[0] < 16 + 4 * count:
        return frame, first
    body = frame[starts[low] : starts[high]]
    places = (starts[low:high] - starts[low] + 16 + 4 * (high - low)).astype("<u4").tobytes()
    decoded = min(high * block, size) - low * block
    head = frame[:4] + b"".join(n.to_bytes(4, "little") for n in (decoded, block, 16 + len(places) + len(body)))
    return head + places + body, first - low * block


def _axes(kind: Kind) -> str:
    return "czyx" if kind == "field" else "zyx"


def attributes(volume: Volume) -> dict[str, Any]:
    """Return what stands beside the arrays: the OME metadata and, under ``cohortex``, the whole geometry."""
    names = _axes(volume.kind)
    channel = [1.0] if volume.kind == "field" else []
    axes: list[dict[str, str]] = [
        {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, "type": "space", "unit": "millimeter"} for axis in names
    ]
    scale = {"type": "scale", "scale": channel + list(reversed(volume.spacing))}
    shift = {"type": "translation", "translation": [0.0] * len(channel) + [float(v) for v in volume.affine[2::-1, 3]]}
    multiscale = {"name": "volume", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale, shift]}]}
    own = {
        "version": 1,
        "affine": volume.affine.tolist(),
        "space": "RAS+ mm, voxel indices (x, y, z)",
        "modality": volume.modality,
        "kind": volume.kind,
        "body_part": volume.body_part,
        "history": list(volume.history),
    }
    return {"ome": {"version": "0.5", "multiscales": [multiscale]}, "cohortex": own}


def _array_metadata(stored: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype, kind: Kind) -> dict[str, Any]:
    codecs = json.loads(json.dumps(CODECS))
    codecs[1]["configuration"]["typesize"] = dtype.itemsize
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(stored),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "dimension_names": list(_axes(kind)),
        "attributes": {},
    }


def _encoded_rows(
    volume: Volume, stored: tuple[int, ...], chunk: tuple[int, ...], dtype: np.dtype, threads: int
) -> Iterator[tuple[list[str], list[bytes]]]:
    """Give the names and bytes of the chunks, row by row along x, in the order in which they stand in the file."""
    counts = [-(-n // c) for n, c in zip(stored, chunk, strict=True)]

    def row(outer: tuple[int, ...]) -> tuple[list[str], list[bytes]]:
        key = tuple(slice(i * c, (i + 1) * c) for i, c in zip(outer, chunk, strict=False))
        slab = np.asarray(volume.data[(slice(None), *reversed(key))]).transpose()
        names = [_chunk_name((*outer, i)) for i in range(counts[-1])]
        return names, [_encode(slab[..., i * chunk[-1] : (i + 1) * chunk[-1]], chunk, dtype) for i in range(counts[-1])]

    rows = product(*(range(count) for count in counts[:-1]))
    if threads <= 1:
        yield from map(row, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Any] = []
        for outer in rows:
            ahead.append(pool.submit(row, outer))
            # bounded, so that a volume larger than memory is never encoded as a whole before it is written
            if len(ahead) > 2 * threads:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def _encode(block: np.ndarray, chunk: tuple[int, ...], dtype: np.dtype) -> bytes:
    from google_crc32c import value as crc32c

    if block.shape == chunk:
        full = np.ascontiguousarray(block, dtype=dtype.newbyteorder("<"))
    else:
        full = np.zeros(chunk, dtype=dtype.newbyteorder("<"))
        full[tuple(slice(n) for n in block.shape)] = block
    data = bytes(blosc().encode(full))
    return data + crc32c(data).to_bytes(4, "little")


def blosc() -> Any:
    """Return the codec of the chunks, told to work with one thread: several of its own lay the blocks of a frame in the order in which they
    end, so the same data would give other bytes.
    """
    import numcodecs.blosc as library

    library.use_threads = False
    return library.Blosc(cname="zstd", clevel=1, shuffle=library.BITSHUFFLE)


def _append(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=DATE)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


def _chunk_name(index: tuple[int, ...]) -> str:
    return "0/c/" + "/".join(str(i) for i in index)


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return sorted(value)
    raise TypeError(f"a history entry of type {type(value).__name__} cannot be stored")


def _load(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], key: str, name: str) -> dict[str, Any]:
    if key not in entries or entries[key].file_size > 16 * 2**20 or entries[key].compress_type != zipfile.ZIP_STORED:
        raise BadInput("bad-metadata", f"{name} has no usable {key}: make it again.")
    try:
        content = json.loads(archive.read(key))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise BadInput("bad-metadata", f"{name} has a {key} that is no JSON mapping: make it again.")
    return content


def _stored_array(path: Path, name: str, meta: Mapping[str, Any], entries: Mapping[str, zipfile.ZipInfo], size: int) -> Stored:
    """Check an array's metadata against the archive before anything is allocated."""
    try:
        stored = [int(n) for n in meta["shape"]]
        chunk = [int(n) for n in meta["chunk_grid"]["configuration"]["chunk_shape"]]
        codecs = [(codec["name"], codec.get("configuration", {})) for codec in meta["codecs"]]
        data_type = meta["data_type"]
        plain = meta["chunk_grid"]["name"] == "regular" and meta["chunk_key_encoding"]["name"] == "default"
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput("bad-metadata", f"{name} has a 0/zarr.json without shape, chunks or codecs: make it again.") from None
    if data_type not in DTYPES:
        raise BadInput("unsupported-type", f"{name} holds a data type that is not supported: write it as one of {', '.join(DTYPES)}.")
    dtype = np.dtype(data_type)
    if not plain or [codec[0] for codec in codecs] != ["bytes", "blosc", "crc32c"] or codecs[0][1].get("endian", "little") != "little":
        raise BadInput("bad-metadata", f"{name} uses codecs or chunk names that this reader does not take: write it with blosc and crc32c.")
    if len(stored) not in (3, 4) or len(chunk) != len(stored) or min(stored) < 1 or min(chunk) < 1:
        raise BadInput("bad-metadata", f"{name} declares a shape that is no volume: make it again.")
    if prod(chunk) * dtype.itemsize > MAX_CHUNK_BYTES:
        raise BadInput("bad-metadata", f"{name} declares chunks of more than {MAX_CHUNK_BYTES >> 20} MB: write it with smaller ones.")
    counts = [-(-n // c) for n, c in zip(stored, chunk, strict=True)]
    # in whole numbers of Python, so that no absurd shape overflows
    if prod(counts) > len(entries):
        raise BadInput("missing-chunks", f"{name} lacks {prod(counts) - len(entries) + 2} of {prod(counts)} chunks: make it again.")
    names = [_chunk_name(index) for index in product(*(range(count) for count in counts))]
    places: dict[str, tuple[int, int]] = {}
    for key in names:
        info = entries.get(key)
        if info is None or info.compress_type != zipfile.ZIP_STORED or not 20 <= info.file_size <= size - info.header_offset:
            raise BadInput("missing-chunks", f"{name} lacks the chunk {key}: make it again.")
        places[key] = (info.header_offset, info.file_size)
    return Stored(Archived(path, name, tuple(stored), tuple(chunk), dtype, places), tuple(reversed(range(len(stored)))))
