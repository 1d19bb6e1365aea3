"""A volume that several machines write together: an OME-Zarr 0.5 folder whose files are shards of 128 voxels.

Each shard holds 2 x 2 x 2 chunks of 64 voxels, encoded as in an .ozx file, and is written once, by one machine, as a whole. The
attributes are those of `cohortex.io.ozx`, the reader is `cohortex.io.ome_zarr`. All shards are there, those of zeros, too: a missing
one is damage, never background.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.ozx import CHUNK, DTYPES, attributes
from cohortex.io.paths import shown_name
from cohortex.publish import write_json
from cohortex.volume import Volume

SHARD = 128
SUFFIX = ".ome.zarr"


class Sharded:
    """An array with axes (x, y, z) in such a folder; every machine may read it, and write boxes of whole shards.

    It holds no open file, so it can be sent to other processes.
    """

    align = SHARD
    """Boxes that are written begin at multiples of so many voxels, and end there or at the end of the axis."""

    def __init__(self, path: Path, shape: Sequence[int], dtype: Any):
        self.path = path
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)

    @classmethod
    def create(cls, folder: Path, shape: Sequence[int], dtype: Any = np.float32) -> Sharded:
        """Make an empty one under a scratch name; it becomes a volume by `publish_sharded`.

        Raises
        ------
        ValueError
            A dtype that has no place in such a folder, or not three axes.
        """
        import zarr
        from zarr.codecs import BloscCodec, Crc32cCodec

        kind = np.dtype(dtype)
        if kind.name not in DTYPES or len(shape) != 3:
            raise ValueError(f"a sharded volume has three axes and one of the types {', '.join(DTYPES)}, not {tuple(shape)} of {kind}")
        made = cls(Path(folder) / f".scratch.{uuid.uuid4().hex}.tmp", shape, kind)
        zarr.open_group(made.path, mode="w-", zarr_format=3)
        zarr.create_array(
            store=made.path,
            name="0",
            shape=made.shape[::-1],
            chunks=(CHUNK,) * 3,
            shards=(SHARD,) * 3,
            dtype=kind,
            compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=kind.itemsize), Crc32cCodec()],
            dimension_names=["z", "y", "x"],
        )
        return made

    def _array(self, mode: str) -> Any:
        import zarr

        group = zarr.open_group(self.path, mode=cast(Any, mode))
        return cast(Any, group["0"]).with_config({"write_empty_chunks": True})

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(part is Ellipsis for part in keys):
            at = next(i for i, part in enumerate(keys) if part is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (3 - len(keys) + 1)
        keys += [slice(None)] * (3 - len(keys))
        try:
            return np.asarray(self._array("r")[tuple(reversed(keys))]).transpose()
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise BadInput("corrupt", f"{shown_name(self.path)} is damaged ({type(error).__name__}): make it again.") from error

    def __setitem__(self, key: tuple[slice, ...], values: np.ndarray) -> None:
        for part, n in zip(key, self.shape, strict=True):
            start, stop, _ = part.indices(n)
            if start % SHARD or (stop % SHARD and stop != n):
                raise ValueError(f"a sharded array takes whole shards of {SHARD} voxels, not {start}:{stop} of {n}")
        try:
            self._array("r+")[tuple(reversed(key))] = values.transpose()
        except OSError:
            # zarr raises with the first shard that fails, while threads still write others
            settle()
            raise

    def missing(self) -> int:
        """Return how many shards are not there."""
        wanted = prod(-(-n // SHARD) for n in self.shape)
        return wanted - sum(1 for path in (self.path / "0" / "c").glob("*/*/*") if path.is_file())


def settle() -> None:
    """Wait until zarr writes nothing more, so that the folder can be removed."""
    from zarr.core.sync import sync

    async def others() -> None:
        rest = asyncio.all_tasks() - {cast(Any, asyncio.current_task())}
        if rest:
            await asyncio.wait(rest)

    sync(others())


def publish_sharded(path: Path, volume: Volume) -> None:
    """Give a volume whose data are a `Sharded` under a scratch name its attributes and its place.

    Raises
    ------
    ValueError
        When a shard was not written.
    """
    data = cast(Sharded, volume.data)
    if data.missing():
        raise ValueError(f"{data.missing()} shards of {path.name} were not written")
    root = json.loads((data.path / "zarr.json").read_text(encoding="utf-8"))
    write_json(data.path / "zarr.json", {**root, "attributes": attributes(volume)})
    if path.is_dir():
        shutil.rmtree(path)
    data.path.rename(path)
    data.path = path
