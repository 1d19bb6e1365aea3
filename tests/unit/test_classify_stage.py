"""The stage classify and its training, on small heads: from images to a model folder to probabilities."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from cohortex.errors import BadInput, Refused
from cohortex.models.folder import read_card
from cohortex.schema import check
from cohortex.stages.classify import classify, load
from cohortex.stages.classify_why import check_methods
from cohortex.training.classify import DEFAULTS, train_classify
from tests.toy_heads import KINDS, subject

SECTION = {
    "default": {
        "weights": "m",
        "texture": {"spacing_mm": 5.0, "bins": 16},
        "input": {"size": [16, 16, 16], "spacing_mm": 10.0},
        "training": {"folds": 2, "steps": 12, "batch": 4, "minutes": 60.0},
    }
}


def cohort(**row: str) -> list:
    images = []
    for i in range(21):
        images += subject(f"s{i:03d}", i, KINDS[i % 3], **{"split": "train" if i < 15 else "validation", **row})
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "toy"
    train_classify(cohort(), SECTION, 3, "cpu", where)
    return where


@pytest.fixture(scope="module")
def model(folder):
    return load(SECTION, {"m": folder}, "cpu")


def by_tag(made, image, tag=""):
    return next((each for each in made if each.of == image and each.tag == tag), None)


def test_the_card_tells_what_was_learned_and_how_well(folder):
    card = read_card(folder)
    assert card["classes"] == list(KINDS)
    assert card["modality"] == ["T1w"]
    assert card["body_part"] == ["head"]
    assert card["subjects"]["validation"] == [f"s{i:03d}" for i in range(15, 21)]
    aucs = [metric for metric in card["metrics"] if metric["name"].startswith("auc (")]
    assert [metric["n"] for metric in aucs] == [15, 6]
    assert aucs[0]["value"] > 0.9
    assert aucs[0]["low"] < aucs[0]["value"]
    assert {metric["name"] for metric in card["metrics"]} >= {"accuracy", "brier", "calibration_error", "auc of the cnn part"}


def test_new_heads_get_their_class_with_probabilities_that_add_up(model):
    right = 0
    for number, kind in enumerate(KINDS * 2):
        made = classify(subject("new", 500 + number, kind), SECTION, model, 0)
        row, table = by_tag(made, "new_T1w"), by_tag(made, "new_T1w", "class")
        assert row.status == "ok"
        assert sum(table.content["probability"]) == pytest.approx(1)
        assert table.content["class"] == list(KINDS)
        assert row.measures["probability"] == max(row.measures[f"p_{each}"] for each in KINDS) < 0.99
        assert {"probability_radiomics_one", "probability_cnn_one"} <= set(row.measures)
        right += row.measures["class"] == kind
    assert right >= 5


def test_the_demo_classifier_never_gives_a_probability_to_a_users_scan(model):
    for site in ("", "hospital", "simulated"):
        made = classify(subject("real", 5, "one", site=site), SECTION, model, 0)
        row = by_tag(made, "real_T1w")
        assert (row.status, row.code) == ("skipped", "demo-only")
        assert not any("class" in each.tag or each.measures for each in made)
        assert by_tag(made, "real_T1w", "features") is not None
    without = [replace(image, row={}) for image in subject("real", 5, "one")]
    assert not any(each.measures for each in classify(without, SECTION, model, 0))


def test_a_model_of_the_users_own_cohort_says_so_and_works_on_their_scans(tmp_path):
    section = {"default": {**SECTION["default"], "parts": ["radiomics"]}}
    train_classify(cohort(site="hospital"), section, 3, "cpu", tmp_path / "own")
    card = read_card(tmp_path / "own")
    assert "cohort" not in card["extra"]
    assert card["simulated"] is False
    made = classify(subject("new", 77, "many", site="elsewhere"), section, load(section, {"m": tmp_path / "own"}, "cpu"), 0)
    assert by_tag(made, "new_T1w").measures["class"] == "many"


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    train_classify(cohort(), SECTION, 3, "cpu", tmp_path / "again")
    assert read_card(tmp_path / "again")["sha256"] == read_card(folder)["sha256"]


def test_features_are_written_without_any_model():
    made = classify(subject("a", 1, "one"), {"default": {"weights": None}}, {}, 0)
    tables = {each.of: each.content for each in made if each.tag == "features"}
    assert set(tables) == {"a_CT", "a_T1w"}
    values = dict(zip(tables["a_T1w"]["feature"], tables["a_T1w"]["value"], strict=True))
    assert values["T1w_lesion_volume_ml"] > 0
    assert values["CT_in_T1w_lesion_mean"] == pytest.approx(60, abs=4)
    assert {each.code for each in made if not each.tag} == {"no-model"}


def test_features_can_be_left_out():
    made = classify(subject("a", 1, "one"), {"default": {"features": False}}, None, 0)
    assert [(each.of, each.status, each.code) for each in made] == [("a_CT", "skipped", "no-model"), ("a_T1w", "skipped", "no-model")]


def test_a_scan_without_segmentation_is_skipped_with_the_reason(model):
    made = classify(subject("a", 1, "one", parts=("T1w", "CT")), SECTION, model, 0)
    row = by_tag(made, "a_T1w")
    assert (row.status, row.code) == ("skipped", "no-labels")
    assert "regseg" in row.reason
    assert not [each for each in made if each.tag]


def test_another_modality_or_body_part_is_skipped_with_the_reason(model):
    ct = classify(subject("a", 1, "one", parts=("CT", "seg")), SECTION, model, 0)
    assert (by_tag(ct, "a_CT").status, by_tag(ct, "a_CT").code) == ("skipped", "no-fit")
    assert "T1w" in by_tag(ct, "a_CT").reason
    chest = [replace(image, body_part="chest") for image in subject("a", 1, "one")]
    assert "chest" in by_tag(classify(chest, SECTION, model, 0), "a_T1w").reason


def test_a_class_is_explained_by_a_map_on_the_scans_grid_and_by_what_every_feature_adds(model):
    images = subject("new", 501, "one")
    plain = classify(images, SECTION, model, 0)
    asked = {"default": {**SECTION["default"], "why": "grad_cam"}}
    made = classify(images, asked, model, 0)
    assert {each.tag for each in made} - {each.tag for each in plain} == {"gradcam", "importance"}
    share, scan = by_tag(made, "new_T1w", "gradcam").content, images[0].volume
    values = share.array()
    assert share.shape == scan.shape
    assert np.array_equal(share.affine, scan.affine)
    assert (values.dtype, values.min()) == (np.float32, 0)
    assert 0.2 < values.max() <= 1
    assert np.array_equal(values, values.astype(np.float16))
    row, table = by_tag(made, "new_T1w"), by_tag(made, "new_T1w", "importance").content
    assert dict(share.history[-1]) == {"step": "why", "method": "grad_cam", "class": row.measures["class"], "model": "demo-diagnosis"}
    assert row.measures["why_method"] == "grad_cam"
    assert row.measures["randomisation_check"] == model["m"].card["extra"]["sanity"]["grad_cam"]["verdict"]
    added = {name: sum(table[f"adds_to_{name}"]) for name in KINDS}
    assert sum(added.values()) == pytest.approx(0, abs=1e-9)
    strongest = table[f"adds_to_{row.measures['class']}"]
    assert np.array_equal(np.argsort(-np.abs(strongest), kind="stable"), np.arange(len(strongest)))
    assert row.measures["why_features"].startswith(f"{table['feature'][0]} {strongest[0]:+.2f}")
    assert set(row.previews) == {
        f"why_this_class_{view}_{when}" for view in ("axial", "coronal", "sagittal") for when in ("before", "after")
    }
    assert row.previews["why_this_class_axial_after"].shape == (*row.previews["why_this_class_axial_before"].shape, 3)
    same = {name: value for name, value in row.measures.items() if not name.startswith(("why_", "randomisation"))}
    assert same == by_tag(plain, "new_T1w").measures


def test_the_card_says_whether_maps_depend_on_the_weights(folder):
    sanity = read_card(folder)["extra"]["sanity"]["grad_cam"]
    assert sanity["verdict"] == ("passed" if abs(sanity["rank_correlation"]) < 0.5 else "failed")
    assert sanity["images"] > 0
    assert sanity["layers"][-1] == "blocks.0.0"


def test_a_network_that_cannot_be_explained_as_asked_is_refused_before_any_scan(model):
    patches = torch.nn.Sequential(torch.nn.Conv3d(5, 4, 8, stride=8), torch.nn.Flatten(), torch.nn.Linear(32, 3))
    asked = {"default": {**SECTION["default"], "why": "grad_cam"}}
    with pytest.raises(Refused, match="grad_cam does not suit the model demo-diagnosis"):
        check_methods(asked, {"m": replace(model["m"], network=patches)})
    check_methods({"default": {**SECTION["default"], "why": "occlusion"}}, {"m": replace(model["m"], network=patches)})
    check_methods(asked, {"m": replace(model["m"], network=None)})


def test_without_the_partner_the_network_decides_alone_and_says_so(model):
    made = classify(subject("a", 1, "one", parts=("T1w", "seg")), SECTION, model, 0)
    row = by_tag(made, "a_T1w")
    columns = model["m"].logistic.columns[model["m"].logistic.complete]
    names = [model["m"].card["extra"]["features"][i] for i in columns]
    assert any(name.startswith("CT") for name in names), "the toy regression should use the CT"
    assert (row.status, row.code) == ("warned", "features-missing")
    assert not any(name.startswith("probability_radiomics") for name in row.measures)
    assert np.isnan(by_tag(made, "a_T1w", "class").content["probability_radiomics"]).all()


def test_too_few_subjects_of_a_class_are_refused_before_any_training(tmp_path):
    with pytest.raises(Refused, match="diagnosis must have at least two classes"):
        train_classify(cohort(label="one"), SECTION, 0, "cpu", tmp_path / "x")
    with pytest.raises(Refused, match="none"):
        train_classify(cohort(label=""), SECTION, 0, "cpu", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_cohort_without_segmentations_is_learned_by_the_network_alone(tmp_path):
    images = [image for image in cohort() if "+seg" not in image.id]
    train_classify(images, SECTION, 0, "cpu", tmp_path / "plain")
    card = read_card(tmp_path / "plain")
    assert card["extra"]["parts"] == ["cnn"]
    assert card["extra"]["needs_labels"] is False
    made = classify(subject("a", 1, "one", parts=("T1w",)), SECTION, load(SECTION, {"m": tmp_path / "plain"}, "cpu"), 0)
    assert by_tag(made, "a_T1w").status == "ok"


def test_the_defaults_of_the_training_are_those_of_the_shipped_configuration(root):
    import yaml

    shipped = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))["classify"]["default"]
    assert {key: shipped[key] for key in DEFAULTS} == DEFAULTS
    schema = json.loads((root / "schemas/stages/classify.json").read_text(encoding="utf-8"))
    assert set(shipped) == set(schema["properties"])
    assert check(shipped, "stages/classify.json")[1] == []
    assert check({"wieghts": None}, "stages/classify.json")[1]


def test_a_network_that_gives_no_numbers_is_not_told_as_missing_features(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        next(broken["m"].network.parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="gives values that are not finite for new_T1w") as caught:
        classify(subject("new", 500, "one"), SECTION, broken, 0)
    assert caught.value.code == "bad-result"
