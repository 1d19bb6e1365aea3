"""The bake-off of recognition: images in which things are labelled, and the boxes that a system puts around what it finds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.labelled import shown
from cohortex.bakeoff.score import each_answer
from cohortex.bakeoff.sets import CORNERS, seen_before, some_left
from cohortex.bakeoff.systems import System
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.recognize.findings import Findings, joined, without_doubles
from cohortex.training.patches import chosen
from cohortex.training.recognize_data import LOOKED_AT, known_of, labelled, labels_by_image, most_labelled, of_use
from cohortex.training.recognize_settings import LABELS, classes_of
from cohortex.volume import Volume

LOG = logging.getLogger("cohortex.bakeoff")

LOWEST = 0.02
"""Score down to which boxes count: the curves need the unsure ones, too."""
PICTURED = 3
"""Images that are shown."""
QUANTILES = (0.1, 0.5, 0.9)
"""Of the sizes of what is labelled in training subjects: the diameters of the blobs."""
VOXELS = 4.0
"""Voxels of the grid on which the smallest blob is looked for, along its diameter at least."""


@dataclass(frozen=True)
class Case:
    """An image that a system is given, and the boxes of what is in it.

    Attributes
    ----------
    image : Image
    truth : Findings
        (n, 6) corners in voxels.
    classes : sequence of str
        What the labels are called.
    diameters_mm : tuple of float
        `QUANTILES` of the sizes of what is labelled in training subjects; empty where nothing is.
    usual : int
        The label that most of these have.
    """

    image: Image
    truth: Findings
    classes: Sequence[str]
    diameters_mm: tuple[float, ...]
    usual: int

    @property
    def split(self) -> str:
        """Return the split of its subject."""
        return self.image.row["split"]


def cases_of(images: Sequence[Image], section: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[list[Case], dict[str, str]]:
    """Return the labelled images of validation and test subjects, and why others cannot be used.

    Parameters
    ----------
    images : sequence of Image
        Of all splits, labels among them.
    section : mapping
        The section ``recognize``, for its labels and its modality.
    asked : mapping
        The task's section of ``bakeoff``.

    Raises
    ------
    Refused
        When none can be used.
    """
    settings = section["default"]
    classes = classes_of(settings["labels"] or LABELS)
    least = int(settings["training"]["least_voxels"])
    modality = settings["modality"] or most_labelled(images)
    learned = {split: of_use(labelled(images, split, modality), classes)[0] for split in ("train", "validation")}
    some = learned["train"][:: max(1, len(learned["train"]) // LOOKED_AT)]
    sizes, labels = _sizes([known_of(pair, classes, least) for pair in some])
    diameters = tuple(float(f"{size:.3g}") for size in np.unique(np.quantile(sizes, QUANTILES))) if len(sizes) else ()
    usual = int(np.bincount(labels).argmax()) if len(labels) else 0
    known = labels_by_image(images)
    scans = [image for image in images if image.id in known and image.role == "image" and image.modality == modality]
    compared = [scan for split in ("validation", "test") for scan in chosen(scans, split, asked["images"])]
    without = of_use([(scan, known[scan.id]) for scan in compared], classes)[1]
    without |= seen_before([image for pairs in learned.values() for image, _ in pairs], compared)
    names = [name for _, name in classes]
    cases = [
        Case(scan, known_of((scan, known[scan.id]), classes, least).truth, names, diameters, usual)
        for scan in compared
        if scan.id not in without
    ]
    some_left(cases, without, f"labelled {modality}")
    if not any(len(case.truth) for case in cases):
        raise Refused(f"the labels of validation and test subjects never hold {', '.join(names)}; correct recognize.default.labels.")
    return cases, without


def _sizes(known: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes of labelled things in mm, the geometric mean of their edges, and their labels."""
    sizes, labels = [np.zeros(0)], [np.zeros(0, np.int64)]
    for each in known:
        volume, corners = each.image.volume, each.truth.corners
        edges = (corners[:, 3:] - corners[:, :3]) * np.array(volume.spacing)
        sizes.append(np.exp(np.log(edges[:, : 2 if volume.shape[2] == 1 else 3]).mean(axis=1)))
        labels.append(each.truth.labels)
    return np.concatenate(sizes), np.concatenate(labels)


