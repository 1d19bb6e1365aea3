"""The command cohortex."""

import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from cohortex.cli import main
from cohortex.cohort.index import mr_suffix
from cohortex.cohort.table import read_cohort_table
from cohortex.io import read
from cohortex.items import Image
from cohortex.records import write_manifest
from cohortex.stages.export import export
from cohortex.tables import read_table
from cohortex.view import make_server
from cohortex.volume import Volume

CANARY = "ZZPHI9"


def slices(folder, patient, study, series, count=4, names="{:03d}.dcm", **tags):
    """Write a small CT series, one file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[study, series, str(i)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.PatientName, data.PatientID = f"{CANARY}^NAME", patient
        data.StudyInstanceUID = generate_uid(entropy_srcs=["study", study])
        data.SeriesInstanceUID = generate_uid(entropy_srcs=["series", series])
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesNumber, data.StudyDate, data.InstanceNumber = "CT", 1, "20200101", i + 1
        data.SeriesDescription = f"{CANARY} description"
        data.Rows = data.Columns = 16
        data.PixelSpacing, data.ImageOrientationPatient, data.ImagePositionPatient = [1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 2.0 * i]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 1
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = np.arange(256, dtype="<i2").tobytes()
        for key, value in tags.items():
            setattr(data, key, value)
        data.save_as(folder / names.format(i), enforce_file_format=True)


def index(tmp_path, name="cohort.tsv"):
    table = tmp_path / "out" / name
    assert main(["index", str(tmp_path / "dump"), "-o", str(table)]) == 0
    return read_table(table), table


def test_a_flat_dump_of_several_patients_becomes_a_table_that_the_workflow_reads(tmp_path):
    dump = tmp_path / "dump"
    slices(dump, f"{CANARY}-1", "a", "a1", names="a{}.dcm", BodyPartExamined="BRAIN")
    slices(dump, f"{CANARY}-2", "b", "b1", names="b{}.dcm", BodyPartExamined=CANARY)
    (dump / "notes.txt").write_text("x")
    rows, table = index(tmp_path)
    assert [(row["subject"], row["modality"], row["body_part"]) for row in rows] == [("p0001", "CT", "head"), ("p0002", "CT", "")]
    taken, _ = read_cohort_table(table, ())
    assert [row["path"] for row in taken] == ["cohort.files/p0001_CT.series", "cohort.files/p0002_CT.series"]
    (volume,) = read(table.parent / taken[0]["path"])
    assert volume.shape == (16, 16, 4)


def test_a_series_alone_in_its_folder_is_given_as_the_folder(tmp_path):
    slices(tmp_path / "dump" / "x" / "series", "1", "a", "a1")
    rows, table = index(tmp_path)
    assert (table.parent / rows[0]["path"]).resolve() == tmp_path / "dump" / "x" / "series"


def test_studies_become_sessions_by_date_and_series_are_told_apart(tmp_path):
    dump = tmp_path / "dump"
    slices(dump / "late", "1", "late", "l1", StudyDate="20210101")
    slices(dump / "early", "1", "early", "e1", StudyDate="20200101")
    slices(dump / "early2", "1", "early", "e2", StudyDate="20200101", SeriesNumber=7)
    rows, _ = index(tmp_path)
    assert [(row["session"], row["acq"]) for row in rows] == [("01", "s001"), ("01", "s007"), ("02", "")]


def test_nothing_of_a_patient_is_written(tmp_path, capfd):
    # the maker of the scanner is told, what tells one scanner of a kind from another or where it stands is not
    planted = dict.fromkeys(("BodyPartExamined", "StationName", "InstitutionName", "DeviceSerialNumber"), CANARY)
    slices(tmp_path / "dump", f"{CANARY}-1", "a", "a1", Manufacturer="SIEMENS", **planted)
    index(tmp_path)
    said = capfd.readouterr()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or CANARY not in path.read_text(), path
    assert CANARY not in said.out + said.err


def test_a_dump_that_has_grown_keeps_the_ids(tmp_path):
    slices(tmp_path / "dump" / "z", "the second to come", "z", "z1")
    first, table = index(tmp_path)
    slices(tmp_path / "dump" / "a", "another", "a", "a1")
    second, _ = index(tmp_path)
    assert {row["path"]: row["subject"] for row in second}[first[0]["path"]] == "p0001"
    assert sorted(row["subject"] for row in second) == ["p0001", "p0002"]
    assert table.with_suffix(".ids.json").stat().st_mode & 0o777 == 0o600


def test_what_is_no_image_is_left_out_and_counted(tmp_path, capsys):
    dump = tmp_path / "dump"
    slices(dump, "1", "a", "a1")
    slices(dump, "1", "a", "r1", count=1, names="report.dcm", Modality="SR")
    (dump / "junk").write_bytes(b"x" * 400)
    (dump / "cut.dcm").write_bytes((dump / "000.dcm").read_bytes()[:200])
    (dump / "link.dcm").symlink_to(dump / "000.dcm")
    rows, _ = index(tmp_path)
    assert len(rows) == 1
    said = capsys.readouterr().out
    for words in (
        "1 DICOM files that are no images",
        "1 files that are not DICOM",
        "1 files with a damaged header",
        "1 links, pipes or files with odd names",
    ):
        assert words in said


def test_a_deflated_file_is_not_inflated(tmp_path, capsys):
    dump = tmp_path / "dump"
    slices(dump, "1", "a", "a1")
    slices(dump, "1", "a", "a2", count=1, names="deflated.dcm")
    data = pydicom.dcmread(dump / "deflated.dcm")
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.save_as(dump / "deflated.dcm")
    index(tmp_path)
    assert "1 deflated files" in capsys.readouterr().out


def test_a_folder_without_dicom_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "dump").mkdir()
    assert main(["index", str(tmp_path / "dump"), "-o", str(tmp_path / "t.tsv")]) == 2
    assert capsys.readouterr().err == "cohortex: dump holds no DICOM image; it is empty.\n"
    assert main(["index", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    ("header", "suffix"),
    [
        ({"EchoTime": 3, "RepetitionTime": 2000, "InversionTime": 900, "ScanningSequence": "GR"}, "T1w"),
        ({"EchoTime": 12, "RepetitionTime": 600, "ScanningSequence": "SE"}, "T1w"),
        ({"EchoTime": 100, "RepetitionTime": 4000, "ScanningSequence": "SE"}, "T2w"),
        ({"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": "SE"}, "FLAIR"),
        ({"EchoTime": 20, "RepetitionTime": 3000, "ScanningSequence": "SE"}, "PDw"),
        ({"EchoTime": 1.5, "RepetitionTime": 3, "ScanningSequence": "GR"}, "MR"),
        ({"EchoTime": 90, "RepetitionTime": 8000, "ScanningSequence": "EP", "SeriesDescription": "ep2d_diff"}, "dwi"),
        ({"SeriesDescription": "Sag T2 TSE"}, "T2w"),
        ({}, "MR"),
    ],
)
def test_the_contrast_of_an_mr_series_is_told_by_its_times_and_its_description(header, suffix):
    assert mr_suffix(header) == suffix


# --- verify -------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Results of one subject with one image."""
    volume = Volume(np.ones((8, 8, 8), "f4"), np.eye(4), "T1w")
    image = Image("01_T1w", "01", "", "T1w", "image", row={"acq": "", "run": ""}, opener=lambda: volume)
    folder = tmp_path / "results"
    (made,) = export([image], {"results": str(folder)}, None, 0)
    told = made.measures
    (folder / "manifest.tsv").write_text(
        f"image\texport.exported\texport.exported_sha256\n01_T1w\t{told['exported']}\t{told['exported_sha256']}\n"
    )
    return folder


