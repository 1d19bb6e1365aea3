"""What does not stay in memory is acquired with the bytes, measures and words of what does: every format, any grid, any plan."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import SimpleITK
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.io.scratch import Scratch
from cohortex.io.stored import Stored
from cohortex.items import Image, Made
from cohortex.lazy import Elementwise
from cohortex.stages.acquire import acquire
from cohortex.volume import Volume
from tests.unit.test_io_dicom import dataset, enhanced
from tests.unit.test_io_kspace import acquisitions, header

ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def grid(order: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """Return an affine whose axes run along those of the world in any order and direction."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(order)] * np.array([1.0, 1.5, 2.0]) * flips
    affine[:3, 3] = 3, -4, 5
    return affine


def nifti(path: Path, values: np.ndarray, affine: np.ndarray, slope: float = 1.0, order: str = "<") -> Path:
    header = Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    header.set_data_shape(values.shape)
    header.set_sform(affine, 1)
    header["scl_slope"], header["scl_inter"], header["magic"], header["vox_offset"] = slope, 0, b"n+1", 352
    content = header.binaryblock + bytes(4) + values.astype(values.dtype.newbyteorder(order)).tobytes("F")
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def through_itk(path: Path, values: np.ndarray, affine: np.ndarray, packed: bool) -> Path:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((np.diag([-1, -1, 1]) @ affine[:3, :3] / spacing).reshape(-1).tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=packed)
    return path


def dicom(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    path.mkdir()
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    for z in range(values.shape[2]):
        made = dataset(values[:, :, z].T, lps[:3, 3] + axes[:, 2] * spacing[2] * z, [*axes[:, 0], *axes[:, 1]], PixelSpacing=[1.5, 1.0])
        made.save_as(path / f"{z}.dcm", enforce_file_format=True)
    return path


def zarred(path: Path, values: np.ndarray) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    sets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [2.0, 1.5, 1.0]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": sets}]}
    group.create_array("0", data=np.ascontiguousarray(values.T), chunks=(16, 16, 16))
    return path


FORMATS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "nii": lambda p, v, a: nifti(p / "a.nii", v, a),
    "nii scaled": lambda p, v, a: nifti(p / "a.nii", v, a, 0.3),
    "nii.gz": lambda p, v, a: nifti(p / "a.nii.gz", v, a, order=">"),
    "nii.gz scaled": lambda p, v, a: nifti(p / "a.nii.gz", v, a, 0.3),
    "nrrd": lambda p, v, a: through_itk(p / "a.nrrd", v, a, False),
    "nrrd gzip": lambda p, v, a: through_itk(p / "a.nrrd", v, a, True),
    "mha": lambda p, v, a: through_itk(p / "a.mha", v, a, False),
    "mha zlib": lambda p, v, a: through_itk(p / "a.mha", v, a, True),
    "dicom": lambda p, v, a: dicom(p / "a", np.nan_to_num(v).clip(0).astype(np.uint16), a),
    "zarr": lambda p, v, a: zarred(p / "a.zarr", v),
}


def both(path: Path, plan: Plan, role: str = "image", volume: str = "skip") -> tuple[list[Made], list[Made]]:
    """Acquire with everything in memory and under a plan that has no room for it."""
    image = Image("1_x", "1", "", "T1w", "image" if role == "image" else "labels", role, row={"path": str(path)})
    made = []
    for each in (Plan(), plan):
        with planned(each):
            found = acquire(image, {"volume": volume, "spacing_mm": [1, 1, 1]}, None, 0)
        made.append([found] if isinstance(found, Made) else found)
    return made[0], made[1]


def refusal(path: Path, plan: Plan, role: str) -> tuple[str, str] | None:
    """Return code and sentence where a file is refused."""
    try:
        with planned(plan):
            acquire(Image("1_x", "1", "", "T1w", "image" if role == "image" else "labels", role, row={"path": str(path)}), {}, None, 0)
    except BadInput as bad:
        return bad.code, bad.sentence
    return None


def check_equal(whole: list[Made], lazy: list[Made]) -> None:
    assert len(whole) == len(lazy)
    for a, b in zip(whole, lazy, strict=True):
        assert (a.status, a.code, a.reason, a.measures, a.tag) == (b.status, b.code, b.reason, b.measures, b.tag)
        if not isinstance(a.content, Volume):
            assert b.content is None
            continue
        assert isinstance(b.content, Volume)
        assert isinstance(a.content.data, np.ndarray)
        assert isinstance(b.content.data, Scratch | Elementwise)
        assert a.content.data.dtype == b.content.data.dtype
        assert a.content.sha256() == b.content.sha256()
        assert a.content.history == b.content.history


