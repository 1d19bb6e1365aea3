"""The record of runs: one small file a run under ``<work>/runs``, written when it begins and completed when it ends."""

from __future__ import annotations

import getpass
import hashlib
import json
import platform
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cohortex.config import canonical
from cohortex.owner import alive, myself
from cohortex.publish import write_json

COUNTS = "report/counts.json"
"""What the report counted, below the results: the last word on the images of the cohort."""


def begin_run(config: Mapping[str, Any]) -> Path:
    """Write down who began which run, when, with what configuration and software.

    Parameters
    ----------
    config : mapping
        The configuration as checked; ``user`` is who runs it, null the name that the operating system knows.

    Returns
    -------
    Path
        The record. Until `complete_run` its ``ended`` is null, so a run that was killed is seen as unfinished.
    """
    from cohortex import __version__
    from cohortex.cohort import batch_sizes, run_batches
    from cohortex.stage import versions

    settings = canonical(config)
    batches, sizes = run_batches(config["work"]), batch_sizes(config["work"])
    now = datetime.now(UTC)
    record = {
        "started": _stamp(now),
        "ended": None,
        "seconds": None,
        "exit": None,
        "user": config.get("user") or user(),
        "process": myself(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "config": json.loads(settings),
        "config_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "software": {"cohortex": __version__, "python": platform.python_version(), **versions()},
        "batches": len(batches),
        "cohort_batches": len(sizes),
        "batch_images": sum(sizes[batch].images for batch in batches),
        "images": None,
    }
    file = Path(config["work"]) / "runs" / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.json"
    write_json(file, record)
    return file


def complete_run(config: Mapping[str, Any], success: bool) -> None:
    """Write into this process's record how its run ended, how long it took and how many images have which status by now.

    Parameters
    ----------
    success : bool
        Whether Snakemake says that all jobs went through.
    """
    me = myself()
    for file in sorted((Path(config["work"]) / "runs").glob("*.json"), reverse=True):
        record = _read(file)
        if record.get("process") == me and record.get("ended") is None:
            now = datetime.now(UTC)
            record |= {"ended": _stamp(now), "exit": "success" if success else "failure"}
            record["seconds"] = round((now - datetime.fromisoformat(record["started"])).total_seconds(), 1)
            record["images"] = _read(Path(config["output"]) / COUNTS) or None
            write_json(file, record)
            return


def read_runs(work: Path) -> list[dict[str, Any]]:
    """Return the records of all runs on a work folder, the latest first; what cannot be read is left out."""
    found = [_read(file) for file in (work / "runs").glob("*.json")]
    return sorted((record for record in found if "started" in record), key=lambda record: record["started"], reverse=True)


def how_it_ended(record: Mapping[str, Any]) -> str:
    """Say in a few words how a run ended, or that it goes on."""
    if record.get("ended"):
        return "went through" if record["exit"] == "success" else "ended with an error"
    living = alive(record.get("process", {}))
    if living is None:
        return f"goes on, or was killed (it was begun on {record.get('process', {}).get('host', 'another machine')})"
    return "goes on" if living else "was killed, or its machine went down"


def status_words(images: Mapping[str, int] | None) -> str:
    """Return what a record says of the images, such as ``14 ok, 2 quarantined``."""
    return ", ".join(f"{count} {status}" for status, count in sorted((images or {}).items()))


def user() -> str:
    """Return the name of this process's user, or the number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        import os

        return str(os.getuid())


def _stamp(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
