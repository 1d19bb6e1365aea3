"""A volume in one .ozx file: nothing is lost, the bytes depend on the data only, and damage is seen."""

import json
import multiprocessing
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohortex.errors import BadInput
from cohortex.io.ozx import DTYPES, blosc, part_of_frame, read_ozx, write_ozx
from cohortex.volume import Volume

AFFINE = np.array([[0.9, 0.1, 0, -71.123456789], [-0.1, 0.9, 0, 12.3], [0, 0, 2.5, 1 / 3], [0, 0, 0, 1]])


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def volume() -> Volume:
    return Volume(noise((70, 65, 130)), AFFINE, "T1w", body_part="head", history=({"step": "read", "sigma": np.float32(0.5)},))


@pytest.fixture
def file(tmp_path: Path, volume: Volume) -> Path:
    write_ozx(tmp_path / "a.ozx", volume)
    return tmp_path / "a.ozx"


def test_everything_of_a_volume_comes_back(file: Path, volume: Volume) -> None:
    back = read_ozx(file)
    assert np.array_equal(back.array(), volume.data)
    assert np.array_equal(back.affine, volume.affine)
    assert (back.modality, back.kind, back.body_part) == ("T1w", "image", "head")
    assert back.history == ({"step": "read", "sigma": 0.5},)
    assert back.sha256() == volume.sha256()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_type_comes_back(tmp_path: Path, dtype: str) -> None:
    data = (noise((5, 66, 3)) * 50).astype(dtype)
    write_ozx(tmp_path / "a.ozx", Volume(data, np.eye(4)))
    back = read_ozx(tmp_path / "a.ozx").array()
    assert back.dtype == dtype
    assert np.array_equal(back, data)


def test_a_field_keeps_its_three_components(tmp_path: Path) -> None:
    field = Volume(noise((20, 66, 9, 3)), AFFINE, kind="field")
    write_ozx(tmp_path / "a.ozx", field)
    back = read_ozx(tmp_path / "a.ozx")
    assert back.kind == "field"
    assert np.array_equal(back.array(), field.data)
    assert np.array_equal(back.data[3, 65, 8], np.asarray(field.data)[3, 65, 8])


def test_the_same_volume_gives_the_same_bytes_with_any_number_of_threads(tmp_path: Path, file: Path, volume: Volume) -> None:
    write_ozx(tmp_path / "b.ozx", volume, threads=4)
    write_ozx(tmp_path / "c.ozx", read_ozx(file))
    assert file.read_bytes() == (tmp_path / "b.ozx").read_bytes() == (tmp_path / "c.ozx").read_bytes()


def test_blosc_s_own_threads_do_not_change_the_bytes(tmp_path: Path) -> None:
    import numcodecs.blosc as library

    before = library.set_nthreads(4)
    try:
        # above a certain size its threads would share the blocks of a chunk
        data = (noise((64, 64, 64)) * 100).astype(np.int16)
        for i in range(12):
            write_ozx(tmp_path / f"{i}.ozx", Volume(data, np.eye(4)))
    finally:
        library.set_nthreads(before)
    assert len({(tmp_path / f"{i}.ozx").read_bytes() for i in range(12)}) == 1


@given(start=st.integers(0, 63), length=st.integers(1, 64), kind=st.sampled_from(["noise", "zeros", "ramp"]))
@settings(max_examples=30, deadline=None)
def test_some_planes_of_a_chunk_are_what_the_whole_chunk_has(start: int, length: int, kind: str) -> None:
    data = {"noise": noise((64, 64, 64)), "zeros": np.zeros((64, 64, 64), np.float32)}.get(kind)
    data = np.arange(64**3, dtype=np.float32).reshape(64, 64, 64) if data is None else data
    stop = min(64, start + length)
    frame = bytes(blosc().encode(data))
    part, begin = part_of_frame(frame, start * 64 * 64 * 4, stop * 64 * 64 * 4)
    assert len(part) <= len(frame)
    decoded = np.frombuffer(blosc().decode(part), np.float32, (stop - start) * 64 * 64, begin)
    assert np.array_equal(decoded.reshape(-1, 64, 64), data[start:stop])


def test_other_zarr_libraries_read_the_file(file: Path, volume: Volume) -> None:
    group = zarr.open_group(zarr.storage.ZipStore(file, mode="r"), mode="r")
    array: Any = group["0"]
    assert np.array_equal(array[:].T, volume.data)
    multiscale: Any = group.attrs["ome"]["multiscales"][0]  # type: ignore[index,call-overload]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx(volume.spacing[::-1])
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist()[0] == "zarr.json"
        assert json.loads(archive.comment) == {"ome": {"version": "0.5"}}


