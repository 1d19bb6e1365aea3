"""What ends a process whose library never comes back from a damaged file."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_endable = False


def let_end() -> None:
    """Say that this process is a worker: somebody starts another one where it ends, and tells of the item that it ended on."""
    global _endable
    _endable = True


@contextmanager
def at_most(cpu_s: float) -> Iterator[None]:
    """End this process, if it is a worker, where what is done inside takes more CPU time than it can.

    No exception can be raised while a library in C turns in a circle; the system's signal at the end of a span of CPU time ends the
    process whatever it does. In other processes nothing is watched.

    Parameters
    ----------
    cpu_s : float
        Of all threads of the process together.
    """
    if not _endable:
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
