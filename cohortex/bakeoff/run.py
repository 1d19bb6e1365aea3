"""The jobs of a bake-off: train a system, score it, search settings, write the page."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.allocator import keep_freed_memory
from cohortex.bakeoff import classified, labelled, page, recognized, registered
from cohortex.bakeoff.adjust import Material, run_search
from cohortex.bakeoff.kinds import KINDS
from cohortex.bakeoff.pairs import Pair, boxed, chosen, make_pair
from cohortex.bakeoff.restore import restorer
from cohortex.bakeoff.score import LESION_COLUMNS, score
from cohortex.bakeoff.sets import ANSWERS
from cohortex.bakeoff.systems import System, adjusted, system_from
from cohortex.bakeoff.train import told_of_model, train_system
from cohortex.blocks import Plan, planned
from cohortex.device import choose_device
from cohortex.errors import CohortexError
from cohortex.items import DEMO_SITE, Image
from cohortex.job import become_owner
from cohortex.publish import atomic_path, write_json
from cohortex.stage import images_of
from cohortex.tables import read_table, write_table
from cohortex.threads import set_threads
from cohortex.training.limit import TRY_AGAIN, Interrupted, Limit, end_of_attempt, listen
from cohortex.training.run import tell, training_images
from cohortex.training.team import Team, use_team
from cohortex.worker import seed_for

LOG = logging.getLogger("cohortex.bakeoff")


def run_bakeoff(snakemake: Any) -> None:
    """Do what a Snakemake job of a bake-off asks for (rules `bakeoff_train`, `bakeoff_score`, `bakeoff_adjust` and `bakeoff_page`)."""
    os.umask(0o027)
    keep_freed_memory()
    set_threads(snakemake.threads)
    config, work = json.loads(snakemake.params.config), Path(snakemake.params.work)
    task = snakemake.wildcards.task
    step = snakemake.rule.removeprefix("bakeoff_")
    tell(
        f"{task}: {step} {snakemake.wildcards.get('system', '')}".rstrip(), str(snakemake.log[0]) if snakemake.log else "", said="bake-off"
    )
    blocks = getattr(snakemake, "config", {}).get("blocks", {})
    plan = Plan(threads=snakemake.threads, memory_mb=int(blocks.get("memory_mb", Plan.memory_mb)), scratch=work / "training")
    team = use_team(Team(limit=Limit(end_of_attempt(float(snakemake.resources.get("runtime", 0) or 0)))))
    try:
        with planned(plan):
            {"bakeoff_train": _train, "bakeoff_score": _score, "bakeoff_adjust": _adjust, "bakeoff_page": _page}[snakemake.rule](
                snakemake, config, task, work
            )
    except Interrupted as stopped:
        LOG.warning("stopped at %s; the next attempt, or the same line again, goes on there", stopped)
        sys.exit(TRY_AGAIN)
    except CohortexError as error:
        sys.exit(f"cohortex: bake-off of {task}: {error}")
    finally:
        use_team(team)


def cohort_images(folders: Sequence[str], records: Sequence[str], work: Path, classes: Mapping[str, str] | None = None) -> list[Image]:
    """Return all images of some batches, of every split; of subjects with a class it stands as ``label`` in their rows."""
    images = []
    for folder, record in zip(map(Path, folders), map(Path, records), strict=True):
        table = {row["image"]: row for row in read_table(work / "cohort" / "batches" / f"{record.name}.tsv")}
        images += images_of(folder, record, table)
    if classes is None:
        return images
    return [replace(image, row={**image.row, "label": classes.get(image.subject, "")}) for image in images]


def looked_at(images: Sequence[Image], system: System, asked: Mapping[str, Any]) -> list[Image]:
    """Return the images of a training: of validation subjects those boxes alone that the bake-off looks at, which is what its time is for.

    A network that looks at a further contrast has that of their subjects, too, whole. Of `segment` it is labelled scans, and labels; a
    training of `classify` or `recognize` looks at all of them.
    """
    if KINDS[system.task].of_set:
        return list(images)
    if system.task == "regseg":
        return registered.with_labels_of_use(images)
    if system.task == "segment":
        return labelled.looked_at(images, asked)
    boxes = {image.id: boxed(image, asked["edge"]) for image in chosen(images, asked, ("validation",))}
    further = {str(settings["reference"]) for settings in system.section.values() if settings.get("reference")}
    beside = {image.subject for image in boxes.values()} if further else set()
    kept = [boxes.get(image.id, image) for image in images]
    return [i for i in kept if i.row["split"] == "train" or i.id in boxes or (i.subject in beside and i.modality in further)]


def compared(images: Sequence[Image], config: dict[str, Any], task: str, seed: int) -> tuple[Sequence[Any], dict[str, str]]:
    """Return what the systems of a task are compared on, of validation and test subjects, and why images are not among it."""
    if task == "segment":
        return labelled.cases_of(images, config["bakeoff"][task])
    if task == "regseg":
        return registered.cases_of(images, config["regseg"], config["bakeoff"][task])
    if KINDS[task].of_set:
        return (classified if task == "classify" else recognized).cases_of(images, config[task], config["bakeoff"][task])
    return pairs_of(images, config, task, seed)


def pairs_of(images: Sequence[Image], config: dict[str, Any], task: str, seed: int) -> tuple[list[Pair], dict[str, str]]:
    """Return the pairs of validation and test subjects, and why images have none."""
    pairs: list[Pair] = []
    without: dict[str, str] = {}
    others: dict[str, list[Image]] = {}
    for image in images:
        if (image.kind, image.role) == ("image", "image"):
            others.setdefault(image.subject, []).append(image)
    for image in chosen(images, config["bakeoff"][task]):
        # A network may look at another contrast of the subject (`superresolve.reference`).
        beside = tuple(sorted((each for each in others.get(image.subject, []) if each.id != image.id), key=lambda each: each.id))
        made = make_pair(task, replace(image, siblings=beside), config["bakeoff"][task], config[task], seed)
        if isinstance(made, str):
            without[image.id] = made
        else:
            pairs.append(made)
    return pairs, without


def score_system(
    system: System, folder: Path | None, trained: dict[str, Any], pairs: Sequence[Any], config: dict[str, Any], seed: int, device: str
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return what is written down of a system that was scored; one that fails is told of, and the others go on.

    Returns
    -------
    about : dict
        `trained`, with ``status`` ok or failed, ``reason``, and ``left_out``, the images that it is not for.
    rows, details, pictures
        See `score` of `cohortex.bakeoff.score`, `labelled`, `registered`, `classified` and `recognized`; empty where it failed.
    """
    about = {"system": system.name, "kind": system.kind, "status": "ok", "reason": "", **trained}
    if about["status"] != "ok":
        return about, [], [], {}
    asked = config["bakeoff"][system.task]
    try:
        if folder is not None and "parameters" not in about:
            about |= told_of_model(folder)
        if system.task == "segment":
            assert folder is not None, "what segments is a network"
            label = labelled.labeller(system, folder, config, device, seed)
            rows, details, pictures, left_out = labelled.score(pairs, label, asked["labels"])
        elif system.task == "regseg":
            rows, details, pictures, left_out = registered.score(pairs, system, folder, device, seed)
        elif system.task == "classify":
            about |= {"classes": list(pairs[0].frequency)}
            rows, details, pictures, left_out = classified.score(pairs, classified.teller(system, folder, pairs, device, seed))
        elif system.task == "recognize":
            about |= {"classes": list(pairs[0].classes)}
            rows, details, pictures, left_out = recognized.score(pairs, recognized.finder(system, folder, pairs, device, seed))
        else:
            for_pair = restorer(system, folder, device, int(asked.get("factor", 1)), seed)
            rows, details, pictures, left_out = score(pairs, for_pair, asked, seed)
        return about | {"left_out": left_out}, rows, details, pictures
    except Interrupted:
        raise
    except Exception as error:
        # The others of the bake-off go on, whatever this one died of: its row says so.
        LOG.exception("%s failed", system.name)
        return about | {"status": "failed", "reason": str(error) or type(error).__name__}, [], [], {}


