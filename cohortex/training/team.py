"""The processes that train one model together, one a GPU: who they are, and what they tell each other.

PyTorch's own collectives, without Lightning's Fabric on top: three of them are used, a training alone pays nothing for them, and a loss
of several networks in turns needs no wrapper around each.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cohortex.errors import CohortexError
from cohortex.publish import write_json
from cohortex.training.limit import Limit

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(hours=6)
"""A process that died is seen by who started it (`cohortex.training.launch`); this is only how long one may prepare."""


@dataclass(frozen=True)
class Team:
    """A process and the others of its training.

    Attributes
    ----------
    rank, size : int
        Its number from 0 on, and how many there are.
    precision : {"float32", "bfloat16"}
        What networks compute in; weights, their averages and the optimiser's state are always float32.
    limit : Limit
        When the attempt has to end.
    """

    rank: int = 0
    size: int = 1
    precision: str = "float32"
    limit: Limit = field(default_factory=Limit)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """Return how many examples of a step's batch this process takes; each takes at least one."""
        return max(1, batch // self.size + (self.rank < batch % self.size))

    def whole(self, batch: int) -> int:
        """Return how many examples a step has in all processes together."""
        return max(batch, self.size)

    def stream(self, *key: int) -> list[int]:
        """Return a key of a random generator that no other process has; alone it is the key itself."""
        return [*key, self.rank] if self.rank else list(key)

    def generator(self, seed: int) -> np.random.Generator:
        """Return a random generator of this process."""
        return np.random.default_rng([seed, self.rank] if self.rank else seed)

    def autocast(self, device: str) -> AbstractContextManager[Any]:
        """Return the context in which a loss is computed."""
        if self.precision == "float32":
            return nullcontext()
        import torch

        return torch.autocast(device.split(":")[0], torch.bfloat16)

    def average(self, tensors: Sequence[torch.Tensor], weight: float) -> None:
        """Replace tensors by their weighted mean over the processes, in place; the weights of all add up to 1."""
        if self.size == 1 or not tensors:
            return
        import torch
        from torch import distributed

        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors]) * weight
        distributed.all_reduce(flat)
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def sum(self, array: np.ndarray) -> None:
        """Add up an array over the processes, in place: what each filled in of zeros, all have then."""
        if self.size == 1 or not array.size:
            return
        import torch
        from torch import distributed

        distributed.all_reduce(torch.from_numpy(array))

    def gather(self, value: Any) -> list[Any]:
        """Return the plain values of all processes, by rank."""
        if self.size == 1:
            return [value]
        import torch
        from torch import distributed

        text = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(text)]))
        longest = max(int(length) for length in lengths)
        mine = torch.zeros(longest, dtype=torch.uint8)
        mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        found = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        distributed.all_gather(found, mine)
        return [json.loads(each[: int(length)].numpy().tobytes()) for each, length in zip(found, lengths, strict=True)]

    def agree(self, value: bool) -> bool:
        """Return what the first process says: clocks differ, and all have to go the same way."""
        return bool(self.gather(value)[0])

    def confirm(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Make sure that all processes have the same weights.

        Raises
        ------
        CohortexError
            When they have not, on every process.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).numpy().tobytes())
        if len(set(self.gather(digest.hexdigest()))) > 1:
            raise CohortexError("the processes of the training have come to different weights; nothing was written, please report it")

    def facts(self, device: str) -> dict[str, Any]:
        """Return what a card says of the machines: processes, devices by name, precision."""
        name = "cpu"
        if device != "cpu":
            import torch

            name = torch.cuda.get_device_name()
        names = self.gather(name)
        return {"processes": self.size, "devices": {each: names.count(each) for each in sorted(set(names))}, "precision": self.precision}


_team = Team()


def team() -> Team:
    """Return the team of this process; one alone before `use_team`."""
    return _team


def use_team(new: Team) -> Team:
    """Make this the team of the process and return the one before."""
    global _team
    before, _team = _team, new
    return before


@contextmanager
def changed_team(**changes: Any) -> Iterator[Team]:
    """Let the team of the process be another in some of its attributes (`Team`), such as ``precision`` or ``limit``, for a while."""
    before = use_team(replace(team(), **changes))
    try:
        yield team()
    finally:
        use_team(before)


def meet(rank: int, size: int, place: Path, device: str, nodes: int = 1) -> None:
    """Join the process group of a training; returns when all are there.

    Parameters
    ----------
    rank, size : int
    place : path
        A file that is not there yet: the first process writes into it where it listens (a free port, so two trainings on one machine
        do not meet), the others wait for it.
    device : str
        Gradients on ``cuda`` go through NCCL, all else through gloo.
    nodes : int
        On one node everything stays on its loopback interface; on several, the site's environment may name one
        (``GLOO_SOCKET_IFNAME``, ``NCCL_SOCKET_IFNAME``).
    """
    from torch import distributed

    host = socket.gethostname() if nodes > 1 else "127.0.0.1"
    if nodes == 1 and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if rank == 0:
        store = distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            host, 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE
        )
        write_json(place, {"host": host, "port": store.port})
    else:
        until = time.monotonic() + PATIENCE.total_seconds()
        while not place.is_file() and time.monotonic() < until:
            time.sleep(0.05)
        there = json.loads(place.read_text(encoding="utf-8"))
        store = distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            there["host"], there["port"], size, is_master=False, timeout=PATIENCE
        )
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


def part() -> None:
    """Leave the process group."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def end(status: int) -> NoReturn:
    """End this process of a training; all that it had to write is written.

    The interpreter is not taken apart: a thread of the process group that then still asks for it aborts the process, rarely, and a training
    that is done would count as failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
