"""Slurm's queue: what it says of jobs, and how jobs are ended. Used by the head process and by jobs, without heavy imports."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

FORMAT = "%i|%T|%r|%P|%N|%j|%k"
"""What squeue is asked to write; the comment, which Snakemake's plugin sets, comes last."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
"""States of a job that has ended; one that is COMPLETING still has processes."""
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
"""States of a job that has no processes yet."""


class NoAnswer(Exception):
    """One of Slurm's commands failed: its text is what the command said."""


class Queued(NamedTuple):
    """A job as squeue shows it."""

    job: str
    state: str
    reason: str
    partition: str
    nodes: str
    name: str
    comment: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.state in ENDED

    @property
    def what(self) -> str:
        """The rule and the batch, from the comment that Snakemake's plugin leaves, as in ``denoise b00001``."""
        match = re.fullmatch(r"rule_(\w+?)(?:_wildcards_(.*))?", self.comment)
        return " ".join(filter(None, match.groups())) if match else "job"


def ask(*words: str, timeout_s: float = 60) -> str:
    """Return what one of Slurm's commands writes.

    Raises
    ------
    NoAnswer
        When it is not there, cannot be started, fails, or does not end in time.
    """
    try:
        # a name that is no UTF-8 must not end the watch over the queue
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise NoAnswer(f"{words[0]} is not installed here") from None
    except OSError as error:
        raise NoAnswer(f"{words[0]} could not be started ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]} did not answer within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise NoAnswer((done.stderr or done.stdout).strip() or f"{words[0]} ended with {done.returncode}")
    return done.stdout


def read_queue(text: str) -> list[Queued]:
    """Return the jobs of what squeue wrote in `FORMAT`."""
    rows = (line.split("|", 6) for line in text.splitlines())
    return [Queued(*(cell.strip() for cell in row)) for row in rows if len(row) == 7]


def queue(*, name: str) -> list[Queued]:
    """Return all jobs of a name that Slurm knows, those that have ended among them.

    Raises
    ------
    NoAnswer
    """
    return read_queue(ask("squeue", "--noheader", "--states=all", f"--format={FORMAT}", f"--name={name}"))


def find(job: str) -> Queued | None:
    """Return a job by its number; None where Slurm knows none (any more) that is not over.

    Raises
    ------
    NoAnswer
        When the controller cannot be asked.
    """
    try:
        rows = read_queue(ask("squeue", "--noheader", "--states=all", f"--format={FORMAT}", f"--jobs={job}"))
    except NoAnswer as error:
        if "Invalid job id" in str(error):
            return None
        raise
    return rows[0] if rows and not rows[0].ended else None


def lives(job: str) -> bool | None:
    """Return whether a job waits or runs; None where Slurm cannot be asked."""
    try:
        return find(job) is not None
    except NoAnswer:
        return None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended meanwhile are no error.

    Raises
    ------
    NoAnswer
    """
    jobs = list(jobs)
    for first in range(0, len(jobs), 500):
        try:
            ask("scancel", *jobs[first : first + 500])
        except NoAnswer as error:
            if "Invalid job id" not in str(error):
                raise


def cancel_and_wait(job: str, what: str, say: Callable[[str], None], limit_s: float = 900) -> bool:
    """Cancel a job if it lives, and wait until none of its processes can write any more.

    Parameters
    ----------
    job : str
        Its number.
    what : str
        Its stage and batch. A job of this number that is plainly for another batch is another one: numbers begin again when
        a controller loses its state.
    say : callable
        Told what is cancelled and waited for.
    limit_s : float
        How long at most; a controller that does not answer is asked again until then.

    Returns
    -------
    bool
        Whether it is gone. Where Slurm's commands are not installed this is taken for true: a head process has looked before.
    """
    until, cancelled, heard, pause_s = time.monotonic() + limit_s, False, "", 0.5
    while time.monotonic() < until:
        try:
            found = find(job)
            if found is None or (" b" in found.what and found.what != what):
                return True
            if not cancelled:
                cancel([job])
                say(f"cancels Slurm job {job} ({found.state}), left over from a run that was killed, and waits until it is gone")
                cancelled = True
        except NoAnswer as error:
            if "not installed" in str(error):
                return True
            if str(error) != heard:
                heard = str(error)
                say(f"waits, since Slurm does not say whether job {job} of a run that was killed still writes ({heard})")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 15)
    return False
