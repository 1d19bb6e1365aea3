"""Sets of classes hold the true one as often as promised."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from cohortex.measures import conformal


def cases(rng, n, shares=(0.9, 0.1), spread=1.0, overconfident=1.0):
    """Probabilities of a classifier that may be miscalibrated, of unbalanced classes."""
    classes = len(shares)
    y = rng.choice(classes, n, p=shares)
    logits = rng.normal(size=(n, classes)) * spread + 1.5 * np.eye(classes)[y] + np.log(shares)
    logits *= overconfident
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probability / probability.sum(axis=1, keepdims=True), y


def test_the_threshold_is_the_rank_of_the_definition():
    # 9 cases, error .2: ceil(10 * .8) = 8th smallest of 1 - p of the true class
    p = np.arange(1, 10) / 10
    probability = np.stack([p, 1 - p], axis=1)
    model = conformal.fit_conformal(probability, np.zeros(9, int), 0.2)
    assert model.threshold == pytest.approx([0.8, 0.8])
    # error .1 asks for the 9th, error .05 for a tenth that is not there: then every class has to stay
    assert conformal.fit_conformal(probability, np.zeros(9, int), 0.1).threshold[0] == pytest.approx(0.9)
    none = conformal.fit_conformal(probability, np.zeros(9, int), 0.05)
    assert np.isinf(none.threshold).all()
    assert conformal.prediction_sets(none, probability).member.all()


def test_the_adaptive_score_adds_all_classes_that_are_likelier():
    probability = np.array([[0.2, 0.5, 0.3]])
    assert conformal._scores(probability, "adaptive") == pytest.approx(np.array([[1.0, 0.5, 0.8]]))
    assert conformal._scores(probability, "least") == pytest.approx(np.array([[0.8, 0.5, 0.7]]))


@pytest.mark.parametrize("score", ["least", "adaptive"])
@pytest.mark.parametrize("overconfident", [0.3, 1.0, 5.0])
def test_sets_cover_what_they_promise_however_bad_the_probabilities(score, overconfident):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(200):
        p, y = cases(rng, 300, (0.5, 0.3, 0.2), overconfident=overconfident)
        model = conformal.fit_conformal(p[:100], y[:100], 0.1, score=score)
        covered.append(conformal.coverage(conformal.prediction_sets(model, p[100:], "keep"), y[100:]).covered)
    # between 90 % and 90 % + 1 / 101; a class that is certain in some cases (ties at probability 1) can only add. Three standard errors.
    slack = 3 * np.std(covered) / np.sqrt(200)
    assert 0.9 - slack <= np.mean(covered)
    if score == "least":
        assert np.mean(covered) <= 0.9 + 1 / 101 + slack


def test_only_sets_by_class_keep_the_promise_for_a_rare_class():
    rng = np.random.default_rng(2)
    rare = {False: [], True: []}
    for _ in range(100):
        p, y = cases(rng, 1200)
        for by_class in rare:
            model = conformal.fit_conformal(p[:400], y[:400], 0.1, by_class)
            rare[by_class].append(conformal.coverage(conformal.prediction_sets(model, p[400:]), y[400:]).by_class[1])
    assert np.mean(rare[False]) < 0.75
    assert np.mean(rare[True]) > 0.9 - 3 * np.std(rare[True]) / 10


def test_an_empty_set_is_told_and_holds_the_most_likely_class():
    rng = np.random.default_rng(3)
    p, y = cases(rng, 500, (0.5, 0.5), spread=0.1)
    model = conformal.fit_conformal(p, y, 0.3)
    odd = np.array([[0.5, 0.5], [0.52, 0.48], [0.95, 0.05]])
    filled, kept = conformal.prediction_sets(model, odd), conformal.prediction_sets(model, odd, "keep")
    assert filled.empty.tolist() == kept.empty.tolist() == [True, True, False]
    assert filled.member.tolist() == [[True, False], [True, False], [True, False]]
    assert kept.member.sum(axis=1).tolist() == [0, 0, 1]
    told = conformal.coverage(filled, np.array([0, 1, 0]))
    assert (told.covered, told.size, told.single, told.empty) == pytest.approx((2 / 3, 1, 1, 2 / 3))


def test_the_range_of_coverage_is_that_of_many_calibrations():
    rng = np.random.default_rng(4)
    p, y = cases(rng, 6000, (0.5, 0.5))
    covered = []
    for _ in range(300):
        rows = rng.choice(len(y), 80, replace=False)
        model = conformal.fit_conformal(p[rows], y[rows], 0.1)
        covered.append(conformal.coverage(conformal.prediction_sets(model, p, "keep"), y).covered)
    mean, low, high = conformal.coverage_range(80, 0.1)
    assert mean == pytest.approx(73 / 81)
    assert np.mean(covered) == pytest.approx(mean, abs=0.008)
    assert 0.92 <= np.mean([low <= c <= high for c in covered]) <= 0.98
    assert (low, high) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 73, 8)))
    assert conformal.coverage_range(5, 0.1) == (1, 1, 1)


def test_several_rows_of_a_subject_count_once():
    rng = np.random.default_rng(5)
    p, y = cases(rng, 200, (0.5, 0.5))
    groups = np.repeat(np.arange(50), 4)
    model = conformal.fit_conformal(p, y, 0.1, groups=groups)
    assert model.cases.tolist() == [50, 50]
    assert conformal.fit_conformal(p, y, 0.1, groups=groups).threshold.tolist() == model.threshold.tolist()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["least", "adaptive"]))
def test_a_smaller_error_makes_sets_that_hold_the_old_ones(seed, by_class, score):
    rng = np.random.default_rng(seed)
    p, y = cases(rng, 120, (0.6, 0.3, 0.1))
    sets = [
        conformal.prediction_sets(conformal.fit_conformal(p[:60], y[:60], error, by_class, score), p[60:], "keep").member
        for error in (0.3, 0.2, 0.1, 0.02)
    ]
    for smaller, larger in pairwise(sets):
        assert (smaller <= larger).all()
    assert conformal.prediction_sets(conformal.fit_conformal(p, y, 0.3, by_class, score), p).member.any(axis=1).all()


def test_what_promises_nothing_is_refused():
    p, y = cases(np.random.default_rng(6), 20)
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        conformal.fit_conformal(p, y, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        conformal.fit_conformal(np.where(p > 0.9, np.nan, p), y)
    with pytest.raises(ValueError, match="classes 0 to 2"):
        conformal.fit_conformal(p, np.append(y[:-1], 2))
    with pytest.raises(ValueError, match="at least two"):
        conformal.fit_conformal(p[:, :1], y)
    with pytest.raises(ValueError, match="a class each"):
        conformal.fit_conformal(p[:0], y[:0])
    with pytest.raises(ValueError, match="calibrated for 2"):
        conformal.prediction_sets(conformal.fit_conformal(p, y), np.full((3, 3), 1 / 3))
