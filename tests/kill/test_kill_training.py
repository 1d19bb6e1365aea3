"""A training that is killed at any moment goes on at its last checkpoint and ends with the bytes of one that was not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cohortex.models.folder import read_card
from cohortex.training import classify, regseg
from cohortex.training.denoise import train_denoise
from cohortex.training.limit import Interrupted, Limit
from cohortex.training.team import Team, use_team
from tests.train_together import digest, joint_images, joint_section
from tests.workflow import ROOT, environment


def denoise(folder: Path) -> None:
    from tests.unit.test_training_models import cohort

    train_denoise(cohort(), {"default": {"training": {"steps": 60, "batch": 2, "patch": 28, "filters": 4}}}, 3, "cpu", folder)


def classes(folder: Path) -> None:
    from tests.unit.test_classify_stage import SECTION, cohort

    images = [image for image in cohort() if image.subject < "s012" or image.subject == "s015"]
    training = {"folds": 2, "steps": 4, "batch": 4, "minutes": 60.0}
    classify.train_classify(images, {"default": {**SECTION["default"], "parts": ["cnn"], "training": training}}, 3, "cpu", folder)


def joint(folder: Path) -> None:
    regseg.train_regseg(joint_images(), joint_section(), 3, "cpu", folder)


TRAININGS = {"denoise": denoise, "classify": classes, "regseg": joint}


@pytest.fixture(scope="module", params=TRAININGS)
def undisturbed(request, tmp_path_factory):
    """Return a training's name and the folder of what it makes when nothing happens."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    TRAININGS[request.param](folder)
    yield request.param, folder
    torch.set_num_threads(threads)


def steps_kept(folder: Path) -> int:
    """Return how many checkpoints there are and how many steps they hold together."""
    found = 0
    for note in folder.glob("*.json"):
        try:
            text = json.loads(note.read_text())
        except (FileNotFoundError, ValueError):
            continue
        found += text.get("step", 0) + len(text.get("losses", ())) + sum(text.get("steps", {}).values())
    return found


def test_a_training_that_is_killed_ends_with_the_bytes_of_one_that_was_not(undisturbed, tmp_path):
    name, whole = undisturbed
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; from cohortex.training import checkpoint; from tests.kill.test_kill_training import TRAININGS\n"
        "checkpoint.EVERY_S = 0\n"
        "TRAININGS[sys.argv[1]](Path(sys.argv[2]))\n"
    )
    env = environment() | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code, name, str(tmp_path / "model")], cwd=ROOT, env=env)
    while child.poll() is None and steps_kept(tmp_path / "model.checkpoint") < 3:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the training ended before it could be killed"
    assert not (tmp_path / "model").exists()
    TRAININGS[name](tmp_path / "model")
    assert digest(tmp_path / "model") == digest(whole)
    assert read_card(tmp_path / "model")["recipe"]["run"]["resumed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "checkpoints stay only while they are needed"


# of regseg, which prepares long, tests/unit/test_training_together.py has it
@pytest.mark.parametrize("undisturbed", ["denoise", "classify"], indirect=True)
def test_a_training_whose_attempts_are_short_ends_with_the_bytes_of_one_long_attempt(undisturbed, tmp_path, monkeypatch):
    name, whole = undisturbed
    prepared, prepare = {}, classify._examples
    monkeypatch.setattr(
        classify, "_examples", lambda scans, *rest: prepared.get(len(scans)) or prepared.setdefault(len(scans), prepare(scans, *rest))
    )
    attempts, before = 0, use_team(Team(limit=Limit(until=0)))
    try:
        while True:
            try:
                TRAININGS[name](tmp_path / "model")
                break
            except Interrupted:
                attempts += 1
                if attempts == 6:
                    use_team(Team())
    finally:
        use_team(before)
    assert attempts == 6
    assert digest(tmp_path / "model") == digest(whole)
    assert read_card(tmp_path / "model")["recipe"]["run"]["resumed"] == attempts
