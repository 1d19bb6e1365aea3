"""Block by block gives what the whole volume gives, in bounded memory."""

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from cohortex import blocks
from cohortex.blocks import Plan, planned
from cohortex.device import choose_device, smaller
from cohortex.errors import Refused
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.io.scratch import Scratch
from cohortex.volume import Volume

small = st.integers(1, 11)
KERNEL = np.random.default_rng(3).integers(-8, 9, (5, 3, 7)).astype(np.float32)
HALO = (2, 1, 3)


def convolve(values):
    """Correlate with a 5 x 3 x 7 kernel; the sum has one order whatever the shape."""
    x, y, z = (n - k + 1 for n, k in zip(values.shape, KERNEL.shape, strict=True))
    made = np.zeros((x, y, z), np.float32)
    for i, j, k in np.ndindex(*KERNEL.shape):
        made += KERNEL[i, j, k] * values[i : i + x, j : j + y, k : k + z]
    return made


def opened(values):
    """A filter with an edge rule of its own."""
    return ndimage.maximum_filter(values, size=(5, 3, 7), mode="reflect") + values


@settings(max_examples=60, deadline=None)
@given(st.tuples(small, small, small), st.tuples(small, small, small), st.sampled_from(["reflect", "edge"]), st.integers(0, 99))
def test_a_convolution_gives_the_same_bytes_for_every_block(shape, block, edge, seed):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    whole = blocks.map_blocks(convolve, array, block=shape, halo=HALO, edge=edge)
    assert blocks.map_blocks(convolve, array, block=block, halo=HALO, edge=edge).tobytes() == whole.tobytes()


@settings(max_examples=40, deadline=None)
@given(st.tuples(small, small, small), st.tuples(small, small, small), st.integers(1, 3), st.integers(0, 99))
def test_a_filter_applies_its_own_edge_rule_at_the_faces_of_the_volume_only(shape, block, threads, seed):
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    with planned(Plan(threads=threads)):
        made = blocks.map_blocks(opened, array, block=block, halo=HALO)
    # Where the volume is thinner than the filter looks, the edge rule itself reflects more than once, in the block as in the whole.
    assert made.tobytes() == opened(array).tobytes()


axis = st.integers(1, 132)
multiple = st.sampled_from([64, 128])


@settings(max_examples=12, deadline=None)
@given(st.tuples(axis, axis, axis), st.tuples(multiple, multiple, multiple), st.integers(1, 3), st.integers(0, 99))
def test_a_result_larger_than_memory_has_the_bytes_of_one_in_memory(tmp_path_factory, shape, block, threads, seed):
    folder = tmp_path_factory.mktemp("scratch")
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    write_ozx(folder / "lazy.ozx", Volume(array, np.eye(4)))
    with planned(Plan(threads=threads, memory_mb=0, scratch=folder)):
        made = blocks.map_blocks(opened, read_ozx(folder / "lazy.ozx").data, block=block, halo=HALO)
        assert isinstance(made, Scratch)
        assert made.whole()
        write_ozx(folder / "blocks.ozx", Volume(made, np.eye(4)))
    write_ozx(folder / "whole.ozx", Volume(opened(array), np.eye(4)))
    assert (folder / "blocks.ozx").read_bytes() == (folder / "whole.ozx").read_bytes()
    del made
    assert not list(folder.glob(".scratch.*"))


def test_blocks_fit_into_the_memory_of_the_plan_and_keep_its_threads_busy():
    shape = (1024, 1024, 1024)
    for threads, memory_mb in [(1, 1024), (4, 1024), (2, 256)]:
        with planned(Plan(threads=threads, memory_mb=memory_mb)):
            block = blocks.block_for(shape, (8, 8, 8))
            assert all(n % 64 == 0 for n in block)
            assert np.prod([n + 16 for n in block]) * 4 * blocks.COPIES * threads <= memory_mb * 2**20
            assert len(list(blocks.boxes(shape, block, 64))) >= threads
    with planned(Plan()):
        assert blocks.block_for((200, 200, 200)) == (200, 200, 200)
    with planned(Plan(threads=2)):
        assert len(list(blocks.boxes((256,) * 3, blocks.block_for((256,) * 3), 64))) == 2


def test_reductions_come_in_the_order_of_the_blocks():
    array = np.arange(130 * 70 * 3).reshape(130, 70, 3)
    with planned(Plan(threads=3)):
        found = blocks.over_blocks(lambda box, values: (box, int(values.sum())), array, block=(64, 64, 64))
    assert [box for box, _ in found] == list(blocks.boxes(array.shape, (64, 64, 64), 64))
    assert sum(total for _, total in found) == array.sum()


def test_an_error_in_a_block_comes_out_of_the_threads():
    def broken(values):
        raise ZeroDivisionError("in a block")

    with planned(Plan(threads=2)), pytest.raises(ZeroDivisionError, match="in a block"):
        blocks.map_blocks(broken, np.zeros((130, 8, 8), np.float32), block=(64, 8, 8))


