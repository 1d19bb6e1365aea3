"""The labels of stage `regseg`: made by networks, judged without a truth, carried from image to image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import at_hand, map_blocks, new_array
from cohortex.items import Image, Made, settings_for, told
from cohortex.stages.regseg_models import ANY, Labeller, Said, Subject, labeller_for
from cohortex.volume import ArrayLike, Volume

if TYPE_CHECKING:
    from cohortex.models.regseg.grid import Grid
    from cohortex.models.regseg.pair import Pair
    from cohortex.models.regseg.register import Registration

EMPTY, DOUBTFUL, THEIRS_EMPTY, THEIRS_UNKNOWN, THEIRS_APART, THEIRS_SWAPPED = (
    *("labels-empty", "labels-doubtful", "user-labels-empty", "user-labels-unexpected", "user-labels-differ", "user-labels-swapped"),
)
FIRST = ("no-overlap", EMPTY, DOUBTFUL, "left-right-flipped", "deformation-folded", "registration-not-better", "partial-overlap")
"""Codes in the order in which one of several is named; the reason tells of all."""
MOST_VALUES = 8
"""Label values that a sentence names."""


def flagged(word: Made, flags: Sequence[tuple[str, str]]) -> Made:
    """Return a word on an image with further (code, sentence), as a warning."""
    if not flags:
        return word
    known = [(word.code, word.reason)] if word.code else []
    codes = [code for code, _ in (*known, *flags)]
    first = min(codes, key=lambda code: FIRST.index(code) if code in FIRST else len(FIRST))
    return replace(word, status="warned", code=first, reason="; ".join(sentence for _, sentence in (*known, *flags)))


def segmented(image: Image, subject: Subject, words: dict[str, Made]) -> list[Made]:
    """Return the labels of an image where a network is for it, and put what is known of them into its word."""
    from cohortex.measures.segmentation import volumes_ml
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid

    notes: list[str] = []
    labeller, settings = labeller_for(image, subject, notes.append), settings_for(subject.section, image.modality)
    if labeller is None:
        return []
    soft, precision = labeller.look(labeller.values)
    if settings.get("crf"):
        soft = _along_edges(soft, labeller, settings["crf"])
    said = subject.said[image.id] = Said(soft, labeller.grid, labeller.card)
    own = Grid(image.volume.shape, image.volume.affine)
    labels = labels_on(own, soft, labeller.grid)
    names = said.names
    measures: dict[str, Any] = {f"volume_{names[k]}_ml": v for k, v in volumes_ml(labels, image.volume.spacing).items()}
    made = [_labels(image, labels, "seg", said, image.volume.affine, {"space": image.modality, "desc": "regseg"}, (image.id,))]
    judged, flags, seen = _judged(image, subject, labeller, said, settings)
    measures |= {**judged, "model": said.card["name"], **told(precision, "; ".join(notes))}
    pictures: dict[str, np.ndarray] = {}
    if settings.get("uncertainty", {}).get("map"):
        map_of, pictures = _map(image, own, said, seen)
        made.append(map_of)
    words[image.id] = flagged(Made(of=image.id, measures=measures, previews=pictures), flags)
    return made


def _along_edges(soft: ArrayLike, labeller: Labeller, settings: Mapping[str, Any]) -> ArrayLike:
    from cohortex.models.segment.crf import Field, along_edges

    field = Field(**{name: float(settings[name]) for name in ("bilateral", "smooth", "near", "alike", "close") if name in settings})
    scaled = replace(field, alike=field.alike * (labeller.high - labeller.low))
    spacing = labeller.grid.spacing.tolist()
    return along_edges(soft, labeller.values, spacing, scaled, int(settings.get("iterations", 5)), int(settings.get("radius", 2)))


def _judged(
    image: Image, subject: Subject, labeller: Labeller, said: Said, settings: Mapping[str, Any]
) -> tuple[dict[str, float], list[tuple[str, str]], list[np.ndarray]]:
    """Return how sure the labels are and what is to be expected of them as measures, the warnings, and the further looks."""
    from cohortex.models.regseg import quality
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.uncertainty import tally

    again = _looked_again(image, subject, labeller, said, int(settings.get("uncertainty", {}).get("samples", 0)))
    counted, names = tally(said.soft, again), said.names
    there = [k for k in range(1, len(names)) if counted.voxels[k]]
    if not there:
        sentence = f"the model {said.card['name']} found nothing but {names[0]}; look whether the image shows what the model is for"
        return {}, [(EMPTY, sentence)], again
    measures = {"uncertainty": counted.mean(counted.entropy)}
    measures |= {f"uncertainty_{names[k]}": counted.mean(counted.entropy, k) for k in there}
    if again:
        measures |= {"variance": counted.mean(counted.variance), "agreement": float(np.mean([counted.agreement(k) for k in there]))}
        measures |= {f"agreement_{names[k]}": counted.agreement(k) for k in there}
    known = said.card.get("extra", {}).get("quality", {})
    fit = known.get(image.modality) or known.get(ANY)
    if fit is None:
        return measures, [], again
    on_grid = labels_on(said.grid, said.soft, said.grid)
    seen = quality.features(counted, on_grid, float(np.prod(said.grid.spacing)) / 1000, fit["volumes"])
    expected = quality.predicted_dice(fit, seen)
    if not expected:
        return measures, [], again
    mean = float(np.mean(list(expected.values())))
    measures |= {"predicted_dice": mean, **{f"predicted_dice_{names[k]}": v for k, v in expected.items()}}
    least = settings.get("least_predicted_dice")
    if least is None or mean >= float(least):
        return measures, [], again
    worst = ", ".join(names[k].replace("_", " ") for k in sorted(expected, key=lambda k: expected[k])[:3])
    sentence = f"the labels are expected to overlap by a Dice of {mean:.2f} with true ones, less than {float(least):g} (lowest: {worst})"
    return measures, [(DOUBTFUL, sentence)], again


def _looked_again(image: Image, subject: Subject, labeller: Labeller, said: Said, samples: int) -> list[np.ndarray]:
    """Return the class probabilities of the image a little changed, so often."""
    from cohortex.models.regseg.uncertainty import changed, mirrors

    rng = np.random.default_rng([subject.seed % 2**63, *image.id.encode()])
    axis = int(np.argmax(np.abs(said.grid.affine[0, :3]))) if mirrors(said.names) else None
    found = []
    for _ in range(samples):
        values, back = changed(labeller.values, rng, axis, labeller.low, labeller.high)
        found.append(back(labeller.look(values)[0]))
    return found


def _map(image: Image, own: Grid, said: Said, again: Sequence[np.ndarray]) -> tuple[Made, dict[str, np.ndarray]]:
    """Return the map of the uncertainty on the image's grid, and it over the image's views."""
    from cohortex.models.regseg.grid import resample
    from cohortex.models.regseg.uncertainty import entropy_map
    from cohortex.report.previews import orthogonal_views, overlaid

    unsure = resample(entropy_map(said.soft, again), said.grid.affine, own, outside=0.0, out=new_array(own.shape))
    volume = image.volume.with_data(unsure, own.affine, {"step": "uncertainty", "model": said.card["name"]})
    views = orthogonal_views(image.volume)
    pictures = {f"unsure_labels_{view}": picture for view, picture in overlaid(views, volume).items()}
    return Made(volume, of=image.id, tag="uncertainty", entities={"desc": "uncertainty"}, sources=(image.id,)), pictures


def users_flags(image: Image, theirs: Image, section: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with labels that the user gave of an image: nothing in them, or values that a training has no names for."""
    from cohortex.measures.segmentation import volumes_ml

    settings = settings_for(section, image.modality)
    values = sorted(volumes_ml(at_hand(theirs.volume.data, theirs.volume.data.dtype)[0], theirs.volume.spacing))
    if not values:
        return [(THEIRS_EMPTY, f"the labels {theirs.id} hold nothing but background, so that no overlap is measured; give the right file")]
    known, trained = {int(k) for k in settings.get("labels", {})}, "train" in (settings.get("weights"), settings.get("segment_weights"))
    strange = [v for v in values if v not in known]
    if not (trained and known and strange):
        return []
    listed = ", ".join(map(str, strange[:MOST_VALUES])) + (", ..." if len(strange) > MOST_VALUES else "")
    return [
        (THEIRS_UNKNOWN, f"the labels {theirs.id} hold the values {listed}, which regseg: labels does not name; name them or mend the file")
    ]


