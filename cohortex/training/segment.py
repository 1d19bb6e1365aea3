"""Trains any network of the registry's task `segment` on the labelled images of a cohort.

Spacing, patch, batch and range of values are those of the plan (`cohortex.models.segment.plan`) for every network alike, so that what is
compared is the networks; the plan's own one, ``planned_unet``, is the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import DEMO_SITE, Image, settings_for
from cohortex.measures.intervals import bootstrap_interval
from cohortex.measures.segmentation import dice, iou, mean_of
from cohortex.models import registry
from cohortex.models.regseg.grid import Grid, resample
from cohortex.models.segment.apply import Feeding, predicted
from cohortex.models.segment.plan import Plan
from cohortex.training import cards
from cohortex.training.segment_data import (
    Labelled,
    classes_of,
    grid_of,
    known_of,
    labelled_pairs,
    most_common,
    names_of,
    plan_of,
    prepared,
    sampler_of,
    standardised,
)
from cohortex.volume import ArrayLike

if TYPE_CHECKING:
    from torch import nn

BASELINE = "planned_unet"
TRAINING: dict[str, Any] = {
    "steps": 2000,
    "minutes": 60.0,
    "rate": 1e-3,
    "batch": None,
    "patch": None,
    "memory_gb": 8.0,
    "options": {},
    "objective": None,
}
"""What a section does not say; None is what the plan says, or for the objective what the network's paper says."""


