"""TIFF files of several pages as volumes that are read page by page when they are indexed (micro-CT, light-sheet, ImageJ, OME-TIFF).

The chain of pages is followed to its end, and every strip must lie inside the file, before an image is believed. The voxel size is that of
ImageJ's or OME's metadata (Schneider et al., Nature Methods 9, 2012; Goldberg et al., Genome Biology 6, 2005) and is never guessed.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import FINEST_MICROSCOPY_MM, centred_affine, check_affine
from cohortex.io.ome_zarr import UNITS_MM
from cohortex.io.paths import check_file, shown_name, shown_text, what_it_is
from cohortex.io.plain import Numbers
from cohortex.io.series import Frames, framed, read_step
from cohortex.io.slices import Slices
from cohortex.volume import Volume

HEADERS = {b"II*\0": ("<", 4), b"MM\0*": (">", 4), b"II+\0": ("<", 8), b"MM\0+": (">", 8)}
# what is odd about a file is said in one sentence, not once a tag
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
MAX_PAGES = 2**20
MAX_PAGE_BYTES = 2**32
OWN_CODECS = (1, 8, 32946)
"""No compression, and deflate under its two numbers: what tifffile decodes by itself; the others go through Pillow."""
WRONG = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    struct.error,
    OverflowError,
    ZeroDivisionError,
    RuntimeError,
    AssertionError,
)
"""What tifffile raises on damaged files, beside its own error, which is a ValueError or an Exception of the name TiffFileError."""


@dataclass(frozen=True)
class Stack:
    """Where the slices of one volume are in a TIFF file. It holds no open file.

    Attributes
    ----------
    size : (columns, rows)
    pages : tuple of int
        For every slice its page; with `raw`, the offsets of its pixels in the file.
    raw : np.dtype or None
        Type and byte order of pixels that lie uncompressed in the file.
    plain : bool
        Whether tifffile decodes the pages; otherwise Pillow.
    """

    path: Path
    name: str
    size: tuple[int, int]
    pages: tuple[int, ...]
    raw: np.dtype | None
    plain: bool

    def read(self, wanted: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield slices (x, y)."""
        width, height = self.size
        if self.raw is not None:
            for z in wanted:
                yield Numbers(self.path, self.pages[z], self.raw, self.name).run(0, width * height).reshape(height, width).T
            return
        for z, page in zip(wanted, (_decoded if self.plain else _by_pillow)(self, [self.pages[z] for z in wanted]), strict=True):
            if page is None or page.shape != (height, width):
                raise BadInput("corrupt", f"{self.name} is damaged: slice {z} cannot be decoded: copy it again from its source.")
            yield page.T


def _decoded(stack: Stack, pages: Sequence[int]) -> Any:
    import tifffile

    with tifffile.TiffFile(stack.path, _multifile=False) as tif:
        for number in pages:
            try:
                page = tif.pages[number]
                # before anything of the size that this page declares for itself is allocated
                yield np.asarray(page.asarray()) if tuple(page.shape) == (stack.size[1], stack.size[0]) else None
            except Exception as error:
                if not isinstance(error, WRONG) and type(error).__name__ not in ("TiffFileError", "error"):
                    raise
                yield None


def _by_pillow(stack: Stack, pages: Sequence[int]) -> Any:
    from PIL import Image

    try:
        with Image.open(stack.path) as picture:
            for number in pages:
                picture.seek(number)
                yield np.asarray(picture)
    except (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError):
        yield None


def is_stack(path: Path, name: str) -> bool:
    """Tell whether a TIFF file holds more than one picture: several pages, or ImageJ's pixels behind a single one.

    Raises
    ------
    BadInput
        ``corrupt`` or ``truncated``, where the chain of pages leads nowhere.
    """
    size = check_file(path, name)
    with path.open("rb") as file:
        start = file.read(16)
        if start[:4] not in HEADERS:
            raise BadInput("corrupt", f"{name} is {what_it_is(start)}, not TIFF: save it again.")
        return _count_pages(file, size, name) > 1 or _imagej_images(path) > 1


def _count_pages(file: Any, size: int, name: str) -> int:
    """Follow the chain of pages to its end."""
    file.seek(0)
    start = file.read(16)
    order, width = HEADERS[start[:4]]
    word = order + ("I" if width == 4 else "Q")
    counter, entry = (order + "H", 12) if width == 4 else (order + "Q", 20)
    if len(start) < 2 * width:
        raise _cut(name)
    at, seen = struct.unpack(word, start[width : 2 * width])[0], set()
    while at:
        if at in seen or len(seen) >= MAX_PAGES:
            raise BadInput("corrupt", f"{name} has pages that lead in a circle: save it again.")
        seen.add(at)
        step = struct.calcsize(counter)
        if at + step > size:
            raise _cut(name)
        file.seek(at)
        entries = struct.unpack(counter, file.read(step))[0]
        after = at + step + entries * entry
        if after + width > size:
            raise _cut(name)
        file.seek(after)
        at = struct.unpack(word, file.read(width))[0]
    return len(seen)