# --- a system ----------------------------------------------------------------------------------------------------


def finder(system: System, folder: Path | None, cases: Sequence[Case], device: str, seed: int) -> Callable[[Case], Findings]:
    """Load a system and return a function from an image to what it finds.

    Raises
    ------
    Refused
        When a model finds other things than the cohort has labels of, or blobs have no size.
    """
    settings, names = system.section["default"], list(cases[0].classes)
    if folder is None:
        diameters = settings["diameters_mm"] or cases[0].diameters_mm
        if not diameters:
            raise Refused(f"no training subject has labels that say how large things are; give {system.name} diameters_mm")
        return lambda case: blobs_of(case.image.volume, diameters, settings["bright"], case.usual, settings["overlap"], settings["most"])
    from cohortex.stages import recognize as stage

    models = stage.load(system.section, {system.weights: folder}, device)
    for model in models.values():
        if sorted(model.card["classes"]) != sorted(names):
            raise Refused(f"its model finds {', '.join(model.card['classes'])}, the cohort has labels of {', '.join(names)}")

    def find(case: Case) -> Findings:
        made = stage.recognize(case.image, {**settings, "score": LOWEST}, models, seed)
        table = next((each.content for each in made if each.tag == "boxes"), None)
        if not isinstance(table, Mapping):
            return Findings(np.zeros((0, 6)), np.zeros(0, np.int64), np.zeros(0))
        labels = np.array([names.index(name) for name in table["label"]], np.int64)
        return Findings(np.stack([np.asarray(table[name], float) for name in CORNERS], axis=1), labels, np.asarray(table["score"], float))

    return find


def blobs_of(
    volume: Volume, diameters_mm: Sequence[float], bright: bool | None, label: int, overlap: float = 0.3, most: int = 100
) -> Findings:
    """Return the blobs of an image (`cohortex.models.recognize.blobs`) in its voxels.

    Parameters
    ----------
    volume : Volume
        Brought to voxels as long in all directions, `VOXELS` of them for the smallest diameter, but none finer than the image's.
    diameters_mm : sequence of float
    bright : bool or None
        None: bright and dark ones.
    label : int
        That all of them are given.
    overlap, most
        See `cohortex.models.recognize.blobs.blobs`.
    """
    from cohortex.models.recognize.blobs import blobs

    flat, own = volume.shape[2] == 1, np.array(volume.spacing)
    step = float(max(own[: 2 if flat else 3].min(), min(diameters_mm) / VOXELS))
    factor = np.array([step, step, own[2] if flat else step]) / own
    array = _evenly(volume, factor)
    parts = []
    for kind in (True, False) if bright is None else (bright,):
        found = blobs(array[:, :, 0] if flat else array, [size / step for size in diameters_mm], kind, LOWEST, overlap, most)
        corners = found.corners.numpy().astype(np.float64)
        if flat:
            ends = np.zeros((len(corners), 1)), np.ones((len(corners), 1))
            corners = np.concatenate([corners[:, :2], ends[0], corners[:, 2:], ends[1]], axis=1)
        corners = np.clip(corners * np.tile(factor, 2), 0, np.tile(volume.shape, 2))
        parts.append(Findings(corners, np.full(len(corners), label, np.int64), found.scores.numpy().astype(np.float64)))
    return without_doubles(joined(parts), overlap).some(slice(most))  # pyright: ignore[reportArgumentType]


