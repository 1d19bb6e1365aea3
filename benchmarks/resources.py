"""What the jobs of every rule take, beside what they ask for; and the factors from which they ask.

    python -m benchmarks.resources [--only acquire,denoise,...] [--cases picture,96,...] [--folder DIR] [--check]

Every job is started as a cluster starts it (``snakemake --mode remote`` on one target) on simulated heads and pictures of several
sizes, with one thread, and watched: the memory of its process tree (resident, as Slurm adds it up; another Snakemake as large as
the first one is added, since a job of Slurm has two), the CPU seconds of the tree, and what it wrote. From that
``cohortex/needs.tsv`` is written, the smallest factors that lie above every measurement (a linear programme for each job and
method); ``--check`` leaves it as it is. Then the table of asked over used. The time of a job is asked for with a floor of some
minutes (`cohortex.resources.FLOOR_MIN`), which the ratio of times leaves out: (asked - floor) / used. CPU seconds stand for the
time of a machine that has nothing else to do. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from benchmarks.factors import MEASURED, Used, fitted, merge, ratios, read_measured, tells, write_measured
from benchmarks.workflow import ROOT, environment
from cohortex import resources
from cohortex.cohort import BatchSize
from cohortex.config import check_config, settings_for
from cohortex.publish import write_json
from cohortex.resources import Load, Part
from cohortex.stages import STAGES, USUAL
from cohortex.tables import read_table

SINGLE, PAIR = "b00001", "b00002"
MODELS = {"superresolve": "zoo/superresolve/srcnn3d"}


@dataclass(frozen=True)
class Case:
    """Images of one size: a subject with a T1w alone, and one with a T1w and a CT (or pictures alone)."""

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    blocks_mb: int = 1024
    pictures: int = 0
    stages: tuple[str, ...] = USUAL


CASES = (
    Case("picture", (512, 512, 1), (0.5, 0.5, 1.0), pictures=1, stages=("acquire", "preprocess", "denoise", "export")),
    Case("pictures", (256, 256, 1), (0.5, 0.5, 1.0), pictures=40, stages=("acquire", "preprocess", "denoise", "export")),
    Case("64", (64, 72, 40), (3.0, 3.0, 4.5)),
    Case("slab", (96, 96, 24), (1.5, 1.5, 3.0), stages=("acquire", "preprocess", "denoise", "superresolve", "export")),
    Case("96", (96, 96, 96), (2.0, 2.0, 2.0)),
    Case("thick", (160, 160, 60), (1.5, 1.5, 3.0)),
    Case("181", (181, 217, 181), (1.0, 1.0, 1.0)),
    Case("192 thick", (192, 192, 64), (1.25, 1.25, 3.75), stages=("acquire", "preprocess", "denoise", "superresolve", "export")),
    Case("256", (256, 256, 256), (1.0, 1.0, 1.0)),
    Case("larger than its plan", (256, 256, 256), (1.0, 1.0, 1.0), blocks_mb=256),
)
METHODS: dict[str, dict[str, Mapping[str, Any]]] = {
    "acquire": {"": {}},
    "deface": {"none": {"weights": None}, "network": {}},
    "preprocess": {
        "plain filters": {"bias_field": False, "filters": [{"median": {}}, {"total_variation": {}}]},
        "n4 filters": {"bias_field": True, "filters": [{"median": {}}, {"total_variation": {}}]},
        "plain": {"bias_field": False},
        "n4": {"bias_field": True},
    },
    "denoise": {"none": {"method": "none"}, "transform": {"method": "transform"}},
    "superresolve": {
        "none": {"method": "none"},
        "spline": {"method": "spline"},
        "srcnn3d": {"method": "srcnn3d", "weights": MODELS["superresolve"]},
        "subslice": {},
    },
    "regseg": {
        "affine": {"deformable": {"method": "none"}, "weights": None},
        "instance": {"deformable": {"method": "instance"}},
        "network": {},
    },
    "classify": {"none": {"features": False}, "features": {}},
    "export": {"": {}},
}
"""The settings of every line of ``needs.tsv``; the last of a stage is what the next one is given."""
FEW = {
    ("deface", "none"): ("96", "181", "256"),
    ("deface", "network"): ("64", "96", "thick", "181", "256"),
    ("denoise", "none"): ("picture", "96", "181"),
    ("superresolve", "none"): ("96", "181"),
    ("preprocess", "plain filters"): ("picture", "96", "181"),
    ("preprocess", "n4 filters"): ("96", "181"),
    ("regseg", "instance"): ("96", "thick", "181"),
    ("classify", "none"): ("96", "181"),
}
"""Methods that take long on large images, or differ little from another, are measured on these cases alone."""


# --- the images ------------------------------------------------------------------------------------------------


def write_images(case: Case, folder: Path) -> Path:
    """Write the images of a case and their table; return the table."""
    import nibabel
    from PIL import Image as Picture

    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    rng = np.random.default_rng(1)
    rows = ["subject\tmodality\tpath\tbody_part\tsite"]
    folder.mkdir(parents=True)
    if case.pictures:
        x, y = np.ogrid[: case.shape[0], : case.shape[1]]
        for number in range(case.pictures):
            disc = 40 + 120 * (np.hypot(x - case.shape[0] / 2, y - case.shape[1] / 2) < case.shape[0] / 3)
            Picture.fromarray((disc + rng.normal(0, 8, disc.shape)).clip(0, 255).astype(np.uint8).T).save(folder / f"{number:03d}.png")
            rows.append(f"p{number:03d}\tXR\t{number:03d}.png\tchest\t")
    else:
        head = make_head({"diagnosis": "tumour", "age": 60}, rng)
        affine = np.diag([*case.spacing_mm, 1.0])
        affine[:3, 3] = -np.array(case.spacing_mm) * (np.array(case.shape) - 1) / 2 + (0, -10, 11)
        for subject, modality in (("001", "T1w"), ("002", "T1w"), ("002", "CT")):
            contrast = ct_contrast(rng) if modality == "CT" else tuple(1000 * part for part in mr_contrast(rng))
            values = paint(head, affine, case.shape, contrast, np.eye(4), parts=(1, 1, 1))[0]  # type: ignore[arg-type]
            values += rng.normal(0, 20, values.shape).astype(np.float32)
            image = nibabel.Nifti1Image(np.round(values if modality == "CT" else np.abs(values)).astype(np.int16), affine)
            image.header.set_xyzt_units("mm")
            nibabel.save(image, folder / f"{subject}_{modality}.nii")
            rows.append(f"{subject}\t{modality}\t{subject}_{modality}.nii\thead\tdemo-simulator")
    table = folder / "cohort.tsv"
    table.write_text("\n".join(rows) + "\n")
    return table


def configuration(case: Case, stage: str, settings: Mapping[str, Any], folder: Path, table: Path) -> dict[str, Any]:
    """Return the configuration under which a stage is measured."""
    whole = yaml.safe_load((ROOT / "config.yaml").read_text())
    whole |= {"input": str(table), "output": str(folder / "results"), "work": str(folder / "work"), "stages": list(case.stages)}
    whole |= {"batch_size": max(1, case.pictures), "keep": list(case.stages), "device": "cpu"}
    whole["blocks"]["memory_mb"] = case.blocks_mb
    whole[stage]["default"] |= settings
    return check_config(whole)


# --- a job, watched --------------------------------------------------------------------------------------------


def watched(words: Sequence[str], folder: Path, wrote: Path) -> tuple[float, float, float, float]:
    """Run a job; return the peak memory of its tree in MB, its CPU and wall seconds, and the most that lay in `wrote`, in MB."""
    peak = disk = 0.0
    before = os.times()
    started = time.monotonic()
    with (folder / "jobs.log").open("ab") as log:
        process = subprocess.Popen(words, cwd=folder, env={**environment(), "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT)
        tree, done = psutil.Process(process.pid), threading.Event()

        def watch() -> None:
            nonlocal peak, disk
            count = 0
            while not done.wait(0.1):
                try:
                    own = tree.memory_info().rss
                    # its own size twice, for the Snakemake that starts it on a cluster
                    held = 2 * own + sum(_resident(member) for member in tree.children(recursive=True))
                except psutil.Error:
                    return
                peak = max(peak, held)
                if count % 5 == 0:
                    disk = max(disk, written_mb(wrote))
                count += 1

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
    if code:
        raise SystemExit(f"{' '.join(words)} failed, see {folder / 'jobs.log'}")
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return peak / resources.MB, cpu_s, time.monotonic() - started, max(disk, written_mb(wrote))


def _resident(member: psutil.Process) -> int:
    try:
        return member.memory_info().rss
    except psutil.Error:
        return 0


def written_mb(folder: Path) -> float:
    """Return what the files below a folder take, in MB; a file with two names counts once."""
    sizes: dict[int, int] = {}
    for top, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.stat(f"{top}/{name}")  # noqa: PTH116
            except OSError:
                continue
            sizes[found.st_ino] = 512 * found.st_blocks
    return sum(sizes.values()) / resources.MB


def job(config: Mapping[str, Any], folder: Path, target: str) -> list[str]:
    """Return the words with which a cluster's job starts one target."""
    (folder / "settings.yaml").write_text(yaml.safe_dump(dict(config)))
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(folder / "settings.yaml")]
    words += ["--mode", "remote", "--cores", "1", "--force", "--quiet", "rules", "--allowed-rules", target.split(":")[0]]
    return [*words, "--target-jobs", target]


