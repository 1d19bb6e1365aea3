"""Jobs that outlive their head process: a new run finds them by their run and lets none write beside its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cohortex.errors import Refused
from cohortex.slurm import WAITING, NoAnswer, Queued, cancel, queue

SAY_AGAIN_S = 600
"""A wait is told again after this time, and whenever it changes."""


def runs_file(config: Mapping[str, Any]) -> Path:
    """Return the file that lists the runs on Slurm whose jobs may still be there: a line each, the name of their jobs in Slurm."""
    return Path(config["work"]) / ".slurm_runs"


def note_run(config: Mapping[str, Any], run: str) -> None:
    """Write down that jobs of this name work in the work folder, before the first is submitted."""
    file = runs_file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{run}\n")


def forget_runs(config: Mapping[str, Any]) -> None:
    """After a run whose jobs have all ended: nothing is left to be looked for."""
    runs_file(config).unlink(missing_ok=True)


def _told(jobs: list[Queued]) -> str:
    named = ", ".join(f"{job.job} ({job.what} on {job.nodes})" for job in jobs[:5])
    return named + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")


def let_old_jobs_end(config: Mapping[str, Any], say: Callable[[str], None], pause_s: float = 5) -> None:
    """Cancel what still waits in the queue for runs that were killed, and wait for what runs.

    A job that runs is not cancelled: what it finishes stays in its running folder, and the new run takes it from there.

    Parameters
    ----------
    config : mapping
    say : callable
        Told what is cancelled and waited for.
    pause_s : float
        Time between two looks; grows to 60 s.

    Raises
    ------
    Refused
        When Slurm has no commands here, so that nobody can say whether such jobs still write.
    """
    try:
        runs = dict.fromkeys(filter(None, runs_file(config).read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        return
    said, said_at = "", 0.0
    while runs:
        words, alive = "", []
        try:
            for run in list(runs):
                jobs = [job for job in queue(name=run) if not job.ended]
                alive += jobs
                if not jobs:
                    del runs[run]
            waiting = [job for job in alive if job.state in WAITING]
            if waiting:
                cancel(job.job for job in waiting)
                say(f"cancels {len(waiting)} jobs of a run that was killed, which still waited in Slurm's queue")
            running = [job for job in alive if job not in waiting]
            if running:
                words = f"waits for jobs of a run that was killed: {_told(running)}; to end them now: scancel --name={','.join(runs)}"
        except NoAnswer as error:
            if "not installed" in str(error):
                raise Refused(
                    f"jobs of an earlier run on Slurm may still write into work, and {error}: start this run where squeue works, or, if "
                    "you know that they have ended, delete .slurm_runs in the work folder"
                ) from None
            words = f"waits, since Slurm does not say whether jobs of a run that was killed still write ({error})"
        if words and (words != said or time.monotonic() - said_at > SAY_AGAIN_S):
            say(words)
            said, said_at = words, time.monotonic()
        if runs:
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, 60)
    forget_runs(config)
