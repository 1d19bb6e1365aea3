"""From measurements of jobs to the factors of ``cohortex/needs.tsv``, and what is asked beside what was used (`benchmarks.resources`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cohortex import resources
from cohortex.publish import write_json
from cohortex.resources import Load, Need, Part
from cohortex.stages import STAGES
from cohortex.tables import read_table, write_table

NEEDS = Path(resources.__file__).with_name("needs.tsv")


@dataclass
class Used:
    """One measurement."""

    job: str
    method: str
    case: str
    load: Load
    config: Mapping[str, Any]
    memory_mb: float
    cpu_s: float
    wall_s: float
    disk_mb: float
    factor: float = 1.0


MEASURED = "measured.json"
"""What was measured so far: a run on the same folder adds to it, and the factors are those of all of it."""


def write_measured(file: Path, measured: Sequence[Used]) -> None:
    """Keep measurements."""
    write_json(file, [vars(used) for used in measured])


def read_measured(file: Path) -> list[Used]:
    """Return what `write_measured` kept; nothing where there is no file."""
    if not file.is_file():
        return []
    rows = json.loads(file.read_text())
    for row in rows:
        parts, subject_mb = row["load"]
        row["load"] = Load(tuple(Part(*part[:-1], tuple(part[-1])) for part in parts), subject_mb)
    return [Used(**row) for row in rows]


def above(columns: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return factors >= 0 such that columns @ factors is nowhere below `used`, and nowhere more than the least multiple of it.

    Parameters
    ----------
    columns : (measurements, factors) array
    used : (measurements,) array, > 0
    """
    from scipy.optimize import linprog

    count = columns.shape[1]
    # factors and t: used <= columns @ factors <= t used, t as small as can be; of several, the small factors
    over = np.hstack([-columns, np.zeros((len(used), 1))])
    under = np.hstack([columns, -used[:, None]])
    cost = np.r_[1e-9 * columns.sum(axis=0) / used.sum(), 1.0]
    found = linprog(cost, np.vstack([over, under]), np.r_[-used, np.zeros(len(used))], bounds=[(0, None)] * (count + 1))
    assert found.success, found.message
    return found.x[:-1]


def fitted(measured: Sequence[Used]) -> Need:
    """Return the factors of one job and method."""
    memory, times, size = zip(*(columns(used) for used in measured), strict=True)
    base_mb, held, streamed = above(np.array(memory), np.array([used.memory_mb for used in measured]))
    start_s, item_s, seconds_mb = above(np.array(times), np.array([used.cpu_s for used in measured]))
    return Need(base_mb, held, streamed, start_s, item_s, seconds_mb, max(used.disk_mb / n for used, n in zip(measured, size, strict=True)))


SPAN = 2.4
"""A factor is believed where the largest measurement is on so many times what the smallest one is on."""


LARGE_MB = 5.0
"""... and, of stages, where it is at least so large."""


def tells(measured: Sequence[Used]) -> bool:
    """Return whether measurements are on sizes that differ enough to tell a factor from what every job takes."""
    memory, times, _ = zip(*(columns(used) for used in measured), strict=True)
    held, work = [each[1] for each in memory if each[1]], [max(each[1:]) for each in times]
    if measured[0].job in STAGES and max(held, default=LARGE_MB) < LARGE_MB:
        return False
    return len(measured) > 1 and all(max(sizes) >= SPAN * min(sizes) for sizes in (held, work) if sizes)


def columns(used: Used) -> tuple[tuple[float, float, float], tuple[float, float, float], float]:
    """Return by what `cohortex.resources` multiplies the factors of memory, of time and of disk for a job."""
    images = sum(part.images for part in used.load.parts)
    total_mb = used.factor * sum(part.total_mb for part in used.load.parts)
    if used.job == "train":
        return (1.0, total_mb, 0.0), (1.0, images, resources.training_steps(used.method, used.config[used.method])), total_mb
    if used.job not in STAGES:
        return (1.0, images, 0.0), (1.0, images, 0.0), images
    stage, blocks_mb = STAGES[used.job], float(used.config["blocks"]["memory_mb"])
    whole = stage.unit == "subject" and used.job != "export"
    largest_mb = (1.0 if whole else used.factor) * max(part.largest_mb for part in used.load.parts)
    held_mb = used.load.subject_mb if whole else largest_mb
    from_plan = stage.streams and largest_mb > resources.stays_mb(blocks_mb)
    return (1.0, 0.0, blocks_mb) if from_plan else (1.0, held_mb, 0.0), (1.0, images, total_mb), total_mb


def merge(found: Mapping[tuple[str, str], Need]) -> None:
    """Write the factors into ``needs.tsv``; those of jobs that were not measured stay."""
    columns = ["job", "method", *Need.__dataclass_fields__]
    rows = {(row["job"], row["method"]): row for row in read_table(NEEDS)} if NEEDS.is_file() else {}
    for (name, method), need in found.items():
        rows[name, method] = {"job": name, "method": method, **{key: f"{value:.4g}" for key, value in vars(need).items()}}
    order = [*STAGES, "demo", "train", "report", "verdict"]
    write_table(NEEDS, columns, sorted(rows.values(), key=lambda row: (order.index(row["job"]), row["method"])))
    resources.needs.cache_clear()


def ratios(measured: Sequence[Used]) -> dict[str, float]:
    """Print asked beside used, and return the worst ratios."""
    print("| job | method | images | MB | memory used | asked | ratio | CPU s | wall s | asked s | ratio | disk MB | asked |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    memory, seconds = [], []
    for used in measured:
        asked = asked_for(used)
        memory.append(asked.memory_mb / used.memory_mb)
        seconds.append(asked.seconds / used.cpu_s)
        total = sum(part.total_mb for part in used.load.parts)
        print(
            f"| {used.job} | {used.method} | {used.case} | {total:.3g} | {used.memory_mb:.0f} | {asked.memory_mb:.0f} | {memory[-1]:.2f} "
            f"| {used.cpu_s:.1f} | {used.wall_s:.1f} | {asked.seconds:.1f} | {seconds[-1]:.2f} | {used.disk_mb:.1f} | {asked.disk_mb:.0f} |"
        )
    return {
        "memory_ratio_max": max(memory),
        "memory_ratio_min": min(memory),
        "time_ratio_max": max(seconds),
        "time_ratio_min": min(seconds),
    }


def asked_for(used: Used) -> resources.Ask:
    """Return what the rule of a measured job asks for."""
    if used.job == "train":
        return resources.ask_training(used.method, used.config, used.load)
    if used.job not in STAGES:
        return resources.ask_for(used.job, sum(part.images for part in used.load.parts))
    return resources.ask(used.job, used.config, used.load)