def _train(snakemake: Any, config: dict[str, Any], task: str, work: Path) -> None:
    system = system_from(snakemake.params.system)
    listen_now()
    target = config["classify"]["default"]["target"] if task == "classify" else ""
    images = training_images(list(snakemake.input.images), list(snakemake.input.before), work, target)
    images = looked_at(images, system, config["bakeoff"][task])
    running = work / "training" / f"bakeoff-{task}-{system.name}"
    become_owner(running, f"bakeoff {task} {system.name}", LOG.warning)
    device = choose_device(snakemake.resources.get("device", "auto")) if system.kind == "network" else "cpu"
    # One seed for all systems.
    told = train_system(system, images, seed_for(config["seed"], task, "bakeoff"), device, running, snakemake.threads)
    with atomic_path(Path(snakemake.output[0])) as temporary:
        temporary.mkdir()
        write_json(temporary / "training.json", told)
        if told["status"] == "ok":
            (running / "model").rename(temporary / "model")
    shutil.rmtree(running, ignore_errors=True)


def _score(snakemake: Any, config: dict[str, Any], task: str, work: Path) -> None:
    system, given = system_from(snakemake.params.system), dict(snakemake.input.items())
    folder, trained = None, {}
    if system.trains:
        place = Path(given["model"][0] if isinstance(given["model"], list) else str(given["model"]))
        trained, folder = json.loads((place / "training.json").read_text(encoding="utf-8")), place / "model"
    elif system.weights:
        folder = Path(snakemake.params.model)
    seed = seed_for(config["seed"], task, "bakeoff")
    images = cohort_images(list(snakemake.input.images), list(snakemake.input.before), work, config.get("classes"))
    pairs, without = compared(images, config, task, seed)
    device = choose_device(snakemake.resources.get("device", "auto")) if system.kind == "network" else "cpu"
    about, rows, details, pictures = score_system(system, folder, trained, pairs, config, seed, device)
    about |= {"score_threads": snakemake.threads, "score_device": device, "without": without}
    seen = {row["subject"] for row in rows}
    about |= {"simulated": any(image.subject in seen and image.row.get("site") == DEMO_SITE for image in images)}
    with atomic_path(Path(snakemake.output[0])) as temporary:
        temporary.mkdir()
        write_json(temporary / "about.json", about)
        write_table(temporary / "measures.tsv", KINDS[task].columns, rows)
        if task in ANSWERS:
            write_table(temporary / "answers.tsv", ANSWERS[task], details)
        elif KINDS[task].labels:
            write_table(temporary / "labels.tsv", labelled.LABEL_COLUMNS, details)
        else:
            write_table(temporary / "lesions.tsv", LESION_COLUMNS, details)
        np.savez_compressed(temporary / "pictures.npz", **pictures)  # pyright: ignore[reportArgumentType]


