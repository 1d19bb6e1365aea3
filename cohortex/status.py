"""How far a run is, by its records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cohortex.cohort import batch_sizes
from cohortex.errors import Refused
from cohortex.items import SET_ASIDE
from cohortex.runs import how_it_ended, read_runs, status_words
from cohortex.stages import STAGES
from cohortex.tables import read_table

NAMED = 50
"""So many things that were set aside are named."""


def status(work: Path) -> Iterator[str]:
    """Yield lines for the user: the last run, each stage's batches and images, then what was set aside.

    Parameters
    ----------
    work : Path
        The work folder of a run, which may be going on.

    Raises
    ------
    Refused
        When it holds no cohort.
    """
    if not (work / "cohort" / "index.json").is_file():
        raise Refused(f"{work} holds no cohort; name the work folder of a run.")
    sizes = batch_sizes(work)
    yield from _last_run(work)
    yield f"{sum(size.images for size in sizes.values())} images in {len(sizes)} batches"
    aside: list[str] = []
    for stage in STAGES:
        lines, found = _stage(work, stage, list(sizes))
        yield from lines
        aside += found
    yield f"{len(aside)} set aside" + (":" if aside else "")
    yield from aside[:NAMED]
    if len(aside) > NAMED:
        yield f"... and {len(aside) - NAMED} more, see the report"


def _last_run(work: Path) -> Iterator[str]:
    for run in read_runs(work)[:1]:
        took = "" if run.get("seconds") is None else f" after {run['seconds']:.0f} s"
        images = f": {status_words(run['images'])}" if run.get("images") else ""
        part = f", {run['batches']} of {run['cohort_batches']} batches" if run.get("batches") != run.get("cohort_batches") else ""
        who = f"{run.get('user', '')} on {run.get('process', {}).get('host', '')}"
        yield f"last run: begun {run['started'][:19].replace('T', ' ')} UTC by {who}{part}; {how_it_ended(run)}{took}{images}"


def _stage(work: Path, stage: str, batches: list[str]) -> tuple[list[str], list[str]]:
    folder = work / "records" / stage
    running = work / ".running" / stage
    counts: Counter[str] = Counter()
    aside: list[str] = []
    done = 0
    begun: list[str] = []
    for batch in batches:
        manifest = folder / batch / "manifest.tsv"
        if manifest.is_file():
            done += 1
            rows = read_table(manifest)
            counts.update(row["status"] for row in rows if row["kind"] == "image" and "+" not in row["image"])
            aside += [
                f"  {stage} {batch} {row['image']} {row['status']} {row['code']}: {row['reason']}"
                for row in rows
                if row["status"] in SET_ASIDE
            ]
        elif (running / batch).is_dir():
            begun.append(f"  {batch}: {sum(1 for _ in (running / batch).glob('*.done.json'))} done and going on, or ended")
    if not done and not begun:
        return ([f"{stage:<13}not begun"] if folder.parent.is_dir() else []), []
    words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return [f"{stage:<13}{done} of {len(batches)} batches" + (f": {words}" if words else ""), *begun], aside
