"""Every way in which the file of a volume can be wrong ends in words that name it, in memory and in slabs, and never in zeros."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from cohortex.blocks import Plan, planned
from cohortex.errors import BadInput
from cohortex.items import Image
from cohortex.stages.acquire import acquire
from tests.unit.test_acquire_lazy import nifti, through_itk
from tests.unit.test_io_dicom import enhanced
from tests.unit.test_io_dicom import series as dicom_series
from tests.unit.test_io_ome_zarr import chunks, edited, saved

RNG = np.random.default_rng(0)
VALUES = RNG.integers(1, 4000, (20, 33, 26)).astype(np.uint16)


def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def flipped(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        content = bytearray(data)
        content[at] ^= 0x55
        return bytes(content)

    return change


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def one_chunk(path: Path, change: Callable[[Path], Any]) -> Path:
    change(chunks(path)[-1])
    return path


def larger(path: Path, file: str = "0/zarr.json") -> Path:
    return edited(path, file, lambda c: c.update(shape=[40, 33, 26]))


def one_file(folder: Path, **tags: Any) -> Path:
    """Write a series of which the tags of one file are changed behind the back of its pixels."""
    series = dicom_series(folder / "a")
    for path in sorted(series.iterdir()):
        made = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(made, keyword, value)
        made.save_as(path, enforce_file_format=True)
    return series


def packed(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    series = dicom_series(folder / "a")
    for path in sorted(series.iterdir()):
        made = pydicom.dcmread(path)
        made.compress(RLELossless)
        made.save_as(path, enforce_file_format=True)
    changed(series / "s003.dcm", change)
    return series


def syntax(folder: Path, uid: bytes) -> Path:
    """Write a series that says to be in another transfer syntax."""
    series = dicom_series(folder / "a")
    for path in sorted(series.iterdir()):
        made = pydicom.dcmread(path)
        made.file_meta.TransferSyntaxUID = uid.decode()
        made.PixelData = encapsulate([made.PixelData])
        made["PixelData"].VR = "OB"
        pydicom.dcmwrite(path, made, implicit_vr=False, little_endian=True, force_encoding=True)
    return series


def fewer_frames(folder: Path) -> Path:
    made = enhanced(range(8))
    made.PixelData = made.PixelData[: len(made.PixelData) * 3 // 4]
    made.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


def tall(path: Path, tag: str) -> Path:
    tifffile.imwrite(path, VALUES, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:
            page.tags[tag].overwrite(page.tags[tag].value * 4)  # type: ignore[union-attr]
    return path


def nii(path: Path, shape: tuple[int, ...] = (20, 33, 26)) -> Path:
    """Write a file that declares a shape and holds 20 x 33 x 26 voxels."""
    import nibabel as nib

    nifti(path, VALUES, np.eye(4))
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    header = nib.nifti1.Nifti1Header(bytes(content[:348]), check=False)
    header["dim"][1:4] = shape
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def nrrd(path: Path, compress: bool, change: Callable[[bytes], bytes]) -> Path:
    return changed(through_itk(path, VALUES, np.eye(4), compress), change)


def taller(data: bytes) -> bytes:
    assert b"sizes: 20 33 26" in data
    return data.replace(b"sizes: 20 33 26", b"sizes: 20 33 27")


CRC = [ZstdCodec(), Crc32cCodec()]
SHARDED: dict[str, Any] = {"compressors": [GzipCodec()], "chunks": (8, 16, 16), "shards": (16, 32, 32)}

CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zarr 2: chunk missing": (lambda d: one_chunk(saved(d / "a.zarr", VALUES, "0.4"), Path.unlink), "missing-chunks"),
    "zarr 3: chunk missing": (lambda d: one_chunk(saved(d / "a.zarr", VALUES), Path.unlink), "missing-chunks"),
    "zarr 3: shard missing": (lambda d: one_chunk(saved(d / "a.zarr", VALUES, **SHARDED), Path.unlink), "missing-chunks"),
    "zarr 3: checksum of a chunk": (
        lambda d: one_chunk(saved(d / "a.zarr", VALUES, compressors=CRC), lambda p: changed(p, flipped(-1))),
        "corrupt",
    ),
    "zarr 3: bit of a chunk": (
        lambda d: one_chunk(saved(d / "a.zarr", VALUES, compressors=CRC), lambda p: changed(p, flipped(90))),
        "corrupt",
    ),
    "zarr 2: chunk cut": (lambda d: one_chunk(saved(d / "a.zarr", VALUES, "0.4"), lambda p: changed(p, cut)), "corrupt"),
    "zarr 3: chunk cut": (
        lambda d: one_chunk(saved(d / "a.zarr", VALUES, compressors=[BloscCodec()]), lambda p: changed(p, cut)),
        "corrupt",
    ),
    "zarr 3: shard cut": (lambda d: one_chunk(saved(d / "a.zarr", VALUES, **SHARDED), lambda p: changed(p, cut)), "corrupt"),
    "zarr 2: larger shape": (lambda d: larger(saved(d / "a.zarr", VALUES, "0.4"), "0/.zarray"), "missing-chunks"),
    "zarr 3: larger shape": (lambda d: larger(saved(d / "a.zarr", VALUES)), "missing-chunks"),
    "zarr 2: unknown codec": (
        lambda d: edited(saved(d / "a.zarr", VALUES, "0.4"), "0/.zarray", lambda c: c.update(compressor={"id": "zfpy"})),
        "unknown-codec",
    ),
    "zarr 3: unknown codec": (
        lambda d: edited(saved(d / "a.zarr", VALUES), "0/zarr.json", lambda c: c["codecs"].append({"name": "zfp"})),
        "unknown-codec",
    ),
    "NIfTI: larger shape": (lambda d: nii(d / "a.nii", (20, 33, 27)), "truncated"),
    "NIfTI: absurd shape": (lambda d: nii(d / "a.nii.gz", (32000, 32000, 32000)), "truncated"),
    "NIfTI gzip: larger shape": (lambda d: nii(d / "a.nii.gz", (20, 33, 27)), "truncated"),
    "NIfTI gzip: cut": (lambda d: changed(nii(d / "a.nii.gz"), cut), "truncated"),
    "NIfTI gzip: checksum": (lambda d: changed(nii(d / "a.nii.gz"), flipped(-7)), "corrupt"),
    "NIfTI gzip: length": (lambda d: changed(nii(d / "a.nii.gz"), flipped(-2)), "corrupt"),
    "NIfTI gzip: garbage behind": (lambda d: changed(nii(d / "a.nii.gz"), lambda data: data + b"garbage" * 20), "corrupt"),
    "NRRD: larger shape": (lambda d: nrrd(d / "a.nrrd", False, taller), "truncated"),
    "NRRD gzip: larger shape": (lambda d: nrrd(d / "a.nrrd", True, taller), "truncated"),
    "NRRD: cut": (lambda d: nrrd(d / "a.nrrd", False, cut), "truncated"),
    "NRRD gzip: cut": (lambda d: nrrd(d / "a.nrrd", True, cut), "truncated"),
    "NRRD gzip: checksum": (lambda d: nrrd(d / "a.nrrd", True, flipped(-7)), "corrupt"),
    "NRRD gzip: garbage behind": (lambda d: nrrd(d / "a.nrrd", True, lambda data: data + b"garbage" * 20), "corrupt"),
    "NRRD: unknown encoding": (
        lambda d: nrrd(d / "a.nrrd", False, lambda data: data.replace(b"encoding: raw", b"encoding: zst")),
        "corrupt",
    ),
    "TIFF: more rows than pixels": (lambda d: tall(d / "a.tif", "ImageLength"), "truncated|corrupt"),
    "TIFF: more columns than pixels": (lambda d: tall(d / "a.tif", "ImageWidth"), "truncated|corrupt"),
    "DICOM: more rows than pixels": (lambda d: one_file(d, Rows=14), "truncated"),
    "DICOM: more columns than pixels": (lambda d: one_file(d, Columns=12), "truncated"),
    "DICOM: absurd rows and columns": (lambda d: one_file(d, Rows=65535, Columns=65535), "truncated"),
    "DICOM: fewer frames than declared": (fewer_frames, "truncated"),
    "DICOM: transfer syntax without a decoder": (lambda d: syntax(d, b"1.2.840.10008.1.2.4.100"), "no-decoder"),
    "DICOM: unknown transfer syntax": (lambda d: syntax(d, b"1.2.840.10008.1.2.77"), "no-decoder"),
    "DICOM: compressed pixels cut": (lambda d: packed(d, lambda data: data[:-60]), "truncated|corrupt-pixels"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_refused_with_its_name_and_what_to_do(tmp_path: Path, case: str) -> None:
    make, code = CASES[case]
    path = make(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    told = []
    for role, plan in (("image", Plan()), ("image", Plan(threads=2, memory_mb=0, scratch=scratch)), ("labels", Plan())):
        image = Image("1_x", "1", "", "MR", "image" if role == "image" else "labels", role, row={"path": str(path)})
        with planned(plan), pytest.raises(BadInput) as caught:
            acquire(image, {"spacing_mm": [1, 1, 1]}, None, 0)
        assert caught.value.code in code.split("|")
        told.append(caught.value.sentence)
        del caught
    # the file or the series it is in, what is wrong, and what to do
    assert path.name in told[0] or any(file.name in told[0] for file in path.iterdir())
    assert ": " in told[0]
    assert str(tmp_path.parent) not in told[0]
    assert told[0] == told[1] == told[2]
    shutil.rmtree(path, ignore_errors=True)
    assert not list(scratch.iterdir())
