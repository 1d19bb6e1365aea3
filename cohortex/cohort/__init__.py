"""The cohort: a table of images, and its cut into batches of subjects.

`make_cohort` is called by the head process while the Snakefile is parsed; job processes call `read_batches` and
`batch_sizes`, which read one small file. Everything lies in ``<work>/cohort/``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cohortex.privacy.conceal import Privacy

__all__ = ["BatchSize", "batch_sizes", "make_cohort", "read_batches", "run_batches"]


class BatchSize(NamedTuple):
    """How large a batch is, in (estimated) float32 megabytes.

    Attributes
    ----------
    largest_mb, total_mb : float
        Its largest image, and the sum of all.
    images : int
    subject_mb : float
        All of a subject's images together, of the subject that has most.
    modalities : mapping
        The first three by modality.
    """

    largest_mb: float
    total_mb: float
    images: int
    subject_mb: float = 0.0
    modalities: Mapping[str, Sequence[float]] = MappingProxyType({})


NAMED = 20
"""So many subjects are named in a sentence on them."""
DEMO_MB = 12.0
"""An image of the demo cohort in float32 megabytes."""


def read_batches(work: str | Path) -> list[str]:
    """Return the batches of the cohort, sorted."""
    return sorted(_index(str(work))["batches"])


def run_batches(work: str | Path) -> list[str]:
    """Return the batches that this run works on, sorted: all, or those that hold what ``only`` names."""
    only = _index(str(work)).get("only")
    return read_batches(work) if only is None else list(only)


def batch_sizes(work: str | Path) -> dict[str, BatchSize]:
    """Return how large each batch is."""
    return {batch: BatchSize(*entry) for batch, entry in _index(str(work))["batches"].items()}


@cache
def _index(work: str) -> dict[str, Any]:
    from cohortex.errors import Refused

    path = Path(work) / "cohort" / "index.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{path.name} is not in the folder cohort of work; start the run again from its head, which makes it.") from None


def make_cohort(config: Mapping[str, Any], basedir: str | Path = ".") -> None:
    """Make or bring up to date the tables of the cohort; what has not changed is not written.

    Parameters
    ----------
    config : mapping
        As `cohortex.config.check_config` returns it.
    basedir : path
        The folder of the Snakefile.

    Notes
    -----
    In ``<work>/cohort/``: ``cohort.tsv`` (all images), ``batches.tsv`` (subject to batch), ``batches/<batch>.tsv`` (the images of a
    batch, the input of its first job, without what only headers say of scanners), ``participants.tsv`` (what is known of the subjects),
    ``index.json`` (sizes) and ``fingerprints.json`` (what need not be asked of files again). What these are not to tell is in
    `cohortex.privacy.conceal`.

    Raises
    ------
    Refused
        When there is no input, nothing in it, something wrong with a table, or with what `privacy:` asks for.
    """
    from cohortex.cohort.cut import Prints, cut, known_batches, sizes
    from cohortex.cohort.scanners import scanners
    from cohortex.cohort.table import COLUMNS, image_id, write_if_changed
    from cohortex.config import check_config
    from cohortex.io.paths import confined
    from cohortex.privacy.conceal import begin, goes_on, mark_results, remember, remembered, replace_ids, replace_paths
    from cohortex.tables import table_text

    config = check_config(config)
    folder = Path(config["work"]) / "cohort"
    held = json.loads((folder / "index.json").read_text(encoding="utf-8")) if (folder / "index.json").is_file() else None
    privacy = begin(config, held)
    others: Counter[str] = Counter()
    unmatched: list[str] = []
    rows, people, root = _find(config, others, unmatched, privacy)
    for sentence in [*([not_taken(others)] if others else []), *unmatched]:
        _say(sentence)
    rows = _selected(rows, config, privacy)
    people = _people(rows, people, config)
    if privacy.ids:
        rows, people = replace_ids(rows, people, privacy, config)
    _complete(rows, people, config)

    index = held or {"next": 1, "batch_size": config["batch_size"], "batches": {}}
    known = known_batches(folder)
    following = max([index["next"], *(int(batch[1:]) + 1 for batch in known.values())])
    batches, following = cut((row["subject"] for row in rows), known, config["batch_size"], following)
    if known and index["batch_size"] != config["batch_size"]:
        _say(f"batch_size {config['batch_size']} is for new subjects; those of the runs before stay in batches of {index['batch_size']}.")

    prints = Prints(config["fingerprint"], remembered(privacy, folder))
    measured = []
    for row in rows:
        row["image"] = row.get("image") or image_id(row)
        row["batch"] = batches[row["subject"]]
        row["root"] = root or os.path.abspath(f"{config['work']}/demo/{row['batch']}")  # noqa: PTH100 - links stay as they are
        row["path"] = os.path.normpath(f"{row['root']}/{row['path']}") if not row["path"].startswith("/") else row["path"]
        row["fingerprint"], megabytes = prints.of(row["path"]) if root else (_demo_print(config, row["subject"]), DEMO_MB)
        measured.append((row, megabytes))
    rows.sort(key=lambda row: (row["batch"], row["subject"], row["image"]))
    only = _only(rows, config["only"])
    machines: dict[str, str] = {}
    if root:
        follow = config["acquire"].get("default", {}).get("links") == "follow"
        with confined(None if follow else Path(root)):
            machines = scanners(Path(root), rows, people, prints, not privacy.ids or "scanner" in goes_on(config))
    if privacy.dates != "none":
        _days(rows, privacy)
    rows = replace_paths(rows, privacy)

    columns = [*COLUMNS, "image", "batch", "fingerprint", "root", *(["dates", "date"] if privacy.dates != "none" else [])]
    parts: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        parts.setdefault(row["batch"], []).append(row)
    for batch, part in parts.items():
        write_if_changed(folder / "batches" / f"{batch}.tsv", table_text(columns, part))
    for path in (folder / "batches").glob("*.tsv"):
        if path.stem not in parts:
            path.unlink(missing_ok=True)
    # of the whole cohort alone: a batch does not run again because its scanner became known
    rows = [{**row, "scanner": machines.get(row["image"]) or row["scanner"]} for row in rows]
    write_if_changed(folder / "cohort.tsv", table_text(columns, rows))
    write_if_changed(folder / "participants.tsv", table_text(list(dict.fromkeys(name for person in people for name in person)), people))
    remember(privacy, folder, prints.text())
    write_if_changed(
        folder / "batches.tsv", table_text(["subject", "batch"], ({"subject": key, "batch": value} for key, value in batches.items()))
    )
    index = {
        "next": following,
        "batch_size": config["batch_size"],
        "batches": sizes(measured),
        "others": dict(others),
        "unmatched": unmatched,
    }
    index["only"] = only
    if privacy.told or (held or {}).get("privacy"):
        index["privacy"] = privacy.told or (held or {})["privacy"]
    mark_results(privacy, Path(config["output"]))
    write_if_changed(folder / "index.json", json.dumps(index, separators=(",", ":"), sort_keys=True))
    _index.cache_clear()


def _say(sentence: str) -> None:
    import sys

    sys.stderr.write(sentence + "\n")


def not_taken(others: Mapping[str, int]) -> str:
    """Return a sentence on the images of a BIDS dataset that were left alone because of their suffix, by suffix."""
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    return f"Images that were not taken, as select: suffix: does not name theirs: {counts}."


def _unmatched(rows: Iterable[Mapping[str, str]], people: Iterable[Mapping[str, str]], empty: Sequence[str], told: bool) -> list[str]:
    """Return sentences on subjects of a BIDS dataset with a folder but no image, or in only one of participants.tsv and the folders.

    They name some of the subjects where `told`; where ids are pseudonyms these have none, since nothing is made of them.
    """
    there, named = {row["subject"] for row in rows}, {person["subject"] for person in people}
    found = {
        "named in participants.tsv but without a folder here": named - there - set(empty),
        "with a folder but no image that select: suffix: names": set(empty),
        "with images but no row in participants.tsv": there - named if named else set(),
    }
    return [
        f"Subjects {what} ({len(subjects)})"
        + (f": {', '.join(sorted(subjects)[:NAMED])}{' and more' if len(subjects) > NAMED else ''}." if told else ".")
        for what, subjects in found.items()
        if subjects
    ]


def _find(
    config: Mapping[str, Any], others: Counter[str], unmatched: list[str], privacy: Privacy
) -> tuple[list[dict[str, str]], list[dict[str, str]], str]:
    """Return the images, what is known of the subjects, and the folder that paths are relative to (empty for the demo)."""
    from cohortex.cohort import scan, table
    from cohortex.errors import Refused
    from cohortex.io.paths import names_hidden, shown_file
    from cohortex.stages import STAGES

    dated = config["privacy"]["dates"] != "none"
    if config["input"] == "demo":
        from cohortex.demo.table import demo_rows

        rows, people = demo_rows(config["demo"])
        return [{**dict.fromkeys(table.COLUMNS, ""), **row} for row in rows], [dict(person) for person in people], ""
    source = Path(os.path.abspath(config["input"]))  # noqa: PTH100 - links stay as they are
    if source.is_dir():
        if scan.is_bids(source):
            empty: list[str] = []
            rows, people = scan.scan_bids(source, config["select"], others, empty)
            unmatched += _unmatched(rows, people, empty, told=not privacy.ids)
            if dated:
                from cohortex.privacy.days import bids_days

                bids_days(source, rows)
            wanted = ", ".join(config["select"].get("suffix", ()))
            hint = f"a BIDS dataset without images of the suffixes {wanted}; name yours in select: suffix:"
        else:
            rows, people = scan.scan_dicom(source)
            hint = "neither a BIDS dataset (sub-<id>) nor a folder with one DICOM folder a subject; make a table of it with cohortex index"
        if not rows:
            if not any(source.iterdir()):
                hint = "an empty folder; name a BIDS dataset, a folder with one DICOM folder a subject, or a table (.tsv)"
            elif others:
                hint += f" (it has {', '.join(f'{count} {suffix}' for suffix, count in sorted(others.items()))})"
            raise Refused(f"The input {shown_file(source)} is {hint}.")
        return rows, people, str(source)
    if not source.exists():
        shown = shown_file(source) if names_hidden() else config["input"]
        raise Refused(f"The input {shown} is not there; name demo, a folder or a table (.tsv).")
    if source.suffix.lower() != ".tsv":
        raise Refused(f"The input {shown_file(source)} is a file but no .tsv table; name demo, a folder or a table of tab-separated text.")
    named = [name for stage in STAGES for name in config[stage] if name != "default"]
    rows, people = table.read_cohort_table(source, [*config["select"].get("suffix", ()), *named], dated)
    if not rows:
        raise Refused(f"The table {shown_file(source)} has no rows; list at least one image below its first line.")
    return rows, people, str(source.parent)


def _selected(rows: list[dict[str, str]], config: Mapping[str, Any], privacy: Privacy) -> list[dict[str, str]]:
    """Return the rows that ``select`` takes; subjects may be called by their ids or by their pseudonyms."""
    from cohortex.errors import Refused
    from cohortex.io.paths import names_hidden
    from cohortex.privacy.keys import pseudonyms

    names = pseudonyms(privacy.key, (row["subject"] for row in rows)) if privacy.ids else {}
    chosen = {key: set(config["select"].get(key) or ()) for key in ("subject", "session", "acq", "run")}
    for key, values in chosen.items():
        taken = [row for row in rows if row[key] in values or (key == "subject" and names.get(row[key]) in values)] if values else rows
        if not taken:
            what = key if names_hidden() else f"{key}: {', '.join(sorted(values))}"
            raise Refused(f"No image is left once select: {what} is applied; correct or remove it.")
        rows = taken
    if not any(row["role"] == "image" for row in rows):
        raise Refused("The cohort holds masks, labels or boxes but no image that they belong to; list the images, too, or correct select.")
    folded: dict[str, str] = {}
    for row in rows:
        other = folded.setdefault(row["subject"].lower(), row["subject"])
        if other != row["subject"]:
            who = " and ".join(sorted(names.get(each, each) for each in (other, row["subject"])))
            raise Refused(f"The subjects {who} differ in case only, which not every file system tells apart; rename one.")
    return rows


def _only(rows: Iterable[Mapping[str, str]], only: Mapping[str, Any]) -> list[str] | None:
    """Return the batches that hold an image of the subjects and sessions that are named; None where none are."""
    from cohortex.errors import Refused
    from cohortex.io.paths import names_hidden
    from cohortex.privacy.conceal import given

    named = {key: set(values) for key, values in only.items() if values}
    if not named:
        return None
    rows = list(rows)
    for key, values in named.items():
        absent = values - {name for row in rows for name in given(row, key)}
        if absent:
            who = f"of {len(absent)} names in the list" if names_hidden() else ", ".join(sorted(absent))
            raise Refused(f"only: {key}: the cohort has no {key} {who}; correct or remove it.")
    batches = sorted({row["batch"] for row in rows if all(given(row, key) & values for key, values in named.items())})
    if not batches:
        raise Refused("only: no image is both of a subject and of a session that are named; correct or remove one of the lists.")
    subjects = {row["subject"]: row["batch"] for row in rows}
    of = sum(batch in set(batches) for batch in subjects.values())
    several = "its batch is" if len(batches) == 1 else f"its {len(batches)} batches are"
    _say(f"only: {several} run, {of} of {len(subjects)} subjects.")
    return batches


def _people(rows: Iterable[Mapping[str, str]], people: list[dict[str, str]], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row for each subject of the cohort: what its dataset says, and over it what the table of labels says."""
    from cohortex.cohort.table import read_table
    from cohortex.errors import Refused
    from cohortex.io.paths import names_hidden, shown_file

    known = {person["subject"]: person for person in people}
    columns = dict.fromkeys(name for person in people[:1] for name in person)
    if config["labels"] is not None:
        names, numbered = read_table(config["labels"], ["subject"])
        table = shown_file(Path(config["labels"]))
        columns |= dict.fromkeys(names)
        lines: dict[str, int] = {}
        for number, cells in numbered:
            subject = cells["subject"].removeprefix("sub-")
            if subject in lines:
                who = "one subject" if names_hidden() else f"subject {subject}"
                raise Refused(f"{table}: lines {lines[subject]} and {number} are both of {who}; keep one.")
            lines[subject] = number
            known[subject] = {**known.get(subject, {}), **cells, "subject": subject}
        if not any(row["subject"] in lines for row in rows):
            raise Refused(f"{table} names no subject of the cohort; its column subject must hold their ids.")
        unknown = sorted(set(lines) - {row["subject"] for row in rows})
        if unknown:
            several = "" if names_hidden() else f": {', '.join(unknown[:5])}{' and more' if len(unknown) > 5 else ''}"
            _say(f"{table}: {len(unknown)} of its {len(lines)} subjects have no image here, left out{several}.")
    empty = dict.fromkeys(["subject", *columns], "")
    found = [{**empty, **known.get(subject, {}), "subject": subject} for subject in sorted({row["subject"] for row in rows})]
    return [{key: "" if value == "n/a" else value for key, value in person.items()} for person in found]


