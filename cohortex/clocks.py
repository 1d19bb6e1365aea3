"""Clocks: of this host, of the file system that all hosts of a run share, and of the hosts that wrote what a job reads.

Snakemake goes by the time stamps of files: a job whose output is older than one of its inputs has failed, and is run again for ever
after. Stamps come from the file server or, on some parallel file systems, from the node that writes. So clocks that do not agree are
told, waited for where that suffices, and refused where it does not.

Imported at every parse of the Snakefile, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cohortex.errors import Refused
from cohortex.tables import read_table

AHEAD_S = 2.0
"""Seconds by which clocks may differ without a word: file systems round."""
BEARS_S = 60.0
"""Seconds that a job waits until the clock has passed the stamp of an input; longer it refuses."""
APART_S = 300.0
"""Seconds by which this host and the file system may differ at most; munge, by which Slurm knows its hosts, bears no more either."""
STAMP = ".snakemake_timestamp"
"""The file whose time Snakemake takes for that of a folder."""
SET_RIGHT = "set its clock right, or that of the file server (`chronyc tracking` or `timedatectl` says whether NTP keeps it)"


def tell(sentence: str) -> None:
    """Say it on standard error."""
    print(f"cohortex: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def file_clock(folder: Path) -> float:
    """Return the time, in seconds since the epoch, that the file system of a folder gives to a file that is written now."""
    file = folder / f".clock.{uuid.uuid4().hex}.tmp"
    try:
        file.write_bytes(b"now")
        return file.stat().st_mtime
    finally:
        file.unlink(missing_ok=True)


def ahead_of_files(folder: Path) -> float:
    """Return by how many seconds the clock of this host is ahead of the file system's (negative: behind), 0 within what can be told."""
    before, stamp, after = time.time(), file_clock(folder), time.time()
    return before - stamp if stamp < before else min(0.0, after - stamp)


def check_host(folder: Path, say: Callable[[str], None] = tell) -> None:
    """Compare the clock of this host with that of the file system of the work folder; more than `AHEAD_S` is told.

    Parameters
    ----------
    folder : Path
        In the work folder.
    say : callable

    Raises
    ------
    Refused
        Above `APART_S`, naming the host, by how much it is off, and what to do.
    """
    ahead = ahead_of_files(folder)
    if abs(ahead) <= AHEAD_S:
        return
    way = "ahead of" if ahead > 0 else "behind"
    off = f"{span(abs(ahead))} {way} that of the file system of the work folder"
    sentence = f"the clock of host {socket.gethostname()} is {off}: {SET_RIGHT}"
    if abs(ahead) > APART_S:
        raise Refused(f"{sentence}; more than {span(APART_S)} are not borne.")
    say(f"{sentence}; jobs bear this, but times in logs and records are off, and a job may have to wait for its input")


def check_inputs(inputs: Iterable[Path], folder: Path, say: Callable[[str], None], record: Path | None = None) -> None:
    """Wait until no input of a job is newer than now: what the job makes must not be older than what it reads.

    Parameters
    ----------
    inputs : iterable of Path
        Files, or folders with Snakemake's stamp.
    folder : Path
        In the work folder; its file system says what time it is.
    say : callable
        Told what is waited for.
    record : Path, optional
        Of the stage before, which names the host that wrote the inputs.

    Raises
    ------
    Refused
        When an input is more than `BEARS_S` ahead, naming it, the hosts and what to do.
    """
    stamps = {path: stamp for path in inputs if (stamp := stamp_of(path)) is not None}
    if not stamps:
        return
    newest = max(stamps, key=lambda path: stamps[path])
    ahead = stamps[newest] - file_clock(folder)
    if ahead <= AHEAD_S:
        return
    here, there = socket.gethostname(), writer(record)
    by = f" by host {there}" if there else ""
    found = f"{newest} was written{by} {span(ahead)} ahead of the clock of host {here}"
    hosts = f"the clocks of {here} and {there}" if there and there != here else f"the clocks of {here}, of the host that wrote it"
    remedy = f"set {hosts} and of the file server right (`chronyc tracking` or `timedatectl` says whether NTP keeps them)"
    if ahead > BEARS_S:
        file = newest / STAMP if newest.is_dir() else newest
        raise Refused(
            f"{found}, and what is made of it would be older than it, which Snakemake calls a failure: {remedy}, then touch {file} "
            "and start the same line again."
        )
    say(f"{found}, waits so long: {remedy}")
    time.sleep(ahead)


def heed_clocks(inputs: Iterable[str | Path], work: Path, say: Callable[[str], None] = tell, record: Path | None = None) -> None:
    """Do what a job does about clocks before its work, see `check_host` and `check_inputs`.

    Raises
    ------
    SystemExit
        With a sentence, where clocks are too far apart.
    """
    try:
        check_host(work, say)
        check_inputs(map(Path, inputs), work, say, record)
    except Refused as error:
        raise SystemExit(f"cohortex: {error}") from None


def stamp_of(path: Path) -> float | None:
    """Return the time that Snakemake takes for that of a file or folder; None where there is none."""
    for file in (path / STAMP, path):
        try:
            return file.stat().st_mtime
        except OSError:
            continue
    return None


def writer(record: Path | None) -> str:
    """Return the host that wrote a record, by its last row; empty where that is not known."""
    try:
        return read_table(record / "timing.tsv")[-1]["host"] if record is not None else ""
    except (OSError, IndexError, KeyError):
        return ""


def check_stamps(files: Iterable[Path], work: Path) -> None:
    """Refuse files whose time stamp lies in the future before any job: Snakemake would call every job that reads one a failure.

    Parameters
    ----------
    files : iterable of Path
    work : Path
        The work folder, whose file system says what time it is.

    Raises
    ------
    Refused
        Naming the files and what to do.
    """
    now = file_clock(work)
    ahead: list[tuple[Path, float]] = []
    for file in files:
        try:
            stamp = file.stat().st_mtime
        except OSError:
            continue
        if stamp > now + AHEAD_S:
            ahead.append((file, stamp))
    if ahead:
        file, stamp = max(ahead, key=lambda each: each[1])
        more = f" (and {len(ahead) - 1} more files like it)" if len(ahead) > 1 else ""
        raise Refused(
            f"{file}{more} has a time stamp in the future, {datetime.fromtimestamp(stamp, UTC):%Y-%m-%d %H:%M} UTC, {span(stamp - now)} "
            f"ahead of the clock of the work folder's file system, so every job that reads it would fail: set the clocks of this machine "
            f"and of its file server right, or touch the file."
        )


def read_by_jobs(config: Mapping[str, Any], models: Iterable[str], batches: Iterable[str]) -> Iterator[Path]:
    """Yield what jobs of a run read and a run before may have left: tables of batches, model folders, folders of stages."""
    work = Path(config["work"])
    yield from map(Path, models)
    folders = [folder for folder in (work / "demo", *(work / stage for stage in config["stages"])) if folder.is_dir()]
    for batch in batches:
        yield work / "cohort" / "batches" / f"{batch}.tsv"
        yield from (folder / batch / STAMP for folder in folders)


def span(seconds: float) -> str:
    """Return a length of time in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
