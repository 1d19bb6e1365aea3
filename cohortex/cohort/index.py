"""Makes a cohort table of a dump of DICOM files: flat, of many patients, in whatever folders.

Nothing that identifies a patient goes into the table: a subject is a running number. Which number belongs to which
PatientID is remembered as a keyed hash in a file beside the table, so that indexing a dump that has grown keeps the ids.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cohortex.cohort.scanners import header_scanner
from cohortex.cohort.table import COLUMNS, Row, image_id
from cohortex.errors import Refused
from cohortex.io.dicom import BODY_PARTS, MODALITIES
from cohortex.io.dicom_pixels import quiet
from cohortex.io.dicom_tags import INDEXED_KEYWORDS
from cohortex.publish import atomic_path, write_text
from cohortex.tables import write_table

DEFLATED = "1.2.840.10008.1.2.1.99"
NEVER = (".txt", ".md", ".json", ".tsv", ".csv", ".pdf", ".html", ".xml", ".png", ".jpg", ".nii", ".gz", ".zip", ".series")


@dataclass
class Series:
    """One series of a dump."""

    patient: str
    study: str
    date: str
    number: int
    modality: str
    body_part: str
    scanner: str = ""
    files: list[str] = field(default_factory=list)


@dataclass
class Left:
    """What was left out, by reason."""

    counts: Counter[str] = field(default_factory=Counter)

    def sentence(self) -> str:
        """Say how much was left out and why; empty when nothing was."""
        return "; ".join(f"{count} {why}" for why, count in sorted(self.counts.items()))


def index(folder: str | Path, table: str | Path) -> tuple[list[Row], str]:
    """Write a table of all DICOM series below a folder.

    Parameters
    ----------
    folder : path
        Links are not followed.
    table : path
        The table to write. A series that shares its folder with others is given as a list of its files, in
        ``<table>.files/``; ``<table>.ids.json`` remembers the ids.

    Returns
    -------
    rows : list of dict
    left : str
        What was left out and why.

    Raises
    ------
    Refused
        When there is no such folder, or no DICOM image in it.
    """
    root, table = Path(folder).resolve(), Path(table).parent.resolve() / Path(table).name
    if not root.is_dir():
        raise Refused(f"{folder} is not a folder; name the folder that holds the DICOM files.")
    left = Left()
    with quiet():
        series = read_headers(root, left)
    if not series:
        raise Refused(f"{root.name} holds no DICOM image; {left.sentence() or 'it is empty'}.")
    table.parent.mkdir(parents=True, exist_ok=True)
    ids = _subjects(table.with_suffix(".ids.json"), (each.patient for each in series.values()))
    rows = _rows(series, ids)
    held = Counter(name.rpartition("/")[0] for name in _walk(root, Left()))
    for row, each in rows:
        row["path"] = _path(row, each, root, table, held)
    write_table(table, COLUMNS, (row for row, _ in rows))
    return [row for row, _ in rows], left.sentence()


def read_headers(root: Path, left: Left) -> dict[str, Series]:
    """Return the series below a folder by their UID; files are relative to it."""
    import pydicom
    from pydicom.filereader import read_file_meta_info

    found: dict[str, Series] = {}
    for name in _walk(root, left):
        path = root / name
        try:
            with path.open("rb") as file:
                if file.read(132)[128:] != b"DICM":
                    left.counts["files that are not DICOM"] += 1
                    continue
            # A deflated file is inflated as a whole even when only its header is asked for: a few kB can take all memory.
            if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
                left.counts["deflated files (convert them first)"] += 1
                continue
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(INDEXED_KEYWORDS))
            uid = str(header.get("SeriesInstanceUID", ""))
            if not uid:
                left.counts["files with a damaged header"] += 1
                continue
            if "Rows" not in header or str(header.get("Modality", "")) not in MODALITIES:
                left.counts["DICOM files that are no images of a scanner"] += 1
                continue
            if uid not in found:
                found[uid] = _series(header)
            elif found[uid].patient != _patient(header):
                left.counts["files whose series is another patient's"] += 1
                continue
            found[uid].files.append(name)
        except (RecursionError, MemoryError):
            left.counts["files with a header nested too deeply or too large"] += 1
        except Exception:  # a damaged header fails in many ways inside pydicom, and its texts may hold values
            left.counts["files with a damaged header"] += 1
    return found


def _walk(root: Path, left: Left) -> Iterator[str]:
    """Yield the files below a folder, sorted, relative to it, links left out."""
    for top, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = f"{top}/{name}"
            if name.startswith(".") or name.upper() == "DICOMDIR" or name.lower().endswith(NEVER):
                continue
            if not stat.S_ISREG(os.lstat(path).st_mode) or "\n" in path or "\t" in path:
                left.counts["links, pipes or files with odd names"] += 1
                continue
            yield path.removeprefix(f"{root}/")


def _patient(header: Any) -> str:
    return str(header.get("PatientID") or "") or f"study {header.get('StudyInstanceUID', '')}"


def _series(header: Any) -> Series:
    try:
        number = int(header.get("SeriesNumber") or 0)
    except ValueError:
        number = 0
    modality = MODALITIES[str(header.Modality)]
    return Series(
        patient=_patient(header),
        study=str(header.get("StudyInstanceUID", "")),
        date=f"{header.get('StudyDate', '')}{header.get('StudyTime', '')}",
        number=number,
        modality=mr_suffix(header) if modality == "MR" else modality,
        body_part=BODY_PARTS.get(str(header.get("BodyPartExamined") or "").upper().replace(" ", ""), ""),
        scanner=header_scanner(header),
    )


def mr_suffix(header: Mapping[str, Any]) -> str:
    """Return the BIDS suffix of an MR series by its times (ms), or by its description where they say nothing; ``MR`` where neither does.

    The rules are those of contrast: a long inversion with a long echo nulls fluid (FLAIR), a long echo alone is T2, a short echo with a
    short repetition of spin echoes (or an inversion that prepares a gradient echo) is T1, a short echo with a long repetition is proton
    density. Other gradient echoes (cine, localisers, maps) stay ``MR``.
    """

    def milliseconds(name: str) -> float:
        try:
            return float(header.get(name) or 0)
        except (TypeError, ValueError):
            return 0.0

    echo, repetition, inversion = milliseconds("EchoTime"), milliseconds("RepetitionTime"), milliseconds("InversionTime")
    words = str(header.get("SeriesDescription") or "").lower()
    for pattern, suffix in ((r"dwi|dti|diff|\badc\b", "dwi"), (r"flair|dark.?fluid", "FLAIR"), (r"mprage|\bt1|t1w|spgr|bravo", "T1w")):
        if re.search(pattern, words):
            return suffix
    for pattern, suffix in ((r"t2\*|t2.?star|swi", "T2starw"), (r"\bt2|t2w", "T2w"), (r"\bpd\b|pdw|proton", "PDw")):
        if re.search(pattern, words):
            return suffix
    spin = "SE" in str(header.get("ScanningSequence") or "")
    if not echo or "EP" in str(header.get("ScanningSequence") or ""):
        return "MR"
    if inversion > 1500 and echo > 60:
        return "FLAIR"
    if echo >= 60 and repetition > 1500:
        return "T2w"
    if echo < 30 and (500 <= inversion <= 1500 or (spin and 0 < repetition <= 1000)):
        return "T1w"
    return "PDw" if echo < 35 and repetition > 1500 and not inversion else "MR"


def _subjects(file: Path, patients: Iterable[str]) -> dict[str, str]:
    """Return a running number for each patient, the one of the last time where there was one."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        held = {"key": secrets.token_hex(32), "ids": {}}
    ids: dict[str, str] = held["ids"]
    following = 1 + max((int(each[1:]) for each in ids.values()), default=0)
    named: dict[str, str] = {}
    for patient in patients:
        print_of = hmac.new(bytes.fromhex(held["key"]), patient.encode(), hashlib.sha256).hexdigest()
        if print_of not in ids:
            ids[print_of] = f"p{following:04d}"
            following += 1
        named[patient] = ids[print_of]
    with atomic_path(file) as temporary:
        temporary.write_text(json.dumps(held, sort_keys=True) + "\n", encoding="utf-8")
        temporary.chmod(0o600)
    return named


