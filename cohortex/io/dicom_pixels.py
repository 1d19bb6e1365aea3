"""The pixels of one DICOM frame in the units of its modality."""

from __future__ import annotations

import logging
import math
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.errors import BytesLengthException

from cohortex.errors import BadInput
from cohortex.io.series import Note

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
QUANTITIES = ("CT", "PT", "NM")
"""Modalities whose values mean something: MONOCHROME1 is then only a wish about the display."""
MAX_COMPRESSION = 5000
AIR_HU = -1024.0
UNREADABLE = (
    *(ValueError, TypeError, LookupError, OverflowError, NotImplementedError, AttributeError, struct.error, OSError),
    BytesLengthException,
)
"""What pydicom raises on a tag whose value, or kind of value, cannot be; it lies in memory, so an OSError is none of the disk."""


_SILENCE = threading.RLock()


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Keep pydicom's warnings and log lines, which hold tag values, away from the user; give the warnings.

    What is switched belongs to the whole process, so one thread at a time is inside.
    """
    with _SILENCE, _switched() as caught:
        yield caught


@contextmanager
def _switched() -> Iterator[list[warnings.WarningMessage]]:
    from pydicom import config

    logger = logging.getLogger("pydicom")
    level, mode = logger.level, config.settings.reading_validation_mode
    logger.setLevel(logging.CRITICAL + 1)
    config.settings.reading_validation_mode = config.IGNORE
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        logger.setLevel(level)
        config.settings.reading_validation_mode = mode


@cache
def tag_of(keyword: str) -> Any:
    """Return the tag of a keyword; looking it up anew for every value of every slice costs more than reading the slice."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return BaseTag(tag)


def _value(dataset: Any, keyword: str) -> Any:
    tag = tag_of(keyword)
    return dataset[tag].value if tag in dataset.keys() else None  # noqa: SIM118 (a data set's own `in` makes the tag anew)


def number(dataset: Any, keyword: str) -> float | None:
    """Return a tag's first number, or None where it is absent, empty or not a finite number."""
    values = numbers(dataset, keyword)
    return values[0] if values else None


def numbers(dataset: Any, keyword: str, count: int = 0) -> tuple[float, ...] | None:
    """Return a tag's numbers, or None where they are absent, not `count` of them, or not finite."""
    try:
        value = _value(dataset, keyword)
        if value is None or value == "":
            return None
        values = tuple(float(v) for v in value) if isinstance(value, list | tuple) or hasattr(value, "__iter__") else (float(value),)
    except UNREADABLE:
        return None
    if not values or (count and len(values) != count) or not all(map(math.isfinite, values)):
        return None
    return values


def text(dataset: Any, keyword: str) -> str:
    """Return a tag as text, empty where it is absent or unreadable; for comparing with known words, never for messages."""
    try:
        return str(_value(dataset, keyword) or "")
    except UNREADABLE:
        return ""


def check_size(dataset: Any, size: int, file: str) -> None:
    """Refuse a frame size that the file cannot hold, before anything is allocated.

    Raises
    ------
    BadInput
        ``truncated``.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    values = [number(dataset, key) or 1 for key in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")]
    expected = int(np.prod([int(v) for v in values], dtype=object)) // 8
    compressed = not syntax.is_transfer_syntax or syntax.is_compressed or syntax.is_deflated
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        expected = expected * 2 // 3
    if expected > size * (MAX_COMPRESSION if compressed else 1):
        raise BadInput("truncated", f"{file} declares more pixels than it can hold: copy it again from its source.")


def check_decoder(dataset: Any, file: str) -> None:
    """Refuse a compressed syntax that nothing here can decode, naming it.

    Raises
    ------
    BadInput
        ``no-decoder``.
    """
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        what = syntax.name if syntax.is_transfer_syntax else "something unknown"
        raise BadInput("no-decoder", f"{file} is compressed as {what}, which cannot be decoded here: install pylibjpeg or convert it.")


def plain_pixels(path: Path, dataset: Any, end: int) -> tuple[np.ndarray, int] | None:
    """Return the one grey frame of a file that is not compressed, (rows, columns) as stored, and how many bytes follow it in its element.

    None where there is anything to it: frames, colours, packed bits, compression, an element that is not where the header ends.

    Parameters
    ----------
    end : int
        Where the header ends and the element of the pixels begins.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    bits, rows, columns = (number(dataset, key) or 0 for key in ("BitsAllocated", "Rows", "Columns"))
    single = (number(dataset, "NumberOfFrames") or 1) <= 1 and (number(dataset, "SamplesPerPixel") or 1) == 1
    if not single or bits not in (8, 16, 32) or syntax.is_compressed or syntax.is_deflated or not syntax.is_little_endian:
        return None
    if text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        return None
    wanted = int(rows * columns) * int(bits) // 8
    with path.open("rb") as file:
        file.seek(end)
        head = file.read(8 if syntax.is_implicit_VR else 12)
        if head[:4] != b"\xe0\x7f\x10\x00" or not (syntax.is_implicit_VR or head[4:6] in (b"OW", b"OB")):
            return None
        length = int.from_bytes(head[-4:], "little")
        data = file.read(min(length, wanted))
    if length < wanted or len(data) < wanted:
        return None
    stored = int(number(dataset, "BitsStored") or bits)
    if stored < bits and (number(dataset, "HighBit") or stored - 1) != stored - 1:
        return None
    values = np.frombuffer(data, f"<{'i' if number(dataset, 'PixelRepresentation') else 'u'}{int(bits) // 8}")
    if stored < bits:
        # what overlays left in the bits above is not part of the value
        shift = int(bits) - stored
        values = (values << shift) >> shift
    return values.reshape(int(rows), int(columns)), length - wanted - wanted % 2


