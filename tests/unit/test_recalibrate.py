"""A classifier gets the temperature that subjects ask for which it never saw; everything else stays."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cohortex.errors import Refused
from cohortex.models.classify.classifier import load_classifier
from cohortex.models.classify.fusion import log_softmax
from cohortex.models.folder import read_card, read_model
from cohortex.tables import write_table
from cohortex.training.recalibrate import recalibrate

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("control", "lesions", "tumour")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "zoo" / "classify" / "heads", tmp_path / "model"))


def a_run(work: Path, sha256: str, subjects: int = 300, caution: float = 2.0, prefix: str = "new") -> Path:
    """Write the records of a run: classes are drawn from probabilities whose logarithms are `caution` times those that the model told."""
    rng = np.random.default_rng(0)
    told = log_softmax(rng.normal(0, 1.5, (subjects, 3)))
    true = np.exp(log_softmax(told * caution))
    y = (rng.random((subjects, 1)) > true.cumsum(axis=1)[:, :2]).sum(axis=1)
    names = [f"{prefix}{number:03d}" for number in range(subjects)]
    rows = [
        {"subject": name, **{f"p_{c}": f"{v:.6g}" for c, v in zip(CLASSES, np.exp(p), strict=True)}}
        for name, p in zip(names, told, strict=True)
    ]
    people = [{"subject": name, "diagnosis": CLASSES[k]} for name, k in zip(names, y, strict=True)]
    for number in range(2):
        record = work / "records" / "classify" / f"{number:04d}"
        record.mkdir(parents=True)
        (record / "numbers.json").write_text(json.dumps({"models": {"zoo/classify/heads": {"sha256": sha256}}}))
        write_table(record / "manifest.tsv", list(rows[0]), rows[number::2])
    (work / "cohort").mkdir()
    write_table(work / "cohort" / "participants.tsv", ["subject", "diagnosis"], people)
    return work


def test_too_cautious_probabilities_become_as_sure_as_they_may_be(model: Path, tmp_path: Path) -> None:
    card, before = read_model(model)
    factor, subjects = recalibrate(model, a_run(tmp_path / "work", card["sha256"]))
    after = load_classifier(model)
    assert subjects == 300
    assert factor == pytest.approx(0.5, rel=0.2)
    assert after.fusion.temperature == pytest.approx(factor * before["fusion.temperature"].item())
    tensors = read_model(model)[1]
    assert all(np.array_equal(tensors[name], value) for name, value in before.items() if name != "fusion.temperature")
    told = {each["name"]: each["value"] for each in after.card["metrics"] if each.get("on", "").startswith("300 further")}
    assert told["brier after"] < told["brier before"]
    assert after.card["recipe"]["temperature"]["factor"] == pytest.approx(factor)
    assert after.card["subjects"] == card["subjects"]


def test_it_can_be_done_again_and_the_card_tells_of_the_last_time_only(model: Path, tmp_path: Path) -> None:
    recalibrate(model, a_run(tmp_path / "a", read_card(model)["sha256"]))
    factor, _ = recalibrate(model, a_run(tmp_path / "b", read_card(model)["sha256"], caution=1.0, subjects=200))
    assert factor == pytest.approx(1.0, rel=0.2)
    further = [each["on"] for each in read_card(model)["metrics"] if "further" in each.get("on", "")]
    assert set(further) == {"200 further subjects, seen by no training"}


def test_sets_are_chosen_anew_where_the_card_has_them(model: Path, tmp_path: Path) -> None:
    card, tensors = read_model(model)
    from cohortex.models.folder import write_model

    card["extra"]["evaluation"] = {"sets": {"level": 0.8, "score": "lac", "by_class": True, "threshold": [0.5] * 3}}
    write_model(model, {key: value for key, value in card.items() if key != "sha256"}, tensors)
    recalibrate(model, a_run(tmp_path / "work", read_card(model)["sha256"]))
    found = read_card(model)["extra"]["evaluation"]
    assert found["sets"]["level"] == 0.8
    assert found["sets"]["threshold"] != [0.5] * 3
    assert found["sets"]["checked"]["covered"][0] == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sha256": "0" * 64}, "did not use the weights"),
        ({"prefix": "zoo"}, "trained or chose the model"),
        ({"subjects": 20}, "at least 10 of each class"),
    ],
)
def test_a_run_that_cannot_say_is_refused(model: Path, tmp_path: Path, change: dict, sentence: str) -> None:
    settings = {"sha256": read_card(model)["sha256"], **change}
    before = (model / "model.safetensors").read_bytes()
    with pytest.raises(Refused, match=sentence):
        recalibrate(model, a_run(tmp_path / "work", **settings))
    assert (model / "model.safetensors").read_bytes() == before


def test_a_folder_without_records_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no records of the stage classify"):
        recalibrate(model, tmp_path)
