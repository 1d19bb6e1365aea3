"""What depends on the whole image goes block by block all the same, gives the same bytes under every plan, and what the libraries give."""

import numpy as np
import pytest
import SimpleITK
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import fft, ndimage

from cohortex.blocks import Plan, planned
from cohortex.filters.bias_field import correct_bias
from cohortex.filters.blockwise import run_filter
from cohortex.filters.chain import halo, resolve
from cohortex.filters.foreground import foreground
from cohortex.filters.resample import resample
from cohortex.filters.wiener import deconvolve
from cohortex.io.scratch import Scratch
from cohortex.lazy import Computed
from cohortex.threads import one_itk_thread
from cohortex.volume import Volume

QUICK = [Phase.explicit, Phase.reuse, Phase.generate]
"""Without shrinking, which would run N4 for minutes."""
PLANS = st.builds(Plan, threads=st.integers(1, 3), memory_mb=st.sampled_from([0, 1, 2]))
SHAPES = st.tuples(*[st.integers(1, 150)] * 3).filter(lambda shape: 2 < np.prod(shape) < 150_000)


def noisy(shape, seed=0):
    return np.random.default_rng(seed).normal(3, 1, shape).astype(np.float32)


def shaded(shape, seed=0):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij")
    tissue = 300 * (x**2 + y**2 + z**2 < 0.8) + 100 * (x**2 + z**2 < 0.3)
    return (tissue * np.exp(0.4 * x - 0.3 * y**2 + 0.3 * z * y) + 5 * np.abs(noisy(shape, seed))).astype(np.float32)


def stored(folder, array):
    """Return an array in a scratch file."""
    there = Scratch(folder, array.shape)
    there[:, :, :] = array
    return there


