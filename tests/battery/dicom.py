"""DICOM: series with gaps, copies, tilt, mixtures; files that are cut, blown up, nested or not of a scanner."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless, generate_uid

from cohortex.items import Made
from tests.battery.case import SECRET, Case
from tests.unit.test_io_dicom import dataset as plain_dataset

ROWS, COLUMNS, SLICES = 16, 14, 10
STORED = np.random.default_rng(1).integers(0, 2000, (SLICES, ROWS, COLUMNS)).astype(np.uint16)
Change = Callable[[int, FileDataset], Any]


def dataset(pixels: np.ndarray, position: Any, **tags: Any) -> FileDataset:
    """Return one slice with a patient's data in every tag that a scanner fills; a tag that is None is left out."""
    made = plain_dataset(
        pixels, position, BodyPartExamined="HEAD", PixelSpacing=[1.0, 1.0], StudyInstanceUID="1.2", PatientBirthDate="19010203"
    )
    made.InstitutionName = made.SeriesDescription = made.ImageComments = made.StationName = f"{SECRET} 1"
    made.add_new(0x00091001, "LO", f"{SECRET} private")
    for keyword, value in tags.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made


def series(folder: Path, change: Change | None = None, heights: Any = range(SLICES), prefix: str = "s", **tags: Any) -> Path:
    """Write a series into ``a``, its files named by the slice."""
    (folder / "a").mkdir(exist_ok=True)
    for i, z in enumerate(heights):
        made = dataset(STORED[i % SLICES], (0, 0, z), **{"InstanceNumber": i + 1, **tags})
        if change is None or change(i, made) != "drop":
            made.save_as(folder / "a" / f"{prefix}{i:03d}.dcm", enforce_file_format=True)
    return folder / "a"


def of(change: Change | None = None, **how: Any) -> Callable[[Path], Path]:
    """Return a maker of a series."""
    return lambda folder: series(folder, change, **how)


def tags(only: int | None = None, **values: Any) -> Callable[[Path], Path]:
    """Return a maker of a series of which all slices, or one, have other tags."""

    def change(i: int, made: FileDataset) -> None:
        for keyword, value in values.items() if only in (None, i) else ():
            if value is None:
                delattr(made, keyword)
            else:
                setattr(made, keyword, value)

    return of(change)


def content(spoil: Callable[[bytes], bytes], file: str = "s004.dcm", **how: Any) -> Callable[[Path], Path]:
    """Return a maker of a series in which the bytes of one file were changed."""

    def make(folder: Path) -> Path:
        path = series(folder, **how)
        (path / file).write_bytes(spoil((path / file).read_bytes()))
        return path

    return make


def copied(folder: Path, other: bool) -> Path:
    path = series(folder)
    copy = pydicom.dcmread(path / "s004.dcm")
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    if other:
        copy.PixelData = bytes(len(copy.PixelData))
    copy.save_as(path / "copy.dcm")
    return path


def two_series(folder: Path) -> Path:
    series(folder, heights=[0, 50], prefix="scout", SeriesInstanceUID="9.9")
    return series(folder)


def text_beside(folder: Path) -> Path:
    path = series(folder)
    (path / "notes").write_text(f"of {SECRET}, no image " * 40)
    return path


def bare(folder: Path) -> Path:
    """Write a slice without its preamble and mark."""
    (folder / "a").mkdir()
    series(folder)
    for file in (folder / "a").iterdir():
        file.write_bytes(file.read_bytes()[132:])
    return folder / "a"


def inserted(data: bytes) -> bytes:
    """Return a file with a thickness that is no number and a text that is too long, where pydicom would not write them."""
    extra = b"\x18\x00\x50\x00DS\x06\x00ZZPHI9" + b"\x18\x00\x30\x10LO\x50\x00" + b"ZZPHI9  " * 10
    at = data.index(b"\x20\x00\x0d\x00")
    return data[:at] + extra + data[at:]


def other_letters(folder: Path) -> Path:
    """Write a slice whose patient is named in letters that nobody has."""
    path = series(folder)
    file = path / "s004.dcm"
    data, at = file.read_bytes(), file.read_bytes().index(b"\x08\x00\x16\x00")
    file.write_bytes(data[:at] + b"\x08\x00\x05\x00CS\x08\x00ISO 999 " + data[at:])
    return path


