"""Measures of a bake-off that are of all images of a split together, as an area under a curve is: figures and paired differences.

What a system said of each image lies in a table of answers. Of `classify` it has a row for every class of a scan, of `recognize` one for
every box, true or found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.measures.classification import (
    accuracy,
    auc,
    auc_macro,
    brier,
    calibration_error,
    grouped_bootstrap,
    macro_rates,
    rates,
)
from cohortex.measures.detection import Marks, detection_statistics
from cohortex.measures.resampling import log_loss
from cohortex.training.classify_examples import digest_of

Statistic = Callable[[np.ndarray], float]
"""From (m,) numbers of images, some of them several times, to a measure of these images; NaN where they do not define it."""

CORNERS = tuple(f"{axis}_{end}" for end in ("low", "high") for axis in "xyz")
ANSWERS: dict[str, tuple[str, ...]] = {
    "classify": ("subject", "image", "split", "truth", "class", "probability"),
    "recognize": ("subject", "image", "split", "what", "label", "score", *CORNERS),
}
"""Columns of a system's answers by task; a box is ``true`` or ``found``, in voxels of its image with half-open edges."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Said:
    """What a system said of images, and how good that is.

    Attributes
    ----------
    images, subjects : list of str
        Of each image.
    statistics : mapping
        The measures of the task's leaderboard, by name.
    each : mapping
        By class, measures of it.
    """

    images: Sequence[str]
    subjects: Sequence[str]
    statistics: Mapping[str, Statistic]
    each: Mapping[str, Mapping[str, Statistic]]

    def all(self) -> np.ndarray:
        """Return the numbers of all images."""
        return np.arange(len(self.images))


def said_of(
    task: str, rows: Rows, answers: Rows, classes: Sequence[str], overlap: float = 0.5, only: Iterable[str] | None = None, split: str = ""
) -> Said:
    """Return what a system said of the images of a split, in the order of their names.

    Parameters
    ----------
    task : {"classify", "recognize"}
    rows : sequence of mappings
        One an image, with ``subject``, ``image``, ``split``.
    answers : sequence of mappings
        Columns of `ANSWERS`; values may be text.
    classes : sequence of str
    overlap : float
        Of `recognize`: from which a box counts as right in the mAP.
    only : iterable of str, optional
        The images that are looked at.
    split : str
        All of them where it is empty.
    """
    wanted = None if only is None else set(only)
    kept = {row["image"]: row["subject"] for row in rows if row["split"] == (split or row["split"])}
    images = sorted(image for image in kept if wanted is None or image in wanted)
    by_image: dict[str, list[Mapping[str, Any]]] = {image: [] for image in images}
    for answer in answers:
        if answer["image"] in by_image:
            by_image[answer["image"]].append(answer)
    if task == "classify":
        statistics, each = _of_classes([by_image[image] for image in images], classes)
    else:
        statistics, each = _of_boxes([by_image[image] for image in images], classes, overlap)
    return Said(images, [kept[image] for image in images], statistics, each)


def figures(said: Said) -> dict[str, float]:
    """Return the measures of all images, of those that have a value."""
    return _known({name: statistic(said.all()) for name, statistic in said.statistics.items()}) if said.images else {}


def of_each(said: Said) -> dict[str, dict[str, float]]:
    """Return the measures of every class."""
    return {name: _known({key: each(said.all()) for key, each in own.items()}) for name, own in said.each.items()} if said.images else {}


def differences(ours: Said, theirs: Said) -> dict[str, tuple[float, float, float]]:
    """Return the difference of each measure on the same images, with a paired bootstrap interval that draws subjects.

    Returns
    -------
    dict of str to (difference, low, high)
        The interval is NaN for fewer than two subjects.

    Raises
    ------
    ValueError
        When the images are not the same.
    """
    if list(ours.images) != list(theirs.images):
        raise ValueError("differences are of the same images, these are others")
    found: dict[str, tuple[float, float, float]] = {}
    for name, statistic in ours.statistics.items() if ours.images else ():
        other = theirs.statistics[name]
        value = grouped_bootstrap(lambda i, a=statistic, b=other: a(i) - b(i), np.array(ours.subjects))
        if np.isfinite(value[0]):
            found[name] = value
    return found


