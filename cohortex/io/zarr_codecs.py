"""How the chunks of foreign Zarr arrays are decoded: formats 2 and 3, without zarr's own reader.

zarr takes a missing chunk for a chunk of fill values; here every chunk is asked for by name, its decoded size is known
before memory is taken for it, and nothing but the codecs below is ever run.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.paths import shown_text

COMPRESSORS = ("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma")
FILTERS = ("shuffle", "delta")
CHECKSUMS = {"crc32c": 4, "crc32": 4}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Damaged(Exception):
    """A chunk that does not decode to what was declared; the text says how."""


@dataclass(frozen=True)
class Chain:
    """What turns the bytes of a chunk into its array, the steps in the order of decoding.

    Attributes
    ----------
    shape : tuple of int
        Of the array that comes out.
    stored : np.dtype
        Type and byte order in the file.
    order : tuple of int
        The axes of the array in the order in which they lie in the bytes, the slowest first.
    steps : tuple of (codec, its configuration)
    """

    shape: tuple[int, ...]
    stored: np.dtype
    order: tuple[int, ...]
    steps: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())

    def decode(self, data: bytes) -> np.ndarray:
        """Return the array of a chunk, in the machine's byte order.

        Raises
        ------
        Damaged
        """
        expected = prod(self.shape) * self.stored.itemsize
        # a checksum that is packed along makes what lies inside longer by its bytes
        inside = [sum(CHECKSUMS.get(name, 0) for name, _ in self.steps[i + 1 :]) for i in range(len(self.steps))]
        for (name, options), more in zip(self.steps, inside, strict=True):
            data = _undone(name, options, data, expected + more)
        if len(data) != expected:
            raise Damaged(f"{len(data)} bytes instead of {expected}")
        values = np.frombuffer(data, dtype=self.stored).reshape([self.shape[axis] for axis in self.order])
        return values.transpose(np.argsort(self.order)).astype(native(self.stored), copy=False)


def native(dtype: np.dtype) -> np.dtype:
    """Return a type as arrays in memory have it: the machine's byte order, no half floats, no truth values."""
    plain = dtype.newbyteorder("=")
    return np.dtype(np.float32) if plain == np.float16 else np.dtype(np.uint8) if plain == np.bool_ else plain


def chain_v2(meta: Mapping[str, Any], shape: tuple[int, ...], dtype: np.dtype, name: str) -> Chain:
    """Return the decoding of a format 2 array from its ``.zarray``.

    Raises
    ------
    BadInput
        ``unknown-codec``.
    """
    steps: list[tuple[str, Mapping[str, Any]]] = []
    compressor = meta.get("compressor")
    if compressor is not None:
        steps.append(_known(compressor, "id", COMPRESSORS, name))
    filters = [_known(codec, "id", (*FILTERS, *CHECKSUMS), name) for codec in meta.get("filters") or ()]
    steps += reversed(filters)
    axes = tuple(range(len(shape)))
    return Chain(shape, dtype, axes[::-1] if meta.get("order") == "F" else axes, tuple(steps))


def chain_v3(codecs: Sequence[Any], shape: tuple[int, ...], data_type: str, name: str) -> Chain:
    """Return the decoding of a format 3 array or of a chunk inside a shard.

    Raises
    ------
    BadInput
        ``unknown-codec``, ``bad-metadata``.
    """
    order = tuple(range(len(shape)))
    steps: list[tuple[str, Mapping[str, Any]]] = []
    endian = ""
    for codec in codecs:
        found, options = _known(codec, "name", ("transpose", "bytes", *COMPRESSORS, *CHECKSUMS), name)
        if found == "transpose" and not endian:
            wanted = options.get("order")
            if not isinstance(wanted, list) or sorted(wanted) != list(range(len(shape))):
                raise BadInput("bad-metadata", f"{name} has a transpose codec without a usable order: write it again.")
            order = tuple(order[axis] for axis in wanted)
        elif found == "bytes" and not endian:
            endian = {"little": "<", "big": ">"}.get(str(options.get("endian", "little")), "")
        elif endian and found not in ("transpose", "bytes"):
            steps.insert(0, (found, options))
        else:
            endian = ""
            break
    if not endian:
        raise BadInput("bad-metadata", f"{name} has its codecs in an order that gives no bytes: write it again.")
    return Chain(shape, np.dtype(data_type).newbyteorder("<" if endian == "<" else ">"), order, tuple(steps))


