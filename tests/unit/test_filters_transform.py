"""The non-learned denoiser."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from cohortex.filters.gaussian import gaussian
from cohortex.filters.transform import denoise_transform, rician_amplitude
from cohortex.measures.image_quality import psnr

ISO = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def phantom():
    """Return a smooth object with sharp shells and a texture."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in (44, 40, 36)], indexing="ij")
    radius = np.sqrt(x**2 + 1.3 * y**2 + z**2)
    image = (radius < 0.85) * (0.4 + 0.2 * np.cos(5 * x) * np.cos(4 * y + z)) + 0.3 * ((radius > 0.5) & (radius < 0.62))
    return image.astype(np.float32)


def test_it_beats_the_best_gaussian_by_2_db(phantom):
    noisy = (phantom + 0.06 * np.random.default_rng(0).normal(size=phantom.shape)).astype(np.float32)
    found = psnr(phantom, denoise_transform(noisy, ISO), 1.0)
    assert found > max(psnr(phantom, gaussian(noisy, ISO, sigma), 1.0) for sigma in (0.5, 0.6, 0.7, 0.8)) + 2


def test_the_first_pass_equals_thresholding_every_block_in_numpy():
    from cohortex.filters.transform import _averaged, _cosines

    image = np.random.default_rng(0).normal(0, 2, (7, 6, 9)).astype(np.float32)
    total, weight = np.zeros(image.shape), np.zeros(image.shape)
    for i, j, k in np.ndindex(4, 3, 6):
        block = np.s_[i : i + 4, j : j + 4, k : k + 4]
        spectrum = fft.dctn(image[block].astype(np.float64), norm="ortho")
        kept = np.abs(spectrum) > 2.5
        kept[0, 0, 0] = True
        share = 1 / kept.sum()
        total[block] += share * fft.idctn(spectrum * kept, norm="ortho")
        weight[block] += share
    assert np.abs(_averaged(image, image, [_cosines(4)] * 3, 2.5) - total / weight).max() < 1e-4


def test_the_second_pass_equals_wiener_gains_of_every_block_in_numpy():
    from cohortex.filters.transform import _averaged, _cosines

    generator = np.random.default_rng(0)
    image, pilot = generator.normal(0, 2, (2, 5, 6, 9)).astype(np.float32)
    total, weight = np.zeros(image.shape), np.zeros(image.shape)
    for i, j, k in np.ndindex(5, 4, 7):
        block = np.s_[i : i + 1, j : j + 3, k : k + 3]
        power = fft.dctn(pilot[block].astype(np.float64), norm="ortho") ** 2
        gain = power / (power + 1)
        gain[0, 0, 0] = 1
        share = 1 / (gain**2).sum()
        total[block] += share * fft.idctn(fft.dctn(image[block].astype(np.float64), norm="ortho") * gain, norm="ortho")
        weight[block] += share
    assert np.abs(_averaged(image, pilot, [_cosines(1), _cosines(3), _cosines(3)], 0.0) - total / weight).max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(
    shape=st.sampled_from([(9, 8, 7), (12, 10, 1), (1, 9, 12), (16, 16, 3), (5, 1, 1), (2, 2, 2)]),
    spacing=st.sampled_from([ISO, (0.5, 0.5, 4.0), (3.0, 1.0, 1.0)]),
    size=st.sampled_from([4, 8]),
)
def test_it_takes_every_grid_and_keeps_constants_and_its_input(shape, spacing, size):
    image = np.random.default_rng(0).normal(10, 1, shape).astype(np.float32)
    before = image.copy()
    result = denoise_transform(image, spacing, 1.0, block_size=size)
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.array_equal(image, before)
    assert np.allclose(denoise_transform(np.full(shape, 5, np.float32), spacing, 1.0), 5, atol=1e-4)


def test_thick_slices_are_not_mixed_and_a_stack_equals_its_pictures():
    stack = np.random.default_rng(0).normal(10, 1, (20, 18, 4)).astype(np.float32)
    whole = denoise_transform(stack, (1.0, 1.0, 5.0), 1.0)
    single = np.concatenate([denoise_transform(stack[:, :, k : k + 1], (1.0, 1.0, 5.0), 1.0) for k in range(4)], axis=2)
    assert np.allclose(whole, single, atol=1e-4)


def test_a_change_of_axes_changes_nothing_but_the_axes(phantom):
    noisy = (phantom + 0.06 * np.random.default_rng(0).normal(size=phantom.shape)).astype(np.float32)
    turned = denoise_transform(np.ascontiguousarray(noisy.transpose(2, 0, 1)), ISO, 0.06)
    assert np.allclose(turned, denoise_transform(noisy, ISO, 0.06).transpose(2, 0, 1), atol=1e-4)


def test_no_noise_or_no_strength_gives_the_image_back(phantom):
    assert np.array_equal(denoise_transform(phantom, ISO, 0.0), phantom)
    assert np.array_equal(denoise_transform(phantom, ISO, 0.1, strength=0), phantom)


@settings(max_examples=20, deadline=None)
@given(amplitude=st.floats(0, 30), sigma=st.floats(0.01, 50))
def test_the_amplitude_behind_a_rician_mean_is_found(amplitude, sigma):
    from scipy import stats

    mean = stats.rice.mean(amplitude) * sigma
    found = rician_amplitude(np.full((1, 1, 1), mean, np.float32), sigma)[0, 0, 0]
    # Near zero the mean barely depends on the amplitude, so rounding of the mean weighs more.
    assert found == pytest.approx(amplitude * sigma, abs=(0.01 if amplitude > 0.3 else 0.05) * sigma)


def test_undoing_the_rician_bias_darkens_the_air_and_leaves_bright_tissue(phantom):
    generator = np.random.default_rng(0)
    magnitude = np.hypot(phantom + 0.06 * generator.normal(size=phantom.shape), 0.06 * generator.normal(size=phantom.shape)).astype(
        np.float32
    )
    plain, undone = (denoise_transform(magnitude, ISO, 0.06, rician=rician) for rician in (False, True))
    air, tissue = phantom == 0, phantom > 0.5
    assert plain[air].mean() > 0.07
    assert undone[air].mean() < 0.025
    assert np.abs(undone[tissue] - plain[tissue]).mean() < 0.006
    assert psnr(phantom, undone, 1.0) > psnr(phantom, plain, 1.0) + 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sigma": -1}, "sigma"),
        ({"block_size": 1}, "2 to 8"),
        ({"threshold": 0}, "threshold"),
        ({"blocks": "cubes"}, "auto, volume or slices"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        denoise_transform(np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), ISO, **options)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        denoise_transform(np.full((8, 8, 8), np.nan, np.float32), ISO, 1.0)
