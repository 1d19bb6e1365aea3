"""OME-Zarr folders of other tools become volumes that lie right, or are refused: a lost chunk is never passed on as zeros."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import LZ4, Blosc, Delta, GZip, Shuffle, Zlib, Zstd
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec

from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.io.ome_zarr import read_ome_zarr
from cohortex.io.ozx import write_ozx
from cohortex.io.series import notes_of
from cohortex.items import Image
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume

VALUES = np.random.default_rng(0).integers(1, 4000, (20, 33, 26)).astype(np.uint16)
"""Axes z, y, x."""


def axes(letters: str, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    kinds = {"t": "time", "c": "channel"}
    made: list[dict[str, Any]] = [{"name": letter, "type": kinds.get(letter, "space")} for letter in letters]
    for axis in made:
        if axis["type"] == "space" and unit:
            axis["unit"] = unit
    return made


def saved(
    path: Path, values: np.ndarray, version: str = "0.5", letters: str = "zyx", metadata: dict[str, Any] | None = None, **how: Any
) -> Path:
    """Write an image of one resolution as other tools do."""
    form = 3 if version == "0.5" else 2
    group = zarr.open_group(path, mode="w", zarr_format=form)
    how = {"chunks": tuple(min(n, 16) for n in values.shape), **how}
    if form == 2:
        how.setdefault("chunk_key_encoding", {"name": "v2", "separator": "/"})
    array = group.create_array("0", shape=values.shape, dtype=values.dtype, config={"write_empty_chunks": True}, **how)
    array[...] = values
    lengths = {"t": 1.0, "c": 1.0, "z": 500.0, "y": 250.0, "x": 200.0}
    scale = [{"type": "scale", "scale": [lengths[letter] for letter in letters]}]
    image: dict[str, Any] = {"axes": axes(letters), "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    image |= metadata or {}
    group.attrs.update(
        {"ome": {"version": "0.5", "multiscales": [image]}} if form == 3 else {"multiscales": [{"version": version, **image}]}
    )
    return path


def refused(path: Path, **how: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        for volume in read(path, **how):
            volume.array()
    assert path.name in caught.value.sentence
    assert str(path.parent.parent) not in caught.value.sentence
    return caught.value


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_voxel_comes_back_and_lies_where_the_metadata_say(tmp_path: Path, version: str) -> None:
    shift = [{"type": "scale", "scale": [500, 250, 200]}, {"type": "translation", "translation": [1000, 0, -3000]}]
    datasets = {"datasets": [{"path": "0", "coordinateTransformations": shift}]}
    volume = read(saved(tmp_path / "a.ome.zarr", VALUES, version, metadata=datasets))[0]
    assert np.array_equal(volume.array(), VALUES.T)
    assert volume.spacing == pytest.approx((0.2, 0.25, 0.5))
    assert volume.affine[:3, 3] == pytest.approx((-3, 0, 1))
    assert [code for code, _ in notes_of(volume)] == ["orientation-assumed"]


V2: list[dict[str, Any]] = [
    {"compressors": None},
    {"compressors": Blosc(cname="lz4", shuffle=Blosc.SHUFFLE)},
    {"compressors": Zstd(3)},
    {"compressors": GZip(1)},
    {"compressors": Zlib(1), "order": "F"},
    {"compressors": LZ4(), "filters": [Shuffle(2)]},
    {"compressors": Blosc(), "filters": [Delta(dtype="<u2")]},
    {"compressors": None, "chunk_key_encoding": {"name": "v2", "separator": "."}},
]
V3: list[dict[str, Any]] = [
    {"compressors": None},
    {"compressors": [BloscCodec(cname="zstd")]},
    {"compressors": [ZstdCodec(checksum=True), Crc32cCodec()]},
    {"compressors": [GzipCodec()], "filters": [TransposeCodec(order=(2, 0, 1))]},
    {"serializer": BytesCodec(endian="big"), "compressors": [GzipCodec()]},
    {"chunks": (4, 8, 8), "shards": (16, 16, 16), "compressors": [ZstdCodec()]},
    {"chunks": (16, 16, 16), "serializer": ShardingCodec(chunk_shape=(8, 4, 8), index_location="start"), "compressors": None},
    {"chunk_key_encoding": {"name": "v2", "separator": "."}},
]


@pytest.mark.parametrize(("version", "how"), [("0.4", how) for how in V2] + [("0.5", how) for how in V3])
def test_what_other_tools_write_is_read_as_zarr_reads_it(tmp_path: Path, version: str, how: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.zarr", VALUES, version, **how)
    assert np.array_equal(read(path)[0].array(), VALUES.T)


@pytest.mark.parametrize("dtype", ["u1", "i2", "<u4", "i8", "f2", "f4", "f8", "?", ">i2", ">f4"])
def test_every_type_of_numbers_is_read(tmp_path: Path, dtype: str) -> None:
    values = (VALUES % 100).astype(dtype)
    found = read(saved(tmp_path / "a.zarr", values, "0.4", compressors=None))[0].array()
    assert found.dtype.isnative
    assert np.array_equal(found, values.T.astype(found.dtype))


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> list[Volume]:
    """The same image in three grids of chunks, none of which fits it."""
    folder = tmp_path_factory.mktemp("lazy")
    made = [
        saved(folder / "a.zarr", VALUES, chunks=(7, 15, 26)),
        saved(folder / "b.zarr", VALUES, chunks=(6, 8, 10), shards=(12, 24, 20)),
        saved(folder / "c.zarr", VALUES[None, None], letters="tczyx", chunks=(1, 1, 40, 9, 11)),
    ]
    return [read(path)[0] for path in made]


@given(y=st.slices(33), z=st.integers(-20, 19), x=st.slices(26))
@settings(max_examples=40, deadline=None)
def test_any_part_is_what_numpy_gives(lazy: list[Volume], y: slice, z: int, x: slice) -> None:
    for volume in lazy:
        assert np.array_equal(volume.data[x, y, z], VALUES.T[x, y, z])
        assert np.array_equal(volume.data[..., y, :], VALUES.T[:, y])


def test_units_become_millimetres_and_none_is_guessed(tmp_path: Path) -> None:
    for unit, factor in {"millimeter": 1.0, "nanometer": 1e-6, "centimeter": 10.0, "\N{MICRO SIGN}m": 1e-3}.items():
        steps = [{"type": "scale", "scale": [2 / factor, 3 / factor, 4 / factor]}]
        told = {"axes": axes("zyx", unit), "datasets": [{"path": "0", "coordinateTransformations": steps}]}
        assert read(saved(tmp_path / "a.zarr", VALUES, metadata=told))[0].spacing == pytest.approx((4, 3, 2))
    path = saved(tmp_path / "b.zarr", VALUES, metadata={"axes": axes("zyx", None)})
    assert refused(path).code == "no-spacing"
    assert read(path, spacing_mm=(0.5, 0.6, 0.7))[0].spacing == pytest.approx((0.5, 0.6, 0.7))
    assert refused(saved(tmp_path / "c.zarr", VALUES, metadata={"axes": axes("zyx", "parsec")})).code == "no-spacing"


def test_scales_of_the_whole_image_come_after_those_of_the_resolution(tmp_path: Path) -> None:
    told = {"axes": axes("zyx", "millimeter"), "coordinateTransformations": [{"type": "scale", "scale": [2, 2, 2]}]}
    steps = [{"type": "scale", "scale": [1, 2, 3]}, {"type": "translation", "translation": [10, 20, 30]}]
    volume = read(saved(tmp_path / "a.zarr", VALUES, metadata={**told, "datasets": [{"path": "0", "coordinateTransformations": steps}]}))[0]
    assert volume.spacing == pytest.approx((6, 4, 2))
    assert volume.affine[:3, 3] == pytest.approx((60, 40, 20))


def test_an_anatomical_orientation_is_followed(tmp_path: Path) -> None:
    told = axes("zyx")
    for axis, value in zip(told, ("superior-to-inferior", "left-to-right", "anterior-to-posterior"), strict=True):
        axis["orientation"] = {"type": "anatomical", "value": value}
    volume = read(saved(tmp_path / "a.zarr", VALUES, metadata={"axes": told}))[0]
    assert np.array_equal(np.sign(volume.affine[:3, :3]), [[0, 1, 0], [-1, 0, 0], [0, 0, -1]])
    assert volume.spacing == pytest.approx((0.2, 0.25, 0.5))
    assert notes_of(volume) == []


def test_times_are_a_series_and_channels_are_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.zarr", np.stack([VALUES, VALUES + 1]), letters="tzyx")
    with pytest.raises(Skip, match="2 volumes"):
        read(path)
    assert np.array_equal(read(path, frames="each")[1].array(), VALUES.T + 1)
    assert np.allclose(read(path, frames="mean")[0].array(), VALUES.T + 0.5)
    path = saved(tmp_path / "c.zarr", np.stack([VALUES, VALUES]), "0.4", "czyx")
    told = json.loads((path / ".zattrs").read_text())
    (path / ".zattrs").write_text(json.dumps({**told, "omero": {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}}))
    assert refused(path).code == "channels"
    assert "DAPI, GFP" in refused(path).sentence


def test_a_picture_without_z_becomes_one_slice(tmp_path: Path) -> None:
    volume = read(saved(tmp_path / "a.zarr", VALUES[0], letters="yx"))[0]
    assert volume.shape == (26, 33, 1)
    assert np.array_equal(volume.array()[:, :, 0], VALUES[0].T)


def chunks(path: Path) -> list[Path]:
    return sorted(file for file in (path / "0").rglob("*") if file.is_file() and file.name not in ("zarr.json", ".zarray", ".zattrs"))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_lost_chunk_is_refused_and_named(tmp_path: Path, version: str) -> None:
    path = saved(tmp_path / "a.zarr", VALUES, version)
    lost = chunks(path)[3]
    lost.unlink()
    error = refused(path)
    assert error.code == "missing-chunks"
    assert lost.relative_to(path).as_posix() in error.sentence
    assert "1 of 12" in error.sentence
    lost.write_bytes(b"")
    assert refused(path).code == "missing-chunks"


def test_a_lost_chunk_is_seen_even_when_it_goes_after_the_folder_was_opened(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.zarr", VALUES)
    volume = read(path)[0]
    chunks(path)[5].unlink()
    with pytest.raises(BadInput, match="lacks the chunk") as caught:
        volume.array()
    assert caught.value.code == "missing-chunks"


def test_chunks_that_were_left_out_on_purpose_are_filled_only_when_the_user_says_so(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[:16, :16, :16] = 0
    path = saved(tmp_path / "a.zarr", values)
    chunks(path)[0].unlink()
    assert "missing_chunks: fill" in refused(path).sentence
    assert np.array_equal(read(path, missing_chunks="fill")[0].array(), values.T)
    for file in chunks(path):
        file.unlink()
    assert refused(path, missing_chunks="fill").code == "missing-chunks"


def test_an_inner_chunk_that_a_shard_lacks_is_refused(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[8:16, :8, :8] = 0
    group = zarr.open_group(saved(tmp_path / "a.zarr", VALUES), mode="a")
    del group["0"]
    # zarr's writer leaves out what holds the fill value only
    group.create_array("0", data=values, chunks=(8, 8, 8), shards=(16, 16, 16))
    error = refused(tmp_path / "a.zarr")
    assert error.code == "missing-chunks"
    assert "0/c/0/0/0, inner chunk 1/0/0" in error.sentence
    assert np.array_equal(read(tmp_path / "a.zarr", missing_chunks="fill")[0].array(), values.T)


DAMAGED: list[tuple[str, dict[str, Any]]] = [
    ("0.4", {"compressors": GZip(1)}),
    ("0.4", {"compressors": Blosc()}),
    ("0.5", {"compressors": [ZstdCodec(), Crc32cCodec()]}),
    ("0.5", {"compressors": [GzipCodec()], "chunks": (8, 16, 16), "shards": (16, 32, 32)}),
]


@pytest.mark.parametrize(("version", "how"), DAMAGED)
def test_damage_is_refused_as_damage(tmp_path: Path, version: str, how: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.zarr", VALUES, version, **how)
    target = chunks(path)[0]
    data = target.read_bytes()
    contents = [data[: len(data) // 2], b"<html>" * 50, b"\xff" * len(data)]
    if "Blosc" not in str(how):
        # blosc has no checksum, so it cannot tell one flipped bit
        contents.append(data[:200] + bytes([data[200] ^ 0x55]) + data[201:])
    for content in contents:
        target.write_bytes(content)
        assert refused(path).code in ("corrupt", "missing-chunks")


def edited(path: Path, file: str, change: Any) -> Path:
    content = json.loads((path / file).read_text())
    change(content)
    (path / file).write_text(json.dumps(content))
    return path


def test_metadata_that_lie_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.zarr", VALUES)
    cases: list[tuple[Any, str]] = [
        (lambda c: c.update(shape=[10**9] * 3), "missing-chunks"),
        (lambda c: c.update(shape=[10**30] * 3), "bad-metadata"),
        (lambda c: c.update(shape=[21, 33, 27]), "corrupt|fine"),
        (lambda c: c.update(shape=[20, 33, 40]), "missing-chunks"),
        (lambda c: c.update(shape=[20, 33]), "bad-metadata"),
        (lambda c: c.update(shape=[20, -33, 26]), "bad-metadata"),
        (lambda c: c.update(shape="large"), "bad-metadata"),
        (lambda c: c["chunk_grid"]["configuration"].update(chunk_shape=[2**12] * 3), "bad-metadata"),
        (lambda c: c["chunk_grid"]["configuration"].update(chunk_shape=[20, 33, 26]), "corrupt"),
        (lambda c: c["codecs"].append({"name": "pickle"}), "unknown-codec"),
        (lambda c: c["codecs"].append({"name": "numcodecs.pickle", "configuration": {}}), "unknown-codec"),
        (lambda c: c.update(codecs=[]), "bad-metadata"),
        (lambda c: c.update(codecs=[{"name": "zstd"}]), "bad-metadata"),
        (lambda c: c.update(data_type="float64"), "corrupt"),
        (lambda c: c.update(data_type="string"), "unsupported-type"),
        (lambda c: c.update(node_type="group"), "bad-metadata"),
    ]
    for i, (change, code) in enumerate(cases):
        path = tmp_path / f"{i}.zarr"
        shutil.copytree(good, path)
        edited(path, "0/zarr.json", change)
        if code.endswith("fine"):
            # the same chunks hold a slightly longer shape, too; nobody can see that it was another
            assert read(path)[0].array().shape == (27, 33, 21)
        else:
            assert refused(path).code == code, (i, code)


def test_old_zarr_metadata_that_lie_are_refused(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.zarr", VALUES, "0.4")
    cases: list[tuple[Any, str]] = [
        (lambda c: c.update(dtype="|O"), "unsupported-type"),
        (lambda c: c.update(dtype=[["a", "<i4"]]), "unsupported-type"),
        (lambda c: c.update(dtype="<c8"), "unsupported-type"),
        (lambda c: c.update(compressor={"id": "imagecodecs_jpeg2k"}), "unknown-codec"),
        (lambda c: c.update(filters=[{"id": "pickle"}]), "unknown-codec"),
        (lambda c: c.update(compressor="zstd-9/../x"), "unknown-codec"),
        (lambda c: c.update(shape=[400, 33, 26]), "missing-chunks"),
    ]
    for i, (change, code) in enumerate(cases):
        path = tmp_path / f"{i}.zarr"
        shutil.copytree(good, path)
        assert refused(edited(path, "0/.zarray", change)).code == code, i


def test_a_chunk_that_promises_more_than_its_shape_takes_no_memory(tmp_path: Path) -> None:
    import gzip

    path = saved(tmp_path / "a.zarr", VALUES, compressors=[GzipCodec()])
    chunks(path)[0].write_bytes(gzip.compress(bytes(2**24)))
    assert refused(path).code == "corrupt"
    path = saved(tmp_path / "b.zarr", VALUES, compressors=[BloscCodec()])
    target = chunks(path)[0]
    data = bytearray(target.read_bytes())
    data[4:8] = (2**31 - 100).to_bytes(4, "little")
    target.write_bytes(data)
    assert refused(path).code == "corrupt"


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    plate = zarr.open_group(tmp_path / "plate.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": []}
    many = zarr.open_group(tmp_path / "many.zarr", mode="w", zarr_format=2)
    many.attrs["bioformats2raw.layout"] = 3
    (tmp_path / "empty.zarr").mkdir()
    for name, word in (("plain", "multiscales"), ("plate", "plate"), ("many", "many.zarr/0"), ("empty", "no OME-Zarr image")):
        error = refused(tmp_path / f"{name}.zarr")
        assert error.code == "not-an-image"
        assert word in error.sentence
    old = saved(tmp_path / "old.zarr", VALUES, "0.4")
    edited(old, ".zattrs", lambda c: c["multiscales"][0].update(version="0.2", axes=["z", "y", "x"]))
    assert refused(old).code == "old-version"
    for change, code in [
        (lambda c: c["multiscales"][0]["datasets"][0].update(path="../good.zarr/0"), "bad-metadata"),
        (lambda c: c["multiscales"][0]["datasets"][0].update(path="7"), "missing-array"),
        (lambda c: c["multiscales"][0]["datasets"][0].pop("coordinateTransformations"), "no-spacing"),
        (lambda c: c["multiscales"][0]["datasets"][0]["coordinateTransformations"].append({"type": "rotation"}), "bad-metadata"),
        (lambda c: c["multiscales"][0].update(axes=axes("tzyx")), "bad-metadata"),
        (lambda c: c["multiscales"][0].update(axes=axes("zyq")), "bad-axes"),
    ]:
        path = saved(tmp_path / "x.zarr", VALUES, "0.4")
        assert refused(edited(path, ".zattrs", change)).code == code
    (path / ".zattrs").write_text("[" * 100000)
    assert refused(path).code == "bad-metadata"


def test_the_stage_makes_a_canonical_image_of_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.ome.zarr", VALUES)
    made: Any = acquire(Image("1_MR", "1", "", "MR", "image", row={"path": str(path)}), {}, None, 0)
    assert (made.status, made.code) == ("warned", "orientation-assumed")
    assert np.array_equal(made.content.array(), VALUES.T.astype(np.float32))
    chunks(path)[0].unlink()
    with pytest.raises(BadInput, match="lacks 1 of 12 chunks"):
        acquire(Image("1_MR", "1", "", "MR", "image", row={"path": str(path)}), {}, None, 0)


def test_a_folder_with_our_own_attributes_has_its_whole_geometry(tmp_path: Path) -> None:
    affine = np.array([[0.9, 0.1, 0, -7], [-0.1, 0.9, 0, 12.3], [0, 0, 2.5, 1 / 3], [0, 0, 0, 1]])
    volume = Volume(VALUES.T.astype(np.float32), affine, "T1w", body_part="head", history=({"step": "read"},))
    write_ozx(tmp_path / "a.ozx", volume)
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.ozx") as archive:
        archive.extractall(tmp_path / "a.zarr")
    back = read_ome_zarr(tmp_path / "a.zarr")[0]
    assert back.sha256() == volume.sha256()
    assert (back.modality, back.body_part, back.history) == ("T1w", "head", ({"step": "read"},))