NIFTI = "sub-01/anat/sub-01_desc-cohortex_T1w.nii.gz"


def test_results_as_the_run_left_them_are_verified(results, capsys):
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == "All 2 files are as the run left them.\n"


def test_a_changed_a_missing_and_a_foreign_file_are_named(results, capsys):
    (results / NIFTI).write_bytes((results / NIFTI).read_bytes()[:-1] + b"x")
    (results / NIFTI.replace(".nii.gz", ".json")).unlink()
    (results / "sub-01/anat/.x.tmp").write_text("x")
    assert main(["verify", str(results)]) == 1
    said = capsys.readouterr().out
    assert f"{NIFTI} is not what the run wrote." in said
    assert "sub-01_desc-cohortex_T1w.json is missing." in said
    assert ".x.tmp was not written by the run" in said


def test_a_manifest_that_does_not_fit_the_lists_is_told(results, capsys):
    manifest = results / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("sub-01", "sub-02"))
    assert main(["verify", str(results)]) == 1
    assert "sub-02/anat/sub-02_desc-cohortex_T1w.nii.gz is missing" in capsys.readouterr().out
    shutil.rmtree(results / ".cohortex")
    assert main(["verify", str(results)]) == 2
    assert "Traceback" not in capsys.readouterr().err


# --- status -------------------------------------------------------------------------------------------------------


