"""The table of all images as the page's script reads it: columns, compressed, so that it stays small for a cohort of any size."""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cohortex.report import groups, measures
from cohortex.report.harmonise import Harmonised
from cohortex.report.records import SIMULATED_SITES, Records, number
from cohortex.report.subjects import shortened
from cohortex.verdict import Tally

DIGITS = 4
"""Significant digits of a figure, as many as the table shows; ``manifest.tsv`` has all that were measured."""


@dataclass(frozen=True)
class Thumb:
    """The small picture of an image in its row: a picture of the gallery, its size, and the place on the page that shows it."""

    picture: str
    width: int
    height: int
    place: str


def table(
    records: Records,
    found: Tally,
    odd: Iterable[measures.Odd],
    paged: Iterable[str] = (),
    thumbs: Mapping[str, Thumb] | None = None,
    made: Harmonised | None = None,
) -> Markup:
    """Return the table of all images as JSON for the page's script.

    Parameters
    ----------
    records : Records
    found : Tally
    odd : iterable of Odd
    paged : iterable of str
        Subjects that have a page.
    thumbs : mapping, optional
        Small pictures by image.
    made : Harmonised, optional

    Returns
    -------
    Markup
        ``count`` (of images), ``stages`` (stage to the heads of its measures), ``odd`` (row, stage, column of each odd figure),
        ``simulated`` (sites), ``pages`` (subjects that have a page) and ``packed``: under "" the seven columns status, image, subject,
        modality, last stage, reason and site, under a stage the columns of its measures (null where there is none), each as base64 of
        gzip of JSON. A stage is unpacked when its measures are looked at. Further: ``left_out`` (rows that count in no distribution),
        ``thumbs`` (row to picture, width, height, place), ``groups`` (``names`` of columns by which distributions are split, packed like a
        stage) and ``harmonised`` (by stage: ``columns``, the places of the measures, and those packed).
    """
    last = dict(records.last) | {row.image: row for row in found.lost}
    names = sorted(set(records.images) | {name for name, row in last.items() if row.is_image or row.set_aside})
    place = {name: index for index, name in enumerate(names)}
    fixed: list[list[str]] = [[] for _ in range(7)]
    for name in names:
        row, entry = last.get(name), records.cohort.get(name, {})
        cells = (
            row.status if row else "failed",
            name,
            entry.get("subject") or (row.subject if row else ""),
            entry.get("modality") or (row.modality if row else ""),
            row.stage if row else "",
            shortened(" ".join(filter(None, (row.code and f"{row.code}:", row.reason)))) if row else "",
            entry.get("site", "")[: groups.LETTERS],
        )
        for column, cell in zip(fixed, cells, strict=True):
            column.append(cell)
    packed, heads, where = {"": _packed(fixed)}, {}, {}
    for stage in records.stages:
        columns = _columns(records, stage, place)
        if columns:
            packed[stage], heads[stage] = _packed(list(columns.values())), [_head(name) for name in columns]
            where[stage] = {name: index for index, name in enumerate(columns)}
    marks = sorted({mark for one in odd if (mark := _mark(one, place, where))})
    columns = groups.columns_of(records, names)
    content = {
        "count": len(names),
        "stages": heads,
        "odd": marks,
        "simulated": list(SIMULATED_SITES),
        "pages": list(paged),
        "packed": packed,
        "left_out": [place[name] for name in names if not records.counts_in(name)],
        "thumbs": {place[name]: [one.picture, one.width, one.height, one.place] for name, one in (thumbs or {}).items() if name in place},
        "groups": {"names": list(columns), "packed": _packed(list(columns.values())) if columns else ""},
        "harmonised": _harmonised(made, place, where) if made else {},
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only these could end it or begin a comment.
    return Markup(
        text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", " ").replace("\u2029", " ")
    )


def _columns(records: Records, stage: str, place: dict[str, int]) -> dict[str, list[Any]]:
    """Return the measures of a stage, one column each, with a cell for every image; those of derived things stand with their image."""
    columns: dict[str, list[Any]] = defaultdict(lambda: [None] * len(place))
    # What is measured on an image itself comes first.
    rows = sorted(records.told.get(stage, []), key=lambda row: "+" in row.image)
    for row in rows:
        base, _, tag = row.image.partition("+")
        own = row.image in place
        index = place.get(row.image if own else base)
        if index is not None:
            for name, text in row.measures.items():
                value = number(text)
                columns[name if own or not tag else f"{tag} {name}"][index] = (
                    shortened(text) if value is None else float(f"{value:.{DIGITS}g}")
                )
    return {name: [_plain(value) for value in column] for name, column in columns.items()}


def _harmonised(made: Harmonised, place: dict[str, int], where: dict[str, dict[str, int]]) -> dict[str, dict[str, Any]]:
    """Return by stage the harmonised measures as columns like those of the stage, and which of them each belongs to."""
    by_stage: dict[str, dict[str, list[Any]]] = defaultdict(dict)
    for part in made.parts:
        for measure, values in zip(part.measures, part.values.T, strict=True):
            for image, value in zip(part.images, values.tolist(), strict=True):
                base, _, tag = image.partition("+")
                own = image in place
                name = measure if own or not tag else f"{tag} {measure}"
                index = place.get(image if own else base)
                if index is not None and name in where.get(part.stage, {}) and value == value:
                    by_stage[part.stage].setdefault(name, [None] * len(place))[index] = float(f"{value:.{DIGITS}g}")
    return {
        stage: {"columns": [where[stage][name] for name in columns], "packed": _packed(list(columns.values()))}
        for stage, columns in by_stage.items()
    }


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else value


def _mark(one: measures.Odd, place: dict[str, int], where: dict[str, dict[str, int]]) -> tuple[int, str, int] | None:
    """Return row, stage and column of an odd figure; None where the table does not have it."""
    base, _, tag = one.image.partition("+")
    own = one.image in place
    measure = one.group.measure if own or not tag else f"{tag} {one.group.measure}"
    index, column = place.get(one.image if own else base), where.get(one.group.stage, {}).get(measure)
    return None if index is None or column is None else (index, one.group.stage, column)


def _packed(columns: list[list[Any]]) -> str:
    raw = json.dumps(columns, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode("ascii")


def _head(measure: str) -> str:
    tag, _, name = measure.rpartition(" ")
    words, unit = measures.spoken(name)
    return f"{f'{tag}: ' if tag else ''}{words}{f' ({unit})' if unit else ''}"
