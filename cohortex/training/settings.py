"""What a training of stage `denoise` is set to: the section's own words above those of the network's entry; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cohortex.config import settings_for
from cohortex.errors import Refused
from cohortex.models import registry
from cohortex.training import objectives

DENOISE: dict[str, Any] = {
    "steps": 600,
    "minutes": 60.0,
    "rate": 6e-4,
    "batch": 4,
    "patch": 40,
    "objective": "squared_error",
    "noise": "auto",
    "dose": 0.25,
    "target": "cleaned",
    "options": {},
}
"""What neither the section nor the network's entry says."""

NETWORK = "redcnn"
"""Trained where the section names no network."""


def denoise_network(section: Mapping[str, Any]) -> str:
    """Return the network that ``weights: train`` trains: that of ``default``, else of the first modality that names one and no folder."""
    names = {entry.name for entry in registry.entries("denoise")}
    for modality in ("default", *section):
        settings = settings_for(section, modality)
        if settings.get("method") in names and (modality == "default" or settings.get("weights") in (None, "train")):
            return str(settings["method"])
    return NETWORK


def denoise_training(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a training.

    Parameters
    ----------
    section : mapping
        Of the stage; ``training`` of ``default`` is laid over the training of the network's entry and over `DENOISE`; null counts as not
        said.

    Returns
    -------
    dict
        As `DENOISE`; ``objective`` is a mapping with a name, ``options`` are the network's own, all of them.

    Raises
    ------
    Refused
        For an objective, or an option of the network or of the objective, that there is not; for an objective with clean targets where
        the network works in units of the noise.
    """
    network = denoise_network(section)
    entry = registry.entry("denoise", network)
    own = {name: value for name, value in settings_for(section, "default").get("training", {}).items() if value is not None}
    filters = own.pop("filters", None)
    chosen = {**DENOISE, **entry.training, **own}
    chosen["objective"] = objectives.overlaid(entry.training.get("objective", DENOISE["objective"]), own.get("objective"))
    objective, _ = objectives.settings(chosen["objective"])
    if objectives.kind(objective).reads == "registration":
        raise Refused(f"denoise.default.training: the objective {objective} is for networks that register; name one such as squared_error.")
    if entry.expects.values == registry.NOISE_UNITS and objectives.kind(objective).reads not in ("noisy", "halves"):
        raise Refused(
            f"denoise: the network {network} works in {registry.NOISE_UNITS}, and weights: train trains it from noisy scans alone, not by "
            f"{objective}; name an objective such as recorrupted, another network under method, or its folder, such as "
            f"zoo/denoise/{network}, under weights."
        )
    options = {**({} if filters is None else {"filters": filters}), **own.get("options", {})}
    unknown = sorted(set(options) - set(entry.options))
    if unknown:
        raise Refused(
            f"denoise.default.training: the network {network} has no option {unknown[0]!r}; it has: {', '.join(entry.options) or 'none'}."
        )
    chosen["options"] = {**entry.options, **options}
    return chosen
