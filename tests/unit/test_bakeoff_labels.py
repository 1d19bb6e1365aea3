"""Bake-offs with labels: which systems there are, which labels are of use, what a result is worth."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from cohortex.bakeoff import labelled, page, registered
from cohortex.bakeoff.board import Scored, leaderboard, table
from cohortex.bakeoff.kinds import KINDS
from cohortex.bakeoff.pictures import COLOURS, mistaken, outlined
from cohortex.bakeoff.run import compared, looked_at, score_system
from cohortex.bakeoff.systems import ask_bakeoff, check_splits, system_named, systems_of
from cohortex.bakeoff.train import train_system
from cohortex.config import check_config
from cohortex.errors import Refused, Skip
from cohortex.items import Image
from cohortex.resources import Load, Part
from cohortex.tables import write_table
from cohortex.volume import Volume

NAMES = {"1": "outer", "2": "core"}


@pytest.fixture
def config(root, tmp_path):
    """The shipped configuration with small networks."""
    found = yaml.safe_load((root / "config.yaml").read_text())
    small = {"planned_unet": {"training": {"options": {"features": [4, 6], "kernels": [], "strides": []}}}}
    found["bakeoff"]["segment"] |= {"candidates": [small], "labels": NAMES, "modality": "T1w"}
    found["bakeoff"]["segment"]["training"] |= {"steps": 2, "batch": 2, "patch": 16}
    found["work"] = str(tmp_path)
    return check_config(found)


def ball(seed, moved=0.0):
    """Return a ball with a core on voxels of 4 mm, and labels."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[4.0 * np.arange(n) for n in (30, 34, 28)], indexing="ij")
    away = np.stack(axes) - np.array([58.0, 66.0, 54.0]).reshape(3, 1, 1, 1)
    middle = np.array([10.0, 14.0, 4.0]) + moved
    labels = ((away**2).sum(0) < 46**2).astype(np.uint8) + (((away - middle.reshape(3, 1, 1, 1)) ** 2).sum(0) < 20**2)
    return labels, rng.normal(0, 4, labels.shape)


def subject(name, split, modality="T1w", seed=1, moved=0.0, given=None):
    """Return a scan and its labels; `given` in place of them."""
    labels, noise = ball(seed, moved)
    values = np.array([-1000.0, 20.0, 90.0]) if modality == "CT" else np.array([0.0, 300.0, 120.0])
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    scan = Volume((values[labels] + noise).astype(np.float32), affine, modality, "image", "head")
    known = Volume(labels if given is None else given, affine, modality, "labels", "head")
    common = {"subject": name, "session": "", "modality": modality, "body_part": "head", "row": {"split": split, "sha256": name}}
    return [
        Image(f"{name}_{modality}", kind="image", opener=lambda: scan, **common),
        Image(f"{name}_{modality}+labels", kind="labels", role="labels", opener=lambda: known, **common),
    ]


def cohort(**odd):
    """Return subjects of all splits; the keywords give labels to some of them."""
    splits = {"a": "train", "b": "train", "c": "validation", "d": "test", "e": "test"}
    return [each for k, (name, split) in enumerate(splits.items()) for each in subject(name, split, seed=k, given=odd.get(name))]


# --- systems


def test_the_planned_network_always_runs_and_is_what_others_are_held_against(config):
    config["bakeoff"]["segment"]["candidates"] = ["unet", {"mine": {"weights": "my_model"}}]
    found = {system.name: system for system in systems_of(config, "segment")}
    assert list(found) == ["planned_unet", "unet", "mine"]
    assert (found["mine"].trains, found["mine"].weights, found["unet"].trains) == (False, "my_model", True)
    training = found["unet"].section["default"]["training"]
    assert training["options"] == {"valid": False} and (training["steps"], training["batch"], training["patch"]) == (2, 2, 16)
    assert found["unet"].section["default"]["labels"] == NAMES
    config["bakeoff"]["segment"]["candidates"] = ["unett"]
    with pytest.raises(Refused, match="did you mean unet"):
        systems_of(config, "segment")


