"""The six filters: each against its reference library or its theory, and what all of them promise."""

import warnings

import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage, signal
from skimage import restoration

from cohortex.filters.anisotropic_diffusion import anisotropic_diffusion, largest_stable_step
from cohortex.filters.blockwise import run_chain
from cohortex.filters.chain import FILTERS
from cohortex.filters.gaussian import gaussian
from cohortex.filters.median import median
from cohortex.filters.total_variation import solve, total_variation
from cohortex.filters.wavelet import wavelet
from cohortex.filters.wavelet_transform import decompose, recompose
from cohortex.filters.wiener import deconvolve, wiener, wiener_spectrum
from cohortex.measures.image_quality import psnr

ISO = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def phantom():
    """Return nested boxes and balls between 0 and 1."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in (48, 44, 40)], indexing="ij")
    image = 0.3 * (x**2 + y**2 + z**2 < 0.8) + 0.4 * ((np.abs(x) < 0.4) & (np.abs(y) < 0.5) & (np.abs(z) < 0.4))
    return (image + 0.3 * ((x - 0.1) ** 2 + y**2 + z**2 < 0.08)).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(phantom):
    return (phantom + 0.08 * np.random.default_rng(0).normal(size=phantom.shape)).astype(np.float32)


def best_gaussian(image, truth):
    return max(psnr(truth, gaussian(image, ISO, sigma), 1.0) for sigma in (0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3))


# ---- what all of them promise


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FILTERS)),
    shape=st.sampled_from([(9, 8, 7), (12, 10, 1), (1, 9, 9), (16, 16, 3), (5, 1, 1), (2, 2, 2), (20, 9, 2)]),
    spacing=st.sampled_from([ISO, (0.5, 0.5, 4.0), (3.0, 1.0, 1.0)]),
)
def test_every_filter_takes_every_grid_and_keeps_shape_type_input_and_constants(name, shape, spacing):
    image = np.random.default_rng(0).normal(10, 1, shape).astype(np.float32)
    before = image.copy()
    result = FILTERS[name](image, spacing)
    assert result.shape == shape
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert np.array_equal(image, before)
    assert np.allclose(FILTERS[name](np.full(shape, 7, np.float32), spacing), 7, atol=1e-5)


@pytest.mark.parametrize("name", sorted(FILTERS))
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_every_filter_refuses_nan_and_infinity(name, wrong):
    image = np.ones((6, 6, 6), np.float32)
    image[2, 3, 4] = wrong
    with pytest.raises(ValueError, match="NaN and infinite"):
        FILTERS[name](image, ISO)


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_filter_lowers_noise_and_commutes_with_a_change_of_axes(name, phantom, noisy):
    result = FILTERS[name](noisy, (1.0, 1.0, 1.0))
    assert psnr(phantom, result, 1.0) > psnr(phantom, noisy, 1.0) + 1
    turned = FILTERS[name](np.ascontiguousarray(noisy.transpose(2, 0, 1)), ISO)
    assert np.allclose(turned, result.transpose(2, 0, 1), atol=2e-3)


@pytest.mark.parametrize("name", ["median", "wavelet", "wiener"])
def test_thick_slices_are_not_mixed_by_default(name):
    image = np.random.default_rng(0).normal(size=(16, 16, 5)).astype(np.float32)
    options = {} if name == "median" else {"sigma": 0.5}
    changed = image.copy()
    changed[:, :, 2] += 30
    first, second = (FILTERS[name](part, (1.0, 1.0, 4.0), **options) for part in (image, changed))
    if name == "wavelet":  # the thresholds of the bands are common to all slices
        assert np.abs(first - second)[:, :, [0, 1, 3, 4]].max() < 1
    else:
        assert np.allclose(first[:, :, [0, 1, 3, 4]], second[:, :, [0, 1, 3, 4]], atol=1e-4)


def test_a_chain_runs_in_its_order_and_names_what_it_does_not_know(noisy):
    both = run_chain(noisy, ISO, [{"median": None}, {"gaussian": {"sigma_mm": 0.7}}])
    assert np.array_equal(both, gaussian(median(noisy, ISO), ISO, 0.7))
    with pytest.raises(ValueError, match="no filter 'bilateral'"):
        run_chain(noisy, ISO, [{"bilateral": {}}])
    with pytest.raises(ValueError, match="one name"):
        run_chain(noisy, ISO, [{"median": {}, "gaussian": {}}])


# ---- median (P01)


def test_median_beats_gaussian_by_more_than_3_db_on_impulses(phantom):
    generator = np.random.default_rng(1)
    impulses = phantom.copy()
    hit = generator.random(phantom.shape) < 0.05
    impulses[hit] = generator.choice([0.0, 1.0], hit.sum())
    assert psnr(phantom, median(impulses, ISO), 1.0) > best_gaussian(impulses, phantom) + 3


def test_median_equals_scipy_with_a_box_of_the_radius_in_mm(noisy):
    found = median(noisy, (1.0, 2.0, 4.0), 2.0)
    assert np.array_equal(found, ndimage.median_filter(noisy, (5, 3, 1)))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 19), st.sampled_from([1, 2, 3, 7, 15, 16, 33, 270])),
    half=st.tuples(*[st.integers(0, 2)] * 3),
    levels=st.sampled_from([2, 1000]),
)
def test_median_equals_scipy_bit_for_bit_on_any_grid_and_box(shape, half, levels):
    image = np.random.default_rng(0).integers(-levels, levels, shape).astype(np.float32)
    half = [min(width, size - 1) for width, size in zip(half, shape, strict=True)]
    spacing = [2 / width if width else 3.0 for width in half]
    wanted = ndimage.median_filter(image, [2 * width + 1 for width in half], mode="reflect")
    assert np.array_equal(median(image, spacing, 2.0), wanted)


# ---- gaussian (P02)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 19), st.sampled_from([1, 2, 3, 15, 16, 40])),
    sigma=st.tuples(*[st.floats(0, 3)] * 3),
)
def test_gaussian_equals_scipy_on_any_grid(shape, sigma):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted = ndimage.gaussian_filter(image, [width if size > 1 else 0 for width, size in zip(sigma, shape, strict=True)])
    assert np.abs(gaussian(image, ISO, sigma) - wanted).max() <= 1e-6 * np.abs(image).max()


@pytest.mark.parametrize("spacing", [ISO, (0.8, 0.8, 1.1)])
def test_the_measured_mtf_of_gaussian_is_the_gaussian_within_2_percent(spacing):
    sigma, shape = 1.3, (41, 41, 41)
    point = np.zeros(shape, np.float32)
    point[20, 20, 20] = 1
    spread = gaussian(point, spacing, sigma)
    mtf = np.abs(np.fft.fftn(spread))
    squared = sum(
        line.reshape([-1 if axis == other else 1 for other in range(3)]) ** 2
        for axis, line in enumerate(np.fft.fftfreq(size, step) for size, step in zip(shape, spacing, strict=True))
    )
    assert np.abs(mtf - np.exp(-2 * np.pi**2 * sigma**2 * squared)).max() < 0.02


# ---- wavelet (P03)


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 20)] * 3), basis=st.sampled_from(["haar", "db2", "sym4", "db3"]), depth=st.integers(1, 3))
def test_the_wavelet_transform_is_that_of_pywavelets_and_reconstructs(shape, basis, depth):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    bands = decompose(image, (0, 1, 2), basis, depth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyWavelets warns of levels that are all border
        wanted = pywt.wavedecn(image.astype(np.float64), basis, mode="symmetric", level=depth)
    assert np.abs(bands[0] - wanted[0]).max() < 2e-5
    for level, names in zip(bands[1:], wanted[1:], strict=True):
        assert set(level) == set(names)
        assert all(np.abs(level[name] - names[name]).max() < 1e-5 for name in names)
    assert np.abs(recompose(bands, (0, 1, 2), basis, shape) - image).max() < 2e-5


def test_bayes_shrinkage_equals_scikit_image(noisy):
    options = {"wavelet": "sym4", "mode": "soft", "wavelet_levels": 2, "method": "BayesShrink", "rescale_sigma": False}
    wanted = restoration.denoise_wavelet(noisy, 0.08, **options)
    assert np.abs(wavelet(noisy, ISO, 0.08, levels=2, shifts=1) - wanted).max() < 1e-6


def test_bayes_shrinkage_beats_the_best_gaussian_and_cycle_spinning_beats_one_transform():
    # A texture on one side only: an image that one width of smoothing cannot suit.
    x, y = np.meshgrid(np.arange(128), np.arange(128), indexing="ij")
    truth = (0.5 + 0.3 * (x > 64) * np.sin(x * 1.1) * np.sin(y * 0.9) + 0.15 * (y > 50))[..., None].astype(np.float32)
    image = (truth + 0.05 * np.random.default_rng(0).normal(size=truth.shape)).astype(np.float32)
    once, often = (psnr(truth, wavelet(image, ISO, shifts=count), 1.0) for count in (1, 8))
    assert once > best_gaussian(image, truth)
    assert often > once


# ---- Wiener (P04)


@pytest.mark.parametrize("shape", [(9, 8, 7), (31, 5, 12), (16, 9, 1), (1, 2, 40), (3, 1, 1)])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_the_adaptive_filter_equals_scipy_to_the_border(shape, radius):
    image = np.random.default_rng(0).normal(1000, 1, shape).astype(np.float32)
    half = [min(radius, size - 1) for size in shape]
    wanted = signal.wiener(image.astype(np.float64), [2 * width + 1 for width in half], 0.8**2)
    assert np.abs(wiener(image, ISO, radius, sigma=0.8, edge="zero") - wanted).max() < 3e-4  # in float32 1000 has steps of 6e-5
    inside = tuple(slice(width, size - width) for width, size in zip(half, shape, strict=True))
    assert np.abs((wiener(image, ISO, radius, sigma=0.8) - wanted)[inside]).max(initial=0) < 3e-4


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_with_true_spectra_the_error_is_the_least_that_a_linear_estimate_can_have(blur):
    shape, spacing, sigma = (64, 64, 32), (1.0, 1.0, 2.0), 0.5
    generator = np.random.default_rng(0)
    lines = [np.arange(size) / (2 * size * step) for size, step in zip(shape, spacing, strict=True)]
    squared = lines[0][:, None, None] ** 2 + lines[1][None, :, None] ** 2 + lines[2][None, None, :] ** 2
    power = 1 / (0.02 + 20 * squared)
    truth = fft.idctn(np.sqrt(power) * generator.normal(size=shape), norm="ortho")
    transfer = np.exp(-2 * np.pi**2 * blur**2 * squared)
    image = fft.idctn(fft.dctn(truth, norm="ortho") * transfer, norm="ortho") + sigma * generator.normal(size=shape)
    found = wiener_spectrum(image, spacing, power, sigma**2, blur)
    least = np.mean(power * sigma**2 / (transfer**2 * power + sigma**2))
    assert np.mean((found - truth) ** 2) == pytest.approx(least, rel=0.02)


def test_deconvolution_beats_the_blurred_image(phantom):
    blurred = gaussian(phantom, ISO, 1.5) + 0.005 * np.random.default_rng(0).normal(size=phantom.shape).astype(np.float32)
    sharp = deconvolve(blurred, ISO, 1.5)
    assert psnr(phantom, sharp, 1.0) > psnr(phantom, blurred, 1.0) + 2
    assert np.array_equal(wiener(blurred, ISO, psf_sigma_mm=1.5), sharp)


# ---- anisotropic diffusion (P05)


def test_diffusion_keeps_more_than_90_percent_of_an_edge_while_the_flat_variance_falls_by_more_than_70():
    image = np.zeros((40, 40, 20), np.float32)
    image[20:] = 1
    image += 0.05 * np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    result = anisotropic_diffusion(image, ISO, 10, kappa=0.3)
    slope = np.mean(result[20] - result[19]) / np.mean(image[20] - image[19])
    assert slope > 0.9
    assert result[:15].var() < 0.3 * image[:15].var()


@pytest.mark.parametrize("equation", ["gradient", "curvature"])
@pytest.mark.parametrize("shape", [(19, 24, 21), (7, 3, 40), (2, 5, 2), (20, 22, 5)])
def test_diffusion_equals_simpleitk_with_its_conductance(equation, shape):
    import SimpleITK

    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 0.7).astype(np.float32)
    library = SimpleITK.GradientAnisotropicDiffusion if equation == "gradient" else SimpleITK.CurvatureAnisotropicDiffusion
    wanted = SimpleITK.GetArrayFromImage(library(SimpleITK.GetImageFromArray(image), 0.05, 1.5, 1, 4))
    found = anisotropic_diffusion(image, ISO, 4, contrast=1.5, time_step=0.05, equation=equation)
    assert np.abs(found - wanted).max() < 1e-6 * np.ptp(image)
    assert np.abs(found - image).max() > 0.01 * np.ptp(image)


def test_the_power_of_two_of_the_kernels_is_right_to_3e_7():
    from cohortex.filters.diffusion_kernels import powers_of_two

    exponents = np.linspace(-100, 0, 2000).astype(np.float32)
    found = exponents.copy()
    powers_of_two(found)
    assert np.allclose(found, np.exp2(exponents.astype(float)), rtol=3e-7, atol=0)
    far = np.full(16, -1e30, np.float32)
    powers_of_two(far)
    assert far == pytest.approx(0, abs=1e-30)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 9), st.sampled_from([1, 2, 15, 16, 17, 32, 40])),
    count=st.integers(1, 3),
    spacing=st.sampled_from([ISO, (1.0, 1.3, 3.0)]),
)
def test_the_mean_gradients_taken_on_the_way_are_those_of_the_images(shape, count, spacing):
    from cohortex.filters.anisotropic_diffusion import STEP, _iterated

    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    resolved = STEP.resolve(image, spacing, iterations=3)
    squares = resolved["squared_kappas"]
    for done in range(3):
        before, _ = _iterated(image, resolved | {"squared_kappas": squares[:done]}, count)
        # central differences, the outer voxel twice
        axes = [axis for axis in range(3) if shape[axis] > 1]
        steps = np.array(spacing) / min([spacing[axis] for axis in axes], default=1)
        padded = np.pad(before.astype(float), 1, mode="edge")
        slopes = [(np.diff(padded, axis=a)[_inside(a, 1)] + np.diff(padded, axis=a)[_inside(a, 0)]) / 2 / steps[a] for a in axes]
        assert squares[done] == pytest.approx(2 * np.mean(sum(slope**2 for slope in slopes)), rel=1e-5)


def _inside(axis, first):
    return tuple(slice(first, None if first else -1) if a == axis else slice(1, -1) for a in range(3))


@pytest.mark.parametrize("spacing", [ISO, (0.7, 0.7, 2.1), (3.0, 1.0, 1.5)])
def test_without_edges_diffusion_spreads_equally_many_millimetres_along_every_axis(spacing):
    image = np.zeros((31, 31, 31), np.float32)
    image[15, 15, 15] = 1
    step = largest_stable_step(image.shape, spacing)
    result = anisotropic_diffusion(image, spacing, 8, kappa=1e9, time_step=step)
    for axis, width in enumerate(spacing):
        profile = result.sum(axis=tuple(other for other in range(3) if other != axis))
        variance = (profile * ((np.arange(31) - 15) * width) ** 2).sum()
        assert variance == pytest.approx(2 * 8 * step * min(spacing) ** 2, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    shape=st.sampled_from([(8, 7, 6), (12, 9, 1)]),
    conductance=st.sampled_from(["exp", "rational"]),
    kappa=st.floats(0.1, 1e4),
)
def test_diffusion_makes_no_new_extremes_and_keeps_the_mean_at_the_largest_step(spacing, shape, conductance, kappa):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    step = largest_stable_step(shape, spacing)
    result = anisotropic_diffusion(image, spacing, 5, kappa=kappa, conductance=conductance, time_step=step)
    assert result.min() >= image.min() - 1e-5
    assert result.max() <= image.max() + 1e-5
    assert result.mean() == pytest.approx(image.mean(), abs=1e-5)


def test_a_time_step_that_is_not_stable_is_refused():
    assert largest_stable_step((8, 8, 8), (2.0, 2.0, 2.0)) == pytest.approx(1 / 6)
    assert largest_stable_step((8, 8, 1), ISO) == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="stable"):
        anisotropic_diffusion(np.zeros((8, 8, 8), np.float32), ISO, time_step=0.2)


# ---- total variation (P06)


def objective(image, noisy, weight):
    steps = [np.diff(image, axis=axis, append=np.take(image, [-1], axis)) for axis in range(3)]
    return 0.5 * np.sum((image - noisy) ** 2, dtype=np.float64) + weight * np.sum(
        np.sqrt(sum(step.astype(np.float64) ** 2 for step in steps))
    )


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_gap_closes_and_bounds_the_distance_of_the_objective_from_its_least(noisy, accelerated):
    part, inverse = np.ascontiguousarray(noisy[8:32, 8:32, 8:32]), np.ones(3, np.float32)
    least = objective(solve(part, inverse, 0.1, 1e-5, 1000, True)[0], part, 0.1)
    image, gaps = solve(part, inverse, 0.1, 1e-3, 1000, accelerated)
    assert gaps[-1] <= 1e-3 < gaps[0]
    assert least * (1 - 1e-5) <= objective(image, part, 0.1) <= least * (1 + gaps[-1])


@pytest.mark.parametrize("shape", [(24, 22, 20), (9, 2, 40), (18, 17, 1), (40, 21, 3)])
def test_chambolles_steps_are_those_of_scikit_image(shape):
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 0.7).astype(np.float32)
    picture = image[..., 0] if shape[2] == 1 else image
    wanted = restoration.denoise_tv_chambolle(picture, 0.1, eps=0, max_num_iter=14).reshape(shape)
    found = total_variation(image, ISO, 0.1, None, 13, "chambolle")
    assert np.abs(found - wanted).max() < 1e-6 * np.ptp(image)
    assert np.abs(found - image).max() > 0.01 * np.ptp(image)


def test_total_variation_equals_scikit_image_to_1e_3(noisy):
    part = noisy[10:26, 10:26, 10:26]
    wanted = restoration.denoise_tv_chambolle(part.astype(np.float64), 0.05, eps=1e-12, max_num_iter=3000)
    found = total_variation(part, ISO, 0.05, 3e-6, 3000)
    assert np.abs(found - wanted).max() < 1e-3
    assert objective(found, part, 0.05) <= objective(wanted, part, 0.05) * (1 + 1e-5)


def test_total_variation_beats_the_best_gaussian_on_a_phantom(phantom, noisy):
    assert psnr(phantom, total_variation(noisy, ISO), 1.0) > best_gaussian(noisy, phantom) + 1


def test_a_step_across_a_wide_gap_costs_less_than_across_a_narrow_one():
    image = np.zeros((2, 12, 12), np.float32)
    image[1] = 1
    narrow, wide = total_variation(image, (1.0, 1.0, 1.0), 0.2, 1e-6), total_variation(image, (4.0, 1.0, 1.0), 0.2, 1e-6)
    # With one difference of size 1 / h a voxel of either side moves by weight / h.
    assert np.allclose(narrow[1] - narrow[0], 1 - 2 * 0.2, atol=1e-3)
    assert np.allclose(wide[1] - wide[0], 1 - 2 * 0.2 / 4, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("median", {"radius_mm": -1}, "radius"),
        ("gaussian", {"sigma_mm": -1}, "sigma"),
        ("wavelet", {"basis": "nosuch"}, "not a discrete wavelet"),
        ("wavelet", {"shifts": 0}, "shift"),
        ("wiener", {"sigma": -1}, "sigma"),
        ("anisotropic_diffusion", {"conductance": "linear"}, "exp or rational"),
        ("anisotropic_diffusion", {"kappa": 0}, "above 0"),
        ("total_variation", {"weight": -1}, "weight"),
        ("total_variation", {"tolerance": 0}, "tolerance"),
        ("total_variation", {"solver": "newton"}, "solver"),
        ("wiener", {"edge": "mirror"}, "reflect or zero"),
        ("anisotropic_diffusion", {"equation": "heat"}, "gradient or curvature"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(name, options, word):
    with pytest.raises(ValueError, match=word):
        FILTERS[name](np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), ISO, **options)
