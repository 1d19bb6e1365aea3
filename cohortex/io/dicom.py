"""DICOM files and folders through pydicom: one series becomes a volume, or is refused with the files that are wrong.

No tag value of a patient enters a message; modality and body part are passed on only from the lists below. Which tags are read at all
stands in `cohortex.io.dicom_tags`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.dicom_deflated import check_inflated
from cohortex.io.dicom_geometry import Slice, arrange, by_orientation
from cohortex.io.dicom_pixels import UNREADABLE, check_decoder, check_size, in_units, number, numbers, pixels, quiet, tag_of, text
from cohortex.io.dicom_tags import DAYS, FRAME_ORDER, ORDER, READ_KEYWORDS
from cohortex.io.geometry import centred_affine, check_affine
from cohortex.io.paths import check_file, shown_inside, shown_name, what_it_is
from cohortex.io.series import Frames, Note, chosen_frames, framed, read_step
from cohortex.io.slices import Slices
from cohortex.volume import Volume

PICTURES = {"CR": "XR", "DX": "XR", "RF": "XR", "XA": "XR", "PX": "XR", "IO": "XR", "MG": "MG", "US": "US"}
MODALITIES = {"CT": "CT", "MR": "MR", "PT": "pet", "NM": "spect", **PICTURES}
BODY_PARTS = {
    **dict.fromkeys(("HEAD", "BRAIN", "SKULL"), "head"),
    **dict.fromkeys(("CHEST", "LUNG", "THORAX"), "chest"),
    **dict.fromkeys(("ABDOMEN", "LIVER", "PANCREAS", "KIDNEY", "SPLEEN"), "abdomen"),
    **{part: part.lower() for part in ("NECK", "HEART", "BREAST", "PELVIS", "PROSTATE", "KNEE", "HIP", "SHOULDER", "HAND", "FOOT")},
    **dict.fromkeys(("SPINE", "CSPINE", "TSPINE", "LSPINE"), "spine"),
}
NEVER_DICOM = (
    ".txt",
    ".md",
    ".json",
    ".csv",
    ".tsv",
    ".xml",
    ".html",
    ".pdf",
    ".png",
    ".jpg",
    ".jpeg",
    ".log",
    ".bak",
    ".nii",
    ".gz",
    ".zip",
)
MOST_FILES = 100_000
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""Secondary captures, of one frame and (below it) of several."""


@dataclass(frozen=True)
class Found:
    """A DICOM image file: its path, its name in messages, its header without pixels, and the byte at which that ends."""

    path: Path
    name: str
    header: Any
    end: int

    @property
    def frames(self) -> int:
        """Number of frames in the file."""
        return int(number(self.header, "NumberOfFrames") or 1)


def read_dicom(
    path: Path | Sequence[Path], role: str = "image", frames: Frames = "skip", name: str | None = None, burned_in: str = "refuse"
) -> list[Volume]:
    """Read a DICOM file, a folder with its subfolders, or a list of files as one series.

    Of several series the one with most slices is taken, and a note says so. Slices are sorted by their position along the
    slice normal and checked for gaps, copies, uneven distances, tilt and mixed geometry, all by their headers. Radiographs and
    ultrasound frames become pictures of shape (x, y, 1). Pictures that say to have text burned in, ultrasound that does not deny it, and
    captures of screens are refused unless `burned_in` is ``take``: nobody can tell whose name stands in them.

    Returns
    -------
    list of Volume
        Slices and frames are decoded, and rescaled each by its own numbers, when they are indexed.

    Raises
    ------
    BadInput
        ``not-dicom``, ``empty``, ``truncated``, ``corrupt``, ``not-an-image``, ``mixed-patients``, ``mosaic``,
        ``no-affine``, ``bad-tag``, ``no-decoder``, ``burned-in``, ``too-large`` and those of
        `cohortex.io.dicom_geometry.arrange`; while slices are decoded ``truncated``, ``corrupt-pixels``, ``no-hu``, ``unsupported-type``.
    Skip
        ``four-d``: several volumes (time points, echoes), by policy.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    # tags are converted when they are looked at, so the whole reading is kept quiet, and `pixels` while a slice is worked on
    with quiet():
        return _read(paths, role, frames, name or shown_name(paths[0]), burned_in)


def _read(paths: Sequence[Path], role: str, frames: Frames, name: str, burned_in: str) -> list[Volume]:
    notes: list[Note] = []
    found = _chosen_series(_headers(paths, name, notes), name, notes)
    first = found[0]
    modality = text(first.header, "Modality")
    if modality not in MODALITIES:
        raise BadInput(
            "not-an-image", f"{name} holds DICOM objects that are no images of a scanner (a report, plan or capture): give an image."
        )
    if "MOSAIC" in text(first.header, "ImageType").upper():
        raise BadInput("mosaic", f"{name} keeps all slices in one mosaic picture: convert it with dcm2niix.")
    if burned_in != "take":
        _check_burned_in(found)
    for item in found:
        check_size(item.header, item.path.stat().st_size, item.name)
    check_decoder(first.header, first.name)
    volume = {
        "modality": MODALITIES[modality],
        "body_part": BODY_PARTS.get(text(first.header, "BodyPartExamined").upper().replace(" ", ""), ""),
        "date": next(filter(None, (text(first.header, keyword) for keyword in DAYS)), ""),
    }
    if modality in PICTURES and not _placed(first.header):
        return _pictures(found, role, frames, name, notes, volume)
    return _volumes(found, role, frames, name, notes, volume, modality)


def placed_slices(path: Path | Sequence[Path], name: str) -> tuple[list[Slice], np.ndarray]:
    """Return the slices of the volume that `read_dicom` makes of a path, from the first to the last, without their pixels.

    Returns
    -------
    slices : list of Slice
        ``data.path`` is the file of each.
    affine : (4, 4) array
        Indices (column, row, slice) to RAS mm.

    Raises
    ------
    BadInput
        As `read_dicom`.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    with quiet():
        notes: list[Note] = []
        found = _chosen_series(_headers(paths, name, notes), name, notes)
        lines, affine = arrange(by_orientation([one for item in found for one in _slices(item)])[0], name, notes)
    return lines[0], affine