def _cut(name: str) -> BadInput:
    return BadInput("truncated", f"{name} names pages beyond its end: copy it again from its source.")


def _imagej_images(path: Path) -> int:
    """Return how many pictures ImageJ says there are; above 4 GB it writes a single page for all."""
    with path.open("rb") as file:
        found = re.search(rb"ImageJ=[^\0]{0,200}?\nimages=(\d{1,9})\n", file.read(2**16))
    return int(found[1]) if found else 1


def read_tiff(
    path: Path,
    role: str = "image",
    frames: Frames = "skip",
    name: str | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> list[Volume]:
    """Open a TIFF file of several pages as a volume; parameters as in `cohortex.io.read`.

    Its values are grey, and the pages are slices along z unless ImageJ's or OME's metadata say that they are times.

    Returns
    -------
    list of Volume
        Like a picture a slice lies with its first row in front and its first column on the right, the first slice lowest, centred at the
        origin; a note says that this is assumed.

    Raises
    ------
    BadInput
        ``truncated``, ``corrupt``, ``mixed-geometry``, ``channels``, ``unsupported-type``, ``no-spacing``, ``too-large``,
        ``bad-axes``, those of `check_affine`.
    Skip
        ``four-d``: several times, by policy.
    """
    import tifffile

    path = Path(path)
    name = name or shown_name(path)
    size = check_file(path, name)
    with path.open("rb") as file:
        count = _count_pages(file, size, name)
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            series = _single_series(tif, count, name)
            axes, lengths = _axes(series, name)
            spacing, told = _spacing(tif, name)
            width, height = lengths.pop("X"), lengths.pop("Y")
            places = _places(tif, series, prod(lengths.values()), (height, width), size, name)
            page = series.keyframe
            # OME may name its planes in another order than that of the pages
            first = np.array([each.index for each in series.pages] if places is None else places)
            dtype, raw, plain = np.dtype(series.dtype), None, page.compression in OWN_CODECS and page.predictor in (1, 2)
            if places is not None:
                raw = dtype.newbyteorder("<" if tif.byteorder == "<" else ">")
    except BadInput:
        raise
    except Exception as error:
        if not isinstance(error, WRONG) and type(error).__name__ != "TiffFileError":
            raise
        raise BadInput("corrupt", f"{name} is a TIFF file whose pages cannot be understood: save it again.") from error
    if spacing is None:
        if spacing_mm is None:
            raise BadInput(
                "no-spacing", f"{name} does not say how large its voxels are (ImageJ or OME metadata): set `acquire: spacing_mm`."
            )
        spacing, told = (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])), "configuration"
    depth, times = lengths.get("Z", 1), lengths.get("T", 1)
    numbers = np.arange(depth * times).reshape([lengths[axis] for axis in axes if axis in lengths])
    if "".join(axis for axis in axes if axis in lengths) == "ZT":
        numbers = numbers.T
    numbers = numbers.reshape(times, depth)

    def frame(index: int) -> Slices:
        pages = tuple(int(page) for page in first[numbers[index]])
        return Slices((width, height, depth), dtype.newbyteorder("="), Stack(path, name, (width, height), pages, raw, plain).read)

    affine = check_affine(centred_affine((width, height, depth), spacing), name, FINEST_MICROSCOPY_MM)
    note = ("orientation-assumed", f"{name} does not say how it lies in the body; it was placed like a picture, its slices upwards.")
    return framed(frame, times, frames, affine, role, name, read_step("tiff", (note,), pixel_size=told, position="unknown, centred"))


def _single_series(tif: Any, count: int, name: str) -> Any:
    found = tif.series
    if len(found) != 1:
        shapes = sorted({"x".join(map(str, each.shape)) for each in found})
        raise BadInput("mixed-geometry", f"{name} has pages of different kinds ({', '.join(shapes[:4])}): save them as files of their own.")
    series = found[0]
    if series.dtype is None or np.dtype(series.dtype).kind not in "uif" or np.dtype(series.dtype).itemsize not in (1, 2, 4, 8):
        raise BadInput("unsupported-type", f"{name} holds values that are no plain numbers: save it as 8 or 16 bits a pixel.")
    if len(series.pages) not in (count, prod(series.shape[:-2])) or (len(series.pages) > 1 and len(series.pages) != count):
        raise BadInput("corrupt", f"{name} has {count} pages, but its metadata speak of {len(series.pages)}: save it again.")
    return series


