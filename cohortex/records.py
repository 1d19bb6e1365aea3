"""The tables that every job leaves: manifest, timing, numbers (see docs/design.md, Records)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cohortex.items import Image
from cohortex.tables import write_table
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
