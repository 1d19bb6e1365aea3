"""Selection, support vector machine, forest and nearest neighbours: like scikit-learn's, kept as arrays, honest within their folds."""

import numpy as np
import pytest

from cohortex.measures.classification import auc
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify import estimators
from cohortex.models.classify.estimators import ESTIMATORS, Estimator, fit_estimator, fit_platt, from_tensors, predict_logits, used_features
from cohortex.models.classify.forest import fit_forest, forest_shares, from_grown
from cohortex.models.classify.fusion import log_softmax
from cohortex.models.classify.logistic import Logistic
from cohortex.models.classify.manifold import METHODS, Embedding, embed, place
from cohortex.models.classify.preparation import fit_preparation, prepare
from cohortex.models.classify.selection import SELECTIONS, mutual_information, select
from cohortex.models.classify.svm import fit_svm, margins

QUICK = {
    "logistic": {"keep": (6,)},
    "svm": {"keep": 6, "strength": 1.0},
    "forest": {"keep": 6, "trees": 25, "leaf": 2},
    "nearest": {"keep": 6, "count": 5},
}


def rows(seed: int = 0, n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 20))
    x[:, 3] += 2 * y
    x[:, 7] -= 2.5 * (y == 1)
    return x, y, np.array([f"s{i:03d}" for i in range(n)])


# --- the models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_margins_are_those_of_scikit_learn(kernel, classes):
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import SVC

    x, y, _ = rows(classes=classes)
    new = rows(5, classes=classes)[0]
    single = SVC(C=2.0, kernel=kernel, gamma="scale", class_weight="balanced")
    theirs = single.fit(x, y) if classes == 2 else OneVsRestClassifier(single).fit(x, y)
    ours = margins(fit_svm(x, y, classes, 2.0, kernel), new)
    assert ours == pytest.approx(theirs.decision_function(new).reshape(ours.shape), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_shares_of_a_forest_are_those_of_scikit_learn(classes):
    from sklearn.ensemble import RandomForestClassifier

    x, y, _ = rows(classes=classes, n=90)
    new = rows(5, classes=classes)[0]
    theirs = RandomForestClassifier(30, random_state=4, min_samples_leaf=2, class_weight="balanced_subsample").fit(x, y)
    ours = from_grown([each.tree_ for each in theirs.estimators_], theirs.classes_, classes)
    assert forest_shares(ours, new) == pytest.approx(theirs.predict_proba(new), abs=1e-12)
    assert forest_shares(fit_forest(x, y, classes, 4, 30, 2), new) == pytest.approx(theirs.predict_proba(new), abs=1e-12)


def test_values_at_a_threshold_go_the_way_that_single_precision_sends_them():
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(1)
    x = np.round(rng.normal(size=(80, 3)), 1)
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    theirs = RandomForestClassifier(20, random_state=0).fit(x, y)
    ours = from_grown([each.tree_ for each in theirs.estimators_], theirs.classes_, 2)
    edges = np.concatenate([each.tree_.threshold[each.tree_.feature >= 0] for each in theirs.estimators_])
    asked = rng.choice(edges, (300, 3)) + rng.choice([-1e-9, 0.0, 1e-9], (300, 3))
    assert forest_shares(ours, asked) == pytest.approx(theirs.predict_proba(asked), abs=1e-12)


def test_a_forest_that_never_saw_a_class_gives_it_nothing():
    x, y, _ = rows()
    known = y != 1
    shares = forest_shares(fit_forest(x[known], y[known], 3, 0, 10), x)
    assert (shares[:, 1] == 0).all()
    assert shares.sum(axis=1) == pytest.approx(1)


# --- one interface -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_learns_and_its_arrays_hold_all_of_it(name, tmp_path):
    from safetensors.numpy import load_file, save_file

    x, y, groups = rows(n=90)
    x[::3, 2] = np.nan
    new, truth, _ = rows(8, n=90)
    model = fit_estimator(name, x, y, groups, 3, seed=1, **QUICK[name])
    found = predict_logits(model, new)
    assert np.exp(found).sum(axis=1) == pytest.approx(1)
    assert (found.argmax(axis=1) == truth).mean() > 0.7
    assert {3, 7} <= set(used_features(model))
    save_file({key: np.ascontiguousarray(value) for key, value in model.tensors().items()}, tmp_path / "model.safetensors")
    again = from_tensors(load_file(tmp_path / "model.safetensors"))
    assert isinstance(again, Logistic if name == "logistic" else Estimator)
    assert np.array_equal(predict_logits(again, new), found)
    assert np.array_equal(predict_logits(fit_estimator(name, x, y, groups, 3, seed=1, **QUICK[name]), new), found)


@pytest.mark.parametrize("name", ["svm", "forest", "nearest"])
def test_a_feature_that_every_training_subject_had_may_not_be_missing(name):
    x, y, groups = rows()
    x[::2, 5] = np.nan
    model = fit_estimator(name, x, y, groups, 3, seed=1, **QUICK[name])
    new = rows(9)[0][:4]
    new[0, 3] = np.nan
    new[1, 5] = np.nan
    found = predict_logits(model, new)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


def test_what_is_missing_is_the_median_of_the_training_subjects():
    x, y, _ = rows()
    x[:, 4] = np.where(np.arange(len(x)) < 5, 100.0, np.arange(len(x)) % 7)
    x[7, 4] = np.nan
    preparation = fit_preparation(x, y, 20, "anova")
    place_of = list(preparation.columns).index(4)
    median = np.nanmedian(x[:, 4])
    assert preparation.middle[place_of] == median
    assert prepare(preparation, x)[7, place_of] == pytest.approx((median - np.nanmean(x[:, 4])) / np.nanstd(x[:, 4]))
    assert prepare(preparation, x)[7, -1] == 1


def test_noise_gets_even_probabilities_and_no_better_than_chance():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(60, 80)), np.arange(60) % 2
    for name in ("svm", "forest", "nearest"):
        logs = np.full((60, 2), np.nan)
        for train, held in grouped_folds(y, np.arange(60), 2, 0):
            model = fit_estimator(name, x[train], y[train], train, 2, 0, **{**QUICK[name], "selection": "anova"})
            logs[held] = predict_logits(model, x[held])
        assert 0.3 < auc(y == 1, logs[:, 1]) < 0.7
        assert -logs[np.arange(60), y].mean() < np.log(2) + 0.15


