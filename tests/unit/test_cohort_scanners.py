"""Scanners that no table names come from sidecars and headers; nothing in these stops a cohort, and no batch runs again for them."""

import json
import os
import re
import stat

import pytest

from cohortex.cohort import make_cohort
from cohortex.cohort.index import index
from cohortex.cohort.scanners import HEADER_BYTES, SIDECAR_BYTES, scanner_name
from cohortex.config import check_config
from cohortex.io.paths import hide_names
from cohortex.report.page import write_report
from cohortex.tables import read_table, write_table
from cohortex.training.classify_evaluation import about_subjects
from cohortex.training.run import training_images
from tests.battery.case import SECRET
from tests.battery.dicom import STORED, dataset
from tests.cohorts import HEADER, bids, state, table, touch
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort
from tests.moved_cohort import move, rewrite

PRISMA = {"Manufacturer": "SIEMENS", "ManufacturersModelName": "Prisma", "MagneticFieldStrength": 3}
NAMED = "Siemens Prisma 3 T"


@pytest.fixture(autouse=True)
def _shown_again():
    yield
    hide_names(None)


def sidecar(path, **said):
    return touch(path, json.dumps(said).encode())


def scan(path, **tags):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(STORED[0], (0, 0, 0), InstanceNumber=1, **tags).save_as(path, enforce_file_format=True)
    return path


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maker", "model", "tesla", "name"),
    [
        ("SIEMENS", "Prisma", 3, NAMED),
        ("Siemens Healthineers", " Siemens  Prisma ", "3", NAMED),
        ("siemens healthcare gmbh", "siemens_Prisma", 2.89362001419067, NAMED),
        ("GE MEDICAL SYSTEMS", "DISCOVERY MR750", "1.5T", "GE DISCOVERY MR750 1.5 T"),
        ("General Electric", "Revolution CT", None, "GE Revolution CT"),
        ("Philips Medical Systems", "", 1.494, "Philips 1.5 T"),
        ("SHANGHAI UNITED IMAGING", "uMR 790", 3.0, "United Imaging uMR 790 3 T"),
        ("Gemini", "x", None, "Gemini x"),
        ("n/a", "N/A", 0.064, "0.064 T"),
        ("Unknown", None, "none", ""),
        (5, ["Prisma"], True, ""),
        ({"a": 1}, "Prisma", 10**400, "Prisma"),
        ("", "", float("nan"), ""),
        ("", "", "inf", ""),
        ("", "", 15000, ""),
        ("", "", -3, ""),
        ("Siémens", "Prisma\t\nfit\x00\u202e", "", "Siemens Prisma fit"),
        ("=cmd|' /C calc'!A0", "-1+1", None, "cmd C calc A0 1 1"),
        ("<script>alert(1)</script>", "", None, "script alert 1 scrip"),
        ("日本", "\ud800", None, ""),
    ],
)
def test_a_scanner_is_called_after_its_maker_model_and_field(maker, model, tesla, name):
    assert scanner_name(maker, model, tesla) == name


def test_a_name_is_short_whatever_a_header_says():
    name = scanner_name("x" * 10**6, "y" * 10**6, 11.74)
    assert len(name) <= 60 and name.endswith(" 11.7 T") and "x y" in name


# --- BIDS -----------------------------------------------------------------------------------------------------------


def test_sidecars_are_inherited_from_the_dataset_down_to_the_image(make, tmp_path):
    data = bids(tmp_path / "data", ["1", "2", "3", "4"], ("T1w", "FLAIR"))
    touch(data / "sub-4" / "ses-a" / "anat" / "sub-4_ses-a_acq-fast_T1w.nii.gz")
    sidecar(data / "T1w.json", **PRISMA)
    sidecar(data / "sub-2" / "anat" / "sub-2_T1w.json", ManufacturersModelName="Skyra", EchoTime=0.1)
    sidecar(data / "sub-3" / "sub-3_T1w.json", MagneticFieldStrength=1.5)
    sidecar(data / "sub-4" / "sub-4_ses-a_T1w.json", ManufacturersModelName="Trio")
    sidecar(data / "sub-4" / "ses-a" / "anat" / "sub-4_ses-a_acq-slow_T1w.json", ManufacturersModelName="Vida")
    sidecar(data / "acq-fast_T1w.json", MagneticFieldStrength=7)
    found = {image: row["scanner"] for image, row in make(data).items()}
    assert found == {
        **dict.fromkeys(("1_FLAIR", "2_FLAIR", "3_FLAIR", "4_FLAIR"), ""),
        "1_T1w": NAMED,
        "2_T1w": "Siemens Skyra 3 T",
        "3_T1w": "Siemens Prisma 1.5 T",
        "4_T1w": NAMED,
        "4_a_fast_T1w": "Siemens Trio 7 T",
    }


