"""Trains the networks of stage `denoise`: on scans made noisy by physics, or on noisy scans alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import Refused
from cohortex.inference import run_network, way_of
from cohortex.items import Image, settings_for
from cohortex.measures.image_quality import psnr
from cohortex.models import registry
from cohortex.models.intensity import from_unit, to_unit
from cohortex.stages.denoise import MEAN, apply_transform
from cohortex.training import cards, objectives, patches
from cohortex.training.denoise_data import (
    LEVELS,
    MOST_IMAGES,
    Scan,
    Shape,
    draw,
    in_units,
    noisy_scan,
    pair_scan,
    prepared,
    sampler,
    scans_for,
    shape_of,
)
from cohortex.training.loop import fresh
from cohortex.training.noise import with_noise
from cohortex.training.settings import denoise_network, denoise_training
from cohortex.training.shown import EXAMPLES, examples_of, shown
from cohortex.training.supervised import leave_model, train_on_patches
from cohortex.training.team import team

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LEVELS", "draw", "prepared", "train_denoise", "with_noise"]

SHOWN_SLICES, WATCHED = 8, 8
"""Slices of an image that validation looks at, and patches that the curve of validation is taken of."""

SHARE = 0.5
"""Of the noise that is added to an image to judge a network without its truth, see `cohortex.training.objectives.noisy.recorrupted`."""

KINDS = {
    "pairs": ("with synthetic noise", "network", "target"),
    "noisy": ("as measured", "network"),
    "halves": ("one half", "network", "the other half"),
    "projections": ("most views", "network", "the other views"),
}
"""What the pictures of an example are called."""


def train_denoise(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train the network that the section names and write its model folder.

    What it learns from depends on the objective. Pairs: the target is a scan cleaned by the block DCT (or the scan itself), the input is
    the target with synthetic noise of 0.5 to 1.5 times the level estimated in the scan, Rician for magnitudes and Gaussian otherwise, or of
    a CT with less dose. All other objectives read noisy scans alone: no image is cleaned for them. Validation subjects give the metrics
    of the card.

    Parameters
    ----------
    images : sequence of Image
        Their ``row["split"]`` is train or validation.
    section : mapping
        The section of the stage; ``method``, ``training``, ``strength`` and ``rician`` are used, see ``schemas/stages/denoise.json``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When there is no training image with noise in it, or none of the kind that network and objective need.
    """
    name, training = denoise_network(section), denoise_training(section)
    entry = registry.entry("denoise", name)
    expects = registry.expected(entry, training["options"])
    reads = objectives.kind(training["objective"]["name"]).reads
    # What is 0 in units of the noise has to mean no signal, as it does in magnitudes.
    taken = [image for image in images if image.modality != "CT"] if expects.values == registry.NOISE_UNITS else images
    # Networks of one picture see slices; all others need some on top of each other.
    stacks = expects.dimensions == 3 or expects.channels > 1
    train, held_out = (
        patches.showing([image for image in patches.chosen(taken, split, MOST_IMAGES) if not stacks or image.volume.shape[2] > 1])
        for split in ("train", "validation")
    )
    if stacks and not train:
        raise Refused(f"denoise: the network {name} looks at several slices, but the training subjects have pictures only; name another.")
    scans = [in_units(scan, expects, reads) for scan in scans_for(train, section, training, reads, seed)]

    network = fresh(lambda: registry.build("denoise", name, **training["options"]), seed)
    if hasattr(network, "first_weights"):
        network.first_weights(seed)  # pyright: ignore[reportCallIssue]
    shape = shape_of(network, expects, training["patch"], reads)
    watched = _watched(held_out, section, training, shape, seed)
    phases = getattr(network, "phases", ())
    recipe, journal = train_on_patches(
        network,
        None,
        training,
        images,
        section,
        seed,
        device,
        folder,
        objective=training["objective"],
        validate=None if watched is None else judge(watched, shape, device),
        sampler=sampler(scans, shape),
        phases=phases if isinstance(phases, tuple) and len(phases) > 1 else (),
    )
    if not team().leads:
        return
    spacings = [s for i in train for s, n in zip(i.volume.spacing, i.volume.shape, strict=True) if n > 1]
    levels = [scan.sigma * scan.extra / (scan.high - scan.low) for scan in scans]
    span = LEVELS if reads == "pairs" else (1.0, 1.0)
    card = {
        "name": name,
        "task": "denoise",
        "network": name,
        "options": training["options"],
        **cards.common([*train, *held_out]),
        "spacing_mm": cards.spacing_range(spacings),
        "recipe": {"training": _told(training), **_what(reads, training), **recipe},
        "seed": seed,
        "metrics": metrics(network, held_out, section, seed, device, training, expects),
        "intended_use": f"Removes noise of the level of the training scans, {_manner(expects)}.",
        "limits": _limits(reads, training),
        "extra": {"noise": {"min": float(f"{span[0] * min(levels):.4g}"), "max": float(f"{span[1] * max(levels):.4g}")}},
    }
    if expects.values == registry.NOISE_UNITS:
        card |= {
            "values": {"kind": "noise", "low": 0, "high": 1},
            "intended_use": f"Removes the noise of magnitudes, each scan in units of its own noise, {_manner(expects)}.",
            "limits": "It learned from noisy scans alone, as if their noise were independent between pixels; not for images around zero.",
            "extra": {},
        }
    if reads != "pairs":
        card["extra"]["makes"] = MEAN
    if stacks:
        card["dimensions"] = [3]
    source, target = watched or sampler(scans, shape)(np.random.default_rng([seed, 5]), EXAMPLES)
    wanted = None if reads == "noisy" else _comparable(target, shape)
    examples = examples_of(network, source, wanted, device, KINDS[reads])
    kept = shown(recipe, examples, _measured_by(reads) if watched else "")
    leave_model(folder, card, network.state_dict(), journal, kept)


