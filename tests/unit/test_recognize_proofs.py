"""The proofs of recognition: what they learn from and are tested on, and how they measure."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import recognize_proofs
from benchmarks.proofs import Found
from benchmarks.recognize_proofs_data import KINDS, Case, cases, mirrored
from cohortex.models.recognize.boxes import Found as Boxes


@pytest.mark.parametrize("kind", KINDS)
def test_lesions_lie_in_their_boxes_and_those_of_the_test_are_others(kind):
    train, test = cases(kind, "train", 4), cases(kind, "test", 4)
    assert np.array_equal(train[1].image, cases(kind, "train", 2)[1].image)
    assert not any(np.array_equal(a.image, b.image) for a in train for b in test)
    assert sum(len(case.corners) for case in train)
    for case in train:
        d = case.image.ndim
        assert case.image.dtype == np.float32 and case.image.min() >= 0 and case.image.max() <= 1
        for box in case.corners.astype(int):
            assert (box[:d] >= 0).all() and (box[d:] <= case.image.shape).all()
            # a lesion differs from the shell around its box: brighter in pictures, darker in volumes
            inner = case.image[tuple(slice(a + (b - a) // 4, b - (b - a) // 4) for a, b in zip(box[:d], box[d:], strict=True))].mean()
            outer = case.image[tuple(slice(max(0, a - 2), b + 2) for a, b in zip(box[:d], box[d:], strict=True))].mean()
            assert inner < outer if d == 3 else inner > outer - 0.02


def test_boxes_are_mirrored_with_their_image():
    case = cases("bleeds", "train", 1)[0]
    marked = Case(np.zeros_like(case.image), case.corners)
    for box in case.corners.astype(int):
        marked.image[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = 1
    turned = mirrored(marked, np.array([True, False, True]))
    inside = np.zeros_like(turned.image)
    for box in turned.corners.astype(int):
        inside[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))] = 1
    assert np.array_equal(turned.image, inside) and not np.array_equal(turned.image, marked.image)


def test_recall_of_small_lesions_counts_small_ones_at_the_allowed_false_positives():
    truth = [Case(np.zeros((60, 60), np.float32), np.array([[0, 0, 6, 6], [10, 10, 16, 16], [30, 30, 50, 50]], np.float32))]
    corners = torch.tensor([[30.0, 30, 50, 50], [0, 0, 6, 6], [52, 0, 58, 6], [52, 10, 58, 16], [10, 10, 16, 16]])
    found = [Boxes(corners, torch.zeros(5, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]))]
    assert recognize_proofs.small_recall(found, truth, 1.0) == 0.5
    assert recognize_proofs.small_recall(found, truth, 2.0) == 1.0


def test_a_row_is_tried_and_recorded(tmp_path, monkeypatch, capsys):
    file = tmp_path / "record.json"
    monkeypatch.setattr(recognize_proofs, "ROWS", {"D01": ("statement", lambda have: Found({"CPM": 0.5}, {"over": False}))})
    monkeypatch.setattr(sys, "argv", ["recognize_proofs", "--save", str(file), "--folder", str(tmp_path)])
    recognize_proofs.main()
    assert capsys.readouterr().out.splitlines()[-1] == "FIGURE proofs_holding=0 proofs_total=1"
    assert json.loads(file.read_text())["tables"]["proofs"]["rows"] == [["D01", "statement", "CPM 0.5", "fails: over"]]


def test_networks_of_the_proofs_learn_and_are_kept(tmp_path):
    have = recognize_proofs.Data(tmp_path, 0.01)
    options = {"backbone": [4, 8], "filters": 8}
    first = have.trained("yolo", "lesions", options)
    again = have.trained("yolo", "lesions", options)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
