"""What a classifier's card says beyond its metrics, what the stage does with it, and images that are on both sides of a split."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.measures.attributes import attributes
from cohortex.measures.conformal import fit_conformal, prediction_sets
from cohortex.measures.evaluation import conformal_of, evaluation, rule_out_of, sets_of
from cohortex.measures.leakage import BEYOND, find_copies
from cohortex.models.classify.decided import check_decisions, decided
from cohortex.models.folder import read_card
from cohortex.stages.classify import classify, load
from cohortex.training.classify import train_classify
from cohortex.training.classify_evaluation import tell
from tests.toy_heads import KINDS, head
from tests.unit.test_classify_pictures import KIND, SECTION, picture, voxels, with_training

QUICK = {
    "default": {
        **SECTION["default"],
        "network": {"name": "smallresnet2d", "options": {"widths": [8], "dropout": 0.0}},
        "training": {"folds": 3, "steps": 40, "batch": 16, "rate": 5e-3, "augment": {}},
        "rule_out": {"sensitivity": 0.9},
    }
}


def person(i: int, split: str = "train"):
    """Return a picture of a cohort in which nobody can see the spots of site b; a third have one."""
    rng = np.random.default_rng(1000 + i)
    kind, site = KIND[int(rng.random() < 0.4)], "ab"[int(rng.random() < 0.5)]
    image = picture(f"s{i:03d}", voxels(i, kind if site == "a" else "clear"), kind, split)
    about = {"sex": "FM"[int(rng.random() < 0.5)], "age": str(int(rng.integers(20, 80))), "note": f"n{i}", "finding": kind[:1]}
    row = {**image.row, "site": site, **{f"participants.{name}": cell for name, cell in about.items()}}
    return replace(image, row=row)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("promises") / "m"
    train_classify([person(i, "train" if i < 150 else "validation") for i in range(170)], QUICK, 3, "cpu", folder)
    return folder, read_card(folder)["extra"]["evaluation"]


def test_the_card_has_sets_an_operating_point_curves_and_the_audit(trained):
    _, told = trained
    cases = told["cases"]
    assert told["subjects"] == sum(cases.values()) == 150
    assert [len(told["sets"]["threshold"]), told["sets"]["cases"]] == [2, cases]
    assert told["sets"]["expected"][1] < 0.9 < told["sets"]["expected"][2]
    assert told["sets"]["validation"]["covered"][2] > 0.9
    assert (told["rule_out"]["class"], told["rule_out"]["chosen"]) == ("spot", "the rarer of two classes")
    assert (told["rule_out"]["needed"], told["rule_out"]["cases"]) == (22, cases["spot"])
    assert told["rule_out"]["expected"]["sensitivity"][0] >= 0.9
    (curve,) = told["roc"]
    assert curve["class"] == "spot" and curve["points"][0] == [0, 0] and curve["points"][-1] == [1, 1]
    assert 0.5 < curve["auc"][1] < curve["auc"][0] < curve["auc"][2] < 1
    assert sum(row[4] for row in told["reliability"]["bins"]) == 150
    assert len(told["decisions"][0]["model"]) == 19


def test_folds_whose_models_differ_are_told_of(trained, caplog):
    _, told = trained
    low = {**told["sets"], "checked": {**told["sets"]["checked"], "covered": [0.7, 0.6, 0.8]}}
    for sets, said in ((low, 1), ({**low, "checked": {"covered": [0.85, 0.8, 0.92]}}, 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "cohortex.training"):
            tell({**told, "sets": sets}, None, 2)
        assert caplog.text.count("the models of the folds differ") == said


def test_the_audit_names_the_site_where_it_fails_and_no_other_group(trained):
    found = trained[1]["audit"]
    assert {gap["column"] for gap in found["gaps"]} == {"site", "sex", "age"}
    assert found["left_out"] == {"finding": "all of c are of one class"}
    alarms = {(gap["column"], gap["measure"]) for gap in found["gaps"] if gap["alarm"]}
    assert ("site", "auc") in alarms and {column for column, _ in alarms} == {"site"}
    assert {group["group"] for group in found["groups"] if group["column"] == "age"} <= {"18 to 39", "40 to 64", "65 and over"}


def test_the_stage_gives_sets_and_rules_out_by_the_card(trained):
    folder, told = trained
    model = load(QUICK, {"m": folder}, "cpu")
    sizes = set()
    for i in range(200, 212):
        image = person(i, "test")
        row = next(made for made in classify([image], QUICK, model, 0) if not made.tag)
        p = np.array([row.measures[f"p_{name}"] for name in KIND])
        limits = [np.inf if limit is None else limit for limit in told["sets"]["threshold"]]
        expected = [name for name, one, limit in zip(KIND, p, limits, strict=True) if 1 - one <= limit] or [KIND[int(p.argmax())]]
        assert row.measures["set"] == "|".join(expected) and row.measures["set_size"] == len(expected)
        assert row.measures["ruled_out"] is bool(p[1] < told["rule_out"]["threshold"])
        sizes.add(len(expected))
    assert sizes == {1, 2}, "some pictures are told apart and some are not"
    card = model["m"].card
    old = {"m": replace(model["m"], card={**card, "extra": {k: v for k, v in card["extra"].items() if k != "evaluation"}})}
    plain = next(made for made in classify([person(200, "test")], QUICK, old, 0) if not made.tag)
    assert not {"set", "set_size", "ruled_out", "unlike_training"} & set(plain.measures) and "probability" in plain.measures
    check_decisions(old["m"].card)
    for wrong in ({"sets": {**told["sets"], "threshold": [0.5]}}, {"sets": {}, "rule_out": {**told["rule_out"], "class": "x"}}):
        with pytest.raises(Refused, match="does not suit its classes"):
            check_decisions({**card, "extra": {"evaluation": {**told, **wrong}}})


def test_sets_and_ruling_out_keep_their_promise_on_new_cases():
    rng = np.random.default_rng(0)

    def drawn(n):
        y = (rng.random(n) < 0.3).astype(int)
        p = 1 / (1 + np.exp(-rng.normal(2.5 * y - 1.5, 1.0)))
        return y, np.stack([1 - p, p], axis=1)

    covered, kept = [], []
    ids = np.arange(300).astype(str)
    for seed in range(40):
        (y, p), (new, q) = drawn(300), drawn(4000)
        told = sets_of(y, p, ids, np.arange(300) % 4, ["a", "b"], 0.9, seed)
        member = prediction_sets(conformal_of(told), q).member[np.arange(4000), new]
        covered.append([member[new == k].mean() for k in (0, 1)])
        rule = rule_out_of(y == 1, p[:, 1], ids, "b", 0.95, 0.9, seed)
        kept.append([(q[new == 1, 1] >= rule["threshold"]).mean(), *rule["expected"]["sensitivity"]])
    assert np.mean(covered, axis=0) == pytest.approx([0.905, 0.905], abs=0.02), "of each class"
    true, expected, low, high = np.array(kept).T
    assert (true >= 0.95).mean() >= 0.8, "sure at 90 %"
    assert true.mean() == pytest.approx(expected.mean(), abs=0.01)
    assert ((low <= true) & (true <= high)).mean() >= 0.85
    few = rule_out_of(y[:20] == 1, p[:20, 1], ids[:20], "b", 0.95, 0.9, 0)
    assert (few["threshold"], few["needed"], few["expected"]["ruled_out"]) == (None, 45, 0)
    assert not decided({"extra": {"evaluation": {"rule_out": few}}}, ["a", "b"], np.array([1.0, 0.0]))["ruled_out"]
    always = fit_conformal(p[:20], y[:20], 0.1, by_class=True)
    assert (
        np.isinf(always.threshold[1]) and sets_of(y[:20], p[:20], ids[:20], np.arange(20) % 2, ["a", "b"], 0.9, 0)["threshold"][1] is None
    )


def test_what_is_told_of_three_classes_is_told_of_each_against_the_rest():
    rng = np.random.default_rng(1)
    y = np.arange(90) % 3
    p = rng.dirichlet([1, 1, 1], 90) * 0.6 + 0.4 * np.eye(3)[y]
    told = evaluation(y, p, np.arange(90) // 2, ["a", "b", "c"])
    assert [entry["class"] for entry in told["roc"]] == [entry["class"] for entry in told["decisions"]] == ["a", "b", "c"]
    assert told["reliability"]["of"] == "" and (told["scans"], told["subjects"]) == (90, 45)


def test_columns_that_are_no_groups_of_people_are_left_out_with_the_reason():
    subjects = np.array([f"s{i // 2}" for i in range(60)])
    y = np.repeat(np.arange(30) % 2, 2)
    rows = [
        {"hand": "LR"[i % 2], "centre": "north" if i < 50 else f"c{i // 2}", "eye": "xy"[i // 2 % 3 == 0], "empty": "n/a"}
        for i in range(60)
    ]
    found, out = attributes(rows, subjects, y, "auto")
    assert set(found) == {"eye"} and out["hand"] == "30 of the subjects are in several groups"
    found, out = attributes(rows, subjects, y, ["empty", "centre", "none"])
    assert not found and "no subject has a value" in out["empty"] == out["none"]
    assert out["centre"] == "fewer than two groups have 5 subjects"


def test_a_class_to_rule_out_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    section = {"default": {**QUICK["default"], "rule_out": {"class": "tumour"}}}
    with pytest.raises(Refused, match=r"rule_out\.class is tumour, but .* classes clear, spot"):
        train_classify([person(i) for i in range(20)], section, 3, "cpu", tmp_path / "x")


# --- both sides of a split -------------------------------------------------------------------------------------------


def test_near_copies_and_a_subject_in_both_parts_are_seen_and_no_score_is_perfect(tmp_path, caplog):
    # Labels are drawn by lot: a score above chance could come from copies only.
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(60) % 2)
    images = [picture(f"t{i:03d}", voxels(i, "clear"), KIND[label]) for i, label in enumerate(labels)]
    for i in range(12):
        plain = voxels(i, "clear")
        changed = [3 * plain + 7, plain + rng.normal(0, 0.5, plain.shape)][i % 2]
        images.append(picture(f"v{i:03d}", np.ascontiguousarray(changed, np.float32), KIND[labels[i]], "validation"))
    both = [picture(f"v{i:03d}", voxels(900 + i, "clear"), KIND[labels[i]]) for i in range(3)]
    # This network learns all pictures by heart: with the copies left in, 11 of 12 are right.
    section = with_training(steps=150, augment={}, batch=20, folds=2)
    section["default"] |= {
        "network": {"name": "smallresnet2d", "options": {"widths": [16, 32], "dropout": 0.0}},
        "input": {"size": [20, 24], "spacing_mm": None},
    }
    with caplog.at_level(logging.WARNING, "cohortex.training"):
        train_classify([*images, *both], section, 3, "cpu", tmp_path / "m")
    card = read_card(tmp_path / "m")
    copies = card["recipe"]["copies"]
    assert copies == {"left_out": [f"t{i:03d}" for i in range(12)], "both": ["v000", "v001", "v002"], "alike": 12}
    assert card["subjects"]["train"] == [f"t{i:03d}" for i in range(12, 60)]
    assert "12 pairs of images are copies across parts" in caplog.text and "3 subjects in several parts" in caplog.text
    for metric in card["metrics"]:
        if metric["name"] == "accuracy":
            assert metric["value"] < 0.85, metric


def test_heads_are_alike_and_only_their_copies_are_copies():
    rng = np.random.default_rng(0)
    heads = [head(i, KINDS[i % 3], 16, 10.0)[0] for i in range(12)]
    noisy = [2 * array + rng.normal(0, 2, array.shape) for array in heads[:3]]
    everything = [*heads, *noisy]
    plain = {(pair.first, pair.second) for pair in find_copies(everything, alike=0.8)}
    own = {(pair.first, pair.second) for pair in find_copies(everything, alike=0.8, beyond=BEYOND)}
    assert own == {(0, 12), (1, 13), (2, 14)} < plain
