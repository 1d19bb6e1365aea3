"""The models of stage `regseg`: what is loaded, which of them an image is for, and what labels it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import new_array
from cohortex.config import WEIGHTS
from cohortex.errors import BadInput, Refused
from cohortex.items import DEMO_SITE, Image, settings_for
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

    from cohortex.models.regseg.deform import Prepared
    from cohortex.models.regseg.grid import Grid
    from cohortex.models.regseg.pair import Pair
    from cohortex.models.segment.apply import Feeding

JOINT = ("weights", "weights_otherwise")
"""Settings that name joint models, the first that is for an image counts."""
ANY = "any"
"""Stands for every modality that a model does not name."""
SLAB = 32
"""Rows of class probabilities that are looked at together."""


@dataclass(frozen=True)
class Joint:
    """A jointly trained model: its card, the network that registers and those that segment, by modality or for any."""

    card: Mapping[str, Any]
    register: nn.Module
    segment: Mapping[str, nn.Module]
    device: str


@dataclass(frozen=True)
class Single:
    """A segmentation that was trained by itself: its card, its network, and how that is fed."""

    card: Mapping[str, Any]
    network: nn.Module
    fed: Feeding
    device: str


@dataclass(frozen=True)
class Registering:
    """A registration network that was trained by itself: its card and its network."""

    card: Mapping[str, Any]
    register: nn.Module
    device: str


@dataclass(frozen=True)
class Labeller:
    """A network for one image: its card, the image as the network wants it on a grid, and a look at such an image.

    Attributes
    ----------
    values : (X, Y, Z) array-like
    grid : Grid
    look : callable
        Values on the grid to class probabilities (K, X, Y, Z) and the precision that they were computed in.
    low, high : float
        Between which the values lie, nearly all of them.
    """

    card: Mapping[str, Any]
    values: ArrayLike
    grid: Grid
    look: Callable[[ArrayLike], tuple[ArrayLike, str]]
    low: float
    high: float

    @property
    def names(self) -> list[str]:
        """What the classes are called, the background first."""
        return [str(c) for c in self.card["classes"]]


Model = Joint | Single | Registering


@dataclass(frozen=True)
class Said:
    """Class probabilities (K, X, Y, Z) of an image on a grid, and the card of the model that gave them."""

    soft: ArrayLike
    grid: Grid
    card: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """What the classes are called, the background first."""
        return [str(c) for c in self.card["classes"]]


@dataclass
class Subject:
    """What is worked out once about the images of a subject and then shared by pairs and labels."""

    scans: dict[str, Image]
    names: dict[str, str]
    section: Mapping[str, Any]
    models: Mapping[str, Model]
    seed: int = 0
    prepared: dict[str, Prepared] = field(default_factory=dict)
    said: dict[str, Said] = field(default_factory=dict)
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

    def first_for(self, image: Image) -> Model | None:
        """Return the joint model under ``weights``, whether it fits or not: only it registers, the other one labels."""
        return self.models.get(_named(self.section, image.modality, "weights"))

    def model_for(self, image: Image) -> Joint | None:
        """Return the joint model that the settings name for an image, that of ``weights_otherwise`` where the first does not fit.

        None (with the reasons in `misfits`) where neither does.
        """
        misfits = []
        for key in JOINT:
            joint = self.models.get(_named(self.section, image.modality, key))
            if isinstance(joint, Joint):
                misfit = self._misfit(joint.card, image, key)
                if not misfit:
                    return joint
                misfits.append(misfit)
        self.misfits[image.id] = "; ".join(misfits) or "the settings name no model under weights"
        return None

    def single_for(self, image: Image) -> Single | None:
        """Return the segmentation that the settings name for an image, None (with the reason in `misfits`) where it does not fit."""
        single = self.models.get(_named(self.section, image.modality, "segment_weights"))
        if not isinstance(single, Single):
            return None
        misfit = self._misfit(single.card, image, "segment_weights")
        if misfit:
            self.misfits[image.id] = misfit
            return None
        return single

    def registering_for(self, pair: Pair) -> Joint | Registering | None:
        """Return the registration network by itself that the settings of a moving image name, None where it is not for the pair."""
        model = self.models.get(_named(self.section, pair.moving.modality, "register_weights"))
        if pair.fixed is None or not isinstance(model, Joint | Registering) or not is_for_kind(model.card, pair):
            return None
        misfits = [self._misfit(model.card, image, "register_weights") for image in (pair.moving, pair.fixed)]
        return None if any(misfits) else model

    def _misfit(self, card: Mapping[str, Any], image: Image, key: str) -> str:
        """Return why a model is not for an image, empty when it is."""
        from cohortex.models.folder import fits

        part = image.body_part or settings_for(self.section, image.modality).get("assume_body_part") or ""
        misfit = fits(card, replace(image.volume, body_part=part, modality=image.modality))
        if misfit is not None:
            return misfit
        if card.get("extra", {}).get("cohort") == "demo" and image.row.get("site") != DEMO_SITE:
            return f"the model knows simulated heads only; train one on your own cohort (regseg.default.{key}: train)"
        return ""


def is_for_kind(card: Mapping[str, Any], pair: Pair) -> bool:
    """Say whether a model's registration network is for the fixed and the moving modality of a pair."""
    known = card["extra"]
    meant = ((known["fixed"], pair.fixed.modality if pair.fixed is not None else ""), (known["moving"], pair.moving.modality))
    return all(name in (ANY, modality) for name, modality in meant)


def _named(section: Mapping[str, Any], modality: str, key: str) -> str:
    """Return by what name `load` has the model that a modality's settings name under a key, empty where they name none."""
    settings = settings_for(section, modality)
    said = settings.get(key) or ""
    if key == "weights_otherwise" and not settings.get("weights"):
        return ""
    return WEIGHTS[key] if said == "train" else str(said)


