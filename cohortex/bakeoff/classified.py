"""The bake-off of classification: scans whose class is known, and what a system says of each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.labelled import shown
from cohortex.bakeoff.score import each_answer
from cohortex.bakeoff.sets import seen_before, some_left
from cohortex.bakeoff.systems import System
from cohortex.errors import Refused, Skip
from cohortex.items import Image
from cohortex.models.classify.scans import plain_scans
from cohortex.training.patches import chosen

LOG = logging.getLogger("cohortex.bakeoff")

PICTURED = 6
"""Scans that are shown, of each class in turn."""


@dataclass(frozen=True)
class Case:
    """A scan that a system is given, and its class.

    Attributes
    ----------
    image : Image
    beside : sequence of Image
        Everything else of its subject but the other scans of the modality, and what was derived of those.
    truth : str
    frequency : mapping
        Of every class, in the order of the probabilities: its share of the training scans.
    """

    image: Image
    beside: Sequence[Image]
    truth: str
    frequency: Mapping[str, float]

    @property
    def split(self) -> str:
        """Return the split of its subject."""
        return self.image.row["split"]


def cases_of(images: Sequence[Image], section: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[list[Case], dict[str, str]]:
    """Return the scans of validation and test subjects whose class is known, and why others cannot be used.

    Parameters
    ----------
    images : sequence of Image
        Of all splits, with the column ``label`` in their rows.
    section : mapping
        The section ``classify``, for its first modality and its column.
    asked : mapping
        The task's section of ``bakeoff``.

    Raises
    ------
    Refused
        When no training subject has a class, or none of the others a scan that can be used.
    """
    settings = section["default"]
    modality, target = settings["modalities"][0], settings["target"]
    scans = [scan for scan in plain_scans(images) if scan.modality == modality]
    train = [scan for scan in scans if scan.row["split"] == "train" and _class(scan)]
    known = train or [scan for scan in scans if _class(scan)]
    counts = Counter(_class(scan) for scan in known)
    if not counts:
        raise Refused(f"no subject with a {modality} has a class in the column {target}; name another one under classify.default.target.")
    frequency = {name: counts[name] / len(known) for name in sorted(counts)}
    compared = [scan for split in ("validation", "test") for scan in chosen(scans, split, asked["images"])]
    learned = [scan for scan in scans if scan.row["split"] in ("train", "validation") and _class(scan)]
    without = seen_before(learned, compared)
    cases = []
    for scan in compared:
        if not _class(scan):
            without[scan.id] = f"its subject has no class in the column {target}"
        elif _class(scan) not in frequency:
            without[scan.id] = f"no training subject has its class {_class(scan)}"
        elif scan.id not in without:
            others = {other.id for other in scans if other.id != scan.id}
            beside = [i for i in images if i.subject == scan.subject and i.id != scan.id and i.id.split("+")[0] not in others]
            cases.append(Case(scan, beside, _class(scan), frequency))
    some_left(cases, without, "scan")
    return cases, without


def _class(scan: Image) -> str:
    name = scan.row.get("label") or ""
    return "" if name == "n/a" else name


def teller(system: System, folder: Path | None, cases: Sequence[Case], device: str, seed: int) -> Callable[[Case], np.ndarray]:
    """Load a system and return a function from a scan to the probabilities of the classes.

    Raises
    ------
    Refused
        When a model knows other classes.
    """
    names = list(cases[0].frequency)
    if folder is None:
        return lambda case: np.array(list(case.frequency.values()))
    from cohortex.stages import classify as stage

    models = stage.load(system.section, {system.weights: folder}, device)
    for model in models.values():
        if sorted(model.classes) != names:
            raise Refused(f"its model tells {', '.join(model.classes)} apart, the cohort has {', '.join(names)}")

    def tell(case: Case) -> np.ndarray:
        made = [each for each in stage.classify([case.image, *case.beside], system.section, models, seed) if each.of == case.image.id]
        table = next((each.content for each in made if each.tag == "class"), None)
        if not isinstance(table, Mapping):
            said = next((each for each in made if each.reason), None)
            raise Skip(said.code if said else "skipped", said.reason if said else "the stage does not classify it")
        told = dict(zip(table["class"], table["probability"], strict=True))
        return np.array([told[name] for name in names])

    return tell


def score(
    cases: Sequence[Case], tell: Callable[[Case], np.ndarray]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray], dict[str, str]]:
    """Return a system's rows, its answers (`cohortex.bakeoff.sets.ANSWERS`), its pictures, and the scans that it is not for.

    Returns
    -------
    rows, answers : list of dict
    pictures : dict
        ``scan_<image>`` within 0 and 1, (rows, columns): a slice of some scans.
    left_out : dict
        Scan to the reason why the system does not classify it.

    Raises
    ------
    Refused
        When it is for no scan at all.
    """
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    pictured = {case.image.id for case in in_turn([case for case in cases if case.split == "test"] or cases)}
    pictures: dict[str, np.ndarray] = {}
    for case, probability, cpu_s in each_answer(cases, tell, lambda case: case.image.id, "scan", left_out):
        image = case.image
        about = {"subject": image.subject, "image": image.id, "split": case.split}
        rows.append({**about, "modality": image.modality, "cpu_s": cpu_s, "megavoxels": np.prod(image.volume.shape) / 1e6})
        answers += [
            {**about, "truth": case.truth, "class": name, "probability": float(value)}
            for name, value in zip(case.frequency, probability, strict=True)
        ]
        if image.id in pictured:
            pictures[f"scan_{image.id}"] = shown(image, {}, None)["image"]
        for each in (image, *case.beside):
            each.__dict__.pop("content", None)
    return rows, answers, pictures, left_out


def in_turn(cases: Sequence[Case]) -> list[Case]:
    """Return some cases, one of each class after the other, in the order in which they come."""
    by_class = [[case for case in cases if case.truth == name] for name in cases[0].frequency] if cases else []
    deep = max((len(own) for own in by_class), default=0)
    return [own[k] for k in range(deep) for own in by_class if k < len(own)][:PICTURED]