def test_calibration_finds_the_slope_and_the_offset_that_were_planted():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(6000, 3)) * 2
    probability = np.exp(log_softmax(truth))
    y = (rng.random(6000)[:, None] > probability.cumsum(axis=1)).sum(axis=1)
    slope, offset = fit_platt((truth - [0.5, -0.5, 0.0]) / 3, y)
    assert slope[0] == pytest.approx(3, rel=0.06)
    assert offset == pytest.approx([0.5, -0.5, 0.0], abs=0.12)
    slope, _ = fit_platt(rng.normal(size=(6000, 3)), y)
    assert slope[0] < 0.05
    assert fit_platt(np.full((3, 2), np.nan), np.array([0, 1, 1]))[0] == 1


def test_calibration_is_fitted_on_held_out_scores():
    # 40 features of noise separate the training subjects of an SVM completely; honest scores do not let it believe that
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 40)), np.arange(40) % 2
    model = fit_estimator("svm", x, y, np.arange(40), 2, 0, keep=40, strength=10.0)
    assert np.exp(predict_logits(model, x)).max() < 0.9


def test_settings_that_are_unknown_are_named():
    x, y, groups = rows()
    with pytest.raises(ValueError, match="no estimator 'boosting'"):
        fit_estimator("boosting", x, y, groups, 3, 0)
    with pytest.raises(ValueError, match="no setting 'depth'"):
        fit_estimator("forest", x, y, groups, 3, 0, depth=3)
    with pytest.raises(ValueError, match="only 3 of them"):
        fit_estimator("svm", x, y, groups, 4, 0)
    with pytest.raises(ValueError, match="no selection 'luck'"):
        fit_estimator("svm", x, y, groups, 3, 0, selection="luck")
    assert set(estimators.TRIED) | {"logistic"} == set(ESTIMATORS)


# --- selection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SELECTIONS)
def test_every_selection_finds_what_tells_the_classes_and_no_copy_of_it(method):
    x, y, _ = rows(n=120)
    x[:, 10] = 2 * x[:, 3] + 1
    x[:, 11] = 5.0
    x[5:9, 7] = np.nan
    chosen = select(x, y, 4 if method != "none" else 20, method)
    assert np.array_equal(chosen, np.sort(chosen))
    assert ({3, 10} & set(chosen)) and not {3, 10} <= set(chosen)
    assert 7 in chosen
    assert 11 not in chosen
    assert len(chosen) == (4 if method != "none" else 18)