def test_zeros_are_written_too(tmp_path: Path) -> None:
    write_ozx(tmp_path / "a.ozx", Volume(np.zeros((70, 8, 8), np.float32), np.eye(4)))
    assert not read_ozx(tmp_path / "a.ozx").array().any()


slices = st.slices(70)


@given(x=slices, y=st.integers(-9, 8), z=st.slices(66))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_basic_index_gives_what_numpy_gives(tmp_path_factory: pytest.TempPathFactory, x: slice, y: int, z: slice) -> None:
    data = noise((70, 9, 66))
    path = tmp_path_factory.getbasetemp() / "index.ozx"
    if not path.exists():
        write_ozx(path, Volume(data, np.eye(4)))
    stored = read_ozx(path).data
    for key in [(x, y, z), (x,), (..., z), y, (y, slice(None), 3)]:
        assert np.array_equal(stored[key], data[key])


def test_a_lazy_volume_reads_only_the_chunks_that_it_is_asked_for(tmp_path: Path, file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        offset = archive.getinfo("0/c/2/0/0").header_offset
    data = bytearray(file.read_bytes())
    data[offset + 200] ^= 255
    file.write_bytes(data)
    stored = read_ozx(file)
    assert stored.data[:, :, :100].shape == (70, 65, 100)
    with pytest.raises(BadInput, match="checksum of 0/c/2/0/0") as caught:
        stored.array()
    assert caught.value.code == "corrupt"


def child(volume: Volume, queue: Any) -> None:
    queue.put(float(np.asarray(volume.data[...]).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_lazy_volume_survives_a_child_process(file: Path, volume: Volume, method: str) -> None:
    lazy = read_ozx(file)
    wanted = float(np.asarray(lazy.data[...]).sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=child, args=(lazy, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [wanted, wanted]
    assert np.array_equal(pickle.loads(pickle.dumps(lazy)).array(), volume.data)


def edited(file: Path, **changes: Any) -> Path:
    """Rewrite an archive with entries replaced (bytes) or left out (None)."""
    out = file.with_name("edited.ozx")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = changes.get(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return out


def metadata(file: Path, key: str, change: Any) -> bytes:
    with zipfile.ZipFile(file) as archive:
        content = json.loads(archive.read(key))
    change(content)
    return json.dumps(content).encode()


def refused(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_ozx(path).array()
    assert str(path.parent.parent) not in caught.value.sentence
    return caught.value.code


def test_a_missing_chunk_is_refused_when_the_file_is_opened(file: Path) -> None:
    with pytest.raises(BadInput, match="0/c/1/0/1") as caught:
        read_ozx(edited(file, **{"0/c/1/0/1": None}))
    assert caught.value.code == "missing-chunks"


def test_a_cut_or_empty_or_foreign_file_is_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for name, content, code in [("cut", data[: len(data) // 2], "truncated"), ("empty", b"", "empty"), ("text", b"hello", "truncated")]:
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name) == code


def test_absurd_metadata_is_refused_before_anything_is_allocated(file: Path) -> None:
    def shape(content: Any) -> None:
        content["shape"] = [10**9] * 3

    def chunks(content: Any) -> None:
        content["chunk_grid"]["configuration"]["chunk_shape"] = [2**12] * 3

    def codec(content: Any) -> None:
        content["codecs"][1]["name"] = "pickle"

    def kind(content: Any) -> None:
        content["data_type"] = "object"

    for change, code in [(shape, "missing-chunks"), (chunks, "bad-metadata"), (codec, "bad-metadata"), (kind, "unsupported-type")]:
        assert refused(edited(file, **{"0/zarr.json": metadata(file, "0/zarr.json", change)})) == code
    assert refused(edited(file, **{"0/zarr.json": b"[1"})) == "bad-metadata"

    def affine(content: Any) -> None:
        content["attributes"]["cohortex"]["affine"] = [[0] * 4] * 4

    def nothing(content: Any) -> None:
        del content["attributes"]["cohortex"]

    for change in (affine, nothing):
        assert refused(edited(file, **{"zarr.json": metadata(file, "zarr.json", change)})) == "bad-metadata"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken:
        shape = (8, 8, 8)
        dtype = np.dtype(np.float32)

        def __getitem__(self, key: Any) -> Any:
            raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        write_ozx(tmp_path / "a.ozx", Volume(Broken(), np.eye(4)))
    with pytest.raises(ValueError, match="complex64"):
        write_ozx(tmp_path / "a.ozx", Volume(np.zeros((8, 8, 8), np.complex64), np.eye(4)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_that_of_another_chunk_is_seen(file: Path) -> None:
    data = read_ozx(file).data
    places = data.source.places
    first, second, *_ = places
    object.__setattr__(data.source, "places", {**places, first: places[second]})
    with pytest.raises(BadInput, match=f"checksum of {first}") as error:
        data[:8, :8, :8]
    assert error.value.code == "corrupt"
