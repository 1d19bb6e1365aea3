"""The worker process of a job: holds the model, runs a stage's function on one item after the other.

This and `cohortex.stage` are the only places that catch an image's exceptions.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.config import WEIGHTS
from cohortex.errors import BadInput, NoWorkers, Skip, WorkersDied
from cohortex.items import Image, Made, settings_for
from cohortex.machine import SCARCE
from cohortex.publish import NO_SPACE, atomic_path, write_json, write_text
from cohortex.records import geometry, row_of
from cohortex.tables import cell, read_table, table_text
from cohortex.volume import Volume

FOREIGN = 2.0
"""What readers of foreign files may take, as a multiple of what their job asks for: a file that blows up ends in an error of its own."""
DIVIDED = (1, 2, 4)
"""By what the memory of a block is divided when the workers of a cluster died of the one before."""
SUFFIX = {"image": ".ozx", "labels": ".ozx", "field": ".ozx", "transform": ".json", "table": ".tsv"}


@dataclass(frozen=True)
class Item:
    """What one call of a stage's function sees, and the key of its result."""

    name: str
    images: tuple[Image, ...]
    key: str
    seed: int


@dataclass(frozen=True)
class Task:
    """What every item of a job shares."""

    stage: str
    unit: str
    function: Callable[..., Any]
    load: Callable[..., Any] | None
    section: Mapping[str, Any]
    folders: Mapping[str, Path]
    model_sha256: Mapping[str, str]
    device: str
    threads: int
    running: Path
    log: Callable[[str], None]
    blocks: Mapping[str, Any] = field(default_factory=dict)
    memory_mb: float = 0.0
    slices: int = 0


def seed_for(seed: int, name: str, stage: str) -> int:
    """Return the seed of an item: the same whatever the batch, the order or the number of kills."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{name}|{stage}".encode()).digest()[:6], "big")


def open_content(path: Path, kind: str) -> Any:
    """Read what a stage's folder holds for an id."""
    if kind == "transform":
        return np.array(json.loads(path.read_text(encoding="utf-8"))["matrix"], dtype=np.float64)
    if kind == "table":
        rows = read_table(path)
        return {column: [row[column] for row in rows] for column in (rows[0] if rows else {})}
    from cohortex.io.ozx import read_ozx

    return read_ozx(path)


def suffix(content: Any, kind: str) -> str:
    """Return the ending of the file of a content; a volume that several machines wrote is a folder."""
    from cohortex.io.sharded import SUFFIX as FOLDER
    from cohortex.io.sharded import Sharded

    scratch = isinstance(content, Volume) and isinstance(content.data, Sharded) and content.data.path.name.endswith(".tmp")
    return FOLDER if scratch else SUFFIX[kind]


def write_content(path: Path, content: Any, threads: int) -> str:
    """Write what a stage made and return the sha256 of data and geometry."""
    if isinstance(content, Volume):
        from cohortex.io.ozx import read_ozx, write_ozx
        from cohortex.io.sharded import SUFFIX as FOLDER
        from cohortex.io.sharded import publish_sharded

        if path.name.endswith(FOLDER):
            publish_sharded(path, content)
        else:
            write_ozx(path, content, threads=threads)
        # what stands in the file, so that a lazy volume is not computed twice
        return (content if isinstance(content.data, np.ndarray) else read_ozx(path)).sha256()
    if isinstance(content, np.ndarray):
        text = json.dumps(
            {"matrix": np.asarray(content, dtype=np.float64).tolist(), "from": "fixed world", "to": "moving world", "units": "mm, RAS"}
        )
    else:
        columns = list(content)
        cells = zip(*(content[column] for column in columns), strict=True)
        text = table_text(columns, (dict(zip(columns, row, strict=True)) for row in cells)).removesuffix("\n")
    write_text(path, text + "\n")
    return hashlib.sha256(text.encode()).hexdigest()


def kind_of(content: Any) -> str:
    """Return the manifest's word for a content."""
    if isinstance(content, Volume):
        return content.kind
    return "transform" if isinstance(content, np.ndarray) else "table"


def call(task: Task, item: Item, model: Any) -> list[Made]:
    """Call the stage's function on an item."""
    if task.unit == "subject":
        return list(task.function(item.images, task.section, model, item.seed))
    (image,) = item.images
    made = task.function(image, settings_for(task.section, image.modality), model, item.seed)
    return [made] if isinstance(made, Made) else list(made)


def call_with_room(task: Task, item: Item, model: Any) -> list[Made]:
    """Call the stage's function on an item, with smaller blocks where the workers of a cluster died of the larger ones.

    Raises
    ------
    WorkersDied
        When they die of the smallest, too.
    """
    from cohortex.blocks import divided, plan

    for part in DIVIDED[:-1]:
        try:
            with divided(part):
                return call(task, item, model)
        except WorkersDied:
            task.log(f"{item.name}: workers died of blocks for {plan().memory_mb // part} MB; it goes on with smaller ones\n")
    with divided(DIVIDED[-1]):
        return call(task, item, model)


