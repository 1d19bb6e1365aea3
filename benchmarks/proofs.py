"""Rows of statements about systems: each is tried, and what was found goes into the record of its benchmark."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import Run, Table
from cohortex.errors import Refused


@dataclass(frozen=True)
class Found:
    """What came of a proof: its figures, and each statement with whether it holds."""

    figures: Mapping[str, float | str]
    statements: Mapping[str, bool]

    @property
    def holds(self) -> bool:
        """Whether all of it holds."""
        return all(self.statements.values())

    def told(self) -> str:
        """Return the figures, and which of several statements do not hold, as one line."""
        words = [f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in self.figures.items()]
        return ", ".join(words) + "".join(f"; not: {name}" for name, holds in self.statements.items() if not holds)


Statements = Mapping[str, tuple[str, Callable[[], Found]]]
"""Of each row what it states, and who tries it."""


def rows_of(wanted: str, statements: Collection[str]) -> list[str]:
    """Return the rows of a list with commas.

    Raises
    ------
    Refused
        For a row that there is not.
    """
    rows = wanted.split(",")
    unknown = [row for row in rows if row not in statements]
    if unknown:
        raise Refused(f"There is no proof {unknown[0]!r}; there are: {', '.join(statements)}.")
    return rows


def try_all(run: Run, statements: Statements, rows: Sequence[str], save: Path | None) -> None:
    """Try rows one after the other; the record is written after each, and keeps the rows that it has of others."""
    proofs = Table({"row": "", "statement": "", "figures": "", "verdict": ""})
    took = Table({"row": "", "minutes": ".1f"})
    if save is not None and save.is_file():
        before = json.loads(save.read_text())["tables"]
        for name, table in (("proofs", proofs), ("minutes", took)):
            table.rows += [row for row in before[name]["rows"] if row[0] not in rows]
    for row in rows:
        statement, prove = statements[row]
        start = time.monotonic()
        found = prove()
        proofs.add(row, statement, found.told(), "holds" if found.holds else "fails")
        took.rows.append([row, (time.monotonic() - start) / 60])
        tables = {"proofs": Table(proofs.columns, sorted(proofs.rows)), "minutes": Table(took.columns, sorted(took.rows))}
        figures = {"proofs_holding": sum(each[-1] == "holds" for each in proofs.rows), "proofs_total": len(proofs.rows)}
        run.end(tables, figures, save)
