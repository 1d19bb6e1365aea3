"""Stage `regseg`: bring the images of a subject together and label them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import divided, new_array
from cohortex.errors import Skip
from cohortex.items import Image, Made, settings_for, told
from cohortex.stages.regseg_labels import carried, flagged, segmented, users_flags
from cohortex.stages.regseg_models import Joint, Model, Registering, Subject, is_for_kind
from cohortex.stages.regseg_models import load as load
from cohortex.volume import Volume

if TYPE_CHECKING:
    from cohortex.models.regseg.deform import Prepared
    from cohortex.models.regseg.pair import Pair
    from cohortex.models.regseg.register import Registration

ALONE = "no-partner"
"""Code of an image that was labelled, but has nothing to be moved to."""


def regseg(images: Sequence[Image], section: Mapping[str, Any], model: Mapping[str, Model] | None, seed: int) -> list[Made]:
    """Register the pairs of a subject and segment its images.

    Parameters
    ----------
    images : sequence of Image
        Everything of a subject.
    section : mapping
        ``default`` with the rules ``pair`` and the rest of ``schemas/stages/regseg.json``, overlaid by modality.
    model : mapping
        What `load` gave.
    seed : int
        Of the samples of the affine search, and of the changes that the uncertainty looks at.

    Returns
    -------
    list of Made
        ``+seg`` labels of an image on its own grid, ``+uncertainty`` where they are unsure (if asked for); of a pair ``+warped``,
        ``+warpedseg``, ``+affine``, ``+field`` at the moving image and ``+<MOVING>seg`` at the fixed one. Measures at the moving image:
        mutual information and E_msMIND before and after, folding, length of the deformation, error of its inverse, overlap of the two
        segmentations and of labels that the user gave; at every segmented image the volumes of its labels, how unsure they are, and the
        Dice to be expected of them where the model's card has a calibration. What cannot be trusted is warned of with a code
        (`cohortex.stages.regseg_labels.FIRST`).

    Raises
    ------
    Skip
        ``no-pair`` when no rule pairs the images and no model fits them.
    BadInput
        ``not-finite`` when an image has NaN or infinite values, ``bad-result`` when the class probabilities of a network have.
    """
    scans = {i.id: i for i in images if i.kind == "image" and i.role == "image" and "+" not in i.id}
    # What is made of a subject is held until all of it is there; a pair is what the plan is made for.
    with divided(len(scans) // 2):
        return _brought_together(scans, images, section, model or {}, seed)


def _brought_together(
    scans: dict[str, Image], images: Sequence[Image], section: Mapping[str, Any], models: Mapping[str, Model], seed: int
) -> list[Made]:
    """Return what `regseg` does, of the scans and everything else of a subject."""
    from cohortex.models.regseg.pair import names_of, pairs_of, without_partner

    solid = [i for i in scans.values() if min(i.volume.shape) > 1]
    default = section["default"]
    pairs = pairs_of(solid, default.get("pair", ()), default.get("missing", "skip"))
    subject = Subject(scans, names_of(list(scans.values())), section, models, seed)
    made: list[Made] = []
    words: dict[str, Made] = {}
    for image in scans.values():
        made += segmented(image, subject, words)
    if not pairs and not made:
        reasons = "; ".join(sorted(set(subject.misfits.values())))
        raise Skip("no-pair", f"There is nothing to register it to (regseg: pair), and nothing labels it: {reasons or 'no volume'}.")
    users = {i.id.rsplit("+", 1)[0]: i for i in images if i.kind == "labels" and i.role == "labels" and i.id.endswith("+labels")}
    for name, wanted in without_partner(solid, default.get("pair", ()), pairs).items():
        if name in words:
            reason = f"There is no {wanted} of this subject to move it to (regseg: pair, missing: skip); it was labelled only."
            words[name] = replace(words[name], code=words[name].code or ALONE, reason="; ".join(filter(None, [words[name].reason, reason])))
    for pair in pairs:
        made += _registered(pair, subject, users, words, seed)
    for name, theirs in users.items():
        if name in scans:
            words[name] = flagged(words.get(name, Made(of=name)), users_flags(scans[name], theirs, section))
    partners = {i.id for p in pairs for i in (p.moving, p.fixed) if i is not None}
    for image in scans.values():
        if image.id not in words and image.id not in partners:
            why = subject.misfits.get(image.id, "it is a picture")
            reason = f"There is nothing to register it to (regseg: pair), and nothing labels it: {why}."
            words[image.id] = Made(of=image.id, status="skipped", code="no-pair", reason=reason)
    return made + [words.get(i, Made(of=i)) for i in scans]


def _registered(pair: Pair, subject: Subject, users: Mapping[str, Image], words: dict[str, Made], seed: int) -> list[Made]:
    """Return what a pair gives, and put its measures and pictures into the moving image's word."""
    from cohortex.models.regseg.grid import Grid, field_on, looked, resample
    from cohortex.models.regseg.register import OVERLAPLESS

    moving = pair.moving
    fixed = pair.fixed
    settings = settings_for(subject.section, moving.modality)
    if not pair.deform:
        settings["deformable"] = {**settings["deformable"], "method": "none"}
    if fixed is None:
        # left and right of the template are as alike as can be
        settings["mirrored"] = False
    target, here = (fixed.volume, subject.of(fixed)) if fixed is not None else _template()
    model = _pair_model(pair, subject)
    found, said = _pose(here, subject.of(moving), pair, settings, model, seed)
    grid, name, to = Grid(target.shape, target.affine), subject.names[moving.id], _space(pair)
    partner = to if fixed is None else fixed.id
    before = words.get(moving.id, Made(of=moving.id))
    fallback = told("float32", "; ".join(filter(None, [before.measures.get("fallback"), said])))
    measures: dict[str, Any] = {**before.measures, **found.measures, **fallback, "fixed": partner}
    if model is not None and model is subject.registering_for(pair) and str(found.measures.get("deformed_by", "")).startswith("network"):
        measures["register_model"] = model.card["name"]
    if any(code == OVERLAPLESS for code, _ in found.doubts):
        # An image of nothing but the background would look like a result.
        words[moving.id] = flagged(replace(before, measures=measures), found.doubts)
        return []
    sources = (moving.id, *((fixed.id,) if fixed is not None else ()))
    volume = moving.volume
    lowest = -1024.0 if moving.modality == "CT" else 0.0
    array = subject.of(moving).array
    out = new_array(grid.shape)
    warped = resample(array, volume.affine, grid, found.matrix, found.displacement, outside=lowest, out=out)
    step = {"step": "registered", "to": partner, "freedom": pair.freedom, "deformed": found.displacement is not None}
    between = {"from": name, "to": to}
    whole = volume.with_data(warped, target.affine, step)
    made = [
        Made(whole, of=moving.id, tag="warped", entities={"space": to, "desc": "warped"}, sources=sources),
        Made(found.matrix, of=moving.id, tag="affine", entities=between, sources=sources),
    ]
    if found.displacement is not None:
        moves = field_on(grid, found.displacement, new_array((*grid.shape, 3)))
        mm = Volume(moves, target.affine, moving.modality, "field", moving.body_part)
        made.append(Made(mm, of=moving.id, tag="field", entities=between, sources=sources))
    labels, overlaps, flags = carried(pair, subject, users, found, grid, to)
    made += labels
    measures |= overlaps
    samples = int(settings.get("uncertainty", {}).get("samples", 0))
    if samples:
        measures |= _spread(here, subject.of(moving), pair, settings, subject, found, samples, seed)
    pictures = _checkerboards(target, whole, "after")
    # of the image as it lay only the slices of the pictures are computed
    pictures |= _checkerboards(target, whole.with_data(looked(array, volume.affine, grid, outside=lowest)), "before")
    word = replace(before, measures=measures, previews={**before.previews, **pictures})
    words[moving.id] = flagged(word, [*found.doubts, *flags])
    return made


