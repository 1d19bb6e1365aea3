"""What a training of a network that registers is set to, and which pairs it is given; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models import registry
from cohortex.models.regseg.pair import Pair, most_common_kind, pairs_of
from cohortex.training import objectives

REGISTER: dict[str, Any] = {
    "steps": 500,
    "minutes": 60.0,
    "rate": 1e-3,
    "batch": 1,
    "optimiser": "adamw",
    "objective": {"name": "images_alike"},
    "examples": "pairs",
    "bend": {},
    "contrast": False,
    "classes": None,
}
"""What neither the settings nor the network's entry says. ``classes``: the labels that are learnt from, null for all."""
EXAMPLES = ("pairs", "classical", "simulated")
UNALIKE: dict[str, Any] = {"similarity": "mind", "smooth": 50.0}
"""How objectives that have a similarity compare images of two modalities: by self-similarities, with the joint training's smoothness."""


def register_training(network: str, wanted: Mapping[str, Any], unalike: bool = False) -> dict[str, Any]:
    """Return all settings of a training: those wanted above those of the network's entry and of `REGISTER`.

    Parameters
    ----------
    network : str
        Of the registry.
    wanted : mapping
    unalike : bool
        Whether fixed and moving images are of two modalities: then `UNALIKE` is above the objective of the entry.

    Raises
    ------
    Refused
        For a setting, an objective or kind of examples that there is not, or an objective that reads something else.
    """
    entry = registry.entry("regseg", network)
    unknown = sorted(set(wanted) - set(REGISTER))
    if unknown:
        raise Refused(f"The training of {network} has no setting {unknown[0]!r}; it has: {', '.join(REGISTER)}.")
    chosen = {**REGISTER, **entry.training, **wanted}
    default = objectives.overlaid(entry.training.get("objective", REGISTER["objective"]), None)
    if unalike and "similarity" in objectives.kind(default["name"]).options:
        default |= UNALIKE
    chosen["objective"] = objectives.overlaid(default, wanted.get("objective"))
    name, _ = objectives.settings(chosen["objective"])
    if objectives.kind(name).reads != "registration":
        raise Refused(f"The objective {name} is not for networks that register; name one such as images_alike or known_displacement.")
    if chosen["optimiser"] not in ("adamw", "muon"):
        raise Refused(f"There is no optimiser {chosen['optimiser']!r}; there are: adamw, muon.")
    if chosen["examples"] not in EXAMPLES:
        raise Refused(f"There are no examples {chosen['examples']!r} of registration; there are: {', '.join(EXAMPLES)}.")
    if name == "known_displacement" and chosen["examples"] == "pairs":
        raise Refused("The objective known_displacement needs displacements that are known: set examples to classical or simulated.")
    return chosen


def looks_at_labels(training: Mapping[str, Any]) -> bool:
    """Say whether the objective of a training (`register_training`) weighs labels."""
    return float(objectives.settings(training["objective"])[1].get("labels", 0)) > 0


def pairs_to_train(images: Sequence[Image], rules: Sequence[Mapping[str, Any]], moving: str | None = None) -> list[Pair]:
    """Return the pairs of one kind that a network is trained on, sorted by subject.

    Parameters
    ----------
    images : sequence of Image
        Of all subjects.
    rules : sequence of mappings
        See `pairs_of`; pairs with the template, and those that are moved but never deformed, teach nothing that is used.
    moving : str, optional
        The moving modality; without, the kind (fixed and moving modality, body part) that most pairs have.

    Raises
    ------
    Refused
        When there is no such pair.
    """
    subjects: dict[str, list[Image]] = {}
    for image in sorted(images, key=lambda i: i.id):
        subjects.setdefault(image.subject, []).append(image)
    pairs = [pair for own in subjects.values() for pair in pairs_of(own, rules)]
    chosen = most_common_kind([p for p in pairs if p.fixed is not None and p.deform and moving in (None, p.moving.modality)])
    if not any(pair.moving.row.get("split") == "train" for pair in chosen):
        which = f"with a moving {moving} " if moving else ""
        raise Refused(
            f"regseg: register_weights: train needs pairs that are deformed, and the training subjects have none {which}by the rules under "
            "`pair`; change these, give more subjects, or name a trained model."
        )
    return chosen


def check_register(section: Mapping[str, Any], rows: Sequence[Mapping[str, str]]) -> None:
    """Check the training of a registration network before any job.

    Parameters
    ----------
    section : mapping
        See `cohortex.config.training_section`.
    rows : sequence of mappings
        The cohort's table.

    Raises
    ------
    Refused
        See `register_training` and `pairs_to_train`; for an option that the network has not, and when the objective weighs labels that no
        training pair has.
    """
    settings = section["default"]
    name, options = settings["network"]["name"], settings["network"]["options"]
    known = registry.entry("regseg", name).options
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise Refused(f"regseg: register_training: the network {name} has no option {unknown[0]!r}; it has: {', '.join(known)}.")
    training = register_training(name, settings["training"])
    told = [row for row in rows if row["split"] == "train"]
    if not all(row["modality"] for row in told):
        return  # files whose headers say the modality: the training looks when they are read
    images = [
        Image(row["image"], row["subject"], row["session"], row["modality"], "image", "image", row["body_part"], row=row)
        for row in told
        if row["role"] in ("", "image")
    ]
    pairs = pairs_to_train(images, settings["pair"], settings.get("modality"))
    labelled = {row["image"].rsplit("+", 1)[0] for row in told if row["role"] == "labels"}
    if looks_at_labels(training) and not any(p.fixed is not None and {p.fixed.id, p.moving.id} <= labelled for p in pairs):
        raise Refused(
            f"regseg: register_training: the objective of {name} weighs labels, and no training pair has those of both images; give rows "
            "of role `labels`, or another objective."
        )
