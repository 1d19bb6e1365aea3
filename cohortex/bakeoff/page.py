"""Writes the leaderboard of a bake-off: a table, a Markdown page, an HTML page, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.bakeoff.board import Board, Line, Scored, leaderboard, read_scores, table
from cohortex.bakeoff.score import MEASURES
from cohortex.bakeoff.systems import NOTHING
from cohortex.publish import atomic_path, write_text
from cohortex.report.html import environment, policy, source
from cohortex.report.pictures import png
from cohortex.tables import write_table

ENLARGED, SMALL = 220, 130
"""Pictures of the page, and of all systems in one picture, have whole multiples of their pixels up to about so many."""

TITLES = {"denoise": "Bake-off: noise reduction", "superresolve": "Bake-off: super-resolution"}
DIGITS = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "hfen": 3, "nps_distance": 3}
STARTS = {"denoise": "noisy", "superresolve": "straight lines between slices"}


def write_page(scores: Sequence[Path], adjust: Path | None, folder: Path, config: Mapping[str, Any], task: str) -> Board:
    """Write ``leaderboard.tsv``, ``leaderboard.md``, ``index.html`` and ``pictures`` into a folder.

    Parameters
    ----------
    scores : sequence of Path
        What the scoring of each system left.
    adjust : Path or None
        What the search of settings left.
    folder : Path
    config : mapping
    task : str
    """
    scored = [read_scores(each) for each in scores]
    board = leaderboard(scored, task, config["bakeoff"][task]["against"])
    searched = json.loads((adjust / "evaluation.json").read_text(encoding="utf-8")) if adjust else None
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "leaderboard.tsv", *table(board))
    shown, factor = pictures_of(board, scored, ENLARGED)
    with atomic_path(folder / "pictures") as temporary:
        temporary.mkdir()
        if shown:
            save_png(montage(pictures_of(board, scored, SMALL)[0], board), temporary / "compared.png")
    write_text(folder / "leaderboard.md", markdown(board, config, searched, factor if shown else None))
    write_text(folder / "index.html", html(board, config, searched, shown, factor))
    return board


# --- words -------------------------------------------------------------------------------------------------------


def figure(value: float | None, digits: int) -> str:
    """Return a number of the leaderboard; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def gain(line: Line, measure: str) -> str:
    """Return the difference to the system that all are held against, with its interval where there is more than one subject."""
    if measure not in line.gains:
        return ""
    mean, low, high = line.gains[measure]
    digits = DIGITS[measure]
    return f"{mean:+.{digits}f}" + ("" if low != low else f" [{low:+.{digits}f}, {high:+.{digits}f}]")


def facts(board: Board, config: Mapping[str, Any]) -> list[str]:
    """Return what a reader has to know of the figures, as sentences."""
    asked, budget = config["bakeoff"][board.task], config["bakeoff"][board.task]["training"]
    whose = _subjects(board.test_subjects if board.split == "test" else board.validation_subjects, board.split)
    said = [
        f"Figures are means over {whose}, in the foreground. Differences are those to {board.against} on the same images, in brackets the "
        "paired bootstrap 95 % interval over subjects.",
    ]
    if (board.test_subjects if board.split == "test" else board.validation_subjects) == 1:
        said.append("Of one subject there is no interval: nothing is known of how the differences vary.")
    if any(line.about.get("simulated") for line in board.lines):
        said.insert(0, "Simulated data: images of the demo's generator. No figure here says how well a method works on a patient.")
    if board.split != "test":
        said.append("The cohort has no test subjects that make a pair: these are the figures of those that the choice was made by.")
    if board.chosen:
        said.append(
            f"Ranked by PSNR on {_subjects(board.validation_subjects, 'validation')}, who alone decided: the best there is {board.chosen}."
        )
    else:
        said.append("The cohort has no validation subjects that make a pair, so nothing was chosen.")
    said.append(
        f"Every network was trained with the same budget: {budget['steps']} steps, at most {_time(budget['minutes'])}{_alike(board)}."
    )
    if board.task == "denoise":
        said.append(
            f"The truth is a scan that the block DCT cleaned, with synthetic noise of {asked['noise']:g} times the scan's own level: what "
            "that took away is not asked for, and the system transform is at an advantage. Noise that it left, such as the correlated "
            "noise of CT, counts as truth: a network that removes it has fewer decibels here."
        )
        said.append("NPS distance: spectrum of what was removed against that of the noise, 0 equal, 1 nothing in common.")
    else:
        said.append(
            f"The truth is a scan, seen through slices of {asked['factor']} voxels along an axis of its plane. NPS distance: spectrum of "
            "what was added to straight lines against that of what they lack, 0 equal, 1 nothing in common."
        )
    lesions = asked["lesions"]
    said.append(
        f"Planted lesions: spheres of {_listed(lesions['diameters_mm'])} mm, contrast {_listed(lesions['contrasts'])} times the noise"
        + ("" if board.task == "denoise" else ", or 2 % of the range where there is less noise than that")
        + ", put in before the degradation; 1 means that all of the contrast is kept, above 1 that it is exaggerated."
    )
    said += [
        f"{line.system} is not for {len(line.about['left_out'])} of the images, such as {_first(line.about['left_out'])}"
        for line in board.lines
        if line.about.get("left_out")
    ]
    if board.without:
        said.append(f"Images that make no pair: {len(board.without)}, such as {_first(board.without)}.")
    return said


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


