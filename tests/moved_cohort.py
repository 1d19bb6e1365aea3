"""Changes the records of a fake cohort: several scanners, one of them elsewhere, days of acquisition, a jump at one of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from cohortex.report.page import write_report
from cohortex.tables import read_table, write_table
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort

FIRST = date(2021, 3, 1)
SCANNERS = ("alpha", "beta", "gamma")
JUMP_AT = 0.5
"""Part of the subjects after which the noise before denoising jumps on the first scanner."""


def rewrite(table: Path, change: Callable[[dict[str, str]], Mapping[str, object]], columns: tuple[str, ...] = ()) -> None:
    """Put what `change` returns for a row into every row of a table."""
    rows = [{**row, **change(row)} for row in read_table(table)]
    write_table(table, [*dict.fromkeys([*rows[0], *columns])], rows)


def move(work: Path, dates: str = "given") -> Path:
    """Spread subjects over three scanners of two sites, a day apart each, and move what two of the scanners measure.

    Scanner gamma has 1.3 times the volumes of the others; on alpha the noise jumps by 10 in the middle of the time. The subjects have an
    age, which takes 4 ml a year from the volumes, a sex and a group.
    """
    names = sorted({row["subject"] for row in read_table(work / "cohort" / "cohort.tsv")})
    number = {name: place for place, name in enumerate(names)}

    def scanner(subject: str) -> str:
        return SCANNERS[number[subject] % 3]

    def told(row: dict[str, str]) -> dict[str, object]:
        machine = scanner(row["subject"])
        return {"scanner": machine, "site": "Ulm" if machine == "gamma" else "Bern", "dates": dates}

    rewrite(work / "cohort" / "cohort.tsv", told)
    generator = np.random.default_rng(11)
    people = [
        {
            "subject": name,
            "age": round(float(generator.uniform(20, 80)), 1),
            "sex": "fm"[place % 2],
            "group": ("patient", "control")[place % 4 > 1],
        }
        for name, place in number.items()
    ]
    write_table(work / "cohort" / "participants.tsv", list(people[0]), people)
    ages = {row["subject"]: row["age"] for row in people}
    for manifest in sorted((work / "records" / "acquire").glob("*/manifest.tsv")):
        rewrite(manifest, lambda row: {"date": (FIRST + timedelta(days=number[row["subject"]])).isoformat()})
    late = JUMP_AT * len(names)
    for manifest in sorted((work / "records" / "denoise").glob("*/manifest.tsv")):

        def noisier(row: dict[str, str]) -> dict[str, object]:
            jumps = row["sigma_before"] and scanner(row["subject"]) == "alpha" and number[row["subject"]] >= late
            return {"sigma_before": float(row["sigma_before"]) + 10} if jumps else {}

        rewrite(manifest, noisier)
    for manifest in sorted((work / "records" / "regseg").glob("*/manifest.tsv")):

        def volumes(row: dict[str, str]) -> dict[str, object]:
            if not row["image"].endswith("+seg"):
                return {}
            factor = 1.3 if scanner(row["subject"]) == "gamma" else 1.0
            size = factor * (1500 - 4 * float(ages[row["subject"]]))
            return {
                f"volume_{name}_ml": size * share + generator.normal(0, 20) for name, share in (("grey", 0.5), ("white", 0.4), ("csf", 0.1))
            }

        rewrite(manifest, volumes, ("volume_grey_ml", "volume_white_ml", "volume_csf_ml"))
    return work


def begin(work: Path, name: str) -> None:
    """Write the record of a run that began at a time (``20261127T054500Z``)."""
    (work / "runs").mkdir(exist_ok=True)
    (work / "runs" / f"{name}-000000.json").write_text(json.dumps({"started": name, "ended": None, "seconds": None, "exit": None}))


def write_second_report(folder: Path) -> Path:
    """Write the report of the second run on a cohort with three scanners, days, groups and harmonised volumes; return the page."""
    config = {**CONFIG, "report": {**CONFIG["report"], "harmonise": {"batch": "scanner", "covariates": ["age", "sex"]}}}
    work = move(write_fake_cohort(folder / "work", subjects=90, batch_size=15, pictures=False))
    begin(work, "20261101T080000Z")
    write_report(work, folder / "results", config, STAGES)
    for manifest in (work / "records" / "preprocess").glob("b0001/manifest.tsv"):
        rewrite(manifest, lambda row: {"status": "warned", "code": "low-snr", "reason": "<b>noisy</b>"} if row["status"] == "ok" else {})
    begin(work, "20261102T080000Z")
    return write_report(work, folder / "results", config, STAGES)
