"""The stage classify with other estimators, further families of texture, and features of pictures without labels."""

import numpy as np
import pytest

from cohortex.items import Image
from cohortex.models.classify.classifier import load_classifier
from cohortex.models.classify.estimators import Estimator, feature_effects, predict_logits
from cohortex.models.classify.features import pair_names, scan_names, texture_names, vector_names
from cohortex.models.classify.pictures import picture_names
from cohortex.models.classify.scans import Grain, Vectors
from cohortex.models.folder import read_card, read_model
from cohortex.stages.classify import classify, load
from cohortex.training.classify import train_classify
from cohortex.volume import Volume
from tests.toy_heads import KINDS, subject

HEADS = {
    "default": {
        "weights": "m",
        "modalities": ["T1w"],
        "parts": ["radiomics"],
        "estimator": "svm",
        "texture": {"spacing_mm": 5.0, "bins": 16, "families": ["ngtdm", "glcm"]},
        "training": {"folds": 2},
    }
}
PICTURES = {
    "default": {
        "weights": "m",
        "modalities": ["DX"],
        "parts": ["radiomics"],
        "estimator": "svm",
        "texture": {"bins": 16, "pictures": True},
        "training": {"folds": 2},
    }
}


def picture(number: int, coarse: bool, size: int = 24, **row: str) -> Image:
    """Return a picture of noise, which in one class is alike over two pixels."""
    noise = np.random.default_rng(number).normal(size=(size, size, 1))
    noise = noise + np.roll(noise, 1, axis=0) if coarse else noise * np.sqrt(2)
    volume = Volume((100 + 10 * noise).astype(np.float32), np.diag([0.5, 0.5, 1.0, 1.0]), "DX", body_part="chest")
    return Image(f"p{number:03d}_DX", f"p{number:03d}", "", "DX", "image", "image", "chest", row=row, opener=lambda: volume)


def test_a_support_vector_machine_learns_heads_from_the_families_that_were_asked_for(tmp_path):
    images = []
    for i in range(12):
        images += subject(f"s{i:03d}", i, KINDS[i % 3], split="train", site="hospital")
    train_classify(images, HEADS, 3, "cpu", tmp_path / "heads")
    card, tensors = read_model(tmp_path / "heads")
    assert card["network"] == "radiomics-svm"
    assert card["extra"]["features"] == list(vector_names(["T1w"], ["glcm", "ngtdm"]))
    assert "T1w_lesion_ngtdm_busyness" in card["extra"]["features"]
    assert not any("glrlm" in name or "histogram" in name for name in card["extra"]["features"])
    assert {"estimator.svm.support", "estimator.preparation.columns", "estimator.slope"} <= set(tensors)
    section = {"default": {**HEADS["default"], "why": "grad_cam"}}
    model = load(section, {"m": tmp_path / "heads"}, "cpu")
    right = 0
    for number, kind in enumerate(KINDS):
        made = classify(subject("new", 500 + number, kind, site="hospital"), section, model, 0)
        row = next(each for each in made if each.of == "new_T1w" and not each.tag)
        assert row.status == "ok"
        right += row.measures["class"] == kind
    assert right >= 2
    table = next(each for each in made if each.tag == "importance").content
    assert sum(sum(table[f"adds_to_{name}"]) for name in KINDS) == pytest.approx(0, abs=1e-9)
    assert row.measures["why_features"].startswith(table["feature"][0])


def test_pictures_without_labels_are_learned_from_all_of_their_foreground(tmp_path):
    images = [picture(i, i % 2 == 1, split="train", label=("fine", "coarse")[i % 2]) for i in range(24)]
    train_classify(images, PICTURES, 3, "cpu", tmp_path / "pictures")
    card = read_card(tmp_path / "pictures")
    assert card["network"] == "radiomics-svm"
    assert card["extra"]["features"] == [f"DX_{name}" for name in picture_names()]
    assert card["extra"]["needs_labels"] is False
    model, right = load(PICTURES, {"m": tmp_path / "pictures"}, "cpu"), 0
    for i in range(100, 110):
        made = classify([picture(i, i % 2 == 1)], PICTURES, model, 0)
        right += next(each for each in made if not each.tag).measures["class"] == ("fine", "coarse")[i % 2]
        table = next(each for each in made if each.tag == "features").content
        assert table["feature"] == card["extra"]["features"]
    assert right >= 9
    estimator = load_classifier(tmp_path / "pictures").logistic
    assert isinstance(estimator, Estimator)
    row = np.array([[dict(zip(table["feature"], table["value"], strict=True))[name] for name in card["extra"]["features"]]])
    effects = feature_effects(estimator, row)
    assert effects.sum(axis=1) == pytest.approx(0, abs=1e-12)
    assert np.abs(effects).max() > 0
    first = int(estimator.preparation.columns[0])
    moved = row.copy()
    moved[0, first] = estimator.preparation.middle[0]
    change = (predict_logits(estimator, row) - predict_logits(estimator, moved))[0]
    assert effects[0, :, 0] == pytest.approx(change - change.mean())


def test_features_of_pictures_have_their_own_names_and_no_volume_has_them():
    grain = Grain(pictures=True)
    assert grain.vector_names(["DX", "CR"]) == tuple(f"{m}_{name}" for m in ("DX", "CR") for name in picture_names())
    one = picture(1, True)
    vector = Vectors([one], grain).of_subject(one, ["DX", "CR"])
    assert tuple(vector) == grain.vector_names(["DX", "CR"])
    assert np.isnan([vector[name] for name in vector if name.startswith("CR_")]).all()
    assert np.isfinite([vector[name] for name in vector if name.startswith("DX_")]).all()
    head = next(image for image in subject("a", 1, "one") if image.id == "a_T1w")
    assert Vectors([head], grain).of_scan(head) is None


def test_a_picture_that_is_too_large_is_told(monkeypatch):
    monkeypatch.setattr("cohortex.models.classify.scans.LARGEST", 500)
    vectors = Vectors([], Grain(pictures=True))
    one = picture(1, True)
    assert vectors.of_scan(one) is None
    assert vectors.refused[one.id].code == "region-too-large"
    assert "24 x 24 pixels" in vectors.refused[one.id].sentence


def test_the_families_of_a_grain_are_in_one_order_and_known():
    assert Grain() == Grain(families=["glszm", "glcm", "histogram", "glrlm"])
    assert hash(Grain(families=["ngldm", "gldzm"])) == hash(Grain(families=["gldzm", "ngldm", "gldzm"]))
    assert Grain().vector_names(["T1w", "CT"]) == vector_names(["T1w", "CT"])
    assert len(Grain().scan_names()) == len(scan_names()) < len(scan_names(["gldzm", *Grain().families]))
    assert set(texture_names(["ngtdm"])) == {f"ngtdm_{name}" for name in ("coarseness", "contrast", "busyness", "complexity", "strength")}
    assert not any("gldzm" in name for name in (*scan_names(), *pair_names()))
    with pytest.raises(ValueError, match="no family of textures 'wavelet'"):
        Grain(families=["wavelet"])
