"""Labels of tissues by intensities: what is doubtful is decided, what is not known stays, blocks change nothing."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from cohortex.models.regseg import tissues
from cohortex.models.regseg.tissues import by_intensity, followed

TISSUES = {1: "fluid", 2: "grey", 3: "white", 4: "fluid"}


def head(shape=(40, 44, 36), seed=0):
    """A ball of white in grey in fluid with a ventricle in its middle: labels, and what a network that blurs says of them."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    r = np.linalg.norm(grid, axis=0) + 0.08 * ndi.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5) / 0.06
    labels = np.select([r < 0.2, r < 0.5, r < 0.72, r < 0.85], [4, 3, 2, 1], 0).astype(np.uint8)
    soft = np.stack([ndi.gaussian_filter((labels == k).astype(np.float32), 2.0) for k in range(6)])
    return labels, (soft / soft.sum(0)).astype(np.float32)


def painted(labels, levels=(0.0, 0.2, 0.5, 0.8, 0.2), noise=0.05, seed=1):
    return (np.array(levels)[labels] + noise * np.random.default_rng(seed).standard_normal(labels.shape)).astype(np.float32)


def right(soft, labels):
    brain = labels > 0
    return float((np.asarray(soft[...]).argmax(0) == labels)[brain].mean())


@pytest.mark.parametrize("levels", [(0.0, 0.2, 0.5, 0.8, 0.2), (0.0, 0.8, 0.5, 0.2, 0.8)], ids=["as T1", "as T2"])
def test_borders_are_found_again_whatever_the_contrast(levels):
    labels, soft = head()
    before, after = right(soft, labels), right(by_intensity(soft, painted(labels, levels), 2.0, TISSUES), labels)
    assert before < 0.85 < 0.93 < after


def test_a_bias_field_is_followed():
    labels, soft = head()
    image = painted(labels) * np.linspace(0.6, 1.4, labels.shape[0], dtype=np.float32)[:, None, None]
    made = by_intensity(soft, image, 2.0, TISSUES)
    assert right(made, labels) > right(soft, labels) + 0.05


def test_probabilities_sum_to_what_they_did_and_other_classes_stay():
    labels, soft = head()
    made = np.asarray(by_intensity(soft, painted(labels), 2.0, TISSUES)[...])
    np.testing.assert_allclose(made.sum(0), soft.sum(0), atol=1e-5)
    np.testing.assert_array_equal(made[[0, 5]], soft[[0, 5]])
    outside = soft[[1, 2, 3, 4]].sum(0) <= 0.5
    np.testing.assert_array_equal(made[:, outside], soft[:, outside])


def test_where_intensities_say_nothing_the_network_is_right():
    labels, soft = head()
    flat = np.full(labels.shape, 0.5, np.float32) + 0.05 * np.random.default_rng(3).standard_normal(labels.shape).astype(np.float32)
    made = np.asarray(by_intensity(soft, flat, 2.0, TISSUES)[...])
    assert (made.argmax(0) == soft.argmax(0)).mean() > 0.97


def test_blocks_change_nothing(monkeypatch):
    labels, soft = head()
    image = painted(labels)
    whole = np.asarray(by_intensity(soft, image, 2.0, TISSUES)[...])
    monkeypatch.setattr(tissues, "EDGE", 14)
    np.testing.assert_allclose(np.asarray(by_intensity(soft, image, 2.0, TISSUES)[...]), whole, atol=1e-5)


def test_a_tissue_that_is_hardly_there_changes_nothing():
    labels, soft = head()
    without = soft.copy()
    without[3] = 0
    assert by_intensity(without, painted(labels), 2.0, TISSUES) is without


def test_the_card_says_which_classes_are_tissues():
    labels, soft = head()
    image, classes = painted(labels), ["background", "csf", "grey", "white", "ventricles", "bone"]
    card = {"classes": classes, "extra": {"tissues": {"fluid": ["csf", "ventricles"], "grey": ["grey"], "white": ["white"]}}}
    np.testing.assert_array_equal(followed(soft, image, 2.0, card), by_intensity(soft, image, 2.0, TISSUES))
    assert followed(soft, image, 2.0, {"classes": classes, "extra": {}}) is soft
