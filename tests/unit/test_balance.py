"""Unequal classes are balanced as said, with nothing of other classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from cohortex.measures import balance


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_every_class_counts_as_much(seed, classes):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.choice(classes, 60, p=rng.dirichlet(np.ones(classes)))])
    weights = balance.class_weights(y, classes)
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(classes), y=y))
    rows = balance.oversampled(y, seed)
    assert len(set(np.bincount(y[rows]))) == 1
    assert set(rows) == set(range(len(y)))
    x = rng.normal(size=(len(y), 3)) + 100 * y[:, None]
    more, named = balance.smote(x, y, seed)
    assert len(set(np.bincount(named))) == 1
    assert (more[: len(x)] == x).all()
    for k in range(classes):
        # between cases of its own class: within their box, nowhere near another class
        assert (more[named == k] <= x[y == k].max(axis=0) + 1e-9).all()
        assert (more[named == k] >= x[y == k].min(axis=0) - 1e-9).all()


def test_new_cases_lie_between_nearest_neighbours():
    x = np.array([[0.0, 0], [1, 0], [10, 0], [11, 0], *[[5, 5]] * 30])
    y = np.array([0] * 4 + [1] * 30)
    more, named = balance.smote(x, y, 0, neighbours=1)
    made = more[34:]
    assert (named[34:] == 0).all()
    assert (made[:, 1] == 0).all()
    assert (((made[:, 0] <= 1) & (made[:, 0] >= 0)) | ((made[:, 0] >= 10) & (made[:, 0] <= 11))).all()
    assert len(np.unique(made[:, 0])) > 20
    alone, _ = balance.smote(x[3:], y[3:], 0)
    assert (alone[31:] == x[3]).all()


def test_probabilities_follow_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    shares = np.array([0.9, 0.1])
    y = (rng.random(20000) < 0.1).astype(int)
    x = rng.normal(size=(20000, 1)) + 1.5 * y[:, None]
    model = LogisticRegression(C=1e6).fit(x, y)
    even = balance.with_shares(model.predict_proba(x), shares, np.array([0.5, 0.5]))
    assert even.sum(axis=1) == pytest.approx(np.ones(20000))
    # the odds of equally likely classes are the ratio of the densities of two Gaussians, as well as the fit knows it
    assert np.log(even[:, 1] / even[:, 0]) == pytest.approx(model.decision_function(x) + np.log(9))
    assert np.abs(np.log(even[:, 1] / even[:, 0]) - (1.5 * x[:, 0] - 1.125)).mean() < 0.1
    assert balance.with_shares(even, np.array([0.5, 0.5]), shares) == pytest.approx(model.predict_proba(x))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(0, 2))
def test_recall_at_a_specificity_is_that_of_the_roc_curve(seed, specificity, digits):
    rng = np.random.default_rng(seed)
    positive = np.arange(50) < 15
    score = np.round(rng.normal(size=50) + positive, digits)
    false, true, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
    expected = true[1 - false >= specificity - 1e-9].max()
    assert balance.recall_at_specificity(positive, score, specificity) == pytest.approx(expected)
    assert np.isnan(balance.recall_at_specificity(positive[:10], score[:10], 0.9))