def carried(
    pair: Pair, subject: Subject, users: Mapping[str, Image], found: Registration, grid: Grid, to: str
) -> tuple[list[Made], dict[str, float], list[tuple[str, str]]]:
    """Return the labels that a registration carries over, how much they overlap before and after, and warnings."""
    from cohortex.measures.segmentation import dice, mean_of
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid

    moving, fixed = pair.moving, pair.fixed
    made: list[Made] = []
    measures: dict[str, float] = {}
    theirs = subject.said.get(moving.id)
    ours = subject.said.get(fixed.id) if fixed is not None else None
    if theirs is not None:
        on_fixed = labels_on(grid, theirs.soft, theirs.grid, found.matrix, found.displacement)
        sources = (f"{moving.id}+seg", *((fixed.id,) if fixed is not None else ()))
        made.append(_labels(moving, on_fixed, "warpedseg", theirs, grid.affine, {"space": to, "desc": "warped"}, sources))
    if fixed is not None and ours is not None:
        box = ours.grid
        # Labels of two models that do not mean the same are not compared.
        if theirs is not None and theirs.names == ours.names:
            own, before = labels_on(box, ours.soft, box), labels_on(box, theirs.soft, theirs.grid)
            after = labels_on(box, theirs.soft, theirs.grid, found.matrix, found.displacement)
            measures |= {"dice_before": mean_of(dice(own, before)), "dice_after": mean_of(dice(own, after))}
        name = subject.names[moving.id]
        back = _labels_back(Grid(moving.volume.shape, moving.volume.affine), ours, found)
        entities, sources = {"space": name, "desc": "fromfixed"}, (f"{fixed.id}+seg", moving.id)
        made.append(_labels(fixed, back, f"{name}seg", ours, moving.volume.affine, entities, sources))
    flags: list[tuple[str, str]] = []
    if moving.id in users:
        of_user, overlaps, flags = _users_carried(pair, users, found, grid, to)
        made.append(of_user)
        measures |= overlaps
    return made, measures, flags


