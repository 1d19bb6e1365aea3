"""Foreground, bias field and intensity normalisation."""

import numpy as np
import pytest

from cohortex.filters.bias_field import correct_bias
from cohortex.filters.foreground import foreground
from cohortex.filters.normalise import percentile, window, zscore


def head(shape=(48, 52, 40)):
    """Return labels of a head: 0 air, 1 skin, 2 skull (dark), 3 grey, 4 white."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    radius = np.sqrt((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.85) ** 2)
    labels = np.zeros(shape, np.uint8)
    for label, edge in ((1, 1.0), (2, 0.9), (3, 0.8)):
        labels[radius < edge] = label
    labels[(radius < 0.7) & (np.sin(9 * x) + np.sin(8 * y) + np.sin(7 * z) > -0.5)] = 4
    return labels


def dice(first, second):
    return 2 * np.count_nonzero(first & second) / (np.count_nonzero(first) + np.count_nonzero(second))


LEVELS = np.array([0, 0.9, 0.08, 0.55, 0.8], np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_the_foreground_of_a_magnitude_is_the_head_with_its_dark_skull(noise):
    labels = head()
    generator = np.random.default_rng(0)
    image = np.hypot(LEVELS[labels] + noise * generator.normal(size=labels.shape), noise * generator.normal(size=labels.shape))
    assert dice(foreground(image.astype(np.float32)), labels > 0) > 0.94


def test_the_foreground_of_a_ct_holds_the_lungs_but_not_the_table():
    x, y, _ = np.meshgrid(*[np.linspace(-1, 1, size) for size in (64, 64, 20)], indexing="ij")
    body = (x / 0.8) ** 2 + (y / 0.55) ** 2 < 1
    lungs = ((np.abs(x) - 0.35) / 0.25) ** 2 + (y / 0.35) ** 2 < 1
    image = np.where(body, 40, -1000) + np.random.default_rng(0).normal(0, 20, x.shape)
    image[lungs] = -820
    image[(y < -0.75) & (y > -0.82)] = 100
    image[(x**2 + y**2) > 1.7] = -3024
    found = foreground(image.astype(np.float32))
    assert dice(found, body) > 0.96
    assert found[lungs].all()
    assert not found[(y < -0.75) & (y > -0.82)].any()


def test_a_large_image_gets_the_mask_of_its_shrunk_copy_on_its_own_grid():
    image = np.zeros((600, 301, 1), np.float32)
    image[100:500, 60:240] = 1
    found = foreground(image)
    assert found.shape == image.shape
    assert dice(found, image > 0) > 0.98


def test_without_contrast_all_is_foreground_and_nan_is_refused():
    assert foreground(np.ones((4, 5, 1), np.float32)).all()
    with pytest.raises(ValueError, match="NaN"):
        foreground(np.full((4, 4, 4), np.nan, np.float32))


@pytest.mark.parametrize("part", [np.s_[:], np.s_[:, :, ::4], np.s_[:, :, 20:21], np.s_[:, :, 18:20], np.s_[24:25]])
def test_the_variation_in_white_matter_falls_by_more_than_30_percent_without_the_bias_field(part):
    labels = head((56, 60, 48) if part == np.s_[:] else (48, 52, 40))
    grids = np.meshgrid(*[np.linspace(-1, 1, size) for size in labels.shape], indexing="ij")
    bias = np.exp(0.35 * grids[0] - 0.3 * grids[1] ** 2 + 0.3 * grids[2] * grids[1])[part]
    labels = labels[part]
    image = (300 * (LEVELS[labels] * bias + 0.02 * np.abs(np.random.default_rng(0).normal(size=labels.shape)))).astype(np.float32)
    spacing = (3.0, 3.0, 12.0) if part == np.s_[:, :, ::4] else (3.0, 3.0, 3.0)
    corrected, lazy = correct_bias(image, spacing)
    field = lazy[...]
    white = labels == 4
    spread = lambda values: values[white].std() / values[white].mean()  # noqa: E731
    assert spread(corrected) < 0.7 * spread(image)
    assert np.allclose(corrected * field, image, rtol=1e-5)
    assert corrected.shape == field.shape == image.shape
    assert corrected.dtype == field.dtype == np.float32


def test_an_image_with_nothing_above_zero_has_no_bias_field():
    with pytest.raises(ValueError, match="64 voxels"):
        correct_bias(-np.random.default_rng(0).random((8, 8, 8)).astype(np.float32), (1.0, 1.0, 1.0))


def test_zscore_has_mean_0_and_deviation_1_in_the_mask():
    image = np.random.default_rng(0).normal(100, 7, (9, 9, 9)).astype(np.float32)
    mask = image > 95
    scaled = zscore(image, mask)
    assert scaled[mask].mean() == pytest.approx(0, abs=1e-4)
    assert scaled[mask].std() == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="constant"):
        zscore(np.ones((3, 3, 3), np.float32))


def test_percentiles_become_0_and_1_and_nothing_is_clipped():
    image = np.arange(1001, dtype=np.float32).reshape(-1, 1, 1)
    scaled = percentile(image, None, 1, 99.5)
    assert scaled[10, 0, 0] == pytest.approx(0, abs=1e-6)
    assert scaled[995, 0, 0] == pytest.approx(1, abs=1e-6)
    assert scaled.max() > 1
    assert scaled.min() < 0
    assert percentile(image)[0, 0, 0] == 0
    with pytest.raises(ValueError, match="rise"):
        percentile(image, None, 99, 1)
    with pytest.raises(ValueError, match="empty"):
        percentile(image, np.zeros(image.shape, bool))


def test_a_window_is_clipped_to_0_and_1():
    hounsfield = np.array([-1000, -160, 40, 240, 3000], np.float32).reshape(-1, 1, 1)
    assert window(hounsfield, 40, 400).reshape(-1).tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    with pytest.raises(ValueError, match="width"):
        window(hounsfield, 40, 0)
