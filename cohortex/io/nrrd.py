"""NRRD files with the data attached: geometry through SimpleITK, voxels where they lie; an LPS world becomes RAS."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import check_affine, lps_to_ras
from cohortex.io.paths import check_file, shown_name, what_it_is
from cohortex.io.plain import DEFLATE_MAX_RATIO, Numbers, frame_of, gunzipped, size_of, unpacked
from cohortex.io.series import Frames, chosen_frames, framed, read_step
from cohortex.volume import ArrayLike, Volume

ORIENTED = ("left", "right", "las", "lps", "ras")
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
"""The names of http://teem.sourceforge.net/nrrd/format.html; a block of bytes has none."""
WAYS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
"""Encodings that are read in parts; ASCII, hexadecimal and bzip2 go through SimpleITK as a whole."""

SKIPS = {"line skip", "lineskip", "byte skip", "byteskip"}


def read_nrrd(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Read an attached NRRD file.

    Returns
    -------
    list of Volume
        Raw data are read a slice at a time when they are indexed; gzip data are decompressed here, into memory where the plan of
        `cohortex.blocks` lets them stay and else into a scratch file. Other encodings, of small files, are in memory.

    Raises
    ------
    BadInput
        ``not-nrrd``, ``bad-header``, ``detached-data``, ``no-affine`` (no space, or none that is anatomical),
        ``unsupported-type``, ``truncated``, ``corrupt``, those of `check_affine`.
    Skip
        ``four-d`` by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    size = check_file(path, name)
    fields, begin = _fields(path, name)
    sizes, dtype = _checked(fields, begin, size, name)
    reader = _reader(path, name)
    components, dimension = int(reader.GetNumberOfComponents()), int(reader.GetDimension())
    if dimension not in (2, 3) or (components == 1 and len(sizes) > 3):
        raise BadInput("bad-header", f"{name} has {len(sizes)} axes in an order that is no series of volumes: write it as NIfTI.")
    chosen_frames(components, frames, name)
    affine = np.eye(4)
    direction = np.array(reader.GetDirection()).reshape(dimension, dimension)
    affine[:dimension, :dimension] = direction * np.array(reader.GetSpacing())
    affine[:dimension, 3] = reader.GetOrigin()
    affine = check_affine(lps_to_ras(affine), name)
    shape = (*(int(n) for n in reader.GetSize()), *(1,) * (3 - dimension))
    if prod(shape) * components != prod(sizes):
        raise BadInput("bad-header", f"{name} has sizes that are read in two ways: write it again.")
    # an axis without a direction in space is that of the components, which SimpleITK puts first
    axes = re.findall(r"none|\([^)]*\)", fields["space directions"].lower())
    at = axes.index("none") if components > 1 and "none" in axes else 0
    parts = fields["encoding"].lower() in WAYS and not SKIPS & set(fields) and at in (0, len(sizes) - 1)
    if parts:
        numbers = _numbers(path, begin, fields, dtype, sizes, name)

        def frame(index: int) -> ArrayLike:
            return frame_of(numbers, shape, index, components, interleaved=components > 1 and at == 0)
    else:
        frame = _through_itk(reader, components, dimension, name)
    return framed(frame, components, frames, affine, role, name, read_step("nrrd"))


def _fields(path: Path, name: str) -> tuple[dict[str, str], int]:
    """Return what the header says, and where the data begin."""
    with path.open("rb") as file:
        start = file.read(2**20)
    if not start.startswith(b"NRRD000"):
        raise BadInput("not-nrrd", f"{name} is {what_it_is(start)}, not NRRD: give an attached .nrrd file.")
    ends = [(start.find(blank), len(blank)) for blank in (b"\n\n", b"\r\n\r\n") if blank in start]
    if not ends:
        raise BadInput("truncated", f"{name} ends inside its header or is detached from its data: copy it again from its source.")
    end, blank = min(ends)
    fields: dict[str, str] = {}
    for line in start[:end].decode("utf-8", "replace").splitlines()[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[key.strip().lower()] = value.strip()
    return fields, end + blank


def _checked(fields: dict[str, str], begin: int, size: int, name: str) -> tuple[list[int], np.dtype]:
    """Return the length along every axis and the type of the values, checked against the size of the file."""
    if "data file" in fields or "datafile" in fields:
        raise BadInput("detached-data", f"{name} keeps its voxels in another file: write it with the data attached.")
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
        kind = fields["type"].lower()
        encoding = fields["encoding"].lower()
    except (KeyError, ValueError):
        raise BadInput("bad-header", f"{name} lacks sizes, type or encoding in its header: write it again.") from None
    if not 2 <= len(sizes) <= 4 or min(sizes) < 1:
        raise BadInput("bad-header", f"{name} declares the shape {'x'.join(map(str, sizes))}: write it again.")
    if kind not in TYPES:
        raise BadInput("unsupported-type", f"{name} holds values that are no plain numbers: write it as one of {', '.join(TYPES)}.")
    if fields.get("space", "").split("-")[0].lower() not in ORIENTED and fields.get("space", "").lower() not in ORIENTED:
        raise BadInput("no-affine", f"{name} does not say where its voxels lie (no anatomical `space`): write its geometry.")
    if "space directions" not in fields or "space origin" not in fields:
        raise BadInput("no-affine", f"{name} does not say where its voxels lie (no `space directions` or origin): write its geometry.")
    most = (size - begin) * (1 if WAYS.get(encoding) == "raw" else DEFLATE_MAX_RATIO)
    if size_of(sizes, TYPES[kind]) > most:
        raise BadInput("truncated", f"{name} declares more voxels than the file can hold: copy it again from its source.")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    return sizes, np.dtype(order + TYPES[kind])


def _numbers(path: Path, begin: int, fields: dict[str, str], dtype: np.dtype, sizes: list[int], name: str) -> Numbers:
    if WAYS[fields["encoding"].lower()] == "raw":
        return Numbers(path, begin, dtype, name)
    with path.open("rb") as raw:
        raw.seek(begin)
        with gunzipped(raw, name) as content:
            return Numbers(unpacked(content, prod(sizes) * dtype.itemsize, name), 0, dtype, name)


def _reader(path: Path, name: str) -> Any:
    """Return SimpleITK's reader, which has read the header."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise BadInput("corrupt", f"{name} cannot be read as NRRD (damaged or truncated data): copy it again from its source.") from None
    if "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        raise BadInput("unsupported-type", f"{name} holds complex values: convert it to real numbers.")
    return reader


def _through_itk(reader: Any, components: int, dimension: int, name: str) -> Any:
    import SimpleITK

    try:
        # the view stays valid because `image` outlives it: every frame is copied out below
        image = reader.Execute()
    except RuntimeError:
        raise BadInput("corrupt", f"{name} cannot be read as NRRD (damaged or truncated data): copy it again from its source.") from None

    def frame(index: int) -> np.ndarray:
        view = SimpleITK.GetArrayViewFromImage(image)
        array = np.array(view[..., index] if components > 1 else view).T
        return array if dimension == 3 else array[:, :, None]

    return frame
