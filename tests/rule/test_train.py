"""`weights: train`: the workflow trains first, on the frozen batches, and new subjects never retrain."""

import json
import signal
import time

import nibabel as nib
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
    "keep": ["acquire", "denoise", "superresolve"],
    "stages": ["acquire", "denoise", "superresolve", "regseg", "export"],
    # the shipped recipe for cohorts without clean scans, but small
    "denoise": {**RECIPE["denoise"], "default": {**DENOISE, "training": {**DENOISE["training"], **TINY}}},
    "superresolve": {"default": {"method": "srcnn3d", "weights": "train", "training": {"steps": 2, "batch": 1, "patch": 8}}},
    # a segmentation by itself, of the labels that two subjects have
    "regseg": {
        "default": {
            "weights": None,
            "segment_weights": "train",
            "labels": {"1": "shell", "2": "core"},
            "segment_training": {
                "steps": 2,
                "batch": 1,
                "patch": [16, 16, 16],
                "options": {"features": [4, 6], "kernels": [], "strides": []},
            },
            # and a registration by itself, of the pairs that two subjects have
            "register_weights": "train",
            "working_spacing_mm": 6,
            "affine": {"refine": "none"},
            "mirrored": False,
            "register_training": {"network": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}, "steps": 2},
        }
    },
}


def cohort(folder):
    """Return the table of three subjects, one of each split, of which the first and the last have a second modality."""
    table = write_cohort(folder, ["1", "2", "3"])
    lines = table.read_text().splitlines()
    splits = ("split", "train", "validation", "test")
    rows = [f"{line}\t{split}" for line, split in zip(lines, splits, strict=True)]
    rows = [f"{row}\t{'role' if number == 0 else 'image'}" for number, row in enumerate(rows)]
    for subject, split in (("1", "train"), ("2", "validation")):
        image = np.asarray(nib.load(folder / "scans" / f"{subject}_T1w.nii.gz").dataobj)
        write_nifti(folder / "scans" / f"{subject}_labels.nii.gz", np.digitize(image, [150, 400]).astype(np.uint8))
        rows.append(f"{subject}\t\tT1w\tscans/{subject}_labels.nii.gz\t\t{split}\tlabels")
    for subject, split in (("1", "train"), ("3", "test")):
        image = np.asarray(nib.load(folder / "scans" / f"{subject}_T1w.nii.gz").dataobj)
        write_nifti(folder / "scans" / f"{subject}_T2w.nii.gz", np.roll(np.where(image > 150, 700 - image, image), 1, axis=0))
        rows.append(f"{subject}\t\tT2w\tscans/{subject}_T2w.nii.gz\t\t{split}\timage")
    table.write_text("\n".join(rows) + "\n")
    return table


def row_of(folder, stage, image):
    """Return an image's row of a stage's manifest."""
    rows = read_table(folder / "work" / "records" / stage / "b00001" / "manifest.tsv")
    return next(row for row in rows if row["image"] == image)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that trained four models on one subject, and a second run on a cohort with one subject more."""
    folder = tmp_path_factory.mktemp("train")
    table = cohort(folder)
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    given = ("--configfile", str(folder / "settings.yaml"))
    first = snakemake(folder, *given, input=table)
    again = snakemake(folder, "-n", *given, input=table)
    write_nifti(folder / "scans" / "4_T1w.nii.gz", phantom(44))
    table.write_text(table.read_text() + "4\t\tT1w\tscans/4_T1w.nii.gz\t\ttrain\timage\n")
    more = snakemake(folder, "-n", *given, input=table)
    return folder, first.stdout, again.stdout, more.stdout


def test_a_model_is_trained_before_its_stage_and_used_by_it(run):
    folder, said, _, _ = run
    assert jobs_run(said)["train"] == 4
    for task, network in (("denoise", "frame_unet_2d"), ("superresolve", "srcnn3d")):
        card = read_card(folder / "work" / "models" / task)
        assert (card["network"], card["subjects"]) == (network, {"train": ["1"], "validation": ["2"]})
        row = row_of(folder, task, "3_T1w")
        assert (row["status"], row["method"]) == ("ok", network)
    recipe = read_card(folder / "work" / "models" / "denoise")["recipe"]
    assert recipe["objective"]["name"] == DENOISE["training"]["objective"]
    assert "no image was cleaned" in recipe["target"]
    row = row_of(folder, "denoise", "3_T1w")
    assert 0 < float(row["noise_sigma_after"]) < 0.7 * float(row["noise_sigma_before"])


def test_a_segmentation_is_trained_by_itself_and_labels_every_subject(run):
    folder = run[0]
    card = read_card(folder / "work" / "models" / "segment")
    assert (card["task"], card["network"], card["subjects"]) == ("segment", "planned_unet", {"train": ["1"], "validation": ["2"]})
    assert card["classes"] == ["background", "shell", "core"]
    assert row_of(folder, "regseg", "3_T1w")["model"] == card["name"]
    assert row_of(folder, "regseg", "3_T1w+seg")["status"] == "ok"
    assert (folder / "results" / "sub-3" / "anat").is_dir()
    told = json.loads((folder / "work" / "records" / "regseg" / "b00001" / "numbers.json").read_text())
    assert told["models"]["train segment"]["card"]["name"] == card["name"]


def test_a_registration_is_trained_by_itself_without_labels_and_deforms_every_pair_of_its_kind(run):
    folder = run[0]
    card = read_card(folder / "work" / "models" / "register")
    assert (card["network"], card["subjects"]) == ("voxelmorph_small", {"train": ["1"], "validation": []})
    assert (card["extra"]["fixed"], card["extra"]["moving"], card["extra"]["working_spacing_mm"]) == ("T1w", "T2w", 6.0)
    row = row_of(folder, "regseg", "3_T2w")
    assert (row["fixed"], row["deformed_by"], row["register_model"]) == ("3_T1w", "network", card["name"])
    told = json.loads((folder / "work" / "records" / "regseg" / "b00001" / "numbers.json").read_text())
    assert told["models"]["train register"]["card"]["name"] == card["name"]
    assert card["name"] in (folder / "results" / "report" / "index.html").read_text()


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
