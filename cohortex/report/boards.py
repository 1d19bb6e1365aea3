"""Leaderboards of bake-offs that were run on this cohort, as far as their tables are there (docs/bakeoff.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cohortex.report.charts import short
from cohortex.report.records import number

ROWS, COLUMNS = 12, 7
"""Systems and columns of a leaderboard that are shown; its own page has all."""


@dataclass(frozen=True)
class Board:
    """A leaderboard: its task, its page as seen from the report, the heads of its columns and its rows as text."""

    task: str
    page: str
    heads: list[str]
    rows: list[list[str]]
    more: int


def boards(results: Path, notes: list[str]) -> list[Board]:
    """Return the leaderboards below ``<results>/bakeoff``; of one whose table cannot be read there is a note."""
    found = []
    for file in sorted((results / "bakeoff").glob("*/leaderboard.tsv")):
        try:
            lines = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            lines, why = [], type(error).__name__
        else:
            why = "no system"
        if len(lines) < 2:
            notes.append(f"bakeoff/{file.parent.name}/leaderboard.tsv cannot be shown ({why}); run the bake-off again.")
            continue
        heads, rows = lines[0], lines[1:]
        # columns that say the same of every system say nothing of which is better
        told = [
            place
            for place, _ in enumerate(heads)
            if place == 0 or len(rows) == 1 or len({tuple(row[place : place + 1]) for row in rows}) > 1
        ][:COLUMNS]
        shown = [[_cell(row[place] if place < len(row) else "") for place in told] for row in rows[:ROWS]]
        page = f"../bakeoff/{file.parent.name}/index.html" if (file.parent / "index.html").is_file() else ""
        found.append(Board(file.parent.name, page, [heads[place] for place in told], shown, max(0, len(rows) - ROWS)))
    return found


def _cell(text: str) -> str:
    value = number(text)
    return text[:80] if value is None else short(value)
