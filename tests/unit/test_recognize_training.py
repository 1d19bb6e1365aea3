"""Training a detector on a cohort's labels: it finds new things, resumes to the byte, and says in a sentence what it cannot learn from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.models.folder import SCHEMA, load_network, read_card
from cohortex.models.recognize.findings import Findings
from cohortex.models.segment.apply import Feeding
from cohortex.schema import check
from cohortex.stages.recognize import load, recognize
from cohortex.training import recognize as training_module
from cohortex.training import recognize_data as data
from cohortex.training.augment import draw, vary_image
from cohortex.training.limit import Interrupted, Limit
from cohortex.training.recognize import train_recognize
from cohortex.training.recognize_card import best_score
from cohortex.training.recognize_settings import check_recognize, classes_of
from tests.toy_findings import cohort, pair, scene

SMALL = {"filters": 16, "convs": 2, "backbone": [8, 16, 32]}


def section(steps=40, labels=None, **training):
    chosen = {"steps": steps, "batch": 4, "rate": 3e-3, "options": SMALL, **training}
    return {"default": {"weights": "m", "labels": labels or {"1": "bright"}, "training": chosen}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "toy"
    train_recognize(cohort(), section(), 3, "cpu", where)
    return where


def test_a_trained_detector_finds_the_things_of_new_images(folder):
    model = load(section(), {"m": folder}, "cpu")
    there = right = 0
    for seed in range(900, 906):
        image, _ = pair("new", seed, (48, 56, 1))
        made = recognize(image, section()["default"], model, 0)
        truth = scene(seed, (48, 56, 1))[2]
        found = made[1].content if len(made) > 1 else {"x_low": []}
        middles = [tuple((found[f"{a}_low"][i] + found[f"{a}_high"][i]) / 2 for a in "xy") for i in range(len(found["x_low"]))]
        there += len(truth)
        right += sum(any(b[1] <= x < b[4] and b[2] <= y < b[5] for x, y in middles) for b in truth)
    assert right >= 0.7 * there


def test_the_card_tells_what_is_found_and_how_well(folder):
    card = read_card(folder)
    assert (card["task"], card["network"], card["classes"]) == ("recognize", "retinanet", ["bright"])
    assert (card["modality"], card["dimensions"]) == (["T2w"], [2])
    assert card["subjects"] == {"train": [f"{i:03d}" for i in range(10)], "validation": [f"{i:03d}" for i in range(10, 14)]}
    metrics = {metric["name"]: metric for metric in card["metrics"]}
    assert metrics["mAP at overlap 0.5"]["n"] == 4
    assert 0.3 < metrics["mAP at overlap 0.5"]["value"] <= 1
    assert {"CPM at overlap 0.5", f"sensitivity from score {card['extra']['score']:g}"} <= set(metrics)
    assert card["recipe"]["loss"][-1] < 0.6 * card["recipe"]["loss"][0]
    assert len(card["recipe"]["validation"]) == 5
    assert 0 < card["extra"]["score"] < 1
    assert "cohort" not in card["extra"]


def test_a_training_that_was_stopped_ends_with_the_same_bytes(folder, tmp_path):
    from cohortex.training.team import Team, use_team

    class AfterSteps(Limit):
        steps = 0

        def reached(self):
            self.steps += 1
            return self.steps == 12

    before = use_team(Team(limit=AfterSteps()))
    try:
        with pytest.raises(Interrupted, match="step 12 of 40"):
            train_recognize(cohort(), section(), 3, "cpu", tmp_path / "m")
    finally:
        use_team(before)
    assert any((tmp_path / "m.checkpoint").glob("network*"))
    train_recognize(cohort(), section(), 3, "cpu", tmp_path / "m")
    again = read_card(tmp_path / "m")
    assert again["sha256"] == read_card(folder)["sha256"]
    assert again["recipe"]["run"]["resumed"] == 1


@pytest.mark.parametrize("network", [entry.name for entry in registry.entries("recognize")])
def test_every_network_of_the_registry_is_trained_and_asked(network, tmp_path):
    chosen = section(
        2, batch=2, options={k: v for k, v in SMALL.items() if k in registry.entry("recognize", network).options and k == "backbone"}
    )
    chosen["default"]["network"] = network
    train_recognize(cohort(2, 1), chosen, 1, "cpu", tmp_path / "m")
    model = load(chosen, {"m": tmp_path / "m"}, "cpu")
    word = recognize(pair("new", 5, (48, 56, 1))[0], {**chosen["default"], "score": 0.0, "most": 5}, model, 0)[0]
    assert 0 <= word.measures["findings"] <= 5


def test_volumes_are_learned_in_three_dimensions_and_slice_by_slice(tmp_path):
    images = cohort(2, 1, (32, 32, 12), kinds=2, things=3)
    for dimensions in (3, 2):
        chosen = section(2, {"1": "bright", "2": "dark"}, batch=1, options={**SMALL, "dimensions": dimensions})
        train_recognize(images, chosen, 1, "cpu", tmp_path / f"m{dimensions}")
        card = read_card(tmp_path / f"m{dimensions}")
        assert (card["dimensions"], card["extra"]["across"]) == ([3], None if dimensions == 3 else 2)
        assert card["extra"]["patch"] == [32, 32, 16][:dimensions]
        assert "AP of dark" in {metric["name"] for metric in card["metrics"]}


def test_boxes_are_those_of_the_pieces_of_the_labels():
    image, labels = pair("a", 7, (48, 56, 12), kinds=2, things=4)
    known = data.known_of((image, labels), [(1, "bright"), (2, "dark")])
    told = {(kind - 1, *map(float, box)) for kind, *box in scene(7, (48, 56, 12), kinds=2, things=4)[2]}
    assert {(int(k), *c) for k, c in zip(known.truth.labels, known.truth.corners.tolist(), strict=True)} == told
    assert len(data.known_of((image, labels), [(1, "bright")]).truth) == sum(kind == 0 for kind, *_ in told)
    assert len(data.known_of((image, labels), [(1, "bright"), (2, "dark")], 10**6).truth) == 0
    assert len(data.known_of((image, labels), [(9, "none")]).truth) == 0


def test_slices_know_the_boxes_of_their_own_cut():
    image, labels = pair("a", 7, (48, 56, 12), things=1)
    classes = [(1, "bright")]
    known = data.known_of((image, labels), classes)
    item = data.prepare(known, Feeding(replace(data.plan_of([known]), across=2), 2, (48, 64)), classes, (image, labels))
    array = np.asarray(labels.volume.data)
    for place, boxes in enumerate(item.slices):
        at = np.argwhere(array[:, :, place])
        expected = [[*at.min(axis=0), *(at.max(axis=0) + 1)]] if len(at) else []
        assert boxes.corners.tolist() == expected


def test_what_is_varied_keeps_its_box():
    """A block that fills its box: after mirroring, scaling and moving the box still lies around it to half a voxel."""
    rng = np.random.default_rng(4)
    image = np.zeros((40, 48), np.float32)
    image[8:20, 15:30] = 1
    ranges = data.ranges_of([0, 1], 2)
    for _ in range(20):
        drawn = draw(replace(ranges, gain=0, offset=0, noise=0), image.shape, rng)
        (box,) = data.moved(np.array([[8.0, 15, 20, 30]]), drawn, image.shape)
        at = np.argwhere(vary_image(image, drawn) > 0.5)
        assert np.abs(np.r_[at.min(axis=0), at.max(axis=0) + 1] - box).max() < 1.0


def test_what_is_turned_has_the_box_of_an_ellipse():
    """An ellipse that fills its box: after turning and shearing too the box lies around it to a voxel, not around the turned box."""
    rng = np.random.default_rng(5)
    x, y = np.ogrid[:60, :64]
    image = ((((x + 0.5 - 30) / 14) ** 2 + ((y + 0.5 - 32) / 8) ** 2) <= 1).astype(np.float32)
    ranges = replace(data.ranges_of([0, 1], 2), rotate_deg=60.0, shear=0.2, gain=0, offset=0, noise=0)
    for _ in range(20):
        drawn = draw(ranges, image.shape, rng)
        (box,) = data.moved(np.array([[16.0, 24, 44, 40]]), drawn, image.shape)
        at = np.argwhere(vary_image(image, drawn) > 0.5)
        assert np.abs(np.r_[at.min(axis=0), at.max(axis=0) + 1] - box).max() < 1.3


def test_a_cascade_keeps_the_weights_that_held_out_images_chose(tmp_path):
    options = {"screening": [4, 8], "contexts": [8, 12], "filters": 4, "candidates": 6, "threshold": 0.0}
    settings = section(steps=6, batch=2, options=options)
    settings["default"]["network"] = "cascade"
    train_recognize(cohort(), settings, 3, "cpu", tmp_path / "toy")
    weights = read_card(tmp_path / "toy")["options"]["weights"]
    assert len(weights) == 2 and abs(sum(weights) - 1) < 1e-3 and weights[0] != weights[1]
    assert load_network(tmp_path / "toy").weights == tuple(weights)


def test_how_far_examples_are_varied_is_a_setting():
    training = {"flip": [0], "augment": {"rotate_deg": 20.0, "scale": 0.0}}
    assert training_module._varied(training, 2) == replace(data.ranges_of([0], 2), rotate_deg=20.0, scale=0.0)
    for augment, words in (({"turn": 1}, "turn"), ({"scale": 1.5}, "vanish")):
        with pytest.raises(Refused, match=words):
            training_module._varied({"flip": [], "augment": augment}, 2)


def test_examples_show_what_their_boxes_say():
    image, labels = pair("a", 7, (48, 56, 12), things=3)
    classes = [(1, "bright")]
    known = data.known_of((image, labels), classes)
    plan = data.plan_of([known])
    item = data.prepare(known, Feeding(plan, None, (24, 24, 16)), classes)
    rng, seen = np.random.default_rng(1), 0
    for _ in range(30):
        values, boxes = data.draw_example(item, (24, 24, 16), data.ranges_of([0], None), rng)
        assert values.shape == (1, 24, 24, 16)
        assert (boxes[:, :3] >= 0).all() and (boxes[:, 3:6] <= (24, 24, 16)).all() and (boxes[:, 3:6] > boxes[:, :3]).all()
        for low_high in np.round(boxes[:, :6]).astype(int):
            middle = values[0][tuple(slice((a + b) // 2, (a + b) // 2 + 1) for a, b in zip(low_high[:3], low_high[3:], strict=True))]
            seen += bool(middle.size) and bool(middle.mean() > np.median(values))
    assert seen > 15


def test_the_score_is_the_best_compromise():
    def found(*scores):
        corners = np.array([[10.0 * i, 0, 0, 10 * i + 5, 5, 5] for i in range(len(scores))])
        return Findings(corners, np.zeros(len(scores), np.int64), np.array(scores))

    truth = [found(1, 1)]
    assert 0.2 < best_score([found(0.9, 0.6, 0.2)], truth, 0.5) < 0.6
    assert best_score([found()], truth, 0.5) == best_score([found()], [found()], 0.5) == 0.3


def test_an_image_without_a_finding_is_an_example_and_one_subject_is_enough(tmp_path):
    images = [*pair("1", 1, (48, 56, 1)), *pair("2", 2, (48, 56, 1), things=0)]
    train_recognize(images, section(2, batch=2), 1, "cpu", tmp_path / "two")
    train_recognize(pair("1", 1, (48, 56, 1)), section(2, batch=1), 1, "cpu", tmp_path / "one")
    card = read_card(tmp_path / "one")
    assert card["subjects"] == {"train": ["1"], "validation": []}
    assert card["metrics"][0]["on"] == "train subjects"
    assert read_card(tmp_path / "two")["metrics"][0]["n"] == 2


def test_labels_of_the_pipeline_are_no_truth():
    image, labels = pair("1", 1, (48, 56, 1))
    assert data.labelled([image, replace(labels, id="1_T2w+seg")], "train") == []
    assert data.labelled([image, labels, replace(labels, id="1_T2w+seg")], "train") == [(image, labels)]


@pytest.mark.parametrize(
    ("images", "settings", "words"),
    [
        (lambda: [pair("1", 1, (48, 56, 1))[0]], {}, "no image of a training subject has labels"),
        (lambda: pair("1", 1, (48, 56, 1), "validation"), {}, "no image of a training subject has labels"),
        (lambda: pair("1", 1, (48, 56, 1)), {"modality": "CT"}, "no CT of a training subject has labels"),
        (lambda: pair("1", 1, (48, 56, 1), things=0), {}, r"never hold 1 \(bright\)"),
        (lambda: pair("1", 1, (48, 56, 1)), {"labels": {"1": "bright", "7": "nodule"}}, r"never hold 7 \(nodule\)"),
        (lambda: pair("1", 1, (48, 56, 1)), {"labels": {"one": "bright"}}, "it has 'one'"),
        (lambda: pair("1", 1, (48, 56, 1)), {"training": {"least_voxels": 10**5}}, r"never hold 1 \(bright\)"),
        (lambda: pair("1", 1, (48, 56, 1)), {"training": {"options": {"dimensions": 3}}}, "network of two dimensions"),
        (lambda: pair("1", 1, (48, 56, 1)), {"training": {"options": {"depth": 3}}}, "has no option 'depth'"),
        (lambda: pair("1", 1, (48, 56, 1)), {"training": {"patch": [32, 32, 32]}}, "has 3 axes"),
        (lambda: pair("1", 1, (48, 56, 1)), {"network": "retinnet"}, "Did you mean retinanet"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_what_to_do(images, settings, words, tmp_path):
    with pytest.raises(Refused, match=words):
        train_recognize(images(), {"default": {**section()["default"], **settings}}, 1, "cpu", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_before_any_job_the_table_is_looked_at():
    rows = [{"subject": "1", "split": "train", "role": "image", "modality": "T2w"}]
    labels = {"subject": "1", "split": "train", "role": "labels", "modality": "T2w"}
    check_recognize({"default": {}}, [*rows, labels])
    for given, table, words in (
        ({}, rows, "no training subject has a row of role labels"),
        ({}, [*rows, {**labels, "split": "test"}], "no training subject has a row"),
        ({"modality": "CT"}, [*rows, labels], "no CT of a training subject has a row"),
        ({"network": "none"}, [*rows, labels], "no network 'none'"),
        ({"labels": {"0": "air"}}, [*rows, labels], "it has '0'"),
    ):
        with pytest.raises(Refused, match=words):
            check_recognize({"default": given}, table)
    assert classes_of({"10": "b", "2": "a"}) == [(2, "a"), (10, "b")]


def test_the_settings_hold_to_their_schema():
    _, problems = check(section()["default"], "stages/recognize.json")
    assert problems == []
    assert "recognize" in json.loads(SCHEMA.read_text())["properties"]["task"]["enum"]
