"""When an attempt of a training has to end: the job's time limit, or a signal of the scheduler."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cohortex.errors import CohortexError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""Slurm's before a time limit or a preemption, one that a site may ask for earlier (``--signal``), and the keyboard's."""

TRY_AGAIN = 75
"""Exit status of a training that is to be started again (EX_TEMPFAIL of sysexits.h)."""


class Interrupted(CohortexError):
    """The attempt ends before the training: what it has is in its checkpoint, and the next attempt goes on there."""


@dataclass
class Limit:
    """Until when an attempt may compute.

    Attributes
    ----------
    until : float
        Time of the clock (seconds since the epoch).
    asked : str
        The signal that asked it to end; empty before.
    """

    until: float = float("inf")
    asked: str = ""
    _stepping: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """Say that steps are being taken, so that an end will wait for the next checkpoint."""
        with self._lock:
            self._stepping += 1
        try:
            yield
        finally:
            with self._lock:
                self._stepping -= 1

    def reached(self) -> bool:
        """Return whether the attempt has to end after the step that is being taken."""
        return bool(self.asked) or time.time() >= self.until

    def reason(self) -> str:
        """Return why it has to end."""
        return f"it was asked to ({self.asked})" if self.asked else "the job's time limit is near"


def end_of_attempt(runtime_min: float, environment: Mapping[str, str] = os.environ) -> float:
    """Return until when an attempt may compute, in seconds since the epoch: a tenth of its time is left for the last checkpoint.

    Parameters
    ----------
    runtime_min : float
        The job's time limit in minutes, counted from now; 0 for none.
    environment : mapping
        Where Slurm says when the job ends (``SLURM_JOB_END_TIME``), that time counts: the job began before its script did.
    """
    if runtime_min <= 0:
        return float("inf")
    now, whole_s = time.time(), 60 * runtime_min
    end = now + whole_s
    told = environment.get("SLURM_JOB_END_TIME", "")
    if told.isdigit() and int(told) > now:
        end = min(end, float(told))
    return end - 0.1 * whole_s


def listen(limit: Limit) -> dict[signal.Signals, Any]:
    """Let signals ask an attempt to end, from now on (main thread only): after its step, or at once where none is being taken.

    Schedulers send them more than once; what is heard after the first one changes nothing.

    Returns
    -------
    dict
        What was done on each signal before.
    """

    def ask(number: int, frame: object) -> None:
        if limit.asked:
            return
        limit.asked = signal.Signals(number).name
        if not limit._stepping:
            raise Interrupted(f"no step (it prepared, or measured what it had trained), since {limit.reason()}")

    return {each: signal.signal(each, ask) for each in SIGNALS}


def hear_no_more() -> None:
    """Ignore further signals, for an attempt that is about to end with its status: at its exit Python would die of one that comes again."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
