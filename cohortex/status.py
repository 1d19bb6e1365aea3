"""What `cohortex status` says: how far a run is, how long it may still take, what was set aside; once, or again and again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cohortex.cohort import batch_sizes
from cohortex.errors import Refused
from cohortex.progress import Stage, left_s, progress
from cohortex.runs import how_it_ended, read_runs, status_words

if TYPE_CHECKING:
    from rich.console import Group

NAMED = 50
"""So many things that were set aside are named."""
NAMED_LIVE = 8
"""So many of the latest ones while a run is watched."""


def status(work: Path) -> Iterator[str]:
    """Yield lines for the user: the last run, each stage's batches and images, the time left, then what was set aside.

    Parameters
    ----------
    work : Path
        The work folder of a run, which may be going on.

    Raises
    ------
    Refused
        When it holds no cohort.
    """
    sizes = _sizes(work)
    yield from _last_run(work)
    yield f"{sum(sizes)} images in {len(sizes)} batches"
    stages = progress(work)
    recorded = (work / "records").is_dir()
    for stage in stages:
        yield from _lines(stage, recorded)
    if any(stage.running for stage in stages):
        yield _time_left(stages)
    aside = [line for stage in stages for line in stage.aside]
    yield f"{len(aside)} set aside" + (":" if aside else "")
    yield from (f"  {line}" for line in aside[:NAMED])
    if len(aside) > NAMED:
        yield f"... and {len(aside) - NAMED} more, see the report"


def follow(work: Path, every_s: float) -> None:
    """Show the same on the terminal, drawn anew every so many seconds, until the run has ended or the user interrupts.

    Parameters
    ----------
    work : Path
        As `status` has it; the run may be one of this machine or of a cluster.
    every_s : float
    """
    from rich.console import Console
    from rich.live import Live

    _sizes(work)
    console = Console(file=sys.stdout)
    with Live(picture(work), console=console, auto_refresh=False) as live:
        while True:
            live.update(picture(work), refresh=True)
            if _ended(work):
                return
            time.sleep(every_s)


def picture(work: Path) -> Group:
    """Return what `follow` draws: a line for each stage with its bar, the time left, and what was set aside last."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    stages = progress(work)
    table = Table(box=None, pad_edge=False, expand=False)
    for name in ("stage", "", "batches", "running", "items", "s an item", "images"):
        table.add_column(name, justify="left" if name in ("stage", "", "images") else "right", no_wrap=name != "images")
    for stage in stages:
        words = ", ".join(f"{count} {name}" for name, count in sorted(stage.counts.items()))
        table.add_row(
            stage.name,
            ProgressBar(total=max(stage.items, 1), completed=stage.done, width=24),
            f"{stage.ended}/{stage.batches}",
            str(len(stage.running) or ""),
            f"{stage.done}/{stage.items}",
            "" if stage.item_s is None else f"{stage.item_s:.1f}",
            words,
        )
    aside = [line for stage in stages for line in stage.aside]
    # no markup: reasons are text of the data
    lines = [*_last_run(work), _time_left(stages), f"{len(aside)} set aside" + (":" if aside else "")]
    return Group(table, *(Text(line) for line in [*lines, *(f"  {line}" for line in aside[-NAMED_LIVE:])]))


def _sizes(work: Path) -> list[int]:
    """Return the images of every batch."""
    if not (work / "cohort" / "index.json").is_file():
        raise Refused(f"{work} holds no cohort; name the work folder of a run.")
    return [size.images for size in batch_sizes(work).values()]


def _ended(work: Path) -> bool:
    """Return whether the last run is known to go on no more."""
    return any(not how_it_ended(run).startswith("goes on") for run in read_runs(work)[:1])


def _last_run(work: Path) -> Iterator[str]:
    for run in read_runs(work)[:1]:
        took = "" if run.get("seconds") is None else f" after {run['seconds']:.0f} s"
        images = f": {status_words(run['images'])}" if run.get("images") else ""
        part = f", {run['batches']} of {run['cohort_batches']} batches" if run.get("batches") != run.get("cohort_batches") else ""
        who = f"{run.get('user', '')} on {run.get('process', {}).get('host', '')}"
        yield f"last run: begun {run['started'][:19].replace('T', ' ')} UTC by {who}{part}; {how_it_ended(run)}{took}{images}"


def _lines(stage: Stage, recorded: bool) -> list[str]:
    if not stage.ended and not stage.running:
        return [f"{stage.name:<13}not begun"] if recorded else []
    words = ", ".join(f"{count} {name}" for name, count in sorted(stage.counts.items()))
    speed = "" if stage.item_s is None else f"; {stage.item_s:.1f} s an item"
    head = f"{stage.name:<13}{stage.ended} of {stage.batches} batches" + (f": {words}" if words else "") + (speed if stage.running else "")
    return [head, *(f"  {batch}: {done} done and going on, or ended" for batch, done in stage.running.items())]


def _time_left(stages: list[Stage]) -> str:
    """Say how long it may still take; what no batch has shown yet is named."""
    seconds, unknown = left_s(stages)
    jobs = sum(len(stage.running) for stage in stages)
    if len(unknown) == len(stages):
        return "time left: not known yet"
    more = f", and what {', '.join(unknown)} will take" if unknown else ""
    return f"time left: about {_spoken(seconds)} with {max(jobs, 1)} job{'s' if jobs > 1 else ''} at once{more}"


def _spoken(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