def _rows(series: Mapping[str, Series], ids: Mapping[str, str]) -> list[tuple[Row, Series]]:
    studies: dict[str, dict[str, str]] = {}
    for each in sorted(series.values(), key=lambda each: (each.date, each.study)):
        of = studies.setdefault(each.patient, {})
        of.setdefault(each.study, f"{len(of) + 1:02d}")
    found: list[tuple[Row, Series]] = []
    ordered = sorted(
        series.items(), key=lambda item: (ids[item[1].patient], studies[item[1].patient][item[1].study], item[1].number, item[0])
    )
    several = Counter((each.patient, each.study, each.modality) for each in series.values())
    used: set[str] = set()
    for _, each in ordered:
        of = studies[each.patient]
        row = dict.fromkeys(COLUMNS, "")
        row |= {"subject": ids[each.patient], "session": of[each.study] if len(of) > 1 else "", "modality": each.modality}
        row |= {"body_part": each.body_part, "role": "image", "scanner": each.scanner}
        if several[each.patient, each.study, each.modality] > 1:
            row["acq"] = f"s{each.number:03d}"
        again = 1
        while image_id(row) in used:
            again += 1
            row["run"] = str(again)
        used.add(image_id(row))
        found.append((row, each))
    return found


def _path(row: Row, series: Series, root: Path, table: Path, held: Mapping[str, int]) -> str:
    """Return the folder of a series where it is alone in it, else a list of its files, relative to the table."""
    folders = {name.rpartition("/")[0] for name in series.files}
    if len(folders) == 1 and held[(folder := folders.pop())] == len(series.files):
        return os.path.relpath(root / folder, table.parent)
    listing = table.with_suffix(".files") / f"{image_id(row)}.series"
    listing.parent.mkdir(exist_ok=True)
    write_text(listing, "\n".join(os.path.relpath(root / name, listing.parent) for name in series.files) + "\n")
    return f"{listing.parent.name}/{listing.name}"
