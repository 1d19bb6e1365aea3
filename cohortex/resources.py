"""What a job asks for: memory, time and disk, from the images of its batch and from what was measured.

The factors stand in ``needs.tsv``, a line for each job and method; ``python -m benchmarks.resources`` measures them and writes that file.
The Snakefile imports this at every parse, so it imports nothing heavy at its top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cohortex.config import settings_for, training_section
from cohortex.stages import STAGES
from cohortex.tables import read_table

if TYPE_CHECKING:
    from cohortex.cohort import BatchSize

MARGIN_MB = 1.15
"""Asked over fitted memory: what the sampling of a measurement misses, and the allocator's moods."""
MARGIN_S = 1.25
"""Asked over fitted time."""
LEAST_MB = 500
"""Memory that every job is given: on a cluster two processes of Snakemake alone take more than half of it."""
FLOOR_MIN = 10
"""Minutes that every job is given beside its work: a busy node, a slow file system, the first compilation of kernels. Slurm counts
minutes, and a job of seconds gains nothing from asking for fewer."""
LEAST_ITEM_S = 0.05
"""Seconds that an image is given at least, however little is done with it: its row, its key, its link."""
CUDA_MB = 3000
"""Memory of the node, not of the GPU, that the libraries of CUDA take in a job that asks for one."""
MB = 1e6


@dataclass(frozen=True)
class Need:
    """What a job was measured to take.

    Attributes
    ----------
    base_mb : float
        Whatever the images: interpreters, libraries, networks.
    held : float
        For each MB of the largest image in float32 (unit ``subject``: of all images of a subject).
    streamed : float
        For each MB of ``blocks.memory_mb``, once an image does not stay in memory and the stage streams.
    start_s : float
        Whatever the images.
    item_s : float
        For each image.
    seconds_mb : float
        For each MB of all images, in seconds of one core.
    disk : float
        MB written, in the stage's folder and in scratch files, for each MB of all images.
    """

    base_mb: float = 0.0
    held: float = 0.0
    streamed: float = 0.0
    start_s: float = 0.0
    item_s: float = 0.0
    seconds_mb: float = 0.0
    disk: float = 0.0


UNMEASURED = Need(1500.0, 25.0, 6.0, 30.0, 5.0, 6.0, 6.0)
"""What a stage or method asks by that is in no line yet: plenty."""


class Part(NamedTuple):
    """Images of a batch that are treated alike: those of a modality, or one alone once its header was read.

    `spacing_mm` is known only then, and `subject` too.
    """

    modality: str
    images: int
    largest_mb: float
    total_mb: float
    subject: str = ""
    spacing_mm: tuple[float, ...] = ()


class Load(NamedTuple):
    """What a job is given: its images, and what the images of one subject have together at most, in float32 MB."""

    parts: tuple[Part, ...]
    subject_mb: float


class Ask(NamedTuple):
    """What a job asks for."""

    memory_mb: float
    seconds: float
    disk_mb: float


@cache
def needs() -> dict[tuple[str, str], Need]:
    """Return what was measured, by job and method."""
    names = [each.name for each in fields(Need)]
    rows = read_table(Path(__file__).with_name("needs.tsv"))
    return {(row["job"], row["method"]): Need(**{name: float(row[name] or 0) for name in names}) for row in rows}


def need_of(stage: str, method: str) -> Need:
    """Return what a method of a stage takes; one that is in no line yet takes, of each, what the most demanding of the stage does."""
    if (stage, method) in needs():
        return needs()[stage, method]
    known = [UNMEASURED, *(need for (name, _), need in needs().items() if name == stage)]
    return Need(**{each.name: max(getattr(need, each.name) for need in known) for each in fields(Need)})


# --- what a job is given ---------------------------------------------------------------------------------------


def load_of_tables(sizes: Iterable[BatchSize]) -> Load:
    """Return what batches hold as the cohort's table knows it, by the sizes of files."""
    parts: list[Part] = []
    subject_mb = 0.0
    for size in sizes:
        parts += [Part(modality, int(count), largest, total) for modality, (largest, total, count) in size.modalities.items()]
        subject_mb = max(subject_mb, size.subject_mb)
    return Load(tuple(parts), subject_mb)


