"""Pictures of a bake-off: the same slice by every system, with its errors; of label maps as outlines over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cohortex.bakeoff.board import Board, Scored
from cohortex.bakeoff.set_pictures import pictures_of_sets, sheet
from cohortex.bakeoff.systems import NOTHING

ENLARGED, SMALL = 220, 130
"""Pictures of the page, and of all systems in one picture, have whole multiples of their pixels up to about so many."""

COLOURS = np.array(
    [[255, 196, 0], [0, 200, 255], [255, 90, 90], [120, 230, 90], [210, 120, 255], [255, 140, 0], [0, 230, 180], [255, 160, 210]], np.uint8
)
"""Of outlines; labels beyond them begin again."""

WRONG, LACKING = np.array([255, 60, 60], np.float32), np.array([70, 130, 255], np.float32)


def pictures_of(board: Board, scored: Sequence[Scored], about: int) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """Return 8-bit pictures of about so many pixels by system, the truth first, and the factor of the errors.

    Of each, as far as there are such, ``result``, ``error`` and ``change``; of `regseg` ``warped`` in place of the change. Of `classify`
    and `recognize` see `pictures_of_sets`.
    """
    by_name = {str(each.about["system"]): each.pictures for each in scored if each.pictures}
    if not by_name:
        return {}, 1.0
    if board.kind.of_set:
        return pictures_of_sets(board, scored, about), 1.0
    if board.kind.labels:
        return _outlined(board, by_name, about), 1.0
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


def _outlined(board: Board, by_name: Mapping[str, Mapping[str, np.ndarray]], about: int) -> dict[str, dict[str, np.ndarray]]:
    first = next(iter(by_name.values()))
    image, truth = first["image"], first.get("truth")
    nothing = np.zeros(image.shape, np.uint8)
    shown = {"truth": {"result": outlined(image, nothing if truth is None else truth, about)}}
    for line in board.lines:
        if line.system not in by_name:
            continue
        own, some = by_name[line.system], {}
        if "warped" in own:
            some["warped"] = outlined(own["warped"], nothing if truth is None else truth, about)
        if "result" in own:
            some["result"] = outlined(image, own["result"], about)
            if truth is not None:
                some["error"] = mistaken(image, truth, own["result"], about)
        shown[line.system] = some
    return shown


def _enlarged(picture: np.ndarray, about: int) -> np.ndarray:
    times = max(1, round(about / max(picture.shape[:2])))
    return np.repeat(np.repeat(picture, times, 0), times, 1)


def grey(picture: np.ndarray, about: int) -> np.ndarray:
    """Return a picture of the range 0 to 1 in 8 bits, enlarged by whole pixels to about so many."""
    return _enlarged(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8), about)


def signed(difference: np.ndarray, factor: float, about: int) -> np.ndarray:
    """Return a difference times a factor in 8 bits: grey is 0, white +0.5, black -0.5."""
    return grey(0.5 + factor * difference, about)


def outlined(picture: np.ndarray, labels: np.ndarray, about: int) -> np.ndarray:
    """Return a picture of the range 0 to 1, enlarged, with the outlines of labels in colours, (rows, columns, 3) uint8."""
    found = np.repeat(grey(picture, about)[..., None], 3, axis=2)
    large = _enlarged(labels, about)
    edge = np.zeros(large.shape, bool)
    # a label is outlined inside of itself
    for axis in (0, 1):
        for step in (1, -1):
            edge |= large != np.roll(large, step, axis)
    edge &= large > 0
    found[edge] = COLOURS[(large[edge].astype(int) - 1) % len(COLOURS)]
    return found


def mistaken(picture: np.ndarray, truth: np.ndarray, labels: np.ndarray, about: int) -> np.ndarray:
    """Return a picture, (rows, columns, 3) uint8, with colours where labels are not the truth: another label, or none."""
    found = np.repeat(0.6 * 255 * np.clip(picture, 0, 1)[..., None], 3, axis=2)
    wrong, lacking = (labels != truth) & (labels > 0), (labels != truth) & (labels == 0)
    for where, colour in ((wrong, WRONG), (lacking, LACKING)):
        found[where] = 0.35 * found[where] + 0.65 * colour
    return _enlarged(np.rint(found).astype(np.uint8), about)


def montage(shown: Mapping[str, Mapping[str, np.ndarray]], board: Board) -> np.ndarray:
    """Return all pictures as one, two systems a row, each with its name and its figure above what it has."""
    if board.kind.of_set:
        return sheet(shown, board)
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    columns = [what for what in ("warped", "result", "error", "change") if any(what in some for some in shown.values())]
    some = next(picture for pictures in shown.values() for picture in pictures.values())
    height, width = some.shape[:2]
    gap, between, top = 4, 26, 24
    wide, high = len(columns) * (width + gap) + between, height + top + 8
    rows = -(-len(shown) // 2)
    whole = Image.new("L" if some.ndim == 2 else "RGB", (2 * wide - between, rows * high), "white")
    draw = ImageDraw.Draw(whole)
    measure = board.kind.measures[board.ranked_by]
    unit = "dB" if board.ranked_by == "psnr" else "nats" if board.ranked_by == "mi" else "Dice"
    known = {line.system: line.means.get(board.ranked_by) for line in board.lines}
    for number, (name, pictures) in enumerate(shown.items()):
        left, y = number % 2 * wide, number // 2 * high
        value = known.get(name)
        called = name.replace("_", " ") + ("" if value is None else f"  {value:.{measure.digits}f} {unit}")
        draw.text((left, y + 4), called, fill="black", font=font)
        for column, what in enumerate(columns):
            if what in pictures:
                whole.paste(Image.fromarray(pictures[what]), (left + column * (width + gap), y + top))
    return np.asarray(whole)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write an 8-bit picture."""
    from PIL import Image

    Image.fromarray(picture).save(path, "PNG", optimize=True)