def test_ways_to_register_are_the_affine_start_methods_joint_trainings_and_model_folders(config):
    config["bakeoff"]["regseg"]["candidates"] = [
        "voxelmorph",
        {"longer": {"training": {"steps": 900, "minutes": 1}}},
        {"shipped": {"weights": "zoo/regseg/heads"}},
        {"both_ways": {"deformable": {"method": "gauss_newton", "gauss_newton": {"symmetric": True}}}},
    ]
    found = {system.name: system for system in systems_of(config, "regseg")}
    assert {name: system.kind for name, system in found.items()} == {
        "affine": "nothing", "gauss_newton": "method", "voxelmorph": "network", "longer": "network", "shipped": "network",
        "both_ways": "method",
    }  # fmt: skip
    defaults = {name: system.section["default"] for name, system in found.items()}
    assert [defaults[name]["deformable"]["method"] for name in found] == ["none", "gauss_newton", *["network"] * 3, "gauss_newton"]
    assert defaults["both_ways"]["deformable"]["gauss_newton"] == {**defaults["affine"]["deformable"]["gauss_newton"], "symmetric": True}
    assert defaults["voxelmorph"]["network"] == {"name": "voxelmorph", "options": {}} and found["shipped"].weights == "zoo/regseg/heads"
    assert (defaults["longer"]["training"]["steps"], defaults["longer"]["training"]["minutes"]) == (900, 25), "the minutes are the same"
    assert defaults["longer"]["deformable"]["otherwise"] == "none", "what stands in for it would be another system"
    config["bakeoff"]["regseg"]["candidates"] = ["gauss_newtn"]
    with pytest.raises(Refused, match="did you mean gauss_newton"):
        systems_of(config, "regseg")


def test_without_labels_nothing_is_started(config, tmp_path):
    columns = ("subject", "split", "role")
    rows = [{"subject": str(k), "split": split, "role": "image"} for k, split in enumerate(("train", "validation", "test"))]
    write_table(tmp_path / "cohort" / "cohort.tsv", columns, rows)
    with pytest.raises(Refused, match="segment trains planned_unet, but no training subject has labels; list them"):
        check_splits(config, "segment")
    with pytest.raises(Refused, match="regseg trains voxelmorph_small, but no training subject has labels"):
        check_splits(config, "regseg")
    write_table(tmp_path / "cohort" / "cohort.tsv", columns, [*rows, {**rows[0], "role": "labels"}])
    with pytest.raises(Refused, match="no validation or test subject has any"):
        check_splits(config, "segment")
    check_splits(config, "regseg")


def test_jobs_ask_for_more_where_scans_are_larger(config):
    small, large = (ask_bakeoff(config, "segment", Load((Part("T1w", 4, mb, 4 * mb),), mb), 1, 2) for mb in (10.0, 100.0))
    assert (
        large.memory_mb > small.memory_mb > 500 and large.seconds > small.seconds > 60 * config["bakeoff"]["segment"]["training"]["minutes"]
    )


# --- labels that are of no use

WHOLE = np.ones((30, 34, 28), np.uint8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0 * WHOLE, "all voxels of its labels are 0: one class alone"),
        (WHOLE, "all voxels of its labels are 1: one class alone"),
        (ball(0)[0] * 1.5, "the value 1.5; give whole numbers"),
        (ball(0)[0].astype(np.int16) - 1, "the value -1; give whole numbers"),
        (ball(0)[0].astype(np.int16) * 1000, "go up to 2000; number them from 1 on"),
        (ball(0)[0] * 3, "the value 3, which bakeoff.segment.labels does not name; it names 1, 2"),
    ],
)
def test_labels_that_are_of_no_use_are_left_out_with_a_sentence(config, given, said):
    cases, without = compared(cohort(d=given), config, "segment", 0)
    assert [case.image.subject for case in cases] == ["c", "e"]
    assert list(without) == ["d_T1w"] and said in without["d_T1w"]
    learnt = looked_at(cohort(a=given), system_named(config, "segment", "planned_unet"), config["bakeoff"]["segment"])
    assert [image.id for image in learnt if image.row["split"] == "train"] == ["b_T1w", "b_T1w+labels"]
    with pytest.raises(Refused, match="no labels of a training subject can be used: a_T1w: ") as refused:
        looked_at(cohort(a=given, b=given), system_named(config, "segment", "planned_unet"), config["bakeoff"]["segment"])
    assert said in str(refused.value)
    with pytest.raises(Refused, match="no labelled scan of a validation or test subject can be used"):
        compared(cohort(c=given, d=given, e=given), config, "segment", 0)


def test_the_other_modality_is_not_looked_at_and_scans_are_cut_with_their_labels(config):
    config["bakeoff"]["segment"] |= {"edge": [16, 20, 9], "images": 1}
    images = [*cohort(), *subject("d", "test", "CT"), *subject("f", "test", "CT")]
    cases, _ = compared(images, config, "segment", 0)
    assert [case.image.id for case in cases] == ["c_T1w", "d_T1w"]
    whole = images[6]
    assert cases[1].labels.shape == cases[1].image.volume.shape == (16, 20, 9)
    at = np.round(np.linalg.inv(whole.volume.affine) @ cases[1].image.volume.affine)[:3, 3].astype(int)
    box = tuple(slice(a, a + n) for a, n in zip(at, (16, 20, 9), strict=True))
    np.testing.assert_array_equal(cases[1].labels, images[7].volume.data[box])
    np.testing.assert_array_equal(cases[1].image.volume.data, whole.volume.data[box])


