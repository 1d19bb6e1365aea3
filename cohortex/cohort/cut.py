"""The cut of a cohort into batches: which subject is in which, and how large each batch is."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cohortex.cohort.table import Row
from cohortex.publish import file_sha256
from cohortex.tables import read_table

FACTORS = {
    ".nii.gz": 4.0,
    ".nii": 2.0,
    ".nrrd": 4.0,
    ".mha": 4.0,
    ".zraw": 4.0,
    ".ozx": 2.0,
    ".h5": 0.5,
    ".npz": 4.0,
    ".png": 12.0,
    ".jpg": 40.0,
    ".jpeg": 40.0,
    ".tif": 4.0,
    ".tiff": 4.0,
    ".zarr": 4.0,
}
"""Bytes of float32 voxels that a byte of a file usually becomes."""
FACTOR = 2.0
"""The same for everything else, such as DICOM files of 16 bits a pixel."""
ZARR = (".zarray", ".zattrs", ".zgroup")
"""Metadata of Zarr folders of format 2, the only hidden files that count."""
RACY_NS = 2_000_000_000
"""A folder that changed less than this before it was listed may change again within the same time stamp."""
SHARES = (("train", 0.70), ("validation", 0.85), ("test", 1.0))


def cut(subjects: Iterable[str], known: Mapping[str, str], batch_size: int, following: int) -> tuple[dict[str, str], int]:
    """Put every subject into a batch.

    Parameters
    ----------
    subjects : iterable of str
    known : mapping
        Subject to batch, from the last cut: these stay where they are, and no new subject joins them.
    batch_size : int
        Subjects in a new batch.
    following : int
        Number of the next new batch; numbers are never used again.

    Returns
    -------
    batches : dict
        Subject to batch, in the order of batch and subject.
    following : int
    """
    everyone = set(subjects)
    batches = {subject: known[subject] for subject in everyone if subject in known}
    new = sorted(everyone - batches.keys())
    for start in range(0, len(new), batch_size):
        batches |= dict.fromkeys(new[start : start + batch_size], f"b{following:05d}")
        following += 1
    return dict(sorted(batches.items(), key=lambda item: (item[1], item[0]))), following


def split_of(subject: str) -> str:
    """Return train, validation or test by a hash of the subject: 70, 15 and 15 in a hundred."""
    place = int.from_bytes(hashlib.sha256(f"split|{subject}".encode()).digest()[:8]) / 2**64
    return next(name for name, end in SHARES if place < end)


class Prints:
    """Fingerprints and sizes of files and folders, remembering what had to be listed or read.

    Parameters
    ----------
    how : str
        mtime (time and size) | size | sha256.
    remembered : Path
        A file that holds, by path, the state of a folder or file and what was found then.
    """

    def __init__(self, how: str, remembered: Path):
        self.how = how
        self.file = remembered
        try:
            self.before: dict[str, list] = json.loads(remembered.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self.before = {}
        self.now: dict[str, list] = {}

    def of(self, path: str) -> tuple[str, float]:
        """Return the fingerprint of a file or folder and its estimated size in float32 megabytes; ``missing`` and 0 if it is not there."""
        try:
            found = os.stat(path)  # noqa: PTH116 - called once an image
        except (OSError, ValueError):
            return "missing", 0.0
        if stat.S_ISDIR(found.st_mode):
            return self._of_files(path, path, _below, self._state(path, found))
        if path.endswith(".series"):
            return self._of_files(path, os.path.dirname(path), _listed, self._state_of_series(path, found))  # noqa: PTH120
        if not stat.S_ISREG(found.st_mode):
            return "not-a-file", 0.0
        if path.endswith(".mhd"):
            top, file = os.path.split(path)
            return self._several(top, [f"{file[:-4]}{end}" for end in (".mhd", ".raw", ".zraw")], opened=self.how == "sha256")
        megabytes = found.st_size * factor(path) / 1e6
        if self.how == "sha256":
            state = f"{found.st_mtime_ns}-{found.st_size}"
            return self._remember(f"{self.how}|{path}", state, lambda: (file_sha256(path), megabytes))
        return self._print(found), megabytes

    def scanner(self, folder: str, find: Callable[[str], str]) -> str:
        """Return the scanner that `find` says of a folder, asking again only once files came or went in it."""
        try:
            state = str(os.stat(folder).st_mtime_ns)  # noqa: PTH116 - called once an image
        except (OSError, ValueError):
            return ""
        return self._remember(f"scanner|{folder}", state, lambda: (find(folder), 0.0))[0]

    def _print(self, found: os.stat_result) -> str:
        return str(found.st_size) if self.how == "size" else f"{found.st_mtime_ns}-{found.st_size}"

    def _state(self, path: str, found: os.stat_result) -> str:
        """Return what changes when a file comes, goes or is replaced anywhere below a folder."""
        times = [found.st_mtime_ns]
        for top, folders, _ in os.walk(path) if found.st_nlink != 2 else ():
            times += [os.stat(f"{top}/{name}").st_mtime_ns for name in sorted(folders)]  # noqa: PTH116
        return "-".join(map(str, times))

    def _state_of_series(self, path: str, found: os.stat_result) -> str:
        """Return what changes when a list of files changes, or one of the folders that hold them."""
        top = os.path.dirname(path)  # noqa: PTH120 - called once an image
        times = [found.st_mtime_ns]
        for folder in sorted({os.path.dirname(f"{top}/{file}") for file in _listed(path)}):  # noqa: PTH120
            try:
                times.append(os.stat(folder).st_mtime_ns)  # noqa: PTH116
            except OSError:
                times.append(0)
        return "-".join(map(str, times))

    def _of_files(self, path: str, top: str, names: Callable[[str], list[str]], state: str) -> tuple[str, float]:
        """Return what several files are; by their content, whoever asks for that also sees a file that was overwritten in its place."""
        if self.how == "sha256":
            state += f"|{self._several(top, names(path), opened=False)[0]}"
        return self._remember(f"{self.how}|{path}", state, lambda: self._several(top, names(path), opened=self.how == "sha256"))

    def _remember(self, key: str, state: str, find: Callable[[], tuple[str, float]]) -> tuple[str, float]:
        held = self.before.get(key)
        if held is None or held[0] != state:
            fingerprint, megabytes = find()
            held = [state, fingerprint, round(megabytes, 3)]
        if time.time_ns() - max(int(each) for each in state.partition("|")[0].split("-")) > RACY_NS:
            self.now[key] = held
        return held[1], held[2]

    def _several(self, top: str, files: list[str], opened: bool) -> tuple[str, float]:
        digest, size = hashlib.sha256(), 0.0
        same = factor(top) if top.lower().endswith(".zarr") else None
        for name in files:
            file, fingerprint = f"{top}/{name}", "missing"
            try:
                found = os.stat(file)  # noqa: PTH116
                size += found.st_size * (same or factor(file))
                fingerprint = file_sha256(file) if opened else self._print(found)
            except OSError:
                pass
            digest.update(f"/{name}|{fingerprint}\n".encode(errors="surrogateescape"))
        return f"{len(files)}-{digest.hexdigest()[:24]}", size / 1e6

    def text(self) -> str:
        """Return what is to be remembered."""
        return json.dumps(self.now, separators=(",", ":"), sort_keys=True)


def _below(path: str) -> list[str]:
    """Return the files below a folder, relative to it, sorted."""
    files = []
    for top, _, names in os.walk(path):
        files += [f"{top}/{name}".removeprefix(f"{path}/") for name in names if not name.startswith(".") or name in ZARR]
    return sorted(files)


def _listed(path: str) -> list[str]:
    """Return the files that a ``.series`` names, relative to its folder."""
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line]


def factor(path: str) -> float:
    """Return how many bytes of float32 voxels a byte of this file becomes."""
    name = path.lower()
    return next((value for end, value in FACTORS.items() if name.endswith(end)), FACTOR)


def known_batches(folder: Path) -> dict[str, str]:
    """Return subject to batch of the last cut; nothing where there was none."""
    path = folder / "batches.tsv"
    return {row["subject"]: row["batch"] for row in read_table(path)} if path.is_file() else {}


def sizes(rows: Iterable[tuple[Row, float]]) -> dict[str, list[Any]]:
    """Return by batch, in float32 megabytes, what `cohortex.cohort.BatchSize` holds."""
    found: dict[str, list[Any]] = {}
    subjects: dict[str, float] = {}
    for row, megabytes in rows:
        subjects[row["subject"]] = subjects.get(row["subject"], 0.0) + megabytes
        entry = found.setdefault(row["batch"], [0.0, 0.0, 0, 0.0, {}])
        own = entry[4].setdefault(row["modality"], [0.0, 0.0, 0])
        for held in (entry, own):
            held[0] = max(held[0], round(megabytes, 3))
            held[1] = round(held[1] + megabytes, 3)
            held[2] += row["role"] == "image"
        entry[3] = max(entry[3], round(subjects[row["subject"]], 3))
    return found
