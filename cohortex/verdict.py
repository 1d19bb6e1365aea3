"""The last rule's question: was too much of the cohort set aside?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cohortex.report.records import Records, Row, read_records

NAMED = 20
"""So many scans are named in the sentence; all are in the report."""


@dataclass(frozen=True)
class Tally:
    """What was set aside, of how many images.

    Attributes
    ----------
    lost : list of Row
        The last word on everything set aside, systemic batches first; masks, labels and derived things among them.
    images : int
        Images of the cohort.
    lost_images : int
        Those of them that were set aside: masks and labels do not count.
    tolerated : float
        Share of the images that may be set aside.
    """

    lost: list[Row]
    images: int
    lost_images: int
    tolerated: float

    @property
    def share(self) -> float:
        """Share of the images that was set aside."""
        return self.lost_images / self.images if self.images else 1.0

    @property
    def fine(self) -> bool:
        """Whether no more was set aside than is tolerated."""
        return self.images > 0 and self.share <= self.tolerated


def tally(records: Records, config: Mapping[str, Any]) -> Tally:
    """Count what was set aside (quarantined, crashed, failed, or without any record)."""
    lost = records.set_aside()
    images = set(records.images)
    if not records.cohort:
        images = {row.image.split("+")[0] for row in records.last.values() if row.role in ("image", "")}
    gone = {row.image.split("+")[0] for row in lost if row.role in ("image", "")}
    # An image counts as lost through something derived from it only when no word on itself says otherwise.
    survived = {
        name for name in gone if name in records.last and not records.last[name].set_aside and name not in {row.image for row in lost}
    }
    return Tally(lost, len(images), len((gone & images) - survived), float(config.get("quarantine", {}).get("tolerate", 0.0)))


def verdict(work: Path, config: Mapping[str, Any], stages: Sequence[str]) -> tuple[bool, str]:
    """Judge a run by its records.

    Parameters
    ----------
    work : path
        The run's work folder.
    config : mapping
        The configuration as run: ``quarantine.tolerate`` and ``output`` are looked at.
    stages : sequence of str
        The chain, in order.

    Returns
    -------
    fine : bool
        Whether at most the tolerated share of the cohort's images was set aside.
    sentence : str
        What was found, which scans were set aside, and where to read more.
    """
    found = tally(read_records(work, stages), config)
    page = f"{str(config.get('output', 'results')).rstrip('/')}/report/index.html"
    return found.fine, f"{sentence(found)}{_named(found.lost)} See {page}."


def sentence(found: Tally) -> str:
    """Say in a sentence how much was set aside and whether that is tolerated."""
    if not found.images:
        return "The cohort holds no image; look at input and select in the configuration."
    plural = "image" if found.images == 1 else "images"
    tolerated = f"{100 * found.tolerated:.3g} % tolerated by quarantine.tolerate"
    if not found.lost_images:
        also = f"; {len(found.lost)} masks, labels or derived things were" if found.lost else ""
        return f"No image was set aside: {found.images} {plural} of {found.images} in order{also}."
    verb = "was" if found.lost_images == 1 else "were"
    what = f"{found.lost_images} of {found.images} {plural} ({100 * found.share:.3g} %) {verb} set aside"
    return f"{what}, within the {tolerated}." if found.fine else f"Too much was set aside: {what}, more than the {tolerated}."


def _named(lost: Sequence[Row]) -> str:
    if not lost:
        return ""
    names = ", ".join(f"{row.image} ({row.stage}: {row.code or row.status})" for row in lost[:NAMED])
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return f" Set aside: {names}{more}."