def pixels(path: Path, file: str, frames: Sequence[int], dataset: Any, end: int) -> Iterator[tuple[np.ndarray, Note | None]]:
    """Decode frames of a file one by one as stored, with axes (row, column), colours as grey; with each what is odd about it.

    Parameters
    ----------
    end : int
        Where the header ends (see `plain_pixels`).

    Raises
    ------
    BadInput
        ``truncated`` (no or too few pixels), ``corrupt-pixels`` (the decoder fails or gives another size than the header).
    """
    import pydicom
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import iter_pixels

    plain = plain_pixels(path, dataset, end)
    if plain is not None:
        yield plain[0], _extra(file) if plain[1] > 0 else None
        return
    compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    done = 0
    with quiet() as caught:
        try:
            # a file of one frame is read as a whole, for only then the amount of its pixel data is checked
            whole = (number(dataset, "NumberOfFrames") or 1) <= 1
            for array in iter_pixels(pydicom.dcmread(path) if whole else path, indices=list(frames)):
                if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
                    array = apply_color_lut(array, pydicom.dcmread(path, stop_before_pixels=True))
                told = any("excess padding" in str(warning.message) or "extra frames" in str(warning.message) for warning in caught)
                note = _extra(file) if told else None
                done += 1
                yield _grey(array, dataset, file), note
        except (AttributeError, KeyError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadInput("truncated", f"{file} has no complete pixel data: copy it again from its source.") from None
        except (ValueError, RuntimeError, NotImplementedError, TypeError, IndexError, OverflowError) as error:
            if not compressed and isinstance(error, ValueError):
                raise BadInput("truncated", f"{file} has less pixel data than it declares: copy it again from its source.") from None
            raise BadInput("corrupt-pixels", f"{file} has pixel data that cannot be decoded: copy it again from its source.") from None
    if done != len(frames):
        raise BadInput("truncated", f"{file} has {done} of {len(frames)} frames: copy it again from its source.")


def _extra(file: str) -> Note:
    return "extra-bytes", f"{file} has more pixel data than it declares; the rest was not used."


def _grey(array: np.ndarray, dataset: Any, file: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = array[..., :3].astype(np.float32) @ LUMA
    if array.ndim != 2:
        raise BadInput("unsupported-type", f"{file} is not a grey or coloured picture: convert it.")
    if array.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise BadInput("corrupt-pixels", f"{file} decodes to another size than it declares: copy it again from its source.")
    return array


def in_units(array: np.ndarray, dataset: Any, rescale: tuple[float | None, float | None], modality: str, file: str) -> np.ndarray:
    """Apply a frame's own rescale slope and intercept, in float32; bright means dense (MONOCHROME1 is inverted).

    Parameters
    ----------
    array : array
        One frame as stored.
    rescale : pair of float or None
        Slope and intercept, None where absent.
    modality : str
        A CT must have both; its padding outside the field of view becomes air (-1024 HU).

    Raises
    ------
    BadInput
        ``no-hu``, ``unsupported-type`` (a modality table).
    """
    slope, intercept = rescale
    if modality == "CT" and (slope is None or intercept is None):
        raise BadInput(
            "no-hu", f"{file} is a CT without rescale slope and intercept, so its Hounsfield units are unknown: export it again."
        )
    try:
        table = bool(dataset.get("ModalityLUTSequence"))
    except UNREADABLE:
        table = True
    if table:
        raise BadInput("unsupported-type", f"{file} keeps its units in a table (Modality LUT): convert it to rescale slope and intercept.")
    values = array.astype(np.float32)
    if text(dataset, "PhotometricInterpretation") == "MONOCHROME1" and modality not in QUANTITIES:
        # against the stored range, not the frame's own, so that all slices of a series stay alike
        top = 2.0 ** (number(dataset, "BitsStored") or 8) - 1
        values = (-1.0 if number(dataset, "PixelRepresentation") else top) - values
    padding = number(dataset, "PixelPaddingValue") if modality == "CT" else None
    values = values * np.float32(1.0 if slope is None else slope) + np.float32(0.0 if intercept is None else intercept)
    if padding is not None:
        outside = (array == padding) & (values < AIR_HU)
        values[outside] = AIR_HU
    return values