# --- scores


def test_the_truth_is_perfect_and_a_moved_label_is_as_far_away_as_it_was_moved(config):
    case = compared(cohort(), config, "segment", 0)[0][0]
    found, rows = labelled.measured(case, case.labels, [1, 2, 3], NAMES)
    assert found == {"missed": 0, "dice": 1, "iou": 1, "recall": 1, "precision": 1, "hd95": 0, "asd": 0}
    assert [row["name"] for row in rows] == ["outer", "core"], "a label that neither has says nothing"
    less = np.where(case.labels == 2, 1, case.labels)
    found, rows = labelled.measured(case, less, [1, 2], NAMES)
    assert found["missed"] == 1 and rows[1]["dice"] == 0 and "hd95" not in rows[1]
    assert found["dice"] == pytest.approx(rows[0]["dice"] / 2) and found["hd95"] == rows[0]["hd95"] > 4
    found, _ = labelled.measured(case, np.roll(case.labels, 2, axis=0), [1], NAMES)
    assert 4 <= found["hd95"] <= 8
    with pytest.raises(Refused, match="shape"):
        labelled.measured(case, case.labels[1:], [1], NAMES)


def test_scans_that_a_system_is_not_for_are_left_out_and_said(config):
    cases = compared(cohort(), config, "segment", 0)[0]

    def label(image):
        if image.subject == "d":
            raise Skip("no-fit", "It is for other voxels.")
        return next(case.labels for case in cases if case.image is image)

    rows, of_labels, pictures, left_out = labelled.score(cases, label, NAMES)
    assert [row["subject"] for row in rows] == ["c", "e"] and set(rows[0]) <= set(KINDS["segment"].columns)
    assert left_out == {"d_T1w": "It is for other voxels."} and not pictures and len(of_labels) == 4
    assert set(of_labels[0]) <= set(labelled.LABEL_COLUMNS)
    with pytest.raises(Refused, match="none of the 1 scans"):
        labelled.score(cases[1:2], label, NAMES)


def test_a_network_is_trained_and_scored_and_one_that_cannot_be_built_has_a_row_that_says_so(config, tmp_path):
    torch.set_num_threads(1)
    config["bakeoff"]["segment"]["candidates"] += [{"bad": {"network": "vnet", "training": {"options": {"no_such": 1}}}}]
    cases, _ = compared(cohort(), config, "segment", 0)
    scored = []
    for name in ("planned_unet", "bad"):
        system = system_named(config, "segment", name)
        images = [i for i in looked_at(cohort(), system, config["bakeoff"]["segment"]) if i.row["split"] != "test"]
        told = train_system(system, images, 3, "cpu", tmp_path / name, 1)
        about, rows, of_labels, pictures = score_system(system, tmp_path / name / "model", told, cases, config, 3, "cpu")
        as_text = [{key: str(value) for key, value in row.items()} for row in rows]
        scored.append(Scored(about, as_text, [], pictures, [{key: str(value) for key, value in row.items()} for row in of_labels]))
    board = leaderboard(scored, "segment", "planned_unet")
    assert [line.about["status"] for line in board.lines] == ["ok", "failed"]
    assert "has no option 'no_such'" in board.lines[1].about["reason"]
    columns, rows = table(board)
    assert {"dice", "dice_gain", "dice_outer", "hd95_core", "validation_dice", "cpu_s_scan"} <= set(columns)
    assert (rows[0]["steps_done"], rows[0]["images"], rows[0]["chosen"]) == (2, 2, "yes") and json.dumps(rows)
    words = page.markdown(board, config, None, 1.0)
    assert "planned_unet (chosen)" in words and "## Labels" in words and "| system | outer | core |" in words
    assert "Ranked by mean Dice on 1 validation subject" in words and "same budget: 2 steps" in words


