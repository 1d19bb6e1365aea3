"""Pictures of the bake-offs of classification and recognition: scans with what each system says of them, boxes over slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.bakeoff.board import Board, Scored

if TYPE_CHECKING:
    from PIL.Image import Image

RIGHT, FALSE, PLAIN, TRUE = (0, 120, 40), (190, 30, 30), (0, 0, 0), (255, 255, 255)
COLOURS = ((255, 196, 0), (0, 200, 255), (255, 90, 90), (120, 230, 90), (210, 120, 255), (255, 140, 0))
"""Of the boxes of each class; those beyond them begin again."""
LINE = 15
"""Pixels of a line of text."""
GAP = 6


def pictures_of_sets(board: Board, scored: Sequence[Scored], about: int) -> dict[str, dict[str, np.ndarray]]:
    """Return 8-bit pictures in colours, (rows, columns, 3), of about so many pixels.

    Of `classify` each scan with what the systems say of it, by class; of `recognize` each image with the boxes, truth first, by system.
    """
    by_name = {str(each.about["system"]): each for each in scored if each.pictures}
    scans: dict[str, np.ndarray] = {}
    for each in by_name.values():
        scans |= {key.removeprefix("scan_"): array for key, array in each.pictures.items() if key.startswith("scan_")}
    if board.task == "classify":
        truth = {row["image"]: row["truth"] for each in by_name.values() for row in each.answers if row["image"] in scans}
        return {
            name: {image: _told(image, plane, board, by_name, about) for image, plane in scans.items() if truth[image] == name}
            for name in sorted(set(truth.values()))
        }
    any_of = {image: next(each for each in by_name.values() if f"true_{image}" in each.pictures) for image in scans}
    shown = {"truth": {image: _boxed(plane, [], any_of[image].pictures[f"true_{image}"], about) for image, plane in scans.items()}}
    for line in board.lines:
        own = by_name[line.system].pictures if line.system in by_name else {}
        some = {image: (plane, own[f"true_{image}"], own[f"found_{image}"]) for image, plane in scans.items() if f"found_{image}" in own}
        if some:
            shown[line.system] = {image: _boxed(*each, about) for image, each in some.items()}
    return shown


def sheet(shown: Mapping[str, Mapping[str, np.ndarray]], board: Board) -> np.ndarray:
    """Return all pictures as one: of `classify` a row a class, of `recognize` a row a system with its figure above."""
    known = {line.system: line.means.get(board.ranked_by) for line in board.lines} if board.task == "recognize" else {}
    digits = board.kind.measures[board.ranked_by].digits
    rows = []
    for name, some in shown.items():
        value = known.get(name)
        title = name.replace("_", " ") + ("" if value is None else f"  mAP {value:.{digits}f}")
        rows.append(_titled(list(some.values()), title))
    return np.asarray(_stacked(rows))


def fitted(plane: np.ndarray, about: int) -> tuple[np.ndarray, float]:
    """Return a picture of the range 0 to 1 in 8-bit colours of about so many pixels, and how many of its pixels one has become."""
    longest = max(plane.shape)
    times, block = max(1, round(about / longest)), max(1, round(longest / about))
    if block > 1:
        rows, columns = (n // block * block for n in plane.shape)
        plane = plane[:rows, :columns].reshape(rows // block, block, columns // block, block).mean(axis=(1, 3))
    grey = np.rint(np.clip(plane, 0, 1) * 255).astype(np.uint8)
    return np.repeat(np.repeat(np.repeat(grey[..., None], 3, axis=2), times, 0), times, 1), times / block


def _boxed(plane: np.ndarray, truth: Any, found: Any, about: int) -> np.ndarray:
    """Return a slice with true boxes in white below found ones in the colours of their classes."""
    picture, scale = fitted(plane, about)
    for boxes, plain in ((truth, True), (found, False)):
        for box in np.asarray(boxes, float).reshape(-1, 5):
            low = np.clip(np.floor(box[:2] * scale).astype(int), 0, np.array(picture.shape[:2]) - 1)
            high = np.clip(np.ceil(box[2:4] * scale).astype(int) - 1, low, np.array(picture.shape[:2]) - 1)
            colour = TRUE if plain else COLOURS[int(box[4]) % len(COLOURS)]
            picture[[low[0], high[0]], low[1] : high[1] + 1] = colour
            picture[low[0] : high[0] + 1, [low[1], high[1]]] = colour
    return picture


def _told(image: str, plane: np.ndarray, board: Board, by_name: Mapping[str, Scored], about: int) -> np.ndarray:
    """Return a scan above its class and what each system says of it, green where that is right."""
    lines: list[tuple[str, tuple[int, int, int]]] = []
    for line in board.lines:
        own = [row for row in by_name[line.system].answers if row["image"] == image] if line.system in by_name else []
        if own:
            lines = lines or [(f"truth: {own[0]['truth']}", PLAIN)]
            surest = max(own, key=lambda row: float(row["probability"]))
            right = surest["class"] == surest["truth"]
            lines.append((f"{line.system}: {surest['class']} {float(surest['probability']):.2f}", RIGHT if right else FALSE))
    return _under(fitted(plane, about)[0], lines)


def _under(picture: np.ndarray, lines: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    from PIL import Image, ImageDraw

    font = _font()
    wide = max([picture.shape[1], *(int(font.getlength(text)) + 2 for text, _ in lines)])
    whole = Image.new("RGB", (wide, picture.shape[0] + LINE * len(lines) + 4), "white")
    whole.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(lines):
        draw.text((0, picture.shape[0] + 2 + LINE * number), text, fill=colour, font=font)
    return np.asarray(whole)


def _titled(pictures: Sequence[np.ndarray], title: str) -> Image:
    """Return pictures side by side below a line of text."""
    from PIL import Image, ImageDraw

    row, font = _beside([Image.fromarray(each) for each in pictures]), _font()
    whole = Image.new("RGB", (max(row.width, int(font.getlength(title)) + 2), row.height + LINE + 5), "white")
    ImageDraw.Draw(whole).text((0, 2), title, fill=PLAIN, font=font)
    whole.paste(row, (0, LINE + 5))
    return whole


def _beside(images: Sequence[Image]) -> Image:
    from PIL import Image

    whole = Image.new("RGB", (sum(each.width + GAP for each in images) - GAP, max(each.height for each in images)), "white")
    left = 0
    for each in images:
        whole.paste(each, (left, 0))
        left += each.width + GAP
    return whole


def _stacked(rows: Sequence[Image]) -> Image:
    from PIL import Image

    whole = Image.new("RGB", (max(each.width for each in rows), sum(each.height + GAP for each in rows) - GAP), "white")
    top = 0
    for each in rows:
        whole.paste(each, (0, top))
        top += each.height + GAP
    return whole


def _font() -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(12)
