"""Tables of tab-separated text as Cohortex writes them: one writer and one reader.

Imported by the head process of every run, so it imports nothing heavy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.publish import atomic_path


def cell(value: Any) -> str:
    """Write one value: floats with 6 significant digits, nothing for None, no tab or line break."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or type(value).__name__.startswith("float"):
        return "n/a" if value != value else f"{float(value):.6g}"
    text = str(value)
    # Blanks stay as they are, for a cell may be a path.
    return " ".join(text.split()) if "\t" in text or "\n" in text or "\r" in text else text


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table as text; a cell that a row does not have is empty."""
    return "".join(_lines(columns, rows))


def _lines(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield "\t".join(columns) + "\n"
    for row in rows:
        yield "\t".join([cell(row.get(column)) for column in columns]) + "\n"


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, atomically, a row at a time."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(_lines(columns, rows))


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Read a table that `write_table` wrote; all values are strings."""
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    columns = lines[0].split("\t")
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines[1:] if line]


def read_columns(path: str | Path, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Give some columns of a table that `write_table` wrote, line by line; one that is not there is empty."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        columns = file.readline().rstrip("\n").split("\t")
        places = [columns.index(name) if name in columns else None for name in names]
        for line in file:
            cells = line.rstrip("\n").split("\t")
            yield tuple("" if place is None else cells[place] for place in places)


def column_word(name: str) -> str:
    """Return a name (of a class, say) as a part of the name of a column."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_") or "class"


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return what sorts words as people do: ``2`` before ``10``, numbers before words.

    Examples
    --------
    >>> sorted(["m12", "m3", "10", "2"], key=natural)
    ['2', '10', 'm3', 'm12']
    """
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", text))
