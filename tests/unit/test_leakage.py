"""Copies, subjects and answers on both sides of a split are found, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.errors import Refused
from cohortex.measures import leakage


def pictures(seed, n=40, shape=(48, 40)):
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        one = ndimage.gaussian_filter(rng.normal(size=shape), 4)
        made.append((1000 * (one - one.min()) / np.ptp(one)).astype(np.int16))
    return made


CHANGES = {
    "the same": lambda a: a,
    "brighter": lambda a: a + 300,
    "more contrast": lambda a: (1.7 * a - 50).astype(np.int16),
    "another type": lambda a: a.astype(np.float64),
    "noisier": lambda a: a + np.random.default_rng(0).normal(0, 15, a.shape).astype(np.int16),
    "gamma": lambda a: (1000 * (a / 1000) ** 1.2).astype(np.int16),
    "shifted": lambda a: np.roll(a, 1, axis=0),
    "shifted along both": lambda a: np.roll(a, (1, -1), axis=(0, 1)),
    "mirrored": lambda a: a[::-1],
    "mirrored the other way": lambda a: a[:, ::-1],
    "mirrored, shifted and darker": lambda a: np.roll(a[::-1] // 2, 1, axis=1),
    "half the size": lambda a: a.reshape(24, 2, 20, 2).mean(axis=(1, 3)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_however_it_was_changed(change):
    images = pictures(1)
    images.append(CHANGES[change](images[7]))
    found = leakage.find_copies(images)
    assert [(p.first, p.second) for p in found] == [(7, 40)]
    assert found[0].same == (change == "the same")
    assert (found[0].mirrored >= 0) == ("mirrored" in change)
    assert found[0].correlation >= leakage.ALIKE


def test_volumes_are_compared_too():
    rng = np.random.default_rng(2)
    volumes = [ndimage.gaussian_filter(rng.normal(size=(30, 24, 20)), 3) for _ in range(6)]
    volumes += [np.roll(volumes[1], 1, axis=2), volumes[4][:, ::-1] * 3]
    found = leakage.find_copies(volumes)
    assert [(p.first, p.second, p.mirrored) for p in found] == [(1, 6, -1), (4, 7, 1)]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_different_pictures_are_no_copies(seed):
    assert leakage.find_copies(pictures(seed, 25, (28, 28))) == []


def test_pictures_without_contrast_are_copies_only_of_themselves():
    flat = [np.full((20, 20), v, np.uint8) for v in (0, 7, 7)] + [np.full((20, 20), 0.1)]
    assert [(p.first, p.second, p.same) for p in leakage.find_copies(flat)] == [(1, 2, True)]
    # a faint picture among bright ones has its contrast still
    faint = pictures(3, 5)
    faint = [*faint, faint[2] * 1e-6]
    assert [(p.first, p.second) for p in leakage.find_copies(faint)] == [(2, 5)]


def test_a_planted_leak_is_caught_and_refused():
    images = pictures(4, 30)
    images[25] = images[3]
    images[9] = images[8][::-1]
    part = ["train"] * 20 + ["test"] * 10
    subjects = [f"s{k}" for k in range(30)]
    subjects[22] = "s2"
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    features = np.stack([rng.normal(size=30), y + 0.01 * rng.normal(size=30)], axis=1)
    found = leakage.check_split(part, images, subjects, features, y, ["age", "code"])
    assert [(p.first, p.second) for p in found.copies] == [(3, 25)]
    assert [(p.first, p.second) for p in found.repeats] == [(8, 9)]
    assert found.subjects == ["s2"]
    assert [f.name for f in found.features] == ["code"]
    assert len(found.sentences()) == 4
    with pytest.raises(Refused, match=r"1 pair of images .*1 the same to the bit.*\(s2\).* code alone"):
        leakage.refuse_leakage(found)
    clean = leakage.check_split(part, pictures(4, 30), [f"s{k}" for k in range(30)], features[:, :1], y)
    assert not clean.leaks
    leakage.refuse_leakage(clean)
    # what was found can be left out, and then nothing is
    out = leakage.to_leave_out([*found.copies, *found.repeats], part, "test")
    assert out.tolist() == [3, 9]
    kept = np.setdiff1d(np.arange(30), out)
    assert not leakage.find_copies([images[k] for k in kept])


def test_one_of_many_copies_stays():
    def pair(i, j):
        return leakage.Copy(i, j, True, 1.0, -1)

    part = ["train", "train", "val", "train", "val", "train"]
    assert leakage.to_leave_out([pair(0, 1), pair(1, 2), pair(3, 5)], part, "val").tolist() == [0, 1, 5]
    assert leakage.to_leave_out([], part, "val").tolist() == []


def test_features_that_are_good_by_their_absence_or_turned_are_found_and_chance_is_not():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 4))
    x[:, 1] = 0.05 * rng.normal(size=90) - (y == 2)
    x[y == 1, 3] = np.nan
    found = leakage.too_good_features(x, y, ["a", "b", "c", "d"])
    assert [(f.name, f.by_absence) for f in found] == [("b", False), ("d", True)]
    assert found[0].auc > 0.99
    assert found[1].auc == 1
    # of 2000 features some separate 4 from 4 subjects by chance
    few = rng.normal(size=(8, 2000))
    assert any(leakage.auc(np.arange(8) < 4, few[:, k]) == 1 for k in range(2000))
    assert leakage.too_good_features(few, (np.arange(8) < 4).astype(int)) == []


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\] dimensions"):
        leakage.find_copies([np.zeros((4, 4)), np.zeros((4, 4, 4))])
    with pytest.raises(ValueError, match="not finite"):
        leakage.find_copies([np.full((8, 8), np.nan), np.eye(8)])
    assert leakage.find_copies([]) == []
