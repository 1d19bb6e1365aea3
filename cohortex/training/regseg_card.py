"""The card of a jointly trained model: what it is for, what it saw, how well it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.measures.intervals import bootstrap_interval
from cohortex.training.regseg_data import Material

PAPER = "MC-RSNet's alternating scheme (IEEE Access 2023, doi:10.1109/ACCESS.2023.3313977, IV.D)"


def card_of(
    material: Material,
    settings: Mapping[str, Any],
    seed: int,
    history: Sequence[Mapping[str, float]],
    results: Sequence[Mapping[str, float]],
    out_of_time: bool,
    demo: bool,
) -> dict[str, Any]:
    """Return the card for `folder.write_model`.

    Parameters
    ----------
    material : Material
    settings : mapping
        The section's ``default``.
    seed : int
    history : sequence of mappings
        Validation scores, that of the pre-trained networks first.
    results : sequence of mappings
        The kept networks' measures, one mapping a validation pair.
    out_of_time : bool
        Whether the minutes ended the training, which is then not repeatable to the bit.
    """
    fixed, moving = material.modalities
    names = {int(k): str(v) for k, v in settings.get("labels", {}).items()}
    network, segment = settings["network"], settings["segment_network"]
    seen: dict[str, list[str]] = {}
    for case in material.cases:
        seen.setdefault(case.split, []).append(case.subject)
    held_out = "validation" if "validation" in seen else "train"
    segment_options = {**segment.get("options", {}), "channels": 1, "classes": material.classes}
    labelled = sorted({c.subject for c in material.cases if c.labelled})
    return {
        "name": f"regseg-{material.body_part or 'any'}-{fixed}-{moving}",
        "task": "regseg",
        "network": network["name"],
        "options": dict(network.get("options", {})),
        "parts": {
            "register": {"network": network["name"], "options": dict(network.get("options", {}))},
            **{f"segment.{m}": {"network": segment["name"], "options": segment_options} for m in sorted({fixed, moving})},
        },
        "modality": sorted({fixed, moving}),
        "body_part": ["head", "brain"] if material.body_part == "head" else [material.body_part or "any"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.2, "max": 6.0},
        "classes": [names.get(i, "background" if i == 0 else f"label{i}") for i in range(material.classes)],
        "data": f"{len(material.cases)} pairs of {'simulated heads of the demo' if demo else 'the cohort that was given'}, "
        f"{len(labelled)} of them with labels of both images",
        "recipe": {
            "scheme": PAPER,
            "training": dict(settings["training"]),
            "scales": [list(map(int, s)) for s in settings["deformable"]["scales"]],
            "rounds": [dict(h) for h in history],
            "out_of_time": bool(out_of_time),
        },
        "seed": int(seed % 2**53),
        "metrics": _metrics(results, held_out),
        "intended_use": (
            f"Deformable registration of {moving} (moving) to {fixed} (fixed) after an affine start, and labels of both, as a first look; "
            "for research only."
        ),
        "limits": "Not for diagnosis. Body parts, modalities and label sets other than those named are not covered; large lesions and "
        "operated anatomy were not tested.",
        "subjects": {split: sorted(set(subjects)) for split, subjects in sorted(seen.items())},
        "simulated": demo,
        "extra": {
            **({"cohort": "demo"} if demo else {}),
            "fixed": fixed,
            "moving": moving,
            "working_spacing_mm": float(settings["working_spacing_mm"]),
            "segment_spacing_mm": float(settings["segment_spacing_mm"]),
            "labelled": labelled,
        },
    }


def _metrics(results: Sequence[Mapping[str, float]], on: str) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = []
    for name in sorted({k for row in results for k in row}):
        values = [row[name] for row in results if name in row and np.isfinite(row[name])]
        if values:
            metrics.append(_metric(name, values, on))
    gains = [row["dice_after"] - row["dice_before"] for row in results if {"dice_after", "dice_before"} <= set(row)]
    if gains:
        metrics.append({**_metric("dice_gain", gains, on), "against": "the affine start alone"})
    return metrics


def _metric(name: str, values: Sequence[float], on: str) -> dict[str, Any]:
    mean, low, high = (float(v) for v in bootstrap_interval(values))
    return {
        "name": name,
        "value": mean,
        "low": low if np.isfinite(low) else None,
        "high": high if np.isfinite(high) else None,
        "n": len(values),
        "on": f"{on} subjects",
    }
