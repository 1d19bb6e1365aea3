"""Trains a classifier of subjects: an estimator on radiomics, networks, fusion, all judged by nested cross-validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import DEMO_SITE, Image, settings_for
from cohortex.measures.classification import MEASURES, summary
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify.classifier import Classifier, network_logits, part_names, save_classifier
from cohortex.models.classify.committee import one_view
from cohortex.models.classify.estimators import Estimator, fit_estimator, predict_logits
from cohortex.models.classify.features import TEXTURE_FAMILIES
from cohortex.models.classify.fusion import Fusion, fit_fusion, fuse, shift_of
from cohortex.models.classify.inputs import Input, input_for
from cohortex.models.classify.logistic import Logistic
from cohortex.models.classify.scans import Grain, plain_scans
from cohortex.models.classify.why_sanity import for_card
from cohortex.training import cards
from cohortex.training.beside import beside_of
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.classify_evaluation import check_settings, evaluation_of, told_copies
from cohortex.training.classify_examples import Examples, examples_of, with_likenesses, without_copies
from cohortex.training.classify_members import Plan, fit_members, plan_of
from cohortex.training.team import team

LOG = logging.getLogger("cohortex.training")

DEFAULTS: dict[str, Any] = {
    "target": "diagnosis",
    "modalities": ["T1w", "CT"],
    "parts": ["radiomics", "cnn"],
    "estimator": "logistic",
    "texture": {"spacing_mm": 2.0, "bins": 32, "families": list(TEXTURE_FAMILIES), "pictures": False},
    "network": {"name": "smallcnn3d", "options": {}},
    "input": {"size": [40, 48, 40], "spacing_mm": 4.0, "labels": "auto", "values": "auto"},
    "sets": 0.9,
    "rule_out": {"class": None, "sensitivity": 0.95, "sure": 0.9},
    "audit": "auto",
    "training": {
        "folds": 4,
        "steps": 120,
        "batch": 8,
        "minutes": 20.0,
        "augment": None,
        "balance": "weights",
        "optimiser": "adamw",
        "rate": 2e-3,
        "average": 0.0,
        "members": 1,
        "mirror": False,
        "own_scale": False,
        "start": None,
        "frozen": False,
        "tasks": [],
        "lesions": None,
        "curriculum": False,
        "decompose": 1,
        "expected": None,
    },
}
"""What is taken where the section says nothing."""
LEAST = 4
"""Training subjects that each class must have: fewer cannot be cut into folds twice."""


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
        When there are not two classes with `LEAST` training subjects each, a class has fewer than there are folds, the network does not
        fit the scans, or a class to rule out is none of the classes.

    References
    ----------
    Varma and Simon, Bias in error estimation when using cross-validation for model selection, BMC Bioinformatics 2006.
    """
    settings = _settings(section)
    scans = _labelled(images, settings["modalities"][0])
    classes, limits = _classes(scans, settings), settings["training"]
    check_settings(settings, classes)
    asked = input_for(settings, scans, images)
    plan = plan_of(settings, asked, len(classes)) if "cnn" in settings["parts"] else None
    expected = expected_shares(limits["expected"], classes, limits["balance"] if plan else "none")
    learned = [scan for scan in scans if scan.row["split"] == "train"]
    train = examples_of(learned, images, classes, settings, asked)
    if plan is not None:
        train = replace(train, beside=beside_of(learned, images, limits, asked))
    held = examples_of([scan for scan in scans if scan.row["split"] != "train"], images, classes, settings, asked)
    train, held, found = with_likenesses(train, held)
    kept, copies = without_copies(train, held, found)
    told_copies(copies, found)
    train = train.take(np.flatnonzero(kept))
    _check_folds(train, classes, settings)
    asked = asked.of_cohort(train.inputs)
    train, held = (replace(rows, inputs=asked.standard(rows.inputs)) for rows in (train, held))
    parts = [part for part in settings["parts"] if part == "cnn" or bool((~np.isnan(train.x)).any())]
    if not parts:
        raise Refused(
            "None of the training subjects has a segmentation, and without one there are no radiomic features: "
            "put regseg before classify, add cnn to classify.default.parts, or, for pictures, set classify.default.texture.pictures."
        )
    journal = open_journal(folder, images, section, seed)
    logs, fold_of, facts = _out_of_fold(train, parts, settings, plan, len(classes), seed, device, journal)
    fixed = [1.0 if part == "radiomics" else None for part in parts]
    logistic, members, final = _fit(train, parts, settings, plan, len(classes), seed, device, journal, "final")
    network = plan.one(members) if plan and members else None
    if network is not None:
        final["run"] = cards.how_it_ran(device, limits["batch"], final["steps"], journal)
    if not team().leads:
        return
    shift = None if expected is None else shift_of(expected, train.y)
    honest = _honest_fusion(logs, train.y, fold_of, fixed, len(classes), shift)
    fusion = replace(fit_fusion(logs, train.y, fixed), shift=shift)
    words = "" if expected is None else ", as they are told for the expected shares"
    metrics = _metrics(train, logs, honest, fusion, parts, f"grouped nested cross-validation on training subjects{words}")
    judged = None
    if len(held.y):
        held_logs = _predict(logistic, network, held, parts, device)
        judged = fuse(held_logs, fusion)[0]
        metrics += _metrics(held, held_logs, judged, fusion, parts, "validation subjects")
    facts = {**facts, **final, **({"copies": copies} if copies else {})}
    card = _card(scans, classes, settings, asked, plan, parts, seed, metrics, facts, fusion, train, held)
    card["extra"]["evaluation"] = evaluation_of(train, honest, fold_of, scans, classes, settings, seed, held, judged)
    if network is not None:
        card["extra"]["sanity"] = for_card(one_view(network), train.inputs, train.y, settings.get("why"), seed)
    save_classifier(folder, Classifier(card, logistic, network, fusion, device), members)
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


