"""A patient's data wherever a file has room for them, and the search for them in whatever a run leaves."""

from __future__ import annotations

import base64
import gzip
import re
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from cohortex.io.dicom_tags import READ_KEYWORDS
from tests.battery.case import SECRET

TEXTS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
LEFT_ALONE = {"SpecificCharacterSet", *READ_KEYWORDS}
"""What says how the others are written, and what is read: the tests say what becomes of each of these."""


def text_tags() -> Iterator[tuple[int, str, str]]:
    """Yield tag, VR and keyword of every public tag with text that a file of an image may have and that is not read."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in TEXTS and keyword and keyword not in LEFT_ALONE and 0x0008 <= tag >> 16 < 0x7FE0:
            yield tag, vr, keyword


def plant(made: FileDataset, within: bool = True) -> int:
    """Put the secret into every text of a dataset that is not read, into private tags, sequences and the preamble; return how many."""
    count = 0
    for tag, vr, _ in text_tags():
        made.add_new(tag, vr, SECRET)
        count += 1
    inner = Dataset()
    inner.PatientName, inner.PatientComments, inner.InstitutionName = f"{SECRET}^JANE", f"{SECRET} said", SECRET
    inner.PatientBirthDate = "19010203"
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items() if within else ():
        if vr == "SQ" and keyword and keyword not in LEFT_ALONE and 0x0008 <= tag >> 16 < 0x7FE0:
            made.add_new(tag, "SQ", Sequence([inner]))
            count += 1
    for group in (0x0009, 0x0029, 0x2001):
        block = made.private_block(group, f"{SECRET} CO", create=True)
        block.add_new(1, "LO", f"{SECRET} private")
        block.add_new(2, "UN", SECRET.encode())
        block.add_new(3, "SQ", Sequence([inner]))
    region = Dataset()
    region.RegionSpatialFormat, region.RegionFlags = 1, 0
    region.add_new(0x00400555, "SQ", Sequence([inner]))
    made.SequenceOfUltrasoundRegions = Sequence([region])
    made.preamble = (SECRET.encode() * 22)[:128]
    return count


def seen(data: bytes, deep: int = 3) -> bool:
    """Say whether the secret stands in some bytes, or in what is packed in them: gzip, zip, deflated streams, base64 of pages."""
    if SECRET.encode() in data:
        return True
    if deep == 0:
        return False
    if data[:2] == b"\x1f\x8b":
        try:
            return seen(gzip.decompress(data), deep - 1)
        except (OSError, EOFError, zlib.error):
            return False
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(BytesIO(data)) as packed:
            return any(SECRET in name or seen(packed.read(name), deep - 1) for name in packed.namelist())
    coded = re.findall(rb"[A-Za-z0-9+/]{64,}={0,2}", data) if b"<html" in data[:2000] else []
    return any(seen(base64.b64decode(each[: len(each) // 4 * 4]), deep - 1) for each in coded)


def places(folder: Path) -> list[str]:
    """Return the files below a folder whose name, folder or content holds the secret, also packed."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if SECRET in name or (path.is_symlink() and SECRET in str(path.readlink())) or (path.is_file() and seen(path.read_bytes())):
            found.append(name)
    return found
