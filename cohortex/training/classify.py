"""Trains a classifier of subjects: regression on radiomics, 3-D network, fusion, all judged by nested cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import DEMO_SITE, Image, settings_for
from cohortex.measures.classification import MEASURES, summary
from cohortex.models.classify.classifier import Classifier, network_logits, save_classifier
from cohortex.models.classify.features import vector_names
from cohortex.models.classify.fusion import Fusion, fit_fusion, fuse
from cohortex.models.classify.logistic import Logistic, fit_logistic, grouped_folds, predict_logits
from cohortex.models.classify.regrid import network_input
from cohortex.models.classify.scans import Grain, Vectors, labels_of, plain_scans
from cohortex.models.classify.why_sanity import for_card
from cohortex.training import cards
from cohortex.training.augment import ranges_of
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.classify_network import Budget, train_network
from cohortex.training.team import team

DEFAULTS: dict[str, Any] = {
    "target": "diagnosis",
    "modalities": ["T1w", "CT"],
    "parts": ["radiomics", "cnn"],
    "texture": {"spacing_mm": 2.0, "bins": 32},
    "input": {"size": [40, 48, 40], "spacing_mm": 4.0},
    "training": {"folds": 4, "steps": 120, "batch": 8, "minutes": 20.0, "augment": None},
}
"""What is taken where the section says nothing."""
LEAST = 4
"""Training subjects that each class must have: fewer cannot be cut into folds twice."""


@dataclass(frozen=True)
class Examples:
    """What is learned from: one row a scan.

    Attributes
    ----------
    x : (n, features) float64 array
        NaN where missing.
    inputs : (n, channels, x, y, z) float32 array
    y : (n,) int64 array
    subjects : (n,) array of str
    """

    x: np.ndarray
    inputs: np.ndarray
    y: np.ndarray
    subjects: np.ndarray

    def take(self, rows: np.ndarray) -> Examples:
        """Return some of the rows."""
        return Examples(self.x[rows], self.inputs[rows], self.y[rows], self.subjects[rows])


def train_classify(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: Path) -> None:
    """Train a classifier and write its model folder.

    Parameters
    ----------
    images : sequence of Image
        Of all subjects, with the columns ``split`` (train or validation) and ``label`` in their rows; subjects without a
        label are left out. Training subjects are fitted, validation subjects only judged.
    section : mapping
        See ``schemas/stages/classify.json``.
    seed : int
    device : str
        ``cpu`` or ``cuda``.
    folder : Path
        The model folder, written in one step; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When there are not two classes with `LEAST` training subjects each.

    References
    ----------
    Varma and Simon, Bias in error estimation when using cross-validation for model selection, BMC Bioinformatics 2006.
    """
    settings = _settings(section)
    scans = _labelled(images, settings["modalities"][0])
    classes = _classes(scans, settings)
    train = _examples([scan for scan in scans if scan.row["split"] == "train"], images, classes, settings)
    held = _examples([scan for scan in scans if scan.row["split"] != "train"], images, classes, settings)
    parts = [part for part in settings["parts"] if part == "cnn" or bool((~np.isnan(train.x)).any())]
    if not parts:
        raise Refused(
            "None of the training subjects has a segmentation, and without one there are no radiomic features: "
            "put regseg before classify, or add cnn to classify.default.parts."
        )
    journal = open_journal(folder, images, section, seed)
    logs, fold_of, facts = _out_of_fold(train, parts, len(classes), settings, seed, device, journal)
    fixed = [1.0 if part == "radiomics" else None for part in parts]
    logistic, network, final = _fit(train, parts, len(classes), settings, seed, device, journal, "final")
    if "cnn" in parts:
        final["run"] = cards.how_it_ran(device, settings["training"]["batch"], final["steps"], journal)
    if not team().leads:
        return
    honest = _honest_fusion(logs, train.y, fold_of, fixed, len(classes))
    fusion = fit_fusion(logs, train.y, fixed)
    metrics = _metrics(train, logs, honest, fusion, parts, "grouped nested cross-validation on training subjects")
    if len(held.y):
        held_logs = _predict(logistic, network, held, parts, device)
        metrics += _metrics(held, held_logs, fuse(held_logs, fusion)[0], fusion, parts, "validation subjects")
    card = _card(scans, classes, settings, parts, seed, metrics, {**facts, **final}, fusion, train, held)
    if network is not None:
        card["extra"]["sanity"] = for_card(network, train.inputs, train.y, settings.get("why"), seed)
    save_classifier(folder, Classifier(card, logistic, network, fusion, device))
    journal.forget()


def _settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section's settings over `DEFAULTS`."""
    return settings_for({"default": DEFAULTS, "own": settings_for(section, "")}, "own")