def keep(task: Task, item: Item, made: Sequence[Made]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Write what an item gave into the running folder; return its manifest rows and previews."""
    from cohortex.report.previews import orthogonal_views, slices_of

    by_id = {image.id: image for image in item.images}
    rows: dict[str, dict[str, Any]] = {}
    previews: dict[str, np.ndarray] = {}
    for thing in made:
        of = by_id[thing.of or item.images[0].id]
        name = f"{of.id}+{thing.tag}" if thing.tag else of.id
        if name in rows:
            raise ValueError(f"the stage {task.stage} made {name} twice")
        row = row_of(of) | {"status": thing.status, "code": thing.code, "reason": thing.reason, "key": item.key}
        if thing.tag:
            row |= {"image": name, "entities": "", "sources": of.id}
        if thing.entities:
            row["entities"] = ";".join(f"{key}={value}" for key, value in thing.entities.items())
        if thing.sources:
            row["sources"] = " ".join(thing.sources)
        content = thing.content
        if content is not None:
            kind = kind_of(content)
            row["kind"] = kind
            row["role"] = of.role if not thing.tag else ("labels" if kind == "labels" else "image")
            if isinstance(content, Volume):
                step = {"stage": task.stage, **{key: value for key, value in row.items() if key in ("code", "reason") and value}}
                models = models_for(task, of.modality)
                if models:
                    step["models"] = models
                content = replace(content, history=(*content.history, step))
                row["modality"] = content.modality or of.modality
                row["body_part"] = content.body_part or of.body_part
                row |= geometry(content)
                if kind != "field":
                    pictures = orthogonal_views(content) | slices_of(content, task.slices)
                    previews |= {f"{name}|{view}": picture for view, picture in pictures.items()}
            row["path"] = name + suffix(content, kind)
            row["sha256"] = write_content(task.running / row["path"], content, task.threads)
        row |= {key: value for key, value in thing.measures.items() if value is not None}
        rows[name] = row
        previews |= {f"{name}|{picture}": np.asarray(array) for picture, array in thing.previews.items()}
    return list(rows.values()), previews


def models_for(task: Task, modality: str) -> dict[str, str]:
    """Return the models that the settings name for a modality, with the sha256 of their weights; of an absolute path only the last part."""
    settings = settings_for(task.section, modality)
    found = {}
    for key, trained in WEIGHTS.items():
        name = settings.get(key)
        name = trained if name == "train" else name
        if isinstance(name, str) and name in task.model_sha256:
            found[Path(name).name if Path(name).is_absolute() else name] = task.model_sha256[name]
    return found


def set_aside(item: Item, status: str, code: str, reason: str) -> list[dict[str, Any]]:
    """Return the rows of an item that does not go on (or, when skipped, goes on as it came)."""
    alone = len(item.images) == 1
    images = [image for image in item.images if alone or status != "skipped" or (image.kind == "image" and image.role == "image")]
    return [row_of(image) | {"status": status, "code": code, "reason": reason, "key": item.key} for image in images]


def where(error: BaseException) -> str:
    """Return type and place of an unexpected error; never its text, which may hold a patient's data."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "cohortex" in frame.filename] or frames
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}"


@dataclass
class Outcome:
    """What the stage's function gave for an item, or the rows that set it aside."""

    started: float
    made: Sequence[Made] = ()
    rows: list[dict[str, Any]] | None = None


def attempt(task: Task, item: Item, function: Callable[[], Any]) -> tuple[Any, list[dict[str, Any]] | None]:
    """Return what a function gives, or the rows of an item that it set aside; what is no item's fault is raised (a full disk)."""
    try:
        return function(), None
    except Skip as skip:
        return None, set_aside(item, "skipped", skip.code, skip.sentence)
    except BadInput as bad:
        return None, set_aside(item, "quarantined", bad.code, bad.sentence)
    except NoWorkers:
        raise
    except MemoryError:
        sentence = (
            f"the stage {task.stage} needed more memory for it than the job had; give the stage more (docs/cluster.md) or leave it out."
        )
        return None, set_aside(item, "failed", "out-of-memory", sentence)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (*NO_SPACE, *SCARCE):
            raise
        task.log(
            f"{item.name}: unexpected {where(error)}\n"
            + "".join(f"  {frame.filename}:{frame.lineno} {frame.name}\n" for frame in traceback.extract_tb(error.__traceback__))
        )
        return None, set_aside(
            item, "crashed", type(error).__name__, f"the stage {task.stage} met an unexpected {where(error)}; see the log"
        )


def compute(task: Task, item: Item, model: Any) -> Outcome:
    """Call the stage's function on an item."""
    started = time.monotonic()
    made, rows = attempt(task, item, lambda: call_with_room(task, item, model))
    return Outcome(started, made or (), rows)


