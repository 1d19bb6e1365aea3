"""Bad inputs among good ones through the whole workflow: nothing is lost, altered, or told of a patient."""

import hashlib
import re
from pathlib import Path

import pytest

from cohortex.tables import read_table
from cohortex.verify import verify
from tests.battery.case import SECRET, Case, tree
from tests.battery.cases import CASES
from tests.workflow import snakemake, write_cohort

GOOD = ["001", "002", "003"]
SETTINGS = {"stages": "[acquire,preprocess,export]", "batch_size": 16}
ALONE = {"D16b", "K07c", "K07d", "K09a", "K10a", "K10b", "K10c", "K10d", "K11", "Z06", "N08c", "Z07a"}
"""They are judged alone: their making takes longer than what they tell, or what they link to would lie in this dataset."""
BAD = [case for case in CASES if case.verdict in ("set aside", "skipped") and case.id not in ALONE and not case.settings]
STATUS = {"set aside": "quarantined", "skipped": "skipped"}


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run the good subjects alone, then with all bad ones; return both folders and what was said."""
    folder = tmp_path_factory.mktemp("battery")
    table = write_cohort(folder / "data", GOOD)
    good = ["\t".join([subject, "T1w", f"scans/{subject}_T1w.nii.gz", "image"]) for subject in GOOD]
    header = "subject\tmodality\tpath\trole"
    table.write_text("\n".join([header, *good]) + "\n")
    alone = snakemake(folder / "alone", input=table, **SETTINGS)
    table.write_text("\n".join([header, *good, *rows_of(folder / "data" / "bad")]) + "\n")
    before = tree(folder / "data")
    among = snakemake(folder / "among", input=table, **SETTINGS, quarantine="{tolerate: 1.0}")
    assert tree(folder / "data") == before, "the input was changed"
    return folder, alone.stdout, among.stdout


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    return {row["image"]: row for row in read_table(folder / "results" / "manifest.tsv")}


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
    assert not case.codes or row["code"] in case.codes
    if case.verdict == "set aside":
        assert not row.get("export.exported")
        page = (folder / "among" / "results" / "report" / "index.html").read_text()
        assert name in page


def test_the_results_hold_what_they_say_and_nothing_half_written(runs):
    folder, *_ = runs
    count, problems = verify(folder / "among" / "results")
    assert count
    assert not problems
    assert not [path for path in (folder / "among" / "results").rglob("*") if ".tmp" in path.name]


def test_the_run_says_how_many_were_set_aside(runs):
    _, alone, among = runs
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
