"""What the official BIDS validator makes of the results: part of `benchmarks.report`.

The demo and every real cohort of the optional folder ../shared/data go through acquire, preprocess and export, and the validator
(bids-validator-deno, offline) reads what came out. Its errors count, its warnings are shown.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.real import rows_of, write_rows
from benchmarks.record import Table
from benchmarks.workflow import command, environment
from cohortex.tables import read_table

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")
STAGES = "stages=[acquire,preprocess,export]"
SUFFIXES = "select={suffix: [T1w, T2w, FLAIR, PDw, MTw, dwi, CT, US]}"


def bids_issues(results: Path) -> list[dict[str, Any]]:
    """Return what the BIDS validator finds in a folder: ``severity``, ``code``, ``location`` and more.

    Raises
    ------
    SystemExit
        It cannot be run.
    """
    done = subprocess.run([VALIDATOR, "--format", "json", results], capture_output=True, text=True, env=environment(), check=False)
    try:
        return json.loads(done.stdout)["issues"]["issues"]
    except (ValueError, KeyError):
        raise SystemExit(f"{VALIDATOR.name} gave no answer on {results.name}: {done.stderr[-500:]}") from None


def bids_errors(results: Path) -> list[str]:
    """Return the errors of the BIDS validator, each with the file that it is about."""
    return [f"{issue['code']} {issue.get('location', '')}" for issue in bids_issues(results) if issue["severity"] == "error"]


def exported(name: str, folder: Path, *settings: str) -> Path:
    """Run a cohort through acquisition, preprocessing and export; return its results."""
    folder.mkdir(parents=True, exist_ok=True)
    # how much was set aside is not what is asked here
    words = [*command(), "--config", STAGES, "quarantine={tolerate: 1}", "device=cpu", *settings]
    with (folder / "benchmark.log").open("ab") as log:
        done = subprocess.run(words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{name} did not go through, see {folder / 'benchmark.log'}")
    return folder / "results"


def validator(folder: Path, subjects: int, data: Path) -> tuple[Table, dict[str, float]]:
    """Return what the validator finds, cohort by cohort, and how many errors there are in all."""
    table = Table({"cohort": "", "images": "d", "files": "d", "errors": "d", "warnings": "d", "what is warned of": ""})
    runs: dict[str, list[str]] = {"demo (simulated)": [f"demo={{subjects: {subjects}}}"]}
    for name, rows in rows_of(data).items() if data.is_dir() else ():
        there = [row for row in rows if Path(row[3]).exists()]
        if there:
            runs[name] = [f"input={write_rows(folder / 'tables' / f'{name}.tsv', there)}", SUFFIXES]
    total = 0
    for number, (name, settings) in enumerate(runs.items()):
        results = exported(name, folder / f"run{number}", *settings)
        issues = bids_issues(results)
        errors = bids_errors(results)
        warned = Counter(str(issue["code"]) for issue in issues if issue["severity"] == "warning")
        images = sum(row["kind"] == "image" and row["status"] in ("ok", "warned") for row in read_table(results / "manifest.tsv"))
        files = sum(path.is_file() for path in results.rglob("*"))
        table.add(name, images, files, len(errors), sum(warned.values()), ", ".join(sorted(warned)))
        for error in errors:
            print(f"{name}: {error}", flush=True)
        total += len(errors)
    return table, {"validator_errors": total}
