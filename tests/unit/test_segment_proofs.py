"""The proofs of segmentation: what they learn from and are tested on, how they measure, what comes into the record."""

import json
import sys

import numpy as np
import pytest
from scipy import ndimage as ndi

from benchmarks import segment_proofs
from benchmarks.proofs import Found
from benchmarks.segment_proofs_data import boundary_dice, cells, mean_dice, separated, spots


def test_pictures_to_learn_from_are_others_than_those_of_the_test():
    for make in (cells, spots):
        train, test = make("train", 2), make("test", 2)
        assert np.array_equal(train[0].image, make("train", 1)[0].image)
        assert not any(np.array_equal(a.labels, b.labels) for a in train for b in test)


def test_the_label_of_a_spot_is_its_size():
    labels = spots("train", 1)[0].labels
    assert {1, 2, 3} == set(np.unique(labels)) - {0}
    sizes = {k: float(ndi.sum_labels(labels == k, ndi.label(labels == k)[0], 1)) for k in (1, 2, 3)}
    assert sizes[1] < np.pi * 4**2 < sizes[2] < np.pi * 9**2 < sizes[3]


def test_cells_that_grow_together_are_not_apart():
    truth = cells("test", 1)[0].labels
    assert separated(truth, truth) == pytest.approx(1)
    assert separated(truth, np.asarray(ndi.binary_closing(truth, iterations=3)).astype(np.uint8)) < 0.8


def test_the_border_counts_more_in_the_dice_of_the_border():
    truth = np.zeros((40, 40), np.uint8)
    truth[8:32, 8:32] = 1
    thin = np.asarray(ndi.binary_erosion(truth)).astype(np.uint8)
    assert boundary_dice(truth, truth, 2) == mean_dice(truth, truth, 2) == 1
    assert boundary_dice(truth, thin, 2) < mean_dice(truth, thin, 2) - 0.1


def test_pieces_of_a_record_come_together(tmp_path, monkeypatch, capsys):
    file, answers = tmp_path / "record.json", {"T10": True, "T19": False}
    rows = {row: (f"statement {row}", lambda _, row=row: Found({"Dice": 0.5}, {"over": answers[row]})) for row in answers}
    monkeypatch.setattr(segment_proofs, "ROWS", rows)
    for row in ("T19", "T10"):
        monkeypatch.setattr(sys, "argv", ["segment_proofs", "--proof", row, "--save", str(file), "--folder", str(tmp_path)])
        segment_proofs.main()
    assert capsys.readouterr().out.splitlines()[-1] == "FIGURE proofs_holding=1 proofs_total=2"
    record = json.loads(file.read_text())
    assert [cells[:1] + cells[3:] for cells in record["tables"]["proofs"]["rows"]] == [["T10", "holds"], ["T19", "fails: over"]]
    assert record["command"] == "python -m benchmarks.segment_proofs --proof all"
    assert [cells[0] for cells in record["tables"]["runs"]["rows"]] == ["T10", "T19"]
