"""Memory and time of acquisition, format by format, held in memory and in slabs: `python -m benchmarks.acquire`.

Every format holds the same volume of noise, 256^3 voxels (64 MiB as float32, which is what the resources of a job are reckoned in). A row
is what a job does with an image: acquire, previews, the file of the next stage and its hash. Peak memory is the growth of the process's
resident set, pages of mapped files included, after a small file of the same format has been through; CPU seconds are those of one thread.
The files must be equal byte for byte whatever the plan.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLANS = {"in memory": 2**20, "in slabs": 64}
"""Name and memory_mb."""


def nifti(path: Path, values: np.ndarray, slope: float = 1.0) -> None:
    """Write NIfTI as a scanner's converter does, whatever its type."""
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_sform(np.eye(4), 1)
    header["scl_slope"], header["magic"], header["vox_offset"] = slope, b"n+1", 352
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(values.shape[-1]):
            file.write(values[..., z].tobytes("F"))


def itk(path: Path, values: np.ndarray, packed: bool) -> None:
    """Write what SimpleITK writes."""
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T)), str(path), useCompression=packed)


def dicom(path: Path, values: np.ndarray, frames: bool) -> None:
    """Write a CT as one file a slice, or as one enhanced file."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def part(**tags: Any) -> Any:
        made = Dataset()
        for keyword, value in tags.items():
            setattr(made, keyword, value)
        return Sequence([made])

    def file(pixels: np.ndarray, count: int) -> FileDataset:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        made.SOPClassUID, made.SOPInstanceUID, made.SeriesInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID, "1.2.3"
        made.PatientID, made.Modality, made.NumberOfFrames = "1", "CT", count
        made.Rows, made.Columns, made.SamplesPerPixel, made.PhotometricInterpretation = *values.shape[1::-1], 1, "MONOCHROME2"
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        made.RescaleSlope, made.RescaleIntercept, made.PixelSpacing = 1, 0, [1, 1]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.PixelData = pixels.tobytes()
        return made

    slices = np.ascontiguousarray(values.T)
    if frames:
        made = file(slices, len(slices))
        made.PerFrameFunctionalGroupsSequence = Sequence(
            [part(PlanePositionSequence=part(ImagePositionPatient=[0, 0, z]))[0] for z in range(len(slices))]
        )
        made.save_as(path, enforce_file_format=True)
        return
    path.mkdir()
    for z, pixels in enumerate(slices):
        made = file(pixels, 1)
        made.ImagePositionPatient = [0, 0, z]
        made.save_as(path / f"{z:04d}.dcm", enforce_file_format=True)


def fastmri(path: Path, values: np.ndarray) -> None:
    """Write k-space of four coils."""
    import h5py

    from cohortex.physics.fourier import centred_fft

    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", (values.shape[2], 4, *values.shape[1::-1]), np.complex64)
        for z in range(values.shape[2]):
            data[z] = centred_fft(np.repeat(values[:, :, z].T[None].astype(np.complex64), 4, 0), axes=(1, 2))


def zarred(path: Path, values: np.ndarray) -> None:
    """Write OME-Zarr in chunks of 64 voxels."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}],
    }
    group.create_array("0", data=np.ascontiguousarray(values.T), chunks=(64, 64, 64))


def tiff(path: Path, values: np.ndarray) -> None:
    """Write a compressed stack of pages."""
    import tifffile

    tifffile.imwrite(path, np.ascontiguousarray(values.T), compression="zlib", photometric="minisblack")


