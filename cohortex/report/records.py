"""Reads what the jobs left (docs/design.md, Records) and says the last word on every image."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cohortex.cohort import not_taken
from cohortex.items import DEMO_SITE, SET_ASIDE
from cohortex.ratings import Rating, left_out, ratings_of
from cohortex.records import COLUMNS
from cohortex.tables import write_table

SIMULATED_SITES = (DEMO_SITE, "simulated")
"""Values of the column site that mark a simulated image."""

STACK, STACK_WINDOW = "stack", "stack_window"
"""Names of the slices of a volume among its previews (`cohortex.report.previews.slices_of`), and of their black and white."""

SLICES = (STACK, STACK_WINDOW)
"""Previews that are no pictures by themselves."""

_REPEATED = frozenset(
    {"subject", "session", "image", "kind", "role", "modality", "body_part", "status", "code", "reason", "entities", "shape", "spacing_mm"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """What a stage says about one image or derived thing; `measures` holds the cells that are not empty, as written."""

    stage: str
    batch: str
    subject: str
    session: str
    image: str
    kind: str
    role: str
    modality: str
    body_part: str
    status: str
    code: str
    reason: str
    path: str
    sha256: str
    key: str
    sources: str
    entities: str
    shape: str
    spacing_mm: str
    measures: Mapping[str, str]

    @property
    def is_image(self) -> bool:
        """Whether it is an image of the cohort, not something derived, a mask or labels."""
        return self.kind == "image" and self.role in ("image", "") and "+" not in self.image

    @property
    def set_aside(self) -> bool:
        """Whether it counts against the cohort."""
        return self.status in SET_ASIDE


@dataclass(frozen=True, slots=True)
class Timing:
    """How long an item of a stage took, and where."""

    item: str
    seconds: float
    peak_mb: float
    host: str
    device: str
    threads: int
    resumed: bool


@dataclass
class Records:
    """All records of a run.

    Attributes
    ----------
    stages : list of str
        The chain, in order.
    cohort : dict
        Row of the cohort table by image.
    participants : dict
        Covariates and labels by subject.
    told : dict
        By stage, the rows that say more than that something was passed on untouched.
    counts : dict
        By stage, how many images of the cohort have which (modality, status).
    last : dict
        By image or derived thing, the row of the latest stage in which it appears.
    timing : dict
        By stage.
    numbers : dict
        By stage and batch, the content of numbers.json.
    twins : list of list of str
        Images of the cohort that are one and the same, data and geometry, by the first stage.
    notes : list of str
        Records that are missing or cannot be read, in sentences.
    untold : set of str
        Images that are left to other runs (`only`) and that none has finished.
    ratings : list of Rating
        What raters said of the images.
    """

    stages: list[str]
    cohort: dict[str, dict[str, str]] = field(default_factory=dict)
    participants: dict[str, dict[str, str]] = field(default_factory=dict)
    told: dict[str, list[Row]] = field(default_factory=dict)
    counts: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    last: dict[str, Row] = field(default_factory=dict)
    timing: dict[str, list[Timing]] = field(default_factory=dict)
    numbers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    twins: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ratings: list[Rating] = field(default_factory=list)
    untold: set[str] = field(default_factory=set)

    @cached_property
    def left_out(self) -> dict[str, list[Rating]]:
        """By image, the ratings for which it counts in no distribution."""
        return left_out(self.ratings)

    def counts_in(self, image: str) -> bool:
        """Whether an image, or what something was derived from, counts in distributions and comparisons of groups."""
        return image.split("+")[0] not in self.left_out

    def cell(self, image: str, column: str) -> str:
        """Return what a column says of an image, or of what it was derived from: the cohort's table, else what is known of its subject."""
        entry = self.cohort.get(image.split("+")[0], {})
        known = self.participants.get(entry.get("subject", ""), {})
        return next((cell for cell in (entry.get(column, ""), known.get(column, "")) if cell not in ("", "n/a")), "")

    @cached_property
    def images(self) -> list[str]:
        """Ids of the cohort's images, masks and labels left out."""
        return [name for name, row in self.cohort.items() if row.get("role", "image") in ("image", "")]

    @cached_property
    def simulated(self) -> set[str]:
        """Ids of the cohort's simulated images."""
        return {name for name, row in self.cohort.items() if row.get("site") in SIMULATED_SITES}

    def set_aside(self) -> list[Row]:
        """Return the last word on everything that was set aside, with a row for what has no record at all; systemic batches first."""
        rows = [row for row in self.last.values() if row.set_aside]
        # What was derived from an image that was set aside itself is not worth a line of its own.
        names = {row.image for row in rows}
        rows = [row for row in rows if "+" not in row.image or row.image.split("+")[0] not in names]
        rows += self.unfinished
        order = {stage: position for position, stage in enumerate(self.stages)}
        systemic = set(self.systemic())
        return sorted(rows, key=lambda row: ((row.stage, row.batch) not in systemic, order.get(row.stage, -1), row.code, row.image))

    def statuses(self) -> dict[str, int]:
        """Return how many images of the cohort have which status by the last word on them."""
        found = Counter(self.last[name].status for name in self.images if name in self.last)
        found["failed"] += sum(row.kind == "image" and row.image not in self.last for row in self.unfinished)
        return dict(+found)

    def systemic(self) -> list[tuple[str, str]]:
        """Return stage and batch of those in which more than half of the items were set aside."""
        return [
            (stage, batch) for stage in self.stages for batch, numbers in self.numbers.get(stage, {}).items() if numbers.get("systemic")
        ]

    @cached_property
    def unfinished(self) -> list[Row]:
        """A row of status ``failed`` for every image whose batch did not get to the end of the chain."""
        heard = {name.split("+")[0] for name in self.last} | {source for row in self.last.values() for source in row.sources.split()}
        rows = []
        for name, entry in self.cohort.items():
            row = self.last.get(name)
            if row is not None and (row.set_aside or (row.status == "skipped" and row.stage == self.stages[0])):
                continue
            missing = [stage for stage in self.stages if entry.get("batch", "") not in self.numbers.get(stage, {})]
            if missing:
                sentence = (
                    f"the job of the stage {missing[0]} for the batch {entry.get('batch', '')} left no record; see its log and run again."
                )
                rows.append(_row(missing[0], {**_nothing(entry), "status": "failed", "code": "no-record", "reason": sentence}))
            elif name not in heard and entry.get("role", "image") in ("image", ""):
                sentence = "no stage has a word on it; look at the log of the batch and report this as a fault of the program."
                rows.append(_row(self.stages[0], {**_nothing(entry), "status": "failed", "code": "no-record", "reason": sentence}))
        return rows


