"""Intervals of means and paired differences by the bootstrap, and of proportions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 4_000_000
"""Drawn indices held in memory at once."""


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the mean of `values` and a bootstrap interval of it.

    The percentile interval is widened to the tails that Student's t would use ("expanded percentile"), because the
    plain one is too narrow for the few subjects that one usually has.

    Parameters
    ----------
    values : (n,) sequence of float
        Independent observations, one a subject.
    level : float
        Coverage aimed at, between 0 and 1.
    resamples : int
    seed : int

    Returns
    -------
    mean, low, high : float
        `low` and `high` are NaN when there is only one observation.

    Raises
    ------
    ValueError
        No values, values that are not finite, or a level outside (0, 1).

    References
    ----------
    Hesterberg, What teachers should know about the bootstrap, The American Statistician 69 (2015) 371-386.
    """
    from scipy import stats

    sample = np.asarray(values, dtype=np.float64).reshape(-1)
    if sample.size == 0:
        raise ValueError("an interval needs at least one value, there is none")
    if not np.isfinite(sample).all():
        raise ValueError("an interval needs finite values, some are NaN or infinite: leave them out first")
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, this one is {level}")
    count = sample.size
    mean = float(sample.mean())
    if count == 1:
        return mean, float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // count)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        means[start:stop] = sample[generator.integers(0, count, (stop - start, count))].mean(axis=1)
    tail = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - level) / 2, count - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return mean, float(low), float(high)


def paired_interval(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the mean of `a - b` over pairs and a bootstrap interval of it; see `bootstrap_interval`.

    Raises
    ------
    ValueError
        `a` and `b` have different lengths, or what `bootstrap_interval` refuses.
    """
    first, second = np.asarray(a, dtype=np.float64).reshape(-1), np.asarray(b, dtype=np.float64).reshape(-1)
    if first.size != second.size:
        raise ValueError(f"pairs need as many values on both sides, here are {first.size} and {second.size}")
    return bootstrap_interval(first - second, level, resamples, seed)


def proportion_interval(hits: int, cases: int, level: float = 0.95) -> tuple[float, float, float]:
    """Return a proportion of independent cases and its exact interval; NaN where there are no cases.

    References
    ----------
    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial, Biometrika 1934.
    """
    from scipy.stats import beta

    if not 0 <= hits <= cases:
        raise ValueError(f"there cannot be {hits} hits in {cases} cases")
    if not cases:
        return float("nan"), float("nan"), float("nan")
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, hits, cases - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, cases - hits)) if hits < cases else 1.0
    return hits / cases, low, high
