"""`weights: train`: the workflow trains first, on the frozen batches, and new subjects never retrain."""

import pytest
import yaml

from cohortex.models.folder import read_card
from cohortex.tables import read_table
from tests.workflow import jobs_run, phantom, snakemake, write_cohort, write_nifti

SETTINGS = {
    "body_part": "head",
    "keep": ["acquire", "denoise"],
    "stages": ["acquire", "denoise", "superresolve", "export"],
    "denoise": {"default": {"method": "redcnn", "weights": "train", "training": {"steps": 2, "batch": 1, "patch": 28, "filters": 4}}},
    "superresolve": {"default": {"weights": "train", "training": {"steps": 2, "batch": 1, "patch": 8}}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that trained two models on one subject, and a second run on a cohort with one subject more."""
    folder = tmp_path_factory.mktemp("train")
    table = write_cohort(folder, ["1", "2", "3"])
    lines = table.read_text().splitlines()
    splits = ("split", "train", "validation", "test")
    table.write_text("".join(f"{line}\t{split}\n" for line, split in zip(lines, splits, strict=True)))
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = ("--configfile", str(folder / "settings.yaml"))
    first = snakemake(folder, *given, input=table)
    again = snakemake(folder, "-n", *given, input=table)
    write_nifti(folder / "scans" / "4_T1w.nii.gz", phantom(44))
    table.write_text(table.read_text() + "4\t\tT1w\tscans/4_T1w.nii.gz\t\ttrain\n")
    more = snakemake(folder, "-n", *given, input=table)
    return folder, first.stdout, again.stdout, more.stdout


def test_a_model_is_trained_before_its_stage_and_used_by_it(run):
    folder, said, _, _ = run
    assert jobs_run(said)["train"] == 2
    for task, network in (("denoise", "redcnn"), ("superresolve", "srcnn3d")):
        card = read_card(folder / "work" / "models" / task)
        assert (card["network"], card["subjects"]) == (network, {"train": ["1"], "validation": ["2"]})
        row = read_table(folder / "work" / "records" / task / "b00001" / "manifest.tsv")[2]
        assert (row["image"], row["status"], row["method"]) == ("3_T1w", "ok", network)


def test_the_run_after_a_training_does_nothing(run):
    assert jobs_run(run[2]) == {}


def test_a_new_training_subject_runs_its_batch_and_trains_nothing(run):
    jobs = jobs_run(run[3])
    assert "train" not in jobs
    assert jobs["denoise"] == jobs["superresolve"] == 1
