"""Trains the network of stage `denoise`: scans cleaned without learning, made noisy again by physics."""

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
from cohortex.measures.image_quality import noise_sigma, psnr
from cohortex.models import registry
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.stages.denoise import BLOCK, apply_transform, is_rician
from cohortex.training import cards, patches
from cohortex.training.loop import fresh
from cohortex.training.supervised import leave_model, train_on_patches
from cohortex.training.team import team

if TYPE_CHECKING:
    from torch import nn

TRAINING: dict[str, Any] = {"steps": 600, "minutes": 60.0, "rate": 6e-4, "batch": 4, "patch": 40, "filters": 96}
"""What a section may leave out."""

LEVELS = (0.5, 1.5)
"""Synthetic noise, as a multiple of the scan's own."""

HALO = 20
"""Of RED-CNN, which shrinks its input by so much on the way."""

MOST_IMAGES, MOST_SLICES, SHOWN_SLICES = 24, 64, 8
"""Training images in memory, slices kept of each, slices that validation looks at."""


@dataclass(frozen=True)
class Scan:
    """Slices of a training image without noise, and how its noise is made.

    Attributes
    ----------
    clean : (x, y, z) float32 array
        In the image's units.
    sigma : float
        Noise of the scan, in these units.
    rician : bool
    low, high : float
        The network's range, see `cohortex.models.intensity`.
    places : (n, 3) array
        Indices of foreground voxels.
    """

    clean: np.ndarray
    sigma: float
    rician: bool
    low: float
    high: float
    places: np.ndarray


