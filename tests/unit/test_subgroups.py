"""An audit finds a planted gap between groups of people and raises no alarm where there is none."""

import numpy as np
import pytest

from cohortex.measures import subgroups
from cohortex.measures.classification import auc, delong_interval


def cohort(seed, n=300, gap=0.0, shift=0.0, names=("a", "b", "c"), prevalence=None):
    """Calibrated probabilities of three groups; in the last group the score is worse by `gap`, or every probability higher by `shift`."""
    rng = np.random.default_rng(seed)
    attribute = rng.choice(names, n)
    share = np.full(n, 0.4) if prevalence is None else np.array([prevalence[a] for a in attribute])
    positive = rng.random(n) < share
    signal = np.where(attribute == names[-1], 1 - gap, 1.0)
    score = 2.0 * signal * (positive - 0.5) + rng.normal(size=n)
    # the likelihood ratio of two unit Gaussians at -1 and 1
    logit = 2.0 * score + np.log(0.4 / 0.6) + np.where(attribute == names[-1], shift, 0.0)
    return positive, 1 / (1 + np.exp(-logit)), attribute


def test_a_planted_gap_in_discrimination_is_found_where_it_is():
    positive, probability, attribute = cohort(1, 600, gap=0.7)
    found = subgroups.audit(positive, probability, attribute, permutations=199, resamples=50)
    assert {(g.group, g.measure) for g in found.alarms} >= {("c", "auc")}
    assert all(g.group == "c" for g in found.alarms if g.measure == "auc" and g.value < 0)
    worst = min(found.groups, key=lambda g: g.measures["auc"][0])
    assert worst.name == "c"
    assert found.worst("auc") > 0.15
    rows = attribute == "c"
    assert worst.measures["auc"][0] == auc(positive[rows], probability[rows])
    assert worst.measures["auc"][1] < worst.measures["auc"][0] < worst.measures["auc"][2]


def test_a_planted_gap_in_calibration_is_found_and_is_none_of_the_auc():
    positive, probability, attribute = cohort(2, 600, shift=1.5)
    found = subgroups.audit(positive, probability, attribute, permutations=199, resamples=0)
    alarms = {(g.group, g.measure) for g in found.alarms}
    assert ("c", "calibration") in alarms
    assert not any(measure == "auc" for _, measure in alarms)


def test_audits_without_a_gap_raise_an_alarm_as_rarely_as_they_say():
    alarms = []
    for seed in range(120):
        positive, probability, attribute = cohort(1000 + seed, 160)
        alarms.append(bool(subgroups.audit(positive, probability, attribute, permutations=199, resamples=0, seed=seed).alarms))
    # 5 % and three standard errors
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 120)


def test_a_disease_that_is_more_frequent_in_a_group_is_no_gap_in_discrimination():
    alarms = 0
    for seed in range(40):
        positive, probability, attribute = cohort(2000 + seed, 200, prevalence={"a": 0.3, "b": 0.3, "c": 0.6})
        found = subgroups.audit(positive, probability, attribute, permutations=199, resamples=0, seed=seed)
        alarms += any(g.measure != "calibration" for g in found.alarms)
    assert alarms <= 6


def test_several_scans_of_a_subject_are_no_further_evidence():
    # Ten rows of each of 40 subjects: by rows nearly every difference looks sure.
    alarms = {True: 0, False: 0}
    for seed in range(30):
        positive, probability, attribute = cohort(3000 + seed, 60, names=("a", "b"))
        rows = np.repeat(np.arange(60), 10)
        for known in alarms:
            groups = rows if known else None
            found = subgroups.audit(
                positive[rows], probability[rows], attribute[rows], groups, permutations=199, resamples=0, seed=seed, least=5
            )
            alarms[known] += bool(found.alarms)
    assert alarms[True] <= 5
    assert alarms[False] >= 15


def test_two_groups_are_one_comparison():
    positive, probability, attribute = cohort(4, 200, names=("f", "m"))
    found = subgroups.audit(positive, probability, attribute, permutations=99, resamples=0)
    assert [g.name for g in found.groups] == ["f", "m"]
    assert [(g.group, g.measure) for g in found.gaps] == [("f", m) for m in subgroups.MEASURES]
    gap = found.groups[0].measures["auc"][0] - found.groups[1].measures["auc"][0]
    assert found.gaps[0].value == pytest.approx(gap)


def test_groups_with_too_few_cases_are_told_but_not_tested():
    positive, probability, attribute = cohort(5, 200)
    attribute[:195] = np.where(attribute[:195] == "c", "a", attribute[:195])
    attribute[195:] = "c"
    found = subgroups.audit(positive, probability, attribute, permutations=99, resamples=20)
    few = [g for g in found.gaps if g.group == "c"]
    assert all(np.isnan(g.p) and not g.alarm for g in few)
    assert next(g for g in found.groups if g.name == "c").subjects == 5


def test_the_variance_of_many_choices_is_delongs():
    positive, probability, _ = cohort(6, 80)
    rng = np.random.default_rng(0)
    chosen = rng.random((4, 80)) < 0.6
    value, spread = subgroups._auc_moments(positive, np.round(probability, 1), chosen)
    for k in range(4):
        one, low, high = delong_interval(positive[chosen[k]], np.round(probability, 1)[chosen[k]])
        assert value[k] == pytest.approx(one, abs=1e-6)
        width = np.log(high / (1 - high)) - np.log(low / (1 - low))
        assert 2 * 1.959964 * np.sqrt(spread[k]) / (one * (1 - one)) == pytest.approx(width, rel=1e-3)


def test_corrected_p_values_are_never_less_and_keep_the_order_of_gaps():
    positive, probability, attribute = cohort(8, 200, gap=0.3)
    tested = [g for g in subgroups.audit(positive, probability, attribute, permutations=99, resamples=0).gaps if g.p == g.p]
    assert len(tested) == 12
    assert all(g.corrected >= g.p for g in tested)
    assert min(g.corrected for g in tested) >= 2 / 100


def test_an_audit_of_one_group_is_refused_and_people_without_one_are_left_out():
    positive, probability, attribute = cohort(7, 100, names=("f", "m"))
    with pytest.raises(ValueError, match="only 'f'"):
        subgroups.audit(positive, probability, np.full(100, "f"))
    with pytest.raises(ValueError, match="no group"):
        subgroups.audit(positive, probability, np.full(100, np.nan, dtype=object))
    with pytest.raises(ValueError, match="two groups"):
        subgroups.audit(positive, probability, attribute, np.arange(100) // 50)
    some = np.where(np.arange(100) < 10, None, attribute)
    found = subgroups.audit(positive, probability, some, permutations=19, resamples=0)
    assert sum(g.subjects for g in found.groups) == 90