def of_simpleitk(array, spacing, mask, shrink_mm=6.0, iterations=(20, 20), control_points=5):
    """Return N4's field as SimpleITK makes it, of the whole grid at once, with the rule of `correct_bias` outside the mask."""
    inside = mask & (array > 0)
    image, inner = (SimpleITK.GetImageFromArray(np.ascontiguousarray(part.T)) for part in (array, inside.astype(np.uint8)))
    factors = [max(1, min(round(shrink_mm / step), size // 8)) for step, size in zip(spacing, array.shape, strict=True)]
    for part in (image, inner):
        part.SetSpacing(list(map(float, spacing)))
    with one_itk_thread():
        corrector = SimpleITK.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations(list(iterations))
        corrector.SetConvergenceThreshold(0.001)
        corrector.SetNumberOfControlPoints([control_points] * 3)
        corrector.Execute(SimpleITK.Shrink(image, factors), SimpleITK.Shrink(inner, factors))
    logarithm = SimpleITK.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T
    known = logarithm[inside]
    return np.exp(np.clip(logarithm, known.min(), known.max()) - known.mean(dtype=np.float64))


@settings(max_examples=12, deadline=None, phases=QUICK)
@given(
    shape=st.tuples(*[st.integers(8, 40)] * 3),
    spacing=st.tuples(*[st.sampled_from([1.0, 1.2, 2.5, 3.0])] * 3),
    options=st.sampled_from(
        [{"iterations": (3, 3)}, {"iterations": (2, 2, 2), "control_points": 4}, {"iterations": (4,), "shrink_mm": 9.0}]
    ),
)
def test_the_bias_field_is_that_of_simpleitk_on_the_whole_grid(shape, spacing, options):
    image = shaded(shape)
    mask = foreground(image)
    corrected, field = correct_bias(image, spacing, mask, **options)
    wanted = of_simpleitk(image, spacing, mask, **options)
    assert np.abs(field[...] / wanted - 1).max() < 1e-6
    assert np.abs(corrected * wanted / image - 1).max() < 2e-6
    inside = mask & (image > 0)
    assert np.log(field[...])[inside].mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)


@settings(max_examples=12, deadline=None, phases=QUICK)
@given(shape=st.tuples(*[st.integers(1, 140)] * 3).filter(lambda s: sorted(s)[1] > 7 and 1000 < np.prod(s) < 150_000), plan=PLANS)
def test_no_bias_field_depends_on_the_blocks(tmp_path_factory, shape, plan):
    image, spacing = shaded(shape), (1.0, 1.2, 3.0)
    options = {"iterations": (1, 1)}
    corrected, field = correct_bias(image, spacing, **options)
    folder = tmp_path_factory.mktemp("plan")
    with planned(Plan(plan.threads, plan.memory_mb, folder)):
        there, lazy = correct_bias(stored(folder, image), spacing, **options)
        assert there[...].tobytes() == corrected.tobytes()
        assert lazy[...].tobytes() == field[...].tobytes()
        assert isinstance(there, Scratch) or plan.memory_mb


def test_no_bias_field_depends_on_the_threads_of_itk():
    image, made = shaded((40, 36, 30)), []
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    for threads in (1, 3):
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        made.append(correct_bias(image, (3.0, 3.0, 3.0))[1][...].tobytes())
        assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == threads
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert made[0] == made[1]


def test_a_computed_array_is_indexed_like_an_array():
    array = noisy((7, 8, 9))
    lazy = Computed(lambda x, y, z: array[np.ix_(x, y, z)], array.shape)
    for key in (..., 3, (2, ...), (..., 4), np.s_[1:5], np.s_[::2, 3, -4:], np.s_[1:3, ..., 2]):
        assert np.array_equal(lazy[key], array[key]), key


@settings(max_examples=30, deadline=None)
@given(
    shape=SHAPES,
    out=st.tuples(*[st.integers(1, 40)] * 3),
    plan=PLANS,
    steps=st.tuples(*[st.sampled_from([0.45, 0.8, 1.0, 1.7])] * 3),
    origin=st.tuples(*[st.floats(-4, 4)] * 3),
    oblique=st.booleans(),
)
def test_cubic_sampling_is_that_of_scipy_whatever_the_blocks(tmp_path_factory, shape, out, plan, steps, origin, oblique):
    array = noisy(shape)
    matrix = np.diag([*steps, 1.0])
    matrix[:3, 3] = origin
    if oblique:
        matrix[:2, :2] = matrix[:2, :2] @ [[0.9, -0.3], [0.3, 0.9]]
    with planned(Plan()):
        found = resample(Volume(array, np.eye(4)), affine=matrix, shape=out, order="cubic", antialias=False, fill=-9).array()
    linear = matrix[:3, :3] if oblique else np.diag(matrix[:3, :3])
    wanted = ndimage.affine_transform(array, linear, matrix[:3, 3], out, order=3, mode="nearest")
    places = np.stack(np.meshgrid(*map(np.arange, out), indexing="ij"), -1) @ matrix[:3, :3].T + matrix[:3, 3]
    outside = ((places < -0.5) | (places > np.array(shape) - 0.5)).any(-1)
    wanted[outside] = -9
    # Half a voxel outside is on the border: there the last digit decides.
    border = (np.minimum(np.abs(places + 0.5), np.abs(places + 0.5 - np.array(shape))) < 1e-5).any(-1)
    assert np.abs(found - wanted)[~border].max(initial=0) < 1e-5 * np.ptp(array)
    folder = tmp_path_factory.mktemp("plan")
    with planned(Plan(plan.threads, plan.memory_mb, folder)):
        volume = Volume(stored(folder, array), np.eye(4))
        made = resample(volume, affine=matrix, shape=out, order="cubic", antialias=False, fill=-9)
        assert made.array().tobytes() == found.tobytes()


def undone_whole(array, spacing, psf_sigma_mm, sigma, max_gain=10.0):
    """Return what `deconvolve` does, by the transform of the whole image in float64."""
    spectrum = fft.dctn(array.astype(np.float64), norm="ortho")
    # float32, since rounding decides which of two shells a coefficient on their border is counted to
    lines = [np.arange(n, dtype=np.float32) / (2 * n * step) for n, step in zip(array.shape, spacing, strict=True)]
    x, y, z = np.ix_(*lines)
    radius = np.sqrt(x**2 + y**2 + z**2)
    width = max(1 / (2 * n * step) for n, step in zip(array.shape, spacing, strict=True) if n > 1)
    shells = (radius / np.float32(width) + np.float32(0.5)).astype(int).ravel()
    power = np.bincount(shells, np.square(spectrum).ravel()) / np.maximum(np.bincount(shells), 1)
    kept = (1 - sigma**2 / np.maximum(power, 1e-300)).clip(0)[shells].reshape(array.shape)
    gain = kept / np.maximum(np.exp(-2 * np.pi**2 * psf_sigma_mm**2 * radius.astype(np.float64) ** 2), 1 / max_gain)
    gain[0, 0, 0] = 1
    return fft.idctn(spectrum * gain, norm="ortho")


@settings(max_examples=20, deadline=None, phases=QUICK)
@given(shape=SHAPES, plan=PLANS, spacing=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 1.3, 3.0)]), width=st.sampled_from([0.6, 1.5]))
def test_a_blur_is_undone_as_by_the_spectrum_of_the_whole_image_whatever_the_blocks(tmp_path_factory, shape, plan, spacing, width):
    array = ndimage.gaussian_filter(noisy(shape) * 10, 1.5, mode="reflect") + noisy(shape, 1) / 10
    found = deconvolve(array, spacing, width, 0.1)
    wanted = undone_whole(array, spacing, width, 0.1)
    assert np.abs(found - wanted).max() < 5e-6 * np.abs(wanted).max()
    folder = tmp_path_factory.mktemp("plan")
    parameters = {"psf_sigma_mm": width, "sigma": 0.1}
    assert halo("wiener", resolve("wiener", array, spacing, parameters)) is None
    with planned(Plan(plan.threads, plan.memory_mb, folder)):
        made = run_filter("wiener", stored(folder, array), spacing, parameters)
        assert made[...].tobytes() == found.tobytes()
        assert isinstance(made, Scratch) or plan.memory_mb


def test_the_undoing_of_a_blur_refuses_nan():
    array = noisy((70, 9, 8))
    array[69, 8, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        deconvolve(array, (1, 1, 1), 1.0, 0.1)
