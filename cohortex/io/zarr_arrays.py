"""Zarr arrays in folders, formats 2 and 3, also sharded: every chunk is known to be there before an image is believed.

Zarr lets writers leave out chunks that hold the fill value only, and readers then make zeros. A lost chunk looks the same. So an
array that lacks chunks is refused, unless the user says that his writer leaves them out (`acquire: missing_chunks: fill`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.paths import check_inside, shown_text
from cohortex.io.stored import Reader
from cohortex.io.zarr_codecs import Chain, Damaged, chain_v2, chain_v3, native

MAX_CHUNK_BYTES = 2**30
MAX_JSON_BYTES = 16 * 2**20
ABSENT = 2**64 - 1
TYPES = (*(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)), "float16", "float32", "float64", "bool")


@dataclass(frozen=True)
class Shards:
    """How inner chunks lie in the files of a sharded array."""

    counts: tuple[int, ...]
    """Inner chunks in a shard along every axis."""
    at_end: bool
    index: Chain

    @property
    def index_bytes(self) -> int:
        """Length of the index in the file."""
        return prod(self.index.shape) * 8 + 4 * len(self.index.steps)


@dataclass(frozen=True)
class ZarrArray:
    """One array of a Zarr folder; a source of `cohortex.io.stored.Stored`, axes as stored."""

    path: Path
    name: str
    key: str
    """Its path inside the folder."""
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    chain: Chain
    prefix: str
    separator: str
    fill: float = 0
    shards: Shards | None = None
    absent: frozenset[tuple[int, ...]] = frozenset()
    """Chunks that are known not to be there and stand for the fill value."""
    places: Mapping[tuple[int, ...], np.ndarray] = field(default_factory=dict, repr=False)
    """Of each shard, offset and length of its inner chunks."""

    @property
    def dtype(self) -> np.dtype:
        """Type of a value in memory."""
        return native(self.chain.stored)

    @contextmanager
    def opened(self) -> Iterator[Reader]:
        """Give the function that reads a chunk."""
        yield lambda index, first, last: self._chunk(index)[first:last]

    def file_of(self, index: tuple[int, ...]) -> str:
        """Return the file of a chunk or shard, relative to the array."""
        return self.prefix + self.separator.join(map(str, index)) if index else self.prefix.rstrip("/.") or "0"

    def shown(self, index: tuple[int, ...]) -> str:
        """Return how messages name the file of a chunk or shard; what the array is called, the file's own header says."""
        return f"{shown_text(self.key)}/{self.file_of(index)}"

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        if index in self.absent:
            return np.full(self.chunk, self.fill, dtype=self.dtype)
        outer = index
        try:
            if self.shards is None:
                data = self._bytes(outer)
            else:
                outer = tuple(i // n for i, n in zip(index, self.shards.counts, strict=True))
                offset, length = self.places[outer][tuple(i % n for i, n in zip(index, self.shards.counts, strict=True))]
                data = self._bytes(outer, int(offset), int(length))
            return self.chain.decode(data)
        except FileNotFoundError:
            raise BadInput("missing-chunks", f"{self.name} lacks the chunk {self.shown(outer)}: copy it again.") from None
        except Damaged as error:
            raise BadInput(
                "corrupt", f"{self.name} is damaged (the chunk {self.shown(outer)}: {error}): copy it again from its source."
            ) from None

    def _bytes(self, index: tuple[int, ...], offset: int = 0, length: int | None = None) -> bytes:
        with (self.path / self.key / self.file_of(index)).open("rb") as file:
            if length is None:
                # no compressor makes a chunk much longer than it is
                return file.read(2 * prod(self.chunk) * self.chain.stored.itemsize + 2**16)
            file.seek(offset)
            data = file.read(length)
        if len(data) != length:
            raise Damaged("the shard is cut")
        return data

    def shard_index(self, index: tuple[int, ...]) -> np.ndarray:
        """Return offset and length of the inner chunks of a shard, (..., 2) uint64.

        Raises
        ------
        BadInput
            ``corrupt``.
        """
        shards = self.shards
        assert shards is not None
        path = self.path / self.key / self.file_of(index)
        size, width = path.stat().st_size, shards.index_bytes
        try:
            if size < width:
                raise Damaged("it is cut")
            with path.open("rb") as file:
                file.seek(size - width if shards.at_end else 0)
                table = shards.index.decode(file.read(width))
            there = table[..., 0] != ABSENT
            # sums of two numbers of 64 bits could wrap, so the lengths are looked at first
            if ((table[..., 1] > size) | (table[..., 0] > size - np.minimum(table[..., 1], size)))[there].any():
                raise Damaged("its index points beyond its end")
        except Damaged as error:
            raise BadInput(
                "corrupt", f"{self.name} is damaged (the shard {self.shown(index)}: {error}): copy it again from its source."
            ) from None
        return table


def read_json(path: Path, name: str) -> dict[str, Any] | None:
    """Return a metadata file of a Zarr folder, None where there is none.

    Raises
    ------
    BadInput
        ``bad-metadata``.
    """
    check_inside(path, f"{name} ({path.name})")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadInput("bad-metadata", f"{name} has a {path.name} that is no JSON mapping: copy or write it again.")
    return content


def open_array(path: Path, key: str, name: str) -> ZarrArray:
    """Read the metadata of an array; nothing is allocated and no chunk is looked for.

    Raises
    ------
    BadInput
        ``missing-array``, ``bad-metadata``, ``unsupported-type``, ``unknown-codec``.
    """
    meta = read_json(path / key / "zarr.json", name)
    old = None if meta else read_json(path / key / ".zarray", name)
    try:
        if meta:
            return _version_3(path, key, name, meta)
        if old:
            return _version_2(path, key, name, old)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise BadInput(
            "bad-metadata", f"{name} has an array {key} whose metadata lack a usable shape, type or chunks: write it again."
        ) from None
    raise BadInput("missing-array", f"{name} names the array {key} but does not hold it: copy it again.")


def _version_3(path: Path, key: str, name: str, meta: Mapping[str, Any]) -> ZarrArray:
    data_type = meta["data_type"]
    if meta.get("node_type") != "array" or meta["chunk_grid"]["name"] != "regular":
        raise ValueError
    if data_type not in TYPES:
        raise BadInput("unsupported-type", f"{name} holds values that are no plain numbers: write it as one of {', '.join(TYPES)}.")
    shape, outer = _sizes(meta["shape"]), _sizes(meta["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = meta["codecs"]
    naming = meta["chunk_key_encoding"]
    modern = naming["name"] == "default"
    separator = (naming.get("configuration") or {}).get("separator", "/" if modern else ".")
    prefix = f"c{separator}" if modern else ""
    chunk, shards = outer, None
    if codecs and isinstance(codecs[0], Mapping) and codecs[0].get("name") == "sharding_indexed":
        if len(codecs) != 1:
            raise BadInput("unknown-codec", f"{name} packs whole shards once more, which is not known here: write them plain.")
        options = codecs[0]["configuration"]
        chunk, codecs = _sizes(options["chunk_shape"]), options["codecs"]
        counts = tuple(o // c for o, c in zip(outer, chunk, strict=True))
        if tuple(n * c for n, c in zip(counts, chunk, strict=True)) != outer:
            raise ValueError
        index = chain_v3(options["index_codecs"], (*counts, 2), "uint64", name)
        if any(step != "crc32c" for step, _ in index.steps):
            raise BadInput("unknown-codec", f"{name} compresses the index of its shards, which is not known here: write it plain.")
        shards = Shards(counts, options.get("index_location", "end") == "end", index)
    chain = chain_v3(codecs, chunk, data_type, name)
    return _usable(ZarrArray(path, name, key, shape, chunk, chain, prefix, separator, _fill(meta.get("fill_value")), shards))


def _version_2(path: Path, key: str, name: str, meta: Mapping[str, Any]) -> ZarrArray:
    told = meta["dtype"]
    # numpy takes much more for the name of a type, and some of it to pieces with the parser of Python
    if not isinstance(told, str) or not re.fullmatch(r"[<>|=]?[a-zA-Z][0-9]*", told) or np.dtype(told).name not in TYPES:
        raise BadInput("unsupported-type", f"{name} holds values that are no plain numbers: write it as one of {', '.join(TYPES)}.")
    shape, chunk = _sizes(meta["shape"]), _sizes(meta["chunks"])
    chain = chain_v2(meta, chunk, np.dtype(told), name)
    return _usable(ZarrArray(path, name, key, shape, chunk, chain, "", meta.get("dimension_separator", "."), _fill(meta.get("fill_value"))))


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and 1 <= n < 2**48 for n in values):
        raise ValueError
    return tuple(values)


def _fill(value: Any) -> float:
    return float(value) if value is not None and value is not False else 0.0


def _usable(array: ZarrArray) -> ZarrArray:
    if len(array.chunk) != len(array.shape) or array.separator not in ("/", "."):
        raise ValueError
    if prod(array.chunk) * array.chain.stored.itemsize > MAX_CHUNK_BYTES:
        raise BadInput("bad-metadata", f"{array.name} declares chunks of more than {MAX_CHUNK_BYTES >> 20} MB: write it with smaller ones.")
    if array.shards is not None and prod(array.shards.counts) * 16 > MAX_CHUNK_BYTES:
        raise BadInput("bad-metadata", f"{array.name} declares shards of {prod(array.shards.counts)} chunks: write it with smaller ones.")
    return array


def complete(array: ZarrArray, wanted: Mapping[int, int], fill: bool = False) -> ZarrArray:
    """Return an array of which every chunk is known to be there.

    Parameters
    ----------
    array : ZarrArray
    wanted : mapping
        Axes of which only one index is looked at: axis to index.
    fill : bool
        Take chunks that are not there for fill values. An array without any chunk is refused all the same.

    Raises
    ------
    BadInput
        ``outside``; ``missing-chunks``, naming the first that is not there and how many they are; ``corrupt`` for the index of a shard.
    """
    sizes = _files(array.path / array.key, array.name)
    inner = array.shards.counts if array.shards else (1,) * len(array.shape)
    outer = [c * n for c, n in zip(array.chunk, inner, strict=True)]
    ranges = [
        range(wanted[axis] // step, wanted[axis] // step + 1) if axis in wanted else range(-(-n // step))
        for axis, (n, step) in enumerate(zip(array.shape, outer, strict=True))
    ]
    # in whole numbers of Python, and before anything is listed, so that no absurd shape overflows or takes hours
    total = prod(len(r) for r in ranges)
    if total > (10**7 if fill else len(sizes)):
        raise _lacking(array, f"at least {total - len(sizes)}", total, "")
    files = {index for index in product(*ranges) if sizes.get(array.file_of(index), 0) > 0}
    if total > len(files) and (not fill or not files):
        first = next(index for index in product(*ranges) if index not in files)
        raise _lacking(array, str(total - len(files)), total, array.file_of(first))
    absent: set[tuple[int, ...]] = set()
    places: dict[tuple[int, ...], np.ndarray] = {}
    lost, first_lost, chunks = 0, "", 0
    for index in product(*ranges):
        if array.shards is None:
            chunks += 1
            if index not in files:
                absent.add(index)
            continue
        table = array.shard_index(index) if index in files else None
        if table is not None:
            places[index] = table
        # inner chunks beyond the array need not be there
        for at in _inside(array, index, inner, wanted):
            chunks += 1
            if table is None or table[at][0] == ABSENT or table[at][1] == 0:
                absent.add(tuple(i * n + j for i, n, j in zip(index, inner, at, strict=True)))
                lost, first_lost = lost + 1, first_lost or f"{array.file_of(index)}, inner chunk {'/'.join(map(str, at))}"
    if lost and (not fill or lost == chunks):
        raise _lacking(array, str(lost), chunks, first_lost)
    return replace(array, absent=frozenset(absent), places=places)


def _inside(array: ZarrArray, index: tuple[int, ...], counts: tuple[int, ...], wanted: Mapping[int, int]) -> Iterator[tuple[int, ...]]:
    """Yield the places in a shard of the inner chunks that hold something of the array and are looked at."""
    ranges = []
    for axis, (i, n, c, size) in enumerate(zip(index, counts, array.chunk, array.shape, strict=True)):
        there = -(-size // c) - i * n
        ranges.append(range(wanted[axis] // c - i * n, wanted[axis] // c - i * n + 1) if axis in wanted else range(min(n, there)))
    return product(*ranges)


def _files(folder: Path, name: str) -> dict[str, int]:
    """Return the sizes of all regular files below a folder by their relative paths; a link may lead to a file inside the dataset only."""
    check_inside(folder, name)
    found: dict[str, int] = {}
    todo = [""]
    while todo:
        below = todo.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(f"{below}{entry.name}/")
                elif entry.is_file():
                    if entry.is_symlink():
                        check_inside(folder / below / entry.name, f"{name} (the chunk {below}{entry.name})")
                    found[below + entry.name] = entry.stat().st_size
    return found


def _lacking(array: ZarrArray, lost: str, total: int, first: str) -> BadInput:
    where = f" (the first: {shown_text(array.key)}/{first})" if first else ""
    return BadInput(
        "missing-chunks",
        f"{array.name} lacks {lost} of {total} chunks{where}: copy it again; if its writer leaves out empty chunks, set "
        "`acquire: missing_chunks: fill`.",
    )
