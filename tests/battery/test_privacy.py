"""A cohort whose ids, folders, files and tags name a patient, through the whole workflow: the name is in one folder only."""

import json
import re
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cohortex.cli import main
from cohortex.privacy.keys import SHIFT_DAYS
from cohortex.tables import read_table
from tests.battery.case import SECRET
from tests.battery.dicom import SLICES, STORED, dataset
from tests.battery.planted import places, plant, seen
from tests.workflow import phantom, snakemake, write_nifti

STAGES = "[acquire,preprocess,denoise,export]"
TOKEN = re.compile(r"file-[0-9a-f]{12}")
PRIVACY = "{{ids: pseudonyms, dates: shifted, key: {}}}"
VISITS = {"2": "20240301", "10": "20240410"}


def dicom_folder(folder: Path) -> Path:
    """Write a series with the secret in every tag that is not read, and in some that are, beside a file that is none."""
    folder.mkdir(parents=True)
    for i in range(SLICES):
        made = dataset(STORED[i], (0, 0, i), InstanceNumber=i + 1, AcquisitionDate="20240301", StudyDate="18880101")
        plant(made, within=i == 0)
        made.PatientID, made.ImageType, made.BodyPartExamined = SECRET, ["ORIGINAL", "PRIMARY", SECRET], SECRET
        made.save_as(folder / f"{SECRET}{i:03d}.dcm", enforce_file_format=True)
    (folder / f"{SECRET} notes").write_text(f"of {SECRET}")
    return folder


def with_words(path: Path) -> None:
    """Put the secret into every text that a NIfTI header has, and behind it."""
    image = nib.load(path)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = SECRET
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{SECRET} said".encode()))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(2, f"{SECRET} DICOM".encode()))
    nib.save(image, path)
    assert seen(path.read_bytes())


