"""What a process does with memory that was freed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

KEPT_MB = 128
"""Freed memory at the end of the heap that a process keeps for the next block."""
MAPPED_MB = 32
"""Arrays from this size on come from the system one by one and go back to it when they are freed; glibc takes no larger number."""


def keep_freed_memory() -> bool:
    """Have the C library keep what was freed, so that arrays of a block do not come as new pages, which the kernel fills with zeros.

    A network over blocks of 64^3 voxels spends a quarter of its time on that otherwise (``python -m benchmarks.blocks``).

    Returns
    -------
    bool
        False where there is no glibc: then nothing was changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3
    return bool(mallopt(m_trim_threshold, KEPT_MB * 2**20)) and bool(mallopt(m_mmap_threshold, MAPPED_MB * 2**20))


def limit_memory(more_mb: float) -> None:
    """Let this process allocate `more_mb` beyond what it has; what wants more gets a MemoryError and not the memory of others."""
    import resource

    held = next(line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if line.startswith("VmData"))
    limit = int(held.split()[1]) * 1024 + int(more_mb * 2**20)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
