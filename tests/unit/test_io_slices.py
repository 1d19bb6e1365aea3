"""Volumes that are decoded a slice at a time: each slice once, whole, a few at once; and the scratch files that they go to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohortex.blocks import Plan, at_hand, planned, slabs
from cohortex.errors import BadInput
from cohortex.io import plain, scratch
from cohortex.io.geometry import Oriented
from cohortex.io.plain import Numbers, frame_of
from cohortex.io.scratch import Scratch
from cohortex.io.slices import Averaged, Once, Slices
from cohortex.lazy import Elementwise


class Counted:
    """Slices that remember which were asked for, and how many at once."""

    def __init__(self, values: np.ndarray):
        self.values = values
        self.asked: list[list[int]] = []

    def read(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        self.asked.append(list(wanted))
        yield from (self.values[:, :, z] for z in wanted)

    @property
    def array(self) -> Slices:
        return Slices(self.values.shape, self.values.dtype, self.read)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_every_slice_is_decoded_once_whatever_the_orientation(tmp_path: Path, order: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).integers(-99, 99, (70, 130, 90)).astype(np.int16)
    source = Counted(values)
    turned = Elementwise(lambda block: block.astype(np.float32), Oriented(source.array, order, (True, False, True)))
    with planned(Plan(threads=2, memory_mb=4, scratch=tmp_path)):
        there, found = at_hand(turned, look=lambda box, block: float(block.sum()))
    assert isinstance(there, Scratch)
    assert sorted(z for asked in source.asked for z in asked) == list(range(90))
    # the plan has room for 65536 voxels in each of two threads
    assert max(len(asked) for asked in source.asked) == 65536 // (70 * 130)
    wanted = values.transpose(order)[::-1, :, ::-1].astype(np.float32)
    assert np.array_equal(there[...], wanted)
    assert sum(found) == wanted.sum()


@given(st.tuples(*[st.integers(1, 40)] * 3), st.integers(0, 2), st.integers(0, 8), st.integers(1, 4), st.integers(1, 2**16))
def test_slabs_cover_a_grid_once_in_whole_slices(shape: tuple[int, int, int], axis: int, memory_mb: int, threads: int, voxels: int) -> None:
    with planned(Plan(threads=threads, memory_mb=memory_mb)):
        found = slabs(shape, axis, voxels)
    assert [i for box in found for i in range(*box[axis])] == list(range(shape[axis]))
    assert all(box[other] == (0, shape[other]) for box in found for other in range(3) if other != axis)


def key_of(draw: Any, size: int) -> Any:
    kind = draw(st.sampled_from(["all", "part", "one", "backwards", "steps"]))
    a, b = sorted(draw(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1))))
    return {"all": slice(None), "part": slice(a, b + 1), "one": a, "backwards": slice(b, None, -1), "steps": slice(a, b + 1, 3)}[kind]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_scratch_array_is_a_numpy_array_on_disk_through_windows_of_any_size(tmp_path_factory: Any, data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 24), min_size=3, max_size=4)))
    dtype = data.draw(st.sampled_from(["u1", "i2", "f4", "c8"]))
    slow = data.draw(st.integers(0, len(shape) - 1))
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scratch, "WINDOW", data.draw(st.sampled_from([1, 100, 3000, 2**20])))
        array = Scratch(tmp_path_factory.getbasetemp(), shape, dtype, slow)
        cuts = [sorted({0, n, data.draw(st.integers(0, n))}) for n in shape]
        for corner in np.ndindex(*[len(cut) - 1 for cut in cuts]):
            assert not array.whole()
            box = tuple(slice(cut[i], cut[i + 1]) for cut, i in zip(cuts, corner, strict=True))
            array[box] = values[box]
        assert array.whole()
        key = tuple(key_of(data.draw, n) for n in shape)
        assert np.array_equal(array[key], values[key])
        assert array[key].flags.c_contiguous or not array[key].size
        assert np.array_equal(array[...], values)


def test_pages_of_a_scratch_file_are_mapped_a_window_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "WINDOW", 2**20)
    lengths = []
    mapped = scratch.mmap.mmap
    monkeypatch.setattr(scratch.mmap, "mmap", lambda fd, length, **more: lengths.append(length) or mapped(fd, length, **more))
    array = Scratch(tmp_path, (64, 300, 200))
    array[:, :, :] = 1
    # a plane across the file, of which every page is touched
    array[:, :, 7]
    assert sum(lengths) >= 2 * 64 * 300 * 200 * 4
    assert max(lengths) <= 2**20 + scratch.mmap.ALLOCATIONGRANULARITY


def test_the_mean_of_a_series_is_that_of_numpy(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(0, 9, (5, 9, 10, 11)).astype(np.float32)
    mean = Averaged([Counted(each).array for each in values])
    assert mean.slow == 2
    assert np.array_equal(mean[2:5, :, 3], (values.sum(axis=0, dtype=np.float64) / 5).astype(np.float32)[2:5, :, 3])


def test_what_is_made_as_a_whole_is_made_once() -> None:
    made = []
    array = Once((3, 4, 5), np.float32, lambda: made.append(1) or np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    assert not made
    assert array[1, 2, 3] == 33
    assert array[...].sum() == 59 * 30
    assert made == [1]


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f8"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_numbers_lie_where_the_order_of_the_file_says(tmp_path: Path, dtype: str, interleaved: bool) -> None:
    values = np.random.default_rng(0).integers(-99, 99, (4, 5, 6, 3)).astype(dtype)
    bytes_of = np.moveaxis(values, 3, 0) if interleaved else values
    (tmp_path / "a.bin").write_bytes(b"head" + bytes_of.tobytes("F"))
    buffer = np.frombuffer(b"head" + bytes_of.tobytes("F"), np.uint8)
    for source in (tmp_path / "a.bin", buffer):
        numbers = Numbers(source, 4, dtype, "a.bin")
        for index in range(3):
            found = frame_of(numbers, (4, 5, 6), index, 3, interleaved)
            assert found.dtype.isnative
            assert np.array_equal(found[1:3, :, 2:], values[1:3, :, 2:, index])
    short = Numbers(tmp_path / "a.bin", 4, dtype, "a.bin")
    (tmp_path / "a.bin").write_bytes(b"head" + bytes_of.tobytes("F")[:-1])
    with pytest.raises(BadInput, match=r"a\.bin ends inside its voxels: copy it again"):
        short.run(values.size - 1, 1)


def test_what_is_unpacked_goes_to_disk_where_it_does_not_stay_in_memory(tmp_path: Path) -> None:
    import io

    data = np.random.default_rng(0).bytes(3 * plain.PIECE // 2)
    with planned(Plan(memory_mb=1, scratch=tmp_path)):
        spool = plain.unpacked(io.BytesIO(data), len(data) - 10, "a", 10)
        assert isinstance(spool, scratch.Spool)
        assert spool.path.read_bytes() == data[:-10]
        with pytest.raises(BadInput, match=f"{len(data)} of {len(data) + 1} bytes"):
            plain.unpacked(io.BytesIO(data), len(data) - 10, "a", 11)
        with pytest.raises(BadInput, match=f"{len(data)} of {len(data) + 1} bytes"):
            plain.unpacked(io.BytesIO(data), len(data) + 1, "a")
    path = spool.path
    del spool
    assert not path.exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stored", ["<i2", ">i2", "u1", "<f4", ">f8", "<i8"])
@pytest.mark.parametrize("wanted", ["float32", "float64", "uint8"])
def test_a_file_is_converted_while_it_is_read_to_what_a_conversion_afterwards_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str, wanted: str
) -> None:
    monkeypatch.setattr(plain, "CONVERTED", 1000)
    values = np.random.default_rng(0).integers(0, 200, (7, 9, 11)).astype(stored)
    (tmp_path / "a").write_bytes(b"1234567" + values.tobytes(order="F"))
    array = frame_of(Numbers(tmp_path / "a", 7, stored, "a"), values.shape, 0)
    found = np.asarray(array, dtype=wanted)
    assert found.dtype == wanted and found.flags.f_contiguous
    assert np.array_equal(found, values.astype(wanted))
    assert np.array_equal(array[...], values) and array[...].dtype == values.dtype.newbyteorder("=")
    # a part goes slice by slice, and is the same
    assert np.array_equal(array[2:, ::-1, 3], values[2:, ::-1, 3])


def test_a_file_that_became_shorter_is_a_sentence_whether_it_is_read_whole_or_in_part(tmp_path: Path) -> None:
    values = np.arange(990, dtype="<i2").reshape(9, 10, 11)
    (tmp_path / "a").write_bytes(values.tobytes(order="F"))
    array = frame_of(Numbers(tmp_path / "a", 0, "<i2", "scan a"), values.shape, 0)
    (tmp_path / "a").write_bytes(values.tobytes(order="F")[:1500])
    for read in (lambda: np.asarray(array, dtype=np.float32), lambda: array[...], lambda: array[:, :, 10]):
        with pytest.raises(BadInput, match="scan a ends inside its voxels") as error:
            read()
        assert error.value.code == "truncated"
    assert np.array_equal(array[:, :, 3], values[:, :, 3])