def load_of_records(manifests: Iterable[Path], stage: str) -> Load:
    """Return what a stage is given as the stage before it wrote it down, by the grids of its volumes.

    ``export`` writes everything; the other stages look at images, those of unit ``subject`` at none that was derived from one.
    """
    parts: list[Part] = []
    sums: dict[str, float] = {}
    for manifest in manifests:
        for row in read_table(manifest):
            kind, shape = row["kind"], [int(n) for n in row["shape"].split("x") if n]
            derived = kind != "image" or row["role"] != "image" or ("+" in row["image"] and STAGES[stage].unit == "subject")
            if not row["path"] or not shape or (derived and stage != "export"):
                continue
            megabytes = 4 * math.prod(shape) / MB * {"field": 3.0, "labels": 0.25}.get(kind, 1.0)
            spacing = tuple(float(n) for n in row["spacing_mm"].split("x") if n)
            parts.append(Part(row["modality"], 1, megabytes, megabytes, row["subject"], spacing))
            sums[row["subject"]] = sums.get(row["subject"], 0.0) + megabytes
    return Load(tuple(parts), max(sums.values(), default=0.0))


def load_of(stage: str, record: Path | None, size: BatchSize) -> Load:
    """Return what a stage is given: by the record of the stage before it where that is there, else by the cohort's table."""
    manifest = None if record is None else record / "manifest.tsv"
    return load_of_records([manifest], stage) if manifest is not None and manifest.is_file() else load_of_tables([size])


# --- what it takes ---------------------------------------------------------------------------------------------


def method_of(stage: str, settings: Mapping[str, Any], modality: str, spacing_mm: tuple[float, ...] = ()) -> tuple[str, float]:
    """Return which line of ``needs.tsv`` an image takes in a stage, and how many voxels of it become of one."""
    if stage == "preprocess":
        from cohortex.stages.preprocess import SHADED, decided

        shaded = decided(settings.get("bias_field", "auto"), modality in SHADED or modality.endswith("w"))
        return ("n4" if shaded else "plain") + (" filters" if settings.get("filters") else ""), 1.0
    if stage == "denoise":
        return settings.get("method", "transform"), 1.0
    if stage == "superresolve":
        return _superresolved(settings, spacing_mm)
    if stage == "regseg":
        deformable = settings.get("deformable", {})
        method = deformable.get("method", "network")
        if method == "network" and not (settings.get("weights") or settings.get("register_weights")):
            method = deformable.get("otherwise", "none")
        # Gauss-Newton takes less of everything than the optimisation that is measured.
        return {"none": "affine", "gauss_newton": "instance"}.get(method, method), 1.0
    if stage in ("deface", "recognize"):
        return ("network" if settings.get("weights") else "none"), 1.0
    if stage == "classify":
        return ("features" if settings.get("features", True) else "none"), 1.0
    return "", 1.0


def _superresolved(settings: Mapping[str, Any], spacing_mm: tuple[float, ...]) -> tuple[str, float]:
    method = settings.get("method", "srcnn3d")
    if method == "none":
        return "none", 1.0
    if not spacing_mm:
        # Not known before the images are read: what comes most often.
        return method, min(2.0, float(settings.get("max_factor", 4)))
    from cohortex.stages.superresolve import slice_axis

    factor = slice_axis((spacing_mm[0], spacing_mm[1], spacing_mm[2]), dict(settings))[1]
    return ("none", 1.0) if factor == 1 else (method, factor)