def _labelled(images: Sequence[Image], modality: str) -> list[Image]:
    """Return the scans of a modality whose subject has a label."""
    return [scan for scan in plain_scans(images) if scan.modality == modality and scan.row.get("label") not in (None, "", "n/a")]


def _classes(scans: Sequence[Image], settings: Mapping[str, Any]) -> list[str]:
    """Return the sorted classes; refuse when one of them has too few training subjects."""
    members: dict[str, set[str]] = {}
    for scan in scans:
        members.setdefault(scan.row["label"], set())
        if scan.row["split"] == "train":
            members[scan.row["label"]].add(scan.subject)
    few = {name: len(subjects) for name, subjects in members.items() if len(subjects) < LEAST}
    if len(members) < 2 or few:
        found = ", ".join(f"{name} ({len(subjects)})" for name, subjects in sorted(members.items())) or "none"
        raise Refused(
            f"The column {settings['target']} must have at least two classes with {LEAST} training subjects each that have a "
            f"{settings['modalities'][0]} scan, but it has: {found}. "
            "Name another column under classify.default.target, or give more subjects."
        )
    return sorted(members)


def _examples(scans: Sequence[Image], images: Sequence[Image], classes: Sequence[str], settings: Mapping[str, Any]) -> Examples:
    """Return features and network inputs of scans; each process of the training computes some of the rows."""
    names, size = vector_names(settings["modalities"]), settings["input"]["size"]
    by_subject: dict[str, list[Image]] = {}
    for image in images:
        by_subject.setdefault(image.subject, []).append(image)
    x, inputs = np.zeros((len(scans), len(names))), np.zeros((len(scans), 5, *size), dtype=np.float32)
    for row, scan in enumerate(scans):
        if row % team().size != team().rank:
            continue
        own = by_subject[scan.subject]
        vector = Vectors(own, Grain(**settings["texture"])).of_subject(scan, settings["modalities"])
        x[row] = [vector[name] for name in names]
        labels, spacing = labels_of(scan, own), scan.volume.spacing
        inputs[row] = network_input(scan.volume.data, labels, spacing, size, settings["input"]["spacing_mm"])
        # The volumes of a whole cohort do not fit into memory; what was read is given back.
        for image in own:
            image.__dict__.pop("content", None)
    team().sum(x)
    team().sum(inputs)
    y = np.array([classes.index(scan.row["label"]) for scan in scans], dtype=np.int64)
    return Examples(x, inputs, y, np.array([scan.subject for scan in scans], dtype=object))


def _fit(
    train: Examples, parts: Sequence[str], classes: int, settings: Mapping[str, Any], seed: int, device: str, journal: Journal, called: str
) -> tuple[Logistic | None, Any, dict[str, Any]]:
    """Fit every part on all rows; return regression, network and the facts of the network's training."""
    logistic, network, facts = None, None, {}
    if "radiomics" in parts:
        logistic = fit_logistic(train.x, train.y, train.subjects, classes, seed)
    if "cnn" in parts:
        training = settings["training"]
        share = training["minutes"] / (training["folds"] + 1)
        augment = None if training.get("augment") is None else ranges_of(training["augment"])
        budget = Budget(steps=training["steps"], batch=training["batch"], minutes=share, augment=augment)
        network, facts = train_network(train.inputs, train.y, classes, seed, budget, device, journal.of(called), called)
    return logistic, network, facts


def _predict(logistic: Logistic | None, network: Any, rows: Examples, parts: Sequence[str], device: str) -> list[np.ndarray]:
    """Return the log-probabilities of each part."""
    found = []
    for part in parts:
        if part == "radiomics":
            assert logistic is not None
            found.append(predict_logits(logistic, rows.x))
        else:
            found.append(np.concatenate([network_logits(network, rows.inputs[i : i + 8], device) for i in range(0, len(rows.y), 8)]))
    return found


def _out_of_fold(
    train: Examples, parts: Sequence[str], classes: int, settings: Mapping[str, Any], seed: int, device: str, journal: Journal
) -> tuple[list[np.ndarray], np.ndarray, dict[str, Any]]:
    """Return each part's log-probabilities of subjects that it was not fitted on, and the fold of each row."""
    cuts = grouped_folds(train.y, train.subjects, settings["training"]["folds"], seed)
    logs = [np.full((len(train.y), classes), np.nan) for _ in parts]
    fold_of = np.zeros(len(train.y), dtype=np.int64)
    for number, (rest, held) in enumerate(cuts):
        logistic, network, _ = _fit(train.take(rest), parts, classes, settings, seed + 1 + number, device, journal, f"fold{number}")
        for log, predicted in zip(logs, _predict(logistic, network, train.take(held), parts, device), strict=True):
            log[held] = predicted
        fold_of[held] = number
    return logs, fold_of, {"folds": len(cuts)}


