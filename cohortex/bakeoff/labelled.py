"""The bake-off of segmentation: labelled scans, what is wrong with labels, and the scores of a system on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.pairs import box_of, moved
from cohortex.bakeoff.score import each_answer
from cohortex.bakeoff.systems import ALONE, System
from cohortex.errors import Refused, Skip
from cohortex.items import Image
from cohortex.measures.segmentation import mean_of, overlaps, surface_distances_mm
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.training import patches
from cohortex.training.segment_data import known_of, labelled_pairs, most_common
from cohortex.volume import Volume

LOG = logging.getLogger("cohortex.bakeoff")

LARGEST = 255
"""Labels beyond this one are refused: a network has an output for every value up to the largest."""

SOFT_TISSUE = (-160.0, 240.0)
"""The window of pictures of CT in HU."""

LABEL_COLUMNS = ("subject", "image", "split", "label", "name", "dice", "iou", "recall", "precision", "hd95", "asd", "mhd")


@dataclass(frozen=True)
class Case:
    """A scan that a system is given, and its labels on the scan's grid, (X, Y, Z)."""

    image: Image
    labels: np.ndarray

    @property
    def split(self) -> str:
        """Return the split of its subject."""
        return self.image.row["split"]


def trouble(image: Image, labels: Image, names: Mapping[str, str]) -> str:
    """Return what is wrong with a scan or its labels as a sentence without an end, empty where nothing is.

    Parameters
    ----------
    image, labels : Image
    names : mapping
        Of the labels by value, where the configuration has any: other values are not expected.
    """
    values = image.volume.array(np.float32)
    if not np.isfinite(values).all():
        return "it has voxels that are NaN or infinite"
    if values.min() == values.max():
        return f"all its voxels are {values.flat[0]:g}"
    found = np.unique(labels.volume.data[...])
    odd = found[~np.isfinite(found) | (found != np.round(found)) | (found < 0)] if found.dtype.kind == "f" else found[found < 0]
    if odd.size:
        return f"its labels have the value {odd[0]:g}; give whole numbers from 0 (background) on"
    if len(found) == 1:
        return f"all voxels of its labels are {found[0]:g}: one class alone can neither be learnt nor missed"
    if found[-1] > LARGEST:
        return f"its labels go up to {found[-1]:g}; number them from 1 on, {LARGEST} at most"
    strange = [int(value) for value in found if value and names and str(int(value)) not in names]
    if strange:
        known = ", ".join(sorted(names, key=int))
        return f"its labels have the value {strange[0]}, which bakeoff.segment.labels does not name; it names {known}"
    return ""


def usable(images: Sequence[Image], asked: Mapping[str, Any], splits: Sequence[str]) -> tuple[list[tuple[Image, Image]], dict[str, str]]:
    """Return labelled scans of the modality that is compared, and why others cannot be used.

    The modality is the one that the section names, else that of which most training subjects have labels. Of validation and test subjects
    at most ``images`` of each split are looked at.

    Raises
    ------
    Refused
        When no training subject has labels.
    """
    modality = asked["modality"] or most_common(images)
    found: list[tuple[Image, Image]] = []
    without: dict[str, str] = {}
    for split in splits:
        labels = {image.id: known for image, known in labelled_pairs(images, split, modality)}
        scans = [image for image in images if image.id in labels and image.role == "image"]
        for image in scans if split == "train" else patches.chosen(scans, split, asked["images"]):
            wrong = trouble(image, labels[image.id], asked["labels"])
            if wrong:
                without[image.id] = wrong
            else:
                found.append((image, labels[image.id]))
    return found, without


def looked_at(images: Sequence[Image], asked: Mapping[str, Any]) -> list[Image]:
    """Return the images and labels of a training: of validation subjects those alone that the bake-off looks at, cut as it does.

    Raises
    ------
    Refused
        When no labelled scan of a training subject can be used: with what is wrong with the first.
    """
    pairs, without = usable(images, asked, ("train", "validation"))
    for name, why in without.items():
        LOG.warning("%s is left out: %s", name, why)
    if not any(image.row["split"] == "train" for image, _ in pairs):
        name, why = next(iter(without.items()), ("", "no training subject has labels of that modality"))
        raise Refused(f"no labels of a training subject can be used: {name + ': ' if name else ''}{why}.")
    kept: list[Image] = []
    for image, labels in pairs:
        if image.row["split"] == "train":
            kept += [image, labels]
        else:
            case = case_of(image, labels, asked["edge"])
            kept += [case.image, _as_labels(labels, case)]
    return kept