def polyglot(folder: Path) -> Path:
    """Write a series whose preambles make it a program, too."""
    path = series(folder)
    for file in path.iterdir():
        file.write_bytes((b"MZ" + SECRET.encode()).ljust(128, b"\x90") + file.read_bytes()[128:])
    return path


def nested(data: bytes) -> bytes:
    at = data.index(b"\x20\x00\x0d\x00")
    item = b"\x19\x00\x10\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return data[:at] + item * 5000 + data[at:]


def bomb(folder: Path, megabytes: int) -> Path:
    """Write a deflated slice that blows up when it is read."""
    made = dataset(STORED[0], (0, 0, 0))
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    made.save_as(folder / "a.dcm", enforce_file_format=True)
    data = (folder / "a.dcm").read_bytes()
    start = data.index(b"DICM") + 4
    length = int.from_bytes(data[start + 8 : start + 12], "little") + 12
    head, body = data[: start + length], zlib.decompress(data[start + length :], -15)
    body = body[: body.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OW\0\0" + (megabytes * 2**20).to_bytes(4, "little")
    pump = zlib.compressobj(9, zlib.DEFLATED, -15)
    with (folder / "a.dcm").open("wb") as file:
        file.write(head + pump.compress(body) + pump.flush(zlib.Z_FULL_FLUSH))
        # after a full flush a block of zeros is the same wherever it stands
        zeros = pump.compress(bytes(2**20)) + pump.flush(zlib.Z_FULL_FLUSH)
        file.write(zeros * megabytes + pump.flush())
    return folder / "a.dcm"


def packed(uid: str) -> Change:
    """Return a change that says a slice is compressed in some way."""

    def change(i: int, made: FileDataset) -> None:
        made.file_meta.TransferSyntaxUID = UID(uid)
        made.PixelData = encapsulate([made.PixelData])
        made["PixelData"].VR = "OB"

    return change


def odd_syntax(folder: Path) -> Path:
    (folder / "a").mkdir()
    for i in range(4):
        made = dataset(STORED[i], (0, 0, i))
        packed("1.2.840.10008.1.2.4.100")(i, made)
        pydicom.dcmwrite(folder / "a" / f"s{i}.dcm", made, implicit_vr=False, little_endian=True, force_encoding=True)
    return folder / "a"


def with_directory(folder: Path) -> Path:
    """Write a series beside a DICOMDIR that points out of the folder."""
    path = series(folder)
    (path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"../../etc/passwd" * 20)
    return path


def junk(folder: Path) -> Path:
    """Write a series of JPEG 2000 slices of which one has junk in its stream."""
    (folder / "a").mkdir()
    source = pydicom.dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    for i in range(4):
        source.ImagePositionPatient, source.ImageOrientationPatient = [0, 0, i], [1, 0, 0, 0, 1, 0]
        source.save_as(folder / "a" / f"{i}.dcm")
    data = bytearray((folder / "a" / "2.dcm").read_bytes())
    start = data.index(b"\xff\x4f\xff\x51")
    data[start + 4 : start + 400] = np.random.default_rng(0).bytes(396)
    (folder / "a" / "2.dcm").write_bytes(data)
    return folder / "a"


def enhanced(heights: Any, folder: Path) -> Path:
    """Write an enhanced multi-frame file."""
    heights = list(heights)
    stored = STORED[: len(heights)]
    made = dataset(stored, None, NumberOfFrames=len(heights), PixelSpacing=None, RescaleSlope=None, RescaleIntercept=None)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [1.0, 1.0]
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    made.SharedFunctionalGroupsSequence, groups = Sequence([shared]), []
    for z in heights:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = list(z) if isinstance(z, tuple) else [0, 0, z]
        group.PlanePositionSequence = Sequence([position])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    made.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


def tilted(i: int, made: FileDataset) -> None:
    made.ImagePositionPatient = [0, i * float(np.tan(np.radians(15))), i]


def turned_on_its_side(i: int, made: FileDataset) -> None:
    if i == 3:
        made.Rows, made.Columns = made.Columns, made.Rows


def turned_away(i: int, made: FileDataset) -> None:
    if i == 3:
        made.ImageOrientationPatient, made.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [0, 0, 3]


def hounsfield_units(i: int, made: FileDataset) -> None:
    """Store the Hounsfield units themselves, as 16 bits with a sign."""
    made.PixelData, made.RescaleIntercept = (STORED[i].astype(np.int16) - 1024).tobytes(), 0
    made.PixelRepresentation = 1


def without_sign(i: int, made: FileDataset) -> None:
    hounsfield_units(i, made)
    made.PixelRepresentation = 0


def leaning(i: int) -> tuple[float, float, float]:
    return 0, i * float(np.tan(np.radians(15))), i


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zipped(folder: Path) -> Path:
    path = series(folder)
    for file in path.iterdir():
        file.write_bytes(gzip.compress(file.read_bytes()))
    return path


def hounsfield(made: Made) -> None:
    # stored from left to right and front to back, kept from right to left and back to front
    expected = STORED.transpose(2, 1, 0)[::-1, ::-1].astype(np.float32) - 1024
    assert np.array_equal(np.asarray(made.content.data[...]), expected), "values differ"  # type: ignore[union-attr]


def slopes(made: Made) -> None:
    expected = STORED.transpose(2, 1, 0)[::-1, ::-1] * (0.5 + np.arange(SLICES))
    assert np.allclose(np.asarray(made.content.data[...]), expected, rtol=1e-6), "values differ"  # type: ignore[union-attr]


def inverted(made: Made) -> None:
    expected = 4095.0 - STORED.transpose(2, 1, 0)[::-1, ::-1]
    assert np.array_equal(np.asarray(made.content.data[...]), expected), "contrast differs"  # type: ignore[union-attr]


GAP = tuple(i for i in range(SLICES) if i not in (4, 5))
CT = {"modality": "CT"}
CASES = [
    Case("D01", "two of ten slices missing", "8 slices, 1.29 mm apart", "set aside", ("missing-slices",), of(heights=GAP), **CT),
    Case(
        "D02a", "a copy of a slice under another UID", "half the spacing", "warned", ("duplicate-slices",), lambda d: copied(d, False), **CT
    ),
    Case(
        "D02b", "two different slices at one place", "half the spacing", "set aside", ("duplicate-slices",), lambda d: copied(d, True), **CT
    ),
    Case("D03", "slices at 0, 1, 2 and 4.5 mm", "evenly spaced", "set aside", ("varying-spacing",), of(heights=[0, 1, 2, 4.5]), **CT),
    Case("D04", "gantry tilted by 15 degrees", "an upright volume", "set aside", ("gantry-tilt",), of(tilted), **CT),
    Case("D05", "a scout beside the volume", "", "warned", ("several-series",), two_series, **CT),
    Case("D06a", "one slice of another pixel size", "", "set aside", ("mixed-geometry",), tags(3, PixelSpacing=[1.0, 1.1]), **CT),
    Case("D06b", "one slice moved", "", "set aside", ("mixed-geometry",), tags(3, ImagePositionPatient=[3, 0, 3]), **CT),
    Case("D06c", "one slice of other rows and columns", "", "set aside", ("mixed-geometry",), of(turned_on_its_side), **CT),
    Case("D06d", "one slice of another orientation", "", "set aside", ("mixed-geometry", "missing-slices"), of(turned_away), **CT),
    Case(
        "D07", "two patients in one folder", "one volume of both", "set aside", ("mixed-patients",), tags(3, PatientID=f"{SECRET}2"), **CT
    ),
    Case(
        "D08",
        "CT without RescaleSlope and RescaleIntercept",
        "raw numbers",
        "set aside",
        ("no-hu",),
        tags(RescaleSlope=None, RescaleIntercept=None),
        **CT,
    ),
    Case(
        "D09",
        "PET with another slope in each slice",
        "",
        "taken",
        (),
        of(lambda i, d: d.update({"Modality": "PT", "RescaleSlope": 0.5 + i, "RescaleIntercept": 0})),
        modality="pet",
        check=slopes,
    ),
    Case("D10a", "a file cut in half", "a header without pixels", "set aside", ("truncated",), content(half), **CT),
    Case("D10b", "a file cut at 400 bytes", "a header without pixels", "set aside", ("truncated",), content(lambda b: b[:400]), **CT),
    Case("D11", "100 bytes of pixels of 448", "read by SimpleITK", "set aside", ("truncated",), tags(3, PixelData=b"\1" * 100), **CT),
    Case(
        "D12",
        "488 bytes of pixels too many",
        "",
        "warned",
        ("extra-bytes",),
        of(lambda i, d: d.update({"PixelData": d.PixelData + bytes(488)})),
        **CT,
    ),
    Case("D13a", "a text among the slices", "", "warned", ("not-dicom",), text_beside, **CT),
    Case("D13b", "files without preamble", "read when forced", "set aside", ("not-dicom",), bare, **CT),
    Case("D13c", "gzip-compressed files", "", "set aside", ("not-dicom",), zipped, **CT),
    Case("D14", "a thickness that is no number, a text too long", "an error", "taken", (), content(inserted), check=hounsfield, **CT),
    Case("D14b", "a character set that nobody knows", "a warning", "taken", (), other_letters, check=hounsfield, **CT),
    Case(
        "D15", "65535 rows and columns in a small file", "allocate 8 GB", "set aside", ("truncated",), tags(Rows=65535, Columns=65535), **CT
    ),
    Case("D16a", "deflated, 200 MB out of 200 kB", "inflated", "set aside", ("too-large",), lambda d: bomb(d, 200), **CT),
    Case("D16b", "deflated, 2 GB out of 2 MB", "inflated", "set aside", ("too-large",), lambda d: bomb(d, 2048), **CT),
    Case("D17", "5000 sequences in each other", "RecursionError", "set aside", ("corrupt", "truncated"), content(nested), **CT),
    Case("D18", "a compression that nothing here decodes", "", "set aside", ("no-decoder",), odd_syntax, **CT),
    Case("D19", "junk inside a JPEG 2000 stream", "", "set aside", ("corrupt-pixels", "truncated"), junk, modality="MR"),
    Case("D20a", "enhanced multi-frame", "", "taken", (), lambda d: enhanced(range(SLICES), d), check=hounsfield, **CT),
    Case("D20b", "enhanced multi-frame with a gap", "evenly spaced", "set aside", ("missing-slices",), lambda d: enhanced(GAP, d), **CT),
    Case(
        "D20c",
        "enhanced multi-frame, two frames at one place",
        "another spacing",
        "set aside",
        ("duplicate-slices",),
        lambda d: enhanced([0, 1, 2, 2, 3], d),
        **CT,
    ),
    Case(
        "D20d",
        "enhanced multi-frame, uneven frames",
        "evenly spaced",
        "set aside",
        ("varying-spacing",),
        lambda d: enhanced([0, 1, 2, 4.5], d),
        **CT,
    ),
    Case(
        "D20e",
        "enhanced multi-frame, gantry tilted by 15 degrees",
        "an upright volume",
        "set aside",
        ("gantry-tilt",),
        lambda d: enhanced(map(leaning, range(SLICES)), d),
        **CT,
    ),
    Case(
        "D10c", "the last file of a series cut in half", "a slice less", "set aside", ("truncated",), content(half, file="s009.dcm"), **CT
    ),
    Case("D21a", "burned-in text, the header says", "", "set aside", ("burned-in",), tags(BurnedInAnnotation="YES"), **CT),
    Case(
        "D21c", "the same, where the user takes it", "", "taken", (), tags(BurnedInAnnotation="YES"), settings={"burned_in": "take"}, **CT
    ),
    Case("D21d", "ultrasound of which nobody says that it bears no text", "", "set aside", ("burned-in",), tags(Modality="US"), "US"),
    Case(
        "D21b",
        "a secondary capture",
        "",
        "set aside",
        ("burned-in",),
        tags(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", ConversionType="WSD"),
        **CT,
    ),
    Case("D24", "a preamble that makes the file a program, too", "kept", "taken", (), polyglot, check=hounsfield, **CT),
    Case("D25b", "values with a sign", "", "taken", (), of(hounsfield_units), check=hounsfield, **CT),
    Case("D25c", "the same, the sign denied", "read silently", "warned", ("not-hu",), of(without_sign), **CT),
    Case("D23", "a DICOMDIR that points out of the folder", "followed", "taken", (), with_directory, check=hounsfield, **CT),
    Case(
        "D25a",
        "MONOCHROME1",
        "inverted contrast",
        "taken",
        (),
        tags(Modality="MR", PhotometricInterpretation="MONOCHROME1", RescaleIntercept=0),
        modality="MR",
        check=inverted,
    ),
    Case(
        "D26",
        "RLE with its stream cut",
        "",
        "set aside",
        ("truncated", "corrupt-pixels"),
        content(lambda b: b[:-60], change=lambda i, d: d.compress(RLELossless)),
        **CT,
    ),
]
