"""Real scans of several kinds and three broken files as one cohort, through the whole chain (the brains: `python -m benchmarks.real`)."""

import json

import pytest

from benchmarks.real import broken_rows, rows_of, set_aside, write_rows
from cohortex.tables import read_table
from tests.workflow import snakemake

NAMES = ("chest-ct-dicom", "abdomen-ct-mr", "spinal-cord-mr", "lesion-nrrd")


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    cohorts = rows_of(shared_data)
    rows = [row for name in NAMES for row in cohorts[name]]
    rows += cohorts["prostate-mr-us"][:6]
    rows += broken_rows(shared_data, folder / "broken")
    said = snakemake(folder, input=write_rows(folder / "cohort.tsv", rows)).stdout
    return folder, said


def last(folder):
    return {row["image"]: row for row in read_table(folder / "results" / "manifest.tsv")}


def test_exactly_the_three_broken_files_are_set_aside(run):
    folder, said = run
    assert sorted(item.split(":")[0] for item in set_aside(folder / "results")) == ["broken1_T2w", "broken2_CT", "broken3_T1w"]
    assert "3 of" in said and all(name in said for name in ("broken1_T2w", "broken2_CT", "broken3_T1w"))


def test_the_reasons_say_what_was_found(run):
    rows = last(run[0])
    assert rows["broken1_T2w"]["code"] == "truncated"
    assert "slice" in rows["broken2_CT"]["reason"] and ".dcm" in rows["broken2_CT"]["reason"]
    assert rows["broken3_T1w"]["status"] == "quarantined"
    assert not any(str(run[0]) in row["reason"] for row in rows.values())


def test_the_4d_series_is_skipped_and_says_so(run):
    row = last(run[0])["cord_dwi"]
    assert (row["status"], row["code"]) == ("skipped", "four-d")


def test_no_scan_of_a_user_gets_a_probability_from_the_demo_classifier(run):
    assert not any(row.get("classify.probability") for row in last(run[0]).values())


def test_the_report_opens_with_the_three_broken_scans(run):
    page = (run[0] / "results" / "report" / "index.html").read_text()
    head = page[: page.index("What looks odd")]
    assert all(name in head for name in ("broken1_T2w", "broken2_CT", "broken3_T1w"))


def test_where_no_model_is_for_a_body_part_the_report_says_so_and_the_images_go_on(run):
    page = (run[0] / "results" / "report" / "index.html").read_text()
    odd = page[page.index("What looks odd") : page.index("Cohort at a glance")]
    assert "There is nothing to register it to" in odd and "not for the chest" in odd and "not for the abdomen" in odd
    assert "gives no probability for a real scan" in odd
    rows = last(run[0])
    assert all(rows[name]["stage"] == "export" for name in ("lidc0314_CT", "abdct_CT", "abdmr_T1w", "nrrdbreast_T1w", "cord_MTw"))


def test_finer_slices_hold_nothing_below_air_or_zero(run):
    import nibabel as nib

    found = list((run[0] / "results").rglob("*desc-cohortex_*.nii.gz"))
    assert len(found) > 8
    for path in found:
        lowest = float(nib.load(path).get_fdata().min())
        assert lowest >= (-1200 if path.name.endswith("_CT.nii.gz") else -0.2), path.name


def test_the_input_is_untouched_and_its_place_is_named_nowhere(run, shared_data):
    folder = run[0]
    for sidecar in (folder / "results").rglob("*.json"):
        assert str(shared_data) not in json.dumps(json.loads(sidecar.read_text())), sidecar
    assert str(shared_data) not in (folder / "results" / "manifest.tsv").read_text()