def measure_case(case: Case, folder: Path, only: Sequence[str], warm: set[tuple[str, str, bool]]) -> Iterable[Used]:
    """Yield the measurements of a case; stages that are not wanted run once, since the next ones need them.

    The first job of a stage and method on pictures, and on volumes, compiles kernels, which later jobs find: it is run again (`warm`:
    those that ran).
    """
    table = write_images(case, folder / "images")
    make_tables(configuration(case, "acquire", {}, folder, table), folder)
    last = max((case.stages.index(stage) for stage in only if stage in case.stages), default=-1)
    for stage in case.stages[: last + 1]:
        for batch in [SINGLE] if case.pictures else [SINGLE, PAIR]:
            # images alone tell of stages that work on one, a pair of the others; the rest is what later stages are given
            told = stage in only and (case.pictures > 0 or batch == (SINGLE if STAGES[stage].unit == "image" else PAIR))
            for method, settings in (METHODS[stage] if told else {"": {}}).items():
                config = configuration(case, stage, settings, folder, table)
                load, section = load_for(stage, case, folder, batch), config[stage]
                part = load.parts[0]
                resolved, factor = resources.method_of(stage, settings_for(section, part.modality), part.modality, part.spacing_mm)
                if told and (case.name not in FEW.get((stage, method), (case.name,)) or (case.pictures and method.startswith("n4"))):
                    continue
                if told and resolved != method and method != list(METHODS[stage])[-1]:
                    continue
                words = job(config, folder, f"{stage}:batch={batch}")
                wrote = folder / "results" if stage == "export" else folder / "work" / ".running" / stage
                if (stage, method, case.pictures > 0) not in warm:
                    watched(words, folder, wrote)
                    warm.add((stage, method, case.pictures > 0))
                # or it would take up what the last one finished
                shutil.rmtree(folder / "work" / ".running", ignore_errors=True)
                shutil.rmtree(folder / "results", ignore_errors=True)
                memory_mb, cpu_s, wall_s, disk_mb = watched(words, folder, wrote)
                if told and resolved not in ("", "none") and all_skipped(folder / "work" / "records" / stage / batch):
                    print(f"{stage} {method} {case.name}: the model is not for these images", file=sys.stderr, flush=True)
                elif told:
                    asked_of = {stage: section, "blocks": config["blocks"], "device": "cpu"}
                    yield Used(stage, resolved, case.name, load, asked_of, memory_mb, cpu_s, wall_s, disk_mb, factor)