def _known(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _of_classes(answers: Sequence[Rows], classes: Sequence[str]) -> tuple[dict[str, Statistic], dict[str, dict[str, Statistic]]]:
    count = len(classes)
    y, p = np.zeros(len(answers), np.int64), np.zeros((len(answers), count))
    for place, own in enumerate(answers):
        for row in own:
            y[place] = classes.index(row["truth"])
            p[place, classes.index(row["class"])] = float(row["probability"])
    predicted = p.argmax(axis=1) if count else y
    statistics: dict[str, Statistic] = {
        "auc": lambda i: auc_macro(y[i], p[i]),
        "accuracy": lambda i: accuracy(y[i], predicted[i]),
        "balanced_accuracy": lambda i: macro_rates(y[i], predicted[i], count).sensitivity,
        "brier": lambda i: brier(y[i], p[i]),
        "calibration_error": lambda i: calibration_error(y[i], p[i]),
        "log_loss": lambda i: log_loss(y[i], p[i]),
    }
    each: dict[str, dict[str, Statistic]] = {
        name: {
            "auc": lambda i, k=k: auc(y[i] == k, p[i, k]),
            "sensitivity": lambda i, k=k: rates(y[i], predicted[i], k).sensitivity,
            "specificity": lambda i, k=k: rates(y[i], predicted[i], k).specificity,
        }
        for k, name in enumerate(classes)
    }
    return statistics, each


def _of_boxes(
    answers: Sequence[Rows], classes: Sequence[str], overlap: float
) -> tuple[dict[str, Statistic], dict[str, dict[str, Statistic]]]:
    found, truth = ([_marks([row for row in own if row["what"] == what], classes) for own in answers] for what in ("found", "true"))
    every = detection_statistics(found, truth, len(classes), overlap)
    each = {name: {"ap": every[f"ap_{k}"]} for k, name in enumerate(classes)} if len(classes) > 1 else {}
    return {name: every[name] for name in ("map", "sensitivity_at_1", "cpm")}, each


def _marks(rows: Rows, classes: Sequence[str]) -> Marks:
    corners = np.array([[float(row[name]) for name in CORNERS] for row in rows]).reshape(-1, len(CORNERS))
    labels = np.array([classes.index(row["label"]) for row in rows], np.int64)
    return Marks(corners, labels, np.array([float(row["score"]) for row in rows]))


# --- the same image in two splits --------------------------------------------------------------------------------


def seen_before(images: Sequence[Image], compared: Sequence[Image]) -> dict[str, str]:
    """Return which of the compared images a subject of an earlier split (train, validation, test) has as well, and in which words.

    Parameters
    ----------
    images : sequence of Image
        That were learned from, of the splits train and validation.
    compared : sequence of Image
        Of validation and test subjects.

    Returns
    -------
    dict of str to str
        Image to a sentence without an end.
    """
    order = ("train", "validation", "test")
    owners: dict[str, Image] = {}
    digests: dict[str, str] = {}
    for image in {each.id: each for each in [*images, *compared]}.values():
        digests[image.id] = digest = digest_of(image.volume.data)
        # The volumes of a whole cohort do not fit into memory; what was read is given back.
        image.__dict__.pop("content", None)
        first = owners.setdefault(digest, image)
        if order.index(image.row["split"]) < order.index(first.row["split"]):
            owners[digest] = image
    found = {}
    for image in compared:
        owner = owners[digests[image.id]]
        if order.index(owner.row["split"]) < order.index(image.row["split"]):
            found[image.id] = f"its voxels are those of {owner.id} of the {owner.row['split']} subject {owner.subject}"
    return found


def some_left(cases: Sequence[Any], without: Mapping[str, str], what: str) -> None:
    """Refuse where nothing is left to compare on, with what is wrong with the first."""
    if not cases:
        why = next((f"{name}: {reason}" for name, reason in without.items()), "there is none")
        raise Refused(f"no {what} of a validation or test subject can be used: {why}.")