def ask(stage: str, config: Mapping[str, Any], load: Load) -> Ask:
    """Return what a job of a stage takes at its first attempt.

    Parameters
    ----------
    stage : str
        One of the chain.
    config : mapping
        The whole configuration: the stage's section, ``blocks`` and ``device`` are looked at.
    load : Load
        Its images.
    """
    section, blocks_mb = config.get(stage, {}), float(config["blocks"]["memory_mb"])
    whole = STAGES[stage].unit == "subject" and stage != "export"
    # One large image has a subject's stage go by the plan, whatever else there is.
    most_mb = max((part.largest_mb for part in load.parts), default=0.0)
    memory = start = work = disk = 0.0
    for part in load.parts:
        method, factor = method_of(stage, settings_for(section, part.modality), part.modality, part.spacing_mm)
        need = need_of(stage, method)
        largest_mb, together_mb = (most_mb, load.subject_mb) if whole else (factor * part.largest_mb,) * 2
        again, more_mb = _further(stage, settings_for(section, part.modality))
        memory = max(memory, more_mb + need.base_mb + held_mb(need, largest_mb, STAGES[stage].streams, blocks_mb, together_mb))
        start = max(start, need.start_s)
        if stage == "export" and settings_for(section, part.modality).get("dicom"):
            memory = max(memory, need.base_mb + DICOM_MB + (need.held + DICOM_HELD) * part.largest_mb)
            work += DICOM_S * part.total_mb
            disk += DICOM_DISK * part.total_mb
        work += again * (max(need.item_s, LEAST_ITEM_S) * part.images + need.seconds_mb * factor * part.total_mb)
        disk += need.disk * factor * part.total_mb
    cuda = CUDA_MB if config.get("device") == "cuda" and STAGES[stage].learned else 0
    return Ask(max(LEAST_MB, MARGIN_MB * memory + cuda), MARGIN_S * (start + work), 100 + MARGIN_MB * disk)


DICOM_MB, DICOM_HELD, DICOM_S, DICOM_DISK = 200.0, 5.0, 0.08, 1.0
"""What DICOM objects add to an export: memory, once and for each MB of an image (they are not written in blocks), CPU seconds and disk."""

EXPLAINED = {"grad_cam": 2, "integrated_gradients": 4, "occlusion": 8}
"""Times of a classification without reasons that one with these takes."""
SAMPLE_MB, SINGLE_MB = 150.0, 3000.0
"""Memory of a further look at a head's labels, and of a network by itself, that labels or registers, which may be of any size."""


def _further(stage: str, settings: Mapping[str, Any]) -> tuple[int, float]:
    """Return how often a stage looks at each image, the first look among them, and the memory that this and its own networks take."""
    if stage == "classify":
        return EXPLAINED.get(settings.get("why") or "", 1), 0.0
    if stage != "regseg":
        return 1, 0.0
    samples = int((settings.get("uncertainty") or {}).get("samples", 0))
    alone = sum(bool(settings.get(key)) for key in ("segment_weights", "register_weights"))
    return 1 + samples, SAMPLE_MB * samples + SINGLE_MB * alone


@cache
def held_mb(need: Need, largest_mb: float, streams: bool, blocks_mb: float, together_mb: float | None = None) -> float:
    """Return the memory that images take: a multiple of their size, or of the plan for blocks once the largest does not stay in memory.

    `together_mb` is the size of all that are held at once, the largest alone where it is not given. Where streaming was not measured
    (0), the largest image that stays in memory stands for it.
    """
    if streams and largest_mb > stays_mb(blocks_mb):
        return need.streamed * blocks_mb or need.held * stays_mb(blocks_mb)
    return need.held * (largest_mb if together_mb is None else together_mb)


COPIES = 8
"""As `cohortex.blocks.COPIES`, which a test compares: an array above that share of ``blocks.memory_mb`` does not stay in memory."""


def stays_mb(blocks_mb: float) -> float:
    """Return the megabytes up to which an image stays in memory under a plan."""
    return blocks_mb * 2**20 / COPIES / MB


def memory_mb(asked: Ask, attempt: int = 1) -> int:
    """Return the megabytes of an attempt."""
    return math.ceil(asked.memory_mb * attempt)


def minutes_of(asked: Ask, attempt: int = 1) -> int:
    """Return the minutes of an attempt."""
    return math.ceil((FLOOR_MIN + asked.seconds / 60) * attempt)


# --- jobs that are no stage ------------------------------------------------------------------------------------


