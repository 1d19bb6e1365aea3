"""Whether a face may be shown: the one place that every picture of a head asks, flat or solid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from cohortex.report.records import Records
from cohortex.volume import Volume

Picture = TypeVar("Picture")

HEADS = frozenset(("head", "brain", "skull", "face", "headneck"))
"""Body parts of images that show a head."""
NEAR = HEADS | {"neck", "orbit", "sinus", "ear", "jaw"}
"""Body parts of images in which there may be a face, or some of it."""
FACES = "hide"
"""Default of ``report: faces``."""
PROFILE = "sagittal"
"""The view that shows a profile."""


def may_be_a_head(body_part: str, shape: Sequence[int]) -> bool:
    """Say whether an image may show a face in space: a volume of a head, or of nobody knows what."""
    return len(shape) >= 3 and min(shape[:3]) > 1 and (not body_part or body_part.lower() in NEAR)


def is_defaced(history: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a volume's history has a step that removed the face."""
    return any(step.get("Defaced") is True for step in history)


def may_show_face(thing: Volume, report: Mapping[str, Any] | None = None, simulated: bool = False) -> bool:
    """Say whether all of a volume may be shown: where no face can be in it, it was defaced, nobody's, or the user allows it.

    Parameters
    ----------
    thing : Volume
        As a stage's folder holds it; the history tells whether it was defaced.
    report : mapping, optional
        The section `report` of the configuration: ``faces: hide | show``.
    simulated : bool
        Whether it is of no person.
    """
    return may_be_shown(thing.body_part, thing.shape, is_defaced(thing.history), report, simulated)


def may_be_shown(body_part: str, shape: Sequence[int], defaced: bool, report: Mapping[str, Any] | None, simulated: bool) -> bool:
    """Say what `may_show_face` says of what is known of a volume."""
    return defaced or simulated or (report or {}).get("faces", FACES) == "show" or not may_be_a_head(body_part, shape)


def of_image(records: Records, name: str, stage: str, report: Mapping[str, Any] | None) -> bool:
    """Say whether all of an image, or of something derived from it, may be shown as it was after a stage.

    Parameters
    ----------
    records : Records
    name : str
        Id of the image or of the derived thing.
    stage : str
        Of the picture: before the stage `deface` every head has its face.
    report : mapping or None
        The section `report` of the configuration.
    """
    image = name.partition("+")[0]
    row = records.last.get(name) or records.last.get(image)
    part = row.body_part if row is not None else records.cohort.get(image, {}).get("body_part", "")
    shape = [int(n) for n in row.shape.split("x")] if row is not None and row.shape else (2, 2, 2)
    # looked for only where it matters: it goes through all rows of a stage
    return may_be_shown(part, shape, False, report, image in records.simulated) or stage in _since_defaced(records, image)


def without_profiles(
    seen: Mapping[str, Mapping[str, Mapping[str, Picture]]], records: Records, report: Mapping[str, Any] | None
) -> tuple[dict[str, dict[str, dict[str, Picture]]], set[str]]:
    """Leave out the views that show the profile of a head whose face may not be shown.

    Parameters
    ----------
    seen : mapping
        Pictures by stage, id and name.
    records, report
        As of `of_image`.

    Returns
    -------
    pictures, hidden
        What is left, and the ids of the images of which something was left out.
    """
    kept: dict[str, dict[str, dict[str, Picture]]] = {}
    hidden: set[str] = set()
    for stage, things in seen.items():
        partners = {row.image: row.measures.get("fixed", "") for row in records.told.get(stage, [])}
        kept[stage] = {}
        for name, pictures in things.items():
            kept[stage][name] = dict(pictures)
            # a picture of a pair shows both
            both = [name, *filter(lambda other: other in records.last, [partners.get(name, "")])]
            if all(of_image(records, each, stage, report) for each in both):
                continue
            for picture in [each for each in pictures if PROFILE in each.split("_")]:
                del kept[stage][name][picture]
                hidden.add(name.partition("+")[0])
    return kept, hidden


def _since_defaced(records: Records, image: str) -> list[str]:
    """Return the stages from the one on that took an image's face away, none where none did."""
    for position, stage in enumerate(records.stages):
        if any(row.image == image and "defaced" in row.measures and not row.set_aside for row in records.told.get(stage, [])):
            return records.stages[position:]
    return []
