"""Thresholds keep on new cases what they promise; reliability and decision curves have their hand-worked values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from cohortex.measures import decisions
from cohortex.measures.calibration import reliability, reliability_error
from cohortex.measures.classification import calibration_error
from cohortex.measures.intervals import proportion_interval


def cases(rng, n=200, share=0.3, shift=1.5):
    positive = rng.random(n) < share
    return positive, rng.normal(size=n) + shift * positive


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_the_rule_out_threshold_is_the_highest_that_finds_enough():
    positive = np.array([True] * 20 + [False] * 5)
    score = np.append(np.arange(20) / 10 + 1, [0, 0.5, 1.05, 1.1, 3])
    assert decisions.rule_out_threshold(positive, score) == 1.1
    assert decisions.rule_out_threshold(positive, score, 1.0) == 1.0
    point = decisions.operating_point(positive, score, 1.1)
    assert point.sensitivity[0] == 0.95
    assert point.specificity[0] == 3 / 5
    assert point.ruled_out[0] == 4 / 25
    assert point.negative_value[0] == 3 / 4
    assert point.positive_value[0] == 19 / 21


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.integers(0, 1))
def test_a_higher_threshold_than_the_chosen_one_misses_too_many(seed, sensitivity, digits):
    rng = np.random.default_rng(seed)
    positive, score = cases(rng, 60)
    if not positive.any():
        return
    score = np.round(score, digits)
    threshold = decisions.rule_out_threshold(positive, score, sensitivity)
    above = score[positive]
    assert (above >= threshold).mean() >= sensitivity - 1e-12
    higher = above[above > threshold]
    assert not len(higher) or (above >= higher.min()).mean() < sensitivity


def test_a_sure_threshold_keeps_its_sensitivity_on_new_cases():
    rng = np.random.default_rng(3)
    fresh = rng.normal(size=50000) + 1.5
    reached = {None: 0, 0.9: 0}
    for _ in range(400):
        positive, score = cases(rng, 300)
        for sure in reached:
            reached[sure] += (fresh >= decisions.rule_out_threshold(positive, score, 0.95, sure)).mean() >= 0.95
    assert reached[None] / 400 < 0.75
    assert reached[0.9] / 400 >= 0.9 - 3 * np.sqrt(0.09 / 400)
    # 58 of 58 found do not show 95 % yet, 59 do
    assert decisions.rule_out_threshold(np.ones(58, bool), np.arange(58.0), 0.95, 0.95) == -np.inf
    assert decisions.rule_out_threshold(np.ones(59, bool), np.arange(59.0), 0.95, 0.95) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
def test_youdens_threshold_is_the_best_of_the_roc_curve(seed, digits):
    rng = np.random.default_rng(seed)
    positive, score = cases(rng, 40, 0.5)
    score = np.round(score, digits)
    if positive.all() or not positive.any():
        return
    threshold = decisions.youden_threshold(positive, score)
    false, true, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
    index = (score >= threshold)[positive].mean() - (score >= threshold)[~positive].mean()
    assert index == pytest.approx((true - false)[1:].max())


def test_rates_have_exact_intervals_and_wider_ones_by_subjects():
    rng = np.random.default_rng(4)
    positive, score = cases(rng, 100)
    point = decisions.operating_point(positive, score, 0.5)
    hits, of = int((score[positive] >= 0.5).sum()), int(positive.sum())
    exact = binomtest(hits, of).proportion_ci(0.95, "exact")
    assert point.sensitivity == pytest.approx((hits / of, exact.low, exact.high))
    # each case four times is no more than once
    rows = np.tile(np.arange(100), 4)
    again = decisions.operating_point(positive[rows], score[rows], 0.5, groups=rows, resamples=300)
    assert again.sensitivity[0] == point.sensitivity[0]
    assert again.sensitivity[2] - again.sensitivity[1] > 0.7 * (point.sensitivity[2] - point.sensitivity[1])
    assert np.isnan(decisions.operating_point(positive, score, 99.0).positive_value).all()
    assert proportion_interval(0, 0)[0] != proportion_interval(0, 0)[0]
    with pytest.raises(ValueError, match="3 hits in 2"):
        proportion_interval(3, 2)


def test_thresholds_without_cases_are_refused():
    with pytest.raises(ValueError, match="needs positive cases"):
        decisions.rule_out_threshold(np.zeros(3, bool), np.zeros(3))
    with pytest.raises(ValueError, match="both classes"):
        decisions.youden_threshold(np.ones(3, bool), np.zeros(3))
    with pytest.raises(ValueError, match="lies in"):
        decisions.rule_out_threshold(np.ones(3, bool), np.zeros(3), 95)


# --- decision curves -------------------------------------------------------------------------------------------------


def test_net_benefit_has_the_hand_worked_value():
    # 10 cases, 4 positive; at .2 three true and two false positives: (3 - 2 / 4) / 10
    positive = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    probability = np.array([0.9, 0.5, 0.2, 0.1, 0.6, 0.25, 0.1, 0.1, 0, 0])
    assert decisions.net_benefit(positive, probability, 0.2) == pytest.approx(0.25)
    curve = decisions.decision_curve(positive, probability, [0.2, 0.5], resamples=50)
    assert curve.model == pytest.approx([0.25, (2 - 1) / 10])
    assert curve.everyone == pytest.approx([(4 - 6 / 4) / 10, (4 - 6) / 10])
    assert curve.gain == pytest.approx([0, 0.1])
    with pytest.raises(ValueError, match="between 0 and 1, without"):
        decisions.decision_curve(positive, probability, [0.0])
    with pytest.raises(ValueError, match="probabilities between"):
        decisions.decision_curve(positive, 9 * probability)


def test_calibrated_probabilities_are_never_worse_than_treating_all_or_none_and_inflated_ones_are():
    rng = np.random.default_rng(5)
    probability = rng.beta(1, 3, 4000)
    positive = rng.random(4000) < probability
    at = [0.1, 0.25, 0.5]
    good = decisions.decision_curve(positive, probability, at, resamples=100)
    assert (good.gain_low > 0).all()
    inflated = decisions.decision_curve(positive, np.sqrt(np.sqrt(probability)), at, resamples=100)
    assert inflated.gain_high[2] < 0
    assert (inflated.model <= good.model + 1e-3).all()


# --- reliability -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_table_of_equal_widths_is_scikit_learns_and_its_error_the_calibration_error(seed, bins):
    rng = np.random.default_rng(seed)
    probability = rng.random(150)
    positive = rng.random(150) < probability**2
    table = reliability(positive, probability, bins)
    seen, told = calibration_curve(positive, probability, n_bins=bins)
    assert table.seen == pytest.approx(seen)
    assert table.told == pytest.approx(told)
    both = np.stack([1 - probability, probability], axis=1)
    confidence, right = both.max(axis=1), (probability > 0.5) == positive
    assert reliability(right, confidence, bins).error == pytest.approx(calibration_error(positive.astype(int), both, bins))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.integers(1, 3))
def test_bins_of_equal_mass_hold_every_case_and_keep_ties_together(seed, bins, digits):
    rng = np.random.default_rng(seed)
    probability = np.round(rng.random(200), digits)
    table = reliability(rng.random(200) < 0.5, probability, bins, "mass")
    assert table.cases.sum() == 200
    assert len(table.cases) <= bins
    assert (table.low <= table.told + 1e-12).all()
    assert (table.told <= table.high + 1e-12).all()
    assert reliability_error(np.ones(200, bool), probability, bins, "mass") == pytest.approx(1 - probability.mean())
    if digits == 3:
        assert table.cases.max() <= 200 / bins + 3


def test_intervals_of_a_calibrated_table_hold_the_line():
    rng = np.random.default_rng(7)
    inside = []
    for _ in range(100):
        probability = rng.random(300)
        table = reliability(rng.random(300) < probability, probability, 5, "mass")
        inside += ((table.seen_low <= table.told) & (table.told <= table.seen_high)).tolist()
    assert np.mean(inside) > 0.94
    assert np.isnan(reliability(np.zeros(0, bool), np.zeros(0)).error)
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(np.ones(2, bool), np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="at least one bin"):
        reliability(np.ones(2, bool), np.array([0.5, 0.5]), 0)
    with pytest.raises(ValueError, match="one probability"):
        reliability(np.ones(2, bool), np.array([0.5]))
