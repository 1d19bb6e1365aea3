"""The files of volumes as machines: whatever is written, packed, published, lost and damaged in whatever order, they hold what a plain
array holds, or say that they do not.

Cohortex has no store of its own under zarr's interface: it writes through zarr, reads with a reader of its own, and packs with one. So
zarr's machine for hierarchies (`zarr.testing.stateful`) makes and changes arrays here, and the reader must see what zarr sees; its machine
for stores would test zarr alone.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from zarr.storage import LocalStore
from zarr.testing.stateful import ZarrHierarchyStateMachine

from cohortex.errors import BadInput
from cohortex.io.ozx import read_ozx, write_ozx
from cohortex.io.sharded import SHARD, Sharded, publish_sharded
from cohortex.io.stored import Stored
from cohortex.io.zarr_arrays import complete, open_array
from cohortex.volume import Volume

BOUNDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    max_examples=20,
    stateful_step_count=14,
)
AFFINE = np.array([[0.9, 0.1, 0, -71.5], [-0.1, 0.9, 0, 12.3], [0, 0, 2.5, 1 / 3], [0, 0, 0, 1]])
SHAPES = ((130, 9, 20), (5, 131, 129), (128, 7, 3), (1, 1, 1))
boxes = st.tuples(*[st.tuples(st.integers(-150, 150), st.integers(-150, 150), st.sampled_from([1, 1, 2, -1])) for _ in range(3)])


class Volumes(RuleBasedStateMachine):
    """A sharded volume from its making to its publication, and the one file that it is packed into."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.place = self.folder / "a.ome.zarr"
        self.published = False

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @initialize(shape=st.sampled_from(SHAPES), dtype=st.sampled_from(["uint8", "int16", "float32"]))
    def create(self, shape: tuple[int, int, int], dtype: str) -> None:
        self.model = np.zeros(shape, dtype)
        self.array = Sharded.create(self.folder, shape, dtype)
        self.written: set[tuple[int, ...]] = set()
        self.counts = tuple(-(-n // SHARD) for n in shape)

    def values(self, seed: int, shape: Any) -> np.ndarray:
        return np.random.default_rng(seed).integers(-90, 90, shape).astype(self.model.dtype)

    @precondition(lambda self: not self.published)
    @rule(data=st.data(), seed=st.integers(0, 99))
    def write_a_shard(self, data: st.DataObject, seed: int) -> None:
        index = data.draw(st.tuples(*[st.integers(0, n - 1) for n in self.counts]))
        box = tuple(slice(i * SHARD, min((i + 1) * SHARD, n)) for i, n in zip(index, self.model.shape, strict=True))
        self.model[box] = self.values(seed, self.model[box].shape)
        self.array[box] = self.model[box]
        self.written.add(index)

    @precondition(lambda self: not self.published)
    @rule(axis=st.integers(0, 2), start=st.integers(1, SHARD - 1))
    def what_is_no_whole_shard_is_not_written(self, axis: int, start: int) -> None:
        box = tuple(slice(start if k == axis else 0, n) for k, n in enumerate(self.model.shape))
        with pytest.raises(ValueError, match="whole shards"):
            self.array[box] = np.ones(
                [len(range(*part.indices(n))) for part, n in zip(box, self.model.shape, strict=True)], self.model.dtype
            )

    @rule(box=boxes, elsewhere=st.booleans())
    def read_a_box(self, box: Any, elsewhere: bool) -> None:
        key = tuple(slice(a, b, 1) for a, b, _ in box)
        array = pickle.loads(pickle.dumps(self.array)) if elsewhere else self.array
        np.testing.assert_array_equal(array[key], self.model[key])
        assert self.array.missing() == np.prod(self.counts) - len(self.written)

    @precondition(lambda self: not self.published)
    @rule()
    def publish(self) -> None:
        volume = Volume(self.array, AFFINE, "T1w")
        if len(self.written) < np.prod(self.counts):
            with pytest.raises(ValueError, match="not written"):
                publish_sharded(self.place, volume)
            assert not self.place.exists()
            return
        publish_sharded(self.place, volume)
        self.published = True

    @precondition(lambda self: self.published)
    @rule(box=boxes)
    def open_what_is_published(self, box: Any) -> None:
        self.same(self.place, box)

    @precondition(lambda self: self.published)
    @rule(data=st.data(), how=st.sampled_from(["bit", "cut", "gone", "empty", "longer"]))
    def a_damaged_shard_is_seen(self, data: st.DataObject, how: str) -> None:
        shards = sorted(path for path in (self.place / "0" / "c").rglob("*") if path.is_file())
        path = data.draw(st.sampled_from(shards))
        good = path.read_bytes()
        at = data.draw(st.integers(0, len(good) - 1))
        bad = {"bit": good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :], "cut": good[:at], "empty": b"", "longer": good + b"x"}
        try:
            path.unlink() if how == "gone" else path.write_bytes(bad[how])
            with pytest.raises(BadInput) as error:
                read_ozx(self.place).array()
            assert error.value.code in ("corrupt", "missing-chunks")
        finally:
            path.write_bytes(good)

    @rule(box=boxes, threads=st.integers(1, 2))
    def pack_it_into_one_file(self, box: Any, threads: int) -> None:
        write_ozx(self.folder / "a.ozx", Volume(self.array, AFFINE, "T1w"), threads)
        write_ozx(self.folder / "b.ozx", Volume(self.model, AFFINE, "T1w"))
        assert (self.folder / "a.ozx").read_bytes() == (self.folder / "b.ozx").read_bytes()
        self.same(self.folder / "a.ozx", box)

    @precondition(lambda self: (self.folder / "b.ozx").exists())
    @rule(data=st.data())
    def a_damaged_file_is_seen_or_holds_what_it_held(self, data: st.DataObject) -> None:
        packed = (self.folder / "b.ozx").read_bytes()
        expected = read_ozx(self.folder / "b.ozx")
        values = expected.array()
        at = data.draw(st.one_of(st.integers(0, len(packed) - 1), st.integers(1, min(len(packed), 900)).map(lambda n: len(packed) - n)))
        spoiled = data.draw(st.sampled_from([packed[:at], packed[:at] + bytes([packed[at] ^ 1 << at % 8]) + packed[at + 1 :]]))
        (self.folder / "c.ozx").write_bytes(spoiled)
        try:
            found = read_ozx(self.folder / "c.ozx")
            np.testing.assert_array_equal(found.array(), values)
            np.testing.assert_array_equal(found.affine, expected.affine)
        except BadInput as bad:
            assert bad.sentence

    def same(self, path: Path, box: Any) -> None:
        """Hold a box of what is at a path against the model, whose axes may be walked in steps."""
        volume = read_ozx(path)
        key = tuple(slice(a, b, step) for a, b, step in box)
        np.testing.assert_array_equal(volume.data[key], self.model[key])
        assert volume.data.dtype == self.model.dtype and np.array_equal(volume.affine, AFFINE)


class SeenByBoth(ZarrHierarchyStateMachine):
    """Arrays that zarr makes, changes, resizes and loses chunks of in a folder, beside the reader of foreign arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        super().__init__(LocalStore(folder))

    @precondition(lambda self: bool(self.all_arrays))
    @rule(data=st.data())
    def the_reader_sees_what_zarr_sees(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.all_arrays)))
        theirs = zarr.open_array(self.store, path=key)
        whole = theirs.nchunks_initialized == theirs.nchunks
        try:
            array = open_array(self.folder, key, "x")
        except BadInput as bad:
            plain = theirs.dtype.kind in "iufb" and theirs.dtype.itemsize <= 8
            assert bad.code == ("bad-metadata" if plain else "unsupported-type")
            assert not plain or 0 in theirs.shape or not theirs.shape, "an array of plain numbers was not taken"
            return
        for fill in (False, True):
            try:
                found = np.asarray(Stored(complete(array, {}, fill), range(len(array.shape)))[...])
            except BadInput as bad:
                assert bad.code == "missing-chunks"
                assert not whole and (not fill or not theirs.nchunks_initialized)
                continue
            assert fill or whole, "chunks that are not there went by"
            np.testing.assert_array_equal(found, np.asarray(theirs[...]).astype(found.dtype))


def test_a_volume_holds_what_an_array_holds_or_says_that_it_does_not() -> None:
    run_state_machine_as_test(Volumes, settings=BOUNDED)


# zarr makes arrays of text, too, which are not for this reader
@pytest.mark.filterwarnings("ignore:The data type")
def test_the_reader_of_foreign_arrays_sees_what_zarr_sees(tmp_path: Path) -> None:
    count = iter(range(10**6))

    class Here(SeenByBoth):
        def __init__(self) -> None:
            super().__init__(tmp_path / str(next(count)))

    run_state_machine_as_test(Here, settings=settings(BOUNDED, max_examples=30))