def _evenly(volume: Volume, factor: np.ndarray) -> np.ndarray:
    """Return an image on voxels `factor` times as long as its own, the outer edges of both agreeing at the near end."""
    from cohortex.filters.lookup import Means
    from cohortex.models.regseg.grid import Grid, looked

    shape = np.maximum(np.round(np.array(volume.shape) / factor).astype(int), 1)
    affine = _longer(volume.affine, factor)
    # means of whole blocks first, so that noise is averaged rather than sampled
    whole = np.minimum(np.maximum(np.floor(factor + 1e-3).astype(int), 1), volume.shape)
    if (whole > 1).any():
        volume = volume.with_data(Means(volume.data, whole.tolist()), _longer(volume.affine, whole))
    return np.asarray(looked(volume.data, volume.affine, Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine))[...], np.float32)


def _longer(affine: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the affine of voxels `factor` times as long."""
    found = affine.copy()
    found[:3, :3] = affine[:3, :3] * factor
    found[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((factor - 1) / 2)
    return found


# --- its scores --------------------------------------------------------------------------------------------------


def score(
    cases: Sequence[Case], find: Callable[[Case], Findings]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray], dict[str, str]]:
    """Return a system's rows, its answers (`cohortex.bakeoff.sets.ANSWERS`), its pictures, and the images that it is not for.

    Returns
    -------
    rows, answers : list of dict
    pictures : dict
        Of some images that hold something: ``scan_<image>`` within 0 and 1, (rows, columns), the slice through the middle of the largest
        thing; ``true_<image>`` and ``found_<image>``, (n, 5), the boxes that it cuts: rows and columns from low to high in pixels, label.
        Of the found ones the surest, as many as there are true ones in the whole image.
    left_out : dict
        Image to the reason why nothing is looked for in it.

    Raises
    ------
    Refused
        When it is for no image at all.
    """
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    full = [case for case in cases if len(case.truth)]
    tested = [case for case in full if case.split == "test"] or full
    pictured = {tested[int(k)].image.id for k in np.linspace(0, len(tested) - 1, min(PICTURED, len(tested))).round()}
    pictures: dict[str, np.ndarray] = {}
    for case, found, cpu_s in each_answer(cases, find, lambda case: case.image.id, "image", left_out):
        image = case.image
        about = {"subject": image.subject, "image": image.id, "split": case.split}
        rows.append({**about, "modality": image.modality, "cpu_s": cpu_s, "megavoxels": np.prod(image.volume.shape) / 1e6})
        for what, some in (("true", case.truth), ("found", found)):
            for corners, label, sure in zip(some.corners.tolist(), some.labels, some.scores.tolist(), strict=True):
                own = {"what": what, "label": case.classes[label], "score": sure}
                answers.append({**about, **own, **dict(zip(CORNERS, corners, strict=True))})
        if image.id in pictured:
            pictures |= pictures_of(image, case.truth, found)
        image.__dict__.pop("content", None)
    return rows, answers, pictures, left_out


def pictures_of(image: Image, truth: Findings, found: Findings) -> dict[str, np.ndarray]:
    """Return the pictures of an image, see `score`."""
    largest = truth.corners[int(np.prod(truth.corners[:, 3:] - truth.corners[:, :3], axis=1).argmax())]
    place = min(int((largest[2] + largest[5]) / 2), image.volume.shape[2] - 1)
    plane = shown(image, {}, None, place=place)["image"]
    scale = np.array(plane.shape)[::-1] / image.volume.shape[:2]
    named = {f"scan_{image.id}": plane}
    for what, some in (("true", truth), ("found", found.some(np.arange(min(len(truth), len(found)))))):
        cut = some.some((some.corners[:, 2] <= place) & (some.corners[:, 5] > place))
        # upright: both axes of the picture run against those of the grid
        columns, rows = (plane.shape[1 - axis] - cut.corners[:, [3 + axis, axis]] * scale[axis] for axis in (0, 1))
        ends = (rows[:, :1], columns[:, :1], rows[:, 1:], columns[:, 1:])
        named[f"{what}_{image.id}"] = np.concatenate([*ends, cut.labels[:, None]], axis=1)
    return named