@given(
    shape=st.tuples(*[st.integers(8, 34)] * 3),
    order=st.sampled_from(ORDERS),
    flips=st.tuples(*[st.sampled_from([-1, 1])] * 3),
    kind=st.sampled_from(["u1", "i2", "u2", "f4", "f8"]),
    form=st.sampled_from(sorted(FORMATS)),
    role=st.sampled_from(["image", "labels", "mask"]),
    threads=st.integers(1, 3),
    wrong=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_volume_is_acquired_alike_in_memory_and_in_slabs(
    tmp_path_factory: Any, shape: Any, order: Any, flips: Any, kind: str, form: str, role: str, threads: int, wrong: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    rng = np.random.default_rng(0)
    values = (rng.normal(100, 30, shape) if role == "image" else rng.integers(0, 3 if role == "labels" else 2, shape) * 60).astype(kind)
    if wrong and kind in ("f4", "f8"):
        values.reshape(-1)[:: values.size // 7] = np.nan
    path = FORMATS[form](folder, values, grid(order, flips))
    (folder / "scratch").mkdir()
    plan = Plan(threads=threads, memory_mb=0, scratch=folder / "scratch")
    refusals = refusal(path, Plan(), role), refusal(path, plan, role)
    assert refusals[0] == refusals[1]
    if refusals[0] is None:
        check_equal(*both(path, plan, role))
    assert not list((folder / "scratch").iterdir())


@pytest.mark.parametrize("volume", ["first", "mean", "each"])
@pytest.mark.parametrize("form", ["nii", "nii.gz", "nii scaled", "nii.gz scaled"])
def test_a_series_is_acquired_alike_and_never_held(tmp_path: Path, form: str, volume: str) -> None:
    values = np.random.default_rng(0).normal(100, 30, (12, 13, 14, 5)).astype(np.int16)
    path = FORMATS[form](tmp_path, values, grid((1, 0, 2), (1, -1, 1)))
    check_equal(*both(path, Plan(memory_mb=0, scratch=tmp_path), volume=volume))


def test_volumes_of_a_series_that_fit_one_by_one_do_not_stay_in_memory_together(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(100, 30, (20, 20, 20, 9)).astype(np.int16)
    path = nifti(tmp_path / "a.nii", values, np.eye(4))
    # 128 kB for one array: one volume of 32 kB stays, nine do not
    _, first = both(path, Plan(memory_mb=1, scratch=tmp_path), volume="first")
    assert isinstance(first[0].content.data, np.ndarray)  # type: ignore[union-attr]
    check_equal(*both(path, Plan(memory_mb=1, scratch=tmp_path), volume="each"))


def test_a_multi_frame_file_is_acquired_alike(tmp_path: Path) -> None:
    enhanced(range(9)).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    check_equal(*both(tmp_path / "a.dcm", Plan(threads=2, memory_mb=0, scratch=tmp_path)))


def test_a_stack_of_slices_of_k_space_is_acquired_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(9, 3, 16, 20)) + 1j * rng.normal(size=(9, 3, 16, 20))).astype(np.complex64)
    kspace[:, 1] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = kspace
    np.save(tmp_path / "a.npy", kspace)
    for name in ("a.h5", "a.npy"):
        whole, lazy = both(tmp_path / name, Plan(threads=2, memory_mb=0, scratch=tmp_path))
        check_equal(whole, lazy)
        assert (lazy[0].code, lazy[0].content.history[0]["notes"]) == ("dead-coil", ["dead-coil"])  # type: ignore[union-attr]


@pytest.mark.parametrize("three_d", [False, True])
@pytest.mark.parametrize("volume", ["first", "mean", "each"])
def test_ismrmrd_is_acquired_alike(tmp_path: Path, three_d: bool, volume: str) -> None:
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(5, 3, 10, 12)) + 1j * rng.normal(size=(5, 3, 10, 12))).astype(np.complex64)
    kspace[:, 2] = 0
    xml = header(matrix=(12, 10, 5 if three_d else 1), fov=(120, 100, 10 if three_d else 2))
    centres = [(z, 0, 0) for z in range(5)]
    path = acquisitions(tmp_path / "a.h5", kspace, xml, repetitions=2, centres=centres, three_d=three_d)
    whole, lazy = both(path, Plan(threads=2, memory_mb=0, scratch=tmp_path), volume=volume)
    check_equal(whole, lazy)
    assert lazy[-1].code == "dead-coil"


def test_a_tiff_decodes_each_page_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 200, (11, 150, 140)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib", photometric="minisblack")
    whole, lazy = both(tmp_path / "a.tif", Plan(memory_mb=0, scratch=tmp_path))
    check_equal(whole, lazy)
    asked: list[int] = []
    decode = tifffile.TiffPage.asarray
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page, *a, **k: asked.append(page.index) or decode(page, *a, **k))
    both(tmp_path / "a.tif", Plan(memory_mb=0, scratch=tmp_path))
    assert sorted(asked) == sorted(2 * list(range(11)))


def test_labels_of_more_than_a_byte_keep_their_numbers_in_blocks(tmp_path: Path) -> None:
    labels = np.zeros((70, 9, 10), np.int32)
    labels[3], labels[69] = 7, 40000
    whole, lazy = both(nifti(tmp_path / "a.nii.gz", labels, np.eye(4)), Plan(memory_mb=0, scratch=tmp_path), "labels")
    check_equal(whole, lazy)
    assert lazy[0].content.data.dtype == np.uint16  # type: ignore[union-attr]
    assert lazy[0].measures["labels"] == 2
    labels[5] = 70000
    nifti(tmp_path / "b.nii.gz", labels, np.eye(4))
    for memory_mb in (1024, 0):
        with planned(Plan(memory_mb=memory_mb, scratch=tmp_path)), pytest.raises(BadInput, match=r"outside 0 to 65535 \(70000\)"):
            acquire(Image("1_x", "1", "", "T1w", "labels", "labels", row={"path": str(tmp_path / "b.nii.gz")}), {}, None, 0)


def test_an_ozx_file_is_acquired_alike(tmp_path: Path) -> None:
    from cohortex.io.ozx import read_ozx, write_ozx

    write_ozx(tmp_path / "a.ozx", Volume(np.random.default_rng(0).normal(0, 9, (70, 20, 30)).astype(np.float32), np.eye(4), "T1w"))
    assert isinstance(read_ozx(tmp_path / "a.ozx").data, Stored)
    check_equal(*both(tmp_path / "a.ozx", Plan(threads=2, memory_mb=0, scratch=tmp_path)))
