"""The proofs of ways of learning: pictures come back from their seeds, and cheap rows run."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from benchmarks import classify_proofs_layers, classify_proofs_learning, classify_proofs_sequences
from benchmarks.classify_proofs_data import Settings
from benchmarks.classify_proofs_exams import growing, orders
from benchmarks.classify_proofs_learning import correlation, painted
from benchmarks.classify_proofs_pictures import doubtful, graded, kinds, spots, tiles
from benchmarks.classify_proofs_sequences import built, gradients_hold
from benchmarks.classify_proofs_trained import repeated
from cohortex.measures.classification import auc


@pytest.mark.parametrize("made", [graded, doubtful, kinds, spots, tiles, orders, growing])
def test_cases_come_back_from_their_seed_and_others_do_not(made):
    first, again, other = made(20, 3), made(20, 3), made(20, 4)
    for field in fields(first):
        one, two = getattr(first, field.name), getattr(again, field.name)
        assert (one is None) == (two is None)
        assert one is None or two is None or np.array_equal(one, two)
    assert not np.array_equal(first.images, other.images)
    assert first.images.dtype == np.float32
    assert 0 <= first.images.min() < first.images.max() <= 1
    assert set(np.unique(first.y)) == {0, 1}


def test_classes_are_in_the_pictures_as_the_rows_say():
    cases = spots(400, 1)
    assert cases.masks is not None
    assert np.array_equal(cases.masks.any(axis=(1, 2, 3)), cases.y == 1)
    # neither brightness nor contrast of the whole tells a class
    for told in (cases.images.mean((1, 2, 3)), cases.images.std((1, 2, 3))):
        assert abs(auc(cases.y == 1, told) - 0.5) < 0.1
    risk = graded(2000, 1)
    assert 0.9 < auc(risk.y == 1, risk.facts.sum(1)) < 0.96
    clear, named = doubtful(900, 1), doubtful(900, 1, wrong=0.4)
    changed = clear.y != named.y
    assert 0.3 < changed[clear.facts[:, 0] < 1 / 3].mean() < 0.5
    assert not changed[clear.facts[:, 0] >= 1 / 3].any()
    grown = growing(500, 1)
    assert abs(auc(grown.y == 1, grown.images[..., -1].mean((1, 2, 3))) - 0.5) < 0.1
    assert auc(grown.y == 0, grown.images[..., 0].mean((1, 2, 3))) > 0.75


def test_painting_hides_the_lesion_and_correlation_is_that_of_each_image():
    cases = spots(30, 2)
    assert cases.masks is not None
    hidden, rest = painted(cases.images, cases.masks), cases.masks == 0
    ill = cases.y == 1
    assert np.array_equal(hidden[~ill], cases.images[~ill])
    assert all(np.ptp(h[m > 0.99]) < 1e-6 for h, m in zip(hidden[ill], cases.masks[ill], strict=True))
    assert np.mean(hidden[ill][rest[ill]] == cases.images[ill][rest[ill]]) > 0.9
    masks = cases.masks[ill, 0]
    assert correlation(3 * masks + 1, masks) == pytest.approx(1, abs=1e-5)
    assert correlation(1 - masks, masks) == pytest.approx(-1, abs=1e-5)


class WrongBackward(torch.autograd.Function):
    """Twice the value, with a gradient of three."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


class Wrong(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        return WrongBackward.apply(self.weight * x)


def test_gradients_of_every_cell_are_right_and_a_wrong_one_is_found():
    every = built(1)
    assert len(every) == 7
    assert all(gradients_hold(module, *given) for _, module, *given in every)
    assert not gradients_hold(Wrong(), torch.ones(2, 3, dtype=torch.float64))


def test_rows_run_and_come_out_alike_twice(monkeypatch, tmp_path):
    rows = classify_proofs_learning.ROWS | classify_proofs_sequences.ROWS
    assert set(classify_proofs_layers.ROWS) < set(classify_proofs_learning.ROWS)
    assert len(rows) == len(classify_proofs_learning.ROWS) + len(classify_proofs_sequences.ROWS)

    def twice(seed, times, once):
        return repeated(seed, 2, once)

    monkeypatch.setattr(classify_proofs_learning, "repeated", twice)
    found = [rows["C10"][1](Settings(tmp_path, 0.02, 5)) for _ in range(2)]
    assert found[0] == found[1]
    assert set(found[0].statements) == {"grades over none"}
    assert isinstance(found[0].figures, dict)
    assert 0.3 < float(found[0].figures["class alone"]) < 0.8
