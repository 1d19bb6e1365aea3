"""The way back from pseudonyms and tokens, for who may read a run's private folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cohortex.errors import Refused
from cohortex.io.paths import token
from cohortex.privacy.conceal import FOLDER
from cohortex.tables import read_table


def look_up(work: Path, wanted: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield what a run's pseudonyms and tokens stand for.

    Parameters
    ----------
    work : Path
        The work folder of a run with ``privacy:``.
    wanted : sequence of str
        Pseudonyms, tokens or given ids; nothing: everything in the tables. A token that no row of the cohort has is looked for among the
        files of its folders, which are listed for it.

    Yields
    ------
    word, what : str
        What was asked for and what it stands for, empty where nothing is known of it.

    Raises
    ------
    Refused
        When there is no private folder, or it is another user's.
    """
    rows = list(_rows(work))
    if not wanted:
        yield from ((told, what) for told, _, what in rows)
        return
    known: dict[str, list[str]] = {}
    for told, given, what in rows:
        known.setdefault(told, []).append(what)
        if given and given != told:
            known.setdefault(given, []).append(f"{told}: {what}")
    missing = {word for word in wanted if word not in known and word.startswith("file-")}
    found = dict(_inside(work, missing)) if missing else {}
    for word in wanted:
        for what in known.get(word) or [found.get(word, "")]:
            yield word, what


def _rows(work: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what is told, what was given (empty for files), and a sentence."""
    folder = work / FOLDER
    try:
        ids = read_table(folder / "ids.tsv") if (folder / "ids.tsv").is_file() else []
        paths = _paths(work)
    except PermissionError:
        raise Refused(f"the folder {FOLDER} of {work} is another user's; only who ran it may look there.") from None
    if not ids and not paths:
        raise Refused(
            f"{work} has no folder {FOLDER} with pseudonyms or names; name the work folder of a run with privacy: in its settings."
        )
    for row in ids:
        of = f" of {row['subject']}" if row["subject"] else ""
        yield row["told"], row["given"], f"{row['kind']}{of} {row['given']}"
    for shown, path, _ in paths:
        yield shown, "", path


def _paths(work: Path) -> list[tuple[str, str, str]]:
    """Return token, path and dataset of every image."""
    tables = sorted((work / FOLDER / "batches").glob("*.tsv"))
    return [(row["shown"], row["path"], row["root"]) for table in tables for row in read_table(table) if row["shown"]]


def _inside(work: Path, missing: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the files with these tokens that lie in the folders and lists of files of the cohort."""
    file = work / FOLDER / "names.key"
    if not file.is_file():
        return
    key = bytes.fromhex(file.read_text(encoding="ascii").strip())
    for _, path, root in _paths(work):
        for each in _files(path):
            shown = token(key, each, root)
            if shown in missing:
                yield shown, each


def _files(path: str) -> Iterator[str]:
    if path.endswith(".series"):
        top = os.path.dirname(path)  # noqa: PTH120
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return
        yield from (os.path.normpath(f"{top}/{line}") for line in lines if line)
        return
    for top, _, names in os.walk(path):
        yield from (f"{top}/{name}" for name in names)
    # the file of the voxels beside a header
    if path.lower().endswith(".mhd"):
        yield from (f"{path[:-4]}{end}" for end in (".raw", ".zraw"))
