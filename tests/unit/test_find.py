"""Cases by their measures: `cohortex find`."""

import pytest

from cohortex.cli import REFUSED, main
from cohortex.errors import Refused
from cohortex.find import find
from cohortex.tables import write_table

COLUMNS = ["subject", "session", "image", "kind", "status", "regseg.volume_lesion_ml", "classify.class", "denoise.model", "regseg.model"]
ROWS = [
    ("001", "", "001_T1w", "image", "ok", "", "tumour", "net", "", "sub-001/a_T1w.nii.gz"),
    ("001", "", "001_CT", "image", "ok", "3.5", "", "", "joint", "sub-001/a_CT.nii.gz"),
    ("001", "", "001_T1w+seg", "labels", "ok", "", "", "", "", "sub-001/a_dseg.nii.gz"),
    ("002", "", "002_T1w", "image", "ok", "1.5", "tumour", "net", "joint", "sub-002/a_T1w.nii.gz"),
    ("1", "b", "1_b_T1w", "image", "quarantined", "9", "control", "", "", ""),
]


@pytest.fixture
def results(tmp_path):
    names = [*COLUMNS, "export.exported"]
    write_table(tmp_path / "manifest.tsv", names, [dict(zip(names, row, strict=True)) for row in ROWS])
    people = [("sub-001", "61", "F"), ("sub-002", "70", "n/a")]
    names = ["participant_id", "age", "sex"]
    write_table(tmp_path / "participants.tsv", names, [dict(zip(names, row, strict=True)) for row in people])
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "subjects"),
    [
        (["class=tumour"], ["001", "002"]),
        (["class=tumour", "volume_lesion_ml>2"], ["001"]),
        (["classify.class != tumour"], ["1"]),
        (["volume_lesion_ml>=1.5", "age<=65"], ["001"]),
        (["volume_lesion_ml=1.50"], ["002"]),
        (["subject=1"], ["1"]),
        (["sex=F"], ["001"]),
        (["sex!=F"], []),
        (["model=joint"], ["001", "002"]),
        (["status=quarantined"], ["1"]),
        (["class>2"], []),
    ],
)
def test_cases_are_those_that_meet_every_condition(results, asked, subjects):
    assert [row["subject"] for row in find(results, asked)[1]] == subjects


def test_a_case_is_told_with_its_values_images_and_labels(results):
    columns, (row,) = find(results, ["class=tumour", "volume_lesion_ml>2"])
    assert columns == ["subject", "session", "class=tumour", "volume_lesion_ml>2", "images", "labels"]
    assert row == {
        "subject": "001",
        "session": "",
        "class=tumour": "tumour",
        "volume_lesion_ml>2": "3.5",
        "images": "sub-001/a_T1w.nii.gz sub-001/a_CT.nii.gz",
        "labels": "sub-001/a_dseg.nii.gz",
    }


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("klass=tumour", "nearest is 'class'"),
        ("class", "is no condition"),
        ("__import__('os').system('x')", "is no condition"),
        ("age>old", "no number"),
        ("age=", "is no condition"),
    ],
)
def test_what_is_no_condition_is_refused(results, asked, words):
    with pytest.raises(Refused, match=words):
        find(results, [asked])


def test_the_command_prints_a_table_and_refuses_a_folder_without_results(results, tmp_path, capsys):
    assert main(["find", str(results), "class=tumour"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0].split("\t")[:3] == ["subject", "session", "class=tumour"]
    assert len(told.out.splitlines()) == 3 and told.err == "2 cases.\n"
    assert main(["find", str(tmp_path / "none"), "class=tumour"]) == REFUSED
