"""Run the training of one stage's model on a cohort: pick the subjects, call the task's function, publish the folder."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cohortex.allocator import keep_freed_memory
from cohortex.blocks import Plan, planned
from cohortex.clocks import heed_clocks
from cohortex.config import stage_of_training
from cohortex.device import choose_device
from cohortex.errors import CohortexError, Refused
from cohortex.items import Image
from cohortex.job import become_owner
from cohortex.publish import atomic_path, write_json
from cohortex.ratings import left_out, ratings_of
from cohortex.stage import images_of
from cohortex.tables import read_table
from cohortex.threads import set_threads
from cohortex.training.launch import launch
from cohortex.training.limit import TRY_AGAIN, Interrupted, Limit, end_of_attempt, hear_no_more, listen
from cohortex.training.team import Team, meet, part, use_team
from cohortex.worker import seed_for

TRAINED_ON = ("train", "validation")
"""Splits that a training may see; test subjects never arrive."""

LOG = logging.getLogger("cohortex.training")


@dataclass(frozen=True)
class Order:
    """A training in plain words, so that every process of it can read it.

    Attributes
    ----------
    images, before : list of str
        What the stage before the task left, a folder and a record for each batch.
    section : mapping
        The task's section of the configuration.
    device : {"cpu", "cuda"}
    processes, nodes : int
    until : float
        When this attempt has to end, in seconds since the epoch.
    last : bool
        Whether no attempt is known to follow.
    """

    task: str
    images: list[str]
    before: list[str]
    work: str
    section: Mapping[str, Any]
    seed: int
    device: str
    threads: int
    log: str = ""
    processes: int = 1
    nodes: int = 1
    precision: str = "float32"
    until: float = float("inf")
    last: bool = False
    memory_mb: int = Plan.memory_mb

    @property
    def folder(self) -> Path:
        """Return where the training keeps what is unfinished."""
        return Path(self.work) / "training" / self.task


def order_of(snakemake: Any) -> Order:
    """Translate Snakemake's object (rule `train`).

    Raises
    ------
    Refused
        When more processes are asked for than the job has GPUs, or they cannot be dealt out evenly to its nodes.
    """
    given, resources = snakemake.params, snakemake.resources
    common = getattr(snakemake, "config", {}).get("training", {})
    gpus, nodes = int(resources.get("gpu", 0) or 0), int(resources.get("nodes", 1) or 1)
    device = device_of(resources.get("device", "auto"), gpus)
    return Order(
        task=snakemake.wildcards.task,
        images=list(snakemake.input.images),
        before=list(snakemake.input.before),
        work=str(given.work),
        section=json.loads(given.settings),
        seed=int(given.seed),
        device=device,
        threads=snakemake.threads,
        log=str(snakemake.log[0]) if snakemake.log else "",
        processes=how_many(common.get("processes", "auto"), device, gpus, nodes),
        nodes=nodes,
        precision=common.get("precision", "float32"),
        until=end_of_attempt(float(resources.get("runtime", 0) or 0)),
        last=bool(resources.get("last_attempt", 0)),
        memory_mb=int(getattr(snakemake, "config", {}).get("blocks", {}).get("memory_mb", Plan.memory_mb)),
    )


def device_of(wanted: str, gpus: int) -> str:
    """Return ``cpu`` or ``cuda``, see `choose_device`; of several GPUs each process of the training takes its own, this one none."""
    if wanted != "cpu" and gpus > 1:
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return choose_device(wanted)


def how_many(wanted: int | str, device: str, gpus: int, nodes: int) -> int:
    """Return how many processes train together.

    Parameters
    ----------
    wanted : int or "auto"
        ``training.processes`` of the configuration; auto: one a GPU of the job, on the CPU one a node.
    device : {"cpu", "cuda"}
    gpus, nodes : int
        Of the job.

    Raises
    ------
    Refused
        When there are fewer GPUs than processes, or each node cannot have as many as the others.
    """
    count = wanted if isinstance(wanted, int) else max(gpus, 1) if device != "cpu" else nodes
    if device != "cpu" and count > max(gpus, 1):
        raise Refused(
            f"training.processes is {count}, but the job has {max(gpus, 1)} GPU; ask for as many (--set-resources train:gpu={count}), "
            "or set training.processes to auto."
        )
    if count % nodes:
        raise Refused(f"{count} processes cannot be dealt out evenly to {nodes} nodes; change the resources gpu or nodes of rule train.")
    return count


def training_images(folders: list[str], records: list[str], work: Path, target: str = "") -> list[Image]:
    """Return the images of the training and validation subjects of some batches, but for those that a rater rejected.

    Parameters
    ----------
    folders, records : list of str
        What the stage before the task left, a folder and a record for each batch.
    work : Path
    target : str
        Column of the participants' table whose value becomes ``row["label"]``; the others become ``row["participants.<column>"]``.
    """
    participants = work / "cohort" / "participants.tsv"
    people = {row["subject"]: row for row in read_table(participants)} if target and participants.is_file() else {}
    labels = {subject: row.get(target, "") for subject, row in people.items()}
    about = {
        subject: {f"participants.{name}": cell for name, cell in row.items() if name not in ("subject", target)}
        for subject, row in people.items()
    }
    # the tables of batches do not have the scanners that no table said; those who are compared by what is known of them have theirs
    cohort = work / "cohort" / "cohort.tsv"
    machines = {row["image"]: {"scanner": row["scanner"]} for row in read_table(cohort)} if target and cohort.is_file() else {}
    rejected = left_out(ratings_of(work))
    images = []
    for folder, record in zip(map(Path, folders), map(Path, records), strict=True):
        table = {row["image"]: row for row in read_table(work / "cohort" / "batches" / f"{record.name}.tsv")}
        images += [
            replace(
                image,
                row={
                    **image.row,
                    **machines.get(image.id.split("+")[0], {}),
                    **about.get(image.subject, {}),
                    "label": labels.get(image.subject, ""),
                },
            )
            for image in images_of(folder, record, table)
            if image.row.get("split") in TRAINED_ON and image.id.split("+")[0] not in rejected
        ]
    if not any(image.row["split"] == "train" for image in images):
        also = ", or look at the ratings, which reject images" if rejected else ""
        raise Refused(f"no training subject is left in the cohort: give more subjects, or a `split` column with `train` in the table{also}")
    return images


def tell(task: str, log: str, level: int = logging.INFO, said: str = "train") -> None:
    """Send the progress of a training, or of what `said` says, to standard error and to its log."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log))
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"{said} {task}: %(message)s"))
        logging.getLogger("cohortex").addHandler(handler)
    logging.getLogger("cohortex").setLevel(level)


