"""Resampling in world space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.filters.resample import grid_of_spacing, resample, resample_to
from cohortex.volume import Volume

ORDERS = ["nearest", "linear", "cubic"]


def noise(shape=(9, 8, 7), affine=None, seed=0, **more):
    data = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Volume(data, np.diag([1.2, 0.9, 2.5, 1]) if affine is None else affine, "T1w", **more)


def rotation(angles):
    a, b, c = angles
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_y = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    return turn_z @ turn_x @ turn_y


def world(affine, shape):
    indices = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), -1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


affines = st.builds(
    lambda angles, spacing, origin: np.block(
        [[rotation(angles) * spacing, np.array(origin)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]
    ),
    st.tuples(*[st.floats(-0.5, 0.5)] * 3),
    st.tuples(*[st.floats(0.5, 4)] * 3),
    st.tuples(*[st.floats(-50, 50)] * 3),
)


@pytest.mark.parametrize("order", ORDERS)
def test_the_own_grid_gives_the_same_bits(order):
    volume = noise()
    again = resample_to(volume, volume, order=order)
    assert np.array_equal(again.array(), volume.array())
    assert np.array_equal(resample(volume, volume.spacing, order=order).array(), volume.array())


@settings(max_examples=30, deadline=None)
@given(shift=st.tuples(*[st.integers(-4, 4)] * 3), affine=affines, order=st.sampled_from(ORDERS))
def test_a_shift_by_whole_voxels_is_exact(shift, affine, order):
    volume = noise(affine=affine)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ shift
    found = resample(volume, affine=moved, shape=volume.shape, order=order, fill=-9).array()
    wanted = np.full(volume.shape, -9, np.float32)
    for index in np.ndindex(*volume.shape):
        source = np.add(index, shift)
        if (source >= 0).all() and (source < volume.shape).all():
            wanted[index] = volume.data[tuple(source)]
    assert np.array_equal(found, wanted)


@settings(max_examples=30, deadline=None)
@given(source=affines, target=affines, order=st.sampled_from(["linear", "cubic"]))
def test_a_linear_function_of_the_world_is_reproduced_inside(source, target, order):
    shape = (12, 11, 10)
    slope = np.array([0.3, -0.7, 0.2])
    centre = world(source, shape).reshape(-1, 3).mean(0)
    target = target.copy()
    target[:3, :3] *= 0.4 * min(np.linalg.norm(source[:3, :3], axis=0)) / np.linalg.norm(target[:3, :3], axis=0)
    target[:3, 3] = centre - target[:3, :3] @ np.array([3, 3, 3])
    volume = Volume((world(source, shape) @ slope).astype(np.float32), source)
    found = resample(volume, affine=target, shape=(7, 7, 7), order=order, antialias=False).array()
    wanted = world(target, (7, 7, 7)) @ slope
    # The spline needs some voxels to forget the border.
    assert np.allclose(
        found, wanted, atol=2e-4 * (1 + np.abs(wanted).max()) if order == "linear" else 0.05 * np.abs(slope).sum() * max(volume.spacing)
    )


@settings(max_examples=30, deadline=None)
@given(spacing=st.tuples(*[st.floats(0.4, 5)] * 3), affine=affines)
def test_a_new_spacing_keeps_the_centre_and_the_field_of_view(spacing, affine):
    volume = noise((16, 12, 10), affine)
    new, shape = grid_of_spacing(volume, spacing)
    middles = [matrix[:3, :3] @ ((np.array(size) - 1) / 2) + matrix[:3, 3] for matrix, size in ((new, shape), (affine, volume.shape))]
    assert np.allclose(*middles, atol=1e-9)
    extent_old, extent_new = np.multiply(volume.shape, volume.spacing), np.multiply(shape, np.linalg.norm(new[:3, :3], axis=0))
    assert (np.abs(extent_old - extent_new) <= np.maximum(spacing, 0.5 * np.array(spacing)) + 1e-9).all()


def test_a_bright_ball_stays_where_it_is_in_the_world():
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.2, -0.3, 0.1)) * (1.0, 1.0, 3.0)
    affine[:3, 3] = (-20, 5, 9)
    points = world(affine, (40, 40, 14))
    centre = points[20, 18, 6] + 0.3
    ball = Volume(np.exp(-((points - centre) ** 2).sum(-1) / 40).astype(np.float32), affine)
    for order in ("linear", "cubic"):
        fine = resample(ball, (1.5, 1.5, 1.5), order=order)
        mass = fine.array()
        found = (world(fine.affine, fine.shape) * mass[..., None]).reshape(-1, 3).sum(0) / mass.sum()
        assert np.abs(found - centre).max() < 0.1


def test_sampling_more_coarsely_removes_what_the_new_grid_cannot_hold():
    stripes = np.zeros((64, 8, 8), np.float32)
    stripes[::2] = 1
    volume = Volume(stripes, np.eye(4))
    smooth = resample(volume, (4, 1, 1)).array()
    aliased = resample(volume, (4, 1, 1), order="nearest").array()
    assert np.abs(smooth[2:-2] - 0.5).max() < 0.02
    assert set(np.unique(aliased)) <= {0.0, 1.0}


def test_a_constant_image_stays_constant_and_outside_is_the_fill():
    volume = Volume(np.full((8, 8, 8), 5, np.float32), np.eye(4))
    assert np.allclose(resample(volume, (2, 1.7, 0.6)).array(), 5)
    bigger = resample(volume, affine=np.eye(4), shape=(12, 8, 8), fill=-1).array()
    assert (bigger[8:] == -1).all()
    assert (bigger[:8] == 5).all()
    air = Volume(np.arange(8, dtype=np.float32).reshape(8, 1, 1) - 1000, np.eye(4))
    moved = np.diag([0.7, 1, 1, 1])
    assert resample(air, affine=moved, shape=(20, 1, 1)).array()[-1, 0, 0] == -1000


def test_labels_keep_their_type_and_get_no_new_values():
    labels = Volume(np.random.default_rng(0).choice([0, 3, 700], (9, 9, 9)).astype(np.uint16), np.diag([1, 1, 3, 1]), kind="labels")
    for order in ("nearest", "linear"):
        fine = resample(labels, (0.7, 1.3, 1.0), order=order)
        assert fine.array().dtype == np.uint16
        assert set(np.unique(fine.array())) <= {0, 3, 700}
    with pytest.raises(ValueError, match="cubic"):
        resample(labels, (1, 1, 1), order="cubic")


def test_linear_on_labels_takes_the_label_with_the_largest_linear_weight():
    generator = np.random.default_rng(1)
    values = generator.integers(0, 4, (7, 6, 5)).astype(np.uint8)
    labels = Volume(values, np.eye(4), kind="labels")
    target = np.eye(4)
    target[:3, :3] = rotation((0.3, 0.2, -0.1)) * 0.8
    target[:3, 3] = (1, 0.5, 0.6)
    found = resample(labels, affine=target, shape=(5, 5, 5), order="linear").array()
    inside = (
        resample(Volume(np.ones_like(values, dtype=np.float32), np.eye(4)), affine=target, shape=(5, 5, 5), fill=0, antialias=False).array()
        > 0
    )
    parts = [
        resample(Volume((values == label).astype(np.float32), np.eye(4)), affine=target, shape=(5, 5, 5), fill=0, antialias=False).array()
        for label in range(4)
    ]
    assert np.array_equal(found[inside], np.argmax(parts, axis=0)[inside])


def test_a_field_keeps_its_millimetres():
    field = Volume(np.broadcast_to(np.array([1.0, -2.0, 3.0], np.float32), (6, 6, 6, 3)), np.eye(4), kind="field")
    half = resample(field, (2, 2, 2))
    assert half.shape == (3, 3, 3)
    assert np.allclose(half.array(), [1, -2, 3])


def test_a_picture_keeps_its_single_slice():
    picture = noise((30, 20, 1))
    small = resample(picture, (2.4, 1.8, 1.0))
    assert small.shape == (15, 10, 1)
    assert small.spacing[2] == picture.spacing[2]


def test_linear_and_nearest_equal_scipy_on_an_oblique_grid():
    from scipy import ndimage

    volume = noise((12, 11, 10), np.eye(4))
    target = np.eye(4)
    target[:3, :3] = rotation((0.3, 0.2, -0.1)) * 0.9
    target[:3, 3] = (2.02, 1.53, 2.51)  # no point half-way between two voxels
    for order, number in (("nearest", 0), ("linear", 1)):
        found = resample(volume, affine=target, shape=(8, 8, 8), order=order, fill=0, antialias=False).array()
        wanted = ndimage.affine_transform(volume.array(), target[:3, :3], target[:3, 3], (8, 8, 8), order=number, mode="nearest")
        positions = world(target, (8, 8, 8))
        inside = ((positions >= 0) & (positions <= np.array(volume.shape) - 1)).all(-1)
        assert np.abs(found - wanted)[inside].max() < 1e-5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "either"),
        ({"spacing_mm": (1, 1, 1), "shape": (3, 3, 3)}, "not by both"),
        ({"spacing_mm": (1, 0, 1)}, "above zero"),
        ({"affine": np.zeros((4, 4)), "shape": (3, 3, 3)}, "invertible"),
        ({"affine": np.eye(4), "shape": (3, 0, 3)}, "three axes"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        resample(noise(), **arguments)


def test_nan_is_refused():
    volume = Volume(np.full((4, 4, 4), np.nan, np.float32), np.eye(4))
    with pytest.raises(ValueError, match="NaN"):
        resample(volume, (2, 2, 2))
