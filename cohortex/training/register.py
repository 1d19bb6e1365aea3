"""Training of one network that registers, from pairs that lie on one grid, by the objective that its entry names.

The joint training with networks that segment is `cohortex.training.regseg`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.errors import Refused
from cohortex.items import DEMO_SITE, Image
from cohortex.measures.intervals import bootstrap_interval
from cohortex.measures.registration import folding_percent
from cohortex.measures.segmentation import dice, mean_of
from cohortex.models import registry
from cohortex.models.regseg.deform import displaced_mind_loss
from cohortex.models.regseg.mind import SCALES
from cohortex.models.regseg.warp import warp
from cohortex.registration.fields import compose
from cohortex.training import cards, objectives
from cohortex.training.checkpoint import open_journal
from cohortex.training.loop import Curves, fit, fresh
from cohortex.training.register_data import ImagePair, pair_sampler, with_classical
from cohortex.training.register_settings import looks_at_labels, register_training
from cohortex.training.supervised import leave_model
from cohortex.training.team import team


def train_register(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train a network on the pairs of a cohort and write its model folder.

    Parameters
    ----------
    images : sequence of Image
        Of training and validation subjects (``row["split"]``), labels among them (role ``labels``).
    section : mapping
        ``default`` with ``network`` (name, options), ``training`` (see `REGISTER`), ``pair`` (rules), ``pairs`` (most of them),
        ``spacing_mm`` and, where it is not to be that of which most pairs are, the moving ``modality``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        See `register_training`; when no training subject has a pair.
    """
    from cohortex.training.register_pairs import gather

    settings = section["default"]
    found = gather(images, settings, seed)
    demo = all(image.row.get("site") == DEMO_SITE for image in images)
    options = {"validation": found.validation, "body_part": found.body_part, "simulated": demo, "demo": demo}
    train_on_pairs(found.train, settings, seed, device, folder, float(settings["spacing_mm"]), **options)


def train_on_pairs(
    pairs: Sequence[ImagePair],
    settings: Mapping[str, Any],
    seed: int,
    device: str,
    folder: str | Path,
    spacing_mm: float,
    validation: Sequence[ImagePair] = (),
    body_part: str = "head",
    simulated: bool = False,
    demo: bool = False,
) -> Curves:
    """Train a network on pairs and write a model folder with it as the part `register`, as the stage `regseg` reads it.

    Parameters
    ----------
    pairs, validation : sequence of ImagePair
        Of one shape each, of one kind of fixed and of moving image.
    settings : mapping
        ``network`` (name, options) and ``training``, of which `REGISTER` has the names; see `register_training`.
    seed : int
    device : str
    folder : path
        The model folder to be; the checkpoint is beside it while the training runs.
    spacing_mm : float
        Edge of a voxel.
    body_part : str
    simulated : bool
        Whether the images are simulated.
    demo : bool
        Whether they are those of the demo; the model is then for no other.

    Returns
    -------
    Curves

    Raises
    ------
    Refused
        See `register_training`; when there are no pairs, or they have several shapes or kinds.
    """
    name, options = settings["network"]["name"], dict(settings["network"].get("options", {}))
    if len({(p.fixed.shape, p.moving.shape, p.modalities) for p in pairs}) != 1 or pairs[0].fixed.shape != pairs[0].moving.shape:
        raise Refused("A registration network is trained on pairs of one kind, all on grids of one shape; give such pairs, at least one.")
    fixed, moving = pairs[0].modalities
    training = register_training(name, settings.get("training", {}), unalike=fixed != moving)
    whole = {"network": {"name": name, "options": options}, "training": training, "pairs": [p.digest() for p in pairs]}
    journal = open_journal(folder, [], whole, seed)
    objective = objectives.build(training["objective"])
    looks = looks_at_labels(training)
    known = sorted({int(k) for p in pairs if p.labels is not None for x in p.labels for k in np.unique(x)} - {0}) if looks else []
    classes = [k for k in known if training["classes"] is None or k in training["classes"]]
    if looks and not classes:
        raise Refused("The objective compares labels, and no pair has any of those that are learnt from; give labels or set labels: 0.")
    if training["examples"] == "classical":
        pairs = with_classical(pairs, spacing_mm)
    network = fresh(lambda: registry.build("regseg", name, **options), seed)
    curves = fit(
        network,
        pair_sampler(pairs, training, classes),
        objective,
        steps=int(training["steps"]),
        seed=seed,
        batch=int(training["batch"]),
        minutes=float(training["minutes"]),
        rate=float(training["rate"]),
        optimiser=training["optimiser"],
        device=device,
        checkpoint=journal.of("register"),
    )
    said, chosen = objectives.settings(training["objective"])
    told = {"objective": {"name": said, **chosen, "about": objectives.kind(said).about}}
    ran = cards.how_it_ran(device, int(training["batch"]), curves.steps, journal)
    if not team().leads:
        return curves
    card = {
        "name": f"{name}-{body_part or 'any'}-{fixed}-{moving}",
        "task": "regseg",
        "network": name,
        "options": options,
        "parts": {"register": {"network": name, "options": options}},
        "modality": sorted({fixed, moving}),
        "body_part": [body_part or "any"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.2, "max": 6.0},
        "classes": [],
        "data": f"{len(pairs)} pairs of {'simulated heads' if simulated else 'the images that were given'}",
        "recipe": {**curves.recipe(), "training": training, "learnt_labels": classes, **told, "run": ran},
        "seed": int(seed % 2**53),
        "metrics": _metrics(network, validation, spacing_mm, device),
        "intended_use": f"Deformable registration of {moving} (moving) to {fixed} (fixed) after an affine start, as a first look; for "
        "research only.",
        "limits": "Not for diagnosis. Body parts and modalities other than those named are not covered; large lesions and operated anatomy "
        "were not tested.",
        "subjects": {"train": sorted({p.subject for p in pairs}), "validation": sorted({p.subject for p in validation})},
        "simulated": simulated,
        "extra": {**({"cohort": "demo"} if demo else {}), "fixed": fixed, "moving": moving, "working_spacing_mm": float(spacing_mm)},
    }
    leave_model(folder, card, {f"register.{k}": v for k, v in network.state_dict().items()}, journal)
    return curves