def test_a_joint_model_registers_pairs_and_segments_and_is_not_scored_where_its_network_is_not_for_the_pair(config, tmp_path):
    torch.set_num_threads(1)
    small = {
        "working_spacing_mm": 8.0, "segment_spacing_mm": 8.0, "training": {"crop": 16, "register_crop": 16},
        "segment_network": {"name": "unet3d_small", "options": {"features": [4, 8]}},
        "network": {"name": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}},
    }  # fmt: skip
    config["bakeoff"]["regseg"] |= {"candidates": [{"joint": small}]}
    config["bakeoff"]["regseg"]["training"] |= {"steps": 1, "segment_steps": 1, "turn": 1, "rounds": 0}
    splits = {"a": "train", "b": "validation", "c": "test"}
    images = [each for n, s in splits.items() for m, by in (("T1w", 0), ("CT", 4)) for each in subject(n, s, m, moved=by)]
    joint, affine = (system_named(config, "regseg", name) for name in ("joint", "affine"))
    told = train_system(joint, [i for i in images if i.row["split"] != "test"], 3, "cpu", tmp_path / "joint", 1)
    assert told["status"] == "ok", told["reason"]
    assert told["steps_done"] == 1 and told["parameters"] > 3000, "of all three networks"
    cases, without = compared(images, config, "regseg", 0)
    assert [(case.moving.id, case.fixed.id, case.split) for case in cases] == [
        ("b_CT", "b_T1w", "validation"), ("c_CT", "c_T1w", "test"),
    ]  # fmt: skip
    assert not without
    about, rows, of_labels, pictures = score_system(joint, tmp_path / "joint" / "model", told, cases, config, 0, "cpu")
    assert about["status"] == "ok", about["reason"]
    assert {"labels_dice", "fixed_dice", "moving_dice", "folding_percent", "jacobian_min", "mi"} <= set(rows[0])
    assert set(rows[0]) <= set(KINDS["regseg"].columns) and set(pictures) == {"image", "warped", "truth", "result"}
    assert {row["name"] for row in of_labels} == {"csf", "grey_matter"}, "as regseg.default.labels has them"
    about, start, _, _ = score_system(affine, None, {}, cases, config, 0, "cpu")
    assert start[1]["jacobian_min"] == 1 and 0.5 < start[1]["labels_dice"] < 1 and "fixed_dice" not in start[1]
    label = labelled.labeller(joint, tmp_path / "joint" / "model", config, "cpu", 0)
    assert label(cases[0].fixed).shape == cases[0].fixed.volume.shape, "the same folder is a system of the bake-off of segmentation"
    with pytest.raises(Skip, match="is for CT, T1w, not for T2w"):
        label(replace(cases[0].fixed, modality="T2w"))
    other = [replace(case, moving=replace(case.moving, body_part="abdomen")) for case in cases]
    about, rows, _, _ = score_system(joint, tmp_path / "joint" / "model", told, other, config, 0, "cpu")
    assert about["status"] == "failed" and "it is for none of the 2 pairs" in about["reason"]


def test_pairs_without_labels_are_compared_by_mutual_information(config):
    images = [each for m in ("T1w", "CT") for each in subject("c", "test", m) if each.kind == "image"]
    cases, _ = registered.cases_of(images, config["regseg"], config["bakeoff"]["regseg"])
    assert [list(case.true) for case in cases] == [[]]
    rows = [
        {"subject": "c", "image": "c_CT", "split": split, "cpu_s": "1", "megavoxels": "1", "mi": "0.5"} for split in ("test", "validation")
    ]
    board = leaderboard([Scored({"system": "affine", "status": "ok"}, rows, [], {})], "regseg", "affine")
    assert (board.ranked_by, board.chosen) == ("mi", "affine")
    odd = [each for m in ("T1w", "CT") for each in subject("d", "test", m, given=0 * WHOLE)]
    with pytest.raises(Refused, match="no pair of a validation or test subject can be used: d_CT: all voxels of its labels are 0"):
        registered.cases_of(odd, config["regseg"], config["bakeoff"]["regseg"])
    joint = system_named(config, "regseg", "voxelmorph_small")
    assert [image.id for image in looked_at(odd, joint, config["bakeoff"]["regseg"])] == ["d_T1w", "d_CT"], "their labels teach nothing"
    with pytest.raises(Refused, match="no subject has a pair"):
        registered.cases_of(images[:1], config["regseg"], config["bakeoff"]["regseg"])


# --- pictures


def test_labels_are_outlined_and_mistakes_have_colours():
    labels = np.zeros((10, 12), np.uint8)
    labels[3:7, 4:9] = 2
    picture = outlined(np.full(labels.shape, 0.5), labels, 12)
    assert picture.shape == (10, 12, 3)
    assert (picture[3, 4] == COLOURS[1]).all() and (picture[4, 5] == 128).all() and (picture[2, 4] == 128).all()
    other = np.roll(labels, 1, axis=1)
    wrong = mistaken(np.full(labels.shape, 0.5), labels, other, 12).astype(int)
    assert wrong[4, 9, 0] > wrong[4, 9, 2] and wrong[4, 4, 2] > wrong[4, 4, 0], "invented is red, lacking is blue"
    assert (wrong[4, 6] == wrong[0, 0]).all()
