"""Bad inputs among good ones through the whole workflow: nothing is lost, altered, or told of a patient."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cohortex.tables import read_table
from cohortex.verify import verify
from tests.battery.case import SECRET, Case, tree
from tests.battery.cases import CASES
from tests.workflow import jobs_run, snakemake, write_cohort

GOOD = ["001", "002", "003"]
SETTINGS = {"stages": "[acquire,preprocess,export]", "batch_size": 16}
ALONE = {"D16b", "K07c", "K07d", "K09a", "K10a", "K10b", "K10c", "K10d", "K11", "Z06", "N08c", "Z07a"}
"""They are judged alone: their making takes longer than what they tell, or what they link to would lie in this dataset."""
TAKEN = {"D13a", "D14", "D24", "N14a"}
"""Odd ones that go on: what they hold of a patient must not come out at the other end."""
BAD = [
    case for case in CASES if (case.verdict in ("set aside", "skipped") or case.id in TAKEN) and case.id not in ALONE and not case.settings
]
STATUS = {"set aside": "quarantined", "skipped": "skipped", "warned": "ok", "taken": "ok"}
"""By the last stage: a warning of the first stands in its own record, and in the report."""
MOST_S, MOST_MB = 20.0, 1000.0
"""What an item of a job may take, the worker with its libraries included."""


def rows_of(folder: Path) -> list[str]:
    """Make every bad case in a folder of its own and return the rows of the table."""
    rows = []
    for case in BAD:
        place = folder / case.id
        place.mkdir(parents=True)
        path = Path(case.make(place)).relative_to(folder.parent)
        # no role but that of an image stands for a subject alone
        role = "image" if case.role == "image" else case.role
        rows.append("\t".join([case.id, case.modality, str(path), role]))
        if role != "image":
            rows.append("\t".join([case.id, "T2w", "scans/001_T1w.nii.gz", "image"]))
    return rows


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask for a while."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run the good subjects alone, then with all bad ones, then with nothing tolerated; return the folder and what was said.

    The folder has a name that every shell would misread, and the umask of the first lets all read, that of the second nobody.
    """
    folder = tmp_path_factory.mktemp("battery") / "a b'é;$x `&"
    table = write_cohort(folder / "data", GOOD)
    good = ["\t".join([subject, "T1w", f"scans/{subject}_T1w.nii.gz", "image"]) for subject in GOOD]
    header = "subject\tmodality\tpath\trole"
    table.write_text("\n".join([header, *good]) + "\n")
    with umask(0):
        alone = snakemake(folder / "alone", input=table, **SETTINGS)
    table.write_text("\n".join([header, *good, *rows_of(folder / "data" / "bad")]) + "\n")
    before = tree(folder / "data")
    with umask(0o077):
        among = snakemake(folder / "among", input=table, **SETTINGS, quarantine="{tolerate: 1.0}")
    assert tree(folder / "data") == before, "the input was changed"
    again = snakemake(folder / "among", check=False, input=table, **SETTINGS, quarantine="{tolerate: 0.0}")
    return folder, alone.stdout, among.stdout, again


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in read_table(folder / "results" / "manifest.tsv")}


def acquired(folder: Path) -> dict[str, dict[str, str]]:
    return {row["image"]: row for path in (folder / "work" / "records" / "acquire").glob("*/manifest.tsv") for row in read_table(path)}


def files_of(folder: Path, subject: str) -> dict[str, str]:
    place = folder / "results" / f"sub-{subject}"
    return {
        path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("subject", GOOD)
def test_the_good_ones_are_what_they_are_without_the_bad_ones(runs, subject):
    folder, *_ = runs
    assert files_of(folder / "alone", subject)
    assert files_of(folder / "among", subject) == files_of(folder / "alone", subject)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_a_bad_one_is_told_and_leaves_nothing(runs, case: Case):
    folder, *_ = runs
    name = f"{case.id}_{case.modality}" + ("" if case.role == "image" else f"+{case.role}")
    row = manifest(folder / "among")[name]
    assert row["status"] == STATUS[case.verdict]
    page = (folder / "among" / "results" / "report" / "index.html").read_text()
    if case.verdict == "warned":
        row = {**row, "code": acquired(folder / "among")[name]["code"]}
    assert not case.codes or row["code"] in case.codes
    if case.verdict in ("taken", "warned"):
        assert row.get("export.exported")
    if case.verdict == "set aside":
        assert not row.get("export.exported")
    if case.verdict in ("set aside", "warned"):
        assert name in page


def test_one_image_under_several_ids_is_told_in_the_report(runs):
    folder, *_ = runs
    page = (folder / "among" / "results" / "report" / "index.html").read_text()
    # those that go on without a mark of their own hold the voxels of one series
    assert re.search(r"One image, several ids:</strong> [^<]*\bD14_CT\b[^<]*\bD24_CT\b", page)
    assert "One image, several ids" not in (folder / "alone" / "results" / "report" / "index.html").read_text()


def test_the_results_hold_what_they_say_and_nothing_half_written(runs):
    folder, *_ = runs
    count, problems = verify(folder / "among" / "results")
    assert count
    assert not problems
    assert not [path for path in (folder / "among" / "results").rglob("*") if ".tmp" in path.name]


def test_the_exit_code_says_whether_it_was_more_than_is_tolerated_and_only_the_word_on_it_is_said_again(runs):
    *_, again = runs
    assert again.returncode != 0
    assert set(jobs_run(again.stdout)) <= {"report", "verdict", "all"}
    last = [line for line in again.stdout.splitlines() if line.startswith("cohortex: ")][-1]
    assert last.startswith("cohortex: Too much was set aside") and "See results/report/index.html" in last


def test_no_image_took_long_or_much_memory(runs):
    folder, *_ = runs
    items = [row for path in (folder / "among" / "work" / "records").glob("*/*/timing.tsv") for row in read_table(path)]
    assert len(items) > len(BAD)
    assert max(float(row["seconds"]) for row in items) < MOST_S
    assert max(float(row["peak_mb"]) for row in items) < MOST_MB


@pytest.mark.parametrize("run", ["alone", "among"])
def test_whatever_the_umask_results_are_for_the_owner_and_the_group(runs, run):
    folder, *_ = runs
    for path in (folder / run / "results").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path
    assert not [path for path in (folder / run / "work").rglob("*") if path.stat().st_mode & 0o007]


def test_the_run_says_how_many_were_set_aside(runs):
    _, alone, among, _ = runs
    # labels that are set aside are named, but only images count; theirs stands beside them
    bad = sum(case.verdict == "set aside" and case.role == "image" for case in BAD)
    assert re.search(rf"\b{bad} of {len(BAD) + len(GOOD)} images .* were set aside", among), among[-3000:]
    assert f"No image was set aside: {len(GOOD)} images" in alone


def test_no_patient_is_named_anywhere(runs):
    folder, *_ = runs
    found = [
        path.relative_to(folder).as_posix()
        for path in (folder / "among").rglob("*")
        if path.is_file() and (SECRET.encode() in path.read_bytes() or SECRET in path.name)
    ]
    assert not found