IMAGES_OF_SUBJECT = 4
"""So many images a subject may have whose page is made because one of them is shown."""
PAGE_S, PAGE_MB = 2.0, 1.5
"""Time and disk of an image on the page of its subject, with figures of five stages of 12 slices each."""
VIEW_S, VIEW_MB, VIEW_HELD_MB = 4.0, 3.0, 400.0
"""Time and disk of an image in the viewer of its subject, and what one at a time takes in memory (`cohortex.report.viewer_page`)."""


def ask_for(job: str, images: int, paged: int = 0, viewed: int = 0) -> Ask:
    """Return what a job takes that grows with a number of images: ``demo`` (of its batch), ``report`` and ``verdict`` (of the cohort).

    Of `paged` images the report shows more, on pages of subjects, and of `viewed` ones the volumes; one is in memory at a time.
    """
    need = needs()[job, ""]
    memory = max(LEAST_MB, MARGIN_MB * (need.base_mb + need.held * images + VIEW_HELD_MB * bool(viewed)))
    seconds = MARGIN_S * (need.start_s + need.item_s * images + PAGE_S * paged + VIEW_S * viewed)
    return Ask(memory, seconds, 100 + MARGIN_MB * (need.disk * images + PAGE_MB * paged + VIEW_MB * viewed))


def paged_images(config: Mapping[str, Any], images: int) -> int:
    """Return how many images the pages of subjects show, about: those beside the ones with pictures are counted, too."""
    chosen = config["report"]["subjects"]
    return images if chosen == "all" else 0 if chosen == "none" else min(images, IMAGES_OF_SUBJECT * int(config["report"]["pictures"]))


def viewed_images(config: Mapping[str, Any], images: int) -> int:
    """Return how many images the viewers of subjects show, about."""
    shown = min(images, IMAGES_OF_SUBJECT * int(config["report"]["pictures"]))
    return 0 if "none" in (config["report"]["subjects"], config["report"].get("viewer", "shown")) else shown


SEEN = 48
"""Most images that a training of denoise or superresolve holds (`cohortex.training.patches.chosen`, training and validation)."""


WHOLE_SLICE = 512 * 512
"""Pixels of a slice that is not cut."""

PLANNED = 128
"""Edge of a patch of a segmentation that the plan chooses, at most."""
EXAMPLE = 96
"""Edge of an example of a network that recognises in three dimensions, at most, where the settings say nothing."""
HEAD_MM3 = 200 * 250 * 240
"""Of the largest grid on which images are registered (`cohortex.models.regseg.deform.EXTENT_MM`)."""
TWICE = ("sure", "consensus")
"""Objectives for which a network looks twice at each patch."""


def training_steps(task: str, section: Mapping[str, Any]) -> float:
    """Return the work of a training: its steps times what one sees, in millions of voxels (pixels)."""
    settings = section.get("default", {})
    budget = settings.get("training", {})
    if task == "segment":
        return budget.get("steps", 2000) * (budget.get("batch") or 2) * math.prod(_edges(budget.get("patch") or PLANNED, 3)) / MB
    if task == "register":
        return budget.get("steps", 500) * budget.get("batch", 1) * HEAD_MM3 / float(settings["spacing_mm"]) ** 3 / MB
    if task == "denoise":
        return _denoising_steps(section)
    if task == "superresolve":
        return budget["steps"] * (budget.get("batch") or 4) * (budget.get("patch") or 14) ** 3 / MB
    if task == "recognize":
        # of three dimensions, which see more at a step; one of two is not known here to be one
        return budget["steps"] * (budget.get("batch") or 2) * math.prod(_edges(budget.get("patch") or EXAMPLE, 3)) / MB
    if task == "classify":
        networks = budget["folds"] + 1 if "cnn" in settings.get("parts", ["cnn"]) else 0
        # a teacher, for a curriculum or sub-classes, is one network more for each
        networks *= budget.get("members", 1) * (2 if budget.get("curriculum") or budget.get("decompose", 1) > 1 else 1)
        return networks * budget["steps"] * budget["batch"] * math.prod(settings["input"]["size"]) / MB
    turns = budget["rounds"] * budget["turn"]
    registered = (budget["steps"] + turns) * budget["register_crop"] ** 3
    return (registered + (2 * budget["segment_steps"] + turns) * budget["batch"] * budget["crop"] ** 3) / MB


