"""OME-Zarr: chunks that are lost, cut, changed or too large, links out of the folder, metadata that lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from tests.battery.case import Case

VALUES = np.random.default_rng(0).integers(1, 4000, (20, 33, 26)).astype(np.uint16)
"""Axes z, y, x."""


def saved(path: Path, values: np.ndarray = VALUES, form: int = 3, **how: Any) -> Path:
    """Write an image of one resolution as other tools do."""
    group = zarr.open_group(path, mode="w", zarr_format=form)  # type: ignore[arg-type]
    how = {"chunks": tuple(min(n, 16) for n in values.shape), **how}
    if form == 2:
        how.setdefault("chunk_key_encoding", {"name": "v2", "separator": "/"})
    array = group.create_array("0", shape=values.shape, dtype=values.dtype, config={"write_empty_chunks": True}, **how)
    array[...] = values
    scale = [{"type": "scale", "scale": [500.0, 250.0, 200.0]}]
    axes = [{"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"]
    image: dict[str, Any] = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs.update({"ome": {"version": "0.5", "multiscales": [image]}} if form == 3 else {"multiscales": [{"version": "0.4", **image}]})
    return path


def chunks(path: Path) -> list[Path]:
    """Return the files of chunks, the last one whole or not."""
    return sorted(p for p in (path / "0").rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr")))


def chunk(change: Callable[[Path], Any], **how: Any) -> Callable[[Path], Path]:
    """Return a maker of an image of which one chunk's file was changed."""

    def make(folder: Path) -> Path:
        path = saved(folder / "a.zarr", **how)
        change(chunks(path)[0])
        return path

    return make


def metadata(file: str, change: Callable[[Any], Any], form: int = 3, **how: Any) -> Callable[[Path], Path]:
    """Return a maker of an image of which one file of metadata was changed."""

    def make(folder: Path) -> Path:
        path = saved(folder / "a.zarr", form=form, **how)
        content = json.loads((path / file).read_text())
        change(content)
        (path / file).write_text(json.dumps(content))
        return path

    return make


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def linked(folder: Path) -> Path:
    """Write an image of which a chunk is a link to another patient's."""
    path = saved(folder / "a.zarr")
    saved(folder.with_name("another.zarr"), VALUES[::-1].copy())
    first, other = chunks(path)[0], chunks(folder.with_name("another.zarr"))[0]
    first.unlink()
    first.symlink_to(other)
    return path


def out_of_folder(content: Any) -> None:
    content["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = "../other.zarr/0"


def beside(folder: Path) -> Path:
    saved(folder / "other.zarr")
    return metadata("zarr.json", out_of_folder)(folder)


def large_chunk(folder: Path) -> Path:
    """Write a few kB of which a chunk says that it unpacks to 64 MB."""
    path = saved(folder / "a.zarr", compressors=[ZstdCodec()])
    big = zarr.create_array(folder / "big.zarr", shape=(256, 256, 512), chunks=(256, 256, 512), dtype="uint16", compressors=[ZstdCodec()])
    big[:1, :1, :1] = 7
    shutil.copy(folder / "big.zarr" / "c" / "0" / "0" / "0", chunks(path)[0])
    shutil.rmtree(folder / "big.zarr")
    return path


def multiscales(change: Callable[[Any], Any]) -> Callable[[Path], Path]:
    return metadata("zarr.json", lambda content: change(content["attributes"]["ome"]))


def scale_zero(ome: Any) -> None:
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] = [0.0, 1.0, 1.0]


def two_axes(ome: Any) -> None:
    ome["multiscales"][0]["axes"] = ome["multiscales"][0]["axes"][:2]


def no_json(folder: Path) -> Path:
    path = saved(folder / "a.zarr")
    (path / "0" / "zarr.json").write_text('{"zarr_format": 3,')
    return path


def dies(folder: Path) -> Path:
    """Write an image whose writer died after some chunks."""
    path = saved(folder / "a.zarr")
    for each in chunks(path)[3:]:
        each.unlink()
    return path


def empty_folder(folder: Path) -> Path:
    path = saved(folder / "a.zarr")
    shutil.rmtree(path / "0" / "c")
    return path


LOST, BROKEN = ("missing-chunks",), ("corrupt",)
CODECS = [{"id": "vlen-utf8"}, {"id": "pickle"}]
CASES = [
    Case("Z01a", "a chunk is missing (format 3)", "zeros", "set aside", LOST, chunk(Path.unlink)),
    Case("Z01b", "a chunk is missing (format 2)", "zeros", "set aside", LOST, chunk(Path.unlink, form=2)),
    Case("Z01c", "no chunk at all", "zeros", "set aside", LOST, empty_folder),
    Case(
        "Z01d",
        "a chunk is missing, where the user says that empty ones are left out",
        "",
        "warned",
        ("orientation-assumed",),
        chunk(Path.unlink),
        settings={"missing_chunks": "fill"},
    ),
    Case("Z02a", "a chunk is cut", "", "set aside", BROKEN, chunk(cut)),
    Case("Z02b", "a chunk is empty", "", "set aside", LOST, chunk(lambda p: p.write_bytes(b""))),
    Case("Z03a", "another bit in a chunk with checksum", "", "set aside", BROKEN, chunk(flip, compressors=[ZstdCodec(), Crc32cCodec()])),
    Case(
        "Z03b",
        "another bit in a chunk without checksum, which nothing can tell",
        "read silently",
        "warned",
        ("orientation-assumed",),
        chunk(flip, compressors=[]),
    ),
    Case(
        "Z04",
        "pickle among the filters",
        "refused by numcodecs 0.16.6",
        "set aside",
        ("unknown-codec",),
        metadata("0/.zarray", lambda c: c.update(filters=CODECS), form=2),
    ),
    Case("Z05", "10^27 voxels", "a negative size", "set aside", (), metadata("0/zarr.json", lambda c: c.update(shape=[10**9] * 3))),
    Case("Z06", "a chunk of 64 MB out of 2 kB", "unpacked", "set aside", (), large_chunk),
    Case("Z07a", "a chunk is a link out of the folder", "followed", "set aside", ("outside",), linked),
    Case("Z07b", "the path of a resolution leaves the folder", "", "set aside", (), beside),
    Case("Z08a", "no multiscales", "", "set aside", (), multiscales(lambda ome: ome.pop("multiscales"))),
    Case("Z08b", "a scale of 0", "", "set aside", (), multiscales(scale_zero)),
    Case("Z08c", "two axes for three", "", "set aside", (), multiscales(two_axes)),
    Case("Z08d", "metadata that are no JSON", "", "set aside", (), no_json),
    Case("Z09", "the writer died after 3 chunks", "zeros", "set aside", LOST, dies),
]
