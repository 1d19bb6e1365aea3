"""Tables of text: the user's cohort table, strictly read, and the tables that Cohortex writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cohortex.config import MODALITIES
from cohortex.errors import Refused
from cohortex.io.paths import names_hidden, shown_file, shown_word
from cohortex.publish import atomic_path
from cohortex.schema import nearest, pattern, read_schema

Row = dict[str, str]

COLUMNS: tuple[str, ...] = ("subject", "session", "modality", "path", "run", "acq", "body_part", "role", "site", "scanner", "pair", "split")
"""What a row of a cohort says of an image, before it is cut."""
NEEDED = ("subject", "modality", "path")
LISTED = 10
"""So many lines of a table are named in one message."""


TAGS = {"mask": "mask", "labels": "labels", "boxes": "truth"}
"""What is told beside an image, by its role; ``+boxes`` are those that the stage `recognize` finds."""


def image_id(row: Mapping[str, str]) -> str:
    """Return ``subject[_session][_acq][_run]_suffix``, for a mask, labels or boxes with ``+mask``, ``+labels`` or ``+truth``.

    The suffix is the modality, or ``dicom`` where only the file's header says what it is.

    Examples
    --------
    >>> image_id({"subject": "001", "session": "", "acq": "", "run": "2", "modality": "T1w", "role": "labels"})
    '001_2_T1w+labels'
    """
    parts = [row["subject"], row.get("session", ""), row.get("acq", ""), row.get("run", ""), row["modality"] or "dicom"]
    tag = TAGS.get(row.get("role", ""), "")
    return "_".join(filter(None, parts)) + (f"+{tag}" if tag else "")


def write_if_changed(path: Path, text: str, mode: int = 0o640) -> bool:
    """Put `text` into a file through a temporary neighbour, unless it is there already; say whether it was written."""
    data = text.encode("utf-8")
    try:
        if path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        temporary.chmod(mode)
    return True


def read_table(path: str | Path, needed: Sequence[str]) -> tuple[list[str], list[tuple[int, Row]]]:
    """Read a user's table, strictly.

    Parameters
    ----------
    path : path
        UTF-8 (with or without a byte order mark), tabs between the cells, line breaks of any system.
    needed : sequence of str
        The columns that must be there.

    Returns
    -------
    columns : list of str
    rows : list of (line number, row)
        All cells are text, blanks around them removed.

    Raises
    ------
    Refused
        Naming the table and the line.
    """
    path = Path(path)
    name = shown_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(f"{name} cannot be read ({error.strerror}); name a table of tab-separated text.") from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Refused(f"{name} is UTF-16; save it as UTF-8 text with tabs.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Refused(f"{name} line {line} is not UTF-8; save the table as UTF-8 text with tabs.") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    columns = [cell.strip() for cell in lines[0].split("\t")]
    if len(columns) == 1 and ("," in lines[0] or ";" in lines[0]):
        raise Refused(f"{name} has commas or semicolons between its cells; save it with tabs.")
    missing = [column for column in needed if column not in columns]
    if missing:
        raise Refused(f"{name} has no column {', '.join(missing)}; its first line must name at least {', '.join(needed)}.")
    twice = {column for column in columns if columns.count(column) > 1 or not column}
    if twice:
        what = "a column has no name" if "" in twice else f"two columns are called {'the same' if names_hidden() else min(twice)}"
        raise Refused(f"{name} line 1: {what}; give each a name of its own.")
    rows, ragged = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != len(columns):
            ragged.append(f"line {number} has {len(cells)} cells")
        rows.append((number, dict(zip(columns, [cell.strip() for cell in cells], strict=False))))
    if ragged:
        raise Refused(f"{name}: {some(ragged)}, expected {len(columns)} as in the first line; put one tab between two cells.")
    return columns, rows


def some(items: Sequence[str]) -> str:
    """Join at most `LISTED` items for a message and count the rest."""
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return "; ".join(items[:LISTED]) + more


def read_cohort_table(path: str | Path, accepted: Iterable[str], days: bool = False) -> tuple[list[Row], list[Row]]:
    """Read the user's table of images.

    Parameters
    ----------
    path : path
    accepted : iterable of str
        Modalities that the configuration names, beside the known ones.
    days : bool
        The column ``date`` is the day of an image, and nothing that is known of its subject.

    Returns
    -------
    rows : list of dict
        With the columns `COLUMNS`; ``path`` is as the table has it.
    participants : list of dict
        subject and the table's other columns; where a subject's rows differ, the first value that is not empty.

    Raises
    ------
    Refused
        For a cell that does not match ``schemas/cohort.schema.json``, a modality that is not known, or two rows with one id,
        naming the lines.
    """
    path = Path(path)
    table = shown_file(path)
    columns, numbered = read_table(path, NEEDED)
    covariates = [name for name in columns if name not in COLUMNS and not (days and name == "date")]
    near = [name for name in covariates if name.lower() in COLUMNS]
    if near:
        raise Refused(f"{table}: the column {near[0]} is written {near[0].lower()}, in lower case.")
    schema = read_schema("cohort.schema.json")["properties"]
    checks = [(name, pattern(schema[name]["pattern"]), schema[name]["description"]) for name in COLUMNS if name in columns]
    modalities = {*MODALITIES, *accepted}
    problems: list[str] = []
    lines: dict[str, int] = {}
    rows: list[Row] = []
    known: dict[str, Row] = {}
    empty = dict.fromkeys(COLUMNS, "")
    for number, cells in numbered:
        wrong = [(name, what) for name, good, what in checks if not good.search(cells[name])]
        wrong = [f"line {number}: {name} is {shown_word(cells[name])}, expected {what}" for name, what in wrong]
        if not wrong and cells["modality"] not in modalities:
            told = "" if names_hidden() else f" {cells['modality']}"
            wrong = [f"line {number}: the modality{told} is not known{_near_modality(cells['modality'])}"]
        if wrong:
            problems.extend(wrong)
            continue
        row = {**empty, **{name: cells[name] for name, _, _ in checks}}
        row["role"] = row["role"] or "image"
        if days:
            row["date"] = cells.get("date", "")
        name = image_id(row)
        if name in lines:
            both = "of one image" if names_hidden() else name
            problems.append(f"lines {lines[name]} and {number} are both {both}; tell them apart by session, acq or run")
            continue
        lines[name] = number
        rows.append(row)
        person = known.setdefault(row["subject"], {"subject": row["subject"], **dict.fromkeys(covariates, "")})
        for covariate in covariates:
            person[covariate] = person[covariate] or cells[covariate]
    if problems:
        raise Refused(f"{table}: {some(problems)}.")
    return rows, list(known.values())


def _near_modality(name: str) -> str:
    near = nearest(name, list(MODALITIES))
    where = "to use it all the same, name it in select: suffix:"
    return f"{near} ({where})" if near.startswith("; did") else f"; {where}"
