"""How far a run is and how long it may still take, by what its jobs have written; works beside a run and on a cluster alike."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from cohortex.cohort import batch_sizes
from cohortex.cohort.cut import known_batches
from cohortex.items import SET_ASIDE
from cohortex.runs import read_runs
from cohortex.stages import STAGES
from cohortex.tables import read_table

FRESH = 20
"""So many of the latest items of a batch that runs say how long an item takes, where no batch has ended."""


@dataclass(frozen=True)
class Batch:
    """What the record of a batch that ended holds: how many items, their seconds, images by status, and what was set aside."""

    items: int
    seconds: float
    counts: Counter[str]
    aside: tuple[str, ...]


@dataclass
class Stage:
    """How far a stage is.

    Attributes
    ----------
    batches, ended : int
        Of the cohort, and those whose record is there.
    items, done : int
        Images or subjects, as the stage counts; in batches that ended and in those that run.
    running : mapping of str to int
        Batches that were begun and have no record, with the items that are done in each.
    item_s : float or None
        Mean seconds of an item; None where none was done.
    counts : Counter of str
        Images by status, of batches that ended.
    aside : list of str
        A line for each thing that was set aside.
    """

    name: str
    batches: int
    ended: int = 0
    items: int = 0
    done: int = 0
    running: dict[str, int] = field(default_factory=dict)
    item_s: float | None = None
    counts: Counter[str] = field(default_factory=Counter)
    aside: list[str] = field(default_factory=list)

    @property
    def left_s(self) -> float | None:
        """Seconds of work that is left, all jobs together; None where nobody knows."""
        left = self.items - self.done
        return 0.0 if left <= 0 else None if self.item_s is None else left * self.item_s


def progress(work: Path) -> list[Stage]:
    """Return how far each stage is, in the order of the last run's chain (all stages where none is known).

    Parameters
    ----------
    work : Path
        The work folder of a run, which may be going on.
    """
    batches = list(batch_sizes(work))
    return [_stage(work, name, batches) for name in _chain(work)]


def left_s(stages: Sequence[Stage]) -> tuple[float, list[str]]:
    """Return the seconds until the end if as many jobs go on as run now, and the stages of which nobody knows how long they take."""
    jobs = max(1, sum(len(stage.running) for stage in stages))
    return sum(stage.left_s or 0.0 for stage in stages) / jobs, [stage.name for stage in stages if stage.left_s is None]


def _chain(work: Path) -> list[str]:
    runs = read_runs(work)[:1]
    told = runs[0].get("config", {}).get("stages") if runs else None
    return [name for name in told if name in STAGES] if isinstance(told, list) else list(STAGES)


def _stage(work: Path, name: str, batches: Sequence[str]) -> Stage:
    found = Stage(name, len(batches))
    wanted = _wanted(work, name)
    seconds, timed = 0.0, 0
    for batch in batches:
        manifest = work / "records" / name / batch / "manifest.tsv"
        place = work / ".running" / name / batch
        if (ended := _ended(manifest, name, batch)) is not None:
            found.ended += 1
            found.items += ended.items
            found.done += ended.items
            seconds, timed = seconds + ended.seconds, timed + (ended.items if ended.seconds else 0)
            found.counts.update(ended.counts)
            found.aside += ended.aside
            continue
        found.items += wanted.get(batch, 0)
        if place.is_dir():
            done = list(place.glob("*.done.json"))
            found.running[batch] = len(done)
            found.done += len(done)
            if not timed:
                fresh = [each for path in done[-FRESH:] if (each := _seconds(path)) is not None]
                seconds, timed = seconds + sum(fresh), timed + len(fresh)
    found.item_s = seconds / timed if timed else None
    return found


def _wanted(work: Path, stage: str) -> dict[str, int]:
    """Return how many items each batch is expected to have."""
    if STAGES[stage].unit == "image":
        return {batch: size.images for batch, size in batch_sizes(work).items()}
    return dict(Counter(known_batches(work / "cohort").values()))


def _ended(manifest: Path, stage: str, batch: str) -> Batch | None:
    try:
        changed = manifest.stat().st_mtime_ns
    except OSError:
        return None
    return _read(manifest, changed, stage, batch)


@lru_cache(maxsize=100_000)
def _read(manifest: Path, changed: int, stage: str, batch: str) -> Batch | None:
    """Read a record once, however often somebody looks; `changed` is when it was written."""
    try:
        rows = read_table(manifest)
        timing = manifest.with_name("timing.tsv")
        times = [float(row["seconds"] or 0) for row in read_table(timing)] if timing.is_file() else []
    except (OSError, ValueError, KeyError):
        # another run replaces it at this moment
        return None
    images = [row for row in rows if row["kind"] == "image" and "+" not in row["image"]]
    aside = [f"{stage} {batch} {row['image']} {row['status']} {row['code']}: {row['reason']}" for row in rows if row["status"] in SET_ASIDE]
    return Batch(len(times) or len(images), sum(times), Counter(row["status"] for row in images), tuple(aside))


def _seconds(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["timing"]["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
