"""Measures of classifiers equal scikit-learn's, and their intervals cover what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics

from cohortex.measures import classification as measures


def cases(seed: int, classes: int, n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    logits = rng.normal(size=(n, classes)) + 0.8 * np.eye(classes)[y]
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, np.round(probability, 2) / np.round(probability, 2).sum(axis=1, keepdims=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_measures_are_those_of_scikit_learn(seed, classes):
    y, p = cases(seed, classes)
    predicted = p.argmax(axis=1)
    truth = metrics.roc_auc_score(y, p[:, 1]) if classes == 2 else metrics.roc_auc_score(y, p, multi_class="ovr")
    assert measures.auc_macro(y, p) == pytest.approx(truth)
    assert measures.accuracy(y, predicted) == pytest.approx(metrics.accuracy_score(y, predicted))
    assert measures.brier(y, p) == pytest.approx(metrics.brier_score_loss(y, p[:, 1] if classes == 2 else p))
    for k in range(classes):
        found = measures.rates(y, predicted, k)
        assert found.sensitivity == pytest.approx(metrics.recall_score(y == k, predicted == k))
        assert found.specificity == pytest.approx(metrics.recall_score(y != k, predicted != k))
        if (predicted == k).any():
            assert found.precision == pytest.approx(metrics.precision_score(y == k, predicted == k))
        assert found.f1 == pytest.approx(metrics.f1_score(y == k, predicted == k))
    macro = measures.macro_rates(y, predicted, classes)
    assert macro.f1 == pytest.approx(metrics.f1_score(y, predicted, average="macro"))


def test_measures_without_a_class_are_not_known_rather_than_zero():
    y, p = np.zeros(5, int), np.full((5, 2), 0.5)
    assert np.isnan(measures.auc_macro(y, p))
    assert np.isnan(measures.rates(y, y).sensitivity)
    assert np.isnan(measures.rates(y, y).precision)
    assert measures.rates(y, y).specificity == 1
    assert np.isnan(measures.delong_interval(y == 1, p[:, 1])[1])


def test_calibration_error_has_the_hand_worked_value():
    # four cases at .9 of which three are right, two at .6 of which none is
    p = np.array([[0.1, 0.9]] * 4 + [[0.6, 0.4]] * 2)
    y = np.array([1, 1, 1, 0, 1, 1])
    assert measures.calibration_error(y, p) == pytest.approx((4 * abs(0.9 - 0.75) + 2 * 0.6) / 6)


def test_delong_variance_is_that_of_the_definition():
    rng = np.random.default_rng(4)
    positive = np.arange(30) < 12
    score = rng.normal(size=30) + positive
    wins = (score[positive][:, None] > score[~positive][None, :]).astype(float)
    error = np.sqrt(wins.mean(axis=1).var(ddof=1) / 12 + wins.mean(axis=0).var(ddof=1) / 18)
    value, low, high = measures.delong_interval(positive, score)
    assert value == pytest.approx(wins.mean())
    width = norm.ppf(0.975) * error / (value * (1 - value))
    assert np.log(high / (1 - high)) - np.log(low / (1 - low)) == pytest.approx(2 * width)


def test_complete_separation_does_not_pretend_to_be_certain():
    positive = np.arange(20) < 5
    value, low, high = measures.delong_interval(positive, positive.astype(float))
    assert (value, high) == (1, 1)
    assert low == pytest.approx(0.025 ** (1 / 5))
    y = positive.astype(int)
    found = measures.summary(y, np.stack([1.0 - y, y], axis=1), np.arange(20), resamples=50)
    assert found["auc"][1] < 0.5


def test_the_delong_interval_covers_the_true_auc():
    rng = np.random.default_rng(0)
    truth = norm.cdf(1.2 / np.sqrt(2))
    positive = np.arange(90) < 40
    hits = 0
    for _ in range(1000):
        _, low, high = measures.delong_interval(positive, rng.normal(size=90) + 1.2 * positive)
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.97


def test_the_bootstrap_interval_covers_when_subjects_have_several_scans():
    rng = np.random.default_rng(1)
    truth = norm.cdf(1.2 / np.sqrt(2))
    groups = np.repeat(np.arange(60), 3)
    positive = groups < 30

    def hit(units: np.ndarray) -> bool:
        # most of the spread is between subjects, so three scans of one are little more than one
        score = np.repeat(rng.normal(size=60) * np.sqrt(0.8), 3) + rng.normal(size=180) * np.sqrt(0.2) + 1.2 * positive
        _, low, high = measures.grouped_bootstrap(lambda i: measures.auc(positive[i], score[i]), units, resamples=200)
        return low <= truth <= high

    # 93 to 97 %, and one point more for the spread of 240 trials
    assert 0.92 <= np.mean([hit(groups) for _ in range(240)]) <= 0.98
    assert np.mean([hit(np.arange(180)) for _ in range(60)]) < 0.85


def test_the_summary_has_every_measure_inside_its_interval():
    y, p = cases(3, 3)
    found = measures.summary(y, p, np.arange(len(y)), resamples=100)
    assert set(found) == {"auc", "accuracy", "sensitivity", "specificity", "f1", "brier", "calibration_error"}
    for name, (value, low, high) in found.items():
        assert low <= high
        assert low <= value <= high or name == "calibration_error"


def test_the_paired_test_has_the_variance_of_the_definition():
    rng = np.random.default_rng(6)
    positive = np.arange(40) < 15
    first, second = rng.normal(size=40) + positive, np.round(rng.normal(size=40) + 0.5 * positive, 1)

    def wins(score):
        return (score[positive][:, None] > score[~positive]) + 0.5 * (score[positive][:, None] == score[~positive])

    ten = np.cov([wins(first).mean(axis=1), wins(second).mean(axis=1)]) / 15
    one = np.cov([wins(first).mean(axis=0), wins(second).mean(axis=0)]) / 25
    error = np.sqrt(np.array([1, -1]) @ (ten + one) @ np.array([1, -1]))
    found = measures.delong_test(positive, first, second)
    assert found.difference == pytest.approx(wins(first).mean() - wins(second).mean())
    assert found.p == pytest.approx(2 * norm.sf(abs(found.difference) / error))
    assert found.high - found.low == pytest.approx(2 * norm.ppf(0.975) * error)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1))
def test_the_paired_test_knows_only_ranks_and_no_order(seed, digits):
    rng = np.random.default_rng(seed)
    positive = np.arange(30) < rng.integers(3, 27)
    first, second = np.round(rng.normal(size=30) + positive, digits), np.round(rng.normal(size=30), digits)
    found, turned = measures.delong_test(positive, first, second), measures.delong_test(positive, second, np.exp(first))
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p == pytest.approx(found.p, nan_ok=True)
    order = rng.permutation(30)
    assert measures.delong_test(positive[order], first[order], second[order]).p == pytest.approx(found.p, nan_ok=True)
    same = measures.delong_test(positive, first, 2 * first + 1)
    assert (same.difference, same.p) == (0, 1)


def test_the_paired_test_errs_as_often_as_it_says_and_sees_a_gain():
    rng = np.random.default_rng(2)
    positive = np.arange(120) < 50
    alarms, seen = 0, 0
    for _ in range(250):
        common = rng.normal(size=120) + 1.2 * positive
        first, second = common + 0.7 * rng.normal(size=120), common + 0.7 * rng.normal(size=120)
        alarms += measures.delong_test(positive, first, second).p <= 0.05
        seen += measures.delong_test(positive, common + 0.1 * rng.normal(size=120), common + 2 * rng.normal(size=120)).p <= 0.05
    assert 0.01 <= alarms / 250 <= 0.095
    assert seen / 250 > 0.8


def test_the_paired_test_says_nothing_where_nothing_can_be_said():
    positive = np.array([True, False, False])
    assert np.isnan(measures.delong_test(positive, positive * 1.0, -1.0 * positive).p)
    positive = np.arange(6) < 3
    assert np.isnan(measures.delong_test(positive, positive * 1.0, -1.0 * positive).p)
    with pytest.raises(ValueError, match="same cases"):
        measures.delong_test(positive, np.zeros(6), np.zeros(5))
