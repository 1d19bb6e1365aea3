"""The model folder of the networks for any contrast: its card, and what was measured on heads that they never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cohortex.models.folder import read_model, write_model
from cohortex.training.contrasts import CLASSES

DATA = (
    "Label maps only, painted with random intensities: simulated heads drawn from the MNI152 2009a tissue maps that nilearn ships (Fonov "
    "et al., NeuroImage 54(1), 2011, copyright McConnell Brain Imaging Centre, free use with its notice){individual}. No real image was "
    "learnt from."
)
INDIVIDUAL = (
    ", and one real head as maps by thresholds of its T1: Colin27 (Holmes et al. 1998, the same copyright) with the deep nuclei of the AAL "
    "atlas (Tzourio-Mazoyer et al. 2002), as Debian's mricron-data has them"
)
INTENDED = (
    "Labels of any MR contrast or CT of an adult head, with or without the skull, and deformable registration of any two such images "
    "after an affine start, as a first look without training of one's own; for research only."
)
LIMITS = (
    "Not for diagnosis. Its registration by itself moves little (metrics): it learned for twenty minutes of one core; as a start for "
    "Gauss-Newton it is worth some percent of the error. Lesions are those of simulated heads: real ones are mostly labelled grey or "
    "white matter. Skull and soft tissue come from plain shapes. Grey and white matter differ by a few units on CT: there their "
    "border is uncertain. Children, operated heads and large lesions were not tested. For one's own cohort, networks trained on its "
    "labels (weights: train) are better."
)
TISSUES = {"fluid": ["csf", "ventricles"], "grey_matter": ["grey_matter"], "white_matter": ["white_matter"]}
"""Whose labels follow the image's own intensities (`cohortex.models.regseg.tissues`)."""
LOOKED_AT = (
    "No weight and no threshold of the tissue maps was fitted to the scans that the metrics name, but a first training without norms was "
    "given up, and contrasts made easier, after its labels of these scans and its training loss were seen: they are not wholly unseen. "
    "That labels follow the image's intensities was decided after that, too; how much was decided by simulated heads."
)


def write(
    folder: Path,
    segment: tuple[nn.Module, Mapping[str, Any]],
    register: tuple[nn.Module, Mapping[str, Any]],
    recipe: Mapping[str, Any],
    seed: int,
) -> None:
    """Write the model folder, weights in half precision.

    Parameters
    ----------
    folder : Path
    segment, register : network and its settings
        ``network``, ``options`` and ``spacing_mm`` of `cohortex.training.any_contrast`.
    recipe : mapping
    seed : int
    """
    networks = {"register": register, "segment.any": segment}
    options = {"register": dict(register[1]["options"]), "segment.any": {**segment[1]["options"], "channels": 1, "classes": len(CLASSES)}}
    parts = {name: {"network": about["network"], "options": options[name]} for name, (_, about) in networks.items()}
    card = {
        "name": "regseg-head-any",
        "task": "regseg",
        **parts["register"],
        "parts": parts,
        "modality": ["any"],
        "body_part": ["head", "brain"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.2, "max": 7.5},
        "classes": list(CLASSES),
        "data": DATA.format(individual=INDIVIDUAL if recipe["maps"]["individual"] else ""),
        "simulated": True,
        "recipe": dict(recipe),
        "seed": seed,
        "metrics": [],
        "intended_use": INTENDED,
        "limits": LIMITS,
        "license": "Apache-2.0",
        "extra": {
            "fixed": "any",
            "moving": "any",
            "working_spacing_mm": float(register[1]["spacing_mm"]),
            "segment_spacing_mm": float(segment[1]["spacing_mm"]),
            "tissues": TISSUES,
            "looked_at": LOOKED_AT,
        },
    }
    tensors = {f"{part}.{name}": value.half() for part, (network, _) in networks.items() for name, value in network.state_dict().items()}
    write_model(folder, card, tensors)


def with_record(folder: Path, record: Path) -> None:
    """Put what ``benchmarks.real_heads`` measured into the card of a model folder, in the place of what was there."""
    card, tensors = read_model(folder)
    tables = json.loads(record.read_text(encoding="utf-8"))["tables"]
    names = ("grey matter", "white matter", "ventricles")
    metrics = []
    for scan, against, *values in tables["labels"]["rows"]:
        for name, value in zip(names, values, strict=False):
            if value is not None:
                metrics.append({"name": f"Dice of {name}", "value": value, "n": 1, "on": f"{scan}, against {against}"})
    for pair, affine, *values in tables["pairs"]["rows"]:
        for name, value in zip(("network", "Gauss-Newton", "network, then Gauss-Newton"), values, strict=False):
            if value is not None:
                against = f"the affine start alone ({affine:.3g})"
                metrics.append({"name": f"mean Dice after {name}", "value": value, "n": 1, "against": against, "on": pair})
    card.pop("sha256")
    write_model(folder, {**card, "metrics": metrics}, tensors)