def train(order: Order, team: Team) -> int:
    """Train as one process of a training, and leave the model folder as ``<folder>/model``; signals are heard from now on.

    Returns
    -------
    int
        The exit status of the process: 0, 1 when the training is refused, `limit.TRY_AGAIN` when another attempt goes on from here.
    """
    before = use_team(team)
    listen(team.limit)
    plan = Plan(threads=max(1, order.threads * order.nodes // order.processes), memory_mb=order.memory_mb, scratch=order.folder)
    try:
        with planned(plan):
            _train(order)
    except Interrupted as stopped:
        LOG.warning("%s", interrupted(str(stopped), order))
        return TRY_AGAIN
    except CohortexError as error:
        if team.leads:
            LOG.error("%s", error)
        return 1
    finally:
        use_team(before)
    return 0


def _train(order: Order) -> None:
    images = training_images(order.images, order.before, Path(order.work), order.section.get("default", {}).get("target", ""))
    module = importlib.import_module(f"cohortex.training.{order.task}")
    function = getattr(module, f"train_{order.task}")
    function(images, order.section, seed_for(order.seed, order.task, "train"), order.device, order.folder / "model")


def interrupted(where: str, order: Order) -> str:
    """Return what is said of a training whose attempt ended before it, in plain words."""
    if not order.last:
        return f"stopped at {where}; the next attempt, or the same line again, goes on there"
    stage = stage_of_training(order.task)
    budget = "training" if stage == order.task else f"{order.task}_training"
    return (
        f"stopped at {where}, and this was the last attempt. What is done is kept in <work>/training/{order.task}: the same line "
        f"again goes on there. If one run is to be enough, give the job more time (--set-resources train:runtime=MINUTES) or more attempts "
        f"(--retries N), or train less ({stage}.default.{budget})"
    )


def train_as_member(file: Path, place: Path, rank: int) -> int:
    """Train as one of several processes of a training (`cohortex.training.launch`); return the exit status.

    Parameters
    ----------
    file : Path
        The order as JSON.
    place : Path
        Where the processes find each other.
    rank : int
        Number of the process.
    """
    order = Order(**json.loads(file.read_text(encoding="utf-8")))
    os.umask(0o027)
    set_threads(max(1, order.threads * order.nodes // order.processes))
    if order.device != "cpu":
        # One GPU each, before the first import of torch: the lock sees to it that no two take the same.
        choose_device(order.device)
    tell(order.task, order.log if rank == 0 else "", logging.INFO if rank == 0 else logging.ERROR)
    meet(rank, order.processes, place, order.device, order.nodes)
    status = train(order, Team(rank, order.processes, order.precision, Limit(order.until)))
    if status == 0:
        part()
    else:
        hear_no_more()
    return status


def run_training(snakemake: Any) -> None:
    """Train the model that a Snakemake job asks for (rule `train`)."""
    os.umask(0o027)
    keep_freed_memory()
    set_threads(snakemake.threads)
    task, output = snakemake.wildcards.task, Path(snakemake.output[0])
    try:
        order = order_of(snakemake)
        become_owner(order.folder, f"train {task}", LOG.warning)
    except CohortexError as error:
        sys.exit(f"cohortex: training of {task}: {error}")
    heed_clocks([*order.images, *order.before], order.folder, LOG.warning, Path(order.before[-1]) if order.before else None)
    if order.processes == 1:
        tell(task, order.log)
        status = train(order, Team(precision=order.precision, limit=Limit(order.until)))
    else:
        file = order.folder / "order.json"
        write_json(file, asdict(order))
        status = launch(file, order.folder, order.processes, order.nodes, max(1, order.threads * order.nodes // order.processes))
    if status:
        hear_no_more()
        sys.exit(status)
    with atomic_path(output) as temporary:
        (order.folder / "model").rename(temporary)
