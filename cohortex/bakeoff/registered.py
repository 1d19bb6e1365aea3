"""The bake-off of registration: pairs of validation and test subjects, and the scores of a system on them.

A system is given the two images and their labels as the stage `regseg` gets them, so what is measured is what the stage would leave.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.labelled import shown, trouble
from cohortex.bakeoff.score import each_answer
from cohortex.bakeoff.systems import System
from cohortex.errors import Refused, Skip
from cohortex.items import Image, Made
from cohortex.measures.registration import jacobian_determinant
from cohortex.measures.segmentation import mean_of, overlaps
from cohortex.models.regseg.pair import pairs_of
from cohortex.training.segment_data import known_of
from cohortex.volume import Volume

LOG = logging.getLogger("cohortex.bakeoff")

LONG_S = 60.0
"""CPU seconds of a pair beside which the compilation of all kernels is nothing."""

OWN = ("folding_percent", "consistency_mm", "displacement_p95_mm", "labels_dice_before")
"""Measures of the stage that are taken over."""


@dataclass(frozen=True)
class Case:
    """A moving image, the fixed one that it is brought to, and the labels of both, as far as there are such.

    Attributes
    ----------
    true : mapping
        Image to its labels on its own grid, (X, Y, Z).
    """

    moving: Image
    fixed: Image
    labels: Sequence[Image]
    true: Mapping[str, np.ndarray]

    @property
    def split(self) -> str:
        """Return the split of its subject."""
        return self.moving.row["split"]


def cases_of(images: Sequence[Image], section: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[list[Case], dict[str, str]]:
    """Return the pairs of validation and test subjects, and why others cannot be used.

    Parameters
    ----------
    images : sequence of Image
        Of all splits.
    section : mapping
        The section ``regseg``, for its rules ``pair``.
    asked : mapping
        The task's section of ``bakeoff``: at most ``images`` pairs of each split, with labels of both images where there are such.

    Raises
    ------
    Refused
        When there is no pair.
    """
    subjects: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda each: each.id):
        subjects.setdefault(image.subject, []).append(image)
    rules = section["default"]["pair"]
    pairs = [(p.moving, p.fixed) for own in subjects.values() for p in pairs_of(own, rules) if p.fixed is not None and p.deform]
    # The kind of pair that the joint training takes: that of most training and validation subjects.
    counted = [p for p in pairs if p[0].row["split"] != "test"] or pairs
    if not counted:
        raise Refused("no subject has a pair of images by the rules under regseg.default.pair; give pairs, or other rules.")
    kinds = [_kind(*p) for p in counted]
    best = max(sorted(set(kinds)), key=kinds.count)
    labels = {image.id.rsplit("+", 1)[0]: image for image in images if image.role == "labels"}
    cases: list[Case] = []
    without: dict[str, str] = {}
    for split in ("validation", "test"):
        own = [p for p in pairs if _kind(*p) == best and p[0].row["split"] == split]
        both = [p for p in own if all(image.id in labels for image in p)]
        for moving, fixed in _some(both or own, asked["images"]):
            known = [image for image in (moving, fixed) if image.id in labels]
            wrong = next((("" if i is moving else f"{i.id}: ") + why for i in known if (why := trouble(i, labels[i.id], {}))), "")
            if wrong:
                without[moving.id] = wrong
            else:
                cases.append(Case(moving, fixed, [labels[i.id] for i in known], {i.id: known_of(i, labels[i.id]) for i in known}))
    if not cases:
        said = "; ".join(f"{name}: {why}" for name, why in list(without.items())[:1]) or f"none has {best[1]} and {best[0]}"
        raise Refused(f"no pair of a validation or test subject can be used: {said}.")
    return cases, without


def with_labels_of_use(images: Sequence[Image]) -> list[Image]:
    """Return the images of a joint training without those labels that `labelled.trouble` finds something wrong with; the log says what."""
    scans = {image.id: image for image in images if image.role == "image" and image.kind == "image"}
    kept = []
    for image in images:
        scan = scans.get(image.id.rsplit("+", 1)[0]) if image.role == "labels" else None
        wrong = trouble(scan, image, {}) if scan is not None else ""
        if wrong:
            LOG.warning("the labels of %s are left out: %s", image.id.rsplit("+", 1)[0], wrong)
        else:
            kept.append(image)
    return kept


def _kind(moving: Image, fixed: Image) -> tuple[str, str, str]:
    return fixed.modality, moving.modality, fixed.body_part


def _some(pairs: Sequence[tuple[Image, Image]], most: int) -> list[tuple[Image, Image]]:
    index = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).round().astype(int)) if pairs else []
    return [pairs[i] for i in index]


def score(
    cases: Sequence[Case], system: System, folder: Path | None, device: str, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray], dict[str, str]]:
    """Return a system's rows, its rows of labels, its pictures, and the pairs that it is not for.

    Parameters
    ----------
    cases : sequence of Case
    system : System
    folder : Path or None
        The model folder of a network.
    device : str
    seed : int

    Returns
    -------
    rows, labels : list of dict
        Columns of the kind `regseg` (`cohortex.bakeoff.kinds`) and `LABEL_COLUMNS`; labels are those of the moving image, carried over,
        against those of the fixed one.
    pictures : dict
        Of the first test pair: ``image`` (the fixed one) and ``warped`` within 0 and 1, ``truth`` (labels of the fixed image) and
        ``result`` (labels carried over) where there are labels.
    left_out : dict
        Moving image to the reason why the system is not for the pair.

    Raises
    ------
    Refused
        When it is for no pair at all, or the folder holds no joint model.
    """
    from cohortex.stages import regseg as stage

    weights = system.weights if folder is not None else None
    section = {**system.section, "default": {**system.section["default"], "weights": weights}}
    models = stage.load(section, {str(weights): folder}, device) if folder is not None else {}
    rows: list[dict[str, Any]] = []
    of_labels: list[dict[str, Any]] = []
    pictures: dict[str, np.ndarray] = {}
    left_out: dict[str, str] = {}
    pictured = next((case for case in cases if case.split == "test"), cases[0])
    names = system.section["default"].get("labels", {})

    def register(case: Case) -> list[Made]:
        made = stage.regseg([case.moving, case.fixed, *case.labels], section, models, seed)
        if system.kind == "network" and not str(_word(case, made).measures.get("deformed_by", "")).startswith("network"):
            kinds = f"{case.moving.modality} to {case.fixed.modality}"
            raise Skip("no-fit", f"the model has no registration of {kinds} of this body part or spacing")
        return made

    for case, made, cpu_s in each_answer(cases, register, lambda case: case.moving.id, "pair", left_out, LONG_S):
        found, each = measured(case, made, names)
        about = {"subject": case.moving.subject, "image": case.moving.id, "modality": case.moving.modality, "split": case.split}
        rows.append({**about, **found, "cpu_s": cpu_s, "megavoxels": float(np.prod(case.fixed.volume.shape)) / 1e6})
        of_labels += each
        if case is pictured:
            parts = {"truth": case.true.get(case.fixed.id), "result": _array(made, "warpedlabels")}
            kept = {name: part for name, part in parts.items() if part is not None}
            pictures = shown(case.fixed, kept, kept.get("truth"), _volume(made, "warped"))
        LOG.info(
            "%s (%s): Dice of labels carried over %.4f, %.2f CPU s", case.moving.id, case.split, found.get("labels_dice", np.nan), cpu_s
        )
    return rows, of_labels, pictures, left_out


def measured(case: Case, made: Sequence[Made], names: Mapping[str, str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the measures of what the stage made of a pair, and a row of each label that was carried over.

    Parameters
    ----------
    case : Case
    made : sequence of Made
    names : mapping
        Of labels by value.
    """
    said = dict(_word(case, made).measures)
    found = {name: float(said[name]) for name in OWN if name in said}
    found |= {"mi": float(said["mi_after"]), "folding_percent": float(said.get("folding_percent", 0.0)), "jacobian_min": 1.0}
    field = _volume(made, "field")
    if field is not None:
        found["jacobian_min"] = float(jacobian_determinant(field.array(np.float32), field.affine).min())
    if "dice_after" in said:
        found["agreement"] = float(said["dice_after"])
    for name, image in (("fixed_dice", case.fixed), ("moving_dice", case.moving)):
        seen, true = _array(made, "seg", image.id), case.true.get(image.id)
        if seen is not None and true is not None:
            found[name] = mean_of({label: each["dice"] for label, each in overlaps(true, seen, _labels(true, seen)).items()})
    carried, true = _array(made, "warpedlabels"), case.true.get(case.fixed.id)
    rows: list[dict[str, Any]] = []
    if carried is not None and true is not None:
        about = {"subject": case.moving.subject, "image": case.moving.id, "split": case.split}
        of_each = {label: each for label, each in overlaps(true, carried, _labels(true, carried)).items() if np.isfinite(each["dice"])}
        rows = [
            {**about, "label": label, "name": names.get(str(label), f"label{label}"), **_finite(each)} for label, each in of_each.items()
        ]
        found["labels_dice"] = mean_of({label: each["dice"] for label, each in of_each.items()})
    return _finite(found), rows


def _word(case: Case, made: Sequence[Made]) -> Made:
    """Return what the stage says of the moving image itself."""
    return next(each for each in made if each.of == case.moving.id and not each.tag and each.content is None)


def _labels(*maps: np.ndarray) -> range:
    return range(1, 1 + max(int(each.max()) for each in maps))


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _volume(made: Sequence[Made], tag: str, of: str = "") -> Volume | None:
    found = next((each.content for each in made if each.tag == tag and of in ("", each.of)), None)
    return found if isinstance(found, Volume) else None


def _array(made: Sequence[Made], tag: str, of: str = "") -> np.ndarray | None:
    volume = _volume(made, tag, of)
    return None if volume is None else np.asarray(volume.data[...])