def _as_labels(labels: Image, case: Case) -> Image:
    volume = Volume(case.labels, case.image.volume.affine, labels.modality, "labels", labels.body_part)
    return replace(labels, opener=lambda: volume)


def case_of(image: Image, labels: Image, edge: int | Sequence[int] | None) -> Case:
    """Return a scan and its labels on its grid; with `edge` cut around the middle of the foreground (`systems.edges_of`)."""
    known = known_of(image, labels)
    if edge is None:
        return Case(image, known)
    array = image.volume.array(np.float32)
    box = box_of(array, edge)
    volume = image.volume.with_data(np.ascontiguousarray(array[box]), moved(image.volume.affine, box))
    return Case(replace(image, opener=lambda: volume), np.ascontiguousarray(known[box]))


def cases_of(images: Sequence[Image], asked: Mapping[str, Any]) -> tuple[list[Case], dict[str, str]]:
    """Return the scans of validation and test subjects, and why others cannot be used.

    Raises
    ------
    Refused
        When none can be used.
    """
    pairs, without = usable(images, asked, ("validation", "test"))
    if not pairs:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(without.items())[:1]) or "none has labels of that modality"
        raise Refused(f"no labelled scan of a validation or test subject can be used: {why}.")
    return [case_of(image, labels, asked["edge"]) for image, labels in pairs], without


# --- a system ----------------------------------------------------------------------------------------------------


def labeller(system: System, folder: Path, config: Mapping[str, Any], device: str, seed: int) -> Callable[[Image], np.ndarray]:
    """Load a model that segments and return a function from a scan to its labels on the scan's grid.

    Parameters
    ----------
    system : System
    folder : Path
        A model that the bake-off trained, another one of the task `segment`, or a joint one of the stage `regseg`.
    config : mapping
    device : str
    seed : int

    Raises
    ------
    Refused
        When the folder is of another task.
    """
    from cohortex.models.folder import fits, load_network, read_card

    card = read_card(folder)
    if card["task"] == "regseg":
        return _by_stage(folder, config, device, seed)
    if card["task"] != "segment" or "plan" not in card.get("extra", {}):
        raise Refused(f"the model {card['name']} of {system.name} does not segment; name one of the task segment or of regseg.")
    from cohortex.models.segment.plan import Plan
    from cohortex.training.segment import segmented

    network, extra = load_network(folder, device), card["extra"]
    how = Plan(**extra["plan"])

    def label(image: Image) -> np.ndarray:
        misfit = fits(card, image.volume)
        if misfit is not None:
            raise Skip("no-fit", misfit)
        return segmented(network, image, how, extra["across"], extra["patch"], device)

    return label


def _by_stage(folder: Path, config: Mapping[str, Any], device: str, seed: int) -> Callable[[Image], np.ndarray]:
    """Return what labels a scan as the stage `regseg` does."""
    from cohortex.stages import regseg as stage

    section = {"default": {**config["regseg"]["default"], "weights": "joint", **ALONE, "pair": [], "segment": True}}
    models = stage.load(section, {"joint": folder}, device)

    def label(image: Image) -> np.ndarray:
        made = stage.regseg([image], section, models, seed)
        found = next((each for each in made if each.tag == "seg"), None)
        if found is None or not isinstance(found.content, Volume):
            said = next((each for each in made if each.reason), None)
            raise Skip("no-fit", said.reason if said else "the model does not label it")
        return np.asarray(found.content.data[...])

    return label


# --- its scores --------------------------------------------------------------------------------------------------