FORMATS: dict[str, tuple[str, str, str, Callable[[Path, np.ndarray], None]]] = {
    "NIfTI int16": ("a.nii", "image", "skip", nifti),
    "NIfTI float32, gzip": ("a.nii.gz", "image", "skip", lambda p, v: nifti(p, v.astype(np.float32))),
    "NIfTI int16 scaled, gzip": ("a.nii.gz", "image", "skip", lambda p, v: nifti(p, v, 0.3)),
    "NIfTI int16 x 6, gzip, mean": ("a.nii.gz", "image", "mean", lambda p, v: nifti(p, np.broadcast_to(v[..., None], (*v.shape, 6)))),
    "NIfTI int16 x 6, gzip, each": ("a.nii.gz", "image", "each", lambda p, v: nifti(p, np.broadcast_to(v[..., None], (*v.shape, 6)))),
    "labels uint8, gzip": ("a.nii.gz", "labels", "skip", lambda p, v: nifti(p, (v & 63).astype(np.uint8))),
    "labels float64, gzip": ("a.nii.gz", "labels", "skip", lambda p, v: nifti(p, (v & 1023).astype(np.float64))),
    "NRRD int16": ("a.nrrd", "image", "skip", lambda p, v: itk(p, v, False)),
    "NRRD int16, gzip": ("a.nrrd", "image", "skip", lambda p, v: itk(p, v, True)),
    "MetaImage int16, zlib": ("a.mha", "image", "skip", lambda p, v: itk(p, v, True)),
    "DICOM, a file a slice": ("a", "image", "skip", lambda p, v: dicom(p, v, False)),
    "DICOM, enhanced": ("a.dcm", "image", "skip", lambda p, v: dicom(p, v, True)),
    "k-space, 4 coils": ("a.h5", "image", "skip", fastmri),
    "TIFF uint16, zlib": ("a.tif", "image", "skip", lambda p, v: tiff(p, v.astype(np.uint16))),
    "OME-Zarr int16": ("a.zarr", "image", "skip", zarred),
}
"""File, role, what to do with a series, and who writes it."""


def work(form: str, folder: Path, memory_mb: int) -> None:
    """Do what a job does with one image, and print what it took."""
    from cohortex.blocks import Plan, set_plan
    from cohortex.items import Image, Made
    from cohortex.report.previews import orthogonal_views
    from cohortex.stages.acquire import acquire
    from cohortex.threads import set_threads
    from cohortex.volume import Volume
    from cohortex.worker import write_content

    set_threads(1)
    set_plan(Plan(memory_mb=memory_mb, scratch=folder))
    name, role, series, _ = FORMATS[form]

    def run(source: Path) -> str:
        image = Image("1_x", "1", "", "MR", "image" if role == "image" else "labels", role, row={"path": str(source)})
        found = acquire(image, {"volume": series, "spacing_mm": [1, 1, 1]}, None, 0)
        hashes = []
        for made in [found] if isinstance(found, Made) else found:
            if isinstance(made.content, Volume):
                hashes.append(write_content(folder / "out.ozx", made.content, 1))
                orthogonal_views(made.content)
        return "-".join(hashes)

    run(folder / "small" / name)
    # from here on, the high-water mark counts
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _status("VmRSS"), time.process_time()
    digest = run(folder / "large" / name)
    print(json.dumps({"peak_mb": (_status("VmHWM") - before) / 1024, "seconds": time.process_time() - start, "sha256": digest}))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def child(form: str, folder: Path, memory_mb: int) -> dict[str, Any]:
    """Run `work` in a process of its own."""
    line = [sys.executable, "-m", "benchmarks.acquire", "--work", form, str(folder), str(memory_mb)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--work", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]), int(options.work[2]))
        return
    # a few bits of noise, so that compressed files are what scans are
    values = np.random.default_rng(0).integers(0, 64, (options.edge,) * 3, dtype=np.int16) + np.int16(1000)
    size_mb = values.size * 4 / 2**20
    print(f"{options.edge}^3 voxels, {size_mb:.0f} MiB as float32\n{'':30}" + "".join(f"{name:>34}" for name in PLANS))
    worst, equal = 0.0, True
    for form, (name, _, _, write) in FORMATS.items():
        if options.only not in form:
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            folder = Path(temporary)
            for place, data in (("small", values[:16, :16, :16]), ("large", values)):
                (folder / place).mkdir()
                write(folder / place / name, data)
            found = [child(form, folder, memory_mb) for memory_mb in PLANS.values()]
        worst = max(worst, found[0]["peak_mb"] / size_mb)
        equal = equal and len({each["sha256"] for each in found}) == 1
        rows = [f"{each['peak_mb']:9.0f} MiB ({each['peak_mb'] / size_mb:5.2f}x) {each['seconds']:7.2f} s" for each in found]
        print(f"{form:30}" + "".join(f"{row:>34}" for row in rows), flush=True)
    print(f"FIGURE acquire_memory={worst:.2f} acquire_equal={int(equal)}")


if __name__ == "__main__":
    main()
