"""The leaderboard of a bake-off, from what its systems left: figures of test subjects, the choice by validation subjects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.score import MEASURES
from cohortex.measures.intervals import paired_interval
from cohortex.tables import read_table

CHOSEN_BY = "psnr"
"""The measure that systems are ranked by, on validation subjects."""

HONESTY = ("removed_share", "whiteness", "image_correlation", "edge_correlation", "slice_error")
"""What a system took away or added: means over test subjects, where they apply."""


@dataclass(frozen=True)
class Scored:
    """What one system left.

    Attributes
    ----------
    about : mapping
        Of its training and its scoring; ``status`` is ok or failed.
    rows, lesions : sequence of mappings
        As read: values are text.
    pictures : mapping
    """

    about: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    lesions: Sequence[Mapping[str, str]]
    pictures: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Line:
    """One system of the leaderboard.

    Attributes
    ----------
    means : mapping
        Mean over subjects of each measure and of `HONESTY`, on the subjects of the board.
    gains : mapping
        Of each measure: mean difference to the system that all are held against, on the images that both did, low, high (NaN where there
        are too few subjects).
    subjects, images : int
        That the figures are of; a model may not be for all of them.
    validation : float or None
        Mean of `CHOSEN_BY` over validation subjects, of `validation_images` images.
    recovery : mapping
        Share of planted contrast that was kept, by (diameter, contrast).
    """

    system: str
    about: Mapping[str, Any]
    means: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    subjects: int = 0
    images: int = 0
    validation: float | None = None
    validation_images: int = 0
    seconds_a_megavoxel: float | None = None
    recovery: Mapping[tuple[float, float], float] = field(default_factory=dict)


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes
    ----------
    lines : sequence of Line
        Best on validation subjects first; failed systems last.
    split : {"test", "validation"}
        Whose figures they are: validation only where the cohort has no test subjects.
    chosen : str
        The best on validation subjects, of the systems that did all of their images; empty where there are none.
    without : mapping
        Images that make no pair, and why.
    images : int
        That the figures of a system are of which did all.
    """

    task: str
    lines: Sequence[Line]
    split: str
    against: str
    chosen: str
    test_subjects: int
    validation_subjects: int
    without: Mapping[str, str]
    images: int = 0


def read_scores(folder: Path) -> Scored:
    """Read what the scoring of a system left."""
    with np.load(folder / "pictures.npz", allow_pickle=False) as pictures:
        kept = {name: pictures[name] for name in pictures.files}
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Scored(about, read_table(folder / "measures.tsv"), read_table(folder / "lesions.tsv"), kept)


def leaderboard(scored: Sequence[Scored], task: str, against: str) -> Board:
    """Return the leaderboard.

    Parameters
    ----------
    scored : sequence of Scored
        In the order of the configuration.
    task : str
    against : str
        The system that all are held against. Where it failed there are no intervals.
    """
    subjects = {split: sorted({row["subject"] for each in scored for row in each.rows if row["split"] == split}) for split in SPLITS}
    split = "test" if subjects["test"] else "validation"
    baseline = next((each for each in scored if each.about["system"] == against and each.about["status"] == "ok"), None)
    lines = [_line(each, split, baseline) for each in scored]
    whole = max((line.validation_images for line in lines), default=0)
    # Means over other images do not compare. A stable sort: equally good systems stay in the order of the configuration.
    lines.sort(key=lambda line: (line.about["status"] != "ok", line.validation_images < whole, -_order(line)))
    usable = [line for line in lines if line.validation is not None and line.validation_images == whole]
    without: dict[str, str] = {}
    for each in scored:
        without |= each.about.get("without", {})
    return Board(
        task,
        lines,
        split,
        against,
        usable[0].system if usable else "",
        len(subjects["test"]),
        len(subjects["validation"]),
        without,
        max((line.images for line in lines), default=0),
    )


SPLITS = ("validation", "test")