def _complete(rows: Iterable[dict[str, str]], people: Iterable[Mapping[str, str]], config: Mapping[str, Any]) -> None:
    """Fill in split and body part, the same split for all images of a subject."""
    from cohortex.cohort.cut import split_of
    from cohortex.errors import Refused
    from cohortex.io.paths import shown_word

    said: dict[str, str] = {person["subject"]: person["split"] for person in people if person.get("split")}
    wrong = next((subject for subject, split in said.items() if split not in ("train", "validation", "test")), None)
    if wrong:
        raise Refused(f"The split of subject {wrong} is {shown_word(said[wrong])}, allowed: train, validation, test.")
    rows = list(rows)
    own: dict[str, str] = {}
    for row in rows:
        if row["split"] and own.setdefault(row["subject"], row["split"]) != row["split"]:
            raise Refused(f"Subject {row['subject']} is in the splits {own[row['subject']]} and {row['split']}; a subject is in one only.")
    splits = {subject: own.get(subject) or said.get(subject) or split_of(subject) for subject in {row["subject"] for row in rows}}
    for row in rows:
        row["split"] = splits[row["subject"]]
        row["body_part"] = row["body_part"] or config["body_part"] or ""


def _days(rows: Iterable[dict[str, str]], privacy: Privacy) -> None:
    """Put into every row whether days are told, and the day that a table says, shifted by its subject's own number where they are."""
    from cohortex.privacy.days import told_day
    from cohortex.privacy.keys import shift_days

    for row in rows:
        shift = shift_days(privacy.key, row["subject"]) if privacy.dates == "shifted" else 0
        row["dates"], row["date"] = privacy.dates, told_day(row.get("date", ""), shift)


def _demo_print(config: Mapping[str, Any], subject: str) -> str:
    from cohortex.demo.table import DEMO_VERSION

    return f"demo-{DEMO_VERSION}-{config['demo'].get('seed', 0)}-{subject}"