def finish(task: Task, item: Item, outcome: Outcome) -> None:
    """Write what an item gave, its done-record last: without it the item counts as not done."""
    previews: dict[str, np.ndarray] = {}
    rows = outcome.rows
    if rows is None:
        # A lazy volume is read, and may be found damaged, only here.
        kept, rows = attempt(task, item, lambda: keep(task, item, outcome.made))
        rows, previews = kept or (rows or [], {})
    if previews:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **{name: previews[name] for name in sorted(previews)})
        with atomic_path(task.running / f"{item.name}.previews.npz") as temporary:
            temporary.write_bytes(buffer.getvalue())
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    done = {
        "key": item.key,
        "rows": [{name: cell(value) for name, value in row.items()} for row in rows],
        "previews": bool(previews),
        "timing": {
            "item": item.name,
            "seconds": round(time.monotonic() - outcome.started, 3),
            "peak_mb": round(peak_mb),
            "pid": os.getpid(),
            "device": task.device,
            "threads": task.threads,
        },
    }
    write_json(task.running / f"{item.name}.done.json", done)
    for image in item.images:
        for each in (image, *image.siblings):
            each.__dict__.pop("content", None)


def read_ahead(item: Item) -> None:
    """Bring an item's volumes into memory before its turn; what is wrong with them is met again, and said, in its turn."""
    from cohortex.blocks import fits_memory

    for image in item.images:
        try:
            content = image.content
            if isinstance(content, Volume) and fits_memory(content.data.shape, np.dtype(content.data.dtype).itemsize):
                image.__dict__["content"] = replace(content, data=content.array())
        except Exception:
            image.__dict__.pop("content", None)


def serve(task: Task, items: Sequence[Item], model: Any, connection: Any) -> None:
    """Work on items by index until the parent closes the connection, one after the other."""
    while True:
        item = items[int(connection.recv_bytes())]
        finish(task, item, compute(task, item, model))
        connection.send_bytes(b"done")


def serve_ahead(task: Task, items: Sequence[Item], model: Any, connection: Any) -> None:
    """The same, but the next item is read and the last one written while the network runs."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading: dict[str, Future[None]] = {}
        writing: Future[None] | None = None

        def write(item: Item, outcome: Outcome) -> None:
            finish(task, item, outcome)
            connection.send_bytes(b"done")

        try:
            while True:
                index = int(connection.recv_bytes())
                item = items[index]
                if item.name in reading:
                    reading.pop(item.name).result()
                following = items[index + 1] if index + 1 < len(items) else None
                if following is not None and not (task.running / f"{following.name}.done.json").exists():
                    reading[following.name] = reader.submit(read_ahead, following)
                outcome = compute(task, item, model)
                if writing is not None:
                    writing.result()
                writing = writer.submit(write, item, outcome)
        except EOFError:
            if writing is not None:
                writing.result()
            raise


def work(task: Task, items: Sequence[Item], connection: Any) -> None:
    """Serve items by index until the parent closes the connection (runs in the child process)."""
    from cohortex.allocator import keep_freed_memory, limit_memory
    from cohortex.blocks import Plan, set_plan
    from cohortex.threads import die_with_parent, set_threads
    from cohortex.watch import let_end

    die_with_parent()
    keep_freed_memory()
    os.umask(0o027)
    set_threads(task.threads)
    given = {key: task.blocks[key] for key in ("memory_mb", "scheduler", "workers", "minutes") if key in task.blocks}
    set_plan(Plan(threads=task.threads, scratch=task.running, **given))
    if task.stage == "acquire" and task.memory_mb:
        limit_memory(FOREIGN * task.memory_mb)
    if task.stage == "acquire":
        let_end()
    model = None
    try:
        load = task.load
        if load is None:
            task = replace(task, device="cpu")  # only models run on anything else
        else:
            from cohortex.device import choose_device

            task = replace(task, device=choose_device(task.device))
            model = load(task.section, task.folders, task.device)
        ahead = load is not None and bool(task.blocks.get("read_ahead", True)) and task.device != "cpu"
        connection.send_bytes(b"ready ahead" if ahead else b"ready")
        (serve_ahead if ahead else serve)(task, items, model, connection)
    except EOFError:
        return
    except BaseException as error:
        # Not an item's fault (a model that does not load, a full disk): the job ends with this sentence.
        from cohortex.errors import CohortexError
        from cohortex.machine import no_space, too_few

        sentence = (
            str(error)
            if isinstance(error, CohortexError)
            else no_space(task.running, error)
            if isinstance(error, OSError) and error.errno in NO_SPACE
            else too_few(error)
            if isinstance(error, OSError) and error.errno in SCARCE
            else f"{type(error).__name__}: {os.strerror(error.errno)}"
            if isinstance(error, OSError) and error.errno
            else where(error)
        )
        connection.send_bytes(b"fail" + sentence.encode())
        raise SystemExit(1) from None