HOSTILE = {
    "none": b"",
    "no_json": b"{Manufacturer: Siemens",
    "html": b"<html><script>alert(1)</script></html>",
    "list": b'["Manufacturer"]',
    "number": b'{"Manufacturer": 7, "ManufacturersModelName": {"a": []}, "MagneticFieldStrength": "strong"}',
    "deep": b'{"Manufacturer": ' + b"[" * 100_000,
    "digits": b'{"MagneticFieldStrength": ' + b"9" * 100_000 + b"}",
    "binary": bytes(range(256)),
    "utf16": json.dumps(PRISMA).encode("utf-16"),
    "large": b'{"Manufacturer": "Siemens"}' + b" " * SIDECAR_BYTES,
}


def test_a_sidecar_that_cannot_be_read_names_no_scanner_and_the_others_do(make, tmp_path):
    data = bids(tmp_path / "data", [*(str(i) for i in range(len(HOSTILE))), "fine", "pipe", "gone", "folder", "mark"])
    for place, content in enumerate(HOSTILE.values()):
        touch(data / f"sub-{place}" / "anat" / f"sub-{place}_T1w.json", content)
    sidecar(data / "sub-fine" / "anat" / "sub-fine_T1w.json", **PRISMA)
    os.mkfifo(data / "sub-pipe" / "anat" / "sub-pipe_T1w.json")
    (data / "sub-gone" / "anat" / "sub-gone_T1w.json").symlink_to("not-there.json")
    (data / "sub-folder" / "anat" / "sub-folder_T1w.json").mkdir()
    touch(data / "sub-mark" / "anat" / "sub-mark_T1w.json", json.dumps(PRISMA).encode("utf-8-sig"))
    with (data / "sub-0" / "anat" / "sub-0_T1w.json").open("wb") as file:
        file.truncate(100_000_000)
    found = {row["subject"]: row["scanner"] for row in make(data).values()}
    assert len(found) == len(HOSTILE) + 5
    assert {subject: name for subject, name in found.items() if name} == {"fine": NAMED, "mark": NAMED}


def test_a_sidecar_outside_the_dataset_is_read_only_where_links_are_followed(make, tmp_path):
    data = bids(tmp_path / "data", ["1", "2"])
    sidecar(tmp_path / "elsewhere.json", **PRISMA)
    (data / "sub-1" / "anat" / "sub-1_T1w.json").symlink_to(tmp_path / "elsewhere.json")
    sidecar(data / ".git" / "annex" / "x.json", **PRISMA)
    (data / "sub-2" / "anat" / "sub-2_T1w.json").symlink_to("../../.git/annex/x.json")
    assert [row["scanner"] for row in make(data).values()] == ["", NAMED]
    assert [row["scanner"] for row in make(data, acquire={"default": {"links": "follow"}}).values()] == [NAMED, NAMED]


# --- DICOM ----------------------------------------------------------------------------------------------------------


