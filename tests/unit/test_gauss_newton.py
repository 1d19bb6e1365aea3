"""Registration without learning: features, splines, Gauss-Newton, finish, folds, inverses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.filters.gaussian import gaussian
from cohortex.measures.registration import jacobian_determinant
from cohortex.registration import fields, finish, solve_kernels, spline_kernels
from cohortex.registration.bspline import fitted, zero
from cohortex.registration.gauss_newton import levels_of, register
from cohortex.registration.mind import mind_bytes

ONE = (1.0, 1.0, 1.0)
SHAPE = (40, 44, 36)


def smooth(seed: int, shape=SHAPE, sigma: float = 2.0) -> np.ndarray:
    """Random structure between 0 and 1."""
    noise = gaussian(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), ONE, sigma)
    return (noise - noise.min()) / (noise.max() - noise.min())


def bent(seed: int, mean: float, shape=SHAPE, sigma: float = 7.0) -> np.ndarray:
    """A smooth random displacement of so many voxels in the mean."""
    u = np.stack([gaussian(c, ONE, sigma) for c in np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)])
    return u * np.float32(mean / np.linalg.norm(u, axis=0).mean())


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    moving, truth = smooth(1), bent(2, 1.5)
    return fields.warped(moving, truth), moving, truth


def apart(found: np.ndarray, truth: np.ndarray, margin: int = 5) -> float:
    inner = (slice(None), *[slice(margin, -margin)] * 3)
    return float(np.linalg.norm((found - truth)[inner], axis=0).mean())


def test_the_features_are_those_of_the_tensors_to_a_byte():
    import torch

    from cohortex.models.regseg.mind import mind_ssc

    image = smooth(0, (17, 14, 19), 1.0)
    ours = np.sort(mind_bytes(image).reshape(-1, 12), axis=1) / 255
    theirs = np.sort(mind_ssc(torch.from_numpy(image)[None, None], 1, 2)[0].numpy().reshape(12, -1).T, axis=1)
    assert np.abs(ours - theirs).max() < 0.5 / 255 + 2e-3


@settings(max_examples=10, deadline=None)
@given(st.floats(-900, 900).filter(lambda a: abs(a) > 1e-2), st.floats(-100, 100))
def test_features_do_not_see_gain_offset_or_inversion(gain, offset):
    image = smooth(3, (12, 13, 14), 1.0)
    # An offset of many times the contrast is rounding in single precision, not a change of contrast.
    first, second = mind_bytes(image).astype(int), mind_bytes((gain * (image + offset)).astype(np.float32)).astype(int)
    assert np.abs(first - second).max() <= 1


@pytest.mark.parametrize("contrast", ["gamma", "root", "inverted gamma"])
def test_features_hardly_see_a_monotone_map_or_its_inverse(contrast):
    image = smooth(3, (24, 24, 24), 2.0)
    seen = {"gamma": image**1.3, "root": image**0.75, "inverted gamma": 1 - image**1.3}[contrast]
    first, second, other = (mind_bytes(x.astype(np.float32)).astype(int) for x in (image, seen, smooth(4, (24, 24, 24), 2.0)))
    assert np.abs(first - second).mean() < 0.12 * np.abs(first - other).mean()


def test_a_constant_image_has_no_features():
    assert not mind_bytes(np.full((9, 9, 9), 4.0, np.float32)).any()


def test_a_finer_spline_is_the_same_displacement():
    spline = zero((32, 24, 40), 8)
    spline.coefficients[:] = np.random.default_rng(0).standard_normal(spline.coefficients.shape)
    assert np.abs(spline.refined().displacement() - spline.displacement()).max() < 1e-5


def test_a_spline_goes_through_the_values_at_its_knots():
    u = bent(0, 2.0)
    inner = (slice(None), *[slice(4, -4, 4)] * 3)
    assert np.abs(fitted(u, 4).displacement()[inner] - u[inner]).max() < 2e-3


def test_the_sums_are_the_gradient_of_their_energy_for_images_and_for_descriptors():
    rng = np.random.default_rng(0)
    shape, scale = (12, 11, 13), np.float32(0.5)
    spline = zero(shape, 4)
    spline.coefficients[:] = rng.uniform(0.2, 0.6, spline.coefficients.shape)
    weight = (rng.random(shape) > 0.2).astype(np.uint8)
    images = [smooth(s, shape, 1.5) for s in (1, 2)]
    bytes_ = [rng.integers(0, 255, (*shape, 12)).astype(np.uint8) for _ in range(2)]
    for fixed, moving in (images, bytes_):
        tables = spline.tables()

        def energy(coefficients, fixed=fixed, moving=moving, tables=tables):
            system = np.zeros((9, *coefficients.shape[1:]), np.float32)
            return spline_kernels.system(fixed, moving, weight, coefficients, *tables, scale, system)[0], system

        _, system = energy(spline.coefficients)
        direction = rng.standard_normal(spline.coefficients.shape).astype(np.float32)
        ends = [energy(spline.coefficients + np.float32(sign * 1e-3) * direction)[0] for sign in (1, -1)]
        # The sums are half a gradient by places in voxels, which change by `scale` of what the coefficients do.
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(2 * scale * float((system[6:] * direction).sum()), rel=0.03)


def test_bending_is_the_gradient_of_its_energy_and_nothing_for_what_is_linear():
    rng = np.random.default_rng(0)
    shape = (5, 6, 7)
    values = rng.standard_normal((3, *shape)).astype(np.float32)
    out = np.empty((3, 210), np.float32)
    solve_kernels.bending(values.reshape(3, -1), *shape, out)
    energy = 0.0
    for v in values.astype(np.float64):
        energy += sum((np.diff(v, 2, axis=axis) ** 2).sum() for axis in range(3))
        energy += 2 * sum((np.diff(np.diff(v, axis=a), axis=b) ** 2).sum() for a, b in ((0, 1), (0, 2), (1, 2)))
    assert float((out.reshape(values.shape) * values).sum()) == pytest.approx(energy, rel=1e-4)
    line = np.stack([np.indices(shape, dtype=np.float32)[0] * 2, np.indices(shape, dtype=np.float32)[1] - 1, np.ones(shape, np.float32)])
    solve_kernels.bending(line.reshape(3, -1), *shape, out)
    assert np.abs(out).max() < 1e-4


def test_the_step_solves_the_normal_equations():
    rng = np.random.default_rng(1)
    shape, size = (5, 6, 7), 210
    roots = rng.standard_normal((size, 3, 3)).astype(np.float32)
    curvature = roots @ roots.transpose(0, 2, 1)
    system = np.concatenate([curvature[:, i, j][None] for i in range(3) for j in range(i, 3)] + [rng.standard_normal((3, size))]).astype(
        np.float32
    )
    control, out, bend = rng.standard_normal((3, size)).astype(np.float32), np.empty((3, size), np.float32), np.empty((3, size), np.float32)
    solve_kernels.step(system, control, shape, np.float32(0.2), np.float32(0.1), 300, 1e-6, out)
    solve_kernels.bending(out + control, *shape, bend)
    left = np.einsum("nij,jn->in", curvature, out) + np.float32(0.1) * out + np.float32(0.2) * bend + system[6:]
    assert np.abs(left).max() < 1e-3


def test_an_image_registered_to_itself_does_not_move_at_all():
    image = smooth(4, (24, 25, 26))
    for how in ("auto", "mind"):
        assert not register(image, image, finish=how).displacement.any()


@settings(max_examples=4, deadline=None)
@given(st.tuples(*[st.integers(-2, 2)] * 3))
def test_whole_shifts_are_found_and_are_exact_to_apply(shift):
    whole = smooth(5, (48, 48, 48))
    moving = whole[6:-6, 6:-6, 6:-6].copy()
    fixed = whole[tuple(slice(6 + s, 42 + s) for s in shift)].copy()
    truth = np.broadcast_to(np.array(shift, np.float32).reshape(3, 1, 1, 1), (3, 36, 36, 36))
    inner = (slice(4, -4),) * 3
    assert np.array_equal(fields.warped(moving, truth)[inner], fixed[inner])
    assert apart(register(fixed, moving).displacement, truth, 7) < 0.08


def test_a_warp_is_found_whatever_the_contrast(pair):
    fixed, moving, truth = pair
    maps = {
        "same": lambda x: x,
        "gamma": lambda x: x**2,
        "inverted": lambda x: 1 - x,
        "folded": lambda x: np.interp(x, [0, 0.35, 0.5, 0.7, 1], [0.2, 0.8, 0.3, 0.9, 0.1]).astype(np.float32),
    }
    start = apart(np.zeros_like(truth), truth)
    for name, contrast in maps.items():
        found = register(fixed, contrast(moving).astype(np.float32))
        assert apart(found.displacement, truth) < (0.25 if name == "folded" else 0.1) * start, name
        assert found.finish != "mind", name


def test_no_relation_that_holds_everywhere_leaves_it_to_the_features(pair):
    fixed, moving, truth = pair
    share = smooth(7, SHAPE, 6.0)
    share = 1 / (1 + np.exp(-12 * (share - 0.5)))
    mixed = (share * moving + (1 - share) * (1 - moving)).astype(np.float32)
    found, wrong = register(fixed, mixed), register(fixed, mixed, finish="moving-from-fixed")
    assert found.finish == "mind"
    assert apart(found.displacement, truth) < 0.4 * apart(np.zeros_like(truth), truth)
    # The choice matters here.
    assert apart(found.displacement, truth) < 0.8 * apart(wrong.displacement, truth)


def test_nothing_folds_even_where_nothing_fits():
    place = np.indices(SHAPE, dtype=np.float32)
    ball = ((place - 20) ** 2).sum(0) < 12**2
    parts = (((place - 10) ** 2).sum(0) < 6**2) | (((place - 28) ** 2).sum(0) < 5**2)
    for fixed, moving in ((ball, parts), (parts, ball), (smooth(9) > 0.5, smooth(10) > 0.5)):
        found = register(fixed.astype(np.float32), moving.astype(np.float32), smooth=0.02).displacement
        assert np.abs(found).max() > 1
        assert jacobian_determinant(np.moveaxis(found, 0, -1), np.eye(4)).min() >= fields.LIMIT - 1e-3


def test_a_displacement_that_folds_is_relaxed_and_one_that_does_not_stays():
    spline = zero(SHAPE, 4)
    spline.coefficients[:] = np.random.default_rng(0).normal(0, 6, spline.coefficients.shape)
    assert fields.least_jacobian(spline.displacement()) < -1
    assert fields.least_jacobian(fields.unfolded(spline).displacement()) >= fields.LIMIT
    calm = fitted(bent(3, 0.5), 4)
    assert fields.unfolded(calm) is calm


@pytest.mark.parametrize("mean", [1.0, 2.5])
def test_there_and_back_is_where_one_was(mean):
    u = fields.unfolded(fitted(bent(11, mean, sigma=4.0), 4)).displacement()
    back = fields.inverse(u)
    inner = (slice(None), *[slice(8, -8)] * 3)
    assert np.abs(fields.compose(back, u)).max() < 2e-3
    assert np.abs(fields.compose(u, back)[inner]).max() < 0.3


def test_the_exponential_of_a_velocity_is_undone_by_that_of_its_negative():
    velocity = bent(12, 2.0)
    inner = (slice(None), *[slice(8, -8)] * 3)
    there, back = fields.exponential(velocity), fields.exponential(-velocity)
    assert np.abs(fields.compose(there, back)[inner]).max() < 0.1
    assert fields.least_jacobian(there) > 0
    still = np.full((3, 9, 9, 9), 0.75, np.float32)
    assert np.allclose(fields.exponential(still), still, atol=1e-6)


def test_both_directions_at_once_are_each_others_inverse(pair):
    fixed, moving, truth = pair
    alone = register(fixed, moving).displacement, register(moving, fixed).displacement
    both = register(fixed, moving, symmetric=True)
    assert both.backward is not None
    nothing = np.zeros_like(truth)
    assert apart(fields.compose(both.displacement, both.backward), nothing) < 0.7 * apart(fields.compose(*alone), nothing)
    assert apart(both.displacement, truth) < 0.1 * apart(nothing, truth)


def test_a_displacement_to_begin_with_is_improved(pair):
    fixed, moving, truth = pair
    begun = truth + bent(13, 0.4)
    assert apart(register(fixed, moving, start=begun).displacement, truth) < 0.3 * apart(begun, truth)


def test_the_same_images_give_the_same_bytes(pair):
    fixed, moving, _ = pair
    assert register(fixed, moving).displacement.tobytes() == register(fixed, moving).displacement.tobytes()


def test_voxels_outside_the_mask_do_not_count(pair):
    fixed, moving, _ = pair
    mask = np.ones(SHAPE, bool)
    mask[:, :, 30:] = False
    spoiled = fixed.copy()
    spoiled[:, :, 35:] = 1 - spoiled[:, :, 35:]
    one, two = (register(each, moving, mask, finish="none").displacement for each in (fixed, spoiled))
    # What remains: both images are scaled by what they hold as a whole.
    assert np.abs(one - two)[:, :, :, :20].mean() < 0.02


def test_a_prediction_is_the_other_contrast_without_its_shading():
    image = smooth(14)
    inside = np.ones(SHAPE, bool)
    shading = 1 + 0.3 * np.sin(np.indices(SHAPE)[0] / 20).astype(np.float32)
    wanted = (image - 0.5) ** 2 * 3
    found = finish.predicted(image, wanted * shading, inside)
    scale = float((found * wanted).sum() / (wanted * wanted).sum())
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.995
    assert scale == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("spacing", "levels"), [(1.0, [8, 4, 2]), (2.0, [4, 2, 1]), (3.0, [2, 1]), (9.0, [1])])
def test_the_levels_are_at_most_eight_millimetres_coarse(spacing, levels):
    assert levels_of(spacing) == levels


def test_images_of_two_grids_are_refused():
    with pytest.raises(ValueError, match="one grid"):
        register(np.zeros((9, 9, 9), np.float32), np.zeros((9, 9, 8), np.float32))