def _axes(series: Any, name: str) -> tuple[str, dict[str, int]]:
    """Return the axes (Z and T, then Y and X) and their lengths."""
    lengths: dict[str, int] = {}
    for axis, length in zip(series.axes, series.shape, strict=True):
        # I, Q and R are pages of which nothing is said
        axis = "Z" if axis in "IQR" else axis
        if axis in ("C", "S") and length > 1:
            raise BadInput("channels", f"{name} holds {length} channels or colours: give each as an image of its own, in grey.")
        if length == 1 and axis not in "YX":
            continue
        if axis not in "TZYX" or axis in lengths:
            raise BadInput("bad-axes", f"{name} has the axes {series.axes}; known are T, Z, Y and X: save it as a plain stack.")
        lengths[axis] = int(length)
    axes = "".join(lengths)
    if not axes.endswith("YX"):
        raise BadInput("bad-axes", f"{name} has the axes {series.axes}; rows and columns must come last: save it as a plain stack.")
    return axes, lengths


def _places(tif: Any, series: Any, pages: int, page: tuple[int, int], size: int, name: str) -> list[int] | None:
    """Return where the pixels of each page begin, None where they are compressed or in pieces; all must lie inside the file."""
    count = prod(page) * np.dtype(series.dtype).itemsize
    if count > MAX_PAGE_BYTES:
        raise BadInput("too-large", f"{name} declares pages of {page[1]}x{page[0]} pixels: save it with smaller ones.")
    if series.dataoffset is not None and series.keyframe.compression == 1:
        if series.dataoffset + pages * count > size:
            raise _short(name, pages, count, size)
        return [series.dataoffset + i * count for i in range(pages)]
    places: list[int] | None = [] if series.keyframe.compression == 1 and not series.keyframe.is_tiled else None
    if len(series.pages) != pages:
        raise BadInput("corrupt", f"{name} has {len(series.pages)} pages where its metadata speak of {pages}: save it again.")
    for each in series.pages:
        offsets, lengths = each.dataoffsets, each.databytecounts
        if not offsets or len(offsets) != len(lengths) or min(lengths) <= 0 or min(offsets) <= 0:
            raise BadInput("corrupt", f"{name} has pages without pixels: save it again.")
        if max(offset + length for offset, length in zip(offsets, lengths, strict=True)) > size:
            raise _short(name, pages, count, size)
        joined = all(a + n == b for a, n, b in zip(offsets, lengths, offsets[1:], strict=False))
        places = [*places, offsets[0]] if places is not None and joined and sum(lengths) == count else None
    return places


def _short(name: str, pages: int, count: int, size: int) -> BadInput:
    return BadInput("truncated", f"{name} declares {pages} pages of {count} bytes but has {size} bytes: copy it again from its source.")


def _spacing(tif: Any, name: str) -> tuple[tuple[float, float, float] | None, str]:
    """Return the voxel size in mm along x, y and z and who says it; None where nobody does."""
    if tif.is_ome:
        found = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata or "")
        told = dict(re.findall(r"(PhysicalSize[XYZ](?:Unit)?)\s*=\s*[\"']([^\"']{1,32})[\"']", found[0])) if found else {}
        if all(f"PhysicalSize{axis}" in told for axis in "XYZ"):
            sizes = [_length(told[f"PhysicalSize{axis}"], told.get(f"PhysicalSize{axis}Unit", "um"), name) for axis in "XYZ"]
            return (sizes[0], sizes[1], sizes[2]), "OME metadata"
        return None, ""
    if tif.is_imagej:
        told = tif.imagej_metadata or {}
        tags = [tif.pages[0].tags.get(tag) for tag in ("XResolution", "YResolution")]
        unit = str(told.get("unit", "")).replace("\\u00B5", "u")
        if all(tags) and unit not in ("", "pixel", "pixels") and "spacing" in told:
            (a, b), (c, d) = (tag.value for tag in tags)
            if min(a, b, c, d) > 0:
                x, y, z = _length(b / a, unit, name), _length(d / c, unit, name), _length(told["spacing"], unit, name)
                return (x, y, z), "ImageJ metadata"
    return None, ""


def _length(value: Any, unit: str, name: str) -> float:
    factor = UNITS_MM.get(unit.strip())
    if factor is None:
        shown = shown_text("".join(c for c in unit[:20] if c.isalnum()))
        raise BadInput("no-spacing", f"{name} measures its voxels in {shown}, which is no known unit of length: save it with micrometers.")
    try:
        return float(value) * factor
    except (TypeError, ValueError):
        raise BadInput("no-spacing", f"{name} has a voxel size that is no number: save it with a voxel size.") from None
