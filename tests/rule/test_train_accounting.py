"""Trainings open not one image of a test subject, in classify and in recognize."""

import shutil
from pathlib import Path

import pytest
import yaml

from cohortex.models.folder import read_card
from cohortex.training.run import Order, train
from cohortex.training.team import Team
from tests.toy_findings import scene
from tests.workflow import snakemake, write_nifti

SPLITS = ["train"] * 10 + ["validation"] * 2 + ["test"] * 3
SECTIONS = {
    "classify": {
        "default": {
            "weights": "train",
            "target": "group",
            "modalities": ["T2w"],
            "parts": ["cnn"],
            "network": {"name": "smallcnn3d", "options": {}},
            "input": {"size": [16, 16, 16], "spacing_mm": 6.0},
            "training": {"folds": 2, "steps": 1, "batch": 4},
        }
    },
    "recognize": {
        "default": {
            "weights": "train",
            "labels": {"1": "ball"},
            "training": {"steps": 1, "batch": 1, "options": {"filters": 8, "convs": 1, "backbone": [4, 8]}},
        }
    },
}


@pytest.fixture(scope="module")
def acquired(tmp_path_factory):
    """Return the work folder of a cohort that was read, in one batch; then every image of a test subject became unreadable."""
    folder = tmp_path_factory.mktemp("accounting")
    rows, people = ["subject\tmodality\tpath\trole\tsplit"], ["subject\tgroup\tsex"]
    for number, split in enumerate(SPLITS):
        image, labels, _ = scene(number, (24, 24, 8))
        write_nifti(folder / "scans" / f"{number}.nii.gz", image)
        write_nifti(folder / "scans" / f"{number}_labels.nii.gz", labels)
        rows += [f"{number}\tT2w\tscans/{number}.nii.gz\timage\t{split}", f"{number}\tT2w\tscans/{number}_labels.nii.gz\tlabels\t{split}"]
        people.append(f"{number}\t{'ab'[number % 2]}\t{'FM'[number // 2 % 2]}")
    (folder / "cohort.tsv").write_text("\n".join(rows) + "\n")
    (folder / "people.tsv").write_text("\n".join([*people, "stranger\ta\tF"]) + "\n")
    settings = {
        "batch_size": 20,
        "body_part": "head",
        "keep": ["acquire"],
        "stages": ["acquire", "export"],
        "labels": str(folder / "people.tsv"),
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    snakemake(folder, "work/acquire/b00001", "--configfile", str(folder / "settings.yaml"), input=folder / "cohort.tsv")
    work = folder / "work"
    for number, split in enumerate(SPLITS):
        if split == "test":
            assert spoil(work, str(number)) == 2, "image and labels"
    return work


def spoil(work: Path, subject: str) -> int:
    """Make all that a subject has unreadable, and return how many files that were."""
    files = [path for path in (work / "acquire" / "b00001").rglob("*") if path.is_file() and path.name.startswith(f"{subject}_")]
    for path in files:
        path.write_bytes(b"no image")
    return len(files)


def order(work: Path, task: str) -> Order:
    images, record = work / "acquire" / "b00001", work / "records" / "acquire" / "b00001"
    return Order(task, [str(images)], [str(record)], str(work), SECTIONS[task], 1, "cpu", 1)


@pytest.mark.parametrize("task", ["classify", "recognize"])
def test_no_test_subject_is_read_in_a_training(acquired, task):
    assert train(order(acquired, task), Team()) == 0
    card = read_card(order(acquired, task).folder / "model")
    assert card["subjects"] == {"train": sorted(str(n) for n in range(10)), "validation": ["10", "11"]}
    if task == "classify":
        assert card["extra"]["evaluation"]["cases"] == {"a": 5, "b": 5}
        assert set(card["extra"]["evaluation"]["audit"]["left_out"]) == {"sex"}, "what is known of participants arrives"


@pytest.mark.parametrize("task", ["classify", "recognize"])
def test_an_image_that_a_training_needs_is_missed(acquired, tmp_path, task, caplog):
    """Without this the test above would prove nothing."""
    work = tmp_path / "work"
    shutil.copytree(acquired, work)
    spoil(work, "3")
    assert train(order(work, task), Team()) == 1
    assert "3_T2w.ozx is not a complete .ozx file" in caplog.text
