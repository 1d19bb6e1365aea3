"""Start the processes of one training and watch over them: all live, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cohortex.run import use_package_of
from cohortex.training.limit import SIGNALS, TRY_AGAIN

GRACE_S = 30.0
"""How long the others may take to end by themselves after one has ended with an error."""

OF_THE_JOB = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CLUSTER_NAME", "SLURM_CONF", "SLURM_SUBMIT_DIR", "SLURM_SUBMIT_HOST")
"""Slurm's variables that name the job; those of the step in which this process runs would bind the new one."""


def launch(order: Path, folder: Path, processes: int, nodes: int, threads: int, environment: Mapping[str, str] = os.environ) -> int:
    """Start the processes of a training and wait for them.

    Signals that ask this process to end go to them. When one dies, the others cannot go on and are ended.

    Parameters
    ----------
    order : Path
        The training in plain words, see `cohortex.training.run.Order`.
    folder : Path
        Where the processes find each other.
    processes, nodes : int
        On one node they are children of this process, on several Slurm starts them (``srun`` in this job's allocation).
    threads : int
        Of each.

    Returns
    -------
    int
        The exit status of the training.
    """
    use_package_of(str(Path(__file__).resolve().parents[2]))
    place = folder / f".meeting.{uuid.uuid4().hex}.tmp"
    member = [sys.executable, "-m", "cohortex.training.member", str(order), str(place)]
    if nodes == 1:
        commands, inherited = [[*member, str(rank)] for rank in range(processes)], dict(environment)
    else:
        commands, inherited = [over_nodes(member, processes, nodes, threads, environment)], without_step(environment)
    began = [subprocess.Popen(command, env={**inherited, "PYTHONPATH": os.environ["PYTHONPATH"]}) for command in commands]
    # srun ends its step on SIGTERM; SIGUSR1 it hands on.
    before = {each: signal.signal(each, lambda number, frame: _tell(began, number if nodes == 1 else signal.SIGUSR1)) for each in SIGNALS}
    try:
        return watch(began, GRACE_S)
    finally:
        for process in began:
            if process.poll() is None:
                process.kill()
                process.wait()
        for each, handler in before.items():
            signal.signal(each, handler)
        place.unlink(missing_ok=True)


def over_nodes(member: Sequence[str], processes: int, nodes: int, threads: int, environment: Mapping[str, str]) -> list[str]:
    """Return the line by which Slurm starts the processes on all nodes of this job, beside the step that runs this process."""
    return [
        "srun",
        f"--jobid={environment.get('SLURM_JOB_ID', '')}",
        "--overlap",
        f"--nodes={nodes}",
        f"--ntasks={processes}",
        f"--ntasks-per-node={processes // nodes}",
        f"--cpus-per-task={threads}",
        "--kill-on-bad-exit=0",
        *member,
    ]


def without_step(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables of the Slurm step that this process is."""
    ours = {name: value for name, value in environment.items() if not name.startswith(("SLURM_", "SRUN_"))}
    return ours | {name: environment[name] for name in OF_THE_JOB if name in environment}


def watch(processes: Sequence[subprocess.Popen[bytes]], grace_s: float) -> int:
    """Wait for processes that need each other; return 0, or the exit status by which the training ended.

    An error of the training comes from all of them, each with its status; a death comes from one, and the others get `grace_s` to notice.
    """
    until = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if any(codes) and until == float("inf"):
            until = time.monotonic() + grace_s
        if None not in codes or time.monotonic() > until:
            break
        time.sleep(0.05)
    if not any(codes):
        return 0
    dead = [(rank, code) for rank, code in enumerate(codes) if code is not None and code < 0]
    for rank, code in dead:
        print(  # noqa: T201
            f"cohortex: process {rank + 1} of {len(processes)} of the training was ended by {signal.Signals(-code).name} (often: out of "
            "memory); the training goes on from its last checkpoint when the job is started again.",
            file=sys.stderr,
            flush=True,
        )
    if TRY_AGAIN in codes and not dead:
        return TRY_AGAIN
    return next((code for code in codes if code and code > 0), 1)


def _tell(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(number)
