"""NIfTI-1 and NIfTI-2, strictly: what nibabel forgives silently is refused or noted here.

A gzipped file is read to its end through isal, so its checksum is verified (`cohortex.io.plain`); sizes are compared with the file
before anything is allocated; the affine is the sform, or else the qform, and never a guess.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cohortex.errors import BadInput
from cohortex.io.geometry import check_affine
from cohortex.io.paths import check_file, shown_name, what_it_is
from cohortex.io.plain import DEFLATE_MAX_RATIO, Numbers, frame_of, gunzipped, size_of, unpacked
from cohortex.io.series import Frames, Note, chosen_frames, framed, read_step
from cohortex.publish import atomic_path
from cohortex.volume import ArrayLike, Volume

VECTOR, LABEL = 1007, 1002
COMMENT = 6
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
REFUSED_TYPES = {1: "one bit a voxel", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 1e-3}
LARGEST_HEADER = 64 * 2**20
FORM_DISTANCE_MM = 1.0
LARGEST_FLOAT32 = 3.4e38
SLAB, PIECE = 64, 2**20
"""Planes that are taken from a volume at once, and bytes that are compressed at once, when a file is written."""
GZIP_START = bytes.fromhex("1f8b08000000000000ff")
"""Deflate, no name, no time, unknown system."""
WINDOW = -14
"""zlib's word for raw deflate that looks back 16 kB: in images of bytes or words, what lies farther away costs more bits than it saves."""
DEFLATE_END = b"\x03\0"
"""An empty last block."""


