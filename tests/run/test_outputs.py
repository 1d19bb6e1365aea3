"""The results of a whole run in the hands of other programs: the BIDS validator, a PACS, readers of tables, Snakemake's own report."""

import json
import zipfile

import nibabel as nib
import pyarrow.parquet as pq
import pydicom
import pytest

from benchmarks.report_validator import bids_errors
from cohortex.io import read
from cohortex.io.geometry import to_ras
from cohortex.report.dictionary import column
from cohortex.tables import read_table
from cohortex.verify import verify
from tests.battery.dicom import SLICES, series
from tests.workflow import phantom, snakemake, write_nifti

SETTINGS = {
    "stages": "[acquire,preprocess,export]",
    "export": "{default: {dicom: [seg, sr], dicom_uids: source}}",
    "select": "{suffix: [T1w, CT, US, ADC]}",
    "quarantine": "{tolerate: 0.5}",
}
STUDY = "1.2.3.4.6"
COLUMNS = ("subject", "session", "modality", "path", "body_part", "role", "acq", "age")


def scanned(folder):
    """Write a series of a scanner."""
    (folder / "scanner").mkdir()
    return series(folder / "scanner", Modality="CT", StudyInstanceUID=STUDY, FrameOfReferenceUID="1.2.3.4.7")


def mask_of(folder):
    """Write a mask on the grid of that series."""
    (volume,) = read(folder / "scanner" / "a")
    data, affine = to_ras(volume.data, volume.affine)
    nib.save(nib.Nifti1Image((data[...] > 900).astype("uint8"), affine), folder / "scanner" / "mask.nii.gz")
    return folder / "scanner" / "mask.nii.gz"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run on scans of several kinds, sessions and roles, one of which is broken."""
    folder = tmp_path_factory.mktemp("outputs")
    scan = phantom(1)
    rows = []
    for subject, session, modality, role, acq in (
        ("01", "a", "T1w", "image", ""),
        ("01", "a", "T1w", "labels", ""),
        ("01", "b", "CT", "image", "low"),
        ("1", "", "US", "image", ""),
        ("1", "", "ADC", "image", ""),
        ("1", "", "ADC", "mask", ""),
        ("3", "", "CT", "image", "scanner"),
        ("3", "", "CT", "mask", "scanner"),
        ("2", "", "T1w", "image", ""),
    ):
        values = (scan > 200).astype("uint8") if role != "image" else scan * 2 - 1000 if modality == "CT" else scan
        path = write_nifti(folder / "scans" / f"{len(rows)}.nii.gz", values)
        if acq == "scanner":
            path = scanned(folder) if role == "image" else mask_of(folder)
        rows.append((subject, session, modality, str(path), "head", role, acq, {"01": "61", "1": "n/a"}.get(subject, "")))
    path.write_bytes(path.read_bytes()[:999])
    (folder / "cohort.tsv").write_text("\n".join("\t".join(row) for row in (COLUMNS, *rows)) + "\n")
    snakemake(folder, input=folder / "cohort.tsv", **SETTINGS)
    return folder


def test_the_bids_validator_finds_no_error(run):
    assert bids_errors(run / "results") == []


def test_the_validator_is_not_deaf(run, tmp_path):
    (run / "results" / "sub-01" / "wrong.nii.gz").write_bytes(b"x")
    try:
        assert any("wrong.nii.gz" in error for error in bids_errors(run / "results"))
    finally:
        (run / "results" / "sub-01" / "wrong.nii.gz").unlink()


def test_every_column_of_the_manifest_was_declared_and_stands_in_its_dictionary(run):
    names = list(read_table(run / "results" / "manifest.tsv")[0])
    assert [name for name in names if not column(name).type] == []
    assert list(json.loads((run / "results" / "manifest.json").read_text())) == sorted(names)
    rows = pq.read_table(run / "results" / "tables" / "manifest.parquet").to_pylist()
    assert {row["image"]: row["status"] for row in rows}["2_T1w"] == "quarantined"
    people = pq.read_table(run / "results" / "tables" / "participants.parquet").to_pydict()
    assert people == {"participant_id": ["sub-01", "sub-1", "sub-3"], "age": [61, None, None]}


def test_a_pacs_is_given_the_labels_with_the_image_that_they_lie_on(run):
    found = {path.name: pydicom.dcmread(path) for path in (run / "results").rglob("*.dcm")}
    kinds = sorted(str(each.Modality) for each in found.values())
    assert kinds == ["MR", "MR", "SEG", "SEG", "SEG", "SR", "SR", "SR"]
    assert verify(run / "results")[1] == []
    told = {row["image"]: row["export.dicom"] for row in read_table(run / "results" / "manifest.tsv")}
    assert told["01_a_T1w+labels"].endswith("_dseg.dcm") and not told["1_US"]


def test_objects_over_a_scanners_series_refer_to_it_and_nothing_else_of_it_is_in_the_results(run):
    (found,) = (pydicom.dcmread(path) for path in (run / "results" / "sub-3").rglob("*_mask.dcm"))
    assert (found.StudyInstanceUID, found.PatientID, found.PatientName) == (STUDY, "3", "")
    assert len(found.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SLICES
    kept = [path for path in (run / "results").rglob("*") if path.is_file() and STUDY.encode() in path.read_bytes()]
    assert {path.suffix for path in kept} == {".dcm"}


def test_snakemakes_own_report_is_made_without_a_network_and_has_captions(run):
    snakemake(run, "--report", "report.zip", input=run / "cohort.tsv", **SETTINGS)
    with zipfile.ZipFile(run / "report.zip") as archive:
        names = archive.namelist()
        page = archive.read("report/report.html").decode()
    assert {name.rpartition("/")[2] for name in names} == {"report.html", "index.html", "manifest.tsv", "verdict.txt"}
    assert "report on the cohort" in page and "The last word on every image" in page and "0.5" in page