@pytest.mark.parametrize(("edge", "mode"), [("reflect", "mirror"), ("edge", "nearest")])
def test_the_edge_rules_are_those_of_scipy(edge, mode):
    array = np.random.default_rng(0).normal(size=(9, 4, 6)).astype(np.float32)
    wanted = ndimage.correlate(array.astype(np.float64), KERNEL.astype(np.float64), mode=mode)
    np.testing.assert_allclose(blocks.map_blocks(convolve, array, block=(4, 4, 4), halo=HALO, edge=edge), wanted, atol=1e-3)


def test_several_arrays_of_one_grid_are_cut_alike_and_others_refused():
    a, b = (np.random.default_rng(i).random((70, 9, 8)).astype(np.float32) for i in range(2))
    made = blocks.map_blocks(lambda x, y: np.where(x > 0.5, y, 0), a, b, block=(64, 4, 4))
    assert np.array_equal(made, np.where(a > 0.5, b, 0))
    with pytest.raises(ValueError, match="different grids"):
        blocks.map_blocks(lambda x, y: x, a, b[:3])


def test_a_function_that_returns_another_shape_is_refused():
    with pytest.raises(ValueError, match="halo"):
        blocks.map_blocks(lambda b: b[:1], np.zeros((8, 8, 8)), block=(4, 4, 4), halo=(1, 1, 1))


def test_only_the_block_and_its_halo_are_read_from_a_lazy_array():
    class Lazy:
        shape, dtype, most = (40, 8, 8), np.dtype(np.float32), 0

        def __getitem__(self, key):
            part = np.zeros(self.shape, np.float32)[key]
            self.most = max(self.most, part.shape[0])
            return part

    lazy = Lazy()
    blocks.map_blocks(lambda b: b, lazy, block=(5, 8, 8), halo=(2, 0, 0))
    assert lazy.most == 9


def test_a_scratch_array_is_not_written_out_before_every_voxel_is_there(tmp_path):
    array = Scratch(tmp_path, (130, 9, 10))
    values = np.random.default_rng(0).random((64, 9, 10)).astype(np.float32)
    array[64:128, 0:9, 0:10] = values
    assert np.array_equal(array[70:80, 3, ...], values[6:16, 3])
    assert not array.whole()
    with pytest.raises(ValueError, match="lacks voxels"):
        write_ozx(tmp_path / "a.ozx", Volume(array, np.eye(4)))
    array[0:64, :, :] = values
    array[128:130, :, :] = 7
    assert array.whole()
    write_ozx(tmp_path / "a.ozx", Volume(array, np.eye(4)))
    assert np.array_equal(read_ozx(tmp_path / "a.ozx").array(), np.concatenate([values, values, np.full((2, 9, 10), 7, np.float32)]))


def test_a_disk_without_room_is_an_error_before_anything_is_computed(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with planned(Plan(memory_mb=0, scratch=tmp_path)), pytest.raises(OSError, match="No space"):
        blocks.map_blocks(lambda b: pytest.fail("computed"), np.zeros((8, 8, 8), np.float32))
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_reserves_nothing_is_filled(tmp_path, monkeypatch):
    def unknown(*args):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert Scratch(tmp_path, (3, 4, 5)).path.stat().st_size == 240


def test_a_lazy_volume_is_decoded_once(tmp_path):
    class Counted:
        dtype = np.dtype(np.int16)

        def __init__(self, values):
            self.values, self.shape, self.read = values, values.shape, 0

        def __getitem__(self, key):
            part = self.values[key]
            self.read += part.size
            return part

    array = Counted(np.random.default_rng(0).integers(-9, 9, (130, 70, 20)).astype(np.int16))
    with planned(Plan(threads=2, memory_mb=0, scratch=tmp_path)):
        there, found = blocks.at_hand(array, look=lambda box, block: float(block.sum()))
    assert array.read == array.values.size
    assert isinstance(there, Scratch)
    assert there.dtype == np.float32
    assert np.array_equal(there[...], array.values)
    assert sum(found) == array.values.sum()


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 16, 64]))
def test_pieces_cover_an_axis_once_and_are_as_equal_as_they_can_be(size, most, align):
    pieces = blocks.cut(size, most, align)
    assert [i for a, b in pieces for i in range(a, b)] == list(range(size))
    assert all(a % align == 0 for a, _ in pieces)
    lengths = {b - a for a, b in pieces}
    assert max(lengths) <= -(-most // align) * align
    assert max(lengths) - min(lengths) <= 1 or align > 1


def test_the_next_block_after_out_of_memory_is_half_along_its_longest_edge():
    assert smaller((64, 96, 64), "cuda") == ((64, 48, 64), "cuda")
    assert smaller((32, 32, 16), "cuda") == ((32, 32, 16), "cpu")


def test_the_cpu_is_chosen_without_torch_and_another_word_is_refused():
    assert choose_device("cpu") == "cpu"
    with pytest.raises(Refused, match="auto, cpu or cuda"):
        choose_device("gpu")
