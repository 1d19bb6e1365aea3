"""A volume larger than memory through a filter and a network: how much longer than in memory, and whether the bytes are the same.

``python -m benchmarks.blocks [--gib 4] [--limit-gib 1] [--folder DIR]``. Two child processes do the same work on one file, one
thread each: a Gaussian of one voxel, a network of two convolutions (1-8-1 channels, 3^3), and the result into another file. One
may map no more private memory than the limit (RLIMIT_DATA), the other holds everything. CPU seconds are compared, and the files
byte for byte. Files are deleted at the end; a volume of n GiB takes about 5 n GiB of disk, its unlimited child 4 n GiB of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import Run, Table, add_save, child, peak_mb

HALO = 2
BLOCK = (64, 64, 64)


class Made:
    """A lazy test volume: a few smooth waves and noise, the same for every box."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape):
        self.shape = shape
        self.noise = np.random.default_rng(0).normal(0, 20, (64, 64, 64)).astype(np.float32)

    def __getitem__(self, key):
        x, y, z = (np.arange(n)[part] for part, n in zip(key, self.shape, strict=True))
        wave = [200 * np.sin(axis / 9, dtype=np.float32) for axis in (x, y, z)]
        return wave[0][:, None, None] + wave[1][:, None] + wave[2] + self.noise[np.ix_(x % 64, y % 64, z % 64)]


def work(source: Path, target: Path, memory_mb: int, limit: int) -> None:
    """Do the work in this process and say in one line of JSON what it took."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch
    from torch import nn

    from cohortex.allocator import keep_freed_memory
    from cohortex.blocks import Plan, planned
    from cohortex.filters.blockwise import run_chain
    from cohortex.inference import run_network
    from cohortex.io.ozx import read_ozx, write_ozx
    from cohortex.survey import survey
    from cohortex.threads import set_threads

    keep_freed_memory()
    set_threads(1)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 3), nn.ReLU(), nn.Conv3d(8, 1, 3)).eval()
    with planned(Plan(memory_mb=memory_mb, scratch=target.parent)):
        volume = read_ozx(source)
        chain = [{"gaussian": {"sigma_mm": 1.0}}]
        # what is compiled, or looked up in libraries, on the first call is not timed
        run_network(network, run_chain(Made((70,) * 3)[:, :, :], (1, 1, 1), chain), (HALO,) * 3, BLOCK)
        marks = [time.process_time()]
        data = survey(volume).data
        marks.append(time.process_time())
        data = run_chain(data, volume.spacing, chain)
        marks.append(time.process_time())
        data, _ = run_network(network, data, (HALO,) * 3, BLOCK)
        marks.append(time.process_time())
        write_ozx(target, volume.with_data(data))
        marks.append(time.process_time())
    parts = dict(zip(("read", "filter", "network", "write"), np.diff(marks).round(1).tolist(), strict=True))
    print(json.dumps({"seconds": marks[-1] - marks[0], "peak_mb": peak_mb(), "in_memory": isinstance(data, np.ndarray), **parts}))


def same(a: Path, b: Path) -> bool:
    """Compare two files byte for byte."""
    with a.open("rb") as one, b.open("rb") as other:
        while True:
            left, right = one.read(2**22), other.read(2**22)
            if left != right:
                return False
            if not left:
                return True


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the volume")
    parser.add_argument("--limit-gib", type=float, default=1.0, help="private memory that the limited process may map")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go; by default the temporary folder")
    parser.add_argument("--work", nargs=4, default=None, help=argparse.SUPPRESS)
    add_save(parser)
    options = parser.parse_args()
    if options.work:
        source, target, memory_mb, limit = options.work
        work(Path(source), Path(target), int(memory_mb), int(limit))
        return
    from cohortex.io.ozx import write_ozx
    from cohortex.volume import Volume

    run = Run("blocks", ["torch", "numpy", "zarr"])
    edge = round((options.gib * 2**30 / 4) ** (1 / 3) / 64) * 64
    size = edge**3 * 4 / 2**30
    parts = ("read", "filter", "network", "write")
    table = Table({"volume": "", "memory": "", "CPU s": ".1f"} | dict.fromkeys(parts, ".1f") | {"peak MB": ".0f", "ratio": ".3f"})
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_ozx(folder / "in.ozx", Volume(Made((edge,) * 3), np.eye(4), "CT"))

        def worked(target: str, memory_mb: int, limit: int) -> dict:
            return child("benchmarks.blocks", "--work", folder / "in.ozx", folder / target, memory_mb, limit)

        free = worked("free.ozx", 2**20, 0)
        volume = f"{edge}^3, {size:.2f} GiB"
        table.add(volume, "all there is", free["seconds"], *(free[part] for part in parts), free["peak_mb"], 1.0)
        # less than half of the limit for blocks: torch and the libraries take the rest
        limited = worked("limited.ozx", int(options.limit_gib * 400), int(options.limit_gib * 2**30))
        ratio = limited["seconds"] / free["seconds"]
        limit = f"limit {options.limit_gib:g} GiB"
        table.add(volume, limit, limited["seconds"], *(limited[part] for part in parts), limited["peak_mb"], ratio)
        equal = same(folder / "limited.ozx", folder / "free.ozx")
    figures = {"outofcore_time": ratio, "outofcore_equal": int(equal and not limited["in_memory"])}
    run.end({"blocks": table}, figures, options.save)


if __name__ == "__main__":
    main()