@dataclass(frozen=True)
class Header:
    """What a NIfTI header says, checked: the shape, how voxels are stored, and where they lie."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    intent: int
    notes: tuple[Note, ...]


def read_nifti(path: Path, role: str = "image", name: str | None = None) -> Volume:
    """Read one NIfTI volume: an image, labels, or a displacement field as `write_nifti` writes it.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``.
    role : {"image", "mask", "labels"}
        Anything but an image becomes a volume of kind labels (values as stored; `acquire` checks them).
    name : str, optional
        How messages call the file.

    Returns
    -------
    Volume
        Axes as stored (not yet canonical), scaled to float32 where the header scales, RAS+ mm. Lazy as in `read_nifti_series`, but a
        field is in memory.

    Raises
    ------
    BadInput
        See `read_nifti_series`; ``four-d`` for several volumes.
    """
    name = name or shown_name(Path(path))
    header, numbers = _load(Path(path), name)
    if header.intent == VECTOR and len(header.shape) == 5 and header.shape[3:] == (1, 3):
        field = np.stack([np.asarray(frame_of(numbers, header.shape[:3], i)[...], np.float32) for i in range(3)], axis=-1)
        field[..., :2] *= -1
        return Volume(field, header.affine, kind="field", history=(read_step("nifti", header.notes),))
    if prod(header.shape[3:]) != 1:
        raise BadInput("four-d", f"{name} has shape {_by(header.shape)} where one volume is wanted: split it.")
    return _volumes(header, numbers, "first", role, name)[0]


def read_nifti_series(path: Path, role: str = "image", frames: Frames = "skip", name: str | None = None) -> list[Volume]:
    """Read the volumes of a NIfTI file; several (4-D) by the policy `frames`.

    Returns
    -------
    list of Volume
        What is not compressed is read a slice at a time when it is indexed. A gzipped file is decompressed here, into memory where the
        plan of `cohortex.blocks` lets it stay and else into a scratch file, of which slices are read then.

    Raises
    ------
    BadInput
        ``empty``, ``truncated``, ``corrupt``, ``not-nifti``, ``bad-header``, ``unsupported-type``, ``no-affine``,
        those of `check_affine`, ``not-an-image`` (vectors); while slices are read ``overflow`` (scaling beyond float32).
    Skip
        ``four-d`` by policy.
    """
    name = name or shown_name(Path(path))
    header, numbers = _load(Path(path), name, frames)
    return _volumes(header, numbers, frames, role, name)


def _volumes(header: Header, numbers: Numbers, frames: Frames, role: str, name: str) -> list[Volume]:
    count = prod(header.shape[3:])
    scaled = (header.slope, header.intercept) != (1.0, 0.0)
    # whole numbers go no further than their type, so most scalings cannot lead beyond float32 and no voxel has to be asked
    extremes = np.iinfo(header.dtype) if header.dtype.kind in "iu" else np.finfo(header.dtype)
    reach = max(abs(float(extremes.min)), abs(float(extremes.max))) * abs(header.slope) + abs(header.intercept)
    safe = reach < LARGEST_FLOAT32

    def units(stored: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            # in double precision, but of one slice at a time
            values = (stored * np.float64(header.slope) + header.intercept).astype(np.float32)
        if not safe and np.isinf(values).any() and (stored.dtype.kind != "f" or np.isfinite(stored).all()):
            raise BadInput("overflow", f"{name} scales its values (scl_slope) beyond what 32-bit floats hold: write its header again.")
        return values

    def frame(index: int) -> ArrayLike:
        shape = header.shape[:3]
        return frame_of(numbers, shape, index, count, dtype=np.float32, change=units) if scaled else frame_of(numbers, shape, index, count)

    return framed(frame, count, frames, header.affine, role, name, read_step("nifti", header.notes))


def _load(path: Path, name: str, frames: Frames | None = None) -> tuple[Header, Numbers]:
    size = check_file(path, name)
    with path.open("rb") as raw:
        start = raw.read(512)
        raw.seek(0)
        zipped = start[:2] == b"\x1f\x8b"
        if not zipped and path.name.lower().endswith(".gz"):
            hint = "rename it to .nii or gzip it" if "NIfTI" in what_it_is(start) else "copy it again from its source"
            raise BadInput("not-gzip", f"{name} is called .gz but is {what_it_is(start)}: {hint}.")
        if not zipped:
            header = _header(raw, name, size)
            if frames is not None:
                _refuse_series(header, frames, name)
            return header, Numbers(path, header.offset, header.dtype, name)
        with gunzipped(raw, name) as file:
            header = _header(file, name, size * DEFLATE_MAX_RATIO)
            if frames is not None:
                _refuse_series(header, frames, name)
            whole = size_of(header.shape, header.dtype)
            wanted = size_of(header.shape[:3], header.dtype) if frames == "first" else whole
            return header, Numbers(unpacked(file, wanted, name, whole - wanted), 0, header.dtype, name)


def _refuse_series(header: Header, frames: Frames, name: str) -> None:
    """Say no to a series before its voxels are read, when the policy says no anyway."""
    if len(header.shape) > 4 and prod(header.shape[4:]) > 1:
        raise BadInput("not-an-image", f"{name} has shape {_by(header.shape)}, vectors or more than a series of volumes: give an image.")
    chosen_frames(prod(header.shape[3:]), frames, name)


def _header(file: Any, name: str, most: int) -> Header:
    """Read everything before the voxels; `most` is the largest number of bytes that the file can hold."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    start = _exactly(file, 348, name, short="not-nifti")
    kinds = {(348, "<"): Nifti1Header, (348, ">"): Nifti1Header, (540, "<"): Nifti2Header, (540, ">"): Nifti2Header}
    word: Literal["little", "big"] = "big" if (int.from_bytes(start[:4], "big"), ">") in kinds else "little"
    order = ">" if word == "big" else "<"
    found = kinds.get((int.from_bytes(start[:4], word), order))
    if found is None:
        raise BadInput("not-nifti", f"{name} is {what_it_is(start)}, not NIfTI: give a .nii or .nii.gz file.")
    length = int.from_bytes(start[:4], word)
    start += _exactly(file, length - 348, name)
    with np.errstate(all="ignore"):
        fields = found(start, endianness=order, check=False)
    magic = bytes(fields["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise BadInput("not-nifti", f"{name} is one half of a .hdr/.img pair: convert it to a single .nii file.")
    if magic not in (b"n+1", b"n+2"):
        raise BadInput("not-nifti", f"{name} has no NIfTI mark in its header (Analyze, or damaged): convert it to .nii.")

    shape, dtype = _shape(fields, name), _dtype(fields, order, name)
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and length + 4 <= offset <= length + LARGEST_HEADER and offset == int(offset)):
        raise BadInput("bad-header", f"{name} says that its voxels begin at an impossible place (vox_offset): write it again.")
    if int(offset) + prod(shape) * dtype.itemsize > most:
        raise BadInput(
            "truncated",
            f"{name} declares {_by(shape)} voxels of {dtype.itemsize} bytes, more than the file can hold: copy it again from its source.",
        )
    exact = _extensions(_exactly(file, int(offset) - length, name), word, name)
    affine, notes = _affine(fields, exact, shape, name)
    slope, intercept, scale_notes = _scaling(fields, name)
    return Header(shape, dtype, int(offset), slope, intercept, affine, int(fields["intent_code"]), (*notes, *scale_notes))


def _shape(fields: Any, name: str) -> tuple[int, ...]:
    dim = [int(n) for n in fields["dim"]]
    if not 1 <= dim[0] <= 7:
        raise BadInput("bad-header", f"{name} declares {dim[0]} axes (its header's byte order may be mixed): write it again.")
    shape = dim[1 : dim[0] + 1]
    if min(shape) < 1:
        raise BadInput("bad-header", f"{name} declares the shape {_by(shape)}: write it again.")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape) + (1,) * (3 - len(shape))


