"""A fusion beside its parts: AUCs with intervals, and whether it is better."""

import numpy as np
import pytest

from cohortex.measures.classification import auc, delong_interval
from cohortex.models.classify.fusion import compare_parts, fit_fusion, fuse, log_softmax


def two_views(n: int = 300) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return labels and the log-probabilities of two parts that each see a sign of their own."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    seen = [y + rng.normal(0, 1, n) for _ in range(2)]
    return y, {name: log_softmax(np.stack([0.5 - s, s - 0.5], axis=1)) for name, s in zip(("deep", "made"), seen, strict=True)}


def test_two_signs_together_are_better_than_each_and_nothing_is_gained_over_itself():
    y, parts = two_views()
    fused = fuse(list(parts.values()), fit_fusion(list(parts.values()), y, [None, None]))[0]
    found = compare_parts(y, parts, fused)
    assert list(found) == ["deep", "made", "fused"]
    for name in parts:
        assert (found[name].auc, found[name].low, found[name].high) == delong_interval(y == 1, parts[name][:, 1] - parts[name][:, 0])
        assert found[name].gain == pytest.approx(found["fused"].auc - found[name].auc)
        assert found[name].gain_low > 0
        assert found[name].p < 0.01
    assert (found["fused"].gain, found["fused"].p) == (0, 1)


def test_a_part_that_is_noise_is_no_gain():
    y, parts = two_views()
    noise = log_softmax(np.random.default_rng(1).normal(size=(len(y), 2)))
    both = [parts["deep"], noise]
    found = compare_parts(y, {"deep": parts["deep"], "noise": noise}, fuse(both, fit_fusion(both, y, [None, None]))[0])
    assert found["deep"].p > 0.05
    assert found["noise"].gain_low > 0


def test_only_what_all_spoke_of_is_compared_and_subjects_count_once():
    y, parts = two_views(60)
    fused = np.exp(parts["deep"])
    parts["made"][:10] = np.nan
    found = compare_parts(y, parts, fused)
    assert found["deep"].auc == pytest.approx(auc(y[10:] == 1, parts["deep"][10:, 1]))
    twice = {name: np.repeat(logs, 2, axis=0) for name, logs in parts.items()}
    again = compare_parts(np.repeat(y, 2), twice, np.repeat(fused, 2, axis=0), np.repeat(np.arange(60), 2))
    assert again["deep"].low == pytest.approx(found["deep"].low)
    with pytest.raises(ValueError, match="different classes"):
        compare_parts(y, parts, fused, np.zeros(60))


def test_one_class_of_three_is_looked_for_among_the_others():
    rng = np.random.default_rng(2)
    y = np.arange(150) % 3
    logs = log_softmax(2 * np.eye(3)[y] + rng.normal(size=(150, 3)))
    found = compare_parts(y, {"one": logs}, np.exp(logs), of=2)
    assert found["one"].auc == pytest.approx(auc(y == 2, np.exp(logs[:, 2])))