def markdown(board: Board, config: Mapping[str, Any], searched: Mapping[str, Any] | None, factor: float | None) -> str:
    """Return the page as Markdown."""
    lines = [f"# {TITLES[board.task]}", "", *(f"- {sentence}" for sentence in facts(board, config)), "", "## Leaderboard", ""]
    # One interval: with those of all measures the table is too wide to be read. They are in leaderboard.tsv and on the page.
    first, headings = next(iter(MEASURES)), _headings()
    headings = [*headings[:2], "difference", *headings[2:], "training"]
    lines += _table(
        headings, [[*(cells := _cells(line, board))[:2], gain(line, first), *cells[2:], _trained(line)] for line in board.lines]
    )
    sizes = sorted({size for line in board.lines for size in line.recovery})
    if sizes:
        lines += ["", "## Planted lesions", "", "Share of the contrast that is kept.", ""]
        headings = ["system", *(f"{diameter:g} mm, {contrast:g} x noise" for diameter, contrast in sizes)]
        lines += _table(headings, [[line.system, *(figure(line.recovery.get(size), 2) for size in sizes)] for line in board.lines])
    lines += ["", "## What was taken away or added", "", _honest(board), ""]
    names = _honesty(board)
    rows = [[line.system, *(figure(line.means.get(name), 3) for name in names)] for line in board.lines if line.means]
    lines += _table(["system", *(name.replace("_", " ") for name in names)], rows)
    if searched is not None:
        lines += ["", "## Settings", "", about_search(searched)]
    if factor is not None:
        lines += ["", "## Pictures", "", _caption(board, factor), "", "![The systems on one slice](pictures/compared.png)"]
    return "\n".join(lines) + "\n"


def html(
    board: Board,
    config: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
    shown: Mapping[str, Mapping[str, np.ndarray]],
    factor: float,
) -> str:
    """Return the page as one HTML file with its pictures inside."""
    templates = environment()
    style = source(templates, "style.css")
    sizes = sorted({size for line in board.lines for size in line.recovery})
    honest = _honesty(board)
    return templates.get_template("bakeoff.html").render(
        title=TITLES[board.task],
        style=style,
        policy=policy(style),
        facts=facts(board, config),
        headings=_headings(),
        lines=[(line, _cells(line, board), ["", *(gain(line, each) for each in MEASURES)], _trained(line)) for line in board.lines],
        chosen=board.chosen,
        sizes=[f"{diameter:g} mm, {contrast:g} × noise" for diameter, contrast in sizes],
        recovery=[(line.system, [figure(line.recovery.get(size), 2) for size in sizes]) for line in board.lines if line.recovery],
        honest=_honest(board),
        honesty=[name.replace("_", " ") for name in honest],
        structure=[(line.system, [figure(line.means.get(name), 3) for name in honest]) for line in board.lines if line.means],
        searched=about_search(searched) if searched else "",
        caption=_caption(board, factor),
        pictures={
            name: {what: (png(picture), picture.shape[1], picture.shape[0]) for what, picture in some.items()}
            for name, some in shown.items()
        },
    )


def _headings() -> list[str]:
    return ["system", *(heading for heading, _ in MEASURES.values()), "CPU s / megavoxel", "parameters"]


def _cells(line: Line, board: Board) -> list[str]:
    name = line.system + (" (chosen)" if line.system == board.chosen else "")
    if line.about["status"] != "ok":
        return [name, f"failed: {line.about['reason']}", *[""] * (len(MEASURES) + 1)]
    if line.images < board.images:
        name += f" ({line.images} of {board.images} images)"
    cells = [figure(line.means.get(measure), DIGITS[measure]) for measure in MEASURES]
    threads, device = line.about.get("score_threads", 1), line.about.get("score_device", "cpu")
    where = f" ({threads} threads)" if threads != 1 else ""
    where += " (network on the GPU)" if device != "cpu" else ""
    parameters = line.about.get("parameters")
    return [name, *cells, figure(line.seconds_a_megavoxel, 2) + where, f"{parameters:,}" if parameters else "–"]


def _trained(line: Line) -> str:
    about = line.about
    if "wall_s" not in about:
        return "model folder" if about.get("kind") == "network" else "none"
    done = f"{about['steps_done']} of {about['budget']['steps']} steps" if about.get("steps_done") is not None else "not finished"
    ended = ", ended by its minutes" if about.get("stopped") == "minutes" else ""
    return f"{done}{ended}, {about['wall_s']:.0f} s, {about['cpu_s']:.0f} CPU s"


