"""What scanner an image is of, where no table says it: from the sidecars of a BIDS dataset, or the header of one DICOM file of a folder.

The head process reads them. What they say goes into the table of the whole cohort alone, not into those of the batches, so that no image is
run again for it. Nothing in a sidecar or a header is a reason to refuse a cohort: what cannot be read names no scanner.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohortex.cohort.scan import ASIDE, NOT_DICOM, is_bids
from cohortex.cohort.table import Row
from cohortex.errors import BadInput
from cohortex.io.bids import parse_name
from cohortex.io.paths import check_inside

if TYPE_CHECKING:
    from cohortex.cohort.cut import Prints

BIDS_KEYS = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength")
SIDECAR_BYTES = 4_000_000
"""A longer sidecar is not read."""
HEADER_BYTES = 65_536
"""So much of a DICOM file is read: what is wanted stands near its beginning."""
TRIES = 3
"""So many files of a folder are opened until one is DICOM."""
LETTERS = (20, 31)
"""Of a maker and of a model that are told; with the field the name stays within what a report shows of a cell."""
MAKERS = (
    *((rf"{name}\b.*", name) for name in ("Agfa", "Agilent", "Bruker", "Canon", "Carestream", "Esaote", "Fujifilm", "Hitachi", "Hologic")),
    *((rf"{name}\b.*", name) for name in ("Hyperfine", "Mediso", "Mindray", "Neusoft", "Philips", "Samsung", "Shimadzu", "Siemens")),
    *((rf"{name}\b.*", name) for name in ("Toshiba", "Varian")),
    (r"(GE|general electric)\b.*", "GE"),
    (r"(UIH|(shanghai )?united imaging)\b.*", "United Imaging"),
)
"""How makers write their names, and what they are called here."""
FIELDS = (0.2, 0.35, 0.5, 1.0, 1.5, 3.0, 4.7, 7.0, 9.4, 10.5, 11.7)
"""Tesla as scanners are sold; a magnet that is within `NEAR` of one is called after it (2.89 T is 3 T)."""
NEAR = 0.05
STRONGEST = 25.0
"""A larger number is in another unit than tesla."""
NOTHING = {"", "n/a", "na", "nan", "none", "null", "unknown", "anonymous", "anonymized", "anonymised", "removed"}


def scanner_name(maker: Any, model: Any, tesla: Any) -> str:
    """Return how a scanner is called: its maker, its model and its field.

    Parameters
    ----------
    maker, model : Any
        What a header says; anything but text says nothing.
    tesla : Any
        A number, or text that is one.

    Returns
    -------
    str
        Letters and digits of ASCII, blanks, ``-``, ``_`` and ``.``, none of them doubled blanks; at most 60. Empty where nothing is said.

    Examples
    --------
    >>> scanner_name("SIEMENS", "Prisma", 2.89362)
    'Siemens Prisma 3 T'
    >>> scanner_name("GE MEDICAL SYSTEMS", "DISCOVERY MR750", "3")
    'GE DISCOVERY MR750 3 T'
    >>> scanner_name("n/a", 5, float("nan"))
    ''
    """
    called = _words(maker, 200)
    for pattern, name in MAKERS:
        if re.fullmatch(pattern, called, re.IGNORECASE):
            called = name
            break
    called, kind = _ended(called, LETTERS[0]), _words(model, 200)
    if called and re.match(rf"{re.escape(called)}[ _-]", kind, re.IGNORECASE):
        kind = kind[len(called) + 1 :]
    return " ".join(filter(None, (called, _ended(kind, LETTERS[1]), _field(tesla))))


def _words(value: Any, most: int) -> str:
    """Return the letters and digits of a text, other signs as blanks, without an accent or what could be taken for a formula in front."""
    if not isinstance(value, str) or value.strip().lower() in NOTHING:
        return ""
    plain = unicodedata.normalize("NFKD", value[:most]).encode("ascii", "ignore").decode("ascii")
    return " ".join(re.sub(r"[^0-9A-Za-z._-]", " ", plain).split()).lstrip("-_. ")


def _ended(words: str, most: int) -> str:
    return words.strip()[:most].rstrip()


def _field(tesla: Any) -> str:
    """Return a field strength as ``1.5 T``; empty for anything but a number of tesla."""
    if isinstance(tesla, bool) or not isinstance(tesla, int | float | str):
        return ""
    try:
        value = float(tesla[:40].strip().rstrip("Tt") if isinstance(tesla, str) else tesla)
    except (ValueError, OverflowError):
        return ""
    if not math.isfinite(value) or not 0.001 <= value <= STRONGEST:
        return ""
    nominal = min(FIELDS, key=lambda each: abs(each - value))
    return f"{nominal if abs(nominal - value) <= NEAR * nominal else float(f'{value:.2g}'):g} T"


def scanners(source: Path, rows: Iterable[Row], people: Iterable[Mapping[str, str]], prints: Prints, told: bool) -> dict[str, str]:
    """Return the scanner of every image by its id: as its row says it, else what is known of its subject, else its header.

    Parameters
    ----------
    source : Path
        The input. Headers are asked where it is a folder; a table has said what it says.
    rows : iterable of dict
        With ``image`` and the true ``path``.
    people : iterable of dict
        What is known of the subjects, as far as it may be told.
    prints : Prints
        It remembers what headers of DICOM files said.
    told : bool
        Whether what headers say may be told.
    """
    known = {person["subject"]: person.get("scanner", "") for person in people}
    sidecars = Sidecars(source) if told and source.is_dir() and is_bids(source) else None
    folders = told and sidecars is None and source.is_dir()
    found: dict[str, str] = {}
    for row in rows:
        name = row["scanner"] or known.get(row["subject"], "")
        if not name and sidecars is not None:
            name = sidecars.scanner(row["path"])
        elif not name and folders:
            name = prints.scanner(row["path"], dicom_scanner)
        found[row["image"]] = name
    return found


class Sidecars:
    """The sidecars of a BIDS dataset, each read once.

    Parameters
    ----------
    root : Path
        The dataset.

    Notes
    -----
    Sidecars are inherited as the BIDS specification 1.10 has it: one that lies beside an image or in a folder above it, up to the dataset,
    is of that image when it has the suffix and no entity that the image does not have; what is nearer, or names more, goes over the rest.
    """

    def __init__(self, root: Path):
        self.root = str(root)
        self._listed: dict[str, list[tuple[set[tuple[str, str]], str, str]]] = {}
        self._said: dict[str, dict[str, Any] | None] = {}

    def scanner(self, path: str) -> str:
        """Return the scanner of an image by its path; empty where one of its sidecars cannot be read."""
        parts = path.removeprefix(f"{self.root}/").split("/")
        parsed = parse_name(parts[-1])
        if parsed is None:
            return ""
        entities, suffix, _ = parsed
        said: dict[str, Any] = {}
        for depth in range(len(parts)):
            folder = "/".join([self.root, *parts[:depth]])
            if folder not in self._listed:
                self._listed[folder] = _sidecars_in(folder)
            for own, ending, name in self._listed[folder]:
                if ending == suffix and own <= entities.items():
                    if name not in self._said:
                        self._said[name] = _read_sidecar(name)
                    more = self._said[name]
                    if more is None:
                        return ""
                    said |= more
        return scanner_name(*(said.get(key) for key in BIDS_KEYS))


def _sidecars_in(folder: str) -> list[tuple[set[tuple[str, str]], str, str]]:
    """Return entities, suffix and path of the sidecars in a folder, those that name least first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - as in the scan
    except OSError:
        return []
    found = []
    for name in sorted(names):
        if name.endswith(".json") and not name.startswith("."):
            stem = name.removesuffix(".json")
            parsed = ({}, stem, ".json") if stem.isalnum() else parse_name(name)
            if parsed and parsed[2] == ".json":
                found.append((set(parsed[0].items()), parsed[1], f"{folder}/{name}"))
    return sorted(found, key=lambda each: len(each[0]))


