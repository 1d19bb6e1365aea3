"""`weights: train`: the workflow trains first, on the frozen batches, and new subjects never retrain."""

import signal
import time

import numpy as np
import psutil
import pytest
import yaml

from cohortex.models.folder import read_card, read_model
from cohortex.tables import read_table
from tests.workflow import ROOT, jobs_run, phantom, snakemake, start, write_cohort, write_nifti

RECIPE = yaml.safe_load((ROOT / "docs" / "recipes" / "denoise_from_noisy_scans.yaml").read_text(encoding="utf-8"))
TINY = {"steps": 2, "batch": 1, "patch": 16, "options": {"fine": 4, "coarse": 8, "blocks": 1}}
DENOISE = RECIPE["denoise"]["default"]
SETTINGS = {
    "body_part": "head",
    "keep": ["acquire", "denoise"],
    "stages": ["acquire", "denoise", "superresolve", "export"],
    # the shipped recipe for cohorts without clean scans, but small
    "denoise": {**RECIPE["denoise"], "default": {**DENOISE, "training": {**DENOISE["training"], **TINY}}},
    "superresolve": {"default": {"method": "srcnn3d", "weights": "train", "training": {"steps": 2, "batch": 1, "patch": 8}}},
}


def cohort(folder):
    """Return the table of three subjects, one of each split."""
    table = write_cohort(folder, ["1", "2", "3"])
    lines = table.read_text().splitlines()
    splits = ("split", "train", "validation", "test")
    table.write_text("".join(f"{line}\t{split}\n" for line, split in zip(lines, splits, strict=True)))
    return table


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that trained two models on one subject, and a second run on a cohort with one subject more."""
    folder = tmp_path_factory.mktemp("train")
    table = cohort(folder)
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
    for task, network in (("denoise", "frame_unet_2d"), ("superresolve", "srcnn3d")):
        card = read_card(folder / "work" / "models" / task)
        assert (card["network"], card["subjects"]) == (network, {"train": ["1"], "validation": ["2"]})
        row = read_table(folder / "work" / "records" / task / "b00001" / "manifest.tsv")[2]
        assert (row["image"], row["status"], row["method"]) == ("3_T1w", "ok", network)
    recipe = read_card(folder / "work" / "models" / "denoise")["recipe"]
    assert recipe["objective"]["name"] == DENOISE["training"]["objective"]
    assert "no image was cleaned" in recipe["target"]
    row = read_table(folder / "work" / "records" / "denoise" / "b00001" / "manifest.tsv")[2]
    assert 0 < float(row["noise_sigma_after"]) < 0.7 * float(row["noise_sigma_before"])


def test_the_run_after_a_training_does_nothing(run):
    assert jobs_run(run[2]) == {}


def test_a_new_training_subject_runs_its_batch_and_trains_nothing(run):
    jobs = jobs_run(run[3])
    assert "train" not in jobs
    assert jobs["denoise"] == jobs["superresolve"] == 1


def test_two_processes_train_by_the_rule_and_after_a_signal_the_next_attempt_goes_on(tmp_path):
    training = {"steps": 400, "batch": 2, "patch": 28, "filters": 4}
    settings = {
        "stages": ["acquire", "denoise", "export"],
        "denoise": {"default": {"method": "redcnn", "weights": "train", "training": training}},
        "training": {"processes": 2},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    given = ("--configfile", str(tmp_path / "settings.yaml"))
    head = start(tmp_path, "work/models/denoise", *given, input=cohort(tmp_path))
    log = tmp_path / "work" / "logs" / "train" / "denoise.log"
    while head.poll() is None and not (log.is_file() and "step 20 of" in log.read_text()):
        time.sleep(0.05)
    job = next(p for p in psutil.Process(head.pid).children(recursive=True) if "cohortex.training.member" in " ".join(p.cmdline())).parent()
    job.send_signal(signal.SIGUSR1)
    assert head.wait() == 0, (tmp_path / "head.log").read_text()[-4000:]
    said, second = (tmp_path / "head.log").read_text(), log.read_text()
    assert "SIGUSR1" in said
    assert "the next attempt" in said
    assert "goes on from its checkpoint" in second
    assert said.count("step 20 of 400") == said.count("step 400 of 400") == 1, "no step was taken twice"
    ran = read_card(tmp_path / "work" / "models" / "denoise")["recipe"]["run"]
    assert ran == {
        "processes": 2,
        "devices": {"cpu": 2},
        "precision": "float32",
        "global_batch": 2,
        "steps": 400,
        "resumed": 1,
    }
    _, tensors = read_model(tmp_path / "work" / "models" / "denoise")
    assert all(np.isfinite(value).all() for value in tensors.values())
