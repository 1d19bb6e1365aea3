"""Where networks run, and which GPU of a machine a job has for itself.

Jobs of one machine share no GPU: each holds the lock of its own, a file that all see (``/tmp/cohortex-gpu-<name>.lock``), for as
long as its process lives, however that ends. Slurm gives every job devices of its own; there the lock is always free.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cohortex.errors import Refused

WAIT_S = 600.0
"""How long a job that must have a GPU waits for one that another job holds."""

_held: dict[str, int] = {}
"""The devices of this process, by name, with the open files of their locks."""


def choose_device(wanted: str, wait_s: float = WAIT_S) -> str:
    """Return ``cpu`` or ``cuda``; a process keeps the GPU that it was given.

    Parameters
    ----------
    wanted : {"auto", "cpu", "cuda"}
        auto takes a GPU where this job sees one that no other job holds. ``cpu`` does not import torch.
    wait_s : float
        How long ``cuda`` waits for one that is held.

    Raises
    ------
    Refused
        For another word, or for ``cuda`` where there is none, or none was free in time.
    """
    if wanted == "cpu":
        return "cpu"
    if wanted not in ("auto", "cuda"):
        raise Refused(f"device is auto, cpu or cuda, not {wanted!r}.")
    # before torch looks: it sees only what the process is to have
    names = visible()
    taken = list(_held) or take(names)
    until = time.monotonic() + wait_s
    while names and not taken and wanted == "cuda" and time.monotonic() < until:
        time.sleep(min(1.0, wait_s))
        taken = take(names)
    if names and not taken:
        if wanted == "auto":
            return "cpu"
        raise Refused(
            f"device is cuda, but other jobs held the {len(names)} GPUs of this machine for {wait_s:.0f} s: "
            "run fewer such jobs at once (snakemake --resources gpu=N), or set device to auto."
        )
    if taken:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise Refused("device is cuda, but this job sees no CUDA device: ask for one (gpu: 1), or set device to auto or cpu.")
    return "cpu"


def visible(devices: Path = Path("/dev")) -> list[str]:
    """Return the names of the GPUs that this process may use, without a library of CUDA: what ``CUDA_VISIBLE_DEVICES`` says, or all.

    A name is the GPU's own (``GPU-...``) where ``nvidia-smi`` tells it, else its number; numbers mean different GPUs in different
    jobs where a cluster hides the others.
    """
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None and said.strip() in ("", "-1", "NoDevFiles"):
        return []
    numbers = [number for path in devices.glob("nvidia[0-9]*") if (number := path.name.removeprefix("nvidia")).isdigit()]
    if said is None and (not numbers or "SLURM_JOB_ID" in os.environ):
        # Slurm names the GPUs of a job that has some; the others of its node belong to other jobs
        return []
    own = _uuids()
    if said is None:
        return own or sorted(numbers, key=int)
    names = [name.strip() for name in said.split(",") if name.strip()]
    return [own[int(name)] if name.isdigit() and int(name) < len(own) else name for name in names]


def _uuids() -> list[str]:
    """Return the names of the machine's GPUs in the order of their numbers; none where there is no ``nvidia-smi``."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"^GPU \d+:.*\(UUID: (GPU-[0-9a-f-]+)\)", told, re.MULTILINE)


def take(names: Sequence[str], count: int = 1, folder: Path | None = None) -> list[str]:
    """Make this process the only one that uses `count` of some GPUs.

    Parameters
    ----------
    names : sequence of str
        Of GPUs, see `visible`.
    count : int
    folder : path, optional
        Where the locks lie; the machine's folder for temporary files.

    Returns
    -------
    list of str
        `count` names, or none when fewer are free.
    """
    mine: dict[str, int] = {}
    for name in names:
        if len(mine) < count and name not in _held:
            lock = _lock((folder or Path(tempfile.gettempdir())) / f"cohortex-gpu-{re.sub(r'[^0-9A-Za-z-]', '-', name)}.lock")
            if lock is not None:
                mine[name] = lock
    if len(mine) < count:
        for lock in mine.values():
            os.close(lock)
        return []
    _held.update(mine)
    return list(mine)


def _lock(file: Path) -> int | None:
    """Return the open file of a lock that is ours now, None when another process has it."""
    try:
        # another user's file in a shared folder may be opened, but not with O_CREAT
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        try:
            opened = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except PermissionError:
            return None  # another user was faster
        with suppress(PermissionError):
            os.fchmod(opened, 0o644)  # whatever the umask says
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def smaller(block: tuple[int, int, int], device: str, least: int = 32) -> tuple[tuple[int, int, int], str]:
    """Return the next thing to try after a GPU ran out of memory: half the longest edge of the block, then the CPU.

    Parameters
    ----------
    block : three ints
        What was too large.
    device : str
        Where it was.
    least : int
        Blocks with no edge longer than this are not cut again.

    Returns
    -------
    block, device
    """
    if device != "cpu":
        import torch

        torch.cuda.empty_cache()
    longest = max(block)
    if device == "cpu" or longest <= least:
        return block, "cpu"
    cut = list(block)
    cut[block.index(longest)] = -(-longest // 2)
    return (cut[0], cut[1], cut[2]), device
