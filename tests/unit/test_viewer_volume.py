"""Small copies of volumes for the viewer: in place, no finer than they were, of the bytes that they may have."""

import base64
import gzip
from math import prod

import numpy as np
import pytest

from cohortex.blocks import Plan, planned
from cohortex.io.slices import Slices
from cohortex.lazy import Elementwise
from cohortex.report.viewer_volume import as_levels, factors_for, levels_of, packed, reduced
from cohortex.volume import Volume
from tests.exported_heads import OBLIQUE


@pytest.mark.parametrize(
    ("shape", "spacing", "voxels", "wanted"),
    [
        ((10, 10, 10), (1, 1, 1), 1000, (1, 1, 1)),
        ((10, 10, 10), (1, 1, 1), 999, (2, 1, 1)),
        ((100, 100, 20), (0.5, 0.5, 5), 60_000, (2, 2, 1)),
        ((300, 300, 300), (1, 1, 1), 125_000, (6, 6, 6)),
        ((5, 4, 3), (1, 1, 1), 1, (5, 4, 3)),
        ((5, 4, 3), (1, 1, 1), 0, (5, 4, 3)),
    ],
)
def test_blocks_are_the_smallest_that_leave_so_many_voxels_and_never_below_one(shape, spacing, voxels, wanted):
    factors = factors_for(shape, spacing, voxels)
    assert factors == wanted
    assert prod(-(-n // f) for n, f in zip(shape, factors, strict=True)) <= max(voxels, 1)


def world(affine, shape):
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 1), (4, 4, 4), (5, 2, 3)])
def test_on_an_oblique_grid_every_new_voxel_lies_in_the_middle_of_what_it_was_made_of(factors):
    shape = (20, 18, 12)
    # An image of its own places: the mean of a block of them is the middle of the block.
    for axis in range(3):
        volume = Volume(world(OBLIQUE, shape)[..., axis].astype(np.float32), OBLIQUE, "T1w")
        small = reduced(volume, factors)
        inside = tuple(slice(0, n // f) for n, f in zip(shape, factors, strict=True))
        assert np.allclose(np.asarray(small.data)[inside], world(small.affine, small.shape)[..., axis][inside], atol=1e-4)
    assert np.allclose(small.spacing, np.multiply(volume.spacing, factors))
    assert small.shape == tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))


def test_the_last_block_is_the_mean_of_what_is_left_of_it():
    array = np.arange(7 * 2 * 1, dtype=np.float32).reshape(7, 2, 1)
    assert np.asarray(reduced(Volume(array, np.eye(4), "T1w"), (3, 2, 1)).data).ravel().tolist() == [2.5, 8.5, 12.5]


def test_what_is_finer_than_the_new_voxels_is_gone_and_no_false_pattern_is_left():
    stripes = np.tile(np.array([0, 100], np.float32), 16)[:, None, None].repeat(8, 1).repeat(8, 2)
    assert np.ptp(np.asarray(reduced(Volume(stripes, np.eye(4), "T1w"), (2, 2, 2)).data)) == 0


def test_labels_keep_their_values_and_none_becomes_background():
    labels = np.zeros((12, 12, 12), np.uint16)
    labels[3:9, 3:9, 3:9] = 300
    labels[5, 5, 5] = 7
    small = np.asarray(reduced(Volume(labels, np.eye(4), "T1w", "labels"), (2, 2, 2)).data)
    assert small.dtype == np.uint8 and set(np.unique(small)) <= {0, 7, 45}
    assert small[2, 2, 2] == 7 and small[3, 3, 3] == 45 and small[0, 0, 0] == 0


@pytest.mark.parametrize("lazy", [False, True])
def test_a_volume_that_does_not_fit_the_plan_is_read_once_in_parts_with_the_same_outcome(lazy):
    array = np.random.default_rng(1).random((70, 66, 90), dtype=np.float32)
    read = []

    def slices(wanted):
        read.extend(wanted)
        return (array[:, :, z] for z in wanted)

    largest = []

    def watched(part):
        largest.append(part.size)
        return part

    data = Slices(array.shape, np.float32, slices) if lazy else Elementwise(watched, array)
    with planned(Plan(memory_mb=1)):
        small = reduced(Volume(data, np.eye(4), "T1w"), (3, 2, 4))
    assert np.array_equal(np.asarray(small.data), np.asarray(reduced(Volume(array, np.eye(4), "T1w"), (3, 2, 4)).data))
    assert (sorted(read) == list(range(90))) if lazy else (len(largest) > 1 and sum(largest) == array.size)


def test_bytes_stand_for_values_and_a_ct_tells_soft_tissue_apart():
    hounsfield = np.linspace(-1500, 4000, 4096, dtype=np.float32).reshape(16, 16, 16)
    levels, window = levels_of(Volume(hounsfield, np.eye(4), "CT", body_part="head"))
    assert len(levels) == 256 and (np.diff(levels) > 0).all() and window == (-10.0, 90.0)
    back = levels[as_levels(hounsfield, levels)]
    soft = (hounsfield > -160) & (hounsfield < 240)
    assert np.abs(back - hounsfield)[soft].max() < 1.5
    assert back.min() == -1024 and np.abs(back - hounsfield)[(hounsfield > -1000) & (hounsfield < 3000)].max() < 25


def test_bytes_of_an_mr_are_even_steps_over_its_values():
    array = np.random.default_rng(2).gamma(2, 100, (20, 20, 20)).astype(np.float32)
    array[0, 0, 0] = np.nan
    levels, (low, high) = levels_of(Volume(np.nan_to_num(array), np.eye(4), "T1w"))
    assert np.allclose(np.diff(levels), np.diff(levels)[0], rtol=1e-3) and levels[0] <= low < high <= levels[-1]
    inside = (array >= levels[0]) & (array <= levels[-1])
    assert np.abs(levels[as_levels(array, levels)] - array)[inside].max() <= np.diff(levels)[0] * 0.51
    assert as_levels(array, levels)[0, 0, 0] == 0


@pytest.mark.parametrize("values", [np.zeros((4, 4, 4)), np.full((4, 4, 4), 7.0), np.full((4, 4, 4), np.nan)])
def test_an_image_of_one_value_or_of_none_is_packed_too(values):
    levels, (low, high) = levels_of(Volume(values.astype(np.float32), np.eye(4), "T1w"))
    assert np.isfinite(levels).all() and low < high
    assert np.isfinite(levels[as_levels(values, levels)]).all()


def test_what_is_packed_has_x_fastest_and_the_same_bytes_each_time():
    data = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    text = packed(data)
    assert text == packed(data.copy(order="F"))
    assert np.array_equal(np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape((2, 3, 4), order="F"), data)
