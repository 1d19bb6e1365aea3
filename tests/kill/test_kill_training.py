"""A training that is killed at any moment goes on at its last checkpoint and ends with the bytes of one that was not."""

import signal
import subprocess
import sys
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


def adversarial(folder: Path) -> None:
    from tests.unit.test_denoise_training import cohort, section_for

    train_denoise(cohort(), section_for("wgan_vgg", steps=8), 3, "cpu", folder)


def classes(folder: Path) -> None:
    from tests.unit.test_classify_stage import SECTION, cohort

    images = [image for image in cohort() if image.subject < "s012" or image.subject == "s015"]
    training = {"folds": 2, "steps": 4, "batch": 4, "minutes": 60.0}
    classify.train_classify(images, {"default": {**SECTION["default"], "parts": ["cnn"], "training": training}}, 3, "cpu", folder)


def joint(folder: Path) -> None:
    regseg.train_regseg(joint_images(), joint_section(), 3, "cpu", folder)


TRAININGS = {"denoise": denoise, "adversarial": adversarial, "classify": classes, "regseg": joint}


@pytest.fixture(scope="module")
def prepared_once():
    """What a training prepares is the same in every attempt; in this process it is prepared once."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((regseg, "gather"), (classify, "examples_of")):
            patch.setattr(module, name, once(getattr(module, name)))
        yield


def once(prepare):
    """Return a function that prepares so many images only the first time."""
    kept = {}

    def prepared(images, *rest):
        if len(images) not in kept:
            kept[len(images)] = prepare(images, *rest)
        return kept[len(images)]

    return prepared


@pytest.fixture(scope="module", params=TRAININGS)
def undisturbed(request, tmp_path_factory, prepared_once):
    """Return a training's name and the folder of what it makes when nothing happens."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    TRAININGS[request.param](folder)
    yield request.param, folder
    torch.set_num_threads(threads)


CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from cohortex.training import checkpoint
from tests.kill.test_kill_training import TRAININGS

torch.set_num_threads(1)
checkpoint.EVERY_S = 0
clip, steps = torch.nn.utils.clip_grad_norm_, []

def killed_in_a_step(*given):
    steps.append(1)
    if len(steps) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return clip(*given)

torch.nn.utils.clip_grad_norm_ = killed_in_a_step
TRAININGS[sys.argv[1]](Path(sys.argv[2]))
"""


def test_a_training_that_is_killed_ends_with_the_bytes_of_one_that_was_not(undisturbed, tmp_path):
    name, whole = undisturbed
    words = [sys.executable, "-c", CHILD, name, str(tmp_path / "model"), "7"]
    killed = subprocess.run(words, cwd=ROOT, env=environment() | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    TRAININGS[name](tmp_path / "model")
    assert digest(tmp_path / "model") == digest(whole)
    assert read_card(tmp_path / "model")["recipe"]["run"]["resumed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "checkpoints stay only while they are needed"


# of regseg, which prepares long, tests/unit/test_training_together.py has it
@pytest.mark.parametrize("undisturbed", ["denoise", "adversarial", "classify"], indirect=True)
def test_a_training_whose_attempts_are_short_ends_with_the_bytes_of_one_long_attempt(undisturbed, tmp_path):
    name, whole = undisturbed
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