def _pose(
    fixed: Prepared,
    moving: Prepared,
    pair: Pair,
    settings: Mapping[str, Any],
    model: Joint | Registering | None,
    seed: int,
    start: np.ndarray | None = None,
) -> tuple[Registration, str]:
    """Return where the moving image lies, and what was said where a GPU's memory did not suffice."""
    import torch

    from cohortex.models.regseg.register import register

    if model is None:
        return register(fixed, moving, pair.freedom, settings, seed=seed, start=start), ""
    spacing = float(model.card["extra"]["working_spacing_mm"])
    how = (fixed, moving, pair.freedom, settings)
    try:
        return register(*how, model.register.to(model.device), spacing, seed, model.device, start), ""
    except torch.OutOfMemoryError:
        if model.device == "cpu":
            raise
        torch.cuda.empty_cache()
        said = f"the memory of {model.device} does not hold the pair: it was registered on the CPU"
        return register(*how, model.register.to("cpu"), spacing, seed, start=start), said


def _spread(
    fixed: Prepared,
    moving: Prepared,
    pair: Pair,
    settings: Mapping[str, Any],
    subject: Subject,
    found: Registration,
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Return how far apart the points of the body end when the pair is registered again from starts nearby, so often.

    A deformation has to undo what its start was moved by; a rigid or affine motion alone is searched for anew, with other samples.
    """
    from cohortex.models.regseg.grid import Grid, bounds, size_unit
    from cohortex.models.regseg.uncertainty import nudged, spread_mm

    grid = Grid(fixed.mask.shape, fixed.mask_affine)  # type: ignore[arg-type]
    middle, unit = np.mean(bounds(fixed.mask, fixed.mask_affine), axis=0), size_unit(fixed.array.shape, fixed.affine)
    rng = np.random.default_rng([seed % 2**63, *pair.moving.id.encode()])
    ways = [(found.matrix, found.displacement)]
    quiet = {**settings, "mirrored": False}
    for number in range(samples):
        start = nudged(found.matrix, middle, unit, rng) if found.displacement is not None else None
        again, _ = _pose(fixed, moving, pair, quiet, _pair_model(pair, subject), seed + number + 1, start)
        ways.append((again.matrix, again.displacement))
    mean, p95 = spread_mm(grid, fixed.mask, ways)
    return {"spread_mm": mean, "spread_p95_mm": p95}


def _pair_model(pair: Pair, subject: Subject) -> Joint | Registering | None:
    """Return the model whose registration network is for this kind of pair: one by itself before the joint one."""
    if pair.fixed is None:
        return None
    single = subject.registering_for(pair)
    if single is not None:
        return single
    joint, other = subject.model_for(pair.moving), subject.model_for(pair.fixed)
    if joint is None or other is not joint or joint is not subject.first_for(pair.moving):
        return None
    return joint if is_for_kind(joint.card, pair) else None


def _space(pair: Pair) -> str:
    """Return what the fixed image's space is called: its modality, for a later visit the first one's session, or the template."""
    from cohortex.models.regseg.pair import TEMPLATE_SPACE

    if pair.fixed is None:
        return TEMPLATE_SPACE
    elsewhere = pair.fixed.session != pair.moving.session and pair.fixed.session
    return f"ses{pair.fixed.session}" if elsewhere and pair.fixed.modality == pair.moving.modality else pair.fixed.modality


def _template() -> tuple[Volume, Prepared]:
    """Return the MNI152 T1 that nilearn ships, skull-stripped."""
    from cohortex.faces import template_brain
    from cohortex.models.regseg.deform import prepare

    array, affine = template_brain()
    return Volume(array, affine, "T1w", "image", "head"), prepare(array, affine, "T1w")


def _checkerboards(target: Volume, moving: Volume, when: str) -> dict[str, np.ndarray]:
    from cohortex.report.previews import checkerboard, orthogonal_views

    # Views of one grid have one shape; both have their own grey window.
    ours, theirs = orthogonal_views(target), orthogonal_views(moving)
    return {f"checkerboard_{view}_{when}": checkerboard(ours[view], theirs[view]) for view in ours}
