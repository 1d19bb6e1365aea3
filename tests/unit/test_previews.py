"""Previews have the right orientation, aspect and window, and never read a lazy volume whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.report.previews import checkerboard, grey_window, orthogonal_views
from cohortex.volume import Volume
from tests.lazy_arrays import Counted


def volume(data, spacing=(1.0, 1.0, 1.0), **kwargs):
    return Volume(data, np.diag([*spacing, 1.0]), **kwargs)


def corner(rows):
    """Name the corner of a picture that is bright."""
    row, column = np.unravel_index(np.argmax(rows), rows.shape)
    return ("top" if row < rows.shape[0] / 2 else "bottom", "left" if column < rows.shape[1] / 2 else "right")


def test_the_patients_right_is_on_the_left_and_front_and_head_are_up():
    data = np.zeros((20, 24, 28), np.float32)
    data[15:18, 18:22, 22:26] = 1  # right, front, head: seen in no middle slice, so draw it through all slices of each axis
    through = {"axial": data.max(axis=2)[:, :, None], "coronal": data.max(axis=1)[:, None, :], "sagittal": data.max(axis=0)[None]}
    for name, flat in through.items():
        view = orthogonal_views(volume(np.broadcast_to(flat, data.shape).copy(), modality="T1w"))[name]
        assert corner(view) == ("top", "left"), name


@given(
    st.tuples(*[st.integers(2, 40)] * 3),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.integers(8, 64),
)
@settings(max_examples=60, deadline=None)
def test_pixels_are_isotropic_and_no_side_is_longer_than_asked(shape, spacing, size):
    views = orthogonal_views(volume(np.random.default_rng(0).random(shape, np.float32), spacing, modality="T1w"), size)
    extent = np.multiply(shape, spacing)
    pixel = max(min(spacing), extent.max() / size)
    for name, (across, up) in {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}.items():
        rows, columns = views[name].shape
        assert views[name].dtype == np.uint8
        assert max(rows, columns) <= size
        assert abs(columns - extent[across] / pixel) <= 1
        assert abs(rows - extent[up] / pixel) <= 1


def test_thick_slices_are_shown_with_their_thickness():
    views = orthogonal_views(volume(np.zeros((60, 60, 10), np.float32), (1, 1, 6), modality="T2w"))
    assert views["coronal"].shape == (60, 60)


def test_a_picture_has_only_the_axial_view():
    assert set(orthogonal_views(volume(np.ones((30, 20, 1), np.float32), modality="XR"))) == {"axial"}


def test_a_single_sagittal_slice_has_only_the_sagittal_view():
    assert set(orthogonal_views(volume(np.ones((1, 20, 30), np.float32), modality="T2w"))) == {"sagittal"}


@pytest.mark.parametrize(("body_part", "black", "white"), [("head", -10, 90), ("chest", -160, 240), ("", -160, 240)])
def test_ct_is_shown_in_the_window_of_its_body_part(body_part, black, white):
    data = np.full((8, 8, 8), black, np.float32)
    data[:4] = white
    view = orthogonal_views(volume(data, modality="CT", body_part=body_part))["axial"]
    assert view[:, 0].max() == 0
    assert view[:, -1].min() == 255


def test_a_small_bright_object_and_a_hot_voxel_do_not_spoil_the_window():
    generator = np.random.default_rng(1)
    data = np.abs(generator.normal(0, 2, (40, 40, 40))).astype(np.float32)
    data[15:25, 15:25, 15:25] += 100
    data[1, 1, 1] = 1e6
    low, high = grey_window(data, volume(data, modality="T1w"))
    assert low < 5
    assert 95 < high < 115


def test_fat_around_the_brain_does_not_leave_it_dark():
    distance = np.linalg.norm(np.indices((48, 48, 48)) - 23.5, axis=0)
    data = np.random.default_rng(2).rayleigh(5, distance.shape).astype(np.float32)
    data[distance < 21] += 1000
    data[distance < 18] = 300
    view = orthogonal_views(volume(data, modality="T1w"))["axial"]
    assert 90 < view[24, 24] < 170
    assert view[24, 4] == 255
    assert orthogonal_views(volume(data, modality="PET"))["axial"][24, 24] < 90


def test_a_swing_slightly_below_zero_leaves_the_air_black():
    data = np.zeros((40, 40, 40), np.float32)
    data[10:30, 10:30, 10:30] = 100
    data[8:10] = -3
    assert orthogonal_views(volume(data, modality="T2w"))["axial"][1, 1] == 0


def test_normalised_intensities_below_zero_are_not_lost():
    data = np.full((30, 30, 30), -1.2, np.float32)
    data[5:25, 5:25, 5:25] = np.linspace(-0.8, 2, 20, dtype=np.float32)
    view = orthogonal_views(volume(data, modality="T1w"))["coronal"]
    assert view[0, 0] == 0
    assert view.max() >= 250
    assert len(np.unique(view)) > 15


def test_what_is_not_finite_is_black_or_white_and_the_rest_is_seen():
    data = np.tile(np.arange(16, dtype=np.float32), (16, 16, 1))
    data[0] = np.nan
    data[1] = np.inf
    view = orthogonal_views(volume(data, modality="T1w"))["axial"]
    assert view.shape == (16, 16)
    assert orthogonal_views(volume(np.full((4, 4, 4), np.nan, np.float32)))["axial"].max() == 0
    assert orthogonal_views(volume(np.full((4, 4, 4), 7, np.float32)))["axial"].max() == 0


def test_labels_keep_their_values_and_large_ones_are_remapped_but_never_to_background():
    data = np.zeros((64, 64, 64), np.uint16)
    data[:20], data[20:40], data[40:50], data[50:] = 6, 255, 256, 510
    view = orthogonal_views(volume(data, kind="labels"), size=32)["axial"]
    assert set(np.unique(view)) == {1, 6, 255}


def test_a_field_is_shown_by_the_length_of_its_displacements():
    field = np.zeros((12, 12, 12, 3), np.float32)
    field[6:, :, :, 2] = 3
    view = orthogonal_views(volume(field, kind="field"))["axial"]
    assert view[0, 0] == 255
    assert view[0, -1] == 0


def test_a_lazy_volume_is_never_read_whole():
    data = Counted(np.broadcast_to(np.float32(1), (512, 512, 400)))
    orthogonal_views(volume(data, modality="T1w"))
    assert data.read < 0.01 * np.prod(data.shape)


def test_a_zarr_array_is_shown_like_the_same_array_in_memory():
    zarr = pytest.importorskip("zarr")
    values = np.random.default_rng(3).random((33, 40, 21), np.float32)
    stored = zarr.create_array(store=zarr.storage.MemoryStore(), data=values, chunks=(16, 16, 16))
    lazy, here = (orthogonal_views(volume(data, (1, 1, 2.5), modality="T2w")) for data in (stored, values))
    assert all(np.array_equal(lazy[name], here[name]) for name in here)


@given(st.integers(2, 50), st.integers(2, 50), st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_a_checkerboard_shows_both_pictures_in_turn(rows, columns, tiles):
    board = checkerboard(np.zeros((rows, columns), np.uint8), np.ones((rows, columns), np.uint8), tiles)
    edge = -(-max(rows, columns) // tiles)
    assert board[0, 0] == 0
    assert board[:edge, :edge].max() == 0
    if columns > edge:
        assert board[0, edge] == 1


def test_a_checkerboard_of_two_shapes_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        checkerboard(np.zeros((3, 4)), np.zeros((4, 3)))
