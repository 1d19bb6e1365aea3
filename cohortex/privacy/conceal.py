"""The rows of a cohort as the rest of a run sees them: pseudonyms for ids, tokens for paths; the true ones in one private folder.

The private folder is ``<work>/private``, for its owner alone (folder 0700, files 0600):

- ``ids.tsv``: what stands for what (kind, subject, given, told).
- ``batches/<batch>.tsv``: true path and dataset of every image of a batch, its token, and by how many days its subject is shifted; read
  by the batch's first job.
- ``names.key``: the key of the tokens, for jobs.
- ``fingerprints.json``: what need not be listed again, by path.

Imported by the head process of every run, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortex.cohort.table import Row, image_id, write_if_changed
from cohortex.errors import Refused
from cohortex.io.paths import hide_names, token
from cohortex.privacy.keys import check_of, hides_names, names_key, needs_key, pseudonyms, read_key, shift_days, word
from cohortex.tables import natural, read_table, table_text

FOLDER = "private"
IDS = ("kind", "subject", "given", "told")
PATHS = ("image", "shown", "path", "root", "days")
WORDS = {"acq": "a", "run": "r", "pair": "x"}
"""Columns whose words are replaced with the ids, for they come from names of files and folders; and with what their replacement begins."""
MARK = ".cohortex/privacy.json"
"""Where in the results stands what they tell of their subjects."""
HIDDEN = "hidden"
"""Stands for what a configuration says of the input, wherever it is written down."""


@dataclass(frozen=True)
class Privacy:
    """What a run is to tell of its cohort.

    Attributes
    ----------
    folder : Path
        The private folder.
    ids, names : bool
        Whether ids become pseudonyms, and files are called by tokens.
    dates : str
        none | shifted | given.
    key : bytes
        Empty where nothing is made with one.
    """

    folder: Path
    ids: bool
    names: bool
    dates: str
    key: bytes = b""

    @property
    def told(self) -> dict[str, str]:
        """What a cohort remembers of it, so that a run with other settings is noticed; nothing where nothing is hidden."""
        if not self.key:
            return {}
        return {"ids": "pseudonyms" if self.ids else "given", "file_names": "hide" if self.names else "show", "key": check_of(self.key)}

    @property
    def private(self) -> bool:
        """Whether there is anything for the private folder."""
        return bool(self.key)


def begin(config: Mapping[str, Any], held: Mapping[str, Any] | None) -> Privacy:
    """Read the key, see that the runs before told the same, and have messages hide names of files from now on where they are to.

    Parameters
    ----------
    config : mapping
        As checked.
    held : mapping or None
        ``index.json`` of the cohort before this run; None where there was none.

    Raises
    ------
    Refused
        For a key that is not as it must be, or other settings or another key than those of the runs before.
    """
    privacy, work, results = config["privacy"], Path(config["work"]), Path(config["output"])
    before = {"work": None if held is None else held.get("privacy", {}), "output": _of_results(results)}
    same = {place: told for place, told in before.items() if told is not None}
    for place, told in same.items():
        _check_mode(place, told, privacy)
    key = read_key(privacy["key"], any(same.values())) if needs_key(privacy) else b""
    for place, told in same.items():
        _check_key(place, told, key)
    found = Privacy(work / FOLDER, privacy["ids"] == "pseudonyms", hides_names(privacy), privacy["dates"], key)
    source = os.path.abspath(config["input"])  # noqa: PTH100 - links stay as they are
    hide_names(names_key(key) if found.names else None, source if Path(source).is_dir() else os.path.dirname(source))  # noqa: PTH120
    return found


def _of_results(results: Path) -> dict[str, str] | None:
    """Return what the runs before told in an output folder; None where it holds nothing of a subject."""
    from cohortex.io.dataset import LISTS

    try:
        return json.loads((results / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {} if any((results / LISTS).glob("*.json")) else None


def mark_results(privacy: Privacy, results: Path) -> None:
    """Leave in the output what it tells, for runs from another work folder; nothing where nothing is hidden."""
    if privacy.told:
        write_if_changed(results / MARK, json.dumps(privacy.told, sort_keys=True) + "\n")


def _check_mode(place: str, before: Mapping[str, str], privacy: Mapping[str, Any]) -> None:
    was = (before.get("ids", "given"), before.get("file_names", "show"))
    if was != (privacy["ids"], "hide" if hides_names(privacy) else "show"):
        raise Refused(
            f"privacy: the runs before on this {place} folder were with ids: {was[0]} and file_names: {was[1]}, and what they left tells "
            "so much; say the same, or give another work and output."
        )


def _check_key(place: str, before: Mapping[str, str], key: bytes) -> None:
    if before.get("key") and key and before["key"] != check_of(key):
        raise Refused(
            f"privacy.key is not the key of the runs before on this {place} folder, so every subject would be a new one and every shift of "
            "days another; name the key of before, or give another work and output."
        )


# --- ids -------------------------------------------------------------------------------------------------------


def replace_ids(
    rows: Iterable[Row], people: Iterable[Row], privacy: Privacy, config: Mapping[str, Any]
) -> tuple[list[Row], list[dict[str, str]]]:
    """Put pseudonyms for the ids of all rows, and write down which stand for which.

    A subject's pseudonym follows from key and id alone. Sessions are numbered within the subject, in their natural order, since stages take
    the first visit for the reference; those of the runs before keep their numbers. Words of `WORDS` become keyed words. Of what is known of
    a subject only the columns that the configuration names go on.

    Parameters
    ----------
    rows, people : list of dict
        Changed in place: rows get ``given``, a mapping of the ids that they had, which is never written.

    Returns
    -------
    rows, people : list of dict

    Raises
    ------
    Refused
        When two ids would become one.
    """
    rows, people = list(rows), list(people)
    names = pseudonyms(privacy.key, (row["subject"] for row in rows))
    file = privacy.folder / "ids.tsv"
    before = read_table(file) if file.is_file() else []
    sessions = _sessions(rows, names, before)
    told = {("subject", "", given): name for given, name in names.items()}
    told |= {("session", names[subject], given): name for (subject, given), name in sessions.items()}
    for row in rows:
        row["given"] = dict(row)  # type: ignore[assignment]
        for column, letter in WORDS.items():
            if row[column] and not (column == "run" and row[column].isdigit() and len(row[column]) <= 3):
                known = word(privacy.key, letter, row[column])
                told[column, "", row[column]] = known
                row[column] = known
        row["session"] = sessions.get((row["subject"], row["session"]), "")
        row["subject"] = names[row["subject"]]
        row["image"] = image_id(row)
    images = [row["image"] for row in rows]
    if len(set(images)) < len(images):
        raise Refused("Two images would have one name under pseudonyms; take another key (privacy.key) with another work and output.")
    kept = {(row["kind"], row["subject"], row["given"]): row["told"] for row in before} | told
    _write(file, table_text(IDS, ({**dict(zip(IDS, key, strict=False)), "told": kept[key]} for key in sorted(kept))))
    columns = {"subject", "split", *goes_on(config)}
    return rows, [
        {name: names[value] if name == "subject" else value for name, value in person.items() if name in columns}
        for person in people
        if person["subject"] in names
    ]


def _sessions(rows: Iterable[Row], names: Mapping[str, str], before: Iterable[Row]) -> dict[tuple[str, str], str]:
    """Return by subject and given session its number, two digits or more; what had one keeps it."""
    held = {(row["subject"], row["given"]): row["told"] for row in before if row["kind"] == "session"}
    of: dict[str, set[str]] = {}
    for row in rows:
        if row["session"]:
            of.setdefault(row["subject"], set()).add(row["session"])
    last: dict[str, int] = {}
    for (name, _), number in held.items():
        last[name] = max(last.get(name, 0), int(number))
    found = {}
    for subject, given in of.items():
        name = names[subject]
        for session in sorted(given, key=lambda each: (natural(each), each)):
            if (name, session) not in held:
                last[name] = last.get(name, 0) + 1
                held[name, session] = f"{last[name]:02d}"
            found[subject, session] = held[name, session]
    return found


def goes_on(config: Mapping[str, Any]) -> set[str]:
    """Return the columns of what is known of subjects that go on under pseudonyms: those that the configuration names."""
    return {*config["privacy"]["columns"], *_words(config)}


def _words(value: Any) -> Iterable[str]:
    """Yield every word that stands anywhere in a configuration as a value: a column that is used is among them."""
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _words(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _words(below)
    elif isinstance(value, str):
        yield value


def given(row: Mapping[str, Any], column: str) -> set[str]:
    """Return what a row may be called by: its id, and the one that it was given."""
    return {row[column], row.get("given", row)[column]} if column == "subject" else {row.get("given", row)[column]}


# --- paths -----------------------------------------------------------------------------------------------------


def replace_paths(rows: Sequence[Row], privacy: Privacy) -> list[Row]:
    """Return the rows as the tables of the cohort hold them, with tokens for paths, after the true ones were written down by batch.

    Parameters
    ----------
    rows : list of dict
        With ``path``, ``root``, ``fingerprint`` and ``batch``.
    """
    batches = privacy.folder / "batches"
    if not privacy.private:
        # of a run that shifted days; one that hid anything is not followed by one that does not
        shutil.rmtree(privacy.folder, ignore_errors=True)
        return list(rows)
    parts: dict[str, list[dict[str, Any]]] = {}
    told: list[Row] = []
    own = names_key(privacy.key)
    for row in rows:
        shown = token(own, row["path"], row["root"]) if privacy.names else ""
        days = shift_days(privacy.key, row["subject"]) if privacy.dates == "shifted" else ""
        parts.setdefault(row["batch"], []).append({**row, "shown": shown, "days": days})
        if privacy.names:
            # times and sizes of files tell one dataset from another
            print_of = hmac.new(own, f"fingerprint|{row['fingerprint']}".encode(), hashlib.sha256).hexdigest()[:24]
            row = {**row, "path": shown, "root": "", "fingerprint": print_of}
        told.append(row)
    for batch, part in parts.items():
        _write(batches / f"{batch}.tsv", table_text(PATHS, part))
    for path in batches.glob("*.tsv"):
        if path.stem not in parts:
            path.unlink(missing_ok=True)
    if privacy.names:
        _write(privacy.folder / "names.key", own.hex() + "\n")
    else:
        (privacy.folder / "names.key").unlink(missing_ok=True)
    return told


def _write(path: Path, text: str) -> None:
    """Write a private file, in folders that are private, too."""
    for folder in (path.parent, *path.parent.parents):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        if folder.name == FOLDER:
            break
    write_if_changed(path, text, mode=0o600)
    path.chmod(0o600)


def remember(privacy: Privacy, folder: Path, text: str) -> None:
    """Write what need not be listed again of files, by path: into the private folder where names are hidden."""
    if privacy.names:
        _write(privacy.folder / "fingerprints.json", text)
    else:
        write_if_changed(folder / "fingerprints.json", text)


def remembered(privacy: Privacy, folder: Path) -> Path:
    """Return the file of `remember`."""
    return (privacy.folder if privacy.names else folder) / "fingerprints.json"


# --- for jobs --------------------------------------------------------------------------------------------------


def true_rows(work: Path, batch: str, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of a batch with their true paths, and have messages hide names of files where the run hides them.

    Rows get ``shown`` (the token that the table had for the path) and ``days`` (the shift of the subject) where there are such.

    Raises
    ------
    Refused
        When the private folder does not have what the table leaves out: no image is set aside for that.
    """
    rows, file, key = list(rows), work / FOLDER / "batches" / f"{batch}.tsv", work / FOLDER / "names.key"
    private = {row["image"]: row for row in read_table(file)} if file.is_file() else {}
    absent = [row for row in rows if row["image"] not in private]
    if any(row.get("root") == "" or row.get("dates") == "shifted" for row in absent):
        raise Refused(
            f"{FOLDER}/batches/{batch}.tsv of the work folder does not have all of the batch; start the run again, it is made anew."
        )
    if not private:
        return rows
    found = []
    for row in rows:
        own = private.get(row["image"], {})
        found.append({**row, **{name: own[name] for name in PATHS if own.get(name)}})
    if key.is_file() and found:
        hide_names(bytes.fromhex(key.read_text(encoding="ascii").strip()), found[0]["root"])
    return found


def told_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as it may be written down: without what it says of the input where names are hidden."""
    privacy = config["privacy"]
    if not hides_names(privacy):
        return dict(config)
    nothing = {"select": {**config["select"], **dict.fromkeys(("subject", "session", "acq", "run"))}}
    nothing["only"] = dict.fromkeys(config["only"])
    labels = None if config["labels"] is None else HIDDEN
    return {**config, **nothing, "input": HIDDEN, "labels": labels, "privacy": {**privacy, "key": HIDDEN}}


def told_command(words: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Return the words of a command as they may be written down: where names are hidden, the program and its options without values."""
    if not hides_names(config["privacy"]):
        return list(words)
    return [*words[:1], *(option.partition("=")[0] for option in words[1:] if option.startswith("-"))]