def cohort(folder: Path) -> Path:
    """Write scans of five people and the table of them; return the table."""
    rows = []
    for session, day in VISITS.items():
        name = f"sub-{SECRET}a/ses-{session}/anat/sub-{SECRET}a_ses-{session}_acq-{SECRET}_T1w.nii.gz"
        write_nifti(folder / name, phantom(1) + float(len(session)))
        with_words(folder / name)
        rows.append([f"{SECRET}a", session, "T1w", name, SECRET, day])
    truncated = folder / f"{SECRET} Jane" / f"{SECRET}.nii.gz"
    write_nifti(truncated, phantom(2))
    truncated.write_bytes(truncated.read_bytes()[:3000])
    rows += [
        [f"{SECRET}b", "", "T1w", str(truncated.relative_to(folder)), "", "1066-10-14"],
        [f"{SECRET}c", "", "CT", str(dicom_folder(folder / f"{SECRET} John" / SECRET).relative_to(folder)), "", ""],
        [f"{SECRET}d", "", "T1w", f"{SECRET}/gone.{SECRET}", "", SECRET],
    ]
    write_nifti(folder / SECRET / "e.nii", np.where(phantom(3) > 100, phantom(3), np.nan).astype(np.float32))
    rows.append([f"{SECRET}e", "", "T1w", f"{SECRET}/e.nii", "", ""])
    table = folder / f"{SECRET}.tsv"
    table.write_text("\n".join(["\t".join(row) for row in [["subject", "session", "modality", "path", "acq", "date"], *rows]]) + "\n")
    people = [["subject", "diagnosis", "name"], *([f"{SECRET}{letter}", "well", f"{SECRET} Doe"] for letter in "abcdefgh")]
    (folder / f"{SECRET} people.tsv").write_text("\n".join("\t".join(row) for row in people) + "\n")
    return table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the cohort with pseudonyms; return the folder of the run, the one of the data, and what was said."""
    data, folder = tmp_path_factory.mktemp("data") / SECRET, tmp_path_factory.mktemp("run")
    table = cohort(data)
    key = tmp_path_factory.mktemp("keys") / SECRET / "key"
    config = {
        "stages": STAGES,
        "batch_size": 3,
        "quarantine": "{tolerate: 1.0}",
        "keep": "[acquire]",
        "labels": data / f"{SECRET} people.tsv",
    }
    config |= {"privacy": PRIVACY.format(key), "denoise": "{default: {method: transform}}"}
    done = snakemake(folder, input=table, **config)
    return folder, data, key, done.stdout


def manifest(folder: Path) -> list[dict[str, str]]:
    return read_table(folder / "results" / "manifest.tsv")


def acquired(folder: Path) -> list[dict[str, str]]:
    return [row for path in (folder / "work" / "records" / "acquire").glob("*/manifest.tsv") for row in read_table(path)]


def test_the_search_finds_what_is_packed(tmp_path):
    import gzip
    import zipfile

    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(f"x{SECRET}".encode()))
    with zipfile.ZipFile(tmp_path / "b.ozx", "w") as packed:
        packed.writestr("zarr.json", gzip.compress(SECRET.encode()))
    import base64

    page = b"<html><img src='data:image/png;base64," + base64.b64encode(b"x" * 60 + SECRET.encode()) + b"'>"
    (tmp_path / "c.html").write_bytes(page)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / f"{SECRET}.txt").write_text("")
    (tmp_path / "e.txt").write_text("nothing")
    assert places(tmp_path) == ["a.nii.gz", "b.ozx", "c.html", f"d/{SECRET}.txt"]


def test_nothing_that_a_run_leaves_or_says_names_a_patient_but_the_private_folder(run):
    folder, *_, said = run
    found = places(folder)
    assert {name.split("/")[:2] == ["work", "private"] for name in found} == {True}, found
    assert SECRET not in said
    assert list((folder / ".snakemake" / "log").iterdir())


def test_every_scan_has_its_row_and_what_is_wrong_is_told_with_a_token(run):
    folder, *_ = run
    rows = manifest(folder)
    codes = sorted(row["code"] for row in rows if row["status"] == "quarantined" and row["kind"] == "image")
    assert codes == ["missing-file", "truncated"]
    told = [row["reason"] for row in acquired(folder) if row["code"]]
    assert len(told) == 4
    assert all(TOKEN.match(reason) for reason in told), told
    assert len({row["subject"] for row in rows}) == 5
    assert all(re.fullmatch("p[a-z2-7]{10}", row["subject"]) for row in rows)
    page = (folder / "results" / "report" / "index.html").read_text()
    assert sum(TOKEN.search(reason)[0] in page for reason in told) >= 2
    sidecar = next((folder / "results").rglob("*_T1w.json"))
    assert all(TOKEN.match(source) for source in json.loads(sidecar.read_text())["Sources"])


def test_visits_keep_their_order_and_their_distance_and_no_day_is_the_given_one(run):
    folder, *_ = run
    from datetime import date

    rows = [row for row in manifest(folder) if row["kind"] == "image" and "+" not in row["image"]]
    visits = {row["session"]: row["acquire.date"] for row in rows if row["session"]}
    assert sorted(visits) == ["01", "02"]
    first, second = (date.fromisoformat(visits[session]) for session in ("01", "02"))
    assert (second - first).days == 40
    assert 0 < abs((first - date(2024, 3, 1)).days) <= SHIFT_DAYS
    of_file = next(row["acquire.date"] for row in rows if row["modality"] == "CT")
    assert of_file
    assert of_file != "2024-03-01"
    # one says a day before 1900, one a word: neither is told
    assert all(not row.get("acquire.date") for row in rows if row["code"] in ("truncated", "missing-file"))


def test_what_the_command_says_of_a_run_names_no_patient(run, capsys):
    folder, *_ = run
    assert main(["status", str(folder / "work")]) == 0
    assert main(["verify", str(folder / "results")]) == 0
    said = capsys.readouterr().out
    assert TOKEN.search(said)
    assert SECRET not in said


def test_the_private_folder_and_the_key_are_for_the_owner_alone(run):
    folder, _, key, _ = run
    private = folder / "work" / "private"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    for path in private.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    known = {path.relative_to(private).as_posix() for path in private.rglob("*") if path.is_file()}
    assert known >= {"ids.tsv", "names.key", "batches/b00001.tsv", "batches/b00002.tsv"}
    digits = key.read_text().strip()
    assert not [path for path in folder.rglob("*") if path.is_file() and digits.encode() in path.read_bytes()]


def test_the_owner_finds_the_way_back(run, capsys):
    folder, data, *_ = run
    rows = manifest(folder)
    lost = next(row for row in rows if row["code"] == "truncated")
    beside = next(row for row in acquired(folder) if row["code"] == "not-dicom")
    words = [lost["subject"], TOKEN.search(lost["reason"])[0] + ".nii.gz", re.findall(TOKEN, beside["reason"])[1]]
    assert main(["names", str(folder / "work"), *words]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{lost['subject']}\tsubject {SECRET}b"
    assert said[1].endswith(str(data / f"{SECRET} Jane" / f"{SECRET}.nii.gz"))
    assert said[2].endswith(str(data / f"{SECRET} John" / SECRET / f"{SECRET} notes"))
    assert main(["names", str(folder / "work"), "file-000000000000"]) == 1
    assert main(["names", str(folder / "work")]) == 0
    assert f"{SECRET}e" in capsys.readouterr().out
    assert main(["names", str(folder / "results")]) == 2


def test_what_a_page_and_a_table_say_of_the_subjects_is_what_the_settings_name(run):
    folder, *_ = run
    assert list(read_table(folder / "results" / "participants.tsv")[0]) == ["participant_id", "diagnosis"]


def test_a_bids_tree_named_after_a_patient_leaves_no_name(tmp_path):
    data, key = tmp_path / "data" / SECRET, tmp_path / "key"
    place = f"sub-{SECRET}/ses-{SECRET}"
    write_nifti(data / place / "anat" / f"sub-{SECRET}_ses-{SECRET}_T1w.nii.gz", phantom(1))
    write_nifti(data / place / "anat" / f"sub-{SECRET}_ses-{SECRET}_{SECRET}.nii.gz", phantom(1))
    scans = f"filename\tacq_time\nanat/sub-{SECRET}_ses-{SECRET}_T1w.nii.gz\t2024-03-01T10:11:12\n"
    (data / place / f"sub-{SECRET}_ses-{SECRET}_scans.tsv").write_text(scans)
    (data / "dataset_description.json").write_text(json.dumps({"Name": SECRET, "BIDSVersion": "1.10.0"}))
    (data / "participants.tsv").write_text(f"participant_id\tdiagnosis\tnote\nsub-{SECRET}\twell\t{SECRET}\n")
    run, only = tmp_path / "run", f"{{subject: [{SECRET}]}}"
    config = {"stages": "[acquire,export]", "input": data, "privacy": PRIVACY.format(key)}
    said = snakemake(run, **config, only=only, select=only).stdout
    assert {name.split("/")[:2] == ["work", "private"] for name in places(run)} == {True}, places(run)
    assert SECRET not in said
    row = manifest(run)[0]
    assert row["acquire.date"].startswith("202")
    assert row["status"] == "ok"
    # a dataset that was moved is the same one, and nothing is done again
    moved = tmp_path / "elsewhere"
    data.rename(moved)
    again = snakemake(run, **{**config, "input": moved}).stdout
    assert "rule acquire" not in again
    assert not seen(again.encode())