def _headers(paths: Sequence[Path], name: str, notes: list[Note]) -> list[Found]:
    import pydicom

    found: list[Found] = []
    strangers: list[str] = []
    tags = {keyword: tag_of(keyword) for keyword in READ_KEYWORDS}
    for path, shown in _files(paths, name):
        check_file(path, shown)
        with path.open("rb") as file:
            start = file.read(512)
        if start[128:132] != b"DICM":
            strangers.append(shown)
            if len(paths) == 1 and path == paths[0]:
                raise BadInput("not-dicom", f"{name} is {what_it_is(start)}, not DICOM (no mark at byte 128): give DICOM files.")
            continue
        check_inflated(path, start, shown)
        try:
            with path.open("rb") as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags.values()))
                end = file.tell()
            syntax = header.file_meta.TransferSyntaxUID
            there = header.keys()
            for tag in (tag for keyword, tag in tags.items() if tag in there and keyword not in DAYS):
                # values are converted when they are looked at: here, where their errors are met; a day that is none harms nothing
                with suppress(AttributeError):
                    _ = header[tag].value
            image = "Rows" in header and "Columns" in header
            # cut before its rows it is a lost slice, not an object of another kind
            cut = not image and "Image Storage" in getattr(header.file_meta.get("MediaStorageSOPClassUID", ""), "name", "")
            whole = "SeriesInstanceUID" in header and not cut and not (image and "BitsAllocated" not in header)
        except (RecursionError, MemoryError):
            raise BadInput("corrupt", f"{shown} has a header that is nested too deeply or too large: take it out of the folder.") from None
        except Exception as error:
            # a damaged header fails in many ways inside pydicom; its texts may hold values
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadInput("truncated", f"{shown} has a damaged or cut header: copy it again from its source.") from None
        if not whole or not str(syntax):
            raise BadInput("truncated", f"{shown} ends inside its header: copy it again from its source.")
        if image:
            found.append(Found(path, shown, header, end))
    if strangers:
        more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
        notes.append(("not-dicom", f"{name} holds files that are not DICOM and were left out ({strangers[0]}{more})."))
    if not found:
        raise BadInput("not-dicom", f"{name} holds no DICOM image: give a folder with the files of a series.")
    return found


WRITTEN_ON = ("US", "IVUS")
"""Modalities whose machines write the patient's name into the picture."""


def _check_burned_in(found: Sequence[Found]) -> None:
    """Refuse pictures whose header says, or whose kind means, that there is text in them: ultrasound, too, unless its header denies it."""
    for item in found:
        said = text(item.header, "BurnedInAnnotation").upper()
        if said == "YES":
            what = "says that text is burned into its pixels"
        elif said != "NO" and text(item.header, "Modality") in WRITTEN_ON:
            what = "is ultrasound that does not say that no text is burned into its pixels (BurnedInAnnotation NO)"
        elif text(item.header, "SOPClassUID").startswith(CAPTURE):
            what = "is the capture of a screen (secondary capture)"
        else:
            continue
        raise BadInput(
            "burned-in",
            f"{item.name} {what}, which may name the patient: give the original image, or set acquire.default.burned_in to take.",
        )


