"""Fine structure and the texture of noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex.measures.texture import hfen, laplacian_of_gaussian, noise_power_spectrum, spectrum_distance


def kernel(dimensions):
    """Return the kernel as one array, as image-processing toolboxes build it: sampled, normalised, shifted to the sum zero."""
    ticks = np.meshgrid(*[np.arange(-7, 8)] * dimensions, indexing="ij")
    squared = sum(t**2 for t in ticks)
    bell = np.exp(-squared / (2 * 1.5**2))
    found = bell / bell.sum() * (squared - dimensions * 1.5**2) / 1.5**4
    return found - found.mean()


@pytest.mark.parametrize("shape", [(40, 33), (17, 16, 15)])
def test_the_laplacian_of_a_gaussian_equals_the_convolution_with_its_whole_kernel(shape):
    image = np.random.default_rng(1).random(shape)
    wanted = ndimage.correlate(image, kernel(len(shape)), mode="nearest")
    np.testing.assert_allclose(laplacian_of_gaussian(image), wanted, atol=1e-12)


def test_a_pile_of_few_slices_is_filtered_slice_by_slice():
    image = np.random.default_rng(2).random((30, 28, 5))
    np.testing.assert_allclose(laplacian_of_gaussian(image)[:, :, 3], laplacian_of_gaussian(image[:, :, 3]), atol=1e-12)


def test_the_high_frequency_error_is_the_norm_by_hand_and_blind_to_a_constant():
    reference, image = np.random.default_rng(3).random((2, 32, 32))
    truth, made = (ndimage.correlate(each, kernel(2), mode="nearest") for each in (reference, image))
    assert hfen(reference, image) == pytest.approx(np.linalg.norm(made - truth) / np.linalg.norm(truth), rel=1e-9)
    assert hfen(reference, reference + 5) == pytest.approx(0, abs=1e-10)
    assert hfen(reference, np.zeros_like(reference)) == pytest.approx(1, rel=1e-9)
    assert hfen(reference, ndimage.gaussian_filter(reference, 2)) > hfen(reference, ndimage.gaussian_filter(reference, 0.5))


def test_a_high_frequency_error_without_meaning_is_refused():
    image = np.random.default_rng(3).random((20, 20))
    with pytest.raises(ValueError, match="without structure"):
        hfen(np.ones((20, 20)), image)
    with pytest.raises(ValueError, match="at least 15"):
        hfen(image[:9, :9], image[:9, :9])
    with pytest.raises(ValueError, match="one shape"):
        hfen(image, image[:-1])


@pytest.mark.parametrize(("sigma", "spacing"), [(1.0, 1.0), (3.0, 0.5)])
def test_white_noise_has_a_flat_spectrum_of_its_variance_times_the_area_of_a_pixel(sigma, spacing):
    noise = sigma * np.random.default_rng(4).normal(size=(160, 160, 6))
    found = noise_power_spectrum(noise, (spacing, spacing, 1.0))
    assert found.variance == pytest.approx(sigma**2, rel=0.02)
    np.testing.assert_allclose(found.power, sigma**2 * spacing**2, rtol=0.1)
    assert found.frequency[-1] == pytest.approx(0.5 / spacing)


def test_a_wave_has_its_power_at_its_frequency():
    x = np.arange(128) * 0.8
    wave = np.sin(2 * np.pi * 0.25 / 0.8 * x)[:, None] * np.ones((1, 128))
    found = noise_power_spectrum(wave, (0.8, 0.8))
    assert found.frequency[np.argmax(found.power)] == pytest.approx(0.25 / 0.8, abs=1e-9)
    assert found.variance == pytest.approx(0.5, rel=1e-6)


def test_windows_lie_in_the_mask_and_get_smaller_where_they_do_not_fit():
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(80, 80))
    noise[:, 40:] *= 100
    mask = np.zeros(noise.shape, bool)
    mask[:, :40] = True
    assert noise_power_spectrum(noise, (1, 1), mask).variance == pytest.approx(1, rel=0.1)
    mask[:, 12:] = False
    assert len(noise_power_spectrum(noise, (1, 1), mask).frequency) == 4
    with pytest.raises(ValueError, match="no window of 8 x 8"):
        noise_power_spectrum(noise, (1, 1), np.zeros(noise.shape, bool))


def test_the_distance_of_spectra_tells_amount_from_texture():
    rng = np.random.default_rng(6)
    white, other = rng.normal(size=(2, 128, 128, 4))
    smooth = ndimage.gaussian_filter(white, (2, 2, 0))
    spectra = [noise_power_spectrum(each, (1, 1, 1)) for each in (white, other, 2 * white, smooth)]
    assert spectrum_distance(spectra[0], spectra[0]) == 0
    assert spectrum_distance(spectra[0], spectra[1]) < 0.05
    assert spectrum_distance(spectra[0], spectra[2]) == pytest.approx(0.6, abs=1e-9), "(4 - 1) / (4 + 1)"
    assert spectrum_distance(spectra[0], spectra[2], shape_only=True) == pytest.approx(0, abs=1e-9)
    assert spectrum_distance(spectra[0], spectra[3], shape_only=True) > 0.5
    nothing = noise_power_spectrum(0 * white, (1, 1, 1))
    assert spectrum_distance(spectra[0], nothing) == 1
    assert spectrum_distance(nothing, nothing) == 0


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**20), st.floats(0.01, 100))
def test_the_distance_of_spectra_is_symmetric_between_0_and_1_and_the_same_in_other_units(seed, unit):
    first, second = np.random.default_rng(seed).normal(size=(2, 40, 40)) * [[[1.0]], [[unit]]]
    a, b = (noise_power_spectrum(each, (1, 1)) for each in (first, second))
    assert 0 <= spectrum_distance(a, b) <= 1
    assert spectrum_distance(b, a) == pytest.approx(spectrum_distance(a, b), abs=1e-12)
    again = [noise_power_spectrum(7 * each, (1, 1)) for each in (first, second)]
    assert spectrum_distance(*again) == pytest.approx(spectrum_distance(a, b), abs=1e-9)
