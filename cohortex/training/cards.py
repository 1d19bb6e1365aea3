"""What the cards of trained models have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohortex.items import DEMO_SITE, Image
from cohortex.measures.intervals import paired_interval
from cohortex.training.checkpoint import Journal
from cohortex.training.team import team


def common(images: Sequence[Image]) -> dict[str, Any]:
    """Return what a card says of its images: modality, body part, dimensions, data, subjects.

    Parameters
    ----------
    images : sequence of Image
        Training and validation images.
    """
    parts = sorted({image.body_part for image in images})
    modalities = sorted({image.modality for image in images})
    simulated = all(image.row.get("site") == DEMO_SITE for image in images)
    train = [image for image in images if image.row.get("split") == "train"]
    return {
        "modality": modalities,
        # An image whose body part nobody knew says nothing about what the model is for.
        "body_part": ["any"] if "" in parts else parts,
        "dimensions": sorted({2 if image.volume.shape[2] == 1 else 3 for image in images}),
        "data": f"{len(train)} images ({', '.join(modalities)}) of the training subjects of the cohort that the workflow ran on"
        + (", all of them simulated heads of the demo" if simulated else ""),
        "simulated": simulated,
        "subjects": {s: sorted({i.subject for i in images if i.row.get("split") == s}) for s in ("train", "validation")},
    }


def spacing_range(spacings: Sequence[float], slack: float = 1.25) -> dict[str, float]:
    """Return the range of spacings that a model is for: what it saw and a quarter beyond."""
    return {"min": round(min(spacings) / slack, 4), "max": round(max(spacings) * slack, 4)}


def how_it_ran(device: str, batch: int | Mapping[str, int], steps: int | Mapping[str, int], journal: Journal) -> dict[str, Any]:
    """Return what a card says of the machines that trained: all processes of the training call it.

    Parameters
    ----------
    device : str
    batch : int, or int by network
        Examples of a step as the settings say; with more processes than that each takes one.
    steps : int, or int by network
        Steps of the optimiser that were taken.
    journal : Journal

    Returns
    -------
    dict
        processes, devices (name to number), precision, global_batch, steps, resumed (attempts that went on from one before).
    """
    whole = {name: team().whole(size) for name, size in batch.items()} if isinstance(batch, Mapping) else team().whole(batch)
    return {**team().facts(device), "global_batch": whole, "steps": steps, "resumed": journal.resumed}


def gain(name: str, subjects: Sequence[str], better: Sequence[float], worse: Sequence[float], against: str, on: str) -> dict[str, Any]:
    """Return a metric of a card: the mean gain over another method with its paired 95 % interval over subjects.

    Parameters
    ----------
    subjects : sequence of str
        Whose value each is; the values of one subject are averaged first.
    better, worse : sequence of float
        Of the model and of what it is compared with.
    """
    names = sorted(set(subjects))
    a, b = ([float(np.mean([v for s, v in zip(subjects, values, strict=True) if s == n])) for n in names] for values in (better, worse))
    mean, low, high = paired_interval(a, b)
    return {
        "name": name,
        "value": _short(mean),
        "low": _short(low),
        "high": _short(high),
        "n": len(names),
        "against": against,
        "on": on,
    }


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