def _files(paths: Sequence[Path], name: str) -> list[tuple[Path, str]]:
    """List the files that may be DICOM, with their names in messages, in a fixed order; links to folders are not followed."""
    files: list[tuple[Path, str]] = []
    for path in paths:
        if not path.is_dir():
            files.append((path, name if len(paths) == 1 else shown_name(path)))
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for file in sorted(names):
                if not file.startswith(".") and file.upper() != "DICOMDIR" and not file.lower().endswith(NEVER_DICOM):
                    full = Path(folder) / file
                    files.append((full, shown_inside(full, path)))
            if len(files) > MOST_FILES:
                raise BadInput("too-large", f"{name} holds more than {MOST_FILES} files: give the folder of one subject.")
    return files


def _chosen_series(found: list[Found], name: str, notes: list[Note]) -> list[Found]:
    """Return the files of the series with most slices."""
    if len({text(item.header, "PatientID") for item in found}) > 1:
        raise BadInput("mixed-patients", f"{name} holds files of several patients: give each a folder of its own.")
    series: dict[str, list[Found]] = {}
    for item in found:
        series.setdefault(text(item.header, "SeriesInstanceUID"), []).append(item)
    ranked = sorted(
        series.values(), key=lambda items: (text(items[0].header, "Modality") in MODALITIES, sum(i.frames for i in items)), reverse=True
    )
    if len(ranked) > 1:
        count = sum(item.frames for item in ranked[0])
        notes.append(("several-series", f"{name} holds {len(ranked)} series; the one with most slices ({count}) was used."))
    return ranked[0]


def _placed(header: Any) -> bool:
    return "ImagePositionPatient" in header or "PerFrameFunctionalGroupsSequence" in header


