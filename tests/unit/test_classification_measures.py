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