def _dtype(fields: Any, order: str, name: str) -> np.dtype:
    code = int(fields["datatype"])
    if code not in TYPES:
        what = REFUSED_TYPES.get(code, f"type {code}")
        raise BadInput("unsupported-type", f"{name} holds {what} values: convert it to real numbers.")
    return np.dtype(order + TYPES[code])


def _affine(fields: Any, exact: np.ndarray | None, shape: tuple[int, ...], name: str) -> tuple[np.ndarray, list[Note]]:
    unit = UNITS_MM.get(int(fields["xyzt_units"]) & 7, 1.0)
    scale = np.array([[unit], [unit], [unit], [1.0]])
    qcode, scode = int(fields["qform_code"]), int(fields["sform_code"])
    notes: list[Note] = []
    if unit != 1.0:
        notes.append(("units", f"{name} gives its geometry in {'metres' if unit > 1 else 'micrometres'}; it was turned into millimetres."))
    if scode <= 0 and qcode <= 0:
        raise BadInput("no-affine", f"{name} does not say where its voxels lie (sform_code and qform_code are 0): write its geometry.")
    from nibabel.spatialimages import HeaderDataError

    qform = None
    if qcode > 0:
        zooms = np.asarray(fields["pixdim"], dtype=np.float64)[1:4]
        if not np.isfinite(zooms).all():
            raise BadInput("non-finite-affine", f"{name} has NaN or infinite voxel sizes (pixdim): write its geometry again.")
        try:
            qform = scale * np.asarray(fields.get_qform(), dtype=np.float64)
        except (ValueError, HeaderDataError):
            qform = np.full((4, 4), np.nan)
        if scode <= 0:
            return check_affine(qform, name), notes
    sform = np.asarray(fields.get_sform(), dtype=np.float64)
    if exact is not None and np.array_equal(exact.astype(sform_dtype(fields)), sform.astype(sform_dtype(fields))):
        sform = exact
    sform = check_affine(scale * sform, name)
    if qform is not None and np.isfinite(qform).all():
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1)
        apart = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
        if apart > max(FORM_DISTANCE_MM, np.linalg.norm(sform[:3, :3], axis=0).min()):
            notes.append(("two-affines", f"{name} has a qform and an sform that differ by up to {apart:.1f} mm; the sform was used."))
    return sform, notes


def sform_dtype(fields: Any) -> np.dtype:
    """Return the precision in which a header keeps its sform (NIfTI-1: single, NIfTI-2: double)."""
    return np.dtype(fields["srow_x"].dtype.newbyteorder("="))


def _scaling(fields: Any, name: str) -> tuple[float, float, list[Note]]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    # slope 0 and NaN both mean "not scaled" in files that common writers make
    if slope == 0 or np.isnan(slope):
        odd = slope == 0 and np.isfinite(intercept) and intercept != 0
        return 1.0, 0.0, [("scaling-ignored", f"{name} has scl_slope 0 with an intercept; neither was used.")] if odd else []
    if np.isinf(slope) or not np.isfinite(intercept):
        return 1.0, 0.0, [("scaling-ignored", f"{name} has an infinite or undefined scaling (scl_slope, scl_inter); it was not used.")]
    return slope, intercept, []


def _extensions(block: bytes, word: Literal["little", "big"], name: str) -> np.ndarray | None:
    """Check the header extensions; return the affine in double precision that `write_nifti` leaves there."""
    if not block or block[0] == 0:
        return None
    position, exact = 4, None
    while position + 8 <= len(block):
        size = int.from_bytes(block[position : position + 4], word, signed=True)
        code = int.from_bytes(block[position + 4 : position + 8], word, signed=True)
        if size < 8 or size % 8 or position + size > len(block) or code < 0:
            raise BadInput("bad-header", f"{name} announces header extensions but holds something else there: write it again.")
        if code == COMMENT and block[position + 8 :].startswith(b'{"cohortex"'):
            try:
                content = json.loads(block[position + 8 : position + size].rstrip(b"\0"))
                exact = np.array(content["cohortex"]["affine"], dtype=np.float64).reshape(4, 4)
            except (ValueError, KeyError, TypeError):
                exact = None
        position += size
    return exact