def _edges(patch: int | Sequence[int], dimensions: int) -> Sequence[int]:
    return [patch] * dimensions if isinstance(patch, int) else patch


def _denoising_steps(section: Mapping[str, Any]) -> float:
    """Return `training_steps` of stage `denoise`; networks that were not measured count as the widest of RED-CNN."""
    from cohortex.models import registry
    from cohortex.training import objectives
    from cohortex.training.settings import denoise_network, denoise_training

    name, training = denoise_network(section), denoise_training(section)
    expects = registry.expected(registry.entry("denoise", name), training["options"])
    pixels = WHOLE_SLICE if expects.whole_slices else math.prod(_edges(training["patch"], expects.dimensions))
    # a critic's turns, and the second look of a risk estimate, cost about a step of the network each
    turns = 1 + int(objectives.settings(training["objective"])[1].get("critic_steps", 0)) + (training["objective"]["name"] in TWICE)
    width = training["options"]["filters"] / 96 if name == "redcnn" else 1.0
    return training["steps"] * training["batch"] * pixels * turns * width**2 / MB


ROOMY_MB, ROOMY_S = 4000.0, 1000.0
"""What a training asks for beside its images, and for a million voxels, where it is larger than what was measured or of another network."""


def _as_measured(task: str, section: Mapping[str, Any]) -> bool:
    """Return whether a training is of the network, and at most of the size of a step, of which ``needs.tsv`` was measured."""
    settings = section.get("default", {})
    budget = settings.get("training", {})
    if task in ("segment", "register", "recognize"):
        return False
    if task == "denoise":
        from cohortex.training.settings import denoise_network, denoise_training

        told = denoise_training(section)
        return denoise_network(section) == "redcnn" and isinstance(told["patch"], int) and told["batch"] * told["patch"] ** 2 <= 4 * 40**2
    if task == "superresolve":
        size = (budget.get("batch") or 4) * (budget.get("patch") or 14) ** 3
        return settings.get("method") == "subslice" and size <= 4 * 14**3
    if task == "classify":
        small = settings.get("network", {}).get("name", "smallcnn3d") == "smallcnn3d"
        return small and budget["batch"] * math.prod(settings["input"]["size"]) <= 8 * 40 * 48 * 40
    small = (settings["network"]["name"], settings["segment_network"]["name"]) == ("voxelmorph_small", "unet3d_small")
    options = settings["network"].get("options") or settings["segment_network"].get("options")
    return small and not options and max(budget["crop"], budget["register_crop"]) <= 48 and budget["batch"] <= 2


def ask_training(task: str, config: Mapping[str, Any], load: Load) -> Ask:
    """Return what the training of a stage's model takes: its steps, at most its minutes, and reading its images."""
    section, need = training_section(config, task), need_of("train", task)
    if not _as_measured(task, section):
        need = replace(need, base_mb=max(need.base_mb, ROOMY_MB), seconds_mb=max(need.seconds_mb, ROOMY_S))
    every = sum(part.images for part in load.parts)
    # a training looks at a sample of a large cohort
    default = section["default"]
    most = {"regseg": 2 * default["training"].get("pairs", 0), "register": 2 * default.get("pairs", 0), "classify": every}
    images = min(every, most.get(task, SEEN))
    total_mb = sum(part.total_mb for part in load.parts) * images / max(every, 1)
    bound_s = 60 * float(default["training"].get("minutes", 60))
    steps_s = min(need.seconds_mb * training_steps(task, section), bound_s)
    cuda = CUDA_MB if config.get("device") == "cuda" else 0
    seconds = need.start_s + need.item_s * images + steps_s
    # beside its images a training keeps checkpoints and the model, whose size is that of the network
    disk_mb = 500 + MARGIN_MB * need.disk * total_mb
    processes = config.get("training", {}).get("processes", "auto")
    together = processes if isinstance(processes, int) else 1
    memory = MARGIN_MB * together * (need.base_mb + need.held * total_mb) + cuda
    return Ask(memory, MARGIN_S * seconds, disk_mb)