@torch.no_grad()
def displaced(network: nn.Module, fixed: np.ndarray, moving: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Return the displacement (3, X, Y, Z) float32 in voxels that a network gives for two images (X, Y, Z) within 0 and 1."""
    pair = torch.from_numpy(np.stack([fixed, moving]).astype(np.float32))[None].to(device)
    return network(pair)[0].cpu().numpy()


def moved_labels(labels: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Return a moving image's labels (X, Y, Z) as a displacement (3, X, Y, Z) in voxels puts them, by the most probable class."""
    values = np.unique(labels)
    soft = torch.from_numpy(np.stack([labels == k for k in values]).astype(np.float32))[None]
    return values[warp(soft, torch.from_numpy(np.ascontiguousarray(displacement, np.float32))[None])[0].argmax(0).numpy()]


def folded_percent(displacement: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return the share in percent of voxels at which a displacement (3, X, Y, Z) in voxels folds."""
    return folding_percent(np.moveaxis(displacement, 0, -1), np.eye(4), mask)


def inverse_error(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Return by how many voxels the way there and back misses its start, (X, Y, Z); displacements (3, X, Y, Z) in voxels."""
    return np.linalg.norm(compose(forward, backward), axis=0)


def _metrics(network: nn.Module, pairs: Sequence[ImagePair], spacing_mm: float, device: str) -> list[dict[str, Any]]:
    rows: dict[str, list[float]] = {}
    for pair in pairs:
        flow = displaced(network, pair.fixed, pair.moving, device)
        rows.setdefault("folding_percent", []).append(folded_percent(flow))
        fixed, moving = (torch.from_numpy(x.astype(np.float32))[None, None] for x in (pair.fixed, pair.moving))
        for when, by in (("before", None), ("after", torch.from_numpy(flow)[None])):
            apart = displaced_mind_loss(fixed, moving, by, SCALES, torch.ones_like(fixed))
            rows.setdefault(f"mind_{when}", []).append(float(apart))
        if pair.labels is not None:
            true, theirs = pair.labels
            rows.setdefault("dice_before", []).append(mean_of(dice(true, theirs)))
            rows.setdefault("dice_after", []).append(mean_of(dice(true, moved_labels(theirs, flow))))
        if pair.displacement is not None:
            errors = np.linalg.norm(flow - pair.displacement, axis=0) * spacing_mm
            rows.setdefault("endpoint_error_mm", []).append(float(errors.mean()))
    found = []
    for name, values in sorted(rows.items()):
        mean, low, high = (float(v) for v in bootstrap_interval(values))
        ends = {"low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
        found.append({"name": name, "value": mean, **ends, "n": len(values), "on": "validation pairs"})
    return found
