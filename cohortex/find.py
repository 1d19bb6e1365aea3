"""Asks the tables of the results for cases: ``class=tumour volume_lesion_ml>2 age>=60``.

A condition is a column, a comparison and a value; nothing of it is run. A case is a subject, in one session where there are several.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortex.errors import Refused
from cohortex.report.dictionary import column
from cohortex.tables import read_columns, read_table

CONDITION = re.compile(r"\s*([0-9A-Za-z_.+-]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*\Z", re.DOTALL)
NUMBERS: dict[str, Callable[[Any, Any], bool]] = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OWN = ("subject", "session", "image", "kind", "status", "export.exported")


@dataclass(frozen=True)
class Condition:
    """What a case has to meet.

    Attributes
    ----------
    columns : tuple of str
        Columns of the manifest that may hold it (one a stage), or one of the participants.
    words : bool
        Whether they hold words, so that 01 and 1 differ.
    """

    text: str
    columns: tuple[str, ...]
    of_subject: bool
    words: bool
    sign: str
    value: str

    def holds(self, cell: str) -> bool:
        """Tell whether a cell meets it; one that is empty never does."""
        if cell in ("", "n/a"):
            return False
        mine, asked = _number(cell), _number(self.value)
        if self.sign in NUMBERS:
            return mine is not None and asked is not None and NUMBERS[self.sign](mine, asked)
        same = mine == asked if mine is not None and asked is not None and not self.words else cell == self.value
        return same if self.sign == "=" else not same


def find(results: Path, asked: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Return the cases that meet every condition.

    Parameters
    ----------
    results : path
        The output folder of a run.
    asked : sequence of str
        ``column=value``, with ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``. Columns are those of ``manifest.tsv``, with their stage
        (``classify.class``) or without it, and of ``participants.tsv``. Each may hold at another image of the case.

    Returns
    -------
    columns : list of str
        ``subject``, ``session``, what was asked for, ``images`` and ``labels`` (files of the results).
    rows : list of dict
        One for each case, with the value that met each condition.

    Raises
    ------
    Refused
        There is no manifest, or a condition is none: its column is not there, or a size is asked for that is no number.
    """
    manifest = results / "manifest.tsv"
    if not manifest.is_file():
        raise Refused(f"{results} has no manifest.tsv; name the output folder of a run that has ended.")
    with manifest.open(encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split("\t")
    people = read_table(results / "participants.tsv") if (results / "participants.tsv").is_file() else []
    known = {person["participant_id"].removeprefix("sub-"): person for person in people}
    conditions = [_condition(text, columns, list(people[0]) if people else []) for text in asked]
    wanted = list(dict.fromkeys([*OWN, *(name for each in conditions if not each.of_subject for name in each.columns)]))
    cases: dict[tuple[str, str], dict[str, Any]] = {}
    for cells in read_columns(manifest, wanted):
        row = dict(zip(wanted, cells, strict=True))
        case = cases.setdefault((row["subject"], row["session"]), {"met": {}, "image": [], "labels": []})
        for number, condition in enumerate(conditions):
            cells = [row[name] for name in condition.columns] if not condition.of_subject else []
            value = next((cell for cell in cells if condition.holds(cell)), None)
            if value is not None:
                case["met"].setdefault(number, value)
        if row["export.exported"] and row["kind"] in ("image", "labels"):
            case[row["kind"]].append(row["export.exported"])
    found = []
    for (subject, session), case in sorted(cases.items()):
        for number, condition in enumerate(conditions):
            cell = known.get(subject, {}).get(condition.columns[0], "") if condition.of_subject else ""
            if condition.holds(cell):
                case["met"][number] = cell
        if len(case["met"]) == len(conditions):
            told = {condition.text: case["met"][number] for number, condition in enumerate(conditions)}
            files = {"images": " ".join(case["image"]), "labels": " ".join(case["labels"])}
            found.append({"subject": subject, "session": session, **told, **files})
    return ["subject", "session", *(condition.text for condition in conditions), "images", "labels"], found


def _condition(text: str, columns: Sequence[str], people: Sequence[str]) -> Condition:
    found = CONDITION.match(text)
    if not found or not found[3]:
        raise Refused(f"{text!r} is no condition: write column=value, with =, !=, <, <=, > or >=, in quotes for the shell.")
    name, sign, value = found.groups()
    if sign in NUMBERS and _number(value) is None:
        raise Refused(f"{text!r} compares with {value!r}, which is no number.")
    here = [each for each in columns if each == name or each.partition(".")[2] == name]
    if not here and name not in people:
        near = difflib.get_close_matches(name, [*columns, *(each.partition(".")[2] for each in columns), *people], 1)
        raise Refused(f"no table has a column {name!r}" + (f"; the nearest is {near[0]!r}." if near else "; see manifest.json."))
    words = any(column(each).type == "word" for each in here)
    return Condition(text, tuple(here) or (name,), not here, words, sign, value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None
