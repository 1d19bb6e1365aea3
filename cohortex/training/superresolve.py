"""Trains the network of stage `superresolve`: an in-plane axis plays the slice axis, whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import read_block
from cohortex.errors import Refused
from cohortex.filters.foreground import foreground
from cohortex.inference import run_network
from cohortex.items import Image, settings_for
from cohortex.measures.image_quality import psnr
from cohortex.models import registry
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.models.superresolve import throughplane as through
from cohortex.stages.superresolve import BLOCK
from cohortex.training import cards, patches
from cohortex.training.loop import fresh
from cohortex.training.supervised import leave_model, train_on_patches
from cohortex.training.team import team

if TYPE_CHECKING:
    from torch import nn

TRAINING: dict[str, Any] = {"steps": 1000, "minutes": 60.0, "rate": 1e-3, "batch": 4, "patch": 14, "factors": [1.5, 3.0], "residual": True}
"""What a section may leave out."""

HALO = 6
"""Of SRCNN3D."""

MOST_IMAGES, MOST_VOXELS = 24, 192
"""Training images in memory, and their longest edge there."""


@dataclass(frozen=True)
class Scan:
    """A training image of cubic voxels in the network's range, around its foreground."""

    array: np.ndarray
    axes: list[int]
    """Axes that may play the slice axis."""
    places: np.ndarray
    """Indices of foreground voxels."""