def test_a_dicom_folder_names_the_scanner_of_its_first_file_and_nothing_else_of_it(make, tmp_path):
    data = tmp_path / "dicom"
    tags = {"Manufacturer": "SIEMENS", "ManufacturerModelName": "Prisma", "MagneticFieldStrength": "3"}
    hidden = {"DeviceSerialNumber": SECRET, "InstitutionName": SECRET, "StationName": SECRET, "PatientName": SECRET}
    scan(data / "P1" / "T1w" / "1.dcm", **tags, **hidden)
    scan(data / "P1" / "CT" / "1.dcm", Manufacturer="GE MEDICAL SYSTEMS")
    scan(data / "P2" / "1.dcm", **tags)
    touch(data / "P2" / "0.dcm", b"no DICOM")
    scan(data / "P3" / "1.dcm", Manufacturer="")
    long = scan(data / "P4" / "1.dcm", **tags)
    long.write_bytes(long.read_bytes()[:400])
    touch(data / "P5" / "1.dcm", bytes(128) + b"DICM" + os.urandom(2 * HEADER_BYTES))
    broken = scan(data / "P6" / "1.dcm", **tags)
    broken.write_bytes(broken.read_bytes().replace(b"\x18\x00\x87\x00DS\x02\x003 ", b"\x18\x00\x87\x00DS\x02\x00?!"))
    assert b"DS\x02\x00?!" in broken.read_bytes()
    found = {image: row["scanner"] for image, row in make(data).items()}
    assert (found["P1_T1w"], found["P1_CT"], found["P2_dicom"]) == (NAMED, "GE", NAMED)
    assert [found[f"P{i}_dicom"] for i in (3, 5)] == ["", ""]
    assert found["P6_dicom"] == "Siemens Prisma"
    told = [path.read_text() for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert SECRET not in "".join(told)


def test_headers_are_not_asked_again_until_the_folder_changes(make, tmp_path, monkeypatch):
    data = tmp_path / "dicom"
    file = scan(data / "P1" / "T1w" / "1.dcm", Manufacturer="SIEMENS")
    os.utime(file.parent, (1_700_000_000, 1_700_000_000))
    assert make(data)["P1_T1w"]["scanner"] == "Siemens"
    asked = []
    monkeypatch.setattr("cohortex.cohort.scanners.dicom_scanner", lambda folder: asked.append(folder) or "another")
    assert make(data)["P1_T1w"]["scanner"] == "Siemens" and asked == []
    scan(data / "P1" / "T1w" / "2.dcm")
    assert make(data)["P1_T1w"]["scanner"] == "another" and asked == [str(file.parent)]


def test_an_index_names_scanners_and_a_damaged_name_leaves_the_file_in(tmp_path):
    scan(
        tmp_path / "dump" / "1",
        Manufacturer="SIEMENS",
        ManufacturerModelName="Prisma",
        MagneticFieldStrength="3",
        SeriesInstanceUID="1.2.1",
    )
    scan(tmp_path / "dump" / "2", Manufacturer=["a", "b"], ManufacturerModelName="=x", SeriesInstanceUID="1.2.2")
    rows, left = index(tmp_path / "dump", tmp_path / "cohort.tsv")
    assert [row["scanner"] for row in rows] == [NAMED, "x"] and left == ""
    assert [row["scanner"] for row in read_table(tmp_path / "cohort.tsv")] == [NAMED, "x"]


# --- who says it, and who sees it ------------------------------------------------------------------------------------


def test_a_table_goes_over_headers(make, tmp_path):
    data = bids(tmp_path / "data", ["1", "2", "3"])
    sidecar(data / "T1w.json", **PRISMA)
    touch(data / "participants.tsv", b"participant_id\tscanner\nsub-1\tours\nsub-2\tn/a\nsub-3\t\n")
    assert [row["scanner"] for row in make(data).values()] == ["ours", NAMED, NAMED]
    labels = table(tmp_path, "subject\tscanner\n2\tlabelled\n", "labels.tsv")
    assert [row["scanner"] for row in make(data, labels=str(labels)).values()] == ["ours", "labelled", NAMED]
    named = table(
        tmp_path, f"{HEADER[:-1]}\tscanner\n1\tT1w\tdata/sub-1/anat/sub-1_T1w.nii.gz\tmine\n2\tT1w\tdata/sub-2/anat/sub-2_T1w.nii.gz\t\n"
    )
    assert [row["scanner"] for row in make(named).values()] == ["mine", ""]


def test_no_batch_changes_when_a_scanner_becomes_known(make, tmp_path, folder):
    data = bids(tmp_path / "data", ["1", "2"])
    assert {row["scanner"] for row in make(data).values()} == {""}
    before = state(folder)
    sidecar(data / "T1w.json", **PRISMA)
    assert {row["scanner"] for row in make(data).values()} == {NAMED}
    after = state(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"cohort.tsv"}
    assert stat.S_IMODE((folder / "cohort.tsv").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("further", "told"),
    [({}, False), ({"columns": ["scanner"]}, True), ({"report": {"harmonise": {"batch": "scanner"}}}, True)],
)
def test_under_pseudonyms_scanners_are_told_only_where_their_column_goes_on(make, tmp_path, further, told):
    data = bids(tmp_path / "data", ["1", "2"])
    sidecar(data / "sub-1" / "anat" / "sub-1_T1w.json", Manufacturer="SIEMENS", ManufacturersModelName=SECRET)
    touch(data / "participants.tsv", b"participant_id\tscanner\nsub-2\tours\n")
    privacy = {"ids": "pseudonyms", "key": str(tmp_path / "keys" / "key"), **{key: further[key] for key in further if key == "columns"}}
    rows = make(data, privacy=privacy, **{key: further[key] for key in further if key != "columns"})
    assert sorted(row["scanner"] for row in rows.values()) == sorted([f"Siemens {SECRET}", "ours"] if told else ["", ""])
    everything = "".join(path.read_text() for path in (tmp_path / "work").rglob("*") if path.is_file())
    assert (SECRET in everything) is told


def test_a_classifier_is_compared_by_the_scanners_that_sidecars_name(make, tmp_path, folder):
    data = bids(tmp_path / "data", ["1", "2"])
    sidecar(data / "sub-1" / "anat" / "sub-1_T1w.json", **PRISMA)
    touch(data / "participants.tsv", b"participant_id\tsplit\tdiagnosis\nsub-1\ttrain\ta\nsub-2\ttrain\tb\n")
    rows = make(data)
    (batch,) = {row["batch"] for row in rows.values()}
    kept = {
        "kind": "image",
        "role": "image",
        "status": "ok",
        "session": "",
        "body_part": "",
        "entities": "",
        "sources": "",
        "key": "",
        "sha256": "",
    }
    manifest = [
        {**kept, **{name: row[name] for name in ("image", "subject", "modality")}, "path": f"{name}.ozx"} for name, row in rows.items()
    ]
    write_table(tmp_path / "record" / batch / "manifest.tsv", list(manifest[0]), manifest)
    images = training_images(["images"], [str(tmp_path / "record" / batch)], tmp_path / "work", "diagnosis")
    assert {subject: said["scanner"] for subject, said in about_subjects(images, "diagnosis").items()} == {"1": NAMED, "2": ""}


def test_the_report_of_a_bids_dataset_tells_of_the_scanner_that_lies_elsewhere(tmp_path):
    work = move(write_fake_cohort(tmp_path / "work", subjects=45, pictures=False))
    moved = read_table(work / "cohort" / "cohort.tsv")
    data = bids(tmp_path / "data", sorted({row["subject"] for row in moved}), ("T1w", "CT"))
    for row in moved:
        name = f"sub-{row['subject']}_{row['modality']}.json"
        sidecar(data / f"sub-{row['subject']}" / "anat" / name, Manufacturer="SIEMENS", ManufacturersModelName=row["scanner"])
    make_cohort(check_config({"input": str(data), "work": str(tmp_path / "made"), "output": str(tmp_path / "other")}))
    made = {row["image"]: row["scanner"] for row in read_table(tmp_path / "made" / "cohort" / "cohort.tsv")}
    rewrite(work / "cohort" / "cohort.tsv", lambda row: {"scanner": made[row["image"]], "site": ""})
    text = write_report(work, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)
    assert verdict is not None
    (sentence,) = re.findall(r"<strong>Scanner Siemens gamma:</strong> (.*?)</p>", verdict[0], re.S)
    assert "of the 2 other scanners" in sentence
