"""NIfTI: files that are cut, damaged, no files at all, or whose header cannot be."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header

from cohortex.items import Made
from tests.battery.case import SECRET, Case

SHAPE = (20, 24, 16)
VALUES = np.random.default_rng(0).integers(1, 900, SHAPE).astype(np.int16)
AFFINE = np.array([[2.0, 0, 0, -20], [0, 2.0, 0, -24], [0, 0, 2.5, -20], [0, 0, 0, 1]])


def nifti(
    path: Path,
    values: np.ndarray = VALUES,
    change: Callable[[Any], None] | None = None,
    affine: np.ndarray = AFFINE,
    order: str = "<",
    extension: bytes = bytes(4),
) -> Path:
    """Write a NIfTI whose header `change` may spoil."""
    header = Nifti1Header(endianness=order)
    header.set_data_dtype(values.dtype.newbyteorder(order))
    header.set_data_shape(values.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    header["scl_slope"], header["scl_inter"], header["magic"], header["vox_offset"] = 1, 0, b"n+1", 348 + len(extension)
    header["descrip"] = SECRET.encode()
    if change is not None:
        change(header)
    content = header.binaryblock + extension + values.astype(values.dtype.newbyteorder(order)).tobytes("F")
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def bytes_of(name: str, change: Callable[[bytes], bytes], **how: Any) -> Callable[[Path], Path]:
    """Return a maker of a file whose bytes were changed."""

    def make(folder: Path) -> Path:
        path = nifti(folder / name, **how)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def header_of(**values: Any) -> Callable[[Path], Path]:
    """Return a maker of a file with other values in its header."""

    def change(header: Any) -> None:
        for key, value in values.items():
            header[key] = value

    return lambda folder: nifti(folder / "a_T1w.nii.gz", change=change)


def voxels_of(values: np.ndarray, name: str = "a_T1w.nii.gz", **how: Any) -> Callable[[Path], Path]:
    """Return a maker of a file with other voxels."""
    return lambda folder: nifti(folder / name, values, **how)


def content_of(name: str, content: bytes) -> Callable[[Path], Path]:
    """Return a maker of a file with this content."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def flipped(at: int) -> Callable[[bytes], bytes]:
    """Return a change of one byte."""

    def change(data: bytes) -> bytes:
        content = bytearray(data)
        content[at if at < 0 else len(data) * at // 100] ^= 255
        return bytes(content)

    return change


def link(target: str) -> Callable[[Path], Path]:
    """Return a maker of a link."""

    def make(folder: Path) -> Path:
        (folder / "a_T1w.nii.gz").symlink_to(target)
        return folder / "a_T1w.nii.gz"

    return make


def elsewhere(folder: Path) -> Path:
    other = folder.with_name("another")
    other.mkdir()
    nifti(other / "b_T1w.nii.gz")
    (folder / "a_T1w.nii.gz").symlink_to(other / "b_T1w.nii.gz")
    return folder / "a_T1w.nii.gz"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a_T1w.nii.gz")
    return folder / "a_T1w.nii.gz"


def lesser(data: bytes) -> bytes:
    """Return a header of which only the size is in the other byte order."""
    return data[:4][::-1] + data[4:]


def rows(x: Any, y: Any, z: Any) -> dict[str, Any]:
    return {"srow_x": x, "srow_y": y, "srow_z": z}


def rotated(degrees: float) -> Callable[[Path], Path]:
    """Return a maker of a file whose qform is turned against its sform."""
    turn = np.eye(4)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn[:2, :2] = [[c, -s], [s, c]]
    return lambda folder: nifti(folder / "a_T1w.nii.gz", change=lambda header: header.set_qform(turn @ AFFINE, 1))


def moved(folder: Path) -> Path:
    other = AFFINE.copy()
    other[0, 3] += 5
    return nifti(folder / "a_T1w.nii.gz", change=lambda header: header.set_qform(other, 1))


def with_nan(count: int) -> np.ndarray:
    values = VALUES.astype(np.float32)
    values.reshape(-1)[:count] = np.nan
    return values


def same_values(made: Made) -> None:
    assert np.array_equal(np.asarray(made.content.data[...]), VALUES.astype(np.float32)), "values differ"  # type: ignore[union-attr]


def two_millimetres(made: Made) -> None:
    same_values(made)
    assert np.allclose(made.content.spacing, (2, 2, 2.5)), "the spacing is not in mm"  # type: ignore[union-attr]


def mirrored_back(made: Made) -> None:
    volume = made.content
    assert np.linalg.det(volume.affine[:3, :3]) > 0, "the axes are not canonical"  # type: ignore[union-attr]
    assert np.array_equal(np.asarray(volume.data[...]), VALUES[::-1].astype(np.float32)), "values differ"  # type: ignore[union-attr]


LABELS = (VALUES % 4).astype(np.float32)
TRUNCATED, SINGULAR = ("truncated",), ("singular-affine",)
FEW = LABELS.copy()
FEW[0, 0, 0] = 1.5
NEGATIVE = LABELS.copy()
NEGATIVE[0, 0, 0] = -1
MANY = LABELS.astype(np.int32)
MANY[0, 0, 0] = 70000
COMPLEX = VALUES.astype(np.complex64)

CASES = [
    Case("N01", "half of a .nii.gz", "the header loads", "set aside", TRUNCATED, bytes_of("a_T1w.nii.gz", lambda b: b[: len(b) // 2])),
    Case("N02", "half of a .nii", "the header loads", "set aside", TRUNCATED, bytes_of("a_T1w.nii", lambda b: b[: len(b) // 2])),
    Case(
        "N03", "another checksum at the end of the gzip", "read silently", "set aside", ("corrupt",), bytes_of("a_T1w.nii.gz", flipped(-6))
    ),
    Case("N04", "another byte in the middle", "", "set aside", ("corrupt", "truncated"), bytes_of("a_T1w.nii.gz", flipped(50))),
    Case("N05a", "0 bytes", "", "set aside", ("empty",), content_of("a_T1w.nii.gz", b"")),
    Case("N05b", "100 bytes", "", "set aside", TRUNCATED, bytes_of("a_T1w.nii", lambda b: b[:100])),
    Case("N06a", "a web page", "", "set aside", ("not-gzip",), content_of("a_T1w.nii.gz", b"<!DOCTYPE html><html>404</html>" * 60)),
    Case(
        "N06b", "no gzip, whatever its name says", "", "set aside", ("not-gzip",), lambda d: nifti(d / "b.nii").rename(d / "a_T1w.nii.gz")
    ),
    Case("N07a", "a link of git-annex without its content", "", "set aside", ("not-fetched",), link(".git/annex/objects/none")),
    Case(
        "N07b",
        "a pointer of git-lfs",
        "",
        "set aside",
        ("not-fetched",),
        content_of("a_T1w.nii.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
    ),
    Case(
        "T11",
        "a row whose file is missing",
        "`-k` ends all the same",
        "set aside",
        ("missing-file",),
        lambda folder: folder / "a_T1w.nii.gz",
    ),
    Case("N08a", "a pipe", "wait for ever", "set aside", ("not-a-file",), pipe),
    Case("N08b", "a link to a device", "read for ever", "set aside", ("outside",), link("/dev/zero")),
    Case("N08c", "a link out of the dataset's folder", "followed", "set aside", ("outside",), elsewhere),
    Case("N08d", "the same, where the user says so", "", "taken", (), elsewhere, settings={"links": "follow"}, check=same_values),
    Case("N09", "sform all 0", "an affine of zeros", "set aside", SINGULAR, header_of(**rows([0] * 4, [0] * 4, [0] * 4))),
    Case(
        "N10a",
        "NaN in the affine",
        "an error much later",
        "set aside",
        ("non-finite-affine",),
        header_of(**rows([2, 0, 0, np.nan], [0, 2, 0, 0], [0, 0, 2, 0])),
    ),
    Case(
        "N10b",
        "infinity in the affine",
        "an error much later",
        "set aside",
        ("non-finite-affine",),
        header_of(**rows([np.inf, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0])),
    ),
    Case("N11a", "two axes alike", "", "set aside", SINGULAR, header_of(**rows([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]))),
    Case(
        "N11b",
        "sheared by 20 degrees",
        "read silently",
        "set aside",
        ("sheared-affine",),
        header_of(**rows([1, np.tan(np.radians(20)), 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])),
    ),
    Case(
        "N11c",
        "stored from right to left",
        "",
        "taken",
        (),
        voxels_of(VALUES, affine=np.diag([-2.0, 2, 2.5, 1])),
        check=mirrored_back,
    ),
    Case("N12a", "qform moved by 5 mm from the sform", "one of both, silently", "warned", ("affines-differ", "two-affines"), moved),
    Case("N12b", "qform turned by 10 degrees", "one of both, silently", "warned", ("affines-differ", "two-affines"), rotated(10)),
    Case(
        "N13",
        "no affine and no voxel size",
        "1 mm and a mirrored default",
        "set aside",
        ("no-affine",),
        header_of(sform_code=0, qform_code=0, pixdim=[0] * 8),
    ),
    Case("N14a", "one voxel is NaN", "", "warned", ("nan-voxels",), voxels_of(with_nan(1))),
    Case("N14b", "all voxels are NaN", "", "set aside", (), voxels_of(with_nan(VALUES.size))),
    Case("N14c", "infinite voxels", "", "set aside", (), voxels_of(np.where(VALUES > 890, np.inf, VALUES).astype(np.float32))),
    Case("N14d", "voxels below all numbers", "", "set aside", (), voxels_of(np.where(VALUES > 890, -np.inf, VALUES).astype(np.float32))),
    Case("N15a", "all voxels 0", "", "set aside", (), voxels_of(VALUES * 0)),
    Case("N15b", "all voxels alike", "", "set aside", (), voxels_of(VALUES * 0 + 7)),
    Case("N16", "big-endian", "", "taken", (), lambda d: nifti(d / "a_T1w.nii.gz", order=">"), check=same_values),
    Case("N17", "only the header's size in the other byte order", "mended silently", "set aside", (), bytes_of("a_T1w.nii", lesser)),
    Case("N18", "32767 voxels along each axis", "load", "set aside", TRUNCATED, header_of(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    Case("N19a", "-32 voxels along x", "load", "set aside", ("bad-header",), header_of(dim=[3, -32, 24, 16, 1, 1, 1, 1])),
    Case("N19b", "0 voxels along x", "load", "set aside", ("bad-header",), header_of(dim=[3, 0, 24, 16, 1, 1, 1, 1])),
    Case("N20a", "four axes, one time point", "", "taken", (), voxels_of(VALUES[..., None]), check=same_values),
    Case("N20b", "five time points", "", "skipped", ("four-d",), voxels_of(np.stack([VALUES] * 5, axis=3))),
    Case("N21a", "one slice", "", "taken", (), voxels_of(VALUES[:, :, :1])),
    Case("N21b", "two axes", "", "taken", (), voxels_of(VALUES[:, :, 0])),
    Case("N21c", "one voxel", "", "set aside", ("too-small",), voxels_of(VALUES[:1, :1, :1])),
    Case(
        "N22",
        "scl_slope 1e35: values beyond float32",
        "infinite, with a warning",
        "set aside",
        (),
        lambda d: nifti(d / "a_T1w.nii.gz", VALUES * 30, lambda header: header.__setitem__("scl_slope", 1e35)),
    ),
    Case("N23a", "scl_slope 0", "ignored silently", "taken", (), header_of(scl_slope=0), check=same_values),
    Case("N23b", "scl_slope NaN, which nibabel writes for none", "", "taken", (), header_of(scl_slope=np.nan), check=same_values),
    Case("N23c", "scl_slope infinite", "ignored silently", "warned", (), header_of(scl_slope=np.inf), check=same_values),
    Case("N24a", "datatype 4242", "", "set aside", ("unsupported-type",), header_of(datatype=4242)),
    Case("N24b", "colours", "", "set aside", ("unsupported-type",), header_of(datatype=128, bitpix=24)),
    Case("N24c", "complex numbers", "the real part, with a warning", "set aside", ("unsupported-type",), voxels_of(COMPLEX)),
    Case(
        "N25",
        "garbage in place of an extension",
        "read silently",
        "set aside",
        (),
        voxels_of(VALUES, extension=b"\1\0\0\0" + b"garbage!" * 4),
    ),
    Case("N26a", "label 70000", "another label", "set aside", (), voxels_of(MANY, "a_dseg.nii.gz"), role="labels"),
    Case("N26b", "label 1.5", "cut to 1", "set aside", (), voxels_of(FEW, "a_dseg.nii.gz"), role="labels"),
    Case("N26c", "label -1", "another label", "set aside", (), voxels_of(NEGATIVE, "a_dseg.nii.gz"), role="labels"),
    Case(
        "N27b",
        "voxels of 1000 mm",
        "read silently",
        "set aside",
        ("bad-spacing",),
        header_of(**rows([1000, 0, 0, 0], [0, 1000, 0, 0], [0, 0, 1000, 0])),
    ),
    Case(
        "N27c",
        "a geometry in metres",
        "a thousandth of the size",
        "warned",
        ("units",),
        header_of(xyzt_units=1, **rows([0.002, 0, 0, 0], [0, 0.002, 0, 0], [0, 0, 0.0025, 0])),
        check=two_millimetres,
    ),
    Case(
        "N27a",
        "voxels of 1 km",
        "read silently",
        "set aside",
        ("bad-spacing",),
        header_of(xyzt_units=1, **rows([1000, 0, 0, 0], [0, 1000, 0, 0], [0, 0, 1000, 0])),
    ),
]
