"""A copy of the workflow whose stage functions take a given time and tell when they begin and end; everything else is the workflow itself.

Used by `benchmarks.overhead` and `benchmarks.faults`. The time is slept, not computed, so that it is the same on a busy machine.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Told(NamedTuple):
    """A line that a padded function wrote: when (seconds of the epoch), begin or end, stage, item, and the process that called it."""

    time: float
    what: str
    stage: str
    item: str
    pid: int


def copy_workflow(folder: Path, seconds: float, told: Path) -> Path:
    """Make the copy.

    Parameters
    ----------
    folder : Path
        Made by this function.
    seconds : float
        What a call of a stage's function takes at least.
    told : Path
        A file to which every call appends when it begins and when it ends.

    Returns
    -------
    Path
        Its Snakefile.
    """
    folder.mkdir(parents=True)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("rules", "scripts"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("cohortex", "schemas", "zoo", "envs", "profiles", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for script in (folder / "scripts").glob("*.py"):
        text = script.read_text(encoding="utf-8")
        if "run_stage(snakemake, " in text:
            stage = script.stem
            call = f"padded({stage}, {stage!r}, {seconds!r}, {str(told)!r})"
            text = text.replace(f"run_stage(snakemake, {stage}", f"run_stage(snakemake, {call}")
            script.write_text(
                text.replace("from cohortex.stage import", "from benchmarks.padded import padded\nfrom cohortex.stage import")
            )
    return folder / "Snakefile"


def padded(function: Callable[..., Any], stage: str, seconds: float, told: str) -> Callable[..., Any]:
    """Return a stage's function that takes at least `seconds` and tells of it in the file `told`."""

    def tell(what: str, item: str) -> None:
        line = f"{time.time():.3f}\t{what}\t{stage}\t{item}\t{os.getpid()}\n".encode()
        descriptor = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        os.write(descriptor, line)
        os.close(descriptor)

    def slow(images: Any, settings: Any, model: Any, seed: int) -> Any:
        item = images.id if hasattr(images, "id") else images[0].subject
        started = time.monotonic()
        tell("begin", item)
        made = function(images, settings, model, seed)
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))
        tell("end", item)
        return made

    return slow


def read_told(told: Path) -> list[Told]:
    """Return what the padded functions wrote, in the order of time."""
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    parts = (line.split("\t") for line in lines)
    return sorted(Told(float(when), what, stage, item, int(pid)) for when, what, stage, item, pid in parts)
