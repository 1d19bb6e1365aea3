"""TIFF stacks become volumes of known voxel size, read page by page, or are refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.io.series import notes_of
from cohortex.io.slices import Slices
from cohortex.items import Image
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume

VALUES = np.random.default_rng(0).integers(0, 60000, (9, 20, 33)).astype(np.uint16)
"""Axes z, y, x."""
IMAGEJ: dict[str, Any] = {"imagej": True, "resolution": (1 / 0.2, 1 / 0.25), "metadata": {"axes": "ZYX", "spacing": 0.5, "unit": "um"}}


def saved(path: Path, values: np.ndarray = VALUES, **how: Any) -> Path:
    tifffile.imwrite(path, values, **{"photometric": "minisblack", **(how or IMAGEJ)})
    return path


def refused(path: Path, **how: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        for volume in read(path, **how):
            volume.array()
    assert path.name in caught.value.sentence
    assert str(path.parent.parent) not in caught.value.sentence
    return caught.value


def test_an_imagej_stack_keeps_its_values_and_its_voxel_size(tmp_path: Path) -> None:
    volume = read(saved(tmp_path / "a.tif"))[0]
    assert isinstance(volume.data, Slices)
    assert np.array_equal(volume.array(), VALUES.T)
    assert volume.spacing == pytest.approx((2e-4, 2.5e-4, 5e-4))
    assert [code for code, _ in notes_of(volume)] == ["orientation-assumed"]


def test_an_ome_stack_keeps_its_values_and_its_voxel_size(tmp_path: Path) -> None:
    told = {"axes": "ZYX", "PhysicalSizeX": 2.0, "PhysicalSizeY": 3.0, "PhysicalSizeZ": 0.004, "PhysicalSizeZUnit": "mm"}
    volume = read(saved(tmp_path / "a.ome.tif", metadata=told, ome=True))[0]
    assert np.array_equal(volume.array(), VALUES.T)
    assert volume.spacing == pytest.approx((2e-3, 3e-3, 4e-3))


HOW: list[dict[str, Any]] = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"tile": (16, 16)},
    {"tile": (16, 16), "compression": "zlib"},
    {"rowsperstrip": 3},
    {"bigtiff": True, "byteorder": ">"},
    {"contiguous": False, "rowsperstrip": 7},
]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_a_plain_stack_of_any_layout_needs_a_voxel_size_and_keeps_its_values(tmp_path: Path, how: dict[str, Any], dtype: str) -> None:
    if dtype == "f4":
        # the predictor of floats is not written here
        how = {key: value for key, value in how.items() if key != "predictor"}
    values = (VALUES % 250).astype(dtype)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=how.get("bigtiff", False), byteorder=how.get("byteorder")) as writer:
        for page in values:
            rest = {key: value for key, value in how.items() if key not in ("bigtiff", "byteorder")}
            writer.write(page, photometric="minisblack", metadata=None, **rest)
    assert refused(path).code == "no-spacing"
    volume = read(path, spacing_mm=(0.01, 0.02, 0.03))[0]
    assert volume.spacing == pytest.approx((0.01, 0.02, 0.03))
    assert volume.data.dtype == dtype
    assert np.array_equal(volume.array(), values.T)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
def test_a_stack_that_only_pillow_decodes_is_read(tmp_path: Path, compression: str) -> None:
    pages = [Picture.fromarray(page) for page in VALUES]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    volume = read(tmp_path / "a.tif", spacing_mm=(1, 1, 1))[0]
    assert not volume.data.read.__self__.plain  # type: ignore[attr-defined]
    assert np.array_equal(volume.data[:, 3, ::2], VALUES.T[:, 3, ::2])


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> list[Volume]:
    folder = tmp_path_factory.mktemp("lazy")
    return [read(saved(folder / "a.tif"))[0], read(saved(folder / "b.tif", compression="zlib"), spacing_mm=(1, 1, 1))[0]]


@given(x=st.slices(33), y=st.slices(20), z=st.integers(-9, 8) | st.slices(9))
@settings(max_examples=40, deadline=None)
def test_any_part_is_what_numpy_gives(lazy: list[Volume], x: slice, y: slice, z: Any) -> None:
    for volume in lazy:
        assert np.array_equal(volume.data[x, y, z], VALUES.T[x, y, z])
        assert np.array_equal(pickle.loads(pickle.dumps(volume)).data[..., z], VALUES.T[..., z])


def test_times_are_a_series_and_channels_are_refused(tmp_path: Path) -> None:
    told = {"axes": "TZYX", "spacing": 0.5, "unit": "mm"}
    path = saved(tmp_path / "t.tif", np.stack([VALUES, VALUES // 2]), imagej=True, resolution=(1, 1), metadata=told)
    with pytest.raises(Skip, match="2 volumes"):
        read(path)
    assert np.array_equal(read(path, frames="each")[1].array(), VALUES.T // 2)
    path = saved(tmp_path / "c.tif", np.stack([VALUES, VALUES], axis=1), imagej=True, metadata={**told, "axes": "ZCYX"})
    assert refused(path).code == "channels"
    path = tmp_path / "rgb.tif"
    tifffile.imwrite(path, np.zeros((4, 8, 9, 3), np.uint8), photometric="rgb", metadata=None)
    assert refused(path, spacing_mm=(1, 1, 1)).code == "channels"


def test_a_voxel_size_in_pixels_is_none(tmp_path: Path) -> None:
    for metadata in ({"axes": "ZYX"}, {"axes": "ZYX", "unit": "pixel", "spacing": 1.0}):
        path = saved(tmp_path / "a.tif", imagej=True, resolution=(1, 1), metadata=metadata)
        assert refused(path).code == "no-spacing"
    path = saved(tmp_path / "b.tif", imagej=True, resolution=(1, 1), metadata={"axes": "ZYX", "unit": "furlong", "spacing": 1.0})
    assert refused(path).code == "no-spacing"


@pytest.mark.parametrize("how", [IMAGEJ, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_a_cut_stack_is_refused_wherever_it_is_cut(tmp_path: Path, how: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.tif", **how)
    data = path.read_bytes()
    for share in (0.001, 0.02, 0.3, 0.6, 0.9, 0.99):
        (tmp_path / "cut.tif").write_bytes(data[: max(20, int(len(data) * share))])
        assert refused(tmp_path / "cut.tif", spacing_mm=(1, 1, 1)).code in ("truncated", "corrupt")


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        at, length = tif.pages[4].dataoffsets[0], tif.pages[4].databytecounts[0]  # type: ignore[union-attr]
        tag: Any = tif.pages[4].tags["StripOffsets"]  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    broken = data.copy()
    broken[at + length // 2] ^= 0xFF
    path.write_bytes(broken)
    error = refused(path, spacing_mm=(1, 1, 1))
    assert error.code == "corrupt"
    assert "slice 4" in error.sentence
    data[tag.offset + 8 : tag.offset + 12] = bytes(4)
    path.write_bytes(data)
    assert refused(path, spacing_mm=(1, 1, 1)).code == "corrupt"


def test_pages_in_a_circle_or_of_two_kinds_and_other_files_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", metadata=None)
    with tifffile.TiffFile(path) as tif:
        first, second = tif.pages[0].offset, tif.pages[1].offset  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    entries = int.from_bytes(data[second : second + 2], "little")
    data[second + 2 + 12 * entries : second + 6 + 12 * entries] = first.to_bytes(4, "little")
    path.write_bytes(data)
    assert refused(path).code == "corrupt"
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(VALUES[0], metadata=None)
        writer.write(VALUES[0, :5], metadata=None)
    assert refused(tmp_path / "b.tif", spacing_mm=(1, 1, 1)).code == "mixed-geometry"
    (tmp_path / "c.tif").write_bytes(b"hello" * 300)
    assert refused(tmp_path / "c.tif").code == "corrupt"


def test_imagej_s_metadata_that_promise_more_slices_than_there_are_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"images=9\nslices=9\n", b"images=8\nslices=8\n"))
    assert refused(path).code == "corrupt"


def test_the_stage_makes_a_canonical_image_of_a_stack(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", metadata=None)
    image = Image("1_CT", "1", "", "MR", "image", row={"path": str(path)})
    with pytest.raises(BadInput, match="spacing_mm"):
        acquire(image, {}, None, 0)
    made: Any = acquire(image, {"spacing_mm": [0.01, 0.02, 0.03]}, None, 0)
    assert made.code == "orientation-assumed"
    assert np.array_equal(made.content.array(), VALUES.T[::-1, ::-1].astype(np.float32))
    assert made.content.spacing == pytest.approx((0.01, 0.02, 0.03))
