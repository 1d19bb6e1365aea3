"""The stage classify and its training on pictures and on volumes without a segmentation, with any network."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.inputs import Input, input_for
from cohortex.models.folder import read_card, read_model
from cohortex.stages.classify import classify, load
from cohortex.training.classify import DEFAULTS, train_classify
from cohortex.training.classify_examples import digest_of
from cohortex.volume import Volume
from tests.toy_heads import KINDS, subject

KIND = ("clear", "spot")
TRAINING = {"folds": 2, "steps": 40, "batch": 8, "minutes": 60.0, "rate": 5e-3}
SECTION = {
    "default": {
        "weights": "m",
        "modalities": ["DX"],
        "network": {"name": "smallresnet2d", "options": {"widths": [8, 16], "dropout": 0.0}},
        "input": {"size": [16, 16], "spacing_mm": None},
        "training": TRAINING,
    }
}


def with_training(**own) -> dict:
    return {"default": {**SECTION["default"], "training": {**TRAINING, **own}}}


def voxels(seed: int, kind: str) -> np.ndarray:
    """Return a noisy picture (20, 24, 1), with a bright spot or none."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (20, 24, 1))
    if kind == "spot":
        x, y = rng.integers(3, 13, 2)
        image[x : x + 5, y : y + 5] += 60
    return image.astype(np.float32)


def picture(name: str, data: np.ndarray, label: str, split: str = "train", step: float = 0.4) -> Image:
    volume = Volume(data, np.diag([step, step, 1.0, 1.0]), "DX", body_part="chest")
    row = {"site": "here", "split": split, "label": label}
    return Image(f"{name}_DX", name, "", "DX", "image", "image", "chest", row=row, opener=lambda: volume)


