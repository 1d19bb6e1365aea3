"""Reads results again and compares them with what the run noted."""

from __future__ import annotations

import json
from pathlib import Path

from cohortex.errors import Refused
from cohortex.io.dataset import LISTS
from cohortex.publish import file_sha256
from cohortex.tables import read_table


def verify(results: Path) -> tuple[int, list[str]]:
    """Compare every exported file with its sum.

    Parameters
    ----------
    results : Path
        The output folder of a run.

    Returns
    -------
    count : int
        Files that should be there.
    problems : list of str
        One sentence for each file that is missing, changed, or not known.

    Raises
    ------
    Refused
        When these are no results.
    """
    lists = sorted((results / LISTS).glob("*.json"))
    if not lists:
        raise Refused(f"{results} has no list of files in {LISTS}; name the output folder of a run that has exported something.")
    problems: list[str] = []
    sums: dict[str, str] = {}
    for path in lists:
        try:
            sums |= json.loads(path.read_text(encoding="utf-8"))["files"]
        except (ValueError, KeyError):
            problems.append(f"{LISTS / path.name} cannot be read; run the export of {path.stem} again.")
    for name, told in _manifest(results).items():
        if sums.setdefault(name, told) != told:
            problems.append(f"{name} has another sum in manifest.tsv than in the list of its subject; run its export again.")
    for name, told in sorted(sums.items()):
        file = results / name
        if not file.is_file():
            problems.append(f"{name} is missing.")
        elif file_sha256(file) != told:
            problems.append(f"{name} is not what the run wrote.")
    known = sums.keys()
    for folder in sorted(results.glob("sub-*")):
        names = sorted(path.relative_to(results).as_posix() for path in folder.rglob("*") if path.is_file())
        problems += [f"{name} was not written by the run, or by one that did not end." for name in names if name not in known]
    return len(sums), problems


def _manifest(results: Path) -> dict[str, str]:
    path = results / "manifest.tsv"
    rows = read_table(path) if path.is_file() else []
    return {row["export.exported"]: row["export.exported_sha256"] for row in rows if row.get("export.exported")}