def read_records(work: Path, stages: Sequence[str]) -> Records:
    """Read the records of all batches, whatever of them exists.

    Parameters
    ----------
    work : path
        The run's work folder.
    stages : sequence of str
        The chain, in order.
    """
    records = Records(list(stages))
    records.cohort = {row["image"]: row for row in _table(work / "cohort" / "cohort.tsv", records.notes)}
    records.participants = {row["subject"]: row for row in _table(work / "cohort" / "participants.tsv", None) if "subject" in row}
    try:
        records.ratings = ratings_of(work)
    except (OSError, UnicodeDecodeError) as error:
        records.notes.append(f"cohort/ratings.tsv cannot be read ({type(error).__name__}); run again to have the ratings.")
    try:
        index = json.loads((work / "cohort" / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        index = {}  # a cohort without this file has been told of elsewhere
    if index.get("others"):
        records.notes.append(not_taken(index["others"]))
    records.notes += index.get("unmatched", [])
    if index.get("only") is not None:
        _leave_out(work, records, set(index["only"]))
    batches = {row.get("batch", "") for row in records.cohort.values()} - {""}
    alike: dict[str, list[str]] = {}
    for stage in stages:
        folder = work / "records" / stage
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")) if folder.is_dir() else []
        told, counts, timing, numbers, latest = [], Counter(), [], {}, {}
        for batch in found:
            if batches and batch not in batches:
                continue  # left over from a cohort that was cut differently
            record = folder / batch
            for row in _manifest(record / "manifest.tsv", stage, batch, records.notes):
                records.last[row.image] = row
                if row.is_image:
                    counts[row.modality, row.status] += 1
                    if stage == stages[0] and row.sha256:
                        alike.setdefault(row.sha256, []).append(row.image)
                if row.measures or row.status != "ok":
                    told.append(_without_file(row))
            timing += [_timing(row) for row in _table(record / "timing.tsv", records.notes)]
            numbers[batch] = _json(record / "numbers.json", records.notes)
            _share(numbers[batch], latest)
            latest = numbers[batch]
        records.told[stage], records.counts[stage], records.timing[stage], records.numbers[stage] = told, counts, timing, numbers
    records.twins = [names for names in alike.values() if len(names) > 1]
    return records


def _leave_out(work: Path, records: Records, only: set[str]) -> None:
    """Take out of the cohort what `only` left to other runs, unless one of them brought it to the end of the chain."""
    told = {batch for batch in {row["batch"] for row in records.cohort.values()} - only if _finished(work, records.stages, batch)}
    left = [name for name, row in records.cohort.items() if row["batch"] not in only | told]
    records.untold = set(left)
    if left:
        batches = len({records.cohort.pop(name)["batch"] for name in left})
        images = "1 image" if len(left) == 1 else f"{len(left)} images"
        many = "1 batch" if batches == 1 else f"{batches} batches"
        records.notes.append(
            f"This run worked on a part of the cohort (only); {images} of {many} that no run has finished are not told of."
        )


def _finished(work: Path, stages: Sequence[str], batch: str) -> bool:
    return all((work / "records" / stage / batch / "numbers.json").is_file() for stage in stages)


def read_previews(
    work: Path, stage: str, batch: str, wanted: Iterable[str], notes: list[str], stacks: bool = False
) -> dict[str, dict[str, Any]]:
    """Return the previews (name to picture) of the wanted ids in one batch's record; what cannot be read is noted.

    The pictures of things derived from a wanted id come along; slices (`cohortex.report.previews.slices_of`) with `stacks` only.
    """
    import numpy as np

    path = work / "records" / stage / batch / "previews.npz"
    chosen = set(wanted)
    pictures: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return pictures
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                image, _, view = name.rpartition("|")
                if image.split("+")[0] in chosen and (stacks or view not in SLICES):
                    picture = file[name]
                    if _is_picture(picture) if view not in SLICES else _is_stack(view, picture):
                        pictures.setdefault(image, {})[view] = picture
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        notes.append(
            f"The pictures of the batch {batch} of {stage} cannot be read ({type(error).__name__}); run that batch again to have them."
        )
    return pictures


def _is_picture(array: Any) -> bool:
    return array.dtype == "uint8" and array.size > 0 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))


