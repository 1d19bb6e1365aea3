"""Trainings of restoration on scans that show nothing, are not finite, or are no volumes: left out and named, or refused with a reason."""

import logging

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.folder import read_card
from cohortex.training import patches
from cohortex.training.denoise import train_denoise
from cohortex.training.superresolve import train_superresolve
from cohortex.volume import Volume
from tests.workflow import phantom

DENOISE = {"default": {"method": "cnn_dae", "training": {"steps": 2, "batch": 1, "patch": 16, "options": {"filters": 3}}}}
SUPERRESOLVE = {"default": {"method": "srcnn3d", "training": {"steps": 2, "batch": 1, "patch": 8, "factors": [2, 2]}}}
TRAININGS = pytest.mark.parametrize(("train", "section"), [(train_denoise, DENOISE), (train_superresolve, SUPERRESOLVE)])


def scan(subject, split, change=None, shape=(24, 26, 20)):
    array = phantom(int(subject), shape).astype(np.float32)
    array = array if change is None else change(array)
    volume = Volume(array, np.eye(4), modality="T1w", body_part="head")
    return Image(f"{subject}_T1w", subject, "", "T1w", "image", body_part="head", row={"split": split}, opener=lambda: volume)


def with_nan(array):
    array[3:5, 4, 6] = np.nan
    return array


def with_infinity(array):
    array[0, 0, 0] = -np.inf
    return array


def constant(array):
    return np.full_like(array, 7)


BAD = {"with NaN": (with_nan, "2 voxels"), "infinite": (with_infinity, "1 voxels"), "constant": (constant, "all its voxels are 7")}


@TRAININGS
def test_scans_that_show_nothing_or_are_not_finite_are_left_out_and_named(tmp_path, caplog, train, section):
    images = [scan("1", "train"), scan("2", "validation")]
    for number, (change, _) in enumerate(BAD.values()):
        images += [scan(str(3 + 2 * number), "train", change), scan(str(4 + 2 * number), "validation", change)]
    with caplog.at_level(logging.WARNING):
        train(images, section, 1, "cpu", tmp_path / "m")
    card = read_card(tmp_path / "m")
    assert card["subjects"] == {"train": ["1"], "validation": ["2"]}
    assert all(np.isfinite(metric["value"]) for metric in card["metrics"]) and len(card["metrics"]) == 2
    for number, (_, words) in enumerate(BAD.values()):
        for subject in (3 + 2 * number, 4 + 2 * number):
            assert any(f"{subject}_T1w is left out" in line and words in line for line in caplog.messages)


@TRAININGS
@pytest.mark.parametrize("name", BAD)
def test_without_a_usable_training_scan_it_is_refused_in_words(tmp_path, train, section, name):
    with pytest.raises(Refused, match="there is none; give more"):
        train([scan("1", "train", BAD[name][0]), scan("2", "validation")], section, 1, "cpu", tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("shape", [(24, 26, 1), (24, 26, 2)])
def test_pictures_train_a_network_of_slices_and_no_super_resolution(tmp_path, shape):
    images = [scan("1", "train", shape=shape), scan("2", "validation", shape=shape)]
    train_denoise(images, DENOISE, 1, "cpu", tmp_path / "m")
    assert np.isfinite(read_card(tmp_path / "m")["metrics"][0]["value"])
    with pytest.raises(Refused, match="needs volumes of training subjects"):
        train_superresolve(images, SUPERRESOLVE, 1, "cpu", tmp_path / "s")


def test_what_shows_something_is_kept_in_its_order():
    images = [scan("2", "train"), scan("3", "train", constant), scan("1", "train")]
    assert patches.showing(images) == [images[0], images[2]]
