"""MetaImage files lie where SimpleITK puts them, and broken ones are refused."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cohortex.cohort.cut import Prints
from cohortex.errors import BadInput, Skip
from cohortex.io import read

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]


def image(values: np.ndarray, turn: np.ndarray | None = None, vector: bool = False) -> Any:
    made = SimpleITK.GetImageFromArray(values, isVector=vector)
    dimension = made.GetDimension()
    made.SetSpacing((1.5, 2, 3, 1)[:dimension])
    made.SetOrigin((10, 20, 30, 0)[:dimension])
    if turn is not None:
        made.SetDirection(turn.reshape(-1))
    return made


def code(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        [volume.array() for volume in read(path)]
    assert path.stem in caught.value.sentence
    assert str(path.parent.parent) not in caught.value.sentence
    return caught.value.code


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3), flip=st.booleans(), kind=st.sampled_from(TYPES), ending=st.sampled_from(["mha", "mhd"])
)
@settings(max_examples=25, deadline=None)
def test_voxels_and_grid_are_those_of_simpleitk(tmp_path_factory: Any, angles: Any, flip: bool, kind: str, ending: str) -> None:
    values = np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(kind)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([-1 if flip else 1, 1, 1])
    path = tmp_path_factory.getbasetemp() / f"oblique.{ending}"
    SimpleITK.WriteImage(image(values, turn), str(path), useCompression=flip)
    (volume,) = read(path)
    assert volume.data.dtype == values.dtype
    assert np.array_equal(volume.array(), values.T)
    back = SimpleITK.ReadImage(str(path))
    for index in ((0, 0, 0), (6, 0, 2), (3, 5, 4)):
        lps = back.TransformIndexToPhysicalPoint(index)
        assert np.allclose((volume.affine @ [*index, 1])[:3], np.array(lps) * [-1, -1, 1], atol=1e-5)


def test_channels_and_times_are_a_series_and_a_picture_is_a_slice(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 99, (3, 5, 6, 7)).astype(np.int16)
    SimpleITK.WriteImage(image(values), str(tmp_path / "times.mha"))
    SimpleITK.WriteImage(image(np.moveaxis(values, 0, 3), vector=True), str(tmp_path / "channels.mha"), useCompression=True)
    for name in ("times.mha", "channels.mha"):
        with pytest.raises(Skip, match="3 volumes"):
            read(tmp_path / name)
        each = read(tmp_path / name, frames="each")
        assert [np.array_equal(volume.array(), value.T) for volume, value in zip(each, values, strict=True)] == [True] * 3
        assert each[0].spacing == (1.5, 2, 3)
    SimpleITK.WriteImage(image(values[0, 0]), str(tmp_path / "flat.mha"))
    assert np.array_equal(read(tmp_path / "flat.mha")[0].array()[:, :, 0], values[0, 0].T)


def test_a_big_endian_file_is_read_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-99, 99, (5, 6, 7)).astype(np.int16)
    SimpleITK.WriteImage(image(values), str(tmp_path / "a.mha"))
    head, mark, _ = (tmp_path / "a.mha").read_bytes().partition(b"ElementDataFile = LOCAL\n")
    head = head.replace(b"BinaryDataByteOrderMSB = False", b"BinaryDataByteOrderMSB = True")
    (tmp_path / "b.mha").write_bytes(head + mark + values.astype(">i2").tobytes())
    assert np.array_equal(read(tmp_path / "b.mha")[0].array(), values.T)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-99, 99, (5, 6, 7)).astype(np.int16)
    SimpleITK.WriteImage(image(values), str(tmp_path / "raw.mha"))
    SimpleITK.WriteImage(image(values), str(tmp_path / "packed.mha"), useCompression=True)
    SimpleITK.WriteImage(image(values), str(tmp_path / "apart.mhd"))
    raw, packed = (tmp_path / "raw.mha").read_bytes(), (tmp_path / "packed.mha").read_bytes()
    assert packed.endswith(zlib.adler32(values.tobytes()).to_bytes(4, "big"))
    cases: dict[str, tuple[bytes, str]] = {
        "half": (raw[:-50], "truncated"),
        "head": (raw[:60], "truncated"),
        "text": (b"hello\n" * 300, "not-metaimage"),
        "huge": (raw.replace(b"DimSize = 7 6 5", b"DimSize = 9999 9999 9999"), "truncated"),
        "negative": (raw.replace(b"DimSize = 7 6 5", b"DimSize = 7 -6 5"), "bad-header"),
        "axes": (raw.replace(b"NDims = 3", b"NDims = 2"), "bad-header"),
        "long": (raw.replace(b"MET_SHORT", b"MET_LONG"), "unsupported-type"),
        "ascii": (raw.replace(b"BinaryData = True", b"BinaryData = False"), "unsupported-type"),
        "nowhere": (raw.replace(b"Offset", b"Nothing"), "no-affine"),
        "nan": (raw.replace(b"Offset = 10", b"Offset = nan"), "non-finite-affine"),
        "away": (raw.replace(b"LOCAL", b"/etc/passwd"), "detached-data"),
        "up": (raw.replace(b"LOCAL", b"../a.raw"), "detached-data"),
        "list": (raw.replace(b"LOCAL", b"LIST"), "detached-data"),
        "absent": (raw.replace(b"LOCAL", b"absent.raw"), "missing-file"),
        "cut": (packed[:-20], "truncated"),
        "sum": (packed[:-1] + bytes([packed[-1] ^ 255]), "corrupt"),
        "more": (packed + b"more", "corrupt"),
        "less": (packed.replace(b"DimSize = 7 6 5", b"DimSize = 7 6 6"), "truncated"),
    }
    for name, (content, expected) in cases.items():
        (tmp_path / f"{name}.mha").write_bytes(content)
        assert code(tmp_path / f"{name}.mha") == expected, name
    (tmp_path / "apart.raw").write_bytes(values.tobytes()[:-1])
    assert code(tmp_path / "apart.mhd") == "truncated"


def test_a_changed_file_of_voxels_changes_the_fingerprint_of_its_header(tmp_path: Path) -> None:
    SimpleITK.WriteImage(image(np.zeros((5, 6, 7), np.int16)), str(tmp_path / "a.mhd"))
    for how in ("size", "sha256"):
        before, megabytes = Prints(how, tmp_path / "none").of(str(tmp_path / "a.mhd"))
        assert megabytes == pytest.approx((420 + (tmp_path / "a.mhd").stat().st_size) * 2 / 1e6)
        with (tmp_path / "a.raw").open("ab") as file:
            file.write(b"\1")
        assert Prints(how, tmp_path / "none").of(str(tmp_path / "a.mhd"))[0] != before
        (tmp_path / "a.raw").write_bytes(bytes(420))