def _adjust(snakemake: Any, config: dict[str, Any], task: str, work: Path) -> None:
    found = adjusted(config, task)
    assert found is not None, "the rule is asked for only where something is adjusted"
    system, tried = found
    listen_now()
    folders, records = list(snakemake.input.images), list(snakemake.input.before)
    seed = seed_for(config["seed"], task, "bakeoff")
    pairs, _ = pairs_of(cohort_images(folders, records, work), config, task, seed)
    running = work / "training" / f"bakeoff-{task}-adjust"
    become_owner(running, f"bakeoff {task} adjust", LOG.warning)
    training = looked_at(training_images(folders, records, work), system, config["bakeoff"][task]) if system.trains else []
    if system.kind == "network" and not system.trains:
        system = System(system.task, system.name, system.kind, _with_folder(system, snakemake.params.model))
    device = choose_device(snakemake.resources.get("device", "auto")) if system.kind == "network" else "cpu"
    material = Material(training, pairs, config["denoise"], config["bakeoff"][task], seed, device, running)
    with atomic_path(Path(snakemake.output[0])) as temporary:
        temporary.mkdir(parents=True)
        run_search(system, tried, material, temporary)
    shutil.rmtree(running, ignore_errors=True)


def _with_folder(system: System, folder: str) -> dict[str, Any]:
    """Return a network's section with the place of its model folder."""
    return {**system.section, "default": {**system.section["default"], "weights": folder}}


def _page(snakemake: Any, config: dict[str, Any], task: str, work: Path) -> None:
    given = dict(snakemake.input.items())
    adjust = given.get("adjust")
    folder = Path(str(adjust[0] if isinstance(adjust, list) else adjust)) if adjust else None
    page.write_page([Path(each) for each in snakemake.input.scores], folder, Path(snakemake.output.page).parent, config, task)


def listen_now() -> None:
    """Let the scheduler's signals end an attempt after its step."""
    from cohortex.training.team import team

    listen(team().limit)