def _is_stack(name: str, array: Any) -> bool:
    if name == STACK_WINDOW:
        return array.dtype == "float32" and array.shape == (2,)
    return array.dtype == "uint8" and array.ndim == 3 and array.size > 0


def _share(numbers: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Let two batches' numbers hold what they have in common only once (settings, models, software)."""
    for name, value in numbers.items():
        if other.get(name) == value:
            numbers[name] = other[name]


def write_union(path: Path, records: Records) -> None:
    """Write the last word on every image and derived thing, with the measures of all stages (``<stage>.<measure>``).

    Cells that a spreadsheet would take for a formula begin with an apostrophe.
    """
    told: dict[str, list[Row]] = defaultdict(list)
    for stage in records.stages:
        for row in records.told.get(stage, []):
            told[row.image].append(row)
    columns = [
        f"{stage}.{name}"
        for stage in records.stages
        for name in sorted({name for row in records.told.get(stage, []) for name in row.measures})
    ]
    rows = [*records.last.values(), *(row for row in records.unfinished if row.image not in records.last)]

    def cells(row: Row) -> dict[str, str]:
        own = {f"{one.stage}.{name}": value for one in told.get(row.image, ()) for name, value in one.measures.items()}
        own |= {"stage": row.stage, **{column: getattr(row, column) for column in COLUMNS}}
        return {column: safe_cell(value) for column, value in own.items()}

    write_table(path, ["stage", *COLUMNS, *columns], map(cells, sorted(rows, key=lambda row: row.image)))


def safe_cell(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; numbers stay as they are."""
    text = " ".join(str(text).split())
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and number(text) is None else text


def number(text: Any) -> float | None:
    """Return a finite number, None for anything else (words, empty cells, n/a, true, false)."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if abs(value) < float("inf") else None


def _manifest(path: Path, stage: str, batch: str, notes: list[str]) -> Iterator[Row]:
    lines = _lines(path, notes)
    columns = next(lines, [])
    place = {name: index for index, name in enumerate(columns)}
    fixed = [(place.get(column, len(columns)), column in _REPEATED) for column in COLUMNS]
    own = [(sys.intern(name), index) for name, index in place.items() if name not in _FIXED]
    for cells in lines:
        # One empty cell more stands for every column that is not there; so do those of a line that was cut off.
        cells += [""] * (len(columns) + 1 - len(cells))
        values = [sys.intern(cells[index]) if repeated else cells[index] for index, repeated in fixed]
        yield Row(stage, batch, *values, measures={name: cells[index] for name, index in own if cells[index]})


_FIXED = frozenset(COLUMNS)


def _without_file(row: Row) -> Row:
    """Return a row without what describes its file, which only the last word on an image needs: of many images that is half its memory."""
    said = (row.kind, row.role, row.modality, row.body_part, row.status, row.code, row.reason)
    about = (row.entities, row.shape, row.spacing_mm, row.measures)
    return Row(row.stage, row.batch, row.subject, row.session, row.image, *said, "", "", "", "", *about)


def _row(stage: str, row: Mapping[str, str]) -> Row:
    return Row(stage, row.get("batch", ""), *(row.get(column) or "" for column in COLUMNS), measures={})


def _nothing(entry: Mapping[str, str]) -> dict[str, str]:
    """Return the cells of a row that follow from the cohort table."""
    role = entry.get("role") or "image"
    kept = {name: entry.get(name, "") for name in ("subject", "session", "image", "modality", "body_part", "batch")}
    return {**kept, "role": role, "kind": {"image": "image", "boxes": "table"}.get(role, "labels")}


def _timing(row: Mapping[str, str]) -> Timing:
    return Timing(
        item=sys.intern(row.get("item", "")),
        seconds=number(row.get("seconds")) or 0.0,
        peak_mb=number(row.get("peak_mb")) or 0.0,
        host=sys.intern(row.get("host", "")),
        device=sys.intern(row.get("device", "")),
        threads=int(number(row.get("threads")) or 0),
        resumed=row.get("resumed") == "1",
    )


def _table(path: Path, notes: list[str] | None) -> Iterator[dict[str, str]]:
    """Give the rows of a table, none where it is missing or not text (noted unless `notes` is None)."""
    lines = _lines(path, notes)
    columns = next(lines, [])
    for cells in lines:
        yield dict(zip(columns, cells, strict=False))


def _lines(path: Path, notes: list[str] | None) -> Iterator[list[str]]:
    """Give the cells of a table's lines, its columns first."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if notes is not None:
            notes.append(f"{'/'.join(path.parts[-3:])} cannot be read ({type(error).__name__}); what it says is missing here.")


def _json(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        notes.append(f"{'/'.join(path.parts[-3:])} cannot be read ({type(error).__name__}); what it says is missing here.")
        return {}
    return content if isinstance(content, dict) else {}
