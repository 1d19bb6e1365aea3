"""Multi-scale structural similarity: equal to an independent implementation, and to what is worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.measures.image_quality import ssim
from cohortex.measures.multiscale import WEIGHTS, halved, ms_ssim, scales_that_fit


def pair(shape, noise=0.1):
    rng = np.random.default_rng(sum(shape))
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    reference = np.exp(-3 * sum(a**2 for a in axes)) + 0.3 * (axes[0] > 0.2)
    return reference, reference + noise * rng.normal(size=shape)


@pytest.mark.parametrize(("shape", "scales"), [((181, 176), 5), ((99, 103), 4), ((45, 47, 44), 3)])
def test_it_equals_that_of_monai(shape, scales):
    import torch
    from monai.metrics.regression import MultiScaleSSIMMetric

    reference, image = pair(shape)
    weights = np.asarray(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    metric = MultiScaleSSIMMetric(spatial_dims=len(shape), data_range=1.5, kernel_size=11, kernel_sigma=1.5, weights=tuple(weights))
    theirs = metric(torch.from_numpy(image)[None, None], torch.from_numpy(reference)[None, None]).item()
    assert scales_that_fit(shape) == scales
    assert ms_ssim(reference, image, 1.5) == pytest.approx(theirs, abs=2e-5)


def test_one_scale_is_the_similarity_with_a_gaussian_window_inside_the_image():
    reference, image = pair((40, 36, 20))
    inside = np.zeros(reference.shape, bool)
    inside[5:-5, 5:-5, 5:-5] = True
    assert ms_ssim(reference, image, 1.5, scales=1) == pytest.approx(ssim(reference, image, 1.5, inside, gaussian=True), abs=1e-9)


def test_a_shift_of_the_mean_costs_only_at_the_coarsest_scale():
    reference = np.zeros((64, 64))
    # Two constants: contrast and structure are equal, so what is left is the luminance to the power of the last weight.
    c1, a, b = 0.01**2, 0.5, 0.8
    luminance = (2 * a * b + c1) / (a**2 + b**2 + c1)
    weight = WEIGHTS[2] / sum(WEIGHTS[:3])
    assert ms_ssim(reference + a, reference + b, 1.0) == pytest.approx(luminance**weight, abs=1e-9)


def test_noise_costs_more_than_blur_of_the_finest_scale_in_coarse_structure():
    reference, noisy = pair((64, 64), 0.3)
    assert ms_ssim(reference, noisy, 1.0) < ms_ssim(reference, reference + 0.02, 1.0) < 1


def test_a_pile_of_few_slices_is_compared_slice_by_slice_and_a_mask_takes_its_windows():
    reference, image = pair((60, 60, 4))
    inside = np.zeros(reference.shape, bool)
    inside[:, :, 1] = True
    assert ms_ssim(reference, image, 1.0, inside) == pytest.approx(ms_ssim(reference[:, :, 1], image[:, :, 1], 1.0), abs=1e-12)
    with pytest.raises(ValueError, match="no window of scale 1"):
        ms_ssim(reference, image, 1.0, np.zeros(reference.shape, bool))
    with pytest.raises(ValueError, match="allows 1 to 3"):
        ms_ssim(reference, image, 1.0, scales=4)
    with pytest.raises(ValueError, match="at least 11"):
        ms_ssim(reference[:9, :9], image[:9, :9], 1.0)


def test_halving_averages_pairs_and_drops_an_odd_last_voxel():
    assert halved(np.array([1.0, 3.0, 5.0, 7.0, 100.0]), [0]).tolist() == [2, 6]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**20), st.floats(0.1, 10))
def test_it_is_symmetric_1_for_equal_images_and_the_same_in_other_units(seed, unit):
    first, second = np.random.default_rng(seed).random((2, 30, 26))
    value = ms_ssim(first, second, 1.0)
    assert 0 <= value < 1
    assert ms_ssim(first, first, 1.0) == pytest.approx(1)
    assert ms_ssim(second, first, 1.0) == pytest.approx(value, abs=1e-12)
    assert ms_ssim(unit * first, unit * second, unit) == pytest.approx(value, abs=1e-9)
