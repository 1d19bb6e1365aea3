"""Which process owns a folder: what it leaves there, and whether it still lives.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cohortex.slurm import lives

SLURM_JOB = os.environ.get("SLURM_JOB_ID", "")
"""The Slurm job in which this process runs; taken at once, since Snakemake's plugin removes it from the environment."""


def myself() -> dict[str, Any]:
    """Return what tells this process from every other: host, process id, when it started, and its Slurm job if it is in one."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time(), "slurm_job": SLURM_JOB}


def alive(owner: Mapping[str, Any]) -> bool | None:
    """Return whether the process of an owner lives; None when it is on another machine and Slurm cannot tell either."""
    import psutil

    if owner.get("host") != socket.gethostname():
        return lives(str(owner["slurm_job"])) if owner.get("slurm_job") else None
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - float(owner["started"])) < 1
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False


def read_owner(file: Path) -> dict[str, Any]:
    """Return the owner that a file names; nothing where there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def take(file: Path) -> Mapping[str, Any] | None:
    """Make this process the owner that a file names.

    The file appears whole or not at all, and of several processes that try at once one succeeds.

    Returns
    -------
    mapping or None
        None when this process is the owner now, else the owner that there is.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(3):
        if _placed(file, json.dumps(myself())):
            return None
        owner = read_owner(file)
        mine = owner.get("host") == socket.gethostname() and owner.get("pid") == os.getpid()
        if not mine and (not owner or alive(owner) is not False):
            if file.exists():
                return owner
            continue
        # The owner is gone. Two processes may see that at once: who moves the file looks at what it moved.
        aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
        with suppress(FileNotFoundError):
            file.rename(aside)
            if read_owner(aside) != owner:
                with suppress(FileExistsError):
                    os.link(aside, file)
            aside.unlink()
    return read_owner(file)


def _placed(file: Path, text: str) -> bool:
    """Put text under a name that is free; False when it is not."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    try:
        os.link(temporary, file)
    except FileExistsError:
        return False
    except OSError:
        # No links on this file system; then the name is reserved first and filled at once.
        try:
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
        except FileExistsError:
            return False
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def give_back(file: Path) -> None:
    """Delete the file if this process is the owner that it names."""
    owner = read_owner(file)
    if owner.get("host") == socket.gethostname() and owner.get("pid") == os.getpid():
        file.unlink(missing_ok=True)
