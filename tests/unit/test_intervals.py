"""Bootstrap intervals."""

import numpy as np
import pytest

from cohortex.measures.intervals import bootstrap_interval, paired_interval


@pytest.mark.parametrize("count", [8, 30])
def test_a_95_percent_interval_covers_the_true_mean_in_about_95_percent_of_the_samples(count):
    generator = np.random.default_rng(3)
    trials, covered = 400, 0
    for trial in range(trials):
        _, low, high = bootstrap_interval(generator.normal(2.0, 1.0, count), resamples=600, seed=trial)
        covered += low <= 2.0 <= high
    # Three standard errors of a share of .95 over 400 trials are .033.
    assert 0.91 <= covered / trials <= 0.985


def test_a_paired_interval_sees_a_small_gain_that_the_spread_between_subjects_hides():
    generator = np.random.default_rng(0)
    subjects = generator.normal(30, 5, 24)
    before, after = subjects, subjects + generator.normal(0.5, 0.2, 24)
    mean, low, high = paired_interval(after, before)
    assert 0.3 < low < mean < high < 0.7
    assert mean == pytest.approx(np.mean(after - before))


def test_a_higher_level_gives_a_wider_interval_and_one_seed_one_interval():
    values = np.random.default_rng(1).normal(size=20)
    narrow, wide = bootstrap_interval(values, 0.8), bootstrap_interval(values, 0.99)
    assert wide[1] < narrow[1] < narrow[2] < wide[2]
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)


def test_one_observation_has_a_mean_but_no_interval():
    mean, low, high = bootstrap_interval([3.0])
    assert mean == 3.0
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize(("values", "word"), [([], "at least one"), ([1.0, np.nan], "finite")])
def test_values_without_a_mean_are_refused(values, word):
    with pytest.raises(ValueError, match=word):
        bootstrap_interval(values)


def test_pairs_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="both sides"):
        paired_interval([1, 2], [1])
