"""The loop that tries settings of one system, measures them on validation subjects, and keeps the best.

For noise reduction it is "denoise, measure, adjust"; for super-resolution "train, evaluate, refine", with everything that the steps made
left in one folder: low-resolution set, pairs, the set without noise, model, high-resolution results, evaluation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.pairs import Pair
from cohortex.bakeoff.restore import restorer
from cohortex.bakeoff.score import MEASURES, measured
from cohortex.bakeoff.systems import System, changed
from cohortex.errors import CohortexError
from cohortex.io.nifti import write_nifti
from cohortex.items import Image, settings_for
from cohortex.publish import write_json
from cohortex.tables import write_table
from cohortex.training.limit import Interrupted

LOG = logging.getLogger("cohortex.bakeoff")

LEAST_GAIN = 1e-3
"""Gain below which a setting counts as no better than the best before it, relative to the measure."""


@dataclass(frozen=True)
class Attempt:
    """One setting that was tried: its mean on validation subjects, NaN with a reason where it failed."""

    number: int
    settings: Mapping[str, Any]
    value: float
    best_so_far: float
    reason: str = ""


@dataclass(frozen=True)
class Search:
    """What came of a search.

    Attributes
    ----------
    attempts : tuple of Attempt
    best : int
        Index of the best attempt; -1 when all failed.
    target_met : bool
        Otherwise the best is the best so far only.
    stopped : str
        ``target`` | ``no gain`` | ``all tried``.
    """

    attempts: tuple[Attempt, ...]
    best: int
    target_met: bool
    stopped: str


def search(
    tried: Iterable[Mapping[str, Any]],
    evaluate: Callable[[Mapping[str, Any]], float],
    larger_is_better: bool = True,
    target: float | None = None,
    patience: int = 2,
) -> Search:
    """Try settings in their order until the target is met, or some in a row brought no gain.

    Parameters
    ----------
    tried : iterable of mappings
    evaluate : callable
        The measure of a setting on validation subjects. An error, or a value that is not finite, means that it failed.
    larger_is_better : bool
    target : float, optional
    patience : int
        Settings in a row without gain (`LEAST_GAIN`) after which the loop stops; failed ones count.
    """
    attempts: list[Attempt] = []
    best, without = -1, 0
    for number, settings in enumerate(tried):
        reason = ""
        try:
            value = float(evaluate(settings))
            reason = "" if np.isfinite(value) else "its measure is not finite"
        except Interrupted:
            raise
        except (CohortexError, ValueError, RuntimeError) as error:
            value, reason = float("nan"), str(error)
        before = attempts[best].value if best >= 0 else None
        better = not reason and (before is None or (value > before if larger_is_better else value < before))
        gained = better and (before is None or abs(value - before) > LEAST_GAIN * abs(before))
        best = number if better else best
        without = 0 if gained else without + 1
        attempts.append(Attempt(number, dict(settings), float("nan") if reason else value, float("nan"), reason))
        attempts[-1] = replace(attempts[-1], best_so_far=attempts[best].value if best >= 0 else float("nan"))
        LOG.info("setting %d %s: %s", number + 1, json.dumps(dict(settings)), reason or f"{value:.6g}")
        if better and target is not None and (value >= target if larger_is_better else value <= target):
            return Search(tuple(attempts), best, True, "target")
        if without >= patience:
            return Search(tuple(attempts), best, False, "no gain")
    return Search(tuple(attempts), best, False, "all tried")


@dataclass(frozen=True)
class Material:
    """What the loop works with.

    Attributes
    ----------
    training : sequence of Image
        Of training and validation subjects, for systems that are trained.
    pairs : sequence of Pair
        Of validation and test subjects.
    denoise : mapping
        The section of the stage `denoise`, for the low-resolution set.
    """

    training: Sequence[Image]
    pairs: Sequence[Pair]
    denoise: Mapping[str, Any]
    asked: Mapping[str, Any]
    seed: int
    device: str
    running: Path


def run_search(system: System, tried: Sequence[Mapping[str, Any]], material: Material, folder: Path) -> Search:
    """Search the settings of a system and leave what the steps made in a folder.

    ``noisy`` or ``low_resolution`` (what the system is given), ``pairs.tsv``, ``denoised`` (of super-resolution: the low-resolution set
    without its noise), ``model`` (the best network, or ``settings.json`` of a method without weights), ``high_resolution`` (or
    ``denoised``: the results of the best setting), ``history.tsv`` (all attempts) and ``evaluation.json`` (the choice on validation
    subjects, and what it does on test subjects).

    Parameters
    ----------
    system : System
    tried : sequence of mappings
        See `cohortex.bakeoff.systems.adjusted`.
    material : Material
    folder : Path
        Is there, and empty.
    """
    adjust, task = material.asked["adjust"], system.task
    factor = int(material.asked.get("factor", 1))
    heading, larger = MEASURES[adjust["measure"]].heading, MEASURES[adjust["measure"]].more
    validation = [pair for pair in material.pairs if pair.split == "validation"]
    if not validation:
        raise CohortexError(f"bakeoff.{task}.adjust needs images of validation subjects, the cohort has none that make a pair")
    thick = task == "superresolve"
    _leave_images(folder / ("low_resolution" if thick else "noisy"), {p.image.id: p.image.volume for p in material.pairs})
    _leave_pairs(folder, material.pairs, factor, thick)
    pairs, kept = (_without_noise(material, folder, adjust["measure"], larger)) if thick else (list(material.pairs), "as measured")

    def values(setting: Mapping[str, Any], some: Sequence[Pair]) -> list[float]:
        one = changed(system, setting)
        for_pair = restorer(one, _trained(one, material) if one.kind == "network" else None, material.device, factor, material.seed)
        return [measured(pair, for_pair(pair)(pair.image.volume.array(np.float32)))[adjust["measure"]] for pair in some]

    chosen_on = [pair for pair in pairs if pair.split == "validation"]
    found = search(
        tried, lambda setting: by_subject(chosen_on, values(setting, chosen_on)), larger, adjust.get("target"), adjust.get("patience", 2)
    )
    test: dict[str, Any] = {}
    if found.best >= 0:
        setting = found.attempts[found.best].settings
        best = changed(system, setting)
        model = _trained(best, material) if best.kind == "network" else None
        if model is None:
            write_json(folder / "model" / "settings.json", {"system": best.name, "kind": best.kind, "settings": best.section})
        else:
            shutil.copytree(model, folder / "model")
        for_pair = restorer(best, model, material.device, factor, material.seed)
        results = {pair.image.id: for_pair(pair)(pair.image.volume.array(np.float32)) for pair in pairs}
        grids = {pair.image.id: _fine(pair, factor) for pair in pairs}
        _leave_images(
            folder / ("high_resolution" if thick else "denoised"), {name: grids[name].with_data(array) for name, array in results.items()}
        )
        others = [pair for pair in pairs if pair.split == "test"]
        if others:
            scores = [measured(pair, results[pair.image.id])[adjust["measure"]] for pair in others]
            test = {"value": by_subject(others, scores), "subjects": len({pair.image.subject for pair in others})}
    columns = ("number", "settings", "value", "best_so_far", "reason")
    write_table(folder / "history.tsv", columns, [{**asdict(a), "settings": json.dumps(a.settings)} for a in found.attempts])
    write_json(
        folder / "evaluation.json",
        {
            "system": system.name,
            "measure": adjust["measure"],
            "heading": heading,
            "larger_is_better": larger,
            "target": adjust.get("target"),
            "target_met": found.target_met,
            "best_so_far_only": not found.target_met,
            "stopped": found.stopped,
            "best": asdict(found.attempts[found.best]) if found.best >= 0 else None,
            "chosen_on": {"split": "validation", "subjects": len({pair.image.subject for pair in chosen_on})},
            "test": test,
            "input": kept,
            "seed": material.seed,
            "history": [{key: None if value != value else value for key, value in asdict(a).items()} for a in found.attempts],
        },
    )
    return found


def by_subject(pairs: Sequence[Pair], values: Sequence[float]) -> float:
    """Return the mean over subjects of the means over their images."""
    groups: dict[str, list[float]] = {}
    for pair, value in zip(pairs, values, strict=True):
        groups.setdefault(pair.image.subject, []).append(value)
    return float(np.mean([np.mean(group) for group in groups.values()]))


def _trained(system: System, material: Material) -> Path:
    """Return the model folder of a network, trained where it is not there from an attempt before."""
    from cohortex.bakeoff.train import trained_model

    if not system.trains:
        return Path(system.weights)
    content = sorted((image.id, image.row.get("sha256", ""), image.row.get("split", "")) for image in material.training)
    name = hashlib.sha256(json.dumps([system.told(), material.seed, content]).encode()).hexdigest()[:16]
    return trained_model(system, material.training, material.seed, material.device, material.running / name)


def _without_noise(material: Material, folder: Path, measure: str, larger: bool) -> tuple[list[Pair], str]:
    """Clean the low-resolution set and return the pairs that go on with it, or as measured where that is better for validation subjects."""
    from cohortex.stages.denoise import denoise

    cleaned = []
    for pair in material.pairs:
        settings = {**settings_for(material.denoise, pair.image.modality), "method": "transform"}
        volume = denoise(pair.image, settings, None, material.seed).content
        cleaned.append(replace(pair, image=replace(pair.image, opener=lambda volume=volume: volume)))
    _leave_images(folder / "denoised", {pair.image.id: pair.image.volume for pair in cleaned})
    spline = restorer(
        System("superresolve", "spline", "method", {"default": {"method": "spline"}}), None, "cpu", int(material.asked["factor"])
    )

    def value(pairs: Sequence[Pair]) -> float:
        some = [pair for pair in pairs if pair.split == "validation"]
        return by_subject(some, [measured(pair, spline(pair)(pair.image.volume.array(np.float32)))[measure] for pair in some])

    before, after = value(material.pairs), value(cleaned)
    better = after > before if larger else after < before
    return (cleaned, "denoised") if better else (list(material.pairs), "as measured")


def _fine(pair: Pair, factor: int) -> Any:
    """Return a volume on the grid of a pair's truth."""
    volume = pair.image.volume
    if pair.axis < 0:
        return volume
    from cohortex.models.superresolve.throughplane import fine_affine

    slices = pair.image.volume.shape[pair.axis]
    return volume.with_data(pair.truth, fine_affine(volume.affine, slices, slices * factor, pair.axis))


def _leave_images(folder: Path, volumes: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in sorted(volumes.items()):
        write_nifti(folder / f"{name}.nii.gz", volume.with_data(volume.array(np.float32)))


def _leave_pairs(folder: Path, pairs: Sequence[Pair], factor: int, thick: bool) -> None:
    columns = ("image", "subject", "split", "input", "truth", "axis", "factor", "noise")
    rows = []
    (folder / "truth").mkdir()
    for pair in pairs:
        name = f"{pair.image.id}.nii.gz"
        write_nifti(folder / "truth" / name, _fine(pair, factor).with_data(pair.truth))
        rows.append(
            {
                "image": pair.image.id,
                "subject": pair.image.subject,
                "split": pair.split,
                "input": f"{'low_resolution' if thick else 'noisy'}/{name}",
                "truth": f"truth/{name}",
                "axis": "xyz"[pair.axis] if thick else "",
                "factor": factor if thick else "",
                "noise": "" if thick else pair.noise,
            }
        )
    write_table(folder / "pairs.tsv", columns, rows)