def train_denoise(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: str | Path) -> None:
    """Train RED-CNN and write its model folder.

    The target is a scan cleaned by the block DCT; the input is the target with synthetic noise of 0.5 to 1.5 times the level
    estimated in the scan, Rician for magnitudes and Gaussian otherwise. Validation subjects give the metrics of the card.

    Parameters
    ----------
    images : sequence of Image
        Their ``row["split"]`` is train or validation.
    section : mapping
        The section of the stage; ``training``, ``strength`` and ``rician`` are used, see ``schemas/stages/denoise.json``.
    seed : int
        The same seed gives the same bytes on a CPU at one number of threads.
    device : str
    folder : path
        The model folder; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When there is no training image with noise in it.
    """
    training = {**TRAINING, **settings_for(section, "default").get("training", {})}
    train, held_out = (patches.chosen(images, split, MOST_IMAGES) for split in ("train", "validation"))
    scans = [prepared(image, section, np.random.default_rng([seed, index])) for index, image in enumerate(train)]
    scans = [scan for scan in scans if scan.sigma > 0]
    if not scans:
        raise Refused(
            "denoise: weights: train needs scans of training subjects with noise in them, there is none; give more or name a model."
        )
    edge = int(training["patch"])

    def one(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return draw(scans[rng.integers(len(scans))], edge, rng)

    network = fresh(lambda: registry.build("denoise", "redcnn", filters=training["filters"]), seed)
    first_weights(network, seed)
    recipe, journal = train_on_patches(network, one, training, images, section, seed, device, folder)
    if not team().leads:
        return
    card = {
        "name": "redcnn",
        "task": "denoise",
        "network": "redcnn",
        "options": {"filters": training["filters"]},
        **cards.common([*train, *held_out]),
        "spacing_mm": cards.spacing_range([s for i in train for s, n in zip(i.volume.spacing, i.volume.shape, strict=True) if n > 1]),
        "recipe": {"training": training, "target": "block DCT of the scan", "noise": list(LEVELS), **recipe},
        "seed": seed,
        "metrics": metrics(network, held_out, section, seed, device),
        "intended_use": "Removes noise of the level of the training scans, slice by slice.",
        "limits": "Its targets were cleaned scans, so it cannot be better than their cleaning on what that removes; no other noise level.",
    }
    leave_model(folder, card, network.state_dict(), journal)


def first_weights(network: nn.Module, seed: int) -> None:
    """Give the layers weights that keep the size of what passes (He et al. 2015), the last one small ones: it begins near the identity."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                value.zero_()
            else:
                last = name.startswith("decoder.4")
                inputs = value.shape[0 if name.startswith("decoder") else 1] * value[0, 0].numel()
                value.normal_(0, (0.1 if last else 1.0) * (2 / inputs) ** 0.5, generator=generator)


def prepared(image: Image, section: Mapping[str, Any], rng: np.random.Generator, most: int = MOST_SLICES) -> Scan:
    """Return the middle slices of a scan, cleaned."""
    settings = settings_for(section, image.modality)
    array = image.volume.array(np.float32)
    inside = foreground(array)
    low, high = unit_range(array, values_for(image.modality))
    spare = max(0, array.shape[2] - most)
    kept = slice(spare // 2, array.shape[2] - (spare - spare // 2))
    array, inside = np.ascontiguousarray(array[:, :, kept]), inside[:, :, kept]
    sigma = noise_sigma(array, inside)
    rician = is_rician(float(array.min()), image.modality, settings.get("rician", "auto"))
    clean = apply_transform(array, image.volume.spacing, sigma, float(settings.get("strength", 1.0)), rician)
    return Scan(clean, sigma, rician, low, high, patches.places(inside, rng))


def with_noise(clean: np.ndarray, sigma: float, rician: bool, rng: np.random.Generator) -> np.ndarray:
    """Return an image with noise: the magnitude of a complex image with Gaussian noise, or Gaussian noise itself."""
    noisy = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.hypot(noisy, sigma * rng.standard_normal(clean.shape, dtype=np.float32)) if rician else noisy


def draw(scan: Scan, edge: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy patch of a slice and the clean one, both (edge, edge) in the network's range."""
    (x, _), (y, _), (z, _) = patches.random_box(scan.clean.shape, (edge, edge, 1), rng, scan.places)
    # Small pictures are continued by the edge rule, so that all patches have one size.
    clean = read_block(scan.clean, ((x, x + edge), (y, y + edge), (z, z + 1)), (0, 0, 0))[:, :, 0]
    noisy = with_noise(clean, scan.sigma * float(rng.uniform(*LEVELS)), scan.rician, rng)
    source, target = patches.turned([to_unit(a, scan.low, scan.high) for a in (noisy, clean)], rng, swap=(0, 1))
    return source, target


def metrics(network: Any, images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str) -> list[dict[str, Any]]:
    """Return the gain in PSNR over doing nothing and over the block DCT, on held-out scans with noise of their own level."""
    rows: list[list[float]] = []
    subjects: list[str] = []
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, 2, index])
        scan = prepared(image, section, rng, SHOWN_SLICES)
        if scan.sigma <= 0:
            continue
        noisy = with_noise(scan.clean, scan.sigma, scan.rician, rng)
        strength = float(settings_for(section, image.modality).get("strength", 1.0))
        shrunk = apply_transform(noisy, image.volume.spacing, scan.sigma, strength, scan.rician)
        made = run_network(network, to_unit(noisy, scan.low, scan.high), (HALO, HALO, 0), BLOCK, device, slicewise=True)[0]
        truth, *others = (to_unit(a, scan.low, scan.high) for a in (scan.clean, noisy, shrunk))
        inside = np.zeros(truth.shape, bool)
        inside[tuple(scan.places.T)] = True
        rows.append([psnr(truth, a, 1.0, inside) for a in (made, *others)])
        subjects.append(image.subject)
    if not rows:
        return []
    network_db, noisy_db, shrunk_db = zip(*rows, strict=True)
    on = "validation subjects, cleaned scans with synthetic noise of their own level, foreground of the middle slices"
    return [
        cards.gain("PSNR gain dB", subjects, network_db, noisy_db, "the noisy image", on),
        cards.gain("PSNR gain dB over the transform", subjects, network_db, shrunk_db, "block DCT", on),
    ]
