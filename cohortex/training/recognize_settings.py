"""What the section `recognize` says of a training, and what the cohort must have for it; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cohortex.config import settings_for
from cohortex.errors import Refused
from cohortex.models import registry

NETWORK = "retinanet"
LABELS = {"6": "lesion"}
TRAINING: dict[str, Any] = {
    "steps": 2000,
    "minutes": 60.0,
    "rate": None,
    "batch": None,
    "patch": None,
    "spacing_mm": None,
    "least_voxels": 1,
    "flip": [0],
    "augment": {},
    "options": {},
}
"""What a section does not say; None is what the network's entry or the images say."""


def classes_of(names: Mapping[str, str]) -> list[tuple[int, str]]:
    """Return value and name of the labels that are things to find, in the order of their values.

    Raises
    ------
    Refused
        When a value is no whole number above 0.
    """
    wrong = [value for value in names if not str(value).isdigit() or int(value) == 0]
    if wrong:
        raise Refused(
            f"recognize: labels names the things to find by their value in the labels, such as {{'6': lesion}}, but it has {wrong[0]!r}."
        )
    return sorted((int(value), str(name)) for value, name in names.items())


def check_recognize(section: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> None:
    """Check before any job what the training of a detector needs.

    Parameters
    ----------
    section : mapping
        ``default`` and entries by modality.
    rows : sequence of mappings
        The cohort's table: ``subject``, ``split``, ``role``, ``modality``.

    Raises
    ------
    Refused
        For a network that there is not, labels that are no numbers, and where no training subject has labels of what is learned.
    """
    settings = settings_for(section, "default")
    registry.entry("recognize", settings.get("network", NETWORK))
    classes_of(settings.get("labels") or LABELS)
    modality = settings.get("modality")
    with_labels = [
        row for row in rows if row["role"] in ("labels", "boxes") and row["split"] == "train" and modality in (None, row["modality"])
    ]
    if not with_labels:
        whose = f"{modality} of a training subject" if modality else "training subject"
        raise Refused(
            f"recognize: weights: train needs labels, and no {whose} has a row of role labels or boxes in the cohort table; add them, or "
            "name a trained model."
        )
