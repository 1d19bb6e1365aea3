"""What every column of the manifests means, by the table ``measures.tsv`` beside this module: the one place where measures are described.

A measure of which there are several, one a label or class, stands there once with ``*`` for the label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cohortex.report.measures import spoken
from cohortex.tables import read_table

STATUSES = {
    "ok": ("✓", "in order"),
    "warned": ("!", "in order, with something to know"),
    "skipped": ("–", "left as it was, for the reason given"),
    "quarantined": ("✕", "the scan cannot be used"),
    "crashed": ("✕", "the program died on it"),
    "failed": ("✕", "could not be finished"),
}


@dataclass(frozen=True)
class Described:
    """A column.

    Attributes
    ----------
    type : str
        ``number``, ``count`` (a whole number), ``flag`` (true or false) or ``word``; empty where nobody declared it.
    levels : mapping
        What its values mean, where there are few.
    """

    text: str
    type: str = ""
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)


@lru_cache(maxsize=1)
def _declared() -> list[tuple[str, re.Pattern[str], dict[str, str]]]:
    rows = read_table(Path(__file__).with_name("measures.tsv"))
    found = [(row["stage"], re.compile(re.escape(row["measure"]).replace(r"\*", "(.+)")), row) for row in rows]
    # a name that is spelt out comes before a pattern, and of patterns the longer one
    return sorted(found, key=lambda one: ("*" in one[2]["measure"], -len(one[2]["measure"])))


@lru_cache(maxsize=4096)
def described(stage: str, measure: str) -> Described:
    """Return what is declared of a stage's measure, or of a column that every manifest has (stage ``""``).

    Examples
    --------
    >>> described("regseg", "volume_grey_matter_ml").text
    'Volume of the label grey matter'
    """
    for of, pattern, row in _declared():
        found = pattern.fullmatch(measure)
        if found and of in (stage, ""):
            text = row["description"].replace("*", found[1].replace("_", " ")) if found.groups() else row["description"]
            levels = dict(part.split("=", 1) for part in row["levels"].split("|")) if row["levels"] else {}
            if measure == "status":
                levels = {status: words for status, (_, words) in STATUSES.items()}
            return Described(text, row["type"], row["units"], levels)
    words, unit = spoken(measure)
    return Described(words[:1].upper() + words[1:], "", unit)


def column(name: str) -> Described:
    """Return what a column of the manifest of the whole cohort means: ``<stage>.<measure>``, or one that every manifest has."""
    stage, dot, measure = name.partition(".")
    return described(stage, measure) if dot else described("", name)


def dictionary(names: Iterable[str], stage: str | None = None) -> dict[str, dict[str, Any]]:
    """Return a BIDS data dictionary of columns.

    Parameters
    ----------
    stage : str, optional
        Whose measures they are; of the whole cohort's manifest, in which measures carry their stage, without it.

    Returns
    -------
    dict
        ``Description`` and, where there are any, ``Units`` and ``Levels`` by column.
    """
    found = {}
    for name in names:
        told = column(name) if stage is None else described(stage, name)
        entry: dict[str, Any] = {"Description": told.text}
        if told.units:
            entry["Units"] = told.units
        if told.levels:
            entry["Levels"] = dict(told.levels)
        found[name] = entry
    return found
