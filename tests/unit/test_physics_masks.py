"""Masks measure what they say, and a moving object is measured line by line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.physics import masks, motion
from cohortex.physics.fourier import centred_fft, centred_ifft

accelerations = st.floats(1.0, 8.0)


@given(st.integers(48, 320), accelerations, st.integers(0, 1000))
@settings(deadline=None)
def test_lines_have_the_nominal_acceleration_and_the_whole_centre(lines: int, acceleration: float, seed: int) -> None:
    inner = round(lines * 0.08)
    for mask in (
        masks.uniform_lines(lines, acceleration, 0.08, np.random.default_rng(seed)),
        masks.gaussian_lines(lines, acceleration, 0.08, np.random.default_rng(seed)),
    ):
        assert mask.shape == (lines,) and mask.dtype == bool
        assert mask.sum() == round(lines / acceleration)
        assert mask[lines // 2 - (inner - 1) // 2 : lines // 2 + (inner + 1) // 2].all()


@given(st.integers(16, 64), st.integers(16, 64), accelerations, st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_points_have_the_nominal_acceleration_and_the_whole_centre(ny: int, nz: int, acceleration: float, seed: int) -> None:
    for make in (masks.gaussian_points, masks.poisson_disc):
        mask = make((ny, nz), acceleration, 0.02, np.random.default_rng(seed))
        assert mask.sum() == round(ny * nz / acceleration), make.__name__
        assert mask[ny // 2, nz // 2]
    mask = masks.radial((ny, nz), acceleration, np.random.default_rng(seed))
    assert mask.sum() == round(ny * nz / acceleration)
    assert mask[ny // 2, nz // 2]
    assert masks.acceleration_of(mask) == pytest.approx(acceleration, rel=0.05)


def test_uniform_lines_lie_evenly_and_gaussian_ones_near_the_centre() -> None:
    rng = np.random.default_rng(0)
    steps = np.diff(np.flatnonzero(masks.uniform_lines(256, 4.0, 0.0, rng)))
    assert steps.min() >= 3 and steps.max() <= 5
    share = np.mean([masks.gaussian_lines(256, 4.0, 0.05, np.random.default_rng(seed)) for seed in range(100)], axis=0)
    assert share[100:156].mean() > 3 * share[:60].mean() > 0
    # Beside the centre the density is the Gaussian that was asked for, as far as no line is drawn twice.
    flat = np.mean([masks.gaussian_lines(256, 20.0, 0.0, np.random.default_rng(seed)) for seed in range(400)], axis=0)
    distance = np.abs(np.arange(256) - 128) / 256
    assert flat[np.abs(distance - 0.2) < 0.02].mean() / flat[distance < 0.02].mean() == pytest.approx(np.exp(-0.5), rel=0.15)


def test_points_of_a_poisson_disc_keep_away_from_each_other() -> None:
    """Random points of the same number touch each other often, Poisson-disc points never; farther out they are sparser."""
    shape, touching = (128, 96), {}
    for make in (masks.gaussian_points, masks.poisson_disc):
        mask = make(shape, 8.0, 0.0, np.random.default_rng(1))
        touching[make.__name__] = int((mask[1:] & mask[:-1]).sum() + (mask[:, 1:] & mask[:, :-1]).sum())
    assert touching["poisson_disc"] == 0 < 100 < touching["gaussian_points"]
    mask = masks.poisson_disc(shape, 8.0, 0.02, np.random.default_rng(1))
    assert mask[48:80, 36:60].mean() > 1.5 * mask[:16].mean() > 0
    even = masks.poisson_disc(shape, 8.0, 0.0, np.random.default_rng(1), growth=0.0)
    assert even[32:96, 24:72].mean() == pytest.approx(even.mean(), rel=0.1)


def test_spokes_go_through_the_centre_all_around() -> None:
    mask = masks.radial((128, 128), 3.0)
    assert mask[62:67, 62:67].all()
    i, j = np.nonzero(mask)
    radius = np.hypot(i - 64, j - 64)
    angle = np.mod(np.arctan2(i - 64, j - 64), np.pi)[(radius > 40) & (radius < 63)]
    counts = np.histogram(angle, 6, (0, np.pi))[0]
    assert counts.min() > 0.5 * counts.max()


def test_what_cannot_be_measured_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="25 of 100 lines cannot hold a centre of 40"):
        masks.uniform_lines(100, 4.0, 0.4, rng)
    with pytest.raises(ValueError, match="25 of 100 points cannot hold a centre of 40"):
        masks.poisson_disc((10, 10), 4.0, 0.4, rng)
    with pytest.raises(ValueError, match="measures more than there is"):
        masks.radial((10, 10), 0.5)


def picture(ny: int = 48, nx: int = 40) -> np.ndarray:
    """An ellipse with a hole; smooth, so that turns by interpolation are near exact."""
    y, x = np.ogrid[-1 : 1 : ny * 1j, -1 : 1 : nx * 1j]
    return np.exp(-(((x / 0.5) ** 2 + (y / 0.35) ** 2) ** 2)) - 0.6 * np.exp(-(((x - 0.2) / 0.12) ** 2 + (y / 0.15) ** 2))


def test_an_object_that_moved_before_the_scan_is_shifted_and_turned() -> None:
    image, lines = picture(), 48
    shifted = motion.move(image, motion.Motion(np.tile([3.0, -2.0], (lines, 1)), np.zeros(lines)))
    np.testing.assert_allclose(shifted, np.roll(image, (3, -2), (0, 1)), atol=1e-5)
    square = picture(41, 41)
    turned = motion.move(square, motion.Motion(np.zeros((41, 2)), np.full(41, 90.0)))
    np.testing.assert_allclose(turned.real, np.rot90(square), atol=1e-4)
    still = motion.move(image, motion.Motion(np.zeros((lines, 2)), np.zeros(lines)))
    np.testing.assert_allclose(still, image, atol=1e-6)


def test_each_line_has_the_phase_of_its_own_place_and_keeps_its_energy() -> None:
    kspace = centred_fft(picture().astype(np.complex64), (-2, -1))
    shift = np.random.default_rng(0).normal(0, 2, (48, 2))
    moved = motion.shift_lines(kspace, shift)
    np.testing.assert_allclose(np.abs(moved), np.abs(kspace), rtol=1e-4, atol=1e-6)
    alone = centred_fft(centred_ifft(motion.shift_lines(kspace, np.tile(shift[7], (48, 1))), (-2, -1)), (-2, -1))
    np.testing.assert_allclose(moved[7], alone[7], atol=1e-5)
    undone = motion.shift_lines(moved, -shift)
    np.testing.assert_allclose(undone, kspace, atol=1e-5)


@pytest.mark.parametrize("kind", motion.KINDS)
def test_a_random_motion_has_its_size_and_more_of_it_spoils_more(kind: motion.Kind) -> None:
    image, errors = picture(96, 80), []
    for size in (0.0, 0.5, 2.0):
        found = [motion.random_motion(96, np.random.default_rng(seed), size, kind) for seed in range(8)]
        assert all(m.severity() == pytest.approx(size, abs=1e-9) for m in found)
        assert all(not m.shift[48].any() and m.turn_deg[48] == 0 for m in found)
        errors.append(np.mean([np.abs(np.abs(motion.move(image, m)) - image).mean() for m in found]))
    assert errors[0] < 1e-5 < errors[1] < errors[2]


def test_the_same_seed_is_the_same_motion_and_an_unknown_kind_is_refused() -> None:
    a, b = (motion.random_motion(64, np.random.default_rng(5), 1.0) for _ in range(2))
    assert np.array_equal(a.shift, b.shift) and np.array_equal(a.turn_deg, b.turn_deg)
    with pytest.raises(ValueError, match="'wobble' is not known"):
        motion.random_motion(64, np.random.default_rng(0), 1.0, "wobble")  # type: ignore[arg-type]