def test_mutual_information_is_that_of_scikit_learn():
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(0)
    levels, y = rng.integers(0, 4, (70, 3)), rng.integers(0, 3, 70)
    levels[:, 1] = y
    theirs = [mutual_info_score(column, y) / np.log(2) for column in levels.T]
    assert mutual_information(levels, y) == pytest.approx(theirs)


def test_information_prefers_what_is_new_to_what_is_strong_but_known():
    rng = np.random.default_rng(6)
    y = np.arange(400) % 4
    first, second = y // 2, y % 2
    strong = first + 0.2 * rng.normal(size=400)
    x = np.stack([strong, first + 0.25 * rng.normal(size=400), second + 0.6 * rng.normal(size=400)], axis=1)
    assert select(x, y, 2, "information").tolist() == [0, 2]
    assert select(x, y, 2, "anova").tolist() == [0, 1]


# --- coordinates -------------------------------------------------------------------------------------------


def roll(n: int = 260) -> tuple[np.ndarray, np.ndarray]:
    """Return points of a rolled-up strip and how far along it they lie."""
    rng = np.random.default_rng(0)
    along = 1.5 * np.pi * (1 + 2 * rng.random(n))
    return np.stack([along * np.cos(along), 4 * rng.random(n), along * np.sin(along)], axis=1), along


def test_isomap_is_that_of_scikit_learn_for_old_points_and_new_ones():
    from sklearn.manifold import Isomap

    x, along = roll()
    ours, theirs = embed(x[:180], np.zeros(180, int), 2, "isomap"), Isomap(n_neighbors=8, n_components=2).fit(x[:180])
    assert np.abs(ours.coordinates) == pytest.approx(np.abs(theirs.embedding_), abs=1e-8)
    assert np.abs(place(ours, x[180:])) == pytest.approx(np.abs(theirs.transform(x[180:])), abs=1e-8)
    assert place(ours, x[:180]) == pytest.approx(ours.coordinates, abs=1e-8)
    assert abs(np.corrcoef(place(ours, x[180:])[:, 0], along[180:])[0, 1]) > 0.97


def test_the_laplacian_unrolls_the_strip_for_new_points_too_and_principal_axes_do_not():
    x, along = roll()
    learned = embed(x[:180], np.zeros(180, int), 2, "laplacian")
    assert np.corrcoef(place(learned, x[:180])[:, 0], learned.coordinates[:, 0])[0, 1] > 0.99
    straight = embed(x[:180], np.zeros(180, int), 2, "pca")
    order = [abs(np.corrcoef(place(each, x[180:])[:, 0], along[180:])[0, 1]) for each in (learned, straight)]
    assert order[0] > 0.9
    assert order[1] < 0.8


def test_principal_axes_are_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    x, y, _ = rows()
    assert np.abs(place(embed(x, y, 3, "pca"), x)) == pytest.approx(np.abs(PCA(3).fit_transform(x)), abs=1e-9)


def test_neighbourhood_components_see_the_classes_where_the_largest_variance_hides_them():
    rng = np.random.default_rng(1)
    y = np.arange(200) % 2
    x = rng.normal(size=(200, 8)) * np.array([6, 5, 4, 3, 1, 1, 1, 1])
    x[:, 6] += 2.5 * (2 * y - 1)
    gap = []
    for method in ("pca", "neighbourhood"):
        z = place(embed(x[:100], y[:100], 1, method), x[100:])[:, 0]
        gap.append(abs(auc(y[100:] == 1, z) - 0.5))
    assert gap[0] < 0.2 < 0.45 < gap[1]


@pytest.mark.parametrize("method", METHODS)
def test_an_embedding_survives_its_arrays_equal_points_and_a_graph_in_parts(method):
    x, y, _ = rows(n=40, classes=2)
    x[20:] += 1000.0
    x[1] = x[0]
    learned = embed(x, y, 2, method, neighbours=3)
    new = rows(3, n=10, classes=2)[0]
    found = place(learned, new)
    assert np.isfinite(found).all()
    assert np.array_equal(place(Embedding.from_tensors(learned.tensors()), new), found)
    with pytest.raises(ValueError, match="at least three"):
        embed(x[:2], y[:2], 2, method)
