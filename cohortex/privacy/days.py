"""Days on which images were acquired: read, shifted by a subject's own number of days, told as ``YYYY-MM-DD``.

A day that cannot be is no day: the cell stays empty, nothing is set aside for it, and what stood there is not told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

from cohortex.cohort.table import Row, read_table
from cohortex.errors import Refused

FIRST, LAST = date(1900, 1, 1), date(2100, 12, 31)
_DAY = re.compile(r"(\d{4})(-?)(\d{2})\2(\d{2})(?:[T ].*)?")


def day_of(text: str) -> date | None:
    """Return the day that ``YYYYMMDD`` or ``YYYY-MM-DD``, with or without a time behind ``T``, says; None for anything else.

    Examples
    --------
    >>> day_of("20240229"), day_of("2023-02-29"), day_of("1066-10-14")
    (datetime.date(2024, 2, 29), None, None)
    """
    found = _DAY.fullmatch(text.strip())
    if found is None or not text.isascii():
        return None
    try:
        day = date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
    return day if FIRST <= day <= LAST else None


def told_day(text: str, shift: int) -> str:
    """Return a day moved by `shift` days as ``YYYY-MM-DD``; empty where the text says no day."""
    day = day_of(text)
    return "" if day is None else (day + timedelta(days=shift)).isoformat()


def bids_days(root: Path, rows: Iterable[Row]) -> None:
    """Put into ``date`` of every row the ``acq_time`` of its image in a ``scans.tsv``, else that of its session in a ``sessions.tsv``.

    It is empty where neither says one.
    """
    known: dict[str, dict[str, str]] = {}

    def told(place: str, table: str, column: str) -> dict[str, str]:
        if f"{place}_{table}" not in known:
            known[f"{place}_{table}"] = _times(root, place, table, column)
        return known[f"{place}_{table}"]

    for row in rows:
        parts = row["path"].split("/")
        in_session = len(parts) > 2 and parts[1].startswith("ses-")
        places = ["/".join(parts[:2]), parts[0]] if in_session else [parts[0]]
        scans = [told(place, "scans", "filename").get(row["path"], "") for place in places]
        session = told(parts[0], "sessions", "session_id").get(f"{parts[0]}/{parts[1]}", "") if in_session else ""
        row["date"] = next((text for text in (*scans, session) if text not in ("", "n/a")), "")


def _times(root: Path, place: str, table: str, column: str) -> dict[str, str]:
    file = root / place / f"{place.replace('/', '_')}_{table}.tsv"
    try:
        _, rows = read_table(file, (column, "acq_time"))
    except Refused:
        # none, or one that cannot be read: days are no reason to refuse a cohort
        return {}
    return {f"{place}/{cells[column]}": cells["acq_time"] for _, cells in rows}
