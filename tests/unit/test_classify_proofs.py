"""The proofs of classification: their pictures, their trainings, and rows that take no time."""

import json
import sys
from typing import Any

import numpy as np
import pytest

from benchmarks import classify_proofs
from benchmarks.classify_proofs_data import FINDINGS, KINDS, LUNGS, TEXTURES, Settings
from benchmarks.classify_proofs_networks import attention, windows
from benchmarks.classify_proofs_training import cases, learn, right, source


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_of_their_seed(kind):
    first, again, other = KINDS[kind](10, 3), KINDS[kind](10, 3), KINDS[kind](10, 4)
    assert np.array_equal(first.images, again.images) and np.array_equal(first.y, again.y)
    assert first.images.dtype == np.float32 and np.isfinite(first.images).all()
    assert not any(np.array_equal(a, b) for a in first.images for b in other.images)


def test_classes_are_equally_frequent_and_findings_go_together(tmp_path):
    for kind, classes in {"fundus": 2, "textures": len(TEXTURES), "lungs": len(LUNGS), "film masses": 2, "nodule types": 4}.items():
        assert (np.bincount(KINDS[kind](40, 1).y, minlength=classes) == 40 // classes).all(), kind
    found = KINDS["chests"](400, 1).y
    assert found.shape == (400, len(FINDINGS))
    assert (abs(found.mean(axis=0) - 0.25) < 0.08).all() and (found.sum(axis=1) > 1).any()


def test_eyes_of_both_classes_are_as_bright():
    """Only where the exudates are tells the classes apart."""
    eyes = KINDS["fundus"](200, 1)
    means = [eyes.images[eyes.y == label].mean() for label in (0, 1)]
    assert abs(means[0] - means[1]) < 0.01


def test_a_training_begins_with_a_model_of_surfaces(tmp_path):
    have = Settings(tmp_path, 0.05, 3)
    start = source(have, "textures", 64, "smallresnet2d", 100)
    assert source(have, "textures", 64, "smallresnet2d", 100) == start
    learned, tested = cases(have, "lungs", 40, 1, 1), cases(have, "lungs", 20, 1, 0)
    assert not any(np.array_equal(a, b) for a in learned.images for b in tested.images)
    kept = learn(have, learned, "smallresnet2d", 1, 0, start=start, frozen=True)
    fresh = learn(have, learned, "smallresnet2d", 1, 40)
    weights = [dict(made.members[0].named_parameters()) for made in (kept, fresh)]
    assert not np.allclose(weights[0]["stem.weight"], weights[1]["stem.weight"])
    again = learn(have, learned, "smallresnet2d", 1, 0, start=start, frozen=True)
    assert np.array_equal(kept.logs(tested.images), again.logs(tested.images))
    assert 0 <= right(kept.logs(tested.images), tested.y) <= 1


def test_resnet_without_skips_is_the_plain_network():
    import torch

    from cohortex.models.registry import build

    options = {"channels": 1, "classes": 2, "stem": "small", "width": 4, "depth": [1, 2], "bottleneck": False}
    torch.manual_seed(0)
    plain: Any = build("classify", "resnet18", **options, skips=False).eval()
    x = torch.randn(2, 1, 12, 12)
    skipping = build("classify", "resnet18", **options).eval()
    skipping.load_state_dict(plain.state_dict(), strict=False)
    assert {name for name in skipping.state_dict() if "shortcut" in name} == skipping.state_dict().keys() - plain.state_dict().keys()
    with torch.inference_mode():
        assert not torch.allclose(plain(x), skipping(x))
        last = plain.body.stages[-1][-1]
        maps = torch.rand(1, 8, 5, 5)
        assert torch.equal(last(maps), torch.relu(last.layers(maps)))


def test_exact_rows_hold(tmp_path):
    have = Settings(tmp_path, 1.0, 5)
    assert attention(have).verdict == windows(have, (28, 56, 112)).verdict == "holds"


def test_a_row_comes_into_the_record(tmp_path, monkeypatch, capsys):
    file = tmp_path / "record.json"
    monkeypatch.setattr(sys, "argv", ["classify_proofs", "--proof", "F07", "--save", str(file), "--folder", str(tmp_path)])
    classify_proofs.main()
    assert capsys.readouterr().out.splitlines()[-1] == "FIGURE proofs_holding=1 proofs_total=1"
    rows = json.loads(file.read_text())["tables"]["proofs"]["rows"]
    assert [cells[0] for cells in rows] == ["F07"] and rows[0][1] == classify_proofs.ROWS["F07"][0]


def test_rows_are_in_order_and_known():
    assert list(classify_proofs.ROWS) == sorted(classify_proofs.ROWS)
    assert {"C02", "C03", "C04", "C05", "C06", "C07", "C08", "C09", "C17", "C21", "C22", "C26", "F07", "F08"} <= classify_proofs.ROWS.keys()