# --- the curve of validation -----------------------------------------------------------------------------------


def _watched(
    images: Sequence[Image], section: Mapping[str, Any], training: Mapping[str, Any], shape: Shape, seed: int
) -> tuple[Any, Any] | None:
    """Return patches of validation subjects that the curve is taken of, always the same; None where there are none."""
    few = images[: WATCHED // 2]
    try:
        scans = scans_for(few, section, training, shape.reads, seed, max(SHOWN_SLICES, shape.edges[2]))
    except Refused:
        return None
    scans = [in_units(scan, shape.expects, shape.reads) for scan in scans]
    return sampler(scans, shape)(np.random.default_rng([seed, 4]), WATCHED)


def judge(watched: tuple[Any, Any], shape: Shape, device: str) -> Callable[[nn.Module], float]:
    """Return what gives a network's mean squared error on some patches, in the network's range.

    Of noisy images alone it is estimated: the network is given the image with more noise, and compared with the image from which that noise
    was taken away, whose own noise is independent and of known variance. Of halves it has the other half's noise in it.
    """
    import torch

    from cohortex.training.objectives.noisy import middle, of_recorrupted, recorrupted
    from cohortex.training.objectives.objective import within

    source, target = watched

    def error(network: nn.Module) -> float:
        given = torch.from_numpy(source).to(device)
        if shape.reads == "noisy":
            image, sigma = (torch.from_numpy(part).to(device) for part in target)
            noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(device)
            first, second = recorrupted(image, noise, sigma, SHARE)
            made = of_recorrupted(network, given, first, SHARE)
            errors = (made - within(second, made)).square().mean() - (sigma.square() * (1 + SHARE**-2)).mean()
            return float(errors)
        made = network(given)
        wanted = torch.from_numpy(target).to(device)
        return float((made - within(wanted[:, middle(wanted)][:, None], made)).square().mean())

    return error


def _comparable(target: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a batch of targets as pictures to be shown, (n, 1, ...)."""
    return target[:, target.shape[1] // 2][:, None] if shape.flat else target


def _measured_by(reads: str) -> str:
    return {
        "pairs": "mean squared error",
        "noisy": "mean squared error, estimated from noisy images alone",
    }.get(reads, "mean squared difference from the other part, whose noise is in it")


# --- the card ----------------------------------------------------------------------------------------------------


def _told(training: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in training.items()}


def _what(reads: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card says of input and target."""
    if reads != "pairs":
        return {"target": "noisy scans alone; no image was cleaned for the training", "noise": "that of the scans"}
    target = "block DCT of the scan" if training["target"] == "cleaned" else "the scan as measured"
    noise = f"a dose of {training['dose']:g} (CT), else of the scan's own level" if training["noise"] == "dose" else training["noise"]
    return {"target": target, "noise": list(LEVELS), "noise_kind": noise}


def _manner(expects: registry.Expects) -> str:
    if expects.dimensions == 3:
        return "in three dimensions"
    return f"slice by slice with {expects.channels // 2} beside it on each side" if expects.channels > 1 else "slice by slice"


def _limits(reads: str, training: Mapping[str, Any]) -> str:
    if reads == "pairs" and training["target"] == "cleaned":
        return "Its targets were cleaned scans, so it cannot be better than their cleaning on what that removes; no other noise level."
    if reads == "pairs":
        return "Its targets were scans with their own noise, which it keeps in part; no other noise level."
    return "It learned from noisy scans alone, as if their noise were independent between pixels or parts; no other noise level."


def metrics(
    network: Any,
    images: Sequence[Image],
    section: Mapping[str, Any],
    seed: int,
    device: str,
    training: Mapping[str, Any],
    expects: registry.Expects,
) -> list[dict[str, Any]]:
    """Return the gain in PSNR on held-out scans, over doing nothing and over the block DCT.

    With pairs the truth is a cleaned scan, and noise of its own level is added. Without, no scan is cleaned: the error is estimated as in
    `judge`, in the foreground.
    """
    reads = objectives.kind(training["objective"]["name"]).reads
    rows: list[list[float]] = []
    subjects: list[str] = []
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, 2, index])
        paired = reads == "pairs"
        scan = pair_scan(image, section, training, rng, SHOWN_SLICES) if paired else noisy_scan(image, section, rng, SHOWN_SLICES)
        if scan.sigma <= 0:
            continue
        compared = _with_truth if reads == "pairs" else _without_truth
        rows.append(compared(network, image, scan, section, device, expects, rng))
        subjects.append(image.subject)
    if not rows:
        return []
    network_db, noisy_db, shrunk_db = zip(*rows, strict=True)
    on = "validation subjects, cleaned scans with synthetic noise of their own level, foreground of the middle slices"
    if reads == "pairs" and training["target"] == "scan":
        on = "validation subjects, scans with more noise, foreground of the middle slices"
    if reads != "pairs":
        on = "validation subjects, noisy scans alone: error estimated as for white noise, foreground of the middle slices"
    return [
        cards.gain("PSNR gain dB", subjects, network_db, noisy_db, "the noisy image", on),
        cards.gain("PSNR gain dB over the transform", subjects, network_db, shrunk_db, "block DCT", on),
    ]