def _honest_fusion(
    logs: Sequence[np.ndarray], y: np.ndarray, fold_of: np.ndarray, fixed: Sequence[float | None], classes: int
) -> np.ndarray:
    """Return fused probabilities whose weights and temperatures were chosen on the other folds."""
    fused = np.full((len(y), classes), np.nan)
    for number in np.unique(fold_of):
        rest, held = fold_of != number, fold_of == number
        fused[held] = fuse([log[held] for log in logs], fit_fusion([log[rest] for log in logs], y[rest], fixed))[0]
    return fused


def _metrics(
    rows: Examples, logs: Sequence[np.ndarray], fused: np.ndarray, fusion: Fusion, parts: Sequence[str], on: str
) -> list[dict[str, Any]]:
    """Return the card's entries: every measure of the fusion, the AUC of each part."""
    classes, found = fused.shape[1], []
    for name, probability in (("", fused), *zip(parts, fuse(logs, fusion)[1], strict=True)):
        known = ~np.isnan(probability).any(axis=1)
        if len(np.unique(rows.y[known])) < classes or (name and len(parts) == 1):
            continue
        subjects = rows.subjects[known]
        only = ("auc",) if name else MEASURES
        for measure, (value, low, high) in summary(rows.y[known], probability[known], subjects, only=only).items():
            called = f"auc of the {name} part" if name else {"auc": "auc (macro, one versus rest)"}.get(measure, measure)
            numbers = {"value": value, "low": low, "high": high}
            plain = {key: float(number) if np.isfinite(number) else None for key, number in numbers.items()}
            found.append({"name": called, **plain, "n": len(np.unique(subjects)), "on": on})
    return found


def _card(
    scans: Sequence[Image],
    classes: Sequence[str],
    settings: Mapping[str, Any],
    parts: Sequence[str],
    seed: int,
    metrics: list[dict[str, Any]],
    facts: Mapping[str, Any],
    fusion: Fusion,
    train: Examples,
    held: Examples,
) -> dict[str, Any]:
    """Return the model's card."""
    demo = any(scan.row.get("site") == DEMO_SITE for scan in scans)
    spacings = [step for scan in scans for step in scan.volume.spacing]
    modality = settings["modalities"][0]
    bodies = sorted({scan.body_part or scan.volume.body_part for scan in scans} - {""}) or ["any"]
    for scan in scans:
        scan.__dict__.pop("content", None)
    network = {"network": "smallcnn3d", "options": {"channels": 5, "classes": len(classes)}}
    return {
        "name": f"{'demo' if demo else 'cohort'}-{settings['target']}",
        "task": "classify",
        "network": "radiomics-logistic" if "radiomics" in parts else "smallcnn3d",
        **({"parts": {"cnn": network}} if "cnn" in parts else {}),
        "modality": [modality],
        "body_part": bodies,
        "dimensions": [3],
        # Both parts look at a grid of their own, so half or twice the voxel size changes little.
        "spacing_mm": {"min": min(spacings) / 2, "max": max(spacings) * 2},
        "classes": list(classes),
        "data": "the simulated heads of the demo generator" if demo else f"the training subjects of the user's cohort, {modality}",
        "simulated": demo,
        "recipe": {
            # Nothing is said of an augmentation that was not asked for.
            "training": {key: value for key, value in settings["training"].items() if value is not None},
            **facts,
            "fusion_weights": {part: float(weight) for part, weight in zip(parts, fusion.weights, strict=True)},
        },
        "seed": seed,
        "metrics": metrics,
        "intended_use": "shows how classification works in a pipeline; simulated heads only"
        if demo
        else "research on cohorts like its own",
        "limits": (
            "knows nothing of real disease and gives no probability for a real scan"
            if demo
            else "not for diagnosis; not validated on other scanners or sites; probabilities hold for equally frequent classes"
        ),
        "subjects": {"train": sorted(set(train.subjects)), "validation": sorted(set(held.subjects))},
        "extra": {
            **({"cohort": "demo"} if demo else {}),
            "target": settings["target"],
            "parts": list(parts),
            "modalities": list(settings["modalities"]),
            "features": list(vector_names(settings["modalities"])),
            "grain": dict(settings["texture"]),
            "input": {"size": list(settings["input"]["size"]), "spacing_mm": settings["input"]["spacing_mm"]},
            # What was trained on segmented heads sees empty channels otherwise, and would call every head healthy.
            "needs_labels": bool((~np.isnan(train.x)).any()),
        },
    }