def train_segment(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train a network and write its model folder.

    Parameters
    ----------
    images : sequence of Image
        Of training and validation subjects (``row["split"]``), labels among them (role ``labels``). The modality of which most have
        labels is trained.
    section : mapping
        ``default`` with ``network``, ``labels`` (names by value), ``training`` (see `TRAINING`) and, where it is not to be that of which
        most have labels, the ``modality``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When there are no labels, or the network does not fit the images.
    """
    from cohortex.training.checkpoint import open_journal
    from cohortex.training.loop import fit, fresh
    from cohortex.training.supervised import leave_model
    from cohortex.training.team import team

    settings = settings_for(section, "default")
    name = settings.get("network", BASELINE)
    training = {**TRAINING, **{k: v for k, v in settings.get("training", {}).items() if v is not None}}
    modality = settings.get("modality") or most_common(images)
    pairs, held_out = (labelled_pairs(images, split, modality) for split in ("train", "validation"))
    if not pairs:
        raise Refused(f"segment: no {modality} of a training subject has labels; add them (role labels), or name a trained model.")
    how = plan_of(pairs, classes_of(pairs), float(training["memory_gb"]))
    entry, options = registry.entry("segment", name), options_of(name, how, training["options"])
    dimensions = registry.expected(entry, options).dimensions
    across, patch = cut_of(how, dimensions, training["patch"])
    wanted = training["objective"] or entry.training["objective"]
    network = fresh(lambda: registry.build("segment", name, **options), seed)
    items = [prepared(pair, how, np.random.default_rng([seed, index])) for index, pair in enumerate(pairs)]
    journal = open_journal(folder, images, section, seed)
    batch = int(training["batch"] or how.batch)
    curves = fit(
        network,
        sampler_of(items, patch, across),
        objective_of(wanted),
        steps=int(training["steps"]),
        batch=batch,
        minutes=float(training["minutes"]),
        rate=float(training["rate"]),
        seed=seed,
        device=device,
        checkpoint=journal.of("network"),
    )
    ran = cards.how_it_ran(device, batch, curves.steps, journal)
    if not team().leads:
        return
    judged = [prepared(pair, how, np.random.default_rng([seed, 9, index])) for index, pair in enumerate(held_out or pairs)]
    seen = [image for image, _ in [*pairs, *held_out]]
    names = names_of(how.classes, settings.get("labels", {}))
    card = {
        "name": f"segment-{modality}-{name}",
        "task": "segment",
        "network": name,
        "options": options,
        **cards.common(seen),
        "spacing_mm": cards.spacing_range([s for image in seen for s in image.volume.spacing]),
        "classes": names,
        "recipe": {"training": {**training, "objective": wanted, "patch": list(patch), "batch": batch}, **curves.recipe(), "run": ran},
        "seed": int(seed % 2**53),
        "metrics": metrics_of(scores(network, judged, how, across, patch, device), names, "validation" if held_out else "train"),
        "intended_use": f"Labels of {modality} images as a first look; for research only.",
        "limits": "Not for diagnosis. Other scanners, body parts and label sets than those of the training subjects were not tried.",
        "extra": {
            **({"cohort": "demo"} if all(image.row.get("site") == DEMO_SITE for image in seen) else {}),
            "plan": how.told(),
            "across": across,
            "patch": list(patch),
        },
    }
    if held_out:
        fit = quality_of(network, items, judged, Feeding(how, across, patch), names, seed, device)
        card["extra"]["quality"] = {modality: fit} if fit is not None else {}
    leave_model(folder, card, network.state_dict(), journal)


def options_of(name: str, how: Plan, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's options for a plan; those of the section are laid over them.

    Raises
    ------
    Refused
        For an option that the network has not.
    """
    known = registry.entry("segment", name).options
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise Refused(f"segment: the network {name} has no option {unknown[0]!r}; it has: {', '.join(known)}.")
    planned = how.options if name == BASELINE else {"channels": how.channels, "classes": max(2, how.classes)}
    return {**planned, **own}


def cut_of(how: Plan, dimensions: int, patch: Sequence[int] | int | None) -> tuple[int | None, tuple[int, ...]]:
    """Return along which axis slices are cut for a network of two dimensions, and the patch.

    Raises
    ------
    Refused
        When volumes are needed and there are pictures only, or the patch has other axes.
    """
    if dimensions == 3 and how.dimensions == 2:
        raise Refused(
            "segment: the images are pictures or have few slices; name a network of two dimensions, or set its option dimensions: 2."
        )
    across = how.across if how.across is not None else int(np.argmax(how.spacing)) if how.spacing[2] < max(how.spacing) else 2
    if isinstance(patch, int):
        patch = [patch] * dimensions
    if patch is None:
        patch = how.patch if dimensions == how.dimensions else [n for axis, n in enumerate(how.patch) if axis != across]
    if len(patch) != dimensions:
        raise Refused(f"segment: the patch {list(patch)} has {len(patch)} axes, the network {dimensions}; give one length for each.")
    return (across if dimensions == 2 else None), tuple(int(n) for n in patch)


def objective_of(wanted: str | Mapping[str, Any]) -> Any:
    """Return the objective of a loss (`cohortex.training.objectives.labels`), summed over the heads that a network trains with."""
    import torch

    from cohortex.training.objectives.labels import loss_of
    from cohortex.training.objectives.objective import Objective

    loss = loss_of(wanted)

    class Heads(Objective):
        def loss(self, network: Any, source: Any, target: Any, step: int) -> torch.Tensor:
            # Dropout draws from torch's own generator: here one of this step, so that a training taken up again ends with the same bytes.
            device = source.device
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(self.generator(step).initial_seed())
                heads = network.outputs(source)
            parts = [w * loss(head.float(), target[:, 0]) for w, head in zip(network.outputs_weights, heads, strict=True) if w]
            return torch.stack(parts).sum()

    return Heads()


def labels_of(
    network: nn.Module, values: ArrayLike, how: Plan, across: int | None, patch: Sequence[int], device: str = "cpu"
) -> np.ndarray:
    """Return the labels of a standardised image on the plan's grid, (X, Y, Z), as `predicted` does it."""
    found, _ = predicted(network, values, Feeding(how, across, tuple(patch)), device)
    return np.asarray(found[...])


def segmented(network: nn.Module, image: Image, how: Plan, across: int | None, patch: Sequence[int], device: str = "cpu") -> np.ndarray:
    """Return the labels of an image on its own grid, (X, Y, Z): it is put on the plan's grid, labelled there, and the labels come back."""
    volume = image.volume
    grid = grid_of(volume, how)
    said = labels_of(network, standardised(volume, how, grid), how, across, patch, device)
    own = Grid((volume.shape[0], volume.shape[1], volume.shape[2]), volume.affine)
    return np.asarray(resample(said, grid.affine, own, mode="nearest"))


def scores(
    network: nn.Module, items: Sequence[Labelled], how: Plan, across: int | None, patch: Sequence[int], device: str
) -> list[dict[str, Any]]:
    """Return for each image, on its own grid, its subject and the Dice and IoU of each label."""
    rows = []
    for item in items:
        back = segmented(network, item.image, how, across, patch, device)
        true, labels = known_of(item.image, item.labels), range(1, how.classes)
        rows.append({"subject": item.image.subject, "dice": dice(true, back, labels), "iou": iou(true, back, labels)})
    return rows


def quality_of(
    network: nn.Module, learnt: Sequence[Labelled], held_out: Sequence[Labelled], fed: Feeding, names: Sequence[str], seed: int, device: str
) -> dict[str, Any] | None:
    """Return the calibration of the Dice to be expected of a network's labels, None where there is none to be trusted.

    Volumes are those of the images that it learned from; their voxels are taken to be as large as those of the first.
    """
    from cohortex.survey import sample_of
    from cohortex.training.quality import MOST_CASES, Judged, calibrated, volumes_of

    voxel_ml = float(np.prod(learnt[0].grid.spacing)) / 1000
    cases = []
    for item in [held_out[int(i)] for i in np.unique(np.linspace(0, len(held_out) - 1, min(MOST_CASES, len(held_out))).round())]:
        low, high = np.percentile(sample_of(item.values), (0.5, 99.5))
        cases.append(Judged(item.image.subject, item.values, item.known, float(low), float(max(high, low + 1e-3))))
    volumes = volumes_of((item.known for item in learnt), max(2, fed.plan.classes), voxel_ml)
    return calibrated(cases, lambda values: predicted(network, values, fed, device, "probabilities")[0], names, voxel_ml, volumes, seed)


def metrics_of(rows: Sequence[Mapping[str, Any]], names: Sequence[str], on: str) -> list[dict[str, Any]]:
    """Return the metrics of a card: Dice and IoU, their means over labels and each label's Dice, with intervals over subjects."""

    def by_subject(values: Sequence[float]) -> list[float]:
        subjects = [row["subject"] for row in rows]
        found = [[v for v, s in zip(values, subjects, strict=True) if s == name and np.isfinite(v)] for name in sorted(set(subjects))]
        return [float(np.mean(each)) for each in found if each]

    wanted = {"Dice": [mean_of(row["dice"]) for row in rows], "IoU": [mean_of(row["iou"]) for row in rows]}
    wanted |= {f"Dice of {names[k]}": [row["dice"][k] for row in rows] for k in range(1, len(names))}
    metrics = []
    for name, values in wanted.items():
        kept = by_subject(values)
        if kept:
            mean, low, high = (float(f"{v:.4g}") if np.isfinite(v) else None for v in bootstrap_interval(kept))
            metrics.append({"name": name, "value": mean, "low": low, "high": high, "n": len(kept), "on": f"{on} subjects"})
    return metrics
