"""Pictures and NRRD files become volumes that lie right, or are refused."""

import struct
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from cohortex.errors import BadInput
from cohortex.io import read
from cohortex.items import Image as Item
from cohortex.report.previews import orthogonal_views
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume

GREY = np.random.default_rng(0).integers(0, 255, (12, 20)).astype(np.uint8)


def code(path: Path, role: str = "image") -> str:
    with pytest.raises(BadInput) as caught:
        read(path, role)
    assert path.name in caught.value.sentence
    return caught.value.code


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_picture_keeps_its_values(tmp_path: Path, suffix: str, dtype: Any) -> None:
    values = GREY.astype(dtype) * (200 if dtype == np.uint16 else 1)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    volume = read(tmp_path / f"a.{suffix}")[0]
    assert volume.shape == (20, 12, 1)
    assert volume.spacing == (1, 1, 1)
    assert np.array_equal(volume.array()[:, :, 0].T, values)


def test_colours_become_luma_and_transparency_is_dropped(tmp_path: Path) -> None:
    colours = np.dstack([GREY, GREY // 2, GREY // 3, np.full_like(GREY, 7)])
    Image.fromarray(colours, "RGBA").save(tmp_path / "a.png")
    expected = colours[..., 0] * 0.299 + colours[..., 1] * 0.587 + colours[..., 2] * 0.114
    assert np.allclose(read(tmp_path / "a.png")[0].array()[:, :, 0].T, expected, atol=1e-3)


def test_resolution_tags_give_the_pixel_size_but_a_screen_does_not(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png", dpi=(254, 127))
    assert read(tmp_path / "a.png")[0].spacing == pytest.approx((0.1, 0.2, 1), rel=1e-3)
    Image.fromarray(GREY).save(tmp_path / "b.jpg", dpi=(72, 72))
    assert read(tmp_path / "b.jpg")[0].spacing == (1, 1, 1)


def test_a_picture_is_shown_as_it_is(tmp_path: Path) -> None:
    values = np.zeros((32, 48), np.uint8)
    values[:8, :8] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    item = Item("1_XR", "1", "", "XR", "image", row={"path": str(tmp_path / "a.png")})
    axial = orthogonal_views(acquire(item, {}, None, 0).content)["axial"]
    rows, columns = np.nonzero(axial > 128)
    assert rows.mean() < axial.shape[0] / 2
    assert columns.mean() < axial.shape[1] / 2


def test_labels_keep_their_numbers(tmp_path: Path) -> None:
    indexed = Image.fromarray(GREY % 4, "L").convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.putdata((GREY % 4).reshape(-1).tolist())
    indexed.save(tmp_path / "a.png")
    labels = read(tmp_path / "a.png", "labels")[0]
    assert labels.kind == "labels"
    assert np.array_equal(labels.array()[:, :, 0].T, GREY % 4)
    Image.fromarray(np.dstack([GREY, GREY * 0, GREY])).save(tmp_path / "b.png")
    assert code(tmp_path / "b.png", "labels") == "bad-labels"


def test_broken_pictures_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("hello" * 300)
    assert code(tmp_path / "half.png") in ("truncated", "corrupt")
    assert code(tmp_path / "text.png") == "corrupt"
    huge = data[:16] + (100_000).to_bytes(4, "big") * 2 + data[24:]
    (tmp_path / "huge.png").write_bytes(huge)
    assert code(tmp_path / "huge.png") in ("too-large", "corrupt")


def nrrd(path: Path, **change: Any) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(0).integers(-50, 50, (5, 9, 10)).astype(np.int16)
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((1, 2, 3))
    image.SetOrigin((10, 20, 30))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(path), useCompression=change.get("compress", False))
    return path, values


@pytest.mark.parametrize("compress", [True, False])
def test_an_nrrd_lies_where_simpleitk_puts_it(tmp_path: Path, compress: bool) -> None:
    path, values = nrrd(tmp_path / "a.nrrd", compress=compress)
    volume = read(path)[0]
    assert np.array_equal(volume.array(), values.T)
    image = SimpleITK.ReadImage(str(path))
    lps = image.TransformIndexToPhysicalPoint((4, 5, 2))
    assert np.allclose((volume.affine @ [4, 5, 2, 1])[:3], np.array(lps) * [-1, -1, 1])


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 12)] * 3),
    origin=st.tuples(*[st.floats(-800, 800)] * 3),
    flip=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_any_grid_of_an_nrrd_is_kept_to_a_millionth_of_a_millimetre(
    tmp_path_factory: Any, angles: Any, spacing: Any, origin: Any, flip: bool
) -> None:
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([-1 if flip else 1, 1, 1])
    image = SimpleITK.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(turn.reshape(-1))
    path = tmp_path_factory.getbasetemp() / "oblique.nrrd"
    SimpleITK.WriteImage(image, str(path))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * np.array(spacing), origin
    assert np.abs(read(path)[0].affine - np.diag([-1, -1, 1, 1]) @ affine).max() < 1e-6


def test_broken_nrrd_files_are_refused(tmp_path: Path) -> None:
    path, _ = nrrd(tmp_path / "a.nrrd")
    data = path.read_bytes()
    cases = {
        "half": (data[: len(data) // 2], {"truncated", "corrupt"}),
        "head": (data[:60], {"truncated"}),
        "text": (b"hello" * 300, {"not-nrrd"}),
        "huge": (data.replace(b"sizes: 10 9 5", b"sizes: 9999 9999 9999"), {"truncated"}),
        "away": (data.replace(b"encoding: raw", b"encoding: raw\ndata file: /etc/passwd"), {"detached-data"}),
        "nowhere": (b"\n".join(line for line in data[:400].split(b"\n") if not line.startswith(b"space:")) + data[400:], {"no-affine"}),
    }
    for name, (content, codes) in cases.items():
        (tmp_path / f"{name}.nrrd").write_bytes(content)
        assert code(tmp_path / f"{name}.nrrd") in codes, name


def test_an_unknown_ending_is_refused_with_what_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2000))
    with pytest.raises(BadInput, match="an HDF5 file with an ending that no reader takes"):
        read(tmp_path / "a.xyz")


def test_a_stored_volume_is_read_lazily(tmp_path: Path) -> None:
    from cohortex.io.ozx import write_ozx
    from cohortex.io.stored import Stored

    write_ozx(tmp_path / "a.ozx", Volume(np.ones((8, 8, 8), np.float32), np.eye(4)))
    assert isinstance(read(tmp_path / "a.ozx")[0].data, Stored)


def test_a_png_whose_size_or_chunk_is_beyond_its_bytes_takes_no_memory_for_it(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "a.png")
    good = (tmp_path / "a.png").read_bytes()
    start = good.index(b"IHDR")
    header = b"IHDR" + struct.pack(">II", 10000, 10000) + good[start + 12 : start + 17]
    wide = good[:start] + header + struct.pack(">I", zlib.crc32(header)) + good[start + 21 :]
    at = good.index(b"IDAT") - 4
    long = good[:at] + struct.pack(">I", 2**31 - 1) + good[at + 4 :]
    (tmp_path / "wide.png").write_bytes(wide)
    (tmp_path / "long.png").write_bytes(long)
    assert code(tmp_path / "wide.png") == "truncated"
    tracemalloc.start()
    try:
        with suppress(BadInput):
            read(tmp_path / "long.png")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
