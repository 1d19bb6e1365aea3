"""Trains any network of the registry's task `recognize` on the labelled images of a cohort: the pieces of labels become boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.items import DEMO_SITE, Image, settings_for
from cohortex.models import registry
from cohortex.models.recognize.apply import Asked, Fed, NotFinite, found_in
from cohortex.models.recognize.findings import Findings, nothing
from cohortex.models.segment.apply import Feeding, grid_of
from cohortex.training import cards
from cohortex.training.augment import Ranges
from cohortex.training.recognize_card import best_score, metrics_of
from cohortex.training.recognize_data import (
    Known,
    Prepared,
    cut_of,
    draw_example,
    known_of,
    labelled,
    most_labelled,
    of_use,
    patch_of,
    plan_of,
    prepare,
    ranges_of,
    sampler_of,
)
from cohortex.training.recognize_settings import LABELS, NETWORK, TRAINING, classes_of

if TYPE_CHECKING:
    from torch import nn

RATE = 1e-3
BATCH = {2: 8, 3: 2}
MATCH = {2: 0.5, 3: 0.1}
"""Overlap from which a box of a picture, or of a volume, counts as found; in three dimensions a shift along each axis multiplies."""
SMALL, LEAST_ANCHOR = 10, 1.0
"""Percentile of the edges of things at which anchors begin, and the smallest anchor of a level in its strides."""
LOWEST = 0.02
"""Score down to which boxes are looked at for the figures of the card."""
EXAMPLES = 60
"""Held-out examples on which a network chooses what it chooses after its training."""
WATCHED = 16
"""Most held-out images that are looked at while the training runs."""


def train_recognize(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train a network and write its model folder.

    Parameters
    ----------
    images : sequence of Image
        Of training and validation subjects (``row["split"]``), labels of the user among them (role ``labels``, ``<id>+labels``). An image
        whose labels hold nothing of what is looked for is an example of that.
    section : mapping
        ``default`` with ``network``, ``labels`` (names of what is found, by value), ``training`` (see `TRAINING`) and, where it is not to
        be that of which most have labels, the ``modality``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When there are no labels, or nothing of what is looked for in them, or the network does not fit the images.
    """
    from cohortex.training.checkpoint import open_journal
    from cohortex.training.loop import fit, fresh
    from cohortex.training.supervised import leave_model
    from cohortex.training.team import team

    settings = settings_for(section, "default")
    name, classes = settings.get("network", NETWORK), classes_of(settings.get("labels") or LABELS)
    training = {**TRAINING, **{k: v for k, v in settings.get("training", {}).items() if v is not None}}
    modality = settings.get("modality") or most_labelled(images)
    pairs, held = (labelled(images, split, modality) for split in ("train", "validation"))
    (pairs, without), (held, _) = (of_use(some, classes) for some in (pairs, held))
    if not pairs:
        why = next(iter(without.values()), "add them (role labels or boxes), or name a trained model.")
        raise Refused(f"recognize: no {modality} of a training subject has labels or boxes of use; {why}")
    least = int(training["least_voxels"])
    known = [known_of(pair, classes, least) for pair in pairs]
    _check_found(known, classes, modality)
    how = plan_of(known, training["spacing_mm"])
    entry, options = registry.entry("recognize", name), _options(name, len(classes), how.dimensions, training["options"])
    dimensions = registry.expected(entry, options).dimensions
    across = cut_of(how, dimensions)
    feeding = _feeding(how, across, training["patch"], known)
    options = _with_anchors(name, options, training["options"], known, feeding)
    fed = Fed(feeding, [text for _, text in classes], _reach(known, feeding), 0.0)
    network: Any = fresh(lambda: registry.build("recognize", name, **options), seed)
    items = [prepare(each, feeding, classes, pair, least) for each, pair in zip(known, pairs, strict=True)]
    judged = [known_of(pair, classes, least) for pair in held] or known
    match = MATCH[2 if all(each.image.volume.shape[2] == 1 for each in known) else 3]
    journal = open_journal(folder, images, section, seed)
    batch = int(training["batch"] or entry.training.get("batch") or BATCH[dimensions])
    curves = fit(
        network,
        sampler_of(items, feeding.patch, _varied(training, across)),
        objective(),
        steps=int(training["steps"]),
        batch=batch,
        minutes=float(training["minutes"]),
        rate=float(training["rate"] or entry.training.get("rate") or RATE),
        seed=seed,
        device=device,
        validate=_watch(judged, fed, match, device) if held else None,
        checkpoint=journal.of("network"),
    )
    ran = cards.how_it_ran(device, batch, curves.steps, journal)
    if not team().leads:
        return
    if held and network.chooses:
        options |= _chosen(
            network, [prepare(each, feeding, classes, pair, least) for each, pair in zip(judged, held, strict=True)], fed, seed
        )
    found = [_look(each, network, fed, device) for each in judged]
    score = best_score(found, [each.truth for each in judged], match)
    seen = [image for image, _ in [*pairs, *held]]
    on = "validation" if held else "train"
    card = {
        "name": f"recognize-{modality}-{name}",
        "task": "recognize",
        "network": name,
        "options": options,
        **cards.common(seen),
        "spacing_mm": cards.spacing_range([s for image in seen for s in image.volume.spacing]),
        "classes": fed.classes,
        "recipe": {"training": {**training, "patch": list(feeding.patch), "batch": batch}, **curves.recipe(), "run": ran},
        "seed": int(seed % 2**53),
        "metrics": metrics_of(judged, found, fed.classes, match, score, on),
        "intended_use": f"Boxes around {', '.join(fed.classes)} in {modality} images as a first look; for research only.",
        "limits": "Not for diagnosis. Other scanners, body parts and kinds of findings than those of the training subjects were not tried.",
        "extra": {
            **({"cohort": "demo"} if all(image.row.get("site") == DEMO_SITE for image in seen) else {}),
            "plan": feeding.plan.told(),
            "across": across,
            "patch": list(feeding.patch),
            "reach": [round(n, 2) for n in fed.reach],
            "score": score,
        },
    }
    leave_model(folder, card, network.state_dict(), journal)