def _read_sidecar(path: str) -> dict[str, Any] | None:
    """Return what a sidecar says of the scanner; None where it is no JSON of an object, or too long to be one."""
    try:
        data = _beginning(path, SIDECAR_BYTES + 1)
        said = json.loads(data.decode("utf-8-sig")) if len(data) <= SIDECAR_BYTES else None
    except (BadInput, OSError, ValueError, RecursionError, MemoryError):
        return None
    return {key: said[key] for key in BIDS_KEYS if key in said} if isinstance(said, dict) else None


def _beginning(path: str, most: int) -> bytes:
    """Return at most so many bytes of a file; of a pipe or a device none, without waiting for it; links are followed as images' are."""
    check_inside(Path(path), path)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        return file.read(most) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def dicom_scanner(folder: str) -> str:
    """Return the scanner that the first DICOM file of a folder names; empty where none of the first `TRIES` files does."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - as in the scan
    except OSError:
        return ""
    files = [
        name for name in names if not name.startswith(".") and not name.lower().endswith(NOT_DICOM + ASIDE) and name.upper() != "DICOMDIR"
    ]
    for name in files[:TRIES]:
        try:
            data = _beginning(f"{folder}/{name}", HEADER_BYTES)
        except (BadInput, OSError):
            continue
        if data[128:132] == b"DICM":
            return _header_scanner(data)
    return ""


def _header_scanner(data: bytes) -> str:
    """Return the scanner that the beginning of a DICOM file names."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    from cohortex.io.dicom_pixels import quiet
    from cohortex.io.dicom_tags import SCANNER_KEYWORDS

    tags: list[BaseTag | int] = [Tag(tag_for_keyword(keyword) or 0) for keyword in SCANNER_KEYWORDS]
    last = max(tags)
    with quiet():
        try:
            header = read_partial(io.BytesIO(data), lambda tag, _vr, _length: tag > last, specific_tags=tags)
            return header_scanner(header)
        except Exception:  # a damaged header fails in many ways inside pydicom, and its texts may hold values
            return ""


def header_scanner(header: Any) -> str:
    """Return the scanner that a header of DICOM, as pydicom reads it, names."""
    from cohortex.io.dicom_tags import SCANNER_KEYWORDS

    said = []
    for keyword in SCANNER_KEYWORDS:
        try:
            said.append(header.get(keyword))
        except Exception:  # pydicom fails in many ways at a damaged value: the rest may still name the scanner
            said.append(None)
    maker, model, tesla = said
    return scanner_name(maker, model, float(tesla) if isinstance(tesla, float | int) else tesla)
