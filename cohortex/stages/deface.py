"""Stage `deface`: take the face out of the image of a head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cohortex.blocks import map_blocks
from cohortex.errors import BadInput, Skip
from cohortex.items import Image, Made
from cohortex.report.faces import HEADS
from cohortex.stages.preprocess import SHADED
from cohortex.stages.regseg_models import Model
from cohortex.stages.regseg_models import load as load
from cohortex.survey import survey

AIR_HU = -1024.0
REMOVED, NEAR, LEFT, UNCHECKED = "brain-removed", "brain-near", "face-left", "brain-unchecked"
FEW_RAYS = 100
"""Of fewer rays that meet a face nothing is said: nearly none of it is in the image."""


def deface(image: Image, settings: Mapping[str, Any], model: Mapping[str, Model] | None, seed: int) -> Made:
    """Set face and, if wanted, ears to the value of air; everything else stays bit by bit.

    The MNI152 template's brain is laid over the image's brain. What lies in front of and below a plane from the brow to the throat, and not
    within a margin of the template's brain, is removed with the air around it (`cohortex.faces`).

    Parameters
    ----------
    image : Image
        A head in MR of any contrast or CT, on any grid.
    settings : mapping
        ``weights`` (of a segmentation of any head), ``margin_mm``, ``ears``, ``most_brain_percent``, ``warn_brain_percent``,
        ``most_face_percent``, ``assume_body_part`` (schemas/stages/deface.json).
    model : mapping
        What `load` gave.
    seed : int
        Of the samples of the search.

    Returns
    -------
    Made
        The volume, its history longer by a step ``deface`` with ``Defaced: true``, with the measures

        - defaced: True
        - removed_brain_percent: share of the brain that was removed; brain_from says by whom the brain was seen: network (a segmentation
          that knows nothing of where the face was put) or template (its brain, deformed)
        - face_left_percent: share of the face's skin, seen from in front, that is where it was (nothing where no face is in the image)
        - removed_percent: share of the voxels
        - template_agreement: Dice of the segmented brain and the template's

    Raises
    ------
    Skip
        ``not-a-head``, ``no-fit`` (neither MR nor CT) or ``picture``.
    BadInput
        ``brain-removed``, ``head-not-found``, ``constant`` or ``not-finite``.
    """
    from cohortex import faces
    from cohortex.models.regseg.grid import COARSE_MM, Grid, body_level, reduced, size_unit
    from cohortex.stages.deface_place import TEMPLATE, placed

    volume = image.volume
    part = _head(image, settings)
    look = survey(volume)
    if look.wrong:
        raise BadInput("not-finite", f"{image.id} has values that are not finite; mend or leave out the image.")
    if not look.high > look.low:
        raise BadInput("constant", f"{image.id} has the value {look.low:g} in every voxel: export the scan again, or leave it out.")
    place = placed(image, part, settings, model or {}, seed)
    deep = faces.region(float(settings["margin_mm"]), bool(settings["ears"]))
    lost = 100.0 * float((faces.depth_at(deep, place.brain_mm) > 0).mean()) if len(place.brain_mm) else 0.0
    if lost > float(settings["most_brain_percent"]):
        raise BadInput(
            REMOVED,
            f"defacing {image.id} would remove {lost:.1f} % of its brain, more than deface: most_brain_percent allows "
            f"({settings['most_brain_percent']:g}): look at the scan, and leave it out of the cohort or deface it by hand.",
        )
    small, _ = reduced(look.data, volume.affine, COARSE_MM * size_unit(volume.shape, volume.affine))
    level = body_level(small, volume.modality)
    seen = faces.seen_from_in_front(look.data, volume.affine, 0.0 if level is None else level, deep, place.matrix)
    air = air_of(volume.modality, look.low)
    where = faces.region_on(Grid(volume.shape, volume.affine), deep, place.matrix)
    counts: list[int] = []

    def without(block: np.ndarray, depth: np.ndarray) -> np.ndarray:
        gone = depth > 0
        counts.append(int(gone.sum()))
        return np.where(gone, block.dtype.type(air), block)

    data = map_blocks(without, look.data, where, dtype=volume.data.dtype)
    step = {"step": "deface", "Defaced": True, "margin_mm": settings["margin_mm"], "ears": settings["ears"], "air": air}
    step["template_to_image"] = [[float(f"{number:.6g}") for number in row] for row in place.matrix]
    measures: dict[str, Any] = {
        "defaced": True,
        "removed_brain_percent": lost,
        "brain_from": place.by,
        "removed_percent": 100.0 * sum(counts) / float(np.prod(volume.shape)),
    }
    if place.by != TEMPLATE:
        measures["template_agreement"] = place.agreement
    if seen.rays >= FEW_RAYS:
        measures["face_left_percent"] = seen.left_percent
    doubts = []
    if lost > float(settings["warn_brain_percent"]):
        doubts.append((NEAR, f"{lost:.1f} % of what was taken for brain was removed; look whether the brain is whole"))
    if measures.get("face_left_percent", 0.0) > float(settings["most_face_percent"]):
        doubts.append((LEFT, f"{seen.left_percent:.0f} % of the face's skin is where it was; look at the image before it is given away"))
    if place.by == TEMPLATE:
        doubts.append((UNCHECKED, f"no segmentation checks that the brain is whole ({place.why}); look at the image"))
    word = {"status": "warned", "code": doubts[0][0], "reason": "; ".join(sentence for _, sentence in doubts)} if doubts else {}
    return Made(volume.with_data(data, step=step), measures=measures, **word)  # type: ignore[arg-type]


def air_of(modality: str, lowest: float) -> float:
    """Return the value of air: of CT -1024 HU or the image's lowest value above that, of MR 0 or its lowest value below that."""
    return max(AIR_HU, lowest) if modality == "CT" else min(0.0, lowest)


def _head(image: Image, settings: Mapping[str, Any]) -> str:
    """Return the body part of a head that can be defaced; what is none is skipped."""
    volume = image.volume
    if min(volume.shape) == 1:
        raise Skip("picture", "A single slice is not defaced.")
    part = image.body_part or settings.get("assume_body_part") or ""
    if part not in HEADS:
        known = f"It shows the {part}" if part else "Nobody says what body part it shows (column body_part, deface: assume_body_part)"
        raise Skip("not-a-head", f"{known}: only heads are defaced.")
    if volume.modality != "CT" and volume.modality not in SHADED and not volume.modality.endswith("w"):
        raise Skip("no-fit", f"Only MR magnitudes and CT are defaced, not {volume.modality or 'an unknown modality'}.")
    return part if part in ("head", "brain") else "head"