def _check_folds(train: Examples, classes: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Refuse when a class has fewer subjects, counting those with one image in common once, than there are folds."""
    groups = train.groups
    folds = settings["training"]["folds"]
    for number, name in enumerate(classes):
        there = len(set(groups[train.y == number]))
        if there < max(folds, 2):
            raise Refused(
                f"The class {name} of the column {settings['target']} has {there} training subjects with images of their own, fewer than "
                f"the {folds} folds: lower classify.default.training.folds, or give more subjects."
            )


def expected_shares(asked: Mapping[str, float] | None, classes: Sequence[str], balance: str) -> list[float] | None:
    """Return the expected share of each class, None where nothing is expected.

    Raises
    ------
    Refused
        When they are not the shares of just these classes, or the network learns as if classes were equally frequent.
    """
    if asked is None:
        return None
    if balance != "none":
        raise Refused(
            f"classify.default.training.expected needs probabilities for the shares among the training subjects, but balance is {balance}: "
            "set it to none."
        )
    if set(asked) != set(classes) or min(asked.values()) <= 0 or abs(sum(asked.values()) - 1) > 0.01:
        raise Refused(
            f"classify.default.training.expected has {dict(asked)}: give each of the classes {', '.join(classes)} the share that it has "
            "where the classifier will be used, above 0 and 1 in all, or null for the shares among the training subjects."
        )
    return [float(asked[name]) for name in classes]


def _fit(
    train: Examples,
    parts: Sequence[str],
    settings: Mapping[str, Any],
    plan: Plan | None,
    classes: int,
    seed: int,
    device: str,
    journal: Journal,
    called: str,
) -> tuple[Logistic | Estimator | None, list[Any], dict[str, Any]]:
    """Fit every part on all rows; return estimator, networks and the facts of their training."""
    logistic, members, facts = None, [], {}
    if "radiomics" in parts:
        logistic = fit_estimator(settings["estimator"], train.x, train.y, train.groups, classes, seed)
    if plan is not None:
        members, facts = fit_members(train, plan, seed, device, journal, called)
    return logistic, members, facts


def _predict(logistic: Logistic | Estimator | None, network: Any, rows: Examples, parts: Sequence[str], device: str) -> list[np.ndarray]:
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
    train: Examples,
    parts: Sequence[str],
    settings: Mapping[str, Any],
    plan: Plan | None,
    classes: int,
    seed: int,
    device: str,
    journal: Journal,
) -> tuple[list[np.ndarray], np.ndarray, dict[str, Any]]:
    """Return each part's log-probabilities of subjects that it was not fitted on, and the fold of each row."""
    cuts = grouped_folds(train.y, train.groups, settings["training"]["folds"], seed)
    logs = [np.full((len(train.y), classes), np.nan) for _ in parts]
    fold_of = np.zeros(len(train.y), dtype=np.int64)
    for number, (rest, held) in enumerate(cuts):
        logistic, members, _ = _fit(train.take(rest), parts, settings, plan, classes, seed + 1 + number, device, journal, f"fold{number}")
        network = plan.one(members) if plan and members else None
        for log, predicted in zip(logs, _predict(logistic, network, train.take(held), parts, device), strict=True):
            log[held] = predicted
        fold_of[held] = number
    return logs, fold_of, {"folds": len(cuts)}


def _honest_fusion(
    logs: Sequence[np.ndarray],
    y: np.ndarray,
    fold_of: np.ndarray,
    fixed: Sequence[float | None],
    classes: int,
    shift: np.ndarray | None = None,
) -> np.ndarray:
    """Return fused probabilities whose weights and temperatures were chosen on the other folds."""
    fused = np.full((len(y), classes), np.nan)
    for number in np.unique(fold_of):
        rest, held = fold_of != number, fold_of == number
        chosen = replace(fit_fusion([log[rest] for log in logs], y[rest], fixed), shift=shift)
        fused[held] = fuse([log[held] for log in logs], chosen)[0]
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
        subjects = rows.groups[known]
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
    asked: Input,
    plan: Plan | None,
    parts: Sequence[str],
    seed: int,
    metrics: list[dict[str, Any]],
    facts: Mapping[str, Any],
    fusion: Fusion,
    train: Examples,
    held: Examples,
) -> dict[str, Any]:
    """Return the model's card."""
    dimensions = {2 if scan.volume.shape[2] == 1 else 3 for scan in scans}
    demo = any(scan.row.get("site") == DEMO_SITE for scan in scans)
    spacings = [step for scan in scans for step in scan.volume.spacing]
    modality = settings["modalities"][0]
    bodies = sorted({scan.body_part or scan.volume.body_part for scan in scans} - {""}) or ["any"]
    for scan in scans:
        scan.__dict__.pop("content", None)
    training = settings["training"]
    # what is as it always was goes without saying
    usual = {"mirrored": False, "subclasses": 1, "own_scale": False}
    together = {key: value for key, value in plan.committee.items() if value != usual[key]} if plan else {}
    written = plan.written if plan else {}
    # Nothing is asked of the size of the voxels of a scan that is scaled to the network's.
    any_size = "radiomics" not in parts and asked.spacing_mm is None
    return {
        "name": f"{'demo' if demo else 'cohort'}-{settings['target']}",
        "task": "classify",
        "network": f"radiomics-{settings['estimator']}" if "radiomics" in parts else written["network"],
        **({"parts": dict.fromkeys(part_names(training["members"]), written)} if "cnn" in parts else {}),
        "modality": [modality],
        "body_part": bodies,
        "dimensions": sorted(dimensions),
        # Both parts look at a grid of their own, so half or twice the voxel size changes little.
        "spacing_mm": {"min": 0.0, "max": 1e6} if any_size else {"min": min(spacings) / 2, "max": max(spacings) * 2},
        "classes": list(classes),
        "data": "the simulated heads of the demo generator" if demo else f"the training subjects of the user's cohort, {modality}",
        "simulated": demo,
        "recipe": {
            # Nothing is said of an augmentation that was not asked for.
            "training": {key: value for key, value in training.items() if value not in (None, False, [])},
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
            else "not for diagnosis; not validated on other scanners or sites; probabilities hold for "
            + ("the frequencies of this cohort" if training["balance"] == "none" else "equally frequent classes")
        ),
        "subjects": {"train": sorted(set(train.subjects)), "validation": sorted(set(held.subjects))},
        "extra": {
            **({"cohort": "demo"} if demo else {}),
            "target": settings["target"],
            "parts": list(parts),
            "modalities": list(settings["modalities"]),
            "features": list(Grain(**settings["texture"]).vector_names(settings["modalities"])),
            "grain": dict(settings["texture"]),
            "input": asked.told(),
            **({"committee": together} if together else {}),
            # What was trained on segmented heads sees empty channels otherwise, and would call every head healthy.
            "needs_labels": (bool((~np.isnan(train.x)).any()) and not settings["texture"]["pictures"])
            or ("cnn" in parts and asked.labels and bool(train.inputs[:, 1:].any())),
        },
    }