def measured(
    case: Case, result: np.ndarray, labels: Sequence[int], names: Mapping[str, str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the measures of a result against the labels of its scan: means over labels, and a row of each label.

    Labels that neither has say nothing. A label that only one of the two has overlaps by 0; it has no surface to be away from, and the
    means of the distances are over the labels that both have: ``missed`` counts those of the truth that the result lacks.

    Raises
    ------
    Refused
        When the result lies on another grid.
    """
    if result.shape != case.labels.shape:
        raise Refused(f"its labels have the shape {result.shape}, the truth {case.labels.shape}")
    spacing = case.image.volume.spacing
    rows: list[dict[str, Any]] = []
    for label, values in overlaps(case.labels, result, labels).items():
        if np.isfinite(values["dice"]):
            apart = surface_distances_mm(case.labels == label, result == label, spacing)
            kept = {name: value for name, value in (values | apart).items() if np.isfinite(value)}
            about = {"subject": case.image.subject, "image": case.image.id, "split": case.split}
            rows.append({**about, "label": label, "name": names.get(str(label), f"label{label}"), **kept})
    found = {name: mean_of({row["label"]: row[name] for row in rows if name in row}) for name in LABEL_COLUMNS[5:-1]}
    truth = [row for row in rows if "recall" in row]
    return {"missed": float(sum(row["recall"] == 0 for row in truth))} | {k: v for k, v in found.items() if np.isfinite(v)}, rows


def score(
    cases: Sequence[Case], label: Callable[[Image], np.ndarray], names: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray], dict[str, str]]:
    """Return a system's rows, its rows of labels, its pictures, and the scans that it is not for.

    Returns
    -------
    rows, labels : list of dict
        Columns of the kind `segment` (`cohortex.bakeoff.kinds`) and `LABEL_COLUMNS`.
    pictures : dict
        ``image`` within 0 and 1, ``truth`` and ``result`` (labels): (rows, columns), the slice of the first test
        scan that most labels meet.
    left_out : dict
        Scan to the reason why the system does not label it.

    Raises
    ------
    Refused
        When it is for no scan at all.
    """
    rows: list[dict[str, Any]] = []
    of_labels: list[dict[str, Any]] = []
    pictures: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    known = range(1, 1 + max(int(case.labels.max()) for case in cases))
    pictured = next((case for case in cases if case.split == "test"), cases[0])
    for case, result, cpu_s in each_answer(cases, lambda case: label(case.image), lambda case: case.image.id, "scan", left_out):
        found, each = measured(case, result, known, names)
        image = case.image
        about = {"subject": image.subject, "image": image.id, "modality": image.modality, "split": case.split}
        rows.append({**about, **found, "cpu_s": cpu_s, "megavoxels": result.size / 1e6})
        of_labels += each
        if case is pictured:
            pictures = shown(image, {"truth": case.labels, "result": result}, case.labels)
        LOG.info("%s (%s): mean Dice %.4f, %.2f CPU s", image.id, case.split, found.get("dice", float("nan")), cpu_s)
    return rows, of_labels, pictures, left_out


def shown(
    image: Image, labels: Mapping[str, np.ndarray], truth: np.ndarray | None, warped: Volume | None = None, place: int | None = None
) -> dict[str, np.ndarray]:
    """Return a slice of an image within 0 and 1, of label maps and of a warped image on its grid, upright, with square pixels.

    It is the slice across the third axis that meets most of the labels of the truth, of those the one with most voxels of them; where
    there is no truth that of number `place`, else the middle one.
    """
    array = image.volume.array(np.float32)
    number = array.shape[2] // 2 if place is None else place
    if truth is not None and truth.any():
        kinds = [len(np.unique(truth[:, :, k])) for k in range(truth.shape[2])]
        filled = np.count_nonzero(truth, axis=(0, 1))
        number = int(np.lexsort((filled, kinds))[-1])
    spacing = image.volume.spacing

    def upright(volume: np.ndarray, kind: type) -> np.ndarray:
        plane = volume[:, :, number]
        ratio = spacing[1] / spacing[0]
        plane = np.repeat(plane, max(1, round(1 / ratio)), 0) if ratio < 1 else np.repeat(plane, max(1, round(ratio)), 1)
        return np.ascontiguousarray(plane.T[::-1, ::-1], dtype=kind)

    greys = {"image": upright(_unit(array, image.modality), np.float32)}
    if warped is not None:
        greys["warped"] = upright(_unit(warped.array(np.float32), warped.modality), np.float32)
    return greys | {name: upright(each, np.uint8) for name, each in labels.items()}


def _unit(array: np.ndarray, modality: str) -> np.ndarray:
    return to_unit(array, *(SOFT_TISSUE if modality == "CT" else unit_range(array, values_for(modality))))
