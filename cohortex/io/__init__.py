"""Foreign files in, volumes out: one function chooses the reader by what a path is.

Nothing here knows torch, and every reader is imported only when a path needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cohortex.errors import BadInput
from cohortex.io.paths import check_file, shown_name, what_it_is
from cohortex.io.series import Frames
from cohortex.volume import Volume

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def read(
    path: Path,
    role: str = "image",
    frames: Frames = "skip",
    name: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    missing_chunks: str = "refuse",
    burned_in: str = "refuse",
) -> list[Volume]:
    """Read what is at a path: NIfTI, DICOM (a file, a folder, a list of files), OME-Zarr, TIFF, NRRD, MetaImage, raw data, a picture, .ozx.

    Parameters
    ----------
    path : Path
        A file, a folder of DICOM files or an OME-Zarr image, or a ``.series``: a text file with the paths of a series' DICOM
        files, one a line and relative to it (`cohortex index` writes them).
    role : {"image", "mask", "labels"}
        Masks and labels keep their integers; they become volumes of kind labels.
    frames : {"skip", "first", "mean", "each"}
        What to do with a series of volumes.
    name : str, optional
        How messages call the path; its last two parts by default.
    spacing_mm : three floats, optional
        Voxel size of OME-Zarr images and TIFF stacks that do not say it themselves, and of projections.
    missing_chunks : {"refuse", "fill"}
        Whether chunks that an OME-Zarr folder lacks may stand for its fill value.
    burned_in : {"refuse", "take"}
        What to do with DICOM pictures that say to have text in their pixels, and with captures of screens.

    Returns
    -------
    list of Volume
        One, or several for a series with ``each``. Their data are read when they are indexed, a chunk or a slice at a time
        (`cohortex.io.stored`, `cohortex.io.slices`); pictures are in memory, and so is what was compressed as one stream where the plan of
        `cohortex.blocks` lets it stay. Their first history entry says how they were read and what was odd
        (`cohortex.io.series.notes_of`, after `settled`).

    Raises
    ------
    BadInput
        What is there cannot be used; also while the data are read.
    Skip
        It is a series and the policy is to skip those.
    """
    path = Path(path)
    name = name or shown_name(path)
    if path.is_dir():
        from cohortex.io.ome_zarr import is_ome_zarr, read_ome_zarr

        if is_ome_zarr(path):
            return read_ome_zarr(path, role, frames, name, spacing_mm, missing_chunks)
        from cohortex.io.dicom import read_dicom

        return read_dicom(path, role, frames, name, burned_in)
    last = path.suffix.lower()
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from cohortex.io.nifti import read_nifti_series

        return read_nifti_series(path, role, frames, name)
    if last == ".ozx":
        from cohortex.io.ozx import read_ozx

        return [read_ozx(path, name)]
    if last == ".series":
        from cohortex.io.dicom import read_dicom

        check_file(path, name)
        files = [path.parent / line for line in path.read_text(encoding="utf-8").splitlines() if line]
        return read_dicom(files, role, frames, name, burned_in)
    if last == ".nrrd":
        from cohortex.io.nrrd import read_nrrd

        return read_nrrd(path, role, frames, name)
    if last in (".mha", ".mhd"):
        from cohortex.io.metaimage import read_metaimage

        return read_metaimage(path, role, frames, name)
    if last in (".h5", ".hdf5", ".npy"):
        from cohortex.io.kspace import read_raw

        return read_raw(path, role, frames, name, spacing_mm)
    if last in (".tif", ".tiff"):
        from cohortex.io.tiff import is_stack, read_tiff

        if is_stack(path, name):
            return read_tiff(path, role, frames, name, spacing_mm)
    if last in PICTURES:
        from cohortex.io.pictures import read_picture

        return read_picture(path, role, frames, name)
    check_file(path, name)
    with path.open("rb") as file:
        start = file.read(512)
    if start[128:132] == b"DICM":
        from cohortex.io.dicom import read_dicom

        return read_dicom(path, role, frames, name, burned_in)
    raise BadInput(
        "unknown-format",
        f"{name} is {what_it_is(start)} with an ending that no reader takes: "
        "give NIfTI, DICOM, OME-Zarr, TIFF, NRRD, MetaImage, raw data (.h5, .npy) or a picture.",
    )
