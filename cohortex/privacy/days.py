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
    """Put into ``date`` of every row what the ``scans.tsv`` of its subject or session says (``acq_time``); empty where none does."""
    known: dict[str, dict[str, str]] = {}
    for row in rows:
        parts = row["path"].split("/")
        places = ["/".join(parts[:depth]) for depth in (1, 2) if depth == 1 or (len(parts) > depth and parts[1].startswith("ses-"))]
        row["date"] = ""
        for place in places:
            if place not in known:
                known[place] = _scans(root, place)
            row["date"] = known[place].get(row["path"], row["date"])


def _scans(root: Path, place: str) -> dict[str, str]:
    file = root / place / f"{place.replace('/', '_')}_scans.tsv"
    try:
        _, rows = read_table(file, ("filename", "acq_time"))
    except Refused:
        # none, or one that cannot be read: days are no reason to refuse a cohort
        return {}
    return {f"{place}/{cells['filename']}": cells["acq_time"] for _, cells in rows}
