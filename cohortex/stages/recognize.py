"""Stage `recognize`: puts a box with a label and a score around every thing that a network was trained to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import BadInput, Skip
from cohortex.items import DEMO_SITE, Image, Made
from cohortex.models import registry
from cohortex.models.folder import Loaded, fits, load_used
from cohortex.survey import survey
from cohortex.tables import column_word
from cohortex.volume import Volume

if TYPE_CHECKING:
    from cohortex.models.recognize.findings import Findings

FRAME = (255, 120, 0)
"""Colour of the boxes in the picture."""
AXES = "xyz"


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Loaded]:
    """Load the models that the section's settings use, by their name in the configuration.

    Raises
    ------
    Refused
        When a folder is broken, not one of this stage, or its card does not say how the network is fed.
    """
    from cohortex.models.recognize.apply import fed_of

    loaded = load_used(section, folders, device, "recognize", [entry.name for entry in registry.entries("recognize")])
    for each in loaded.values():
        fed_of(each.card)
    return loaded


def recognize(image: Image, settings: Mapping[str, Any], model: Mapping[str, Loaded] | None, seed: int) -> list[Made]:
    """Return what a network finds in an image, as a table of boxes; the image itself goes on untouched.

    Parameters
    ----------
    image : Image
        Any grid; (x, y, 1) for a picture.
    settings : mapping
        ``weights``; ``score`` (null: the card's), ``overlap``, ``most``, ``slices``. See ``schemas/stages/recognize.json``.
    model : mapping
        What `load` gave.
    seed : int
        Not used: nothing is random here.

    Returns
    -------
    list of Made
        The table ``boxes``, one row a finding, the surest first: ``finding`` (from 1), ``label``, ``score`` (0..1); its box in voxels of
        the image with half-open edges, ``x_low`` to ``z_high`` (over voxels 3 to 5 it is 3 to 6); its middle in the world, ``x_mm``,
        ``y_mm``, ``z_mm`` (RAS), and ``longest_mm``, its longest edge. No table where nothing was found. Measures of the image:
        ``findings``, ``highest_score``, with several classes ``findings_<label>``, and ``model``.

    Raises
    ------
    BadInput
        ``not-finite`` when the image has NaN or infinite values, ``bad-result`` when what the network gives has.
    Skip
        ``no-model`` where none is named, ``no-fit`` where it is not for this image, ``demo-only`` where it knows simulated heads only and
        the scan is real, ``constant`` when the image shows nothing.

    References
    ----------
    The networks' own (`cohortex.models.recognize`); boxes of slices are joined as by Jaeger et al., arXiv:1811.08661.
    """
    loaded = (model or {}).get(settings.get("weights") or "")
    if loaded is None:
        raise Skip("no-model", "No detector is configured: name a model folder (or train) under recognize.default.weights.")
    from cohortex.models.recognize.apply import Asked, NotFinite, fed_of, found_in

    card = loaded.card
    if card["extra"].get("cohort") == "demo" and image.row.get("site") != DEMO_SITE:
        raise Skip(
            "demo-only",
            f"The model {card['name']} knows simulated heads only and is not asked about a real scan: train one on your own cohort "
            "(recognize.default.weights: train).",
        )
    volume = image.volume
    misfit = fits(card, replace(volume, modality=image.modality, body_part=image.body_part or volume.body_part))
    if misfit is not None:
        raise Skip("no-fit", f"{misfit[:1].upper()}{misfit[1:]}.")
    look = survey(volume)
    if look.wrong:
        raise BadInput("not-finite", "The image has NaN or infinite values; mend or remove it.")
    if look.low == look.high:
        raise Skip("constant", f"All voxels are {look.low:g}: there is nothing to find.")
    fed, chosen = fed_of(card), settings.get("score")
    asked = Asked(
        score=fed.score if chosen is None else float(chosen),
        overlap=float(settings.get("overlap", 0.3)),
        most=int(settings.get("most", 100)),
        slices=int(settings.get("slices", 1)),
    )
    try:
        found = found_in(replace(volume, data=look.data), loaded.network, fed, asked, loaded.device)
    except NotFinite:
        sentence = f"The model {card['name']} gives values that are not finite for this image: train it on such images, or leave it out."
        raise BadInput("bad-result", sentence) from None
    word = Made(of=image.id, measures=_measures(found, fed.classes, card["name"]), previews=_picture(volume, found))
    return [word, Made(_table(found, fed.classes, volume), of=image.id, tag="boxes")] if len(found) else [word]


def _measures(found: Findings, classes: list[str], model: str) -> dict[str, Any]:
    measures: dict[str, Any] = {"findings": len(found), "highest_score": round(float(found.scores[0]), 4) if len(found) else None}
    if len(classes) > 1:
        measures |= {f"findings_{column_word(name)}": int((found.labels == k).sum()) for k, name in enumerate(classes)}
    return {**measures, "model": model}


def _table(found: Findings, classes: list[str], volume: Volume) -> dict[str, list[Any]]:
    corners = np.round(found.corners, 2)
    table: dict[str, list[Any]] = {
        "finding": list(range(1, len(found) + 1)),
        "label": [classes[k] for k in found.labels],
        "score": [round(float(score), 4) for score in found.scores],
    }
    for axis, name in enumerate(AXES):
        table |= {f"{name}_low": corners[:, axis].tolist(), f"{name}_high": corners[:, 3 + axis].tolist()}
    # an edge lies half a voxel before the voxel's centre, which is what the affine speaks of
    middles = ((corners[:, :3] + corners[:, 3:]) / 2 - 0.5) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    table |= {f"{name}_mm": np.round(middles[:, axis], 2).tolist() for axis, name in enumerate(AXES)}
    edges = (corners[:, 3:] - corners[:, :3]) * np.array(volume.spacing)
    seen = edges if volume.shape[2] > 1 else edges[:, :2]
    return {**table, "longest_mm": np.round(seen.max(axis=1), 2).tolist()}


def _picture(volume: Volume, found: Findings) -> dict[str, np.ndarray]:
    """Return the axial slice through the middle of the surest finding with the boxes that it cuts."""
    from cohortex.report.previews import orthogonal_views

    if not len(found):
        return {}
    place = min(int((found.corners[0, 2] + found.corners[0, 5]) / 2), volume.shape[2] - 1)
    views = orthogonal_views(replace(volume, data=np.asarray(volume.data[:, :, place : place + 1])))
    if "axial" not in views:
        return {}
    picture = np.repeat(views["axial"][..., None], 3, axis=2)
    rows, columns = picture.shape[:2]
    for corners in found.corners[(found.corners[:, 2] <= place) & (found.corners[:, 5] > place)]:
        # the patient's right is on the left, the front up: both axes run against those of the grid
        left, right = (columns * (1 - corners[axis] / volume.shape[0]) for axis in (3, 0))
        top, bottom = (rows * (1 - corners[axis] / volume.shape[1]) for axis in (4, 1))
        a, b = (int(np.clip(round(v), 0, columns - 1)) for v in (left, right - 1))
        c, d = (int(np.clip(round(v), 0, rows - 1)) for v in (top, bottom - 1))
        picture[[c, d], a : b + 1] = FRAME
        picture[c : d + 1, [a, b]] = FRAME
    return {"findings_axial": picture}
