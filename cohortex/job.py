"""A job in plain words, how it tells of its progress, and how it takes over what a killed one left."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohortex.errors import Refused
from cohortex.owner import SLURM_JOB, alive, myself, read_owner
from cohortex.publish import NO_SPACE, sweep, write_json
from cohortex.slurm import cancel_and_wait
from cohortex.stages import STAGES

ORPHAN_S = 3600.0
"""A job waits for an orphan at most so long, and at most half of its own time."""


@dataclass(frozen=True)
class Job:
    """One stage on one batch, in plain words (made from Snakemake's object by `run_stage`)."""

    stage: str
    batch: str
    table: Path
    before: Path | None
    before_record: Path | None
    images: Path | None
    record: Path
    running: Path
    log: Path | None
    section: Mapping[str, Any]
    models: Mapping[str, Mapping[str, str]]
    seed: int
    device: str
    threads: int
    last_attempt: bool = False
    deadline_s: float = float("inf")
    blocks: Mapping[str, Any] = field(default_factory=dict)
    memory_mb: float = 0.0
    slices: int = 0


def job_from(snakemake: Any) -> Job:
    """Translate Snakemake's object."""
    given = snakemake.params
    stage, batch = snakemake.rule, snakemake.wildcards.batch
    work_folder = Path(given.work)
    inputs, outputs, resources = dict(snakemake.input.items()), dict(snakemake.output.items()), snakemake.resources
    section = json.loads(given.settings)
    if stage == "export":
        section["results"] = given.results
    runtime_s = float(resources.get("runtime", 0) or 0) * 60
    return Job(
        stage=stage,
        batch=batch,
        table=work_folder / "cohort" / "batches" / f"{batch}.tsv",
        before=Path(inputs["images"]) if "images" in inputs else None,
        before_record=Path(inputs["before"]) if "before" in inputs else None,
        images=Path(outputs["images"]) if "images" in outputs else None,
        record=Path(outputs["record"]),
        running=work_folder / ".running" / stage / batch,
        log=Path(snakemake.log[0]) if snakemake.log else None,
        section=section,
        models=json.loads(given.get("models", "{}")),
        seed=int(given.seed),
        device=resources.get("device", "auto"),
        threads=snakemake.threads,
        last_attempt=bool(resources.get("last_attempt", 0)),
        deadline_s=0.9 * runtime_s if runtime_s else float("inf"),
        # no part of params: how a volume is cut changes no result, and how many slices are shown none but a picture
        blocks=dict(getattr(snakemake, "config", {}).get("blocks", {})),
        slices=int(getattr(snakemake, "config", {}).get("report", {}).get("slices", 0)),
        memory_mb=float(resources.get("mem_mb", 0) or 0),
    )


class Log:
    """Progress, to the job's log and to standard error."""

    def __init__(self, job: Job):
        self.job = job
        if job.log:
            job.log.parent.mkdir(parents=True, exist_ok=True)
        # Appended, so that the log tells the story of an attempt that was killed, too.
        self.line(f"started with {job.threads} threads{_where()}")

    def write(self, text: str) -> None:
        """Append to the log alone."""
        if not self.job.log:
            return
        try:
            with self.job.log.open("a", encoding="utf-8") as file:
                file.write(text.rstrip("\n") + "\n")
        except OSError as error:
            # What does not go into the log of a full disk still goes to standard error.
            if error.errno not in NO_SPACE:
                raise

    def line(self, text: str) -> None:
        """Append to the log and show on standard error."""
        line = f"{self.job.stage} {self.job.batch} {text}"
        self.write(line)
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def progress(self, number: int, of: int, name: str, record: Mapping[str, Any]) -> None:
        """Say how far the batch is."""
        words = sorted({row["status"] for row in record["rows"]}) or ["ok"]
        bar = "#" * round(20 * number / of) + "." * (20 - round(20 * number / of))
        self.line(f"[{bar}] {number}/{of} {name} {','.join(words)} {record['timing']['seconds']:.1f} s")


def _where() -> str:
    """Return the Slurm job, node and GPUs of this process, as they are needed to ask about a job afterwards."""
    if not SLURM_JOB:
        return ""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f" in Slurm job {SLURM_JOB} on {os.environ.get('SLURMD_NODENAME', socket.gethostname())}" + (f" with GPU {gpus}" if gpus else "")


def task_of(job: Job) -> str:
    """Return a hash of what a job does with its batch: another process with the same one makes the same files."""
    told = [job.stage, STAGES[job.stage].version, job.batch, job.section, job.models, job.seed]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def become_owner(running: Path, name: str, line: Callable[[str], None], task: str = "", most_s: float = ORPHAN_S) -> None:
    """Take over the running folder from what a killed run left working in it.

    A Slurm job, on whatever node, is cancelled and waited for. A process on this host may finish what this one would do in the same
    way, or is ended.

    Parameters
    ----------
    running : Path
    name : str
        Of what is done, stage and batch, as a Slurm job is called.
    line : callable
        Told what is done with an orphan.
    task : str
        See `task_of`; an orphan without one, or with another, is ended.
    most_s : float
        How long an orphan is waited for.

    Raises
    ------
    Refused
        When Slurm does not say whether the job that had the folder is gone.
    """
    import psutil

    running.mkdir(parents=True, exist_ok=True)
    file = running / "owner.json"
    owner = read_owner(file)
    # The whole job, since the Snakemake around a killed script would still delete the outputs.
    job = owner.get("slurm_job") or SLURM_JOB
    if job != SLURM_JOB and not cancel_and_wait(job, name, line):
        raise Refused(f"Slurm job {job} may still write into {running.name}, and Slurm does not say so: scancel {job}, and run again.")
    here = owner.get("host") == socket.gethostname() and owner.get("pid") != os.getpid()
    same = bool(task) and owner.get("task") == task
    if here and alive(owner) and not (same and _finishes(owner, min(most_s, ORPHAN_S), line)):
        line(f"ends process {owner['pid']}, left over from a run that was killed")
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(owner["pid"])
            for member in [*process.children(recursive=True), process]:
                member.kill()
            process.wait(10)
    write_json(file, {**myself(), "task": task})
    sweep(running)


def _finishes(owner: Mapping[str, Any], most_s: float, line: Callable[[str], None]) -> bool:
    """Let an orphan on this host finish; return whether it did so in fair time."""
    import psutil

    line(f"waits up to {most_s:.0f} s for process {owner['pid']}, which goes on with this batch although its run was killed")
    until = time.monotonic() + most_s
    try:
        process = psutil.Process(owner["pid"])
        while alive(owner) and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
    except psutil.NoSuchProcess:
        pass
    return True
