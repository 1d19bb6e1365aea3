"""MetaImage files (``.mha``, ``.mhd``), voxels where they lie; their LPS world becomes RAS.

https://itk.org/Wiki/ITK/MetaIO/Documentation. A ``.mhd`` has its voxels in a file beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import check_affine, lps_to_ras
from cohortex.io.paths import check_file, names_hidden, shown_name, what_it_is
from cohortex.io.plain import DEFLATE_MAX_RATIO, Inflated, Numbers, frame_of, size_of, unpacked
from cohortex.io.series import Frames, chosen_frames, framed, read_step
from cohortex.volume import ArrayLike, Volume

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""MET_LONG has as many bytes as the machine that wrote it likes, so it is none of them."""
MAX_HEADER_BYTES = 2**20
MATRIX = ("TransformMatrix", "Rotation", "Orientation")
ORIGIN = ("Offset", "Position", "Origin")


def read_metaimage(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Read a MetaImage of two to four axes.

    Returns
    -------
    list of Volume
        Plain data are read a slice at a time when they are indexed; compressed data are decompressed here, into memory where the plan of
        `cohortex.blocks` lets them stay and else into a scratch file. Channels, and a fourth axis, are several volumes.

    Raises
    ------
    BadInput
        ``not-metaimage``, ``bad-header``, ``no-affine``, ``unsupported-type``, ``detached-data`` (slices in files of their own, or a file
        elsewhere), ``truncated``, ``corrupt``, those of `check_affine`.
    Skip
        ``four-d`` by policy.
    """
    path = Path(path)
    name = name or shown_name(path)
    size = check_file(path, name)
    told, begin = _fields(path, name)
    sizes, channels, dtype = _layout(told, name)
    place, begin, size, shown = _place(path, told, begin, size, name)
    affine = check_affine(lps_to_ras(_affine(told, len(sizes), name)), name)
    shape = (*sizes[:3], *(1,) * (3 - len(sizes)))
    times = sizes[3] if len(sizes) == 4 else 1
    if channels > 1 and times > 1:
        raise BadInput("not-an-image", f"{name} has {channels} channels at {times} times: give an image, or a series of images.")
    chosen_frames(channels * times, frames, name)
    wanted = size_of(sizes, dtype) * channels
    packed = _yes(told, "CompressedData")
    if wanted > (size - begin) * (DEFLATE_MAX_RATIO if packed else 1):
        raise BadInput("truncated", f"{name} declares more voxels than {shown} can hold: copy it again from its source.")
    if packed:
        with place.open("rb") as raw:
            raw.seek(begin)
            numbers = Numbers(unpacked(Inflated(raw, shown), wanted, shown), 0, dtype, shown)
    else:
        numbers = Numbers(place, begin, dtype, shown)

    def frame(index: int) -> ArrayLike:
        return frame_of(numbers, shape, index, channels * times, interleaved=channels > 1)

    return framed(frame, channels * times, frames, affine, role, name, read_step("metaimage"))


def _fields(path: Path, name: str) -> tuple[dict[str, str], int]:
    """Return what the header says, and where it ends: behind the line that names the file of the data."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    at = 0
    while (end := start.find(b"\n", at)) >= 0:
        key, equals, value = start[at:end].decode("utf-8", "replace").partition("=")
        at = end + 1
        if not equals:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return fields, at
    if "NDims" not in fields and "ObjectType" not in fields:
        raise BadInput("not-metaimage", f"{name} is {what_it_is(start)}, not a MetaImage: give a .mha file.")
    if "ElementDataFile" not in fields and b"ElementDataFile" in start[at:]:
        # a .mhd may end without a last line break
        return {**fields, "ElementDataFile": start[at:].decode("utf-8", "replace").partition("=")[2].strip()}, len(start)
    raise BadInput("truncated", f"{name} ends inside its header: copy it again from its source.")


def _yes(told: Mapping[str, str], *keys: str) -> bool:
    return any(told.get(key, "").lower() in ("true", "1") for key in keys)


def _layout(told: Mapping[str, str], name: str) -> tuple[tuple[int, ...], int, np.dtype]:
    """Return the lengths along the axes, the number of channels, and the type of the values."""
    try:
        sizes = tuple(int(n) for n in told["DimSize"].split())
        channels = int(told.get("ElementNumberOfChannels", "1"))
        kind = told["ElementType"]
        if len(sizes) != int(told["NDims"]) or not 2 <= len(sizes) <= 4 or min(*sizes, channels) < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise BadInput("bad-header", f"{name} lacks usable NDims, DimSize or ElementType in its header: write it again.") from None
    if kind not in TYPES or not _yes(told, "BinaryData"):
        what = "text" if kind in TYPES else "values that are no plain numbers of a known size"
        raise BadInput("unsupported-type", f"{name} holds {what}: write it binary, as one of {', '.join(TYPES)}.")
    order = ">" if _yes(told, "BinaryDataByteOrderMSB", "ElementByteOrderMSB") else "<"
    return sizes, channels, np.dtype(order + TYPES[kind])


def _affine(told: Mapping[str, str], dimension: int, name: str) -> np.ndarray:
    """Return the affine in LPS mm; of a series its first three axes."""
    found: list[Any] = []
    for keys, count in ((MATRIX, dimension**2), (ORIGIN, dimension), (("ElementSpacing", "ElementSize"), dimension)):
        text = next((told[key] for key in keys if key in told), None)
        if text is None:
            raise BadInput("no-affine", f"{name} does not say where its voxels lie (no {keys[0]}): write its geometry.")
        try:
            values = np.array([float(word) for word in text.split()])
        except ValueError:
            values = np.zeros(0)
        if values.size != count:
            raise BadInput("bad-header", f"{name} has a {keys[0]} that is not {count} numbers: write it again.")
        found.append(values)
    matrix, origin, spacing = found
    used = min(dimension, 3)
    affine = np.eye(4)
    # the directions of the axes are the rows in the file
    affine[:used, :used] = matrix.reshape(dimension, dimension)[:used, :used].T * spacing[:used]
    affine[:used, 3] = origin[:used]
    return affine


def _place(path: Path, told: Mapping[str, str], begin: int, size: int, name: str) -> tuple[Path, int, int, str]:
    """Return the file of the data, where they begin in it, its size, and how messages call it."""
    where = told["ElementDataFile"]
    if where.upper() == "LOCAL":
        return path, begin, size, name
    if where.upper().startswith("LIST") or "%" in where or "\0" in where or Path(where).name != where or where in ("", ".", ".."):
        raise BadInput("detached-data", f"{name} keeps its voxels in several files or in another folder: write it as one .mha.")
    shown = shown_name(path.with_name(where)) if names_hidden() else name[: len(name) - len(path.name)] + where
    size = check_file(path.with_name(where), shown)
    try:
        skipped = int(told.get("HeaderSize", "0"))
    except ValueError:
        skipped = -2
    if skipped < -1 or skipped > size:
        raise BadInput("bad-header", f"{name} has an impossible HeaderSize: write it again.")
    if skipped == -1:
        # the data are the end of the file
        sizes, channels, dtype = _layout(told, name)
        skipped = max(0, size - size_of(sizes, dtype) * channels)
    return path.with_name(where), skipped, size, shown
