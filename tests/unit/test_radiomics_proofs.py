"""The proofs of hand-made features: what they are tried on, and the leak that they plant."""

import numpy as np
import pytest

from benchmarks.radiomics import by_estimator, out_of_fold, statements, told
from benchmarks.radiomics_data import lesions, moles, nodules
from cohortex.models.classify.selection import select


@pytest.mark.parametrize("make", [lesions, moles, nodules])
def test_cases_are_the_same_for_a_seed_and_half_of_each_class(make):
    one, two = make(4, 1), make(4, 1)
    assert np.array_equal(one.images, two.images)
    assert not np.array_equal(one.images, make(4, 2).images)
    assert one.y.tolist() == [0, 1, 0, 1]
    assert one.masks.any(axis=tuple(range(1, one.masks.ndim))).all()
    assert np.isfinite(one.images).all()


def test_the_bright_end_of_a_lesion_is_its_class_and_no_other_axis_knows_it():
    made = lesions(40, 1)
    tilt = []
    for axis in range(3):
        along = np.moveaxis(np.indices(made.images.shape[1:])[axis] - 11.5, 0, 0)
        slopes = [np.polyfit(along[mask], image[mask], 1)[0] for image, mask in zip(made.images, made.masks, strict=True)]
        tilt.append(np.mean([s > 0 for s in np.array(slopes)[made.y == 1]]) - np.mean([s > 0 for s in np.array(slopes)[made.y == 0]]))
    assert tilt[0] > 0.5
    assert max(abs(tilt[1]), abs(tilt[2])) < 0.4


def test_a_selection_outside_the_folds_makes_noise_look_like_a_finding_and_inside_it_does_not():
    rng = np.random.default_rng(7)
    noise, label = rng.normal(size=(60, 500)), np.arange(60) % 2
    quick = by_estimator("logistic", keep=(10,))
    leaking = told(label, out_of_fold(noise[:, select(noise, label, 10)], label, quick))
    honest = told(label, out_of_fold(noise, label, quick))
    assert leaking[1] > 0.6
    assert honest[1] < 0.5 < honest[2]


def test_every_row_says_what_it_states():
    assert list(statements(10)) == ["C01", "C16", "C18", "C20"]
