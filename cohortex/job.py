"""A job in plain words, how it tells of its progress, and how it takes over what a killed one left."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohortex.owner import alive, myself
from cohortex.publish import NO_SPACE, sweep, write_json


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
        # no part of params: how a volume is cut changes no result
        blocks=dict(getattr(snakemake, "config", {}).get("blocks", {})),
    )


class Log:
    """Progress, to the job's log and to standard error."""

    def __init__(self, job: Job):
        self.job = job
        if job.log:
            job.log.parent.mkdir(parents=True, exist_ok=True)
        # Appended, so that the log tells the story of an attempt that was killed, too.
        self.line(f"started with {job.threads} threads")

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


def become_owner(running: Path, log: Log) -> None:
    """Take over the running folder; end an orphan of a killed run that still works in it on this host."""
    import psutil

    running.mkdir(parents=True, exist_ok=True)
    file = running / "owner.json"
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        owner = {}
    if alive(owner) and owner["pid"] != os.getpid():
        log.line(f"ends process {owner['pid']}, left over from a run that was killed")
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(owner["pid"])
            for member in [*process.children(recursive=True), process]:
                member.kill()
            process.wait(10)
    write_json(file, {**myself(), "slurm_job": os.environ.get("SLURM_JOB_ID", "")})
    sweep(running)
