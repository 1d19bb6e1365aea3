"""`recognize: weights: train` by the real rules: a detector is trained on labels, and every image gets its table of boxes."""

import csv
import json

import numpy as np
import pytest
import yaml

from cohortex.models.folder import read_card
from cohortex.tables import read_table
from tests.toy_findings import scene
from tests.workflow import jobs_run, snakemake, write_nifti

SPLITS = {"1": "train", "2": "train", "3": "validation", "4": "test"}
SETTINGS = {
    "body_part": "head",
    "keep": ["recognize"],
    "stages": ["acquire", "recognize", "export"],
    "recognize": {
        "default": {
            "weights": "train",
            # of a network that has hardly learned: whatever it says
            "score": 0.0,
            "most": 3,
            "labels": {"1": "ball"},
            "training": {"steps": 3, "batch": 1, "options": {"filters": 8, "convs": 1, "backbone": [4, 8]}},
        }
    },
}


def cohort(folder):
    """Return the table of four subjects with an image each; all but the test subject have labels, and one has a CT."""
    rows = ["subject\tmodality\tpath\trole\tsplit"]
    for subject, split in SPLITS.items():
        image, labels, _ = scene(int(subject), (40, 44, 10))
        write_nifti(folder / "scans" / f"{subject}.nii.gz", image)
        rows.append(f"{subject}\tT2w\tscans/{subject}.nii.gz\timage\t{split}")
        if split != "test":
            write_nifti(folder / "scans" / f"{subject}_labels.nii.gz", labels)
            rows.append(f"{subject}\tT2w\tscans/{subject}_labels.nii.gz\tlabels\t{split}")
    write_nifti(folder / "scans" / "4_CT.nii.gz", np.where(scene(9, (40, 44, 10))[0] > 5, 40, -1000).astype(np.float32))
    rows.append("4\tCT\tscans/4_CT.nii.gz\timage\ttest")
    table = folder / "cohort.tsv"
    table.write_text("\n".join(rows) + "\n")
    return table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recognize")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder, snakemake(folder, "--configfile", str(folder / "settings.yaml"), input=cohort(folder)).stdout


def rows_of(folder):
    return {row["image"]: row for row in read_table(folder / "work" / "records" / "recognize" / "b00001" / "manifest.tsv")}


def test_a_detector_is_trained_by_the_rules_and_searches_every_image_of_its_kind(run):
    folder, said = run
    assert jobs_run(said)["train"] == jobs_run(said)["recognize"] == 1
    card = read_card(folder / "work" / "models" / "recognize")
    assert (card["task"], card["classes"]) == ("recognize", ["ball"])
    assert card["subjects"] == {"train": ["1", "2"], "validation": ["3"]}
    rows = rows_of(folder)
    for subject in SPLITS:
        row = rows[f"{subject}_T2w"]
        assert (row["status"], row["model"]) == ("ok", card["name"])
        assert 1 <= int(row["findings"]) <= 3
        assert rows[f"{subject}_T2w+boxes"]["kind"] == "table"
    assert (rows["4_CT"]["status"], rows["4_CT"]["code"]) == ("skipped", "no-fit")
    assert rows["1_T2w+labels"]["status"] == "ok"
    told = json.loads((folder / "work" / "records" / "recognize" / "b00001" / "numbers.json").read_text())
    assert told["models"]["train"]["card"]["name"] == card["name"]


def test_the_boxes_are_among_the_derivatives_and_in_the_report(run):
    folder, _ = run
    (table,) = (folder / "results" / "sub-4").rglob("*_desc-boxes_table.tsv")
    with table.open() as lines:
        boxes = list(csv.DictReader(lines, delimiter="\t"))
    assert len(boxes) == int(rows_of(folder)["4_T2w"]["findings"])
    assert {box["label"] for box in boxes} == {"ball"}
    assert all(float(box[f"{axis}_low"]) < float(box[f"{axis}_high"]) for box in boxes for axis in "xyz")
    sidecar = json.loads(table.with_suffix(".json").read_text())
    assert sidecar["Sources"] == ["bids::sub-4/anat/sub-4_desc-cohortex_T2w.nii.gz"]
    page = (folder / "results" / "report" / "index.html").read_text()
    assert "Puts a box around every finding." in page
    assert "were searched for findings" in page
    assert read_card(folder / "work" / "models" / "recognize")["name"] in page


def test_without_labels_nothing_is_started(tmp_path):
    table = cohort(tmp_path)
    table.write_text("".join(line + "\n" for line in table.read_text().splitlines() if "labels" not in line))
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    done = snakemake(tmp_path, "-n", "--configfile", str(tmp_path / "settings.yaml"), check=False, input=table)
    assert done.returncode != 0
    assert "no training subject has a row of role labels" in done.stdout
