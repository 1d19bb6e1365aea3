"""The leaderboard of a bake-off, from what its systems left: figures of test subjects, the choice by validation subjects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff import sets
from cohortex.bakeoff.kinds import KINDS, LABEL_MEASURES, Kind
from cohortex.measures.intervals import paired_interval
from cohortex.tables import column_word, read_table


@dataclass(frozen=True)
class Scored:
    """What one system left.

    Attributes
    ----------
    about : mapping
        Of its training and its scoring; ``status`` is ok or failed.
    rows, lesions, labels : sequence of mappings
        As read: values are text. A system has rows of planted lesions or of labels.
    pictures : mapping
    """

    about: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    lesions: Sequence[Mapping[str, str]]
    pictures: Mapping[str, np.ndarray]
    labels: Sequence[Mapping[str, str]] = ()
    answers: Sequence[Mapping[str, str]] = ()
    """See `cohortex.bakeoff.sets.ANSWERS`."""


@dataclass(frozen=True)
class Line:
    """One system of the leaderboard.

    Attributes
    ----------
    means : mapping
        Mean over subjects of each measure and of what is further told (`kinds.Kind`), on the subjects of the board; of all images
        together where the measures are such.
    gains : mapping
        Of each measure: mean difference to the system that all are held against, on the images that both did, low, high (NaN where there
        are too few subjects).
    subjects, images : int
        That the figures are of; a model may not be for all of them.
    validation : float or None
        Mean of what systems are ranked by over validation subjects, of `validation_images` images.
    cost_s : float or None
        CPU seconds for a million voxels, or for a scan or pair (`kinds.Kind.each`).
    recovery : mapping
        Share of planted contrast that was kept, by (diameter, contrast).
    labels : mapping
        Of each label or class by its name: means over subjects of `kinds.Kind.of_each`.
    """

    system: str
    about: Mapping[str, Any]
    means: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    subjects: int = 0
    images: int = 0
    validation: float | None = None
    validation_images: int = 0
    cost_s: float | None = None
    recovery: Mapping[tuple[float, float], float] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


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
    ranked_by : str
        The measure that validation subjects ranked the systems by.
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
    ranked_by: str = "psnr"

    @property
    def kind(self) -> Kind:
        """Return what the task measures."""
        return KINDS[self.task]


def read_scores(folder: Path) -> Scored:
    """Read what the scoring of a system left."""
    with np.load(folder / "pictures.npz", allow_pickle=False) as pictures:
        kept = {name: pictures[name] for name in pictures.files}
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    names = ("lesions", "labels", "answers")
    lesions, labels, answers = (read_table(file) if (file := folder / f"{name}.tsv").is_file() else [] for name in names)
    return Scored(about, read_table(folder / "measures.tsv"), lesions, kept, labels, answers)


def leaderboard(scored: Sequence[Scored], task: str, against: str, overlap: float = 0.5) -> Board:
    """Return the leaderboard.

    Parameters
    ----------
    scored : sequence of Scored
        In the order of the configuration.
    task : str
    against : str
        The system that all are held against. Where it failed there are no intervals.
    overlap : float
        Of `recognize`: from which a box counts as right.
    """
    subjects = {split: sorted({row["subject"] for each in scored for row in each.rows if row["split"] == split}) for split in SPLITS}
    split = "test" if subjects["test"] else "validation"
    baseline = next((each for each in scored if each.about["system"] == against and each.about["status"] == "ok"), None)
    kind = KINDS[task]
    if kind.of_set:
        lines, ranked_by = _of_sets(scored, task, split, baseline, overlap)
    else:
        known = [name for name in kind.ranked_by if any(row.get(name) for each in scored for row in each.rows)]
        ranked_by = (known or kind.ranked_by)[0]
        lines = [_line(each, split, baseline, kind, ranked_by) for each in scored]
    whole = max((line.validation_images for line in lines), default=0)
    # Means over other images do not compare. A stable sort: equally good systems stay in the order of the configuration.
    lines.sort(key=lambda line: (line.about["status"] != "ok", line.validation_images < whole, -_order(line, ranked_by)))
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
        ranked_by,
    )


SPLITS = ("validation", "test")


def table(board: Board) -> tuple[list[str], list[dict[str, Any]]]:
    """Return columns and rows of ``leaderboard.tsv``."""
    kind, ranked = board.kind, f"validation_{board.ranked_by}"
    columns = ["system", "kind", "status", "chosen", "split", "subjects", "images"]
    for name in kind.measures:
        columns += [name, f"{name}_gain", f"{name}_low", f"{name}_high"]
    columns += [ranked, "against", *kind.further]
    sizes = sorted({size for line in board.lines for size in line.recovery})
    columns += [f"recovery_{diameter:g}mm_{contrast:g}" for diameter, contrast in sizes]
    of_labels = {f"{measure}_{column_word(name)}": (name, measure) for name in labels_of(board) for measure in kind.of_each}
    columns += list(of_labels)
    columns += [kind.cost_column, "score_threads", "score_device", "parameters", "training_wall_s", "training_cpu_s", "threads"]
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
            ranked: line.validation,
            "against": board.against,
            kind.cost_column: line.cost_s,
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
            **{name: line.means.get(name) for name in (*kind.measures, *kind.further)},
            **{f"recovery_{d:g}mm_{c:g}": value for (d, c), value in line.recovery.items()},
            **{column: line.labels.get(name, {}).get(measure) for column, (name, measure) in of_labels.items()},
        }
        for name, (mean, low, high) in line.gains.items():
            row |= {f"{name}_gain": mean, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return columns, rows


def labels_of(board: Board) -> list[str]:
    """Return the names of all labels in the order of their values."""
    return list(dict.fromkeys(name for line in board.lines for name in line.labels))


def _order(line: Line, ranked_by: str) -> float:
    if line.validation is not None:
        return line.validation
    return line.means.get(ranked_by, float("-inf"))


def _line(each: Scored, split: str, baseline: Scored | None, kind: Kind, ranked_by: str) -> Line:
    name = str(each.about["system"])
    if each.about["status"] != "ok":
        return Line(name, each.about)
    mine = {measure: _by_subject(each.rows, split, measure) for measure in (*kind.measures, *kind.further)}
    gains = {}
    if baseline is not None and baseline is not each:
        # The same images by both: a model that is not for some of them would be held against the others.
        common = {row["image"] for row in each.rows} & {row["image"] for row in baseline.rows}
        pair = [[row for row in one.rows if row["image"] in common] for one in (each, baseline)]
        for measure in kind.measures:
            ours, theirs = (_by_subject(rows, split, measure) for rows in pair)
            both = sorted(set(ours) & set(theirs))
            values = np.array([(ours[one], theirs[one]) for one in both]).reshape(-1, 2)
            values = values[np.isfinite(values).all(axis=1)]
            if len(values):
                gains[measure] = paired_interval(values[:, 0], values[:, 1])
    validation = _by_subject(each.rows, "validation", ranked_by)
    counted = sum(float(row["megavoxels"]) for row in each.rows) if kind.each == "megavoxels" else len(each.rows)
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
        sum(float(row["cpu_s"]) for row in each.rows) / counted if counted else None,
        {size: float(np.mean(values)) for size, values in sorted(groups.items())},
        _by_label(each.labels, split),
    )


def _of_sets(scored: Sequence[Scored], task: str, split: str, baseline: Scored | None, overlap: float) -> tuple[list[Line], str]:
    """Return the lines of systems whose measures are of all images together, and what validation subjects rank them by."""
    kind = KINDS[task]

    def said(each: Scored, of: str, only: set[str] | None = None) -> sets.Said:
        return sets.said_of(task, each.rows, each.answers, each.about["classes"], overlap, only, of)

    usable = [each for each in scored if each.about["status"] == "ok"]
    chosen_by = {id(each): sets.figures(said(each, "validation")) for each in usable}
    ranked_by = next((name for name in kind.ranked_by if any(name in values for values in chosen_by.values())), kind.ranked_by[0])
    lines = []
    for each in scored:
        name = str(each.about["system"])
        if each.about["status"] != "ok":
            lines.append(Line(name, each.about))
            continue
        gains = {}
        if baseline is not None and baseline is not each:
            common = {row["image"] for row in each.rows} & {row["image"] for row in baseline.rows}
            gains = sets.differences(said(each, split, common), said(baseline, split, common))
        whole, own = said(each, split), [row for row in each.rows if row["split"] == split]
        lines.append(
            Line(
                name,
                each.about,
                sets.figures(whole),
                gains,
                len(set(whole.subjects)),
                len(own),
                chosen_by[id(each)].get(ranked_by),
                sum(row["split"] == "validation" for row in each.rows),
                sum(float(row["cpu_s"]) for row in each.rows) / len(each.rows) if each.rows else None,
                {},
                sets.of_each(whole),
            )
        )
    return lines, ranked_by


def _by_label(rows: Sequence[Mapping[str, str]], split: str) -> dict[str, dict[str, float]]:
    """Return the means over subjects of the measures of each label, by its name, labels in the order of their values."""
    names = {int(row["label"]): row["name"] for row in rows}
    found: dict[str, dict[str, float]] = {}
    for label, name in sorted(names.items()):
        own = [row for row in rows if int(row["label"]) == label]
        means = {measure: list(_by_subject(own, split, measure).values()) for measure in LABEL_MEASURES}
        found[name] = {measure: float(np.mean(values)) for measure, values in means.items() if values}
    return found


def _by_subject(rows: Sequence[Mapping[str, str]], split: str, measure: str) -> dict[str, float]:
    """Return the mean over each subject's images."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["split"] == split and row.get(measure):
            groups.setdefault(row["subject"], []).append(float(row[measure].replace("n/a", "nan")))
    return {subject: float(np.mean(values)) for subject, values in groups.items()}
