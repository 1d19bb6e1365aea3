"""What drifts or jumps over the days of acquisition is told, what chance does is not, and days are shown only as privacy lets them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohortex.report.drift import (
    DAYS,
    ENOUGH,
    Series,
    days_of,
    days_told,
    holm,
    mann_kendall,
    overview,
    pettitt,
    sentence,
    series_of,
    theil_sen,
    trends_of,
)
from cohortex.report.measures import Group, groups_of
from cohortex.report.page import write_report
from cohortex.report.records import Records, read_records
from cohortex.report.scanners import machines_of
from tests.fake_cohort import CONFIG, STAGES, write_fake_cohort
from tests.moved_cohort import FIRST, move

START = FIRST.toordinal()


def series(values, days=None, machine="x"):
    values = np.asarray(values, np.float64)
    days = START + np.arange(len(values)) if days is None else np.asarray(days)
    names = [f"i{index}" for index in range(len(values))]
    return Series(Group("denoise", "sigma", "T1w", "", names, values.tolist()), machine, names, days, values)


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    return move(write_fake_cohort(tmp_path_factory.mktemp("drift") / "work", subjects=90, pictures=False))


def test_a_drift_is_found_with_its_ends():
    noise = np.random.default_rng(0).normal(0, 1, 40)
    (trend,) = trends_of([series(20 + 0.25 * np.arange(40) + noise)])
    assert (trend.kind, trend.day) == ("drift", START)
    assert trend.before == pytest.approx(20, abs=1) and trend.after == pytest.approx(29.75, abs=1) and trend.p < 0.001
    assert sentence(trend).startswith(
        "sigma of T1w in denoise on x rises from 19.79 to 29.84"
    ) and "between 2021-03-01 and 2021-04-09" in sentence(trend)


def test_a_jump_is_found_on_its_day():
    noise = np.random.default_rng(1).normal(0, 1, 40)
    (trend,) = trends_of([series(20 - 6.0 * (np.arange(40) >= 25) + noise)])
    assert trend.kind == "jump" and abs(trend.day - START - 25) <= 1
    assert "jumps down from 20" in sentence(trend) and "around 2021-03-2" in sentence(trend)


def test_noise_is_told_of_as_seldom_as_said_over_all_measures_together():
    found = 0
    for seed in range(100):
        drawn = np.random.default_rng(seed).normal(size=(20, 30))
        found += bool(trends_of([series(values) for values in drawn]))
    assert found <= 10, "5 of 100 cohorts are to be expected"


def test_a_sure_but_tiny_drift_is_not_told_of():
    values = np.random.default_rng(2).normal(0, 1, 6000) + np.linspace(0, 0.25, 6000)
    assert mann_kendall(np.arange(6000), values) < 1e-6
    assert trends_of([series(values)]) == []


def test_one_wild_value_makes_no_trend():
    values = np.random.default_rng(3).normal(10, 1, 30)
    values[-1] = 1e6
    assert trends_of([series(values)]) == []
    assert theil_sen(np.arange(30), values)[0] == pytest.approx(0, abs=0.1)


def test_theil_sen_is_the_median_of_the_slopes_of_all_pairs():
    days, values = np.array([0, 1, 1, 3, 7]), np.array([1.0, 2.0, 4.0, 3.0, 9.0])
    slopes = [(values[j] - values[i]) / (days[j] - days[i]) for i in range(5) for j in range(i + 1, 5) if days[j] > days[i]]
    assert theil_sen(days, values) == (np.median(slopes), np.median(values - np.median(slopes) * days))


def test_mann_kendall_of_distinct_values_is_the_exact_test():
    # all of the 10 pairs of 5 values agree: 2 of 5! orders are as far from none
    assert mann_kendall(np.arange(5), np.arange(5.0)) == pytest.approx(2 / 120)


def test_pettitt_is_the_largest_sum_of_ranks_and_a_level_changes_between_days_only():
    values = np.array([1.0, 2, 3, 11, 12, 13])
    place, p = pettitt(np.arange(6), values)
    # U = 3 * 3 = 9 pairs, all in one direction
    assert place == 3 and p == pytest.approx(min(1.0, 2 * np.exp(-6 * 81 / (216 + 36))))
    assert pettitt(np.array([0, 0, 0, 0, 1, 1]), values)[0] == 4
    assert pettitt(np.zeros(6), values) == (0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_between_the_value_and_bonferroni(ps):
    adjusted = holm(ps)
    assert all(p <= a <= min(1.0, p * len(ps)) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(adjusted[order]) >= -1e-12).all()


def test_holm_of_three_values_is_that_of_the_paper():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_short_series_and_constant_ones_are_not_looked_at(moved):
    records = read_records(moved, STAGES)
    days, machines = days_of(records), machines_of(records)
    assert len(days) == 180 and min(days.values()) == START
    names = [f"{index:03d}_T1w" for index in range(1, 91)]
    values = np.random.default_rng(4).normal(size=90).tolist()
    few = Group("denoise", "x", "T1w", "", names[: 3 * ENOUGH - 3], values[: 3 * ENOUGH - 3])
    flat = Group("denoise", "x", "T1w", "", names, [1.0] * 89 + [2.0])
    whole = Group("denoise", "x", "T1w", "", names, values)
    assert len(series_of([whole], days, machines)) == 3
    assert series_of([few, flat], days, machines) == []
    same = {name: START + index % (DAYS - 1) for index, name in enumerate(names)}
    assert series_of([whole], same, machines) == []
    assert series_of([whole], {}, machines) == []


def test_a_jump_on_one_scanner_opens_the_page_and_is_drawn(moved, tmp_path):
    text = write_report(moved, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    verdict = re.search(r'<section id="verdict".*?</section>', text, re.S)[0]
    told = re.findall(r"<strong>Over time:</strong> (.*?) <a", verdict, re.S)
    assert told and all("sigma before" in one and "on Bern · alpha jumps up from" in one for one in told)
    odd = re.search(r'<section id="odd".*?</section>', text, re.S)[0]
    assert odd.count('class="line trend"') >= 2 and 'id="days"' in odd and "Holm" in odd


@pytest.mark.parametrize(("dates", "words"), [("shifted", "Days are shifted"), ("none", "No day of acquisition is told")])
def test_days_that_are_shifted_or_hidden_give_no_trend_and_are_not_on_the_page(tmp_path, dates, words):
    work = move(write_fake_cohort(tmp_path / "work", subjects=45, pictures=False), dates)
    records = read_records(work, STAGES)
    assert days_told(records) == ("shifted" if dates == "shifted" else "") and days_of(records) == {}
    text = write_report(work, tmp_path / "results", CONFIG, STAGES).read_text(encoding="utf-8")
    assert words in text and "Over time:" not in text and "trend" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    found = overview(records, groups_of(records))
    assert not found.charts and not found.others and found.series == 0


def test_a_cohort_with_mixed_words_on_days_counts_as_shifted():
    records = Records(["acquire"], cohort={"a": {"dates": "given"}, "b": {"dates": "shifted"}})
    assert days_told(records) == "shifted"


def test_no_records_give_no_overview():
    found = overview(Records([]), [])
    assert found.note and not found.sentences