def table(board: Board) -> tuple[list[str], list[dict[str, Any]]]:
    """Return columns and rows of ``leaderboard.tsv``."""
    columns = ["system", "kind", "status", "chosen", "split", "subjects", "images"]
    for name in MEASURES:
        columns += [name, f"{name}_gain", f"{name}_low", f"{name}_high"]
    columns += ["validation_psnr", "against", *HONESTY]
    sizes = sorted({size for line in board.lines for size in line.recovery})
    columns += [f"recovery_{diameter:g}mm_{contrast:g}" for diameter, contrast in sizes]
    columns += ["cpu_s_megavoxel", "score_threads", "score_device", "parameters", "training_wall_s", "training_cpu_s", "threads"]
    columns += ["training_device", "seed", "steps", "minutes", "steps_done", "stopped", "reason"]
    rows = []
    for line in board.lines:
        about, budget = line.about, line.about.get("budget", {})
        row: dict[str, Any] = {
            "system": line.system,
            "kind": about.get("kind", ""),
            "status": about["status"],
            "chosen": "yes" if line.system == board.chosen else "",
            "split": board.split,
            "subjects": line.subjects,
            "images": line.images,
            "validation_psnr": line.validation,
            "against": board.against,
            "cpu_s_megavoxel": line.seconds_a_megavoxel,
            **{
                name: about.get(name)
                for name in ("score_threads", "score_device", "parameters", "threads", "seed", "steps_done", "stopped")
            },
            "training_wall_s": about.get("wall_s"),
            "training_cpu_s": about.get("cpu_s"),
            "training_device": about.get("device"),
            "steps": budget.get("steps"),
            "minutes": budget.get("minutes"),
            "reason": about.get("reason", "") or next(iter(about.get("left_out", {}).values()), ""),
            **{name: line.means.get(name) for name in (*MEASURES, *HONESTY)},
            **{f"recovery_{d:g}mm_{c:g}": value for (d, c), value in line.recovery.items()},
        }
        for name, (mean, low, high) in line.gains.items():
            row |= {f"{name}_gain": mean, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return columns, rows


def _order(line: Line) -> float:
    if line.validation is not None:
        return line.validation
    return line.means.get(CHOSEN_BY, float("-inf"))


def _line(each: Scored, split: str, baseline: Scored | None) -> Line:
    name = str(each.about["system"])
    if each.about["status"] != "ok":
        return Line(name, each.about)
    mine = {measure: _by_subject(each.rows, split, measure) for measure in (*MEASURES, *HONESTY)}
    gains = {}
    if baseline is not None and baseline is not each:
        # The same images by both: a model that is not for some of them would be held against the others.
        common = {row["image"] for row in each.rows} & {row["image"] for row in baseline.rows}
        pair = [[row for row in one.rows if row["image"] in common] for one in (each, baseline)]
        for measure in MEASURES:
            ours, theirs = (_by_subject(rows, split, measure) for rows in pair)
            both = sorted(set(ours) & set(theirs))
            values = np.array([(ours[one], theirs[one]) for one in both]).reshape(-1, 2)
            values = values[np.isfinite(values).all(axis=1)]
            if len(values):
                gains[measure] = paired_interval(values[:, 0], values[:, 1])
    validation = _by_subject(each.rows, "validation", CHOSEN_BY)
    voxels = sum(float(row["megavoxels"]) for row in each.rows)
    groups: dict[tuple[float, float], list[float]] = {}
    for row in each.lesions:
        groups.setdefault((float(row["diameter_mm"]), float(row["contrast"])), []).append(float(row["recovery"]))
    return Line(
        name,
        each.about,
        {measure: float(np.mean(list(values.values()))) for measure, values in mine.items() if values},
        gains,
        len({row["subject"] for row in each.rows if row["split"] == split}),
        sum(row["split"] == split for row in each.rows),
        float(np.mean(list(validation.values()))) if validation else None,
        sum(row["split"] == "validation" for row in each.rows),
        sum(float(row["cpu_s"]) for row in each.rows) / voxels if voxels else None,
        {size: float(np.mean(values)) for size, values in sorted(groups.items())},
    )


def _by_subject(rows: Sequence[Mapping[str, str]], split: str, measure: str) -> dict[str, float]:
    """Return the mean over each subject's images."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == split and row.get(measure):
            groups.setdefault(row["subject"], []).append(float(row[measure].replace("n/a", "nan")))
    return {subject: float(np.mean(values)) for subject, values in groups.items()}
