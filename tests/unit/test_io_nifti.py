"""NIfTI: what is written comes back exactly, and what other readers forgive is refused."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from scipy.spatial.transform import Rotation

from cohortex.errors import BadInput, Skip
from cohortex.io import read
from cohortex.io.nifti import read_nifti, read_nifti_series, write_nifti
from cohortex.io.series import notes_of
from cohortex.volume import Volume

SHAPE = (11, 12, 13)


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, size=shape).astype(np.float32)


def saved(path: Path, data: np.ndarray, change: Callable[[Any], None] | None = None, affine: np.ndarray | None = None) -> Path:
    """Write a file through nibabel, its header changed behind its back."""
    image = Nifti1Image(data, np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    if change is not None:
        unzipped = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        header = Nifti1Header(unzipped[:348], check=False)
        change(header)
        unzipped = header.binaryblock + unzipped[348:]
        path.write_bytes(gzip.compress(unzipped) if path.suffix == ".gz" else unzipped)
    return path


def code(path: Path, frames: Any = "skip") -> str:
    with pytest.raises(BadInput) as caught:
        [volume.array() for volume in read(path, frames=frames)]
    assert path.name in caught.value.sentence
    assert str(path.parent.parent) not in caught.value.sentence
    return caught.value.code


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    flip=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_round_trip_keeps_any_affine_to_a_millionth_of_a_millimetre(
    tmp_path_factory: pytest.TempPathFactory, angles: Any, spacing: Any, origin: Any, flip: bool
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(spacing) * ([-1, 1, 1] if flip else 1)
    affine[:3, 3] = origin
    path = tmp_path_factory.getbasetemp() / "oblique.nii.gz"
    write_nifti(path, Volume(noise((3, 4, 5)), affine))
    assert np.abs(read_nifti(path).affine - affine).max() < 1e-6
    assert np.allclose(nib.load(path).affine, affine, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "uint16", "int16", "int32"])
@pytest.mark.parametrize("compress", [True, False])
def test_a_round_trip_keeps_every_voxel(tmp_path: Path, dtype: str, compress: bool) -> None:
    data = noise().astype(dtype)
    path = tmp_path / ("a.nii.gz" if compress else "a.nii")
    write_nifti(path, Volume(data, np.eye(4)), compress=compress)
    assert np.array_equal(read_nifti(path).array(), data)
    assert np.array_equal(np.asarray(nib.load(path).dataobj), data)
    assert nib.load(path).header["sform_code"] == nib.load(path).header["qform_code"] == 1


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(noise(), np.eye(4)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_an_affine_edited_by_another_tool_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    write_nifti(path, Volume(noise(), np.diag([1.1, 1.1, 1.1, 1])), compress=False)
    data = path.read_bytes()
    header = Nifti1Header(data[:348], check=False)
    header["srow_x"][3] = 42
    path.write_bytes(header.binaryblock + data[348:])
    assert read_nifti(path).affine[0, 3] == 42


def test_a_field_is_what_itk_expects(tmp_path: Path) -> None:
    field = noise((*SHAPE, 3))
    write_nifti(tmp_path / "a.nii.gz", Volume(field, np.diag([1, 2, 3.0, 1]), kind="field"))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert image.GetPixel(1, 2, 3) == pytest.approx(field[1, 2, 3] * [-1, -1, 1])
    back = read_nifti(tmp_path / "a.nii.gz")
    assert back.kind == "field"
    assert np.array_equal(back.array(), field)


def test_voxels_lie_where_simpleitk_puts_them(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix() * [1, 2, 3]
    affine[:3, 3] = [5, -7, 11]
    write_nifti(tmp_path / "a.nii.gz", Volume(noise(), affine))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    lps = image.TransformContinuousIndexToPhysicalPoint((1.0, 2.0, 3.0))
    assert np.array(lps) * [-1, -1, 1] == pytest.approx((affine @ [1, 2, 3, 1])[:3], abs=1e-4)


def test_cut_and_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path / "w.nii.gz", noise()).read_bytes()
    plain = saved(tmp_path / "w.nii", noise()).read_bytes()
    flipped_crc, flipped_middle = bytearray(whole), bytearray(whole)
    flipped_crc[-6] ^= 255
    flipped_middle[len(whole) // 2] ^= 255
    cases = {
        "half.nii.gz": (whole[: len(whole) // 2], {"truncated"}),
        "tail.nii.gz": (whole[:-4], {"truncated"}),
        "half.nii": (plain[: len(plain) // 2], {"truncated"}),
        "crc.nii.gz": (bytes(flipped_crc), {"corrupt"}),
        "middle.nii.gz": (bytes(flipped_middle), {"corrupt", "truncated"}),
        "empty.nii.gz": (b"", {"empty"}),
        "stub.nii": (plain[:100], {"truncated"}),
        "stub.nii.gz": (whole[:100], {"truncated"}),
        "page.nii.gz": (b"<!DOCTYPE html><html>404</html>" * 50, {"not-gzip"}),
        "plain.nii.gz": (plain, {"not-gzip"}),
        "noise.nii": (np.random.default_rng(0).bytes(4000), {"not-nifti"}),
        "lfs.nii.gz": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", {"not-fetched"}),
    }
    for name, (content, codes) in cases.items():
        (tmp_path / name).write_bytes(content)
        assert code(tmp_path / name) in codes, name


def test_a_message_says_what_a_wrong_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(BadInput, match="web page"):
        read(tmp_path / "a.nii.gz")
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(b"<html>not found</html>"))
    with pytest.raises(BadInput, match="holds a web page"):
        read(tmp_path / "c.nii.gz")
    saved(tmp_path / "b.nii", noise()).rename(tmp_path / "b.nii.gz")
    with pytest.raises(BadInput, match=r"rename it to \.nii or gzip it"):
        read(tmp_path / "b.nii.gz")


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe_T1w.nii.gz")
    (tmp_path / "zero_T1w.nii.gz").symlink_to("/dev/zero")
    (tmp_path / "annex_T1w.nii.gz").symlink_to(".git/annex/objects/nothing")
    assert [code(tmp_path / f"{name}_T1w.nii.gz") for name in ("pipe", "zero", "annex", "none")] == [
        "not-a-file",
        "not-a-file",
        "not-fetched",
        "missing-file",
    ]


def field(**values: Any) -> Callable[[Any], None]:
    def change(header: Any) -> None:
        for key, value in values.items():
            header[key] = value

    return change


def rows(x: Any, y: Any, z: Any) -> Callable[[Any], None]:
    return field(srow_x=x, srow_y=y, srow_z=z)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (rows([0] * 4, [0] * 4, [0] * 4), "singular-affine"),
        (rows([1, 0, 0, np.nan], [0, 1, 0, 0], [0, 0, 1, 0]), "non-finite-affine"),
        (rows([np.inf, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]), "non-finite-affine"),
        (rows([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]), "singular-affine"),
        (rows([1, np.tan(np.radians(20)), 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]), "sheared-affine"),
        (field(sform_code=0, qform_code=0), "no-affine"),
        (field(sform_code=0, qform_code=0, pixdim=[0] * 8), "no-affine"),
        (field(sform_code=0, pixdim=[1, 0, 0, 0, 1, 1, 1, 1]), "singular-affine"),
        (field(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "truncated"),
        (field(dim=[3, -32, 12, 13, 1, 1, 1, 1]), "bad-header"),
        (field(dim=[3, 0, 12, 13, 1, 1, 1, 1]), "bad-header"),
        (field(dim=[0] * 8), "bad-header"),
        (field(datatype=4242), "unsupported-type"),
        (field(datatype=32), "unsupported-type"),
        (field(datatype=128), "unsupported-type"),
        (field(sizeof_hdr=1543569408), "bad-header"),
        (field(magic=b"ni1"), "not-nifti"),
        (field(magic=b""), "not-nifti"),
        (field(vox_offset=np.nan), "bad-header"),
        (field(vox_offset=1e9), "bad-header"),
        (field(xyzt_units=1, srow_x=[1000, 0, 0, 0]), "bad-spacing"),
    ],
)
def test_an_impossible_header_is_refused(tmp_path: Path, change: Callable[[Any], None], expected: str) -> None:
    assert code(saved(tmp_path / "a.nii.gz", noise(), change)) == expected


def test_a_reflected_affine_is_taken(tmp_path: Path) -> None:
    volume = read(saved(tmp_path / "a.nii.gz", noise(), affine=np.diag([-1.0, 1, 1, 1])))[0]
    assert np.array_equal(volume.affine, np.diag([-1.0, 1, 1, 1]))


def test_the_qform_alone_is_enough(tmp_path: Path) -> None:
    volume = read(saved(tmp_path / "a.nii.gz", noise(), field(sform_code=0)))[0]
    assert np.allclose(volume.affine, np.diag([1, 2, 3, 1]), atol=1e-6)
    assert not notes_of(volume)


def test_two_affines_that_differ_are_told(tmp_path: Path) -> None:
    volume = read(saved(tmp_path / "a.nii.gz", noise(), rows([1, 0, 0, 5], [0, 2, 0, 0], [0, 0, 3, 0])))[0]
    assert volume.affine[0, 3] == 5
    assert notes_of(volume)[0][0] == "two-affines"
    assert "5.0 mm" in notes_of(volume)[0][1]


def test_metres_and_micrometres_become_millimetres(tmp_path: Path) -> None:
    for unit, factor in ((1, 1000), (3, 1e-3)):
        affine = np.diag([1 / factor, 2 / factor, 3 / factor, 1])
        volume = read(saved(tmp_path / "a.nii.gz", noise(), field(xyzt_units=unit), affine))[0]
        assert np.allclose(volume.spacing, (1, 2, 3), rtol=1e-6)
        assert notes_of(volume)[0][0] == "units"


def test_big_endian_files_are_read_the_same(tmp_path: Path) -> None:
    data = noise().astype(np.int16)
    header = Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nib.save(Nifti1Image(data, np.eye(4), header), tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\x00\x00\x01\x5c"
    assert np.array_equal(read(tmp_path / "big.nii")[0].array(), data)


def test_scaling_is_applied_and_impossible_scaling_is_not(tmp_path: Path) -> None:
    data = (noise() * 100).astype(np.int16)
    scaled = read(saved(tmp_path / "a.nii.gz", data, field(scl_slope=0.5, scl_inter=-10)))[0].array()
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, data * 0.5 - 10)
    assert code(saved(tmp_path / "b.nii.gz", data, field(scl_slope=1e35))) == "overflow"
    odd = read(saved(tmp_path / "c.nii.gz", data, field(scl_slope=np.inf)))[0]
    assert np.array_equal(odd.array(), data)
    assert notes_of(odd)[0][0] == "scaling-ignored"
    assert not notes_of(read(saved(tmp_path / "d.nii.gz", data, field(scl_slope=np.nan)))[0])


def test_garbage_in_place_of_an_extension_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", noise(), field(vox_offset=384))
    data = path.read_bytes()
    path.write_bytes(data[:348] + b"\x01\0\0\0" + b"\xff" * 32 + data[352:])
    assert code(path) == "bad-header"


def test_a_series_is_treated_by_policy(tmp_path: Path) -> None:
    data = noise((*SHAPE, 5))
    path = saved(tmp_path / "a.nii.gz", data)
    with pytest.raises(Skip, match="5 volumes"):
        read_nifti_series(path)
    assert np.array_equal(read_nifti_series(path, frames="first")[0].array(), data[..., 0])
    assert np.allclose(read_nifti_series(path, frames="mean")[0].array(), data.mean(axis=3), rtol=1e-5)
    each = read_nifti_series(path, frames="each")
    assert len(each) == 5
    assert np.array_equal(each[4].array(), data[..., 4])
    with pytest.raises(BadInput):
        read_nifti(path)


def test_a_series_of_one_is_a_volume(tmp_path: Path) -> None:
    assert read(saved(tmp_path / "a.nii.gz", noise((*SHAPE, 1))))[0].shape == SHAPE
    assert read(saved(tmp_path / "b.nii.gz", noise((11, 12))))[0].shape == (11, 12, 1)


def test_vectors_are_no_image(tmp_path: Path) -> None:
    for frames in ("skip", "first", "each"):
        assert code(saved(tmp_path / "a.nii.gz", noise((*SHAPE, 1, 3))), frames) == "not-an-image"


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_reader_takes_what_is_written_and_neither_laziness_nor_threads_change_the_bytes(
    tmp_path: Path, dtype: str, order: Any
) -> None:
    from cohortex.io.ozx import read_ozx, write_ozx

    data = np.asarray(np.random.default_rng(0).normal(100, 30, (150, 70, 130)), dtype=dtype, order=order)
    volume = Volume(data, np.diag([1.0, 2, 3, 1]))
    write_nifti(tmp_path / "a.nii.gz", volume)
    write_ozx(tmp_path / "a.ozx", volume)
    write_nifti(tmp_path / "b.nii.gz", read_ozx(tmp_path / "a.ozx"))
    write_nifti(tmp_path / "c.nii.gz", volume, threads=3)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)
    assert gzip.decompress(content)[352:] == data.tobytes("F")
    assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), data)
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))).T, data)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Broken:
        shape = (8, 8, 200)
        dtype = np.dtype(np.float32)

        def __getitem__(self, key: Any) -> Any:
            if key[2].start:
                raise OSError(28, "No space left on device")
            return np.zeros((8, 8, 64), np.float32)

    (tmp_path / "a.nii.gz").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        write_nifti(tmp_path / "a.nii.gz", Volume(Broken(), np.eye(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == b"old"


def test_a_scaling_beyond_float32_is_refused_also_of_whole_numbers_and_not_where_no_voxel_leads_there(tmp_path: Path) -> None:
    values = np.array([0, 1, 32000] * 9, np.int16).reshape(3, 3, 3)
    large = saved(tmp_path / "a.nii", values, field(scl_slope=1e35, scl_inter=0))
    with pytest.raises(BadInput) as error:
        read_nifti(large).array()
    assert error.value.code == "overflow"
    # the type may reach further than the voxels do
    fine = saved(tmp_path / "b.nii", np.where(values > 1, 2, values).astype(np.int16), field(scl_slope=1e35, scl_inter=0))
    assert read_nifti(fine).array().max() == pytest.approx(2e35)
    small = saved(tmp_path / "c.nii", values, field(scl_slope=0.5, scl_inter=3))
    assert read_nifti(small).array().max() == 16003