def _slices(item: Found) -> list[Slice]:
    """Return the frames of a file with their geometry."""
    header = item.header
    shared = _inner(header, "SharedFunctionalGroupsSequence")
    slices = []
    for frame in range(item.frames):
        own = _inner(header, "PerFrameFunctionalGroupsSequence", frame)

        def value(sequence: str, keyword: str, count: int = 0, own: Any = own) -> tuple[float, ...] | None:
            """Look a number up in the frame, then what all frames share, then the file."""
            for place in (_inner(own, sequence), _inner(shared, sequence), header):
                values = None if place is None else numbers(place, keyword, count)
                if values is not None:
                    return values
            return None

        position = value("PlanePositionSequence", "ImagePositionPatient", 3)
        orientation = value("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        pixel = value("PixelMeasuresSequence", "PixelSpacing", 2)
        if position is None or orientation is None or pixel is None:
            lacking = "ImagePositionPatient" if position is None else "ImageOrientationPatient" if orientation is None else "PixelSpacing"
            raise BadInput(
                "no-affine", f"{item.name} does not say where its slice lies ({lacking} is absent or unreadable): export it again."
            )
        rows_cosines, column_cosines = np.array(orientation[:3]), np.array(orientation[3:])
        lengths = np.linalg.norm([rows_cosines, column_cosines], axis=1)
        if np.abs(lengths - 1).max() > 1e-2 or abs(rows_cosines @ column_cosines) > 1e-2 or min(pixel) <= 0:
            raise BadInput("bad-tag", f"{item.name} has an ImageOrientationPatient or PixelSpacing that is impossible: export it again.")
        slope = value("PixelValueTransformationSequence", "RescaleSlope")
        intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
        times = tuple((value(sequence, keyword) or (0.0,))[0] for sequence, keyword in FRAME_ORDER)
        order = (*(number(header, keyword) or 0.0 for keyword in ORDER[:-1]), *times, number(header, ORDER[-1]) or 0.0, float(frame))
        one = Slice(
            item.name if item.frames == 1 else f"{item.name} frame {frame + 1}",
            frame,
            item,
            int(header.Rows),
            int(header.Columns),
            np.array(position),
            np.concatenate([rows_cosines / lengths[0], column_cosines / lengths[1]]),
            (pixel[0], pixel[1]),
            order,
        )
        one.extra["rescale"] = (slope[0] if slope else None, intercept[0] if intercept else None)
        one.extra["pixels"] = lambda one=one: next(raw for raw, _ in pixels(item.path, item.name, [one.frame], header, item.end))
        slices.append(one)
    return slices


def _inner(group: Any, keyword: str, index: int = 0) -> Any:
    """Return an item of a sequence, None where it is absent or cannot be read."""
    try:
        sequence = None if group is None else group.get(keyword)
        return sequence[index] if sequence is not None and index < len(sequence) else None
    except UNREADABLE:
        return None


def _volumes(
    found: list[Found], role: str, frames: Frames, name: str, notes: list[Note], volume: dict[str, str], modality: str
) -> list[Volume]:
    slices = [one for item in found for one in _slices(item)]
    groups = by_orientation(slices)
    if len(groups) > 1:
        # a scout or two beside the volume is usual, anything more is not one volume
        others = sum(len(group) for group in groups[1:])
        if others > max(2, len(groups[0]) // 10):
            raise BadInput(
                "mixed-geometry", f"{name} has slices of {len(groups)} orientations in one series ({groups[1][0].file}): split it."
            )
        notes.append(("scouts", f"{name} holds {others} slices of another orientation (scouts?); they were left out."))
    lines, affine = arrange(groups[0], name, notes)
    check_affine(affine, name)
    chosen_frames(len(lines), frames, name)
    first = lines[0][0]

    def frame(index: int) -> Slices:
        return _decoded(lines[index], (first.columns, first.rows), role, modality)

    step = read_step("dicom", notes, slices=len(lines[0]))
    return framed(frame, len(lines), frames, affine, role, name, step, **volume)


def _decoded(line: Sequence[Slice], size: tuple[int, int], role: str, modality: str) -> Slices:
    """Return slices that are decoded and rescaled when they are indexed; labels stay as stored."""
    odd: dict[int, Note] = {}
    header = line[0].data.header
    # grey of colours has fractions, by which labels are refused
    coloured = (number(header, "SamplesPerPixel") or 1) > 1 or text(header, "PhotometricInterpretation") == "PALETTE COLOR"
    dtype = np.float32 if role == "image" or coloured else np.int32

    def read(wanted: Sequence[int]) -> Iterator[np.ndarray]:
        # the frames of one file follow each other, so that its header is read once
        for _, group in groupby(wanted, key=lambda z: id(line[z].data)):
            numbers = list(group)
            item = line[numbers[0]].data
            for z, (raw, note) in zip(
                numbers, pixels(item.path, item.name, [line[z].frame for z in numbers], item.header, item.end), strict=True
            ):
                if note is not None:
                    odd[z] = note
                one = line[z]
                yield (in_units(raw, item.header, one.extra["rescale"], modality, one.file) if role == "image" else raw).T

    return Slices((*size, len(line)), dtype, read, lambda: [odd[z] for z in sorted(odd)])


def _pictures(found: list[Found], role: str, frames: Frames, name: str, notes: list[Note], volume: dict[str, str]) -> list[Volume]:
    """Read radiographs and ultrasound frames, which have a pixel size but no place in the patient."""
    item = found[0]
    if len(found) > 1:
        notes.append(("several-pictures", f"{name} holds {len(found)} pictures; the first ({item.name}) was used."))
    header = item.header
    spacing, source = _picture_spacing(header)
    rescale = (number(header, "RescaleSlope"), number(header, "RescaleIntercept"))
    size = (int(header.Columns), int(header.Rows))

    def frame(index: int) -> Slices:
        nowhere = np.zeros(0)
        one = Slice(item.name, index, item, size[1], size[0], nowhere, nowhere, spacing, (), {"rescale": rescale})
        return _decoded([one], size, role, text(header, "Modality"))

    affine = check_affine(centred_affine((*size, 1), (spacing[1], spacing[0], 1.0)), name)
    step = read_step("dicom", notes, pixel_size=source, position="unknown, centred")
    return framed(frame, item.frames, frames, affine, role, name, step, **volume)


def _picture_spacing(header: Any) -> tuple[tuple[float, float], str]:
    """Return row and column distance in mm and where they come from."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        values = numbers(header, keyword, 2)
        if values and min(values) > 0:
            return (values[0], values[1]), keyword
    region = _inner(header, "SequenceOfUltrasoundRegions")
    if region is not None:
        x, y = number(region, "PhysicalDeltaX"), number(region, "PhysicalDeltaY")
        # unit code 3 is centimetres
        if x and y and number(region, "PhysicalUnitsXDirection") == 3 and number(region, "PhysicalUnitsYDirection") == 3:
            return (abs(y) * 10, abs(x) * 10), "SequenceOfUltrasoundRegions"
    return (1.0, 1.0), "unknown, 1 mm assumed"