def _all_named(section: Mapping[str, Any], key: str) -> list[str]:
    return sorted({name for modality in section if (name := _named(section, modality, key))})


def load(section: Mapping[str, Any], folders: Mapping[str, Path], device: str) -> dict[str, Model]:
    """Load the models that the section's settings name, by their names in the configuration.

    Raises
    ------
    Refused
        When a folder under ``weights`` holds no joint model, one under ``segment_weights`` no segmentation, or one under
        ``register_weights`` no network that registers.
    """
    from cohortex.device import choose_device
    from cohortex.inference import channels_last
    from cohortex.models.folder import check_registering, check_segmenting, load_network, read_card
    from cohortex.models.segment.apply import feeding_of

    found: dict[str, Model] = {}
    for name in sorted({name for key in JOINT for name in _all_named(section, key)}):
        card, chosen = read_card(folders[name]), choose_device(device)
        parts = card.get("parts", {})
        if card["task"] != "regseg" or "register" not in parts:
            raise Refused(f"The model {name} has no part `register`; under regseg.weights name a model that the stage regseg trained.")
        networks = {p: channels_last(load_network(folders[name], chosen, p)) for p in parts if p.startswith("segment.")}
        segment = {p.removeprefix("segment."): network for p, network in networks.items()}
        found[name] = Joint(card, load_network(folders[name], chosen, "register"), segment, chosen)
    check_segmenting(section, folders)
    for name in _all_named(section, "segment_weights"):
        card, chosen = read_card(folders[name]), choose_device(device)
        network = load_network(folders[name], chosen)
        fed = feeding_of(card)
        found[name] = Single(card, channels_last(network) if fed.across is None else network, fed, chosen)
    for name, card in check_registering(section, folders).items():
        if name not in found:
            chosen = choose_device(device)
            found[name] = Registering(card, load_network(folders[name], chosen, "register"), chosen)
    return found


def labeller_for(image: Image, subject: Subject, say: Callable[[str], None]) -> Labeller | None:
    """Return what labels an image, None (with the reason in the subject's `misfits`) where nothing is for it.

    The segmentation under ``segment_weights`` comes first; where it is not for the image, the joint model's network for its modality
    labels it, or the one that it has for any.
    """
    settings = settings_for(subject.section, image.modality)
    if not settings["segment"]:
        return None
    single = subject.single_for(image)
    if single is not None:
        return _by_itself(image, single, settings, say)
    if min(image.volume.shape) == 1:
        return None
    why = subject.misfits.get(image.id)
    joint = subject.model_for(image)
    if joint is None or not (image.modality in joint.segment or ANY in joint.segment):
        if joint is not None:
            subject.misfits[image.id] = f"the model {joint.card['name']} does not segment {image.modality}"
        if why:
            subject.misfits[image.id] = f"{why}; {subject.misfits[image.id]}"
        return None
    return _jointly(image, subject, joint, settings, say)


def _jointly(image: Image, subject: Subject, joint: Joint, settings: Mapping[str, Any], say: Callable[[str], None]) -> Labeller:
    from cohortex.models.regseg.segment import class_probabilities
    from cohortex.models.regseg.tissues import followed

    network = joint.segment[image.modality if image.modality in joint.segment else ANY]
    prepared = subject.of(image)
    spacing = float(joint.card["extra"]["segment_spacing_mm"])
    box = prepared.box(spacing)
    classes, precision, overlap = len(joint.card["classes"]), settings.get("precision", "float32"), settings.get("overlap")

    def look(values: ArrayLike) -> tuple[ArrayLike, str]:
        soft, chosen = class_probabilities(network, values, classes, joint.device, precision, overlap, say)
        _check_finite(soft, joint.card, image)
        return (soft if settings.get("intensities") == "none" else followed(soft, values, spacing, joint.card)), chosen

    return Labeller(joint.card, prepared.on(box, out=new_array(box.shape)), box, look, 0.0, 1.0)


def _check_finite(soft: ArrayLike, card: Mapping[str, Any], image: Image) -> None:
    """Refuse class probabilities (K, X, Y, Z) that are no numbers, whose labels would look like background.

    Raises
    ------
    BadInput
        ``bad-result``
    """
    # where one class is no number none is
    slabs = (np.asarray(soft[0:1, x : x + SLAB]) for x in range(0, soft.shape[1], SLAB))
    if not all(np.isfinite(slab).all() for slab in slabs):
        raise BadInput(
            "bad-result",
            f"The model {card['name']} gives values that are not finite for {image.id}: train it on such images, or leave it out "
            "(regseg: segment: false).",
        )


def _by_itself(image: Image, single: Single, settings: Mapping[str, Any], say: Callable[[str], None]) -> Labeller:
    from cohortex.models.segment.apply import grid_of, predicted, standardised
    from cohortex.survey import sample_of, survey

    if survey(image.volume).wrong:
        raise BadInput("not-finite", f"{image.id} has values that are not finite; mend or leave out the image.")
    plan, precision = single.fed.plan, settings.get("precision", "float32")
    grid = grid_of(image.volume, plan)
    values = standardised(image.volume, plan, grid)

    def look(values: ArrayLike) -> tuple[ArrayLike, str]:
        soft, chosen = predicted(single.network, values, single.fed, single.device, "probabilities", precision, say)
        _check_finite(soft, single.card, image)
        return soft, chosen

    low, high = np.percentile(sample_of(values), (0.5, 99.5))
    return Labeller(single.card, values, grid, look, float(low), float(max(high, low + 1e-3)))
