"""What the page shows of how a model was trained: the curves of its card, and the examples that the training left beside it."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cohortex.report.charts import curves
from cohortex.report.records import number

EXAMPLES, PICTURE_BYTES, PICTURE_EDGE = 3, 100_000, 512
"""Examples that are shown, and the largest picture that is taken from a model folder (bytes, pixels along an axis)."""

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Trained:
    """What is shown of a training.

    Attributes
    ----------
    words : str
        Steps, objective and what ended it; empty where the card does not say.
    charts : sequence of (title, svg)
    examples : sequence of sequence of (word, address, width, height)
        Pictures beside each other, as data addresses.
    """

    words: str
    charts: Sequence[tuple[str, Markup]]
    examples: Sequence[Sequence[tuple[str, str, int, int]]]


def trained(card: Mapping[str, Any], shown: Mapping[str, Any]) -> Trained:
    """Return what is shown of the training of a model.

    Parameters
    ----------
    card : mapping
        Its card; ``recipe`` has ``loss`` (means of equal parts of the steps), ``validation`` ([step, value], ...) and ``steps_done``, or
        ``rounds`` of these.
    shown : mapping
        What `cohortex.training.shown` kept; empty where the folder has nothing of it.
    """
    recipe = card.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    rounds = recipe.get("rounds")
    rounds = [each for each in rounds if isinstance(each, Mapping)] if isinstance(rounds, list) else [recipe]
    losses, points, before = [], [], 0.0
    for each in rounds:
        steps = number(each.get("steps_done")) or 0.0
        losses.append(_loss(each.get("loss"), before, steps))
        points.append(_points(each.get("validation"), before))
        before += steps
    charts = []
    if any(len(line) > 1 for line in losses):
        charts.append(("Loss", curves([line for line in losses if len(line) > 1], "The loss of the training over its steps", before)))
    if any(len(line) > 1 for line in points):
        title = f"Validation: {shown['measured']}" if shown.get("measured") else "Validation"
        charts.append(
            (title, curves([line for line in points if len(line) > 1], "The error on validation subjects over the steps", before))
        )
    return Trained(_words(recipe, before), charts, _examples(shown.get("examples")))


def _words(recipe: Mapping[str, Any], steps: float) -> str:
    objective = recipe.get("objective")
    about = objective.get("about") if isinstance(objective, Mapping) else None
    words = [f"{steps:,.0f} steps".replace(",", "\u202f")] if steps else []
    words += [str(about)] if about else []
    words += ["ended by its minutes, so not repeatable"] if recipe.get("stopped") == "minutes" else []
    return ", ".join(words)


def _loss(values: Any, before: float, steps: float) -> list[tuple[float, float]]:
    """Return the means of equal parts of the steps at the middle of each part."""
    found = [number(value) for value in values] if isinstance(values, list) else []
    part = (steps or len(found)) / max(1, len(found))
    return [(before + (i + 0.5) * part, value) for i, value in enumerate(found) if value is not None]


def _points(values: Any, before: float) -> list[tuple[float, float]]:
    pairs = [each for each in values if isinstance(each, list) and len(each) == 2] if isinstance(values, list) else []
    found = [(number(step), number(value)) for step, value in pairs]
    return [(before + step, value) for step, value in found if step is not None and value is not None]


def _examples(kept: Any) -> list[list[tuple[str, str, int, int]]]:
    """Return the examples of which every picture is one: a model folder may come from anywhere."""
    found = []
    for example in kept[:EXAMPLES] if isinstance(kept, list) else []:
        pictures = [(str(word), *_picture(text)) for word, text in example.items()] if isinstance(example, Mapping) else []
        if pictures and all(address for _, address, _, _ in pictures):
            found.append(pictures)
    return found


def _picture(text: Any) -> tuple[str, int, int]:
    """Return the data address of a PNG and its size; an empty one for anything else."""
    if not isinstance(text, str) or len(text) > PICTURE_BYTES:
        return "", 0, 0
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return "", 0, 0
    if not raw.startswith(PNG) or len(raw) < 24:
        return "", 0, 0
    width, height = struct.unpack(">II", raw[16:24])
    if not 0 < math.hypot(width, height) <= 2 * PICTURE_EDGE:
        return "", 0, 0
    return f"data:image/png;base64,{text}", width, height