def _with_truth(
    network: Any,
    image: Image,
    scan: Scan,
    section: Mapping[str, Any],
    device: str,
    expects: registry.Expects,
    rng: np.random.Generator,
) -> list[float]:
    """Return the PSNR in dB of what the network makes, of the noisy image, and of the block DCT."""
    noisy = scan.clean + scan.extra * scan.noise[0] if scan.noise else with_noise(scan.clean, scan.sigma, scan.rician, rng)
    made, shrunk = _cleaned(network, image, scan, noisy, scan.sigma * scan.extra, section, device, expects, scan.rician)
    truth, *others = (to_unit(a, scan.low, scan.high) for a in (scan.clean, made, noisy, shrunk))
    inside = _inside(scan)
    return [psnr(truth, a, 1.0, inside) for a in others]


def _without_truth(
    network: Any,
    image: Image,
    scan: Scan,
    section: Mapping[str, Any],
    device: str,
    expects: registry.Expects,
    rng: np.random.Generator,
) -> list[float]:
    """Return the same three, estimated by an image made noisier and one from which that noise was taken away.

    Of magnitudes that one's mean has the bias of their noise, so no method undoes it here.
    """
    more = np.float32(scan.sigma) * rng.standard_normal(scan.clean.shape, dtype=np.float32)
    noisy, other = scan.clean + SHARE * more, scan.clean - more / SHARE
    made, shrunk = _cleaned(network, image, scan, noisy, scan.sigma * (1 + SHARE**2) ** 0.5, section, device, expects, False)
    inside, unit = _inside(scan), 1 / (scan.high - scan.low)
    variance = (scan.sigma * unit) ** 2 * (1 + SHARE**-2)
    truth, *others = (to_unit(a, scan.low, scan.high) for a in (other, made, shrunk))
    errors = [np.mean((a - truth)[inside].astype(np.float64) ** 2) - variance for a in others]
    doing_nothing = (scan.sigma * unit) ** 2 * (1 + SHARE**2)
    least = 1e-3 * doing_nothing
    return [-10 * float(np.log10(max(error, least))) for error in (errors[0], doing_nothing, errors[1])]


def _cleaned(
    network: Any,
    image: Image,
    scan: Scan,
    noisy: np.ndarray,
    sigma: float,
    section: Mapping[str, Any],
    device: str,
    expects: registry.Expects,
    rician: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the network and the block DCT make of a noisy image, in its units."""
    strength = float(settings_for(section, image.modality).get("strength", 1.0))
    shrunk = apply_transform(noisy, image.volume.spacing, sigma, strength, rician)
    low, high = (0.0, sigma) if expects.values == registry.NOISE_UNITS else (scan.low, scan.high)
    unit = to_unit(noisy, low, high)
    way = way_of(network, expects, unit.shape)
    return from_unit(run_network(network, unit, way.halo, way.block, device, way=way)[0], low, high), shrunk


def _inside(scan: Scan) -> np.ndarray:
    inside = np.zeros(scan.clean.shape, bool)
    inside[tuple(scan.places.T)] = True
    return inside