def train_superresolve(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train SRCNN3D and write its model folder.

    Every training image is first brought to cubic voxels by the spline where it has thick slices. Along each of its in-plane axes
    it is then averaged over slices of some factor and interpolated back; the network learns what it was. So nothing but
    the user's own scans is needed. Validation subjects give the metrics of the card.

    Parameters
    ----------
    images : sequence of Image
        Their ``row["split"]`` is train or validation.
    section : mapping
        The section of the stage; ``training`` and ``profile`` of ``default`` are used, see ``schemas/stages/superresolve.json``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When no training image is a volume.
    """
    settings = settings_for(section, "default")
    training = {**TRAINING, **settings.get("training", {})}
    profile: through.Profile = settings.get("profile", "box")
    low, high = (float(f) for f in training["factors"])
    train, held_out = (
        [i for i in patches.chosen(images, split, MOST_IMAGES) if min(i.volume.shape) > 3 * high] for split in ("train", "validation")
    )
    if not train:
        raise Refused("superresolve: weights: train needs volumes of training subjects, there is none; give more subjects or name a model.")
    scans = [prepared(image, np.random.default_rng([seed, index])) for index, image in enumerate(train)]

    def one(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return draw(scans[rng.integers(len(scans))], int(training["patch"]), float(rng.uniform(low, high)), profile, rng)

    network = fresh(lambda: registry.build("superresolve", "srcnn3d", residual=training["residual"]), seed)
    if training["residual"]:
        first_weights(network, seed)
    # As Dong et al. (2014) found for the two-dimensional network: the last layer learns ten times slower.
    slower = {"reconstruction": 0.1}
    recipe, journal = train_on_patches(network, one, training, images, section, seed, device, folder, slower)
    if not team().leads:
        return
    spacings = [s for i in train for s in i.volume.spacing]
    thickest = max(min(i.volume.spacing) for i in train) * high
    card = {
        "name": "srcnn3d",
        "task": "superresolve",
        "network": "srcnn3d",
        "options": {"residual": training["residual"]},
        **cards.common([*train, *held_out]),
        "spacing_mm": cards.spacing_range([*spacings, thickest]),
        "recipe": {"training": training, "profile": profile, "target": "in-plane axis as slice axis", **recipe},
        "seed": seed,
        "metrics": metrics(network, held_out, (high,), profile, device),
        "intended_use": "Adds through-plane detail to volumes of thick slices, on top of cubic interpolation.",
        "limits": "For viewing and for registration and segmentation, not for finding lesions thinner than a slice; detail is estimated.",
        "extra": {"factors": [min(1.25, low), high]},
    }
    card["dimensions"] = [3]
    leave_model(folder, card, network.state_dict(), journal)


def first_weights(network: nn.Module, seed: int) -> None:
    """Let a residual network begin as the interpolation itself, looking at differences.

    The first filters are random under a Gaussian window and sum to zero, since the missing detail does not depend on the mean; the
    last layer is near zero.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    ticks = torch.arange(9) - 4.0
    window = torch.exp(-(ticks[:, None, None] ** 2 + ticks[None, :, None] ** 2 + ticks**2) / (2 * 1.6**2))
    filters = torch.randn(64, 9, 9, 9, generator=generator) * window
    filters -= window * (filters.sum((1, 2, 3), keepdim=True) / window.sum())
    filters *= 5 / filters.square().sum((1, 2, 3), keepdim=True).sqrt()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name == "features.weight":
                value.copy_(filters[:, None])
            elif name == "mapping.weight":
                value.normal_(0, (2 / 64) ** 0.5, generator=generator)
            elif name == "reconstruction.weight":
                value.mul_(0.1)
            else:
                value.zero_()


def in_plane(image: Image) -> list[int]:
    """Return the two axes with the smallest spacings."""
    return [int(axis) for axis in np.argsort(image.volume.spacing, kind="stable")[:2]]


def cubic(array: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the array with its thickest axis interpolated to the smallest spacing, as the stage would."""
    axis = int(np.argmax(spacing))
    count = through.fine_count(array.shape[axis], min(4.0, max(spacing) / min(spacing)))
    return array if count == array.shape[axis] else through.upsample(array, count, axis)


def degrade(array: np.ndarray, axis: int, factor: float, profile: through.Profile) -> tuple[np.ndarray, np.ndarray]:
    """Return slices of `factor` voxels along an axis, and the same interpolated back to the array's grid."""
    slices = through.average(array, max(2, round(array.shape[axis] / factor)), axis, profile)
    return slices, through.agreeing_spline(slices, array.shape[axis], axis, profile)


def prepared(image: Image, rng: np.random.Generator) -> Scan:
    """Return a training image as the loop wants it."""
    array = cubic(image.volume.array(np.float32), image.volume.spacing)
    inside = foreground(array)
    low, high = unit_range(array, values_for(image.modality))
    crop = []
    for axis, size in enumerate(array.shape):
        filled = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        start, stop = max(0, int(filled[0]) - HALO), min(size, int(filled[-1]) + 1 + HALO)
        spare = max(0, stop - start - MOST_VOXELS)
        crop.append(slice(start + spare // 2, stop - (spare - spare // 2)))
    kept = tuple(crop)
    return Scan(np.ascontiguousarray(to_unit(array[kept], low, high)), in_plane(image), patches.places(inside[kept], rng))


def draw(scan: Scan, edge: int, factor: float, profile: through.Profile, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch seen through slices, with the network's halo, and the patch itself without, slice axis last."""
    axis = scan.axes[rng.integers(len(scan.axes))]
    order = [a for a in range(3) if a != axis] + [axis]
    array = scan.array.transpose(order)
    length = array.shape[2]
    # Small volumes are continued by the edge rule, so that all patches have one size.
    (x, _), (y, _), (z, _) = patches.random_box(array.shape, (edge,) * 3, rng, scan.places[:, order])
    lines = read_block(array, ((x, x + edge), (y, y + edge), (0, length)), (HALO, HALO, 0))
    _, blurred = degrade(lines, 2, factor, profile)
    source, target = (read_block(a, ((0, a.shape[0]), (0, a.shape[1]), (z, z + edge)), (0, 0, HALO)) for a in (blurred, lines))
    source, target = patches.turned([source, target], rng, swap=(0, 1))
    return source, np.ascontiguousarray(target[HALO:-HALO, HALO:-HALO, HALO:-HALO])


def metrics(
    network: nn.Module, images: Sequence[Image], factors: Sequence[float], profile: through.Profile, device: str
) -> list[dict[str, Any]]:
    """Return the gain in PSNR of the stage's result over the cubic spline and over the agreeing one, on held-out images."""
    if not images:
        return []
    rows: list[list[float]] = []
    subjects: list[str] = []
    for image in images:
        array = cubic(image.volume.array(np.float32), image.volume.spacing)
        inside, axis = foreground(array), in_plane(image)[0]
        for factor in factors:
            slices, blurred = degrade(array, axis, float(factor), profile)
            low, high = unit_range(slices, values_for(image.modality))
            turned = np.moveaxis(to_unit(blurred, low, high), axis, 2)
            made = np.moveaxis(run_network(network, turned, (HALO, HALO, HALO), BLOCK, device)[0], 2, axis)
            spline = through.upsample(slices, array.shape[axis], axis)
            truth, plain, agreeing, measured = (to_unit(a, low, high) for a in (array, spline, blurred, slices))
            made = through.agree(np.ascontiguousarray(made), measured, axis, profile)
            rows.append([psnr(truth, a, 1.0, inside) for a in (made, plain, agreeing)])
            subjects.append(image.subject)
    made_db, plain_db, agreeing_db = zip(*rows, strict=True)
    on = f"validation subjects, in-plane axis thickened {factors[-1]:g} times, foreground"
    return [
        cards.gain("PSNR gain dB", subjects, made_db, plain_db, "cubic spline", on),
        cards.gain(
            "PSNR gain dB over the agreeing spline", subjects, made_db, agreeing_db, "cubic spline whose slice means are the slices", on
        ),
    ]