def _users_carried(
    pair: Pair, users: Mapping[str, Image], found: Registration, grid: Grid, to: str
) -> tuple[Made, dict[str, float], list[tuple[str, str]]]:
    """Return the user's labels of the moving image on the fixed grid, their overlap with those of the fixed one, and warnings."""
    from cohortex.measures.segmentation import dice, mean_of, swapped
    from cohortex.models.regseg.grid import Grid, looked

    theirs = users[pair.moving.id]
    array, _ = at_hand(theirs.volume.data, theirs.volume.data.dtype)
    labels = partial(looked, array, theirs.volume.affine, mode="nearest", outside=0.0)
    moved = map_blocks(np.asarray, labels(grid, found.matrix, found.displacement), dtype=array.dtype)
    volume = theirs.volume.with_data(moved, grid.affine, {"step": "registered"})
    entities = {"space": to, "desc": "warpedlabels"}
    made = Made(volume, of=pair.moving.id, tag="warpedlabels", entities=entities, sources=(theirs.id,))
    if pair.fixed is None or pair.fixed.id not in users:
        return made, {}, []
    truth = users[pair.fixed.id].volume
    there = Grid(truth.shape, truth.affine)
    true, _ = at_hand(truth.data, truth.data.dtype)
    there_now = labels(there, found.matrix, found.displacement)
    before, after = dice(true, labels(there)), dice(true, there_now)
    flags: list[tuple[str, str]] = []
    if after and not any(value > 0 for value in after.values()):
        sentence = f"the labels {theirs.id} and {users[pair.fixed.id].id} share no value at any place after the registration; look at both"
        flags.append((THEIRS_APART, sentence))
    places = swapped(true, there_now)
    if places:
        counts = "; ".join(f"{p} and {q}: {crossed} voxels crosswise, {same} alike" for p, q, crossed, same in places[:MOST_VALUES])
        sentence = (
            f"the labels {theirs.id} and {users[pair.fixed.id].id} seem to have numbers exchanged ({counts}); look which of both is right"
        )
        flags.append((THEIRS_SWAPPED, sentence))
    return made, {"labels_dice_before": mean_of(before), "labels_dice_after": mean_of(after)}, flags


def _labels_back(grid: Grid, said: Said, found: Registration) -> Any:
    """Return the fixed image's labels on the moving grid.

    A point q there is at y = matrix^-1 q before the deformation, and at y + backward(y) in the fixed world. The deformation is
    given along the fixed world's axes, so the grid is taken into that world first.
    """
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid

    in_fixed_world = Grid(grid.shape, np.linalg.inv(found.matrix) @ grid.affine)
    return labels_on(in_fixed_world, said.soft, said.grid, None, found.backward)


def _labels(
    image: Image, labels: ArrayLike, tag: str, said: Said, affine: np.ndarray, entities: Mapping[str, str], sources: tuple[str, ...]
) -> Made:
    names = {str(k): v for k, v in enumerate(said.names) if k}
    history = (*image.volume.history, {"step": tag, "model": said.card["name"], "label_names": names})
    volume = Volume(labels, affine, image.modality, "labels", image.body_part, history)
    # Of a joint model the batch has one card, which names the labels; here it says whose they are.
    whose = {"model": said.card["name"]} if said.card.get("task") == "segment" else {}
    return Made(volume, of=image.id, tag=tag, measures=whose, entities=entities, sources=sources)