def _known(codec: Any, key: str, known: Sequence[str], name: str) -> tuple[str, Mapping[str, Any]]:
    """Return name and configuration of a codec, those of numcodecs under format 3 by their plain names."""
    if isinstance(codec, str):
        codec = {key: codec}
    if not isinstance(codec, Mapping) or not isinstance(codec.get(key), str):
        raise BadInput("bad-metadata", f"{name} has codecs without names: write it again.")
    found = codec[key].removeprefix("numcodecs.")
    if found not in known:
        shown = shown_text("".join(letter for letter in found[:40] if letter.isalnum() or letter in "-_."))
        raise BadInput("unknown-codec", f"{name} is stored with the codec {shown!r}, which is not known here: write it with blosc or zstd.")
    options = codec.get("configuration", {}) if key == "name" else {k: v for k, v in codec.items() if k != key}
    return found, options if isinstance(options, Mapping) else {}


def _undone(name: str, options: Mapping[str, Any], data: bytes, expected: int) -> bytes:
    """Undo one codec; `expected` is the size that a compressor must give, so no false promise takes memory."""
    import numcodecs

    codec: Any
    try:
        if name in CHECKSUMS:
            return _checked(name, options, data)
        if name in FILTERS:
            codec = numcodecs.get_codec({"id": name, **options})
            return bytes(codec.decode(data))
        if name in ("gzip", "zlib", "bz2", "lzma"):
            return _inflated(name, data, expected)
        promised = _promised(name, data)
        if promised is not None and promised != expected:
            raise Damaged(f"{promised} bytes instead of {expected}")
        # the options of a compressor are those of writing; the bytes say how they are read
        codec = numcodecs.get_codec({"id": name})
        return bytes(codec.decode(data))
    except (RuntimeError, ValueError, TypeError, EOFError, OSError, zlib.error) as error:
        raise Damaged(f"{name} does not decode") from error


def _checked(name: str, options: Mapping[str, Any], data: bytes) -> bytes:
    from google_crc32c import value as crc32c

    start = options.get("location", "end" if name == "crc32c" else "start") == "start"
    body, told = (data[4:], data[:4]) if start else (data[:-4], data[-4:])
    if len(data) < 4 or (crc32c(body) if name == "crc32c" else zlib.crc32(body)) != int.from_bytes(told, "little"):
        raise Damaged("its checksum is wrong")
    return body


def _promised(name: str, data: bytes) -> int | None:
    """Return the decoded size that a chunk declares, None where it does not."""
    if name == "blosc":
        if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
            raise Damaged("it is cut")
        return int.from_bytes(data[4:8], "little")
    if name == "lz4":
        return int.from_bytes(data[:4], "little")
    if data[:4] != ZSTD_MAGIC or len(data) < 6:
        raise Damaged("no zstd frame")
    # RFC 8878, 3.1.1.1: the descriptor says how wide the fields before the content size and it itself are
    flags = data[4]
    single, width = flags >> 5 & 1, (0, 2, 4, 8)[flags >> 6]
    if not width and not single:
        return None
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    width = width or 1
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)


def _inflated(name: str, data: bytes, expected: int) -> bytes:
    """Decompress at most one byte more than expected; the stream must then be at its end, with its checksum seen."""
    if name in ("gzip", "zlib"):
        machine: Any = zlib.decompressobj(31 if name == "gzip" else 15)
    elif name == "bz2":
        import bz2

        machine = bz2.BZ2Decompressor()
    else:
        import lzma

        machine = lzma.LZMADecompressor()
    try:
        out = machine.decompress(data, expected + 1)
    except Exception as error:
        if type(error).__name__ not in ("error", "LZMAError", "OSError"):
            raise
        raise Damaged(f"{name} does not decode") from error
    if not machine.eof or len(out) != expected:
        raise Damaged("it is cut" if len(out) < expected else f"more than {expected} bytes")
    return out
