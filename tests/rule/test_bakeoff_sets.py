"""`snakemake bakeoff_classify` and `snakemake bakeoff_recognize` for real, on tiny pictures and a few steps."""

import json

import numpy as np
import pytest
import yaml

from cohortex.io.boxes import CORNERS
from cohortex.tables import read_table, write_table
from tests.toy_findings import scene
from tests.workflow import jobs_run, snakemake, write_nifti

SPLITS = {"train": 10, "validation": 5, "test": 7}
SETTINGS = {
    "stages": ["acquire", "export"],
    "keep": ["acquire"],
    "body_part": "head",
    "labels": "people.tsv",
    "classify": {"default": {"target": "kind", "modalities": ["T2w"], "input": {"size": [16, 16], "spacing_mm": None}}},
    "recognize": {"default": {"labels": {"1": "bright", "2": "dark"}}},
    "bakeoff": {
        "classify": {
            "candidates": [
                {"tiny": {"network": {"name": "smallresnet2d"}, "training": {"folds": 2, "batch": 8, "rate": 0.02}}},
            ],
            "baselines": [],
            "against": "prior",
            "training": {"steps": 12, "minutes": 5},
        },
        "recognize": {
            "candidates": [
                {"tiny": {"network": "retinanet", "training": {"batch": 1, "options": {"filters": 8, "convs": 1, "backbone": [4, 8]}}}}
            ],
            "baselines": [{"blobs": {"bright": True, "diameters_mm": [8, 11]}}],
            "training": {"steps": 2, "minutes": 5},
        },
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run both bake-offs on pictures: dim ones with a bright disc and labels, others with two discs and boxes; the last is a copy."""
    folder = tmp_path_factory.mktemp("bakeoff")
    rows, people = ["subject\tmodality\tpath\trole\tsplit"], ["subject\tkind"]
    for number, split in enumerate(split for split, count in SPLITS.items() for _ in range(count)):
        several = number % 2
        seed = 1 if number == sum(SPLITS.values()) - 1 else number
        image, labels, things = scene(seed, (32, 36, 1), 1 + several, 1 + several)
        write_nifti(folder / "scans" / f"{number}.nii.gz", image + 8 * several, (1.0, 1.0, 1.0))
        beside = f"scans/{number}_boxes.tsv" if several else f"scans/{number}_labels.nii.gz"
        if several:
            told = [{"label": ("bright", "dark")[kind - 1], **dict(zip(CORNERS, box, strict=True))} for kind, *box in things]
            write_table(folder / beside, ("label", *CORNERS), told)
        else:
            write_nifti(folder / beside, labels, (1.0, 1.0, 1.0))
        for path, role in ((f"scans/{number}.nii.gz", "image"), (beside, "boxes" if several else "labels")):
            rows.append(f"{number:02d}\tT2w\t{path}\t{role}\t{split}")
        people.append(f"{number:02d}\t{'several' if several else 'single'}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    (folder / "people.tsv").write_text("\n".join(people) + "\n")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = ("bakeoff_classify", "bakeoff_recognize", "--configfile", str(folder / "settings.yaml"))
    return folder, jobs_run(snakemake(folder, *given, input="cohort.tsv").stdout)


def rows_of(folder, task):
    return {row["system"]: row for row in read_table(folder / "results" / "bakeoff" / task / "leaderboard.tsv")}


def test_every_system_is_a_job_of_its_own(run):
    found = {name: count for name, count in run[1].items() if name.startswith("bakeoff")}
    once = {"bakeoff_page": 2, "bakeoff_classify": 1, "bakeoff_recognize": 1}
    assert found == {"bakeoff_train": 2, "bakeoff_score": 4, **once}


def test_classes_are_told_and_measured_on_all_scans_together(run):
    rows = rows_of(run[0], "classify")
    assert set(rows) == {"prior", "tiny"}
    prior, tiny = rows["prior"], rows["tiny"]
    # of seven test scans the last is a copy of a training scan
    assert (tiny["status"], tiny["subjects"], tiny["images"], tiny["steps_done"]) == ("ok", "6", "6", "12")
    assert int(tiny["parameters"]) > 100 and float(tiny["training_cpu_s"]) > 0
    assert (float(prior["auc"]), float(prior["accuracy"]), float(prior["brier"])) == (0.5, 0.5, 0.25)
    assert float(prior["log_loss"]) == pytest.approx(np.log(2), rel=1e-6) and float(prior["calibration_error"]) == 0
    answers = read_table(run[0] / "work" / "bakeoff" / "classify" / "scores" / "tiny" / "answers.tsv")
    told = [row for row in answers if row["split"] == "test" and row["class"] == "several"]
    yes, no = ([float(row["probability"]) for row in told if row["truth"] == kind] for kind in ("several", "single"))
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    assert float(tiny["auc"]) == pytest.approx(wins, abs=1e-9) and wins > 0.7 and tiny["chosen"] == "yes"
    assert float(tiny["auc_gain"]) == pytest.approx(wins - 0.5, abs=1e-9)
    assert float(tiny["auc_low"]) <= float(tiny["auc_gain"]) <= float(tiny["auc_high"])
    assert {row["split"] for row in answers} == {"validation", "test"}


def test_a_copy_of_a_training_scan_is_not_measured_on(run):
    for task, last in (("classify", "21_T2w"), ("recognize", "21_T2w")):
        about = json.loads((run[0] / "work" / "bakeoff" / task / "scores" / "tiny" / "about.json").read_text())
        assert about["without"] == {last: "its voxels are those of 01_T2w of the train subject 01"}
    assert "its voxels are those of 01_T2w" in (run[0] / "results" / "bakeoff" / "classify" / "leaderboard.md").read_text()


def test_things_are_found_and_measured_on_all_images_together(run):
    rows = rows_of(run[0], "recognize")
    assert set(rows) == {"blobs", "tiny"}
    assert all((row["status"], row["images"]) == ("ok", "6") for row in rows.values()), rows
    # bright discs of 8 in noise of 1 are no trouble for a detector of bright blobs, which knows no other class
    assert float(rows["blobs"]["ap_bright"]) > 0.3 and float(rows["blobs"]["ap_dark"]) == 0
    assert float(rows["blobs"]["map"]) == pytest.approx(float(rows["blobs"]["ap_bright"]) / 2)
    answers = read_table(run[0] / "work" / "bakeoff" / "recognize" / "scores" / "tiny" / "answers.tsv")
    told = {number: [row for row in answers if row["what"] == "true" and row["image"] == f"{number:02d}_T2w"] for number in (15, 16)}
    assert all(len(rows) == len(scene(n, (32, 36, 1), 1 + n % 2, 1 + n % 2)[2]) for n, rows in told.items())
    assert {tuple(float(row[name]) for name in CORNERS) for row in told[15]} == {tuple(box) for _, *box in scene(15, (32, 36, 1), 2, 2)[2]}
    assert rows["blobs"]["map_gain"] == "" and float(rows["tiny"]["map_low"]) <= float(rows["tiny"]["map_high"])
    best = max(rows.values(), key=lambda row: float(row["validation_map"]))
    assert [name for name, row in rows.items() if row["chosen"]] == [best["system"]]


def test_pages_have_pictures_of_what_was_said(run):
    for task, word in (("classify", "balanced accuracy"), ("recognize", "mAP")):
        folder = run[0] / "results" / "bakeoff" / task
        assert (folder / "pictures" / "compared.png").stat().st_size > 2000
        page = (folder / "index.html").read_text()
        assert word in page and page.count("data:image/png") >= 4
        card = yaml.safe_load((run[0] / "work" / "bakeoff" / task / "models" / "tiny" / "model" / "card.yaml").read_text())
        assert not {f"{n:02d}" for n in range(15, 22)} & {one for part in card["subjects"].values() for one in part}