def all_skipped(record: Path) -> bool:
    """Return whether a stage left all images of a batch as they were."""
    return {row["status"] for row in read_table(record / "manifest.tsv") if row["kind"] == "image" and row["role"] == "image"} == {
        "skipped"
    }


def measure_demo(folder: Path) -> Iterable[Used]:
    """Yield what making demo subjects takes, one and three in a batch."""
    for subjects in (1, 3):
        there = folder / f"demo-{subjects}"
        config = demo_configuration(there, subjects, subjects)
        make_tables(config, there)
        words = job(config, there, "demo:batch=b00001")
        if subjects == 1:
            watched(words, there, there / "nothing")
        memory_mb, cpu_s, wall_s, disk_mb = watched(words, there, there / "work" / "demo")
        yield Used("demo", "", f"{subjects} subjects", counted(2 * subjects), {}, memory_mb, cpu_s, wall_s, disk_mb)
        shutil.rmtree(there)


def measure_report(folder: Path) -> Iterable[Used]:
    """Yield what the report and the verdict on cohorts of 16 and 1000 images take, from records that were made up."""
    from tests.fake_cohort import write_fake_cohort

    for subjects in (8, 500):
        there = folder / f"report-{subjects}"
        config = {**demo_configuration(there, subjects, 4), "keep": []}
        work = write_fake_cohort(there / "work", subjects)
        batches = sorted(path.name for path in (work / "records" / "export").iterdir())
        size = [12.0, 96.0, 8, 24.0, {"T1w": [12.0, 48.0, 4], "CT": [12.0, 48.0, 4]}]
        write_json(work / "cohort" / "index.json", {"next": 1, "batch_size": 4, "batches": dict.fromkeys(batches, size), "others": {}})
        for batch in batches:
            (there / "results" / ".cohortex" / "exported" / batch).parent.mkdir(parents=True, exist_ok=True)
            (there / "results" / ".cohortex" / "exported" / batch).touch()
        for name in ("report", "verdict"):
            words = [*job(config, there, f"{name}:"), "--config", "quarantine={tolerate: 1}"]
            memory_mb, cpu_s, wall_s, disk_mb = watched(words, there, there / "results" / "report")
            yield Used(name, "", f"{2 * subjects} images", counted(8 * len(batches)), {}, memory_mb, cpu_s, wall_s, disk_mb)
        shutil.rmtree(there)


TRAININGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "denoise": ({"steps": 10}, {"steps": 40}),
    "superresolve": ({"steps": 20}, {"steps": 80}),
    "regseg": (
        {"steps": 4, "segment_steps": 8, "turn": 2, "rounds": 1},
        {"steps": 12, "segment_steps": 24, "turn": 6, "rounds": 1},
    ),
    "classify": ({"folds": 2, "steps": 10}, {"folds": 2, "steps": 40}),
}
"""Budgets of which the trainings are measured; the first on two numbers of subjects."""


def measure_trainings(folder: Path) -> Iterable[Used]:
    """Yield what the trainings take on 8 and 20 simulated heads."""
    there = folder / "trainings"
    config = demo_configuration(there, 20, 2)
    people = ["subject\tgroup", *(f"demo{number + 1:03d}\t{'ab'[number % 2]}" for number in range(20))]
    (there / "groups.tsv").write_text("\n".join(people) + "\n")
    config |= {
        "labels": str(there / "groups.tsv"),
        "demo": {**config["demo"], "labelled": 1, "split": {"train": 1, "validation": 0, "test": 0}},
    }
    config["classify"]["default"] |= {"target": "group"}
    make_tables(config, there)
    (there / "settings.yaml").write_text(yaml.safe_dump(config))
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(there / "settings.yaml")]
    watched([*words, "--cores", "1", "--until", "regseg"], there, there / "nothing")
    batches = [f"b{number:05d}" for number in range(1, 11)]
    for task, (few, many) in TRAININGS.items():
        before = config["stages"][config["stages"].index(task) - 1]
        for name, chosen, budget in (("few steps", batches[:4], few), ("more steps", batches[:4], many), ("more subjects", batches, few)):
            section = {**config[task], "default": {**config[task]["default"]}}
            section["default"]["training"] = {**section["default"]["training"], **budget}
            shutil.rmtree(there / "work" / "training", ignore_errors=True)
            (there / "work" / "training").mkdir(parents=True)
            (there / "work" / "training" / f"{task}.tsv").write_text("\n".join(["batch", *chosen]) + "\n")
            load = resources.load_of_records([there / "work" / "records" / before / batch / "manifest.tsv" for batch in chosen], task)
            used = watched(job({**config, task: section}, there, f"train:task={task}"), there, there / "work" / "training")
            yield Used("train", task, name, load, {task: section, "device": "cpu"}, *used)
    shutil.rmtree(there)


