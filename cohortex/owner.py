"""Which process owns a folder: what it leaves there, and whether it still lives.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any


def myself() -> dict[str, Any]:
    """Return what tells this process from every other: host, process id and when it started."""
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def alive(owner: Mapping[str, Any]) -> bool | None:
    """Return whether the process of an owner lives; None when it is on another machine."""
    import psutil

    if owner.get("host") != socket.gethostname():
        return None
    try:
        return abs(psutil.Process(int(owner["pid"])).create_time() - float(owner["started"])) < 1
    except (psutil.NoSuchProcess, KeyError, ValueError):
        return False