def cohort(train: int = 24, held: int = 8) -> list[Image]:
    return [picture(f"s{i:03d}", voxels(i, KIND[i % 2]), KIND[i % 2], "train" if i < train else "validation") for i in range(train + held)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "pictures"
    train_classify(cohort(), SECTION, 3, "cpu", where)
    return where


def said(folder, image: Image, section=SECTION):
    return next(made for made in classify([image], section, load(section, {"m": folder}, "cpu"), 0) if not made.tag)


def test_a_cohort_of_pictures_is_learned_and_classified(folder):
    card = read_card(folder)
    assert card["dimensions"] == [2]
    assert card["parts"]["cnn"]["options"] == {"widths": [8, 16], "dropout": 0.0, "channels": 1, "classes": 2}
    assert card["extra"]["input"] == {
        "size": [16, 16],
        "spacing_mm": None,
        "labels": False,
        "values": "cohort",
        "mean": pytest.approx(102, abs=4),
        "deviation": pytest.approx(11, abs=3),
    }
    assert card["extra"]["needs_labels"] is False
    right = 0
    for seed in range(10):
        made = said(folder, picture("new", voxels(500 + seed, KIND[seed % 2]), "", step=3.0))
        assert made.status == "ok"
        right += made.measures["class"] == KIND[seed % 2]
    assert right >= 9
    aucs = [metric["value"] for metric in card["metrics"] if metric["name"].startswith("auc")]
    assert len(aucs) == 2
    assert min(aucs) > 0.9


def test_a_volume_is_no_picture_and_is_skipped_with_the_reason(folder):
    made = said(folder, picture("new", np.repeat(voxels(1, "spot"), 4, axis=2), ""))
    assert (made.status, made.code) == ("skipped", "no-fit")
    assert "2-D" in made.reason


def test_the_same_network_sees_the_same_of_a_picture_however_its_size_is_written():
    image = picture("a", voxels(1, "spot"), "")
    asked = {**DEFAULTS, **SECTION["default"]}
    sizes = ({**DEFAULTS["input"], "size": size, "spacing_mm": None} for size in ([20, 24], [20, 24, 1]))
    flat, thin = (input_for({**asked, "input": size}, [image], [image]) for size in sizes)
    assert flat == thin == Input((20, 24), None, False, "cohort")
    seen = flat.raw(image, [image])
    # at its own size a picture stays as it is
    assert np.array_equal(seen, voxels(1, "spot")[None, :, :, 0])


def test_values_are_scaled_by_what_was_asked_for():
    data = voxels(1, "clear") * 7 - 3
    kinds = ("robust", "whole", "unit", "cohort")
    seen = {values: Input((20, 24), None, False, values).raw(picture("a", data, ""), []) for values in kinds}
    assert seen["whole"][0] == pytest.approx((data[..., 0] - data.mean()) / data.std(), abs=1e-3)
    bright = data[data > data.mean()]
    low, high = np.percentile(bright, (10, 90))
    assert seen["robust"][0] == pytest.approx(np.clip((data[..., 0] - np.median(bright)) / (high - low), -4, 4), abs=1e-3)
    low, high = np.percentile(data, (0.5, 99.5))
    assert seen["unit"][0] == pytest.approx(np.clip((data[..., 0] - low) / (high - low), 0, 1), abs=1e-5)
    assert np.array_equal(seen["cohort"][0], data[..., 0])
    constant = picture("a", np.full((20, 24, 1), 5.0, np.float32), "")
    assert all(np.isfinite(Input((20, 24), None, False, values).raw(constant, [])).all() for values in kinds)


def test_a_picture_of_a_spacing_keeps_its_brightness_whatever_the_thickness_of_its_slice():
    data = np.full((40, 40, 1), 8.0, np.float32)
    data[:20] = 9.0
    thick = Volume(data, np.diag([0.5, 0.5, 9.0, 1.0]), "DX")
    thin = Volume(data, np.diag([0.5, 0.5, 0.1, 1.0]), "DX")
    made = [
        Input((16, 16), 1.0, False, "cohort").raw(Image("a", "a", "", "DX", "image", opener=lambda v=volume: v), [])
        for volume in (thick, thin)
    ]
    assert np.array_equal(made[0], made[1])
    assert set(np.unique(made[0][0, 6:14, 4:12])) <= {8.0, 8.5, 9.0} | set(np.linspace(8, 9, 33).astype(np.float32))


def test_volumes_without_a_segmentation_have_one_channel_and_those_with_one_have_five(tmp_path):
    section = {
        "default": {
            "weights": "m",
            "parts": ["cnn"],
            "input": {"size": [16, 16, 16], "spacing_mm": None},
            "network": {"name": "smallcnn3d", "options": {"widths": [4, 8]}},
            "training": {"folds": 2, "steps": 2, "batch": 4},
        }
    }
    every = [image for i in range(12) for image in subject(f"s{i:03d}", i, KINDS[i % 3], site="here")]
    for name, images, channels in (("plain", [i for i in every if "+" not in i.id], 1), ("labelled", every, 5)):
        train_classify(images, section, 1, "cpu", tmp_path / name)
        card = read_card(tmp_path / name)
        assert card["parts"]["cnn"]["options"] == {"widths": [4, 8], "channels": channels, "classes": 3}
        assert card["extra"]["needs_labels"] is (channels == 5)
        model = load(section, {"m": tmp_path / name}, "cpu")
        made = classify(subject("new", 77, "one", site="here"), section, model, 0)
        assert next(each for each in made if each.of == "new_T1w" and not each.tag).status == "ok"
    quiet = {"default": {**section["default"], "input": {**section["default"]["input"], "labels": False}}}
    train_classify(every, quiet, 1, "cpu", tmp_path / "quiet")
    assert read_card(tmp_path / "quiet")["parts"]["cnn"]["options"]["channels"] == 1


def test_members_mirrors_and_subclasses_are_one_classifier_that_comes_back_from_its_folder(tmp_path):
    section = with_training(members=2, mirror=True, decompose=2, steps=3, optimiser="muon", average=0.9, balance="logit_adjust")
    train_classify(cohort(), section, 3, "cpu", tmp_path / "m")
    card, tensors = read_model(tmp_path / "m")
    assert list(card["parts"]) == ["cnn", "cnn002"]
    assert card["parts"]["cnn"]["options"]["classes"] == 4
    assert tensors["cnn.head.weight"].shape == tensors["cnn002.head.weight"].shape == (4, 32)
    assert not np.array_equal(tensors["cnn.head.weight"], tensors["cnn002.head.weight"])
    image = picture("new", voxels(900, "spot"), "")
    mirrored = picture("new", voxels(900, "spot")[::-1], "")
    here, there = (said(tmp_path / "m", each, section).measures for each in (image, mirrored))
    assert here["p_spot"] == pytest.approx(there["p_spot"], abs=1e-5)
    assert here["p_spot"] + here["p_clear"] == pytest.approx(1)
    train_classify(cohort(), section, 3, "cpu", tmp_path / "again")
    assert read_card(tmp_path / "again")["sha256"] == card["sha256"]


# --- what was learned before -------------------------------------------------------------------------------------


def test_frozen_features_keep_every_weight_but_those_of_the_last_layer(folder, tmp_path):
    section = with_training(start=str(folder), frozen=True)
    train_classify(cohort(), section, 4, "cpu", tmp_path / "frozen")
    before, after = read_model(folder)[1], read_model(tmp_path / "frozen")[1]
    changed = [name for name in before if name.startswith("cnn.") and not np.array_equal(before[name], after[name])]
    assert sorted(changed) == ["cnn.head.bias", "cnn.head.weight"]
    assert said(tmp_path / "frozen", picture("new", voxels(901, "spot"), ""), section).measures["class"] == "spot"


def test_fine_tuning_begins_with_the_weights_of_the_model(folder, tmp_path):
    section = with_training(start=str(folder), steps=1, rate=1e-9)
    train_classify(cohort(), section, 4, "cpu", tmp_path / "tuned")
    before, after = read_model(folder)[1], read_model(tmp_path / "tuned")[1]
    assert before["cnn.stem.weight"] == pytest.approx(after["cnn.stem.weight"], abs=1e-6)
    assert np.abs(before["cnn.head.weight"] - after["cnn.head.weight"]).max() > 1e-3


def test_another_network_or_other_widths_cannot_be_taken_over(folder, tmp_path):
    other = {
        "default": {**with_training(start=str(folder))["default"], "network": {"name": "smallresnet2d", "options": {"widths": [4, 8]}}}
    }
    with pytest.raises(Refused, match="give the network the same options"):
        train_classify(cohort(), other, 4, "cpu", tmp_path / "x")
    with pytest.raises(Refused, match="has the network smallcnn3d"):
        train_classify(cohort(), with_training(start="zoo/classify/heads"), 4, "cpu", tmp_path / "x")
    with pytest.raises(Refused, match="under start"):
        train_classify(cohort(), with_training(frozen=True), 4, "cpu", tmp_path / "x")


# --- leakage -----------------------------------------------------------------------------------------------------


def test_an_image_under_two_subjects_does_not_leak_between_folds_or_splits(tmp_path, caplog):
    # Labels are drawn by lot, so nothing can be learned but which copy belongs to which.
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(40) % 2)
    images = []
    for i, label in enumerate(labels):
        data = voxels(i, "clear")
        images += [picture(f"a{i:03d}", data, KIND[label]), picture(f"b{i:03d}", data.astype(np.float64), KIND[label])]
        if i < 10:
            images.append(picture(f"v{i:03d}", data, KIND[label], "validation"))
    with caplog.at_level(logging.WARNING, "cohortex.training"):
        train_classify(images, with_training(steps=60, augment={}, batch=16), 3, "cpu", tmp_path / "m")
    card = read_card(tmp_path / "m")
    found = {metric["name"]: metric for metric in card["metrics"] if "training" in metric["on"]}
    assert found["accuracy"]["low"] < 0.5 < found["accuracy"]["high"] + 0.15
    assert found["accuracy"]["value"] < 0.8
    assert found["accuracy"]["n"] == 30
    copies = card["recipe"]["copies"]
    assert copies["left_out"] == sorted(f"{who}{i:03d}" for who in "ab" for i in range(10))
    assert copies["together"] == [[f"a{i:03d}", f"b{i:03d}"] for i in range(10, 40)]
    assert not set(card["subjects"]["train"]) & set(copies["left_out"])
    assert "the same image" in caplog.text


