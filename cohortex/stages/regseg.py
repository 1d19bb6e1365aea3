"""Stage `regseg`: bring the images of a subject together and label them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import at_hand, divided, map_blocks, new_array
from cohortex.errors import BadInput, Refused, Skip
from cohortex.items import DEMO_SITE, Image, Made, settings_for, told
from cohortex.volume import ArrayLike, Volume

if TYPE_CHECKING:
    from torch import nn

    from cohortex.models.regseg.deform import Prepared
    from cohortex.models.regseg.grid import Grid
    from cohortex.models.regseg.pair import Pair
    from cohortex.models.regseg.register import Registration


@dataclass(frozen=True)
class Joint:
    """A jointly trained model: its card, the network that registers and those that segment, by modality."""

    card: Mapping[str, Any]
    register: nn.Module
    segment: Mapping[str, nn.Module]
    device: str


@dataclass
class Subject:
    """What is worked out once about the images of a subject and then shared by pairs and labels."""

    scans: dict[str, Image]
    names: dict[str, str]
    section: Mapping[str, Any]
    models: Mapping[str, Joint]
    prepared: dict[str, Prepared] = field(default_factory=dict)
    soft: dict[str, tuple[ArrayLike, Grid]] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)

    def of(self, image: Image) -> Prepared:
        """Return an image ready for working grids.

        Raises
        ------
        BadInput
            ``not-finite`` when it has NaN or infinite values.
        """
        from cohortex.models.regseg.deform import prepare
        from cohortex.survey import survey

        if image.id not in self.prepared:
            look = survey(image.volume)
            if look.wrong:
                raise BadInput("not-finite", f"{image.id} has values that are not finite; mend or leave out the image.")
            self.prepared[image.id] = prepare(look.data, image.volume.affine, image.modality)
        return self.prepared[image.id]

    def model_for(self, image: Image) -> Joint | None:
        """Return the model that the settings name for an image, None (with the reason in `misfits`) where it does not fit."""
        from cohortex.models.folder import fits

        settings = settings_for(self.section, image.modality)
        joint = self.models.get(settings.get("weights") or "")
        if joint is None:
            self.misfits[image.id] = "the settings name no model under weights"
            return None
        part = image.body_part or settings.get("assume_body_part") or ""
        misfit = fits(joint.card, replace(image.volume, body_part=part, modality=image.modality))
        if misfit is not None:
            self.misfits[image.id] = misfit
            return None
        if joint.card.get("extra", {}).get("cohort") == "demo" and image.row.get("site") != DEMO_SITE:
            self.misfits[image.id] = "the model knows simulated heads only; train one on your own cohort (regseg.default.weights: train)"
            return None
        return joint


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Joint]:
    """Load the models that the section's settings name, by their name in the configuration.

    Raises
    ------
    Refused
        When a folder holds no joint model.
    """
    from cohortex.device import choose_device
    from cohortex.inference import channels_last
    from cohortex.models.folder import load_network, read_card

    joints: dict[str, Joint] = {}
    for name in sorted({str(w) for m in section if (w := settings_for(section, m).get("weights"))}):
        card, chosen = read_card(folders[name]), choose_device(device)
        parts = card.get("parts", {})
        if card["task"] != "regseg" or "register" not in parts:
            raise Refused(f"The model {name} has no part `register`; under regseg.weights name a model that the stage regseg trained.")
        networks = {p: channels_last(load_network(folders[name], chosen, p)) for p in parts if p.startswith("segment.")}
        segment = {p.removeprefix("segment."): network for p, network in networks.items()}
        joints[name] = Joint(card, load_network(folders[name], chosen, "register"), segment, chosen)
    return joints


def regseg(images: Sequence[Image], section: Mapping[str, Any], model: Mapping[str, Joint] | None, seed: int) -> list[Made]:
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
        Of the samples of the affine search.

    Returns
    -------
    list of Made
        ``+seg`` labels of an image on its own grid; of a pair ``+warped``, ``+warpedseg``, ``+affine``, ``+field`` at the moving image and
        ``+<MOVING>seg`` at the fixed one. Measures at the moving image: mutual information and E_msMIND before and after, folding,
        length of the deformation, overlap of the two segmentations and of labels that the user gave; at every segmented
        image the volumes of its labels.

    Raises
    ------
    Skip
        ``no-pair`` when no rule pairs the images and no model fits them.
    BadInput
        ``not-finite``
    """
    scans = {i.id: i for i in images if i.kind == "image" and i.role == "image" and "+" not in i.id}
    # What is made of a subject is held until all of it is there; a pair is what the plan is made for.
    with divided(len(scans) // 2):
        return _brought_together(scans, images, section, model or {}, seed)


def _brought_together(
    scans: dict[str, Image], images: Sequence[Image], section: Mapping[str, Any], models: Mapping[str, Joint], seed: int
) -> list[Made]:
    """Return what `regseg` does, of the scans and everything else of a subject."""
    from cohortex.models.regseg.pair import names_of, pairs_of

    solid = [i for i in scans.values() if min(i.volume.shape) > 1]
    pairs = pairs_of(solid, section["default"].get("pair", ()))
    subject = Subject(scans, names_of(list(scans.values())), section, models)
    made: list[Made] = []
    words: dict[str, Made] = {}
    for image in solid:
        made += _segmented(image, subject, words)
    if not pairs and not made:
        reasons = "; ".join(sorted(set(subject.misfits.values())))
        raise Skip("no-pair", f"There is nothing to register it to (regseg: pair), and nothing labels it: {reasons or 'no volume'}.")
    users = {i.id.rsplit("+", 1)[0]: i for i in images if i.kind == "labels" and i.role == "labels" and i.id.endswith("+labels")}
    for pair in pairs:
        made += _registered(pair, subject, users, words, seed)
    partners = {i.id for p in pairs for i in (p.moving, p.fixed) if i is not None}
    for image in scans.values():
        if image.id not in words and image.id not in partners:
            why = subject.misfits.get(image.id, "it is a picture")
            reason = f"There is nothing to register it to (regseg: pair), and nothing labels it: {why}."
            words[image.id] = Made(of=image.id, status="skipped", code="no-pair", reason=reason)
    return made + [words.get(i, Made(of=i)) for i in scans]


def _segmented(image: Image, subject: Subject, words: dict[str, Made]) -> list[Made]:
    """Return the labels of an image where its model has a network for its modality."""
    from cohortex.measures.segmentation import volumes_ml
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid
    from cohortex.models.regseg.segment import class_probabilities

    joint, settings = subject.model_for(image), settings_for(subject.section, image.modality)
    if joint is None or not settings["segment"]:
        return []
    if image.modality not in joint.segment:
        subject.misfits[image.id] = f"the model {joint.card['name']} does not segment {image.modality}"
        return []
    prepared = subject.of(image)
    box = prepared.box(float(joint.card["extra"]["segment_spacing_mm"]))
    said: list[str] = []
    soft, precision = class_probabilities(
        joint.segment[image.modality],
        prepared.on(box, out=new_array(box.shape)),
        len(joint.card["classes"]),
        joint.device,
        settings.get("precision", "float32"),
        settings.get("overlap"),
        said.append,
    )
    subject.soft[image.id] = (soft, box)
    labels = labels_on(Grid(image.volume.shape, image.volume.affine), soft, box)
    names = _label_names(joint)
    measures: dict[str, Any] = {f"volume_{names[k]}_ml": v for k, v in volumes_ml(labels, image.volume.spacing).items()}
    measures |= {"model": joint.card["name"], **told(precision, "; ".join(said))}
    words[image.id] = Made(of=image.id, measures=measures)
    return [_labels(image, labels, "seg", joint, image.volume.affine, {"space": image.modality, "desc": "regseg"}, (image.id,))]


def _registered(pair: Pair, subject: Subject, users: Mapping[str, Image], words: dict[str, Made], seed: int) -> list[Made]:
    """Return what a pair gives, and put its measures and pictures into the moving image's word."""
    from cohortex.models.regseg.grid import Grid, field_on, looked, resample

    moving = pair.moving
    fixed = pair.fixed
    settings = settings_for(subject.section, moving.modality)
    if not pair.deform:
        settings["deformable"] = {**settings["deformable"], "method": "none"}
    target, here = (fixed.volume, subject.of(fixed)) if fixed is not None else _template()
    found, said = _pose(here, subject.of(moving), pair, settings, _pair_model(pair, subject), seed)
    grid, name, to = Grid(target.shape, target.affine), subject.names[moving.id], _space(pair)
    sources = (moving.id, *((fixed.id,) if fixed is not None else ()))
    volume = moving.volume
    lowest = -1024.0 if moving.modality == "CT" else 0.0
    array = subject.of(moving).array
    out = new_array(grid.shape)
    warped = resample(array, volume.affine, grid, found.matrix, found.displacement, outside=lowest, out=out)
    partner = to if fixed is None else fixed.id
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
    labels, overlaps = _warped_labels(pair, subject, users, found, grid, to)
    made += labels
    pictures = _checkerboards(target, whole, "after")
    # of the image as it lay only the slices of the pictures are computed
    pictures |= _checkerboards(target, whole.with_data(looked(array, volume.affine, grid, outside=lowest)), "before")
    before = words.get(moving.id, Made(of=moving.id))
    fallback = told("float32", "; ".join(filter(None, [before.measures.get("fallback"), said])))
    words[moving.id] = replace(
        before,
        measures={**before.measures, **found.measures, **overlaps, **fallback, "fixed": partner},
        previews=pictures,
        status="warned" if found.doubts else "ok",
        code="registration-not-better" if found.doubts else "",
        reason="; ".join(found.doubts),
    )
    return made


def _pose(
    fixed: Prepared, moving: Prepared, pair: Pair, settings: Mapping[str, Any], joint: Joint | None, seed: int
) -> tuple[Registration, str]:
    """Return where the moving image lies, and what was said where a GPU's memory did not suffice."""
    import torch

    from cohortex.models.regseg.register import register

    if joint is None:
        return register(fixed, moving, pair.freedom, settings, seed=seed), ""
    spacing = float(joint.card["extra"]["working_spacing_mm"])
    try:
        return register(fixed, moving, pair.freedom, settings, joint.register.to(joint.device), spacing, seed, joint.device), ""
    except torch.OutOfMemoryError:
        if joint.device == "cpu":
            raise
        torch.cuda.empty_cache()
        said = f"the memory of {joint.device} does not hold the pair: it was registered on the CPU"
        return register(fixed, moving, pair.freedom, settings, joint.register.to("cpu"), spacing, seed), said


def _pair_model(pair: Pair, subject: Subject) -> Joint | None:
    """Return the model whose registration network is for this kind of pair."""
    if pair.fixed is None:
        return None
    joint, other = subject.model_for(pair.moving), subject.model_for(pair.fixed)
    if joint is None or other is not joint:
        return None
    known = joint.card["extra"]
    return joint if (known["fixed"], known["moving"]) == (pair.fixed.modality, pair.moving.modality) else None


def _warped_labels(
    pair: Pair, subject: Subject, users: Mapping[str, Image], found: Registration, grid: Grid, to: str
) -> tuple[list[Made], dict[str, float]]:
    """Return the labels that a registration carries over, and how much they overlap before and after."""
    from cohortex.measures.segmentation import dice, mean_of
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid, looked

    moving, fixed = pair.moving, pair.fixed
    made: list[Made] = []
    measures: dict[str, float] = {}
    on_fixed = None
    if moving.id in subject.soft:
        joint = subject.model_for(moving)
        assert joint is not None
        soft, box = subject.soft[moving.id]
        on_fixed = labels_on(grid, soft, box, found.matrix, found.displacement)
        sources = (f"{moving.id}+seg", *((fixed.id,) if fixed is not None else ()))
        made.append(_labels(moving, on_fixed, "warpedseg", joint, grid.affine, {"space": to, "desc": "warped"}, sources))
    if fixed is not None and fixed.id in subject.soft:
        joint = subject.model_for(fixed)
        assert joint is not None
        soft, box = subject.soft[fixed.id]
        if on_fixed is not None:
            own, before = labels_on(box, soft, box), labels_on(box, *subject.soft[moving.id])
            after = labels_on(box, *subject.soft[moving.id], found.matrix, found.displacement)
            measures |= {"dice_before": mean_of(dice(own, before)), "dice_after": mean_of(dice(own, after))}
        name = subject.names[moving.id]
        back = _labels_back(Grid(moving.volume.shape, moving.volume.affine), soft, box, found)
        entities, sources = {"space": name, "desc": "fromfixed"}, (f"{fixed.id}+seg", moving.id)
        made.append(_labels(fixed, back, f"{name}seg", joint, moving.volume.affine, entities, sources))
    if moving.id in users:
        theirs = users[moving.id]
        array, _ = at_hand(theirs.volume.data, theirs.volume.data.dtype)
        labels = partial(looked, array, theirs.volume.affine, mode="nearest", outside=0.0)
        moved = map_blocks(np.asarray, labels(grid, found.matrix, found.displacement), dtype=array.dtype)
        volume = theirs.volume.with_data(moved, grid.affine, {"step": "registered"})
        made.append(Made(volume, of=moving.id, tag="warpedlabels", entities={"space": to, "desc": "warpedlabels"}, sources=(theirs.id,)))
        if fixed is not None and fixed.id in users:
            truth = users[fixed.id].volume
            there = Grid(truth.shape, truth.affine)
            true, _ = at_hand(truth.data, truth.data.dtype)
            measures["labels_dice_before"] = mean_of(dice(true, labels(there)))
            measures["labels_dice_after"] = mean_of(dice(true, labels(there, found.matrix, found.displacement)))
    return made, measures


def _labels_back(grid: Grid, soft: ArrayLike, box: Grid, found: Registration) -> Any:
    """Return the fixed image's labels on the moving grid.

    A point q there is at y = matrix^-1 q before the deformation, and at y + backward(y) in the fixed world. The deformation is
    given along the fixed world's axes, so the grid is taken into that world first.
    """
    from cohortex.models.regseg.deform import labels_on
    from cohortex.models.regseg.grid import Grid

    in_fixed_world = Grid(grid.shape, np.linalg.inv(found.matrix) @ grid.affine)
    return labels_on(in_fixed_world, soft, box, None, found.backward)


def _labels(
    image: Image, labels: ArrayLike, tag: str, joint: Joint, affine: np.ndarray, entities: Mapping[str, str], sources: tuple[str, ...]
) -> Made:
    names = {str(k): v for k, v in _label_names(joint).items() if k}
    history = (*image.volume.history, {"step": tag, "model": joint.card["name"], "label_names": names})
    volume = Volume(labels, affine, image.modality, "labels", image.body_part, history)
    return Made(volume, of=image.id, tag=tag, entities=entities, sources=sources)


def _label_names(joint: Joint) -> dict[int, str]:
    return dict(enumerate(str(c) for c in joint.card["classes"]))


def _space(pair: Pair) -> str:
    """Return what the fixed image's space is called: its modality, for a later visit the first one's session, or the template."""
    from cohortex.models.regseg.pair import TEMPLATE_SPACE

    if pair.fixed is None:
        return TEMPLATE_SPACE
    elsewhere = pair.fixed.session != pair.moving.session and pair.fixed.session
    return f"ses{pair.fixed.session}" if elsewhere and pair.fixed.modality == pair.moving.modality else pair.fixed.modality


def _template() -> tuple[Volume, Prepared]:
    """Return the MNI152 T1 that nilearn ships, skull-stripped."""
    from importlib.resources import files

    import nibabel as nib

    from cohortex.models.regseg.deform import prepare

    name = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nib.load(str(files("nilearn") / "datasets" / "data" / name))  # type: ignore[attr-defined]
    array = np.asarray(image.dataobj, dtype=np.float32)
    return Volume(array, image.affine, "T1w", "image", "head"), prepare(array, image.affine, "T1w")


def _checkerboards(target: Volume, moving: Volume, when: str) -> dict[str, np.ndarray]:
    from cohortex.report.previews import checkerboard, orthogonal_views

    # Views of one grid have one shape; both have their own grey window.
    ours, theirs = orthogonal_views(target), orthogonal_views(moving)
    return {f"checkerboard_{view}_{when}": checkerboard(ours[view], theirs[view]) for view in ours}