def _alike(board: Board) -> str:
    """Return what the trainings ran on and with which seed."""
    ran = {(line.about["threads"], line.about.get("device", "cpu"), line.about["seed"]) for line in board.lines if "wall_s" in line.about}
    words = (f"{threads} thread{'' if threads == 1 else 's'}, {device}, seed {seed}" for threads, device, seed in sorted(ran))
    return f" ({'; '.join(words)})" if ran else ""


def _honesty(board: Board) -> list[str]:
    names = ["image_correlation", "edge_correlation"]
    return ["removed_share", "whiteness", *names] if board.task == "denoise" else ["slice_error", *names]


def _honest(board: Board) -> str:
    if board.task == "denoise":
        return (
            "Removed share: deviation of what was removed over that of the noise; 1 is right, more took anatomy along. Whiteness: 1 where "
            "what was removed has no memory from voxel to voxel. Correlations of what was removed with the image and, by magnitude, with "
            "its edges: near 0 where only noise went."
        )
    return (
        "Slice error: how far the means over slices are from the slices that were given, 0 where nothing measured is contradicted. "
        "Correlations of what was added with the image and, by magnitude, with its edges: detail belongs at edges."
    )


def _caption(board: Board, factor: float) -> str:
    return (
        f"One slice of a {board.split} subject, the same grey scale throughout: result, error and change. Error: result minus truth, "
        f"times {factor:g}, grey is 0. Change: result minus what was given ({STARTS[board.task]}), times {factor:g}. What is not for this "
        "image has no picture; decibels are those of the table."
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def _time(minutes: float) -> str:
    """Return a time in words: seconds below two minutes."""
    return f"{minutes:g} minutes" if minutes >= 2 else f"{60 * minutes:.0f} seconds"


def _subjects(count: int, split: str) -> str:
    return f"{count} {split} subject" + ("" if count == 1 else "s")


def _listed(values: Sequence[float]) -> str:
    words = [f"{value:g}" for value in values]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]


def _first(without: Mapping[str, str]) -> str:
    name, reason = next(iter(sorted(without.items())))
    return f"{name}: {reason}"


# --- pictures ----------------------------------------------------------------------------------------------------


def pictures_of(board: Board, scored: Sequence[Scored], about: int) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """Return 8-bit pictures of about so many pixels by system, the truth and doing nothing first, and the factor of the errors.

    Of each ``result``, ``error`` and ``change``, as far as there are such.
    """
    by_name = {each.about["system"]: each.pictures for each in scored if each.pictures}
    if not by_name:
        return {}, 1.0
    first = next(iter(by_name.values()))
    truth, start = first["truth"], first["start"]
    # Three deviations of the input's error reach black or white, by a factor that is easily said.
    deviation = float(np.std(start - truth))
    factor = float(np.clip(2.0 ** np.round(np.log2(0.5 / (3 * deviation + 1e-9))), 1, 64))
    nothing = NOTHING[board.task]
    shown = {
        "truth": {"result": grey(truth, about)},
        nothing: {"result": grey(start, about), "error": signed(start - truth, factor, about)},
    }
    for line in board.lines:
        if line.system in by_name and line.system != nothing:
            result = by_name[line.system]["result"]
            errors = {"error": signed(result - truth, factor, about), "change": signed(result - start, factor, about)}
            shown[line.system] = {"result": grey(result, about), **errors}
    return shown, factor


def grey(picture: np.ndarray, about: int) -> np.ndarray:
    """Return a picture of the range 0 to 1 in 8 bits, enlarged by whole pixels to about so many."""
    times = max(1, round(about / max(picture.shape)))
    small = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return np.repeat(np.repeat(small, times, 0), times, 1)


def signed(difference: np.ndarray, factor: float, about: int) -> np.ndarray:
    """Return a difference times a factor in 8 bits: grey is 0, white +0.5, black -0.5."""
    return grey(0.5 + factor * difference, about)


def montage(shown: Mapping[str, Mapping[str, np.ndarray]], board: Board) -> np.ndarray:
    """Return all pictures as one, two systems a row, each with its name and its PSNR above result, error and change."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    height, width = next(iter(shown.values()))["result"].shape
    gap, between, top = 4, 26, 24
    wide, high = 3 * (width + gap) + between, height + top + 8
    rows = -(-len(shown) // 2)
    whole = Image.new("L", (2 * wide - between, rows * high), 255)
    draw = ImageDraw.Draw(whole)
    psnrs = {line.system: line.means.get("psnr") for line in board.lines}
    for number, (name, some) in enumerate(shown.items()):
        left, y = number % 2 * wide, number // 2 * high
        known = psnrs.get(name)
        called = name.replace("_", " ") + ("" if known is None else f"  {known:.2f} dB")
        draw.text((left, y + 4), called, fill=0, font=font)
        for column, what in enumerate(("result", "error", "change")):
            if what in some:
                whole.paste(Image.fromarray(some[what]), (left + column * (width + gap), y + top))
    return np.asarray(whole)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write an 8-bit picture."""
    from PIL import Image

    Image.fromarray(picture).save(path, "PNG", optimize=True)