def _exactly(file: Any, count: int, name: str, short: str = "truncated") -> bytes:
    data = file.read(count)
    if len(data) < count:
        kind = what_it_is(data)
        if short == "not-nifti" and kind != "something unknown" and "NIfTI" not in kind:
            raise BadInput("not-nifti", f"{name} holds {kind}, not NIfTI: give a .nii or .nii.gz file.")
        if short == "not-nifti":
            raise BadInput("truncated", f"{name} is shorter than a NIfTI header ({len(data)} bytes): copy it again from its source.")
        raise BadInput("truncated", f"{name} ends inside its header: copy it again from its source.")
    return data


def _by(shape: Any) -> str:
    return "x".join(str(int(n)) for n in shape)


def write_nifti(path: Path, volume: Volume, compress: bool = True, threads: int = 1) -> None:
    """Write a volume atomically; the same volume gives the same bytes, whatever the number of threads.

    Both forms are set. NIfTI-1 keeps the affine in single precision, so where that would round it, a comment extension holds
    it in full, and `read_nifti` takes that as long as it agrees with the sform. A field is written as ITK expects it:
    shape (x, y, z, 1, 3), intent code 1007, displacements in mm along L, P and S.

    Parameters
    ----------
    path : Path
        Where to; the caller names it ``.nii.gz`` when `compress` is set.
    volume : Volume
        May be lazy; it is read in slabs along z.
    compress : bool
        Gzip at isal's level 1 (no time stamp, no name in it): one member, whose pieces are compressed by themselves.
    threads : int
        How many pieces are compressed at once.
    """
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        pieces = _pieces(volume)
        for data in gzipped(pieces, threads) if compress else pieces:
            file.write(data)


def _pieces(volume: Volume) -> Iterator[bytes | memoryview]:
    """Give the bytes of a file, the header first; where they are cut depends on the volume only."""
    yield _header_for(volume)
    for component in range(3) if volume.kind == "field" else (None,):
        for z in range(0, volume.shape[2], SLAB):
            slab = np.asarray(volume.data[:, :, z : z + SLAB] if component is None else volume.data[:, :, z : z + SLAB, component])
            if component in (0, 1):
                slab = -slab
            data = np.ascontiguousarray(slab.T, dtype=slab.dtype.newbyteorder("<")).data.cast("B")
            yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))


def gzipped(pieces: Iterable[bytes | memoryview], threads: int = 1) -> Iterator[bytes]:
    """Give one gzip member of all pieces (RFC 1952), each compressed without looking at the others, as pigz does.

    A piece ends on a whole byte with an empty stored block, so the pieces are one deflate stream for every reader.
    """
    from isal import isal_zlib

    check, size = 0, 0
    yield GZIP_START
    ahead: deque[Future[tuple[bytes, bytes]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for piece in pieces:
            check, size = isal_zlib.crc32(piece, check), size + len(piece)
            if threads <= 1:
                yield from _deflated(piece)
                continue
            ahead.append(pool.submit(_deflated, piece))
            # bounded, so that no more than some pieces are held
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()
    yield DEFLATE_END + check.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


def _deflated(piece: bytes | memoryview) -> tuple[bytes, bytes]:
    """Return a compressed piece and its end, which are not joined: that would cost a copy."""
    from isal import isal_zlib

    machine = isal_zlib.compressobj(1, isal_zlib.DEFLATED, WINDOW)
    return machine.compress(piece), machine.flush(isal_zlib.Z_SYNC_FLUSH)


def _header_for(volume: Volume) -> bytes:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    dtype = np.dtype(volume.data.dtype)
    if dtype.str[1:] not in TYPES.values():
        raise ValueError(f"a volume of dtype {dtype} cannot be written as NIfTI")
    field = volume.kind == "field"
    shape = (*volume.shape, 1, 3) if field else volume.shape
    header = (Nifti2Header if max(shape) > 32767 else Nifti1Header)(endianness="<")
    header.set_data_dtype(np.dtype(np.float32) if field else dtype)
    header.set_data_shape(shape)
    header.set_qform(volume.affine, code=1)
    header.set_sform(volume.affine, code=1)
    header.set_xyzt_units(xyz="mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["intent_code"] = VECTOR if field else LABEL if volume.kind == "labels" else 0
    header["magic"] = b"n+2" if isinstance(header, Nifti2Header) else b"n+1"
    extension = b"\0\0\0\0"
    if not np.array_equal(volume.affine, np.asarray(header.get_sform(), dtype=np.float64)):
        text = json.dumps({"cohortex": {"affine": volume.affine.reshape(-1).tolist()}}).encode()
        size = -(-(len(text) + 8) // 16) * 16
        extension = b"\1\0\0\0" + size.to_bytes(4, "little") + COMMENT.to_bytes(4, "little") + text.ljust(size - 8, b"\0")
    length = int(header["sizeof_hdr"])
    header["vox_offset"] = length + len(extension)
    return bytes(header.binaryblock) + extension
