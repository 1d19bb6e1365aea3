"""Which columns of a cohort's tables are groups of people that a classifier can be audited over, and who is in which group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

AGES = ((0, "under 18"), (18, "18 to 39"), (40, "40 to 64"), (65, "65 and over"))
"""Bands of age: the first year of each, and what it is called."""
FEWEST = 5
"""Subjects that a group must have to be told of: a smaller one says too much about a person and too little about the classifier."""
MOST = 8
"""Groups that a column may have to be looked at without being asked for."""
UNKNOWN = ("", "n/a", "N/A", "nan", "unknown")


def attributes(
    rows: Sequence[Mapping[str, str]], subjects: Sequence[str] | np.ndarray, y: np.ndarray, asked: Literal["auto"] | Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the group of every row in each column that can be audited, and why the others cannot.

    Parameters
    ----------
    rows : (n,) sequence of mapping
        What is known of each row's subject: column to cell.
    subjects : (n,) sequence of str
    y : (n,) integer array
        Classes. A column that tells the class of one of its groups is an answer, no group of people.
    asked : "auto" or sequence of str
        auto: every column with 2 to `MOST` groups, and age in bands.

    Returns
    -------
    columns : dict of str to (n,) object array
        Empty text where a row has no group, or one of fewer than `FEWEST` subjects.
    left_out : dict of str to str
        The columns asked for (or, under auto, those of few different cells) that were not taken, with the reason.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) if asked == "auto" else list(asked)
    subjects = np.asarray(subjects)
    people = len(set(subjects.tolist()))
    found: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    for name in names:
        cells = np.array([_cell(row.get(name, "")) for row in rows], dtype=object)
        if name.lower() == "age":
            cells = np.array([_band(cell) for cell in cells], dtype=object)
        values = {str(cell) for cell in cells if cell}
        if asked == "auto" and (len(values) > MOST or len(values) >= max(people, 2) or (len(values) < 2)):
            continue
        if not values:
            left_out[name] = "no subject has a value in it"
        elif (several := _in_several(cells, subjects)) > 0:
            left_out[name] = f"{several} of the subjects {'are' if several > 1 else 'is'} in several groups"
        else:
            counts = Counter(cell for _, cell in {(s, c) for s, c in zip(subjects.tolist(), cells.tolist(), strict=True) if c})
            few = sorted(value for value, count in counts.items() if count < FEWEST)
            kept = np.array(["" if cell in few else cell for cell in cells], dtype=object)
            groups = {str(cell) for cell in kept if cell}
            told = [value for value in sorted(groups) if len(set(y[kept == value].tolist())) < 2]
            if len(groups) < 2:
                left_out[name] = f"fewer than two groups have {FEWEST} subjects"
            elif told and asked == "auto":
                left_out[name] = f"all of {told[0]} are of one class"
            else:
                found[name] = kept
    return found, left_out


def _cell(value: object) -> str:
    text = str(value if value is not None else "").strip()
    return "" if text in UNKNOWN else text[:40]


def _band(cell: str) -> str:
    try:
        age = float(cell.rstrip("Yy"))
    except ValueError:
        return ""
    return next((name for first, name in reversed(AGES) if age >= first), "")


def _in_several(cells: np.ndarray, subjects: np.ndarray) -> int:
    of: dict[str, set[str]] = {}
    for subject, cell in zip(subjects.tolist(), cells.tolist(), strict=True):
        if cell:
            of.setdefault(subject, set()).add(cell)
    return sum(len(values) > 1 for values in of.values())
