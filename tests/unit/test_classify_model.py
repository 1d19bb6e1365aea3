"""The parts of a classifier: regression with missing features, fusion, calibration, the coarse grid, the feature vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.errors import BadInput
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify.features import scan_features, scan_names, vector_names
from cohortex.models.classify.fusion import Fusion, fit_fusion, fit_temperature, fuse, log_softmax, soft_targets
from cohortex.models.classify.logistic import Logistic, _fit, fit_logistic, predict_logits
from cohortex.models.classify.regrid import LESION_GAIN, axis_weights, isotropic, network_input
from cohortex.models.classify.scans import Grain, Vectors, labels_of
from cohortex.models.classify.selection import f_statistics
from cohortex.volume import Volume
from tests.toy_heads import head, subject


def rows(seed: int = 0, n: int = 60, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, 20))
    x[:, 3] += y
    x[:, 7] -= 1.5 * (y == 1)
    return x, y, np.array([f"s{i:03d}" for i in range(n)])


# --- logistic ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_numpy_predicts_what_scikit_learn_does(classes):
    from sklearn.linear_model import LogisticRegression

    x, y, _ = rows(classes=classes)
    model = _fit(x, y, classes, 6, 0.1)
    scaled = np.clip((x[:, model.columns] - model.mean) / model.scale, -5, 5)
    theirs = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000).fit(scaled, y).predict_proba(scaled)
    assert np.exp(predict_logits(model, x)) == pytest.approx(theirs, abs=1e-6)


def test_a_feature_that_every_training_subject_had_may_not_be_missing():
    x, y, groups = rows()
    x[::2, 5] = np.nan
    model = fit_logistic(x, y, groups, 3, seed=1)
    new = rows(9)[0][:4]
    new[0, model.columns[model.complete][0]] = np.nan
    new[1, 5] = np.nan
    found = predict_logits(model, new)
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()


def test_the_absence_of_a_feature_can_tell_the_class():
    x, y, groups = rows()
    x[:, :] = np.random.default_rng(5).normal(size=x.shape)
    x[y == 0, 11] = np.nan
    x[y == 0, 12] = np.nan
    model = fit_logistic(x, y, groups, 3, seed=1)
    assert model.indicators.size == 1
    found = np.exp(predict_logits(model, x))
    assert found[y == 0, 0].min() > found[y != 0, 0].max()


def test_tensors_hold_the_whole_regression():
    x, y, groups = rows()
    x[::3, 2] = np.nan
    model = fit_logistic(x, y, groups, 3, seed=1)
    again = Logistic.from_tensors(model.tensors())
    assert np.array_equal(predict_logits(model, x), predict_logits(again, x))


def test_selection_inside_the_folds_finds_nothing_in_noise():
    # 300 columns of noise, 45 subjects: selection outside the folds would reach an accuracy of .8 and more
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(45, 300)), np.arange(45) % 3
    groups = np.arange(45)
    right = []
    for train, held in grouped_folds(y, groups, 5, 0):
        model = fit_logistic(x[train], y[train], groups[train], 3, seed=0, keep=(8,))
        right.extend(predict_logits(model, x[held]).argmax(axis=1) == y[held])
    assert np.mean(right) < 0.55


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 4))
def test_folds_keep_subjects_whole_and_classes_everywhere(seed, folds, classes):
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.repeat(np.arange(classes), 4), rng.integers(0, classes, 7)])
    groups = np.repeat(np.arange(label.size), 2)
    y = label[groups]
    cuts = grouped_folds(y, groups, folds, seed)
    assert sorted(np.concatenate([held for _, held in cuts]).tolist()) == list(range(y.size))
    for train, held in cuts:
        assert not set(groups[train]) & set(groups[held])
        assert set(y[train]) == set(range(classes))


def test_features_are_ranked_as_analysis_of_variance_does():
    from sklearn.feature_selection import f_classif

    x, y, _ = rows()
    assert f_statistics(x + 1e4, y) == pytest.approx(f_classif(x, y)[0], rel=1e-4)
    x[y == 0, 3] = np.nan
    x[:5, 7] = np.nan
    some = ~np.isnan(x[:, 7])
    found = f_statistics(x, y)
    assert found[3] == pytest.approx(f_classif(x[y > 0, 3:4], y[y > 0])[0][0])
    assert found[7] == pytest.approx(f_classif(x[some, 7:8], y[some])[0][0])


def test_four_subjects_are_enough_for_a_regression():
    """Its folds hold two of them out, and are fitted on the other two."""
    x, y = np.array([[0.0, 1.0], [0.1, 3.0], [1.0, 2.0], [1.1, 0.5]]), np.array([0, 0, 1, 1])
    fitted = fit_logistic(x, y, np.array(list("abcd")), 2, 0)
    assert (predict_logits(fitted, x).argmax(axis=1) == y).all()


def test_a_constant_table_is_refused_in_words():
    with pytest.raises(ValueError, match="no feature varies"):
        fit_logistic(np.ones((12, 4)), np.arange(12) % 2, np.arange(12), 2, seed=0)


# --- fusion ------------------------------------------------------------------------------------------------


def test_the_temperature_of_overconfident_logits_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    y = np.array([rng.choice(3, p=p) for p in np.exp(log_softmax(logits))])
    assert fit_temperature(logits * 3, y) == pytest.approx(3, rel=0.1)
    assert fit_temperature(logits, y) == pytest.approx(1, rel=0.1)


def test_few_cases_that_were_all_right_are_told_to_be_as_sure_as_one_case_more_allows():
    y = np.arange(30) % 3
    sure = np.exp(log_softmax(np.eye(3)[y] / fit_temperature(np.eye(3)[y], y)))
    assert sure.max(axis=1) == pytest.approx(np.full(30, (10 + 1 / 3) / 11), abs=1e-3)
    assert soft_targets(y, 3).sum(axis=1) == pytest.approx(1)


def test_separable_classes_never_get_certainty_from_few_cases():
    y = np.arange(12) % 3
    logits = 50.0 * np.eye(3)[y]
    fusion = fit_fusion([log_softmax(logits)], y, [None])
    fused = fuse([log_softmax(logits)], fusion)[0]
    assert fused.max() == pytest.approx(13 / 15, abs=1e-3)  # what four cases of a class and one of doubt show


def test_a_part_that_knows_nothing_gets_no_weight():
    rng = np.random.default_rng(1)
    y = np.arange(90) % 3
    good, noise = log_softmax(3 * np.eye(3)[y] + rng.normal(size=(90, 3))), log_softmax(rng.normal(size=(90, 3)))
    assert fit_fusion([good, noise], y, [None, None]).weights[0] >= 0.8
    assert fit_fusion([noise, good], y, [None, None]).weights[0] <= 0.2


def test_a_silent_part_leaves_the_word_to_the_other():
    logs = [np.full((2, 3), np.nan), log_softmax(np.array([[2.0, 0.0, 0.0], [np.nan] * 3]))]
    fused, parts = fuse(logs, Fusion(np.array([1.0, 0.0]), np.ones(2)))
    assert fused[0] == pytest.approx(parts[1][0])
    assert np.isnan(fused[1]).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fused_probabilities_are_probabilities(seed):
    rng = np.random.default_rng(seed)
    logs = [log_softmax(rng.normal(size=(6, 4)) * 10) for _ in range(2)]
    fused, _ = fuse(logs, Fusion(np.array([0.3, 0.7]), np.array([0.5, 3.0]), 1.7))
    assert fused.sum(axis=1) == pytest.approx(1)
    assert (fused >= 0).all()


# --- the coarse grid ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 30), st.floats(0.5, 4), st.floats(0.5, 4), st.floats(-0.5, 0.5))
def test_a_new_grid_keeps_constants_and_slopes(length, old, new, offset):
    count = max(1, int((length - 1) * old / new) - 2)
    centres = (np.arange(count) - (count - 1) / 2) * new + (length - 1) / 2 * old + offset * min(old, new)
    weights = axis_weights(length, old, centres, new)
    inside = (centres - new / 2 >= 0) & (centres + new / 2 <= (length - 1) * old)
    assert weights.sum(axis=1)[inside] == pytest.approx(1, abs=1e-5)
    if new <= old:
        assert (weights @ (np.arange(length) * old))[inside] == pytest.approx(centres[inside], abs=1e-3)


def test_what_the_network_sees_does_not_depend_on_the_scan_grid():
    image, _, labels = head(3, "one")
    fine = np.ones((2, 2, 2))
    here = network_input(image, labels, (5, 5, 5), (16, 18, 16), 10.0)
    there = network_input(np.kron(image, fine), np.kron(labels, fine.astype(np.uint8)), (2.5, 2.5, 2.5), (16, 18, 16), 10.0)
    assert here[1:] == pytest.approx(there[1:], abs=1e-4)
    assert here[0] == pytest.approx(there[0], abs=1e-2)
    # shares of labels keep the volume of the lesion
    assert here[4].sum() / LESION_GAIN * 10.0**3 == pytest.approx((labels == 6).sum() * 5.0**3, rel=1e-3)


def test_a_scan_without_labels_fills_only_the_image_channel():
    image, _, _ = head(3, "one")
    found = network_input(image, None, (5, 5, 5), (16, 16, 16), 10.0)
    assert found[0].std() > 0.1
    assert not found[1:].any()


def test_an_isotropic_grid_is_left_alone_and_a_thick_one_is_filled():
    image, _, labels = head(1, "one")
    same, same_labels = isotropic(image, labels, (2, 2, 2), 2.0)
    assert same is image
    assert same_labels is labels
    found, found_labels = isotropic(image[:, :, ::3], labels[:, :, ::3], (2, 2, 6), 2.0)
    assert found.shape == (32, 32, 33) == found_labels.shape


# --- the feature vector --------------------------------------------------------------------------------------


def test_the_vector_has_fewer_than_150_features():
    names = vector_names(("T1w", "CT"))
    assert len(names) == len(set(names)) < 150


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_features_of_a_magnetic_resonance_scan_know_no_gain_or_offset(gain, offset):
    image, _, labels = head(2, "many")
    one = scan_features(np.round(image), labels, (5, 5, 5), "T1w", 5.0, 16)
    two = scan_features((np.round(image) * gain + offset).astype(np.float64), labels, (5, 5, 5), "T1w", 5.0, 16)
    for name in ("lesion_mean", "wm_p90", "brain_skewness", "lesion_contrast", "lesion_volume_ml"):
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3)


def test_a_head_without_lesion_has_no_lesion_features_but_a_volume_of_zero():
    image, _, labels = head(2, "control")
    found = scan_features(image, labels, (5, 5, 5), "T1w", 5.0)
    assert tuple(found) == scan_names()
    assert found["lesion_volume_ml"] == found["lesion_count"] == 0
    assert np.isnan(found["lesion_mean"])
    assert np.isnan(found["lesion_sphericity"])
    assert np.isfinite(found["brain_glcm_contrast"])


def test_a_segmentation_that_found_no_brain_gives_no_number_at_all():
    image, _, labels = head(2, "control")
    found = scan_features(image, np.where(labels == 4, 4, 0), (5, 5, 5), "T1w")
    assert all(np.isnan(value) for value in found.values())


def test_volumes_and_lesions_are_those_that_were_drawn():
    image, _, labels = head(4, "many")
    found = scan_features(image, labels, (5, 5, 5), "T1w", 5.0)
    assert found["lesion_volume_ml"] == pytest.approx((labels == 6).sum() * 0.125)
    assert found["lesion_count"] > 1
    assert found["lesion_share"] == pytest.approx((labels == 6).sum() / np.isin(labels, (1, 2, 3, 6)).sum())
    assert found["lesion_contrast"] < 0


def test_a_partner_that_was_not_registered_gives_missing_features():
    images = subject("a", 1, "one")
    scan = next(image for image in images if image.id == "a_T1w")
    whole = Vectors(images, Grain(5.0)).of_subject(scan, ("T1w", "CT"))
    assert tuple(whole) == vector_names(("T1w", "CT"))
    assert whole["CT_in_T1w_lesion_mean"] == pytest.approx(60, abs=4)
    less = Vectors([image for image in images if "warped" not in image.id], Grain(5.0)).of_subject(scan, ("T1w", "CT"))
    assert np.isnan(less["CT_in_T1w_lesion_mean"])
    assert less["CT_lesion_mean"] == whole["CT_lesion_mean"]
    alone = Vectors([scan], Grain(5.0)).of_subject(scan, ("T1w", "CT"))
    assert all(np.isnan(value) for value in alone.values())


def test_labels_on_another_grid_are_refused():
    images = subject("a", 1, "one")
    scan, labels = images[0], next(image for image in images if image.id == "a_T1w+seg")
    labels.__dict__["content"] = Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4), "T1w", "labels")
    with pytest.raises(BadInput, match="segment this subject again"):
        labels_of(scan, images)