def _check_found(known: Sequence[Known], classes: Sequence[tuple[int, str]], modality: str) -> None:
    """Refuse labels in which some class does not occur, naming it."""
    counts = np.bincount(np.concatenate([each.truth.labels for each in known]), minlength=len(classes))
    missing = [f"{value} ({text})" for (value, text), count in zip(classes, counts, strict=True) if count == 0]
    if missing:
        raise Refused(
            f"recognize: the labels of the {len(known)} training images ({modality}) never hold {', '.join(missing)}; correct "
            "recognize.default.labels, or give subjects that have it."
        )


def _varied(training: Mapping[str, Any], across: int | None) -> Ranges:
    """Return how far examples are varied: as is usual, and what the section says otherwise.

    Raises
    ------
    Refused
        For a range that there is not, or that is no number from 0.
    """
    usual, own = ranges_of(training["flip"], across), dict(training["augment"])
    known = sorted(vars(usual).keys() - {"flip"})
    unknown = sorted(own.keys() - set(known))
    if unknown:
        raise Refused(f"recognize: training.augment has the unknown key {unknown[0]!r}; it knows {', '.join(known)}.")
    try:
        return replace(usual, **own)
    except ValueError as error:
        raise Refused(f"recognize: training.augment: {error}") from error


def _options(name: str, classes: int, dimensions: int, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a network's options for images; those of the section are laid over them.

    Raises
    ------
    Refused
        For an option that the network has not.
    """
    known = registry.entry("recognize", name).options
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise Refused(f"recognize: the network {name} has no option {unknown[0]!r}; it has: {', '.join(known)}.")
    fitting = {"classes": classes, "channels": 1, "dimensions": dimensions}
    return {**{key: value for key, value in fitting.items() if key in known}, **own}


def _with_anchors(
    name: str, options: Mapping[str, Any], own: Mapping[str, Any], known: Sequence[Known], feeding: Feeding
) -> dict[str, Any]:
    """Return a network's options with anchors that begin at the small things of these images, where the section says nothing of them.

    The edge of a level's smallest anchor, in strides of the level, is such that the finest level begins at the tenth percentile of the
    edges of all things (the mean of the two or three of each by their product).
    """
    import torch

    if "anchor" not in registry.entry("recognize", name).options or "anchor" in own:
        return dict(options)
    with torch.device("meta"):
        network: Any = registry.build("recognize", name, **options)
    strides = next((each.strides for each in network.children() if isinstance(getattr(each, "strides", None), list)), None)
    if not strides:
        return dict(options)
    edges = _edges(known, feeding)
    usual = float(np.percentile(np.exp(np.log(np.maximum(edges, 1)).mean(axis=1)), SMALL))
    return {**options, "anchor": round(max(LEAST_ANCHOR, usual / float(strides[0])), 2)}


def _feeding(how: Any, across: int | None, patch: Any, known: Sequence[Known]) -> Feeding:
    """Return how the network is fed; of slices the plan leaves their distance as it is."""
    plan = replace(how, across=across)
    shapes = [grid_of(each.image.volume, plan).shape for each in known]
    return Feeding(plan, across, patch_of(patch, shapes, across))


def _reach(known: Sequence[Known], feeding: Feeding) -> tuple[float, ...]:
    """Return the edges of the largest thing, in voxels of the plan along each axis of a patch."""
    return tuple(float(n) for n in _edges(known, feeding).max(axis=0))


def _edges(known: Sequence[Known], feeding: Feeding) -> np.ndarray:
    """Return the edges of every thing, (n, axes of a patch) in voxels of the plan."""
    rows = []
    for each in known:
        factor = grid_of(each.image.volume, feeding.plan).spacing / np.array(each.image.volume.spacing)
        rows.append((each.truth.corners[:, 3:] - each.truth.corners[:, :3]) / factor)
    return np.concatenate(rows)[:, [axis for axis in range(3) if axis != feeding.across]]


def objective() -> Any:
    """Return the objective: the network's own loss against the boxes of each example."""
    import torch

    from cohortex.models.recognize.boxes import Boxes
    from cohortex.training.objectives.objective import Objective

    class OwnLoss(Objective):
        def loss(self, network: Any, source: Any, target: Any, step: int) -> torch.Tensor:
            device = source.device
            kept = [rows[rows[:, -1] >= 0] for rows in target]
            boxes = [Boxes(rows[:, :-1].contiguous(), rows[:, -1].long()) for rows in kept]
            # Some networks draw examples of the background: from a generator of this step, so that a training taken up again ends alike.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(self.generator(step).initial_seed())
                return network.loss(network(source), boxes)

    return OwnLoss()


def _chosen(network: Any, items: Sequence[Prepared], fed: Fed, seed: int) -> dict[str, Any]:
    """Return the options that a network chooses once it has learned, on examples of held-out images that are not varied."""
    import torch

    from cohortex.models.recognize.boxes import Boxes

    rng, device = np.random.default_rng([seed, 1]), next(network.parameters()).device
    still, examples = Ranges(translate=0.0, rotate_deg=0.0, shear=0.0, scale=0.0), []
    network.eval()
    for number in range(EXAMPLES):
        image, rows = draw_example(items[number % len(items)], fed.feeding.patch, still, rng)
        corners, labels = (torch.from_numpy(part).to(device) for part in (rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64)))
        with torch.inference_mode():
            examples.append((network(torch.from_numpy(image)[None].to(device)), Boxes(corners, labels)))
    return network.chosen(examples)


def _look(known: Known, network: nn.Module, fed: Fed, device: str) -> Findings:
    try:
        return found_in(known.image.volume, network, fed, Asked(score=LOWEST), device)
    except NotFinite:
        return nothing()


def _watch(judged: Sequence[Known], fed: Fed, match: float, device: str) -> Any:
    """Return what tells the mean average precision on some held-out images while a training runs."""
    from cohortex.measures.detection import mean_average_precision

    chosen = [judged[int(i)] for i in np.unique(np.linspace(0, len(judged) - 1, min(WATCHED, len(judged))).round())]

    def validate(network: nn.Module) -> float:
        found = [_look(each, network, fed, device) for each in chosen]
        value = mean_average_precision(found, [each.truth for each in chosen], len(fed.classes), match)
        return value if np.isfinite(value) else 0.0

    return validate
