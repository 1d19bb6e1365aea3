"""The columns by which the page splits distributions: site, scanner, and what is known of the subjects in few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cohortex.report.records import Records

VALUES = 12
"""A column with more different values is none of groups."""
LETTERS = 60
"""Of a cell that are shown."""
COLUMNS = 20
"""So many columns are offered."""
OF_IMAGES = ("scanner", "site", "session", "acq", "body_part", "split")
"""Columns of the cohort's table that may be groups, the first that is one is shown first."""


def columns_of(records: Records, images: Sequence[str]) -> dict[str, list[str]]:
    """Return by name the columns with at least two and at most `VALUES` different values, a cell for each image, empty if it has none."""
    entries = [records.cohort.get(name, {}) for name in images]
    found: dict[str, list[str]] = {}
    for name in OF_IMAGES:
        _offer(found, name, [entry.get(name, "") for entry in entries])
    people = [records.participants.get(entry.get("subject", ""), {}) for entry in entries]
    names: dict[str, None] = {}
    for person in people:
        names.update(dict.fromkeys(person))
    for name in names:
        if name not in ("subject", *found):
            _offer(found, name, [person.get(name, "") for person in people])
    return found


def _offer(found: dict[str, list[str]], name: str, cells: Iterable[str]) -> None:
    told = ["" if cell == "n/a" else cell[:LETTERS] for cell in cells]
    different = set(told) - {""}
    # a column with another value for every image is none of groups, however few there are
    if 2 <= len(different) <= VALUES and 2 * len(different) <= sum(map(bool, told)) and len(found) < COLUMNS:
        found[name] = told