def test_equal_voxels_have_one_digest_whatever_they_are_stored_as():
    data = np.round(voxels(1, "spot"))
    assert digest_of(data) == digest_of(data.astype(np.int16))
    assert digest_of(data) != digest_of(data.reshape(24, 20, 1))
    changed = data.copy()
    changed[3, 3] += 1
    assert digest_of(data) != digest_of(changed)


# --- bad input ---------------------------------------------------------------------------------------------------


def labelled(*labels: str) -> list[Image]:
    return [picture(f"s{i:03d}", voxels(i, KIND[i % 2]), label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("images", "section", "sentence"),
    [
        (labelled(*["spot"] * 12), SECTION, r"at least two classes .* it has: spot \(12\)"),
        (labelled(*[""] * 6, *["n/a"] * 6), SECTION, "it has: none"),
        (labelled(*["spot"] * 9, *["clear"] * 3), SECTION, r"clear \(3\), spot \(9\)"),
        (labelled(*["spot"] * 9, *["clear"] * 5), with_training(folds=6), "clear .* has 5 training subjects .* 6 folds"),
        ([replace(image, row={"split": "train"}) for image in cohort()], SECTION, "it has: none"),
        (cohort(), {"default": {**SECTION["default"], "network": {"name": "smallresnet3d"}}}, "no network 'smallresnet3d'"),
        (cohort(), {"default": {**SECTION["default"], "network": {"name": "motioncnn2d"}}}, "has no option classes"),
        (cohort(), {"default": {**SECTION["default"], "input": {"size": [16, 16, 8]}}}, "give two numbers"),
        (cohort(), {"default": {**SECTION["default"], "network": {"name": "smallcnn3d"}}}, "give three numbers"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_words(images, section, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        train_classify(images, section, 0, "cpu", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_volumes_are_refused_by_a_network_of_pictures(tmp_path):
    images = [picture(f"s{i:03d}", np.repeat(voxels(i, KIND[i % 2]), 3, axis=2), KIND[i % 2]) for i in range(10)]
    with pytest.raises(Refused, match="looks at pictures, but s000_DX has 3 slices"):
        train_classify(images, SECTION, 0, "cpu", tmp_path / "x")


def test_subjects_without_a_label_are_left_out(tmp_path):
    images = [*cohort(16, 0), *(picture(f"u{i:03d}", voxels(i, "spot"), "") for i in range(4))]
    train_classify(images, with_training(steps=1), 0, "cpu", tmp_path / "x")
    assert read_card(tmp_path / "x")["subjects"]["train"] == [f"s{i:03d}" for i in range(16)]


def test_members_of_two_scales_for_expected_shares_come_back_from_the_folder(tmp_path):
    """What the folder says of pictures is what the networks that were trained say, told for a cohort where spots are rare."""
    images = cohort()
    train_classify(images, with_training(steps=4, members=2, own_scale=True, mirror=True, balance="none"), 3, "cpu", tmp_path / "even")
    asked = {"clear": 0.9, "spot": 0.1}
    section = with_training(steps=4, members=2, own_scale=True, mirror=True, balance="none", expected=asked)
    train_classify(images, section, 3, "cpu", tmp_path / "rare")
    card = read_card(tmp_path / "rare")
    assert card["extra"]["committee"] == {"mirrored": True, "own_scale": True}
    assert card["recipe"]["training"]["expected"] == asked
    assert "as they are told for the expected shares" in card["metrics"][0]["on"]
    for image in images[-4:]:
        even, rare = (said(tmp_path / name, image).measures["p_spot"] for name in ("even", "rare"))
        assert rare / (1 - rare) == pytest.approx(even / (1 - even) / 9, rel=1e-4)