def demo_configuration(folder: Path, subjects: int, batch_size: int) -> dict[str, Any]:
    """Return a configuration of so many demo subjects."""
    whole = yaml.safe_load((ROOT / "config.yaml").read_text())
    whole |= {"output": str(folder / "results"), "work": str(folder / "work"), "batch_size": batch_size, "device": "cpu"}
    whole |= {"keep": ["acquire", "preprocess", "denoise", "superresolve", "regseg"]}
    whole["demo"]["subjects"] = subjects
    folder.mkdir(parents=True)
    return check_config(whole)


def counted(images: int) -> Load:
    """Return a load of which only the number of images counts."""
    return Load((Part("", images, 0.0, 0.0),), 0.0)


def load_for(stage: str, case: Case, folder: Path, batch: str) -> Load:
    """Return what the rules know of a job's images when it starts."""
    position = case.stages.index(stage)
    index = json.loads((folder / "work" / "cohort" / "index.json").read_text())["batches"][batch]
    record = folder / "work" / "records" / case.stages[position - 1] / batch if position else None
    return resources.load_of(stage, record, BatchSize(*index))


def make_tables(config: Mapping[str, Any], folder: Path) -> None:
    """Make the tables of the cohort as the head process does."""
    from cohortex.cohort import make_cohort

    folder.mkdir(parents=True, exist_ok=True)
    make_cohort(config, ROOT)


OTHERS = {"demo": measure_demo, "report": measure_report, "train": measure_trainings}
"""Jobs that are no stage."""


def everything(folder: Path, only: Sequence[str], cases: Sequence[str], warm: set[tuple[str, str, bool]]) -> Iterable[Used]:
    """Yield the measurements that are wanted, the small ones first."""
    for case in CASES:
        if "deface" in only and not case.pictures:
            case = replace(case, stages=("acquire", "deface", *case.stages[1:]))
        there = folder / case.name.replace(" ", "-")
        if case.name in cases and any(stage in only for stage in STAGES):
            shutil.rmtree(there, ignore_errors=True)
            yield from measure_case(case, there, only, warm)
            shutil.rmtree(there)
    for name, measure in OTHERS.items():
        if name in only:
            yield from measure(folder)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join([*STAGES, *OTHERS]), help="jobs that are measured")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), help="sizes that are measured")
    parser.add_argument("--folder", type=Path, help="where images, volumes and measurements lie (a temporary folder)")
    parser.add_argument("--check", action="store_true", help="compare with the factors that there are, and leave them")
    options = parser.parse_args()
    only, cases = options.only.split(","), options.cases.split(",")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="resources-"))
    folder.mkdir(parents=True, exist_ok=True)
    measured, warm = read_measured(folder / MEASURED), set[tuple[str, str, bool]]()
    for used in everything(folder, only, cases, warm):
        measured = [each for each in measured if (each.job, each.method, each.case) != (used.job, used.method, used.case)] + [used]
        write_measured(folder / MEASURED, measured)
        print(f"{used.job} {used.method} {used.case}: {used.memory_mb:.0f} MB, {used.cpu_s:.1f} s", file=sys.stderr, flush=True)
    if not options.check:
        groups: dict[tuple[str, str], list[Used]] = {}
        for used in measured:
            groups.setdefault((used.job, used.method), []).append(used)
        narrow = [key for key, group in groups.items() if not tells(group)]
        for name, method in narrow:
            print(f"{name} {method}: measured on images too much alike, its line stays as it is", file=sys.stderr)
        merge({key: fitted(group) for key, group in groups.items() if key not in narrow})
    figures = ratios(measured)
    print("FIGURE " + " ".join(f"{name}={value:.3g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
