"""Run the training of one stage's model on a cohort: pick the subjects, call the task's function, publish the folder."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cohortex.allocator import keep_freed_memory
from cohortex.device import choose_device
from cohortex.errors import CohortexError, Refused
from cohortex.items import Image
from cohortex.publish import atomic_path
from cohortex.stage import images_of
from cohortex.tables import read_table
from cohortex.threads import set_threads
from cohortex.worker import seed_for

TRAINED_ON = ("train", "validation")
"""Splits that a training may see; test subjects never arrive."""


def training_images(folders: list[str], records: list[str], work: Path, target: str = "") -> list[Image]:
    """Return the images of the training and validation subjects of some batches.

    Parameters
    ----------
    folders, records : list of str
        What the stage before the task left, a folder and a record for each batch.
    work : Path
    target : str
        Column of the participants' table whose value becomes ``row["label"]``.
    """
    participants = work / "cohort" / "participants.tsv"
    labels = {row["subject"]: row.get(target, "") for row in read_table(participants)} if target and participants.is_file() else {}
    images = []
    for folder, record in zip(map(Path, folders), map(Path, records), strict=True):
        table = {row["image"]: row for row in read_table(work / "cohort" / "batches" / f"{record.name}.tsv")}
        images += [
            replace(image, row={**image.row, "label": labels.get(image.subject, "")})
            for image in images_of(folder, record, table)
            if image.row.get("split") in TRAINED_ON
        ]
    if not any(image.row["split"] == "train" for image in images):
        raise Refused("no training subject is left in the cohort: give more subjects, or a `split` column with `train` in the table")
    return images


def tell(task: str, log: str | None) -> None:
    """Send the progress of a training to standard error and to its log."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"train {task}: %(message)s"))
        logging.getLogger("cohortex").addHandler(handler)
    logging.getLogger("cohortex").setLevel(logging.INFO)


def run_training(snakemake: Any) -> None:
    """Train the model that a Snakemake job asks for (rule `train`)."""
    os.umask(0o027)
    keep_freed_memory()
    set_threads(snakemake.threads)
    task, given = snakemake.wildcards.task, snakemake.params
    section: Mapping[str, Any] = json.loads(given.settings)
    work, output = Path(given.work), Path(snakemake.output[0])
    tell(task, snakemake.log[0] if snakemake.log else None)
    module = importlib.import_module(f"cohortex.training.{task}")
    try:
        images = training_images(
            list(snakemake.input.images), list(snakemake.input.before), work, section.get("default", {}).get("target", "")
        )
        folder = work / "training" / task
        folder.mkdir(parents=True, exist_ok=True)
        getattr(module, f"train_{task}")(
            images, section, seed_for(given.seed, task, "train"), choose_device(snakemake.resources.get("device", "auto")), folder / "model"
        )
        with atomic_path(output) as temporary:
            (folder / "model").rename(temporary)
    except CohortexError as error:
        sys.exit(f"cohortex: training of {task}: {error}")
