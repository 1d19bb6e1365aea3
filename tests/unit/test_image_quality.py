"""Measures of image quality."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import metrics

from cohortex.measures.image_quality import mse, noise_sigma, nrmse, psnr, sharpness, ssim


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(0)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in (24, 20, 16)], indexing="ij")
    reference = (np.exp(-4 * (x**2 + y**2 + z**2)) + (x > 0.2)).astype(np.float32)
    return reference, (reference + 0.1 * generator.normal(size=reference.shape)).astype(np.float32)


def test_the_errors_equal_those_of_scikit_image(pair):
    reference, image = pair
    assert mse(reference, image) == pytest.approx(metrics.mean_squared_error(reference, image), rel=1e-6)
    assert nrmse(reference, image) == pytest.approx(metrics.normalized_root_mse(reference, image), rel=1e-6)
    assert psnr(reference, image, 2.0) == pytest.approx(metrics.peak_signal_noise_ratio(reference, image, data_range=2.0), abs=1e-5)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_structural_similarity_equals_that_of_scikit_image_to_1e_6(pair, dimensions, gaussian):
    reference, image = (part if dimensions == 3 else part[:, :, 8:9] for part in pair)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {}
    squeezed = (reference.squeeze().astype(np.float64), image.squeeze().astype(np.float64))
    wanted = metrics.structural_similarity(*squeezed, data_range=2.0, **options)
    assert ssim(reference, image, 2.0, gaussian=gaussian) == pytest.approx(wanted, abs=1e-6)


def test_a_stack_of_few_slices_is_compared_slice_by_slice(pair):
    reference, image = (part[:, :, :3] for part in pair)
    slices = [ssim(reference[:, :, k : k + 1], image[:, :, k : k + 1], 2.0) for k in range(3)]
    assert ssim(reference, image, 2.0) == pytest.approx(np.mean(slices), abs=1e-9)


def test_a_mask_leaves_out_what_is_outside_of_it(pair):
    reference, image = pair
    mask = np.zeros(reference.shape, bool)
    mask[8:16, 6:14, 4:12] = True
    spoiled = np.where(mask, image, 50)
    assert psnr(reference, spoiled, 2.0, mask) == pytest.approx(psnr(reference, image, 2.0, mask))
    far = image.copy()
    far[:4] = 50
    assert ssim(reference, far, 2.0, mask) == pytest.approx(ssim(reference, image, 2.0, mask))
    assert ssim(reference, image, 2.0, mask) != pytest.approx(ssim(reference, image, 2.0), abs=1e-4)


def test_equal_images_have_infinite_psnr_and_similarity_one(pair):
    assert psnr(pair[0], pair[0], 1.0) == float("inf")
    assert ssim(pair[0], pair[0], 1.0) == pytest.approx(1.0)


def test_images_of_different_shapes_and_a_data_range_of_zero_are_refused(pair):
    with pytest.raises(ValueError, match="shape"):
        mse(pair[0], pair[1][:-1])
    with pytest.raises(ValueError, match="data range"):
        psnr(pair[0], pair[1], 0.0)
    with pytest.raises(ValueError, match="zero everywhere"):
        nrmse(np.zeros((2, 2, 2)), np.ones((2, 2, 2)))


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.01, 20), shape=st.sampled_from([(96, 96, 1), (32, 32, 32), (64, 64, 6)]), seed=st.integers(0, 99))
def test_the_noise_of_a_smooth_image_is_found_within_12_percent(sigma, shape, seed):
    grids = np.meshgrid(*[np.linspace(0, 1, size) for size in shape], indexing="ij")
    smooth = 5 * sigma * (grids[0] + grids[1] ** 2)
    noisy = smooth + sigma * np.random.default_rng(seed).normal(size=shape)
    assert noise_sigma(noisy) == pytest.approx(sigma, rel=0.12)


def test_a_background_of_zeros_does_not_lower_the_noise():
    image = np.random.default_rng(0).normal(100, 3, (32, 32, 32)).astype(np.float32)
    image[:20] = 0
    assert noise_sigma(image) == pytest.approx(3, rel=0.1)
    assert noise_sigma(np.zeros((8, 8, 8))) == 0


def test_nan_has_no_noise():
    with pytest.raises(ValueError, match="NaN"):
        noise_sigma(np.full((8, 8, 8), np.nan))


def test_smoothing_lowers_the_sharpness_and_the_spacing_scales_it():
    from scipy import ndimage

    image = np.zeros((32, 32, 32), np.float32)
    image[8:24, 8:24, 8:24] = 1
    soft = ndimage.gaussian_filter(image, 2)
    assert sharpness(soft, (1, 1, 1)) < 0.7 * sharpness(image, (1, 1, 1))
    assert sharpness(image, (2, 2, 2)) == pytest.approx(sharpness(image, (1, 1, 1)) / 2)
    assert sharpness(np.ones((4, 4, 4)), (1, 1, 1)) == 0
