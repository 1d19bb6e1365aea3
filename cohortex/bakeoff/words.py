"""What the page of a bake-off says: numbers in words, what a reader has to know of the figures, the tables beside the leaderboard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cohortex.bakeoff import set_words
from cohortex.bakeoff.board import Board, Line, labels_of

STARTS = {"denoise": "noisy", "superresolve": "straight lines between slices"}


@dataclass(frozen=True)
class Beside:
    """A table beside the leaderboard: a name for the page, title, what it says, headings and cells."""

    key: str
    title: str
    about: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def figure(value: float | None, digits: int) -> str:
    """Return a number of the leaderboard; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def gain(line: Line, measure: str, digits: int) -> str:
    """Return the difference to the system that all are held against, with its interval where there is more than one subject."""
    if measure not in line.gains:
        return ""
    mean, low, high = line.gains[measure]
    return f"{mean:+.{digits}f}" + ("" if low != low else f" [{low:+.{digits}f}, {high:+.{digits}f}]")


# --- facts -------------------------------------------------------------------------------------------------------


def facts(board: Board, config: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know of the figures, as sentences."""
    asked, kind = config["bakeoff"][board.task], board.kind
    subjects = board.test_subjects if board.split == "test" else board.validation_subjects
    place = "" if kind.labels else ", in the foreground"
    said = [
        set_words.of_figures(board.task, board.images, _subjects(subjects, board.split), board.against)
        if kind.of_set
        else f"Figures are means over {_subjects(subjects, board.split)}{place}. Differences are those to {board.against} on the same "
        f"{kind.thing}s, in brackets the paired bootstrap 95 % interval over subjects.",
    ]
    if subjects == 1:
        said.append("Of one subject there is no interval: nothing is known of how the differences vary.")
    if any(line.about.get("simulated") for line in board.lines):
        said.insert(0, "Simulated data: images of the demo's generator. No figure here says how well a method works on a patient.")
    of_use = {
        "segment": "have labels of use",
        "regseg": "have a pair of use",
        "classify": "have a scan and a class",
        "recognize": "have labels of use",
    }.get(board.task, "make a pair")
    if board.split != "test":
        lacking = f"The cohort has no test subjects that {of_use}: "
        said.append(f"{lacking}these are the figures of those that the choice was made by.")
    if board.chosen:
        heading = kind.measures[board.ranked_by].heading.removesuffix(" dB")
        said.append(
            f"Ranked by {heading} on {_subjects(board.validation_subjects, 'validation')}, who alone decided: the best there is "
            f"{board.chosen}."
        )
    else:
        said.append(f"The cohort has no validation subjects that {of_use}, so nothing was chosen.")
    said += _of_training(board, asked["training"])
    told = {"denoise": _of_denoising, "superresolve": _of_slices, "segment": _of_labels, "regseg": _of_pairs}
    said += set_words.of_truth(config, board.task) if kind.of_set else told[board.task](asked)
    thing = "scans" if board.task == "segment" else kind.thing + "s"
    said += [
        f"{line.system} is not for {len(line.about['left_out'])} of the {thing}, such as {_first(line.about['left_out'])}"
        for line in board.lines
        if line.about.get("left_out")
    ]
    if board.without:
        what = {
            "segment": "Labelled scans left out",
            "regseg": "Pairs left out",
            "classify": "Scans left out",
            "recognize": "Images left out",
        }.get(board.task, "Images that make no pair")
        said.append(f"{what}: {len(board.without)}, such as {_first(board.without)}.")
    return said


def _of_training(board: Board, budget: Mapping[str, Any]) -> list[str]:
    if board.kind.of_set:
        return [set_words.of_training(board.task, budget["steps"], _time(budget["minutes"]), _alike(board))]
    if board.task != "regseg":
        return [
            f"Every network was trained with the same budget: {budget['steps']} steps, at most {_time(budget['minutes'])}{_alike(board)}."
        ]
    return [
        f"Every joint model was trained for {budget['steps']} steps of its registration and {budget['segment_steps']} of each segmentation"
        f", then for {_counted(budget['rounds'], 'round')} of {_counted(budget['turn'], 'step')} of each, unless its own "
        f"settings say otherwise; at most "
        f"{_time(budget['minutes'])}{_alike(board)}."
    ]


def _of_denoising(asked: Mapping[str, Any]) -> list[str]:
    return [
        f"The truth is a scan that the block DCT cleaned, with synthetic noise of {asked['noise']:g} times the scan's own level: what "
        "that took away is not asked for, and the system transform is at an advantage. Noise that it left, such as the correlated "
        "noise of CT, counts as truth: a network that removes it has fewer decibels here.",
        "NPS distance: spectrum of what was removed against that of the noise, 0 equal, 1 nothing in common.",
        _of_lesions(asked, ""),
    ]


def _of_slices(asked: Mapping[str, Any]) -> list[str]:
    return [
        f"The truth is a scan, seen through slices of {asked['factor']} voxels along an axis of its plane. NPS distance: spectrum of "
        "what was added to straight lines against that of what they lack, 0 equal, 1 nothing in common.",
        _of_lesions(asked, ", or 2 % of the range where there is less noise than that"),
    ]


def _of_lesions(asked: Mapping[str, Any], unless: str) -> str:
    lesions = asked["lesions"]
    return (
        f"Planted lesions: spheres of {_listed(lesions['diameters_mm'])} mm, contrast {_listed(lesions['contrasts'])} times the noise"
        f"{unless}, put in before the degradation; 1 means that all of the contrast is kept, above 1 that it is exaggerated."
    )


def _of_labels(asked: Mapping[str, Any]) -> list[str]:
    return [
        "The truth is the labels of the cohort, on the grid of each scan. All networks have the spacing, the range of values, the patch "
        "and the batch of one plan, made by the training scans, where their own settings say no other; planned_unet is built by it, too. A "
        "network of two dimensions sees slices of the patch, so fewer voxels a step.",
        "Means are over labels first, then over scans and subjects. A label that only truth or result has overlaps by 0; distances of "
        "surfaces are means over the labels that both have, and labels missed are those of the truth that the result lacks altogether. "
        "Precision is the share of a label's voxels that are true, recall the share of the true ones that were found.",
    ]


def _of_pairs(asked: Mapping[str, Any]) -> list[str]:
    return [
        "A system is given what the stage regseg is given, and what it leaves is measured: affine is the start alone, which all others "
        "have. Labels carried over are those that the cohort has of the moving image, against those of the fixed one; segmentations are "
        "those of the joint models against the cohort's labels, and the last Dice is the overlap of both after registration.",
        "Folding is the share of the body's voxels where the deformation folds. The inverse-consistency error is known where both "
        "directions were estimated. A deformation that does not raise the mutual information is left out by the stage.",
    ]


def about_search(searched: Mapping[str, Any]) -> str:
    """Return what a search of settings found, as sentences."""
    best = searched["best"]
    if best is None:
        return f"Settings of {searched['system']}: all {len(searched['history'])} that were tried failed."
    state = "the target is met" if searched["target_met"] else "best so far, no target was met"
    tested = f"; on {_subjects(searched['test']['subjects'], 'test')} {searched['test']['value']:.4g}" if searched["test"] else ""
    looked, value = _subjects(searched["chosen_on"]["subjects"], "validation"), f"{searched['heading']} {best['value']:.4g}"
    return (
        f"Settings of {searched['system']}: {len(searched['history'])} tried on {looked}, stopped at: {searched['stopped']}. "
        f"Best: {json.dumps(best['settings'])} with {value} ({state}){tested}."
    )


# --- tables ------------------------------------------------------------------------------------------------------


def headings(board: Board) -> list[str]:
    """Return the headings of the leaderboard."""
    return ["system", *(measure.heading for measure in board.kind.measures.values()), board.kind.cost, "parameters"]


def cells(line: Line, board: Board) -> list[str]:
    """Return the cells of a system in the leaderboard; one that failed says why in the second."""
    measures = board.kind.measures
    name = line.system + (" (chosen)" if line.system == board.chosen else "")
    if line.about["status"] != "ok":
        return [name, f"failed: {line.about['reason']}", *[""] * (len(measures) + 1)]
    if line.images < board.images:
        name += f" ({line.images} of {board.images} {board.kind.thing}s)"
    found = [figure(line.means.get(name), measure.digits) for name, measure in measures.items()]
    threads, device = line.about.get("score_threads", 1), line.about.get("score_device", "cpu")
    where = f" ({threads} threads)" if threads != 1 else ""
    where += " (network on the GPU)" if device != "cpu" else ""
    parameters = line.about.get("parameters")
    return [name, *found, figure(line.cost_s, 2) + where, f"{parameters:,}" if parameters else "–"]


def trained(line: Line) -> str:
    """Return what a system's training took."""
    about = line.about
    if "wall_s" not in about:
        return "model folder" if about.get("kind") == "network" else "none"
    if about.get("kind") == "method":
        return f"fitted, {about['wall_s']:.0f} s, {about['cpu_s']:.0f} CPU s"
    steps, budget = about.get("steps_done"), about["budget"]["steps"]
    # a joint training goes on after the steps that its registration learns alone
    done = "not finished" if steps is None else f"{steps} of {budget} steps" if steps <= budget else f"{steps} steps"
    ended = ", ended by its minutes" if about.get("stopped") == "minutes" else ""
    return f"{done}{ended}, {about['wall_s']:.0f} s, {about['cpu_s']:.0f} CPU s"


def beside(board: Board) -> list[Beside]:
    """Return the tables beside the leaderboard."""
    found: list[Beside] = []
    sizes = sorted({size for line in board.lines for size in line.recovery})
    if sizes:
        said = ["system", *(f"{diameter:g} mm, {contrast:g} x noise" for diameter, contrast in sizes)]
        rows = [[line.system, *(figure(line.recovery.get(size), 2) for size in sizes)] for line in board.lines if line.recovery]
        found.append(Beside("lesions", "Planted lesions", "Share of the contrast that is kept.", said, rows))
    names = labels_of(board)
    if names:
        said = ["system", *(name.replace("_", " ") for name in names)]
        first = next(iter(board.kind.of_each))
        rows = [[line.system, *(figure(line.labels.get(name, {}).get(first), 3) for name in names)] for line in board.lines if line.labels]
        title = "Classes" if board.kind.of_set else "Labels"
        found.append(Beside("labels", title, f"{_of_each(board)} Further measures of each are in leaderboard.tsv.", said, rows))
    further = board.kind.further
    if further:
        title, about = _further(board.task)
        rows = [[line.system, *(figure(line.means.get(name), 3) for name in further)] for line in board.lines if line.means]
        found.append(Beside("honest", title, about, ["system", *(name.replace("_", " ") for name in further)], rows))
    return found


def _of_each(board: Board) -> str:
    return {
        "regseg": "Dice of each label that was carried over.",
        "classify": "AUC of each class against the rest.",
        "recognize": "Average precision of each class.",
    }.get(board.task, "Dice of each label.")


def _further(task: str) -> tuple[str, str]:
    if task == "denoise":
        return (
            "What was taken away or added",
            "Removed share: deviation of what was removed over that of the noise; 1 is right, more took anatomy along. Whiteness: 1 where "
            "what was removed has no memory from voxel to voxel. Correlations of what was removed with the image and, by magnitude, with "
            "its edges: near 0 where only noise went.",
        )
    if task == "superresolve":
        return (
            "What was taken away or added",
            "Slice error: how far the means over slices are from the slices that were given, 0 where nothing measured is contradicted. "
            "Correlations of what was added with the image and, by magnitude, with its edges: detail belongs at edges.",
        )
    return (
        "How far things moved",
        "Dice of labels carried over before anything was moved, by the headers' positions alone; 95th percentile of the lengths of the "
        "deformation in the body, where one was kept.",
    )


def caption(board: Board, factor: float) -> str:
    """Return what the pictures show."""
    if board.kind.of_set:
        return set_words.PICTURES[board.task].format(split=board.split)
    if board.task == "segment":
        return (
            f"One slice of a {board.split} subject: outlines of a system's labels, and where it errs: red where it has another label than "
            "the truth, blue where it has none. What is not for this scan has no picture; Dice is that of the table."
        )
    if board.task == "regseg":
        return (
            f"One slice of a {board.split} subject: the moving image, brought to the fixed one, below the outlines of the fixed image's "
            "labels; the fixed image below outlines of the labels carried over; and where these are wrong: red where there is another "
            "label than the truth, blue where there is none. What is not for this pair has no picture; Dice is that of the table."
        )
    return (
        f"One slice of a {board.split} subject, the same grey scale throughout: result, error and change. Error: result minus truth, "
        f"times {factor:g}, grey is 0. Change: result minus what was given ({STARTS[board.task]}), times {factor:g}. What is not for this "
        "image has no picture; decibels are those of the table."
    )


# --- pieces ------------------------------------------------------------------------------------------------------


def _alike(board: Board) -> str:
    """Return what the trainings ran on and with which seed."""
    ran = {(line.about["threads"], line.about.get("device", "cpu"), line.about["seed"]) for line in board.lines if "wall_s" in line.about}
    words = (f"{threads} thread{'' if threads == 1 else 's'}, {device}, seed {seed}" for threads, device, seed in sorted(ran))
    return f" ({'; '.join(words)})" if ran else ""


def _time(minutes: float) -> str:
    """Return a time in words: seconds below two minutes."""
    return f"{minutes:g} minutes" if minutes >= 2 else f"{60 * minutes:.0f} seconds"


def _subjects(count: int, split: str) -> str:
    return f"{count} {split} subject" + ("" if count == 1 else "s")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")


def _listed(values: Sequence[float]) -> str:
    words = [f"{value:g}" for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _first(without: Mapping[str, str]) -> str:
    name, reason = next(iter(sorted(without.items())))
    return f"{name}: {reason}"
