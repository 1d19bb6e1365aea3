"""Trains the network of stage `superresolve`: an in-plane axis plays the slice axis, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.filters.foreground import foreground
from cohortex.items import Image, settings_for
from cohortex.measures.image_quality import psnr
from cohortex.models import registry
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.models.superresolve import throughplane as through
from cohortex.stages.superresolve import further_images
from cohortex.training import cards, patches, superresolve_pairs
from cohortex.training.loop import fresh
from cohortex.training.superresolve_pairs import Manner, Scan, Shape, around, cubic, degrade, in_plane
from cohortex.training.supervised import leave_model, train_on_patches
from cohortex.training.team import team

if TYPE_CHECKING:
    from torch import nn

    from cohortex.models.superresolve.fitted import Fitted

TRAINING: dict[str, Any] = {
    "steps": 1000,
    "minutes": 60.0,
    "rate": 1e-3,
    "batch": 4,
    "patch": 14,
    "factors": [1.5, 3.0],
    "residual": True,
    "objective": "squared_error",
    "options": {},
    "degradation": "profile",
    "slices": 8,
    "around": 6,
    "remap": False,
    "even": False,
    "lazy": False,
}
"""What neither a section nor the network's entry says."""

MOST_IMAGES = 24
"""Training images in memory."""


def train_superresolve(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train a network of the registry and write its model folder.

    Every training image is first brought to cubic voxels by the spline where it has thick slices. Along each of its in-plane axes
    it is then made coarse by some factor; the network learns what it was. So nothing but the user's own scans is needed.
    Validation subjects give the metrics of the card.

    Parameters
    ----------
    images : sequence of Image
        Their ``row["split"]`` is train or validation.
    section : mapping
        The section of the stage; ``method``, ``training``, ``profile``, ``reference`` of ``default`` are used, see
        ``schemas/stages/superresolve.json``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When no training image is a volume, or none has the further image that the network needs.
    """
    from cohortex.models.superresolve.fitted import AtOnce, fitted

    settings = settings_for(section, "default")
    name = network_of(settings)
    entry = registry.entry("superresolve", name)
    given = {key: value for key, value in settings.get("training", {}).items() if value is not None}
    training = {**TRAINING, **entry.training, **given}
    options = {**{key: training[key] for key in entry.options if key in training}, **training["options"]}
    network = fresh(lambda: registry.build("superresolve", name, **options), seed)
    if hasattr(network, "first_weights"):
        network.first_weights(seed)  # pyright: ignore[reportCallIssue]
    fed = fitted(name, options, network)
    low, high = (fed.factor,) * 2 if fed.factor else (float(f) for f in training["factors"])
    manner = Manner(settings.get("profile", "box"), training["degradation"], bool(training["remap"]), bool(training["even"]))

    def those(split: str) -> list[Image]:
        picked = patches.chosen(images, split, 10**6 if training["lazy"] and split == "train" else MOST_IMAGES)
        return patches.showing([i for i in picked if min(i.volume.shape) > 3 * high and missing(i, images, settings, fed, high) is None])

    train, held_out = those("train"), those("validation")
    if not train:
        lacks = "".join(f" and a {each}" for each in fed.inputs if each == "reference")
        raise Refused(
            f"superresolve: weights: train needs volumes of training subjects{lacks} for {name}, there is none; "
            "give more subjects or name a model."
        )
    make = superresolve_pairs.read_when_drawn if training["lazy"] else superresolve_pairs.prepared
    scans = [
        make(image, np.random.default_rng([seed, index]), beside(image, images, settings, fed, high)) for index, image in enumerate(train)
    ]
    shape = shape_of(fed, network, training)
    length = None if fed.grid == "fine" else lambda factor: fine_length(shape, factor or fed.factor)
    one = drawer(scans, shape, fed, (low, high), manner)
    recipe, journal = train_on_patches(
        AtOnce(network, shape.edge, length),
        one,
        training,
        images,
        section,
        seed,
        device,
        folder,
        {f"network.{each}": share for each, share in entry.slower.items()},
        training["objective"],
        channels=True,
    )
    if not team().leads:
        return
    spacings = [s for i in train for s in i.volume.spacing]
    thickest = max(min(i.volume.spacing) for i in train) * high
    card = {
        "name": name,
        "task": "superresolve",
        "network": name,
        "options": options,
        **cards.common([*train, *held_out]),
        "spacing_mm": cards.spacing_range([*spacings, thickest]),
        "recipe": {"training": training, "profile": manner.profile, "target": "in-plane axis as slice axis", **recipe},
        "seed": seed,
        "metrics": metrics(network, fed, held_out, images, settings, shown(fed, low, high), manner, device),
        "intended_use": "Adds through-plane detail to volumes of thick slices, on top of cubic interpolation.",
        "limits": "For viewing and for registration and segmentation, not for finding lesions thinner than a slice; detail is estimated.",
        "extra": {"factors": [low if fed.factor else min(1.25, low), high]},
    }
    card["dimensions"] = [3]
    leave_model(folder, card, network.state_dict(), journal)


def shown(fed: Fitted, low: float, high: float) -> list[float]:
    """Return the factors whose gain stands in a card: the largest, and of a network for any factor every second whole one below."""
    return sorted({*np.arange(high, low - 0.5, -2.0).tolist()}) if fed.any_factor else [high]


def network_of(settings: Mapping[str, Any]) -> str:
    """Return the network that a section names; srcnn3d where its method is none of the registry's."""
    names = [entry.name for entry in registry.entries("superresolve")]
    return settings["method"] if settings.get("method") in names else "srcnn3d"


def beside(image: Image, images: Sequence[Image], settings: Mapping[str, Any], fed: Fitted, factor: float) -> dict[str, Image]:
    """Return the further images for an image that is made coarse by a factor; a second view is made of the image itself."""
    inputs = [name for name in fed.inputs if name != "view"]
    return further_images(image, images, settings, inputs, min(image.volume.spacing) * factor)


def missing(image: Image, images: Sequence[Image], settings: Mapping[str, Any], fed: Fitted, factor: float) -> str | None:
    """Return which further input an image has not."""
    found = beside(image, images, settings, fed, factor)
    return next((name for name in fed.inputs[1:] if name != "view" and name not in found), None)


def shape_of(fed: Fitted, network: nn.Module, training: Mapping[str, Any]) -> Shape:
    """Return what is cut out for a network.

    It gets all that it looks at where it loses its halo, else ``around`` voxels of it, and a third as many slices: what lies beyond is
    not there, as at the faces of a volume.
    """
    edge, around = int(training["patch"]), int(training["around"])
    if fed.grid == "slices":
        return Shape(edge, (min(around, fed.halo[0]), min(around, fed.halo[1]), around // 3), int(training["slices"]), fed.inputs)
    import torch

    size = [2 * h + 2 for h in fed.halo]
    with torch.no_grad():
        made = network.eval()(torch.zeros(1, len(fed.inputs), *size))
    network.train()
    loses = made.shape[2] < size[0]
    a, b, c = fed.halo if loses else (min(around, h) for h in fed.halo)
    return Shape(edge, (a, b, c), 0, fed.inputs)


def fine_length(shape: Shape, factor: float | None) -> int:
    """Return the fine voxels of a target along the slice axis, for a network on the slices' grid."""
    assert factor is not None
    return round((shape.slices + 2 * shape.halo[2]) * factor) - 2 * superresolve_pairs.cut(shape, factor)


def drawer(
    scans: Sequence[Scan], shape: Shape, fed: Fitted, factors: tuple[float, float], manner: Manner
) -> Callable[[np.random.Generator], tuple[Any, np.ndarray]]:
    """Return the function that draws a pair.

    For a network on the slices' grid all pairs of a step have one factor, since they are one array; half of these factors are whole.
    """
    last: dict[str, Any] = {"rng": None, "factor": fed.factor}
    low, high = factors

    def one(rng: np.random.Generator) -> tuple[Any, np.ndarray]:
        if fed.grid == "fine":
            return superresolve_pairs.draw(scans[int(rng.integers(len(scans)))], shape, float(rng.uniform(low, high)), manner, rng)
        if fed.any_factor and last["rng"] is not rng:
            whole = np.arange(np.ceil(low), np.floor(high) + 1)
            free = float(rng.uniform(low, high))
            wanted = float(rng.choice(whole)) if len(whole) and rng.random() < 0.5 else free
            slices = shape.slices + 2 * shape.halo[2]
            last.update(rng=rng, factor=round(slices * wanted) / slices)
        factor = float(last["factor"])
        source, target = superresolve_pairs.draw_slices(scans[int(rng.integers(len(scans)))], shape, factor, manner, rng)
        return ((source, np.array([factor], np.float32)), target) if fed.any_factor else (source, target)

    return one


def metrics(
    network: nn.Module,
    fed: Fitted,
    held_out: Sequence[Image],
    images: Sequence[Image],
    settings: Mapping[str, Any],
    factors: Sequence[float],
    manner: Manner,
    device: str,
) -> list[dict[str, Any]]:
    """Return the gain in PSNR of the stage's result over the cubic spline and over the agreeing one, on held-out images, by factor."""
    found = []
    for factor in factors:
        rows = [measured(network, fed, image, images, settings, float(factor), manner, device) for image in held_out]
        if not rows:
            return []
        made_db, plain_db, agreeing_db = zip(*rows, strict=True)
        subjects = [image.subject for image in held_out]
        on = f"validation subjects, in-plane axis thickened {factor:g} times, foreground"
        found += [
            cards.gain("PSNR gain dB", subjects, made_db, plain_db, "cubic spline", on),
            cards.gain(
                "PSNR gain dB over the agreeing spline", subjects, made_db, agreeing_db, "cubic spline whose slice means are the slices", on
            ),
        ]
    return found


def measured(
    network: nn.Module,
    fed: Fitted,
    image: Image,
    images: Sequence[Image],
    settings: Mapping[str, Any],
    factor: float,
    manner: Manner,
    device: str,
    axis: int | None = None,
) -> tuple[float, float, float]:
    """Return the PSNR of the network's result, of the cubic spline and of the agreeing one, for an image made coarse along an axis.

    The foreground counts; the axis is the first in-plane one where none is given. Whole slices of the factor only.
    """
    from cohortex.models.superresolve.apply import run_fine

    array = cubic(image.volume.array(np.float32), image.volume.spacing)
    inside, axis = foreground(array), in_plane(image)[0] if axis is None else axis
    # Whole lines along the slice axis, across it the foreground and what the network looks at around it.
    kept = tuple(part if a != axis else slice(None) for a, part in enumerate(around(inside, max(fed.halo))))
    if fed.factor:
        whole = array.shape[axis] // round(factor) * round(factor)
        kept = tuple(slice(0, whole) if a == axis else part for a, part in enumerate(kept))
    array, inside = np.ascontiguousarray(array[kept]), inside[kept]
    rng = np.random.default_rng(0)
    slices, blurred = degrade(array, axis, factor, manner, rng)
    low, high = unit_range(slices, values_for(image.modality))
    others = {
        name: superresolve_pairs.view(np.moveaxis(to_unit(array, low, high), axis, 2), factor, manner)
        if name == "view"
        else np.moveaxis(superresolve_pairs.on_grid(image, found)[kept], axis, 2)
        for name, found in {"view": image, **beside(image, images, settings, fed, factor)}.items()
        if name in fed.inputs
    }
    lines = tuple(np.moveaxis(to_unit(a, low, high), axis, 2) for a in (slices, blurred))
    made, _ = run_fine(network, fed, lines[0], lines[1], others, device)
    spline = through.upsample(slices, array.shape[axis], axis)
    truth, plain, agreeing, seen = (to_unit(a, low, high) for a in (array, spline, blurred, slices))
    made = through.agree(np.ascontiguousarray(np.moveaxis(made, 2, axis)), seen, axis, manner.profile)
    a, b, c = (psnr(truth, each, 1.0, inside) for each in (made, plain, agreeing))
    return a, b, c