def test_status_says_how_far_each_stage_is_and_what_was_set_aside(tmp_path, capsys):
    work = tmp_path / "work"
    (work / "cohort").mkdir(parents=True)
    (work / "cohort/index.json").write_text(json.dumps({"batches": {"b00001": [1, 2, 2], "b00002": [1, 1, 1]}}))
    rows = [
        {"image": "01_T1w", "kind": "image", "status": "ok"},
        {"image": "02_T1w", "kind": "image", "status": "quarantined", "code": "truncated", "reason": "it ends early."},
    ]
    write_manifest(work / "records/acquire/b00001/manifest.tsv", rows)
    (work / ".running/acquire/b00002").mkdir(parents=True)
    (work / ".running/acquire/b00002/03_T1w.done.json").write_text("{}")
    assert main(["status", str(work)]) == 0
    said = capsys.readouterr().out
    assert "3 images in 2 batches" in said
    assert "acquire      1 of 2 batches: 1 ok, 1 quarantined" in said
    assert "b00002: 1 done" in said
    assert "acquire b00001 02_T1w quarantined truncated: it ends early." in said
    assert "export       not begun" in said
    assert main(["status", str(tmp_path)]) == 2


def test_a_reader_that_goes_away_gives_no_traceback(tmp_path):
    work = tmp_path / "work"
    (work / "cohort").mkdir(parents=True)
    (work / "cohort/index.json").write_text(json.dumps({"batches": {"b00001": [1, 2, 2]}}))
    words = [sys.executable, "-c", "import sys; from cohortex.cli import main; sys.exit(main(sys.argv[1:]))", "status", str(work)]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(words, stdout=write_end, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


# --- view ---------------------------------------------------------------------------------------------------------


def fetch(address):
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_the_report_is_served_on_loopback_to_who_knows_the_address_only(tmp_path):
    page = tmp_path / "results" / "report" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("the report")
    (tmp_path / "secret.txt").write_text("x")
    server, address = make_server(tmp_path / "results", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        root = address.rsplit("/", 3)[0]
        assert server.server_address[0] == "127.0.0.1"
        assert fetch(address) == (200, b"the report")
        base = f"http://127.0.0.1:{server.server_address[1]}"
        assert [fetch(f"{base}{path}")[0] for path in ("/", "/report/index.html", "/x/report/index.html")] == [404] * 3
        assert fetch(f"{root}/{address.split('/')[3]}/")[0] == 404
        assert fetch(f"{address.rsplit('/', 2)[0]}/../secret.txt")[0] == 404
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_results_without_a_report_are_refused(tmp_path, capsys):
    assert main(["view", str(tmp_path)]) == 2
    assert "has no report/index.html" in capsys.readouterr().err
