"""Rows of statements about systems: each is tried, and what was found goes into the record of its benchmark."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.record import Run, Table, add_save
from cohortex.errors import Refused


@dataclass(frozen=True)
class Found:
    """What came of a proof.

    Attributes
    ----------
    figures : mapping of name to value, or sequence of str
        What is said of it in the table.
    statements : mapping of name to bool
        What was to be shown, and whether it was.
    recorded : mapping of name to float
        Figures of the record, beside how many proofs hold.
    """

    figures: Mapping[str, float | str] | Sequence[str]
    statements: Mapping[str, bool]
    recorded: Mapping[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``holds``, or which statements do not."""
        missed = [name for name, holds in self.statements.items() if not holds]
        return f"fails: {'; '.join(missed)}" if missed else "holds"

    def told(self) -> str:
        """Return the figures as one line."""
        if isinstance(self.figures, Mapping):
            return ", ".join(f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in self.figures.items())
        return "; ".join(self.figures)


Statements = Mapping[str, tuple[str, Callable[[], Found]]]
"""Of each row what it states, and who tries it."""


def parser_of(about: str | None, benchmark: str) -> argparse.ArgumentParser:
    """Return the parser that every benchmark of proofs has: which rows, how many steps, where heads and models lie, and the record."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proof", default="all", help="rows, with commas between them")
    parser.add_argument("--steps", type=float, default=1.0, help="a multiple of the steps of every training")
    folder = Path(tempfile.gettempdir()) / f"cohortex-{benchmark.replace('_', '-')}"
    parser.add_argument("--folder", type=Path, default=folder, help="heads and models")
    add_save(parser)
    return parser


def rows_of(wanted: str, statements: Collection[str]) -> list[str]:
    """Return the rows of a list with commas, every one for ``all``.

    Raises
    ------
    Refused
        For a row that there is not.
    """
    rows = list(statements) if wanted == "all" else wanted.split(",")
    unknown = [row for row in rows if row not in statements]
    if unknown:
        raise Refused(f"There is no proof {unknown[0]!r}; there are: {', '.join(statements)}.")
    return rows


def try_all(
    run: Run, statements: Statements, rows: Sequence[str], save: Path | None, further: Callable[[], Mapping[str, Table]] = dict
) -> None:
    """Try rows one after the other; the record is written after each, and keeps what it has of others.

    Parameters
    ----------
    run : Run
    statements : mapping
    rows : sequence of str
    save : Path, optional
        The record.
    further : callable
        Returns tables of the record that grow with the rows, by name; their rows are known by the first cell.
    """
    columns = {"proofs": {"row": "", "statement": "", "figures": "", "verdict": ""}, "runs": {"row": "", "CPU min": ".1f", "commit": ""}}
    order = list(statements)
    before = json.loads(save.read_text()) if save is not None and save.is_file() else {"tables": {}, "figures": {}}
    known = {name: {cells[0]: cells for cells in before["tables"].get(name, {}).get("rows", [])} for name in columns}
    figures = {name: value for name, value in before["figures"].items() if not name.startswith("proofs_")}
    for row in rows:
        statement, prove = statements[row]
        start = cpu_s()
        found = prove()
        print(f"{row} {found.verdict}: {found.told()}", flush=True)
        known["proofs"][row] = [row, statement, found.told(), found.verdict]
        known["runs"][row] = [row, (cpu_s() - start) / 60, run.about["commit"]]
        tables = {name: Table(columns[name], sorted(cells.values(), key=lambda c: order.index(c[0]))) for name, cells in known.items()}
        for name, table in further().items():
            kept = {cells[0]: cells for cells in [*before["tables"].get(name, {}).get("rows", []), *table.rows]}
            tables[name] = Table(table.columns, list(kept.values()))
        figures |= found.recorded
        # Of a record that came together in several runs the command is the one that makes all of it.
        there = "all" if len(known["proofs"]) == len(statements) else ",".join(sorted(known["proofs"], key=order.index))
        run.about["command"] = f"python -m {run.module} --proof {there}"
        verdicts = [cells[-1] for cells in known["proofs"].values()]
        run.end(tables, {**figures, "proofs_holding": verdicts.count("holds"), "proofs_total": len(verdicts)}, save)


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])
