"""Run one stage over one batch: worker process, resume, quarantine, records, atomic publication.

An item (an image, or a subject) is done when the running folder holds its done-record under the item's key, written
after its files. A job that is killed, or whose head process died, goes on at the next item.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from cohortex import __version__
from cohortex.clocks import heed_clocks
from cohortex.config import is_trained
from cohortex.items import SET_ASIDE, Image, settings_for
from cohortex.job import Job, Log, become_owner, job_from, task_of
from cohortex.machine import SCARCE, no_space, too_few
from cohortex.privacy.conceal import true_rows
from cohortex.publish import NO_SPACE, atomic_path, link_or_copy, sweep, write_json
from cohortex.records import TIMING_COLUMNS, pairs, row_of, write_manifest
from cohortex.stages import STAGES
from cohortex.tables import read_table, write_table
from cohortex.threads import set_threads
from cohortex.worker import Item, Task, open_content, seed_for, work

WORKER_DEATHS = 2
"""An item on which the worker died this often is `crashed`."""
JOB_DEATHS = 5
"""... and one during which the whole job ended this often (a node may fail for reasons of its own)."""
SYSTEMIC = 5
"""From this many items on, a batch with more than half of them set aside is called systemic."""
LIBRARIES = ("numpy", "scipy", "torch", "SimpleITK", "nibabel", "pydicom", "zarr", "snakemake")
"""Whose versions the records name."""
TOO_LATE = "the job's time limit came before this item was done; ask for more runtime"
ROW_LEFT_OUT = ("batch", "path", "root", "split", "shown", "days")
"""Columns of the cohort table that do not change what is computed, wherever the dataset lies."""


def run_stage(snakemake: Any, function: Callable[..., Any], load: Callable[..., Any] | None = None) -> None:
    """Run `function` over the batch of a Snakemake job.

    Parameters
    ----------
    snakemake : object
        What Snakemake puts into a script.
    function : callable
        The stage's function (see `cohortex.items`).
    load : callable, optional
        ``load(section, folders, device)``, called once in the worker; its result is handed to every call.

    Raises
    ------
    SystemExit
        With one sentence, when the job itself cannot go on (model, disk); never for an image.
    """
    job = job_from(snakemake)
    try:
        run_job(job, function, load)
    except OSError as error:
        if error.errno not in (*NO_SPACE, *SCARCE):
            raise
        why = no_space(job.running.parents[2], error) if error.errno in NO_SPACE else too_few(error)
        raise SystemExit(f"{job.stage} {job.batch}: {why}") from None


def run_job(job: Job, function: Callable[..., Any], load: Callable[..., Any] | None = None) -> None:
    """Run `function` over a batch (see `run_stage`)."""
    os.umask(0o027)
    set_threads(job.threads)
    log = Log(job)
    become_owner(job.running, f"{job.stage} {job.batch}", log.line, task_of(job), job.deadline_s / 2)
    trained = [model["folder"] for name, model in job.models.items() if is_trained(name)]
    inputs = [job.table, *filter(None, (job.before, job.before_record)), *trained]
    heed_clocks(inputs, job.running, log.line, job.before_record)
    for folder in filter(None, (job.images, job.record)):
        sweep(folder.parent, job.batch)
    images = read_images(job)
    items = cut_items(job, images)
    task = Task(
        stage=job.stage,
        unit=STAGES[job.stage].unit,
        function=function,
        load=load,
        section=job.section,
        folders={name: Path(model["folder"]) for name, model in job.models.items()},
        model_sha256={name: model_sha256(model) for name, model in job.models.items()},
        device=job.device,
        threads=job.threads,
        running=job.running,
        log=log.write,
        blocks=job.blocks,
        memory_mb=job.memory_mb,
        slices=job.slices,
    )
    done = work_through(job, task, items, log)
    publish(job, images, items, done)
    log.line("finished")


# --- what there is to do ---------------------------------------------------------------------------------------


def read_images(job: Job) -> list[Image]:
    """Return what the stage before left for this batch (the cohort table's rows for the first stage)."""
    table = {row["image"]: row for row in read_table(job.table)}
    if job.before is None or job.before_record is None:
        return [
            Image(
                row["image"],
                row["subject"],
                row["session"],
                row["modality"],
                {"image": "image", "boxes": "table"}.get(row["role"], "labels"),
                row["role"],
                row["body_part"],
                row=row,
            )
            for row in true_rows(job.table.parents[2], job.batch, table.values())
        ]
    return images_of(job.before, job.before_record, table)


def images_of(folder: Path, record: Path, table: Mapping[str, Mapping[str, str]]) -> list[Image]:
    """Return the images that a stage passed on: `folder` holds them, `record` describes them, `table` has their rows."""
    images = []
    for row in read_table(record / "manifest.tsv"):
        if not row["path"] or row["status"] in SET_ASIDE:
            continue
        path, kind = folder / row["path"], row["kind"]
        images.append(
            Image(
                id=row["image"],
                subject=row["subject"],
                session=row["session"],
                modality=row["modality"],
                kind=kind,
                role=row["role"],
                body_part=row["body_part"],
                entities=pairs(row["entities"]),
                sources=tuple(row["sources"].split()),
                row={**table.get(row["image"].split("+")[0], {}), "sha256": row["sha256"], "file": row["path"], "key": row["key"]},
                opener=lambda path=path, kind=kind: open_content(path, kind),
            )
        )
    return images


def cut_items(job: Job, images: Sequence[Image]) -> list[Item]:
    """Group images into the items of the stage, each with the key of its result."""
    stage = STAGES[job.stage]
    if stage.unit == "subject":
        groups: dict[str, list[Image]] = {}
        for image in images:
            groups.setdefault(image.subject, []).append(image)
    else:
        groups = {
            image.id: [with_siblings(job, image, images)]
            for image in images
            if job.before is None or (image.kind == "image" and image.role == "image")
        }
    shared = [job.stage, stage.version, job.section, {name: model_sha256(model) for name, model in job.models.items()}, job.seed]
    items = []
    for name, members in sorted(groups.items()):
        facts = [[row_of(each), known_of(job, each)] for image in members for each in (image, *image.siblings)]
        key = hashlib.sha256(json.dumps([*shared, facts], sort_keys=True).encode()).hexdigest()
        items.append(Item(name, tuple(members), key, seed_for(job.seed, name, job.stage)))
    return items


def with_siblings(job: Job, image: Image, images: Sequence[Image]) -> Image:
    """Return an image with the other images of its subject where the settings of its modality name one of them; boxes with their image."""
    if image.role == "boxes" and job.before is None:
        return replace(image, siblings=tuple(i for i in images if i.id == image.id.partition("+")[0]))
    settings = settings_for(job.section, image.modality)
    if not any(settings.get(name) for name in STAGES[job.stage].beside):
        return image
    others = [i for i in images if i.subject == image.subject and i.id != image.id and (i.kind, i.role) == ("image", "image")]
    return replace(image, siblings=tuple(sorted(others, key=lambda i: i.id)))


def known_of(job: Job, image: Image) -> dict[str, str]:
    """Return what of an image's row is part of the key: for the first stage fingerprint and place in the dataset, later sha256 and key.

    The key of what a stage is given stands for its history, which is passed on and ends in the sidecars.
    """
    row = image.row
    known = {name: value for name, value in row.items() if name not in ROW_LEFT_OUT and (job.before is None or name != "fingerprint")}
    if job.before is None:
        # a token where names are hidden: a key is told, and who guesses a path could check the guess by it
        known["path"] = row.get("shown") or row["path"].removeprefix(f"{row.get('root', '')}/")
    return known


def model_sha256(model: Mapping[str, str]) -> str:
    """Return the sha256 of a model's weights; one that the workflow trained has it in its card only now."""
    if model.get("sha256"):
        return model["sha256"]
    from cohortex.models.folder import model_sha256 as of_folder

    return of_folder(Path(model["folder"]))


# --- doing it --------------------------------------------------------------------------------------------------


def done_record(job: Job, item: Item, just_now: bool = False) -> dict[str, Any] | None:
    """Return the done-record of an item if it is there under the item's key, and all that it names is there, too.

    What an attempt had no time or memory for is not done: a later one may have it. `just_now` takes it for this attempt.
    """
    try:
        record = json.loads((job.running / f"{item.name}.done.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    files = [job.running / row["path"] for row in record["rows"] if row.get("path")]
    files += [Path(job.section["results"]) / row["exported"] for row in record["rows"] if row.get("exported")]
    there = all(file.exists() for file in files)
    late = any(row["status"] == "failed" for row in record["rows"])
    return record if record["key"] == item.key and there and (just_now or not late) else None


def starts(running: Path, item: Item, add: str = "") -> dict[str, int]:
    """Return how often the worker or the job ended during an item, after counting one more start or end."""
    file = running / f"{item.name}.starts.json"
    try:
        count = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        count = {}
    if count.get("key") != item.key:
        count = {"key": item.key, "started": 0, "worker_died": 0}
    if add:
        count[add] += 1
        write_json(file, count)
    return count


def given_up(running: Path, item: Item, status: str, code: str, reason: str, timing: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return the done-record of an item that could not be finished."""
    rows = [{**row_of(image), "status": status, "code": code, "reason": reason, "key": item.key} for image in item.images]
    record = {"key": item.key, "rows": rows, "previews": False, "timing": {"item": item.name, "seconds": 0.0, **timing}}
    write_json(running / f"{item.name}.done.json", record)
    return record


def work_through(job: Job, task: Task, items: Sequence[Item], log: Log) -> dict[str, dict[str, Any]]:
    """Process every item that is not done yet, in a worker process that is started again when it dies.

    A worker that reads ahead has two items at once; after a death it has one, so that the guilty one is found.
    """
    started, done, worker = time.monotonic(), {}, None
    timing = {"peak_mb": 0, "pid": os.getpid(), "device": job.device, "threads": job.threads}
    waiting, flying, died = deque(enumerate(items)), deque[tuple[int, Item]](), False
    try:
        while waiting or flying:
            while waiting and len(flying) < (worker.room if worker is not None and not died else 1):
                number, item = waiting[0]
                record = done_record(job, item)
                if record is not None:
                    record["timing"]["resumed"] = 1
                else:
                    record = cannot_go_on(job, item, started, timing)
                    if record is None:
                        if worker is None:
                            worker = Worker(task, items)
                        starts(job.running, item, "started")
                        worker.submit(number, left_s(job, started))
                        flying.append(waiting.popleft())
                        continue
                    log.progress(number + 1, len(items), item.name, record)
                done[item.name] = record
                waiting.popleft()
            if not flying:
                continue
            assert worker is not None
            number, item = flying[0]
            try:
                alive = worker.wait(left_s(job, started))
            except TimeoutError:
                worker.kill()
                worker = None
                record = given_up(job.running, item, "failed", "time-limit", TOO_LATE, timing)
            else:
                record = done_record(job, item, just_now=True) if alive else None
            if record is not None:
                done[item.name] = record
                log.progress(number + 1, len(items), item.name, record)
                flying.popleft()
                if worker is None:
                    waiting.extendleft(reversed(flying))
                    flying.clear()
                continue
            assert worker is not None
            for _, each in flying:
                if done_record(job, each) is None:
                    starts(job.running, each, "worker_died")
            log.line(f"{' and '.join(each.name for _, each in flying)}: the worker died ({worker.ended()}); it is started again")
            waiting.extendleft(reversed(flying))
            flying.clear()
            worker, died = None, True
    finally:
        if worker is not None:
            worker.stop()
    return done


def cannot_go_on(job: Job, item: Item, started: float, timing: Mapping[str, Any]) -> dict[str, Any] | None:
    """Write and return the record of an item that is given up: it killed its process too often, or the time is over."""
    count = starts(job.running, item)
    if count["worker_died"] >= WORKER_DEATHS or count["started"] - count["worker_died"] >= JOB_DEATHS:
        reason = (
            f"the process died {count['started']} times on this item (out of memory, or a fault or endless loop in a library); see the log"
        )
        return given_up(job.running, item, "crashed", "process-died", reason, timing)
    left = left_s(job, started)
    if left is not None and left <= 0:
        return given_up(job.running, item, "failed", "time-limit", TOO_LATE, timing)
    return None


def left_s(job: Job, started: float) -> float | None:
    """Return the seconds that are left to a job whose attempt is the last; None where another one may follow."""
    return job.deadline_s - (time.monotonic() - started) if job.last_attempt else None


class Worker:
    """The child process and the pipe to it."""

    def __init__(self, task: Task, items: Sequence[Item]):
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work_in_child, args=(task, items, theirs, self.connection), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = self.ahead = False

    def answer(self, most_s: float | None = None) -> bytes | None:
        """Wait for the worker's next word, `most_s` at most; None when it died. A job that cannot go on ends here."""
        if most_s is not None and not self.connection.poll(max(most_s, 0)):
            raise TimeoutError
        try:
            word = self.connection.recv_bytes()
        except (EOFError, ConnectionResetError):
            return None
        if word.startswith(b"fail"):
            raise SystemExit(word[4:].decode())
        return word

    @property
    def room(self) -> int:
        """How many items it takes at once; 1 until it said that it reads ahead."""
        return 2 if self.ready and self.ahead else 1

    def submit(self, index: int, most_s: float | None = None) -> None:
        """Hand over an item; a worker that is dead or not ready by then is noticed by `wait`."""
        if not self.ready:
            with suppress(TimeoutError):
                word = self.answer(most_s)
                self.ready, self.ahead = word is not None, word == b"ready ahead"
        if self.ready:
            with suppress(BrokenPipeError, ConnectionResetError):
                self.connection.send_bytes(str(index).encode())

    def wait(self, most_s: float | None = None) -> bool:
        """Wait until the oldest item is done; False when the worker died, TimeoutError when it took longer than `most_s`."""
        if not self.ready and most_s is not None and most_s <= 0:
            raise TimeoutError
        return self.ready and self.answer(most_s) is not None

    def kill(self) -> None:
        """End the worker at once."""
        self.process.kill()
        self.process.join(10)
        self.connection.close()

    def ended(self) -> str:
        """Say how the worker ended."""
        self.process.join(10)
        code = self.process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """Let the worker end."""
        self.connection.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()


def work_in_child(task: Task, items: Sequence[Item], connection: Any, parents: Any) -> None:
    """Entry of the worker process."""
    parents.close()
    work(task, items, connection)


# --- handing it on ---------------------------------------------------------------------------------------------


def publish(job: Job, images: Sequence[Image], items: Sequence[Item], done: Mapping[str, Mapping[str, Any]]) -> None:
    """Link what was made and what was left untouched into the stage's folder, then write the record."""
    rows = {row["image"]: dict(row) for record in done.values() for row in record["rows"]}
    links = {row["path"]: job.running / row["path"] for row in rows.values() if row.get("path")}
    lost = {name for name, row in rows.items() if row["status"] in SET_ASIDE}
    if job.before is not None and job.before_record is not None:
        manifest = {row["image"]: row for row in read_table(job.before_record / "manifest.tsv")}
        for image in images:
            if image.id in lost or image.id.split("+")[0] in lost or rows.get(image.id, {}).get("path"):
                continue
            row = rows.setdefault(image.id, row_of(image))
            row |= {column: manifest[image.id][column] for column in ("path", "sha256", "shape", "spacing_mm")}
            # The key of the stage that made it: its file, history included, is that stage's.
            row.setdefault("key", manifest[image.id]["key"])
            links[row["path"]] = job.before / row["path"]
    if job.images is not None:
        with atomic_path(job.images) as folder:
            folder.mkdir()
            for name, source in links.items():
                link_or_copy(source, folder / name)
    with atomic_path(job.record) as folder:
        folder.mkdir()
        write_manifest(folder / "manifest.tsv", list(rows.values()))
        timing = [{"host": socket.gethostname(), "resumed": 0, **done[item.name]["timing"]} for item in items]
        write_table(folder / "timing.tsv", TIMING_COLUMNS, timing)
        write_previews(folder / "previews.npz", job.running, [item for item in items if done[item.name]["previews"]])
        write_json(folder / "numbers.json", numbers(job, list(rows.values()), items, done))
    if job.before is not None:
        # The running folder of the stage before is not needed any more: its files are published and were used.
        shutil.rmtree(job.running.parents[1] / job.before.parent.name / job.batch, ignore_errors=True)


def write_previews(path: Path, running: Path, items: Sequence[Item]) -> None:
    """Join the items' previews into one file."""
    import numpy as np

    pictures: dict[str, np.ndarray] = {}
    for item in items:
        with np.load(running / f"{item.name}.previews.npz", allow_pickle=False) as file:
            pictures |= {name: file[name] for name in file.files}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: pictures[name] for name in sorted(pictures)})


def numbers(job: Job, rows: Sequence[Mapping[str, Any]], items: Sequence[Item], done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is known of the job beside its images."""
    counts: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "image" and row["role"] == "image":
            counts[row["status"]] = counts.get(row["status"], 0) + 1
    bad = sum(any(row["status"] in SET_ASIDE for row in done[item.name]["rows"]) for item in items)
    models = {}
    for name, model in job.models.items():
        from cohortex.models.folder import read_card, read_shown

        folder = Path(model["folder"])
        shown = read_shown(folder)
        models[name] = {"sha256": model_sha256(model), "card": read_card(folder), **({"shown": shown} if shown else {})}
    return {
        "stage": job.stage,
        "version": STAGES[job.stage].version,
        "section": {name: value for name, value in job.section.items() if name != "results"},
        "models": models,
        "software": {"cohortex": __version__, "python": platform.python_version(), **versions()},
        "device": job.device,
        "counts": counts,
        "items": len(items),
        "systemic": len(items) >= SYSTEMIC and bad * 2 > len(items),
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that this environment has; not every rule's has all of them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return {name: number for name, number in found.items() if number}
