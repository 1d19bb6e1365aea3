"""The tables that every job leaves: manifest, timing, numbers (see docs/design.md, Records)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.items import Image
from cohortex.publish import write_text
from cohortex.volume import Volume

COLUMNS = (
    "subject",
    "session",
    "image",
    "kind",
    "role",
    "modality",
    "body_part",
    "status",
    "code",
    "reason",
    "path",
    "sha256",
    "key",
    "sources",
    "entities",
    "shape",
    "spacing_mm",
)
"""First columns of every manifest, in this order; a stage's measures follow alphabetically."""

TIMING_COLUMNS = ("item", "seconds", "peak_mb", "host", "pid", "device", "threads", "resumed")


def cell(value: Any) -> str:
    """Write one value: floats with 6 significant digits, nothing for None, no tab or line break."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or type(value).__name__.startswith("float"):
        return "n/a" if value != value else f"{float(value):.6g}"
    return " ".join(str(value).split())


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of tab-separated values, atomically."""
    text = io.StringIO()
    text.write("\t".join(columns) + "\n")
    for row in rows:
        text.write("\t".join(cell(row.get(column)) for column in columns) + "\n")
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a table that `write_table` wrote; all values are strings."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def write_manifest(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a manifest: rows sorted by id, measures after the fixed columns."""
    measures = sorted({name for row in rows for name in row} - set(COLUMNS))
    write_table(path, [*COLUMNS, *measures], sorted(rows, key=lambda row: str(row["image"])))


def pairs(text: str) -> dict[str, str]:
    """Read ``space=CT;desc=warped``."""
    return dict(part.split("=", 1) for part in text.split(";") if part)


def row_of(image: Image) -> dict[str, Any]:
    """Return the part of a manifest row that follows from what an image is."""
    return {
        "subject": image.subject,
        "session": image.session,
        "image": image.id,
        "kind": image.kind,
        "role": image.role,
        "modality": image.modality,
        "body_part": image.body_part,
        "status": "ok",
        "sources": " ".join(image.sources),
        "entities": ";".join(f"{name}={value}" for name, value in image.entities.items()),
    }


def geometry(volume: Volume) -> dict[str, str]:
    """Return the manifest's words for a grid."""
    return {
        "shape": "x".join(str(size) for size in volume.shape),
        "spacing_mm": "x".join(f"{size:.4g}" for size in volume.spacing),
    }
