"""Nested cross-validation judges the choice too, and never shows a model a row of a subject that it is judged on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.errors import Refused
from cohortex.measures.classification import auc
from cohortex.measures.resampling import log_loss, nested_cross_validation


def of_shares(y, seen=None):
    """A fit that gives everyone the classes' shares of its training rows, and writes down what it was shown."""

    def fit(rows, candidate, seed):
        if seen is not None:
            seen.append((rows, candidate))
        shares = np.bincount(y[rows], minlength=int(y.max()) + 1) / len(rows)

        def predict(held):
            if seen is not None:
                seen.append((rows, held))
            return np.tile(shares * candidate + (1 - candidate) / len(shares), (len(held), 1))

        return predict

    return fit


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 2))
def test_no_model_is_judged_on_a_subject_that_it_saw(seed, outer, repeats):
    rng = np.random.default_rng(seed)
    groups = np.repeat(rng.permutation(24), rng.integers(1, 4, 24))
    y = (groups % 3 == 0).astype(int)
    seen: list = []
    found = nested_cross_validation(of_shares(y, seen), [1.0, 0.5], y, groups, outer, 2, repeats, seed % 1000)
    judged = [(rows, held) for rows, held in seen if isinstance(held, np.ndarray)]
    assert judged
    for rows, held in judged:
        assert not set(groups[rows]) & set(groups[held])
    assert np.allclose(found.probability.sum(axis=1), 1)
    assert found.fold.shape == (repeats, len(y))
    for k in np.unique(groups):
        assert len(np.unique(found.fold[0, groups == k])) == 1
    for fold in range(outer):
        assert len(np.unique(y[found.fold[0] == fold])) == 2


def test_the_candidate_with_the_least_inner_loss_is_taken():
    y = np.repeat([0, 0, 0, 1], 10)
    found = nested_cross_validation(of_shares(y), [0.0, 1.0, 0.3], y, np.arange(40), 5, 3)
    assert found.chosen == [[1] * 5]
    assert found.inner_loss.shape == (1, 5, 3)
    assert log_loss(y, found.probability) == pytest.approx(log_loss(y, np.tile([0.75, 0.25], (40, 1))), abs=1e-6)
    alone = nested_cross_validation(of_shares(y), [0.3], y, np.arange(40), 5)
    assert np.isnan(alone.inner_loss).all()


def test_choosing_among_many_useless_features_shows_no_skill_when_nested():
    y, nested, best = np.arange(60) % 2, [], []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(60, 20))

        def fit(rows, candidate, _, x=x):
            slope = x[rows, candidate] @ (y[rows] - 0.5)

            def predict(held):
                one = 1 / (1 + np.exp(-np.sign(slope) * x[held, candidate]))
                return np.stack([1 - one, one], axis=1)

            return predict

        found = nested_cross_validation(fit, list(range(20)), y, np.arange(60), 5, 3)
        nested.append(auc(y == 1, found.probability[:, 1]))
        best.append(max(abs(auc(y == 1, x[:, k]) - 0.5) + 0.5 for k in range(20)))
    # what is chosen and judged on the same cases looks good; the standard error of the mean of eight AUCs is .027
    assert np.mean(best) > 0.62
    assert np.mean(nested) < 0.5 + 3 * 0.027


def test_the_same_seed_gives_the_same_folds_and_repeats_differ():
    y = np.repeat([0, 1], 15)
    one, two = (nested_cross_validation(of_shares(y), [1.0], y, np.arange(30), 3, repeats=2, seed=4) for _ in range(2))
    assert (one.fold == two.fold).all()
    assert (one.fold[0] != one.fold[1]).any()


@pytest.mark.parametrize(
    ("y", "outer", "sentence"),
    [
        ([0] * 10, 5, "one class only"),
        ([1] * 10, 5, "one class only"),
        ([0] * 10 + [1] * 3, 5, "Class 1 has 3 subjects, too few for 5 outer"),
        ([0, 0, 0, 0, 2, 2, 2, 2], 3, "Class 1 has 0 subjects"),
        ([0, 0, 1, 1], 2, "Class 0 has 2 subjects"),
        ([0, 1] * 5, 1, "at least 2 folds"),
    ],
)
def test_what_cannot_be_cross_validated_is_refused_with_a_sentence(y, outer, sentence):
    y = np.array(y)
    with pytest.raises(Refused, match=sentence):
        nested_cross_validation(of_shares(y), [1.0, 0.5], y, np.arange(len(y)), outer)


def test_rows_of_one_subject_do_not_make_a_class_large_enough():
    y = np.repeat([0, 1], 12)
    groups = np.concatenate([np.arange(12), np.full(12, 99)])
    with pytest.raises(Refused, match="Class 1 has 1 subjects"):
        nested_cross_validation(of_shares(y), [1.0], y, groups, 3)
    with pytest.raises(Refused, match="24 rows and 12 subjects"):
        nested_cross_validation(of_shares(y), [1.0], y, groups[:12], 3)
    with pytest.raises(Refused, match="at least one candidate"):
        nested_cross_validation(of_shares(y), [], y, groups, 3)
