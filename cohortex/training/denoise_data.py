"""What a training of stage `denoise` draws from: scans as its objective reads them, and patches of the shape that its network takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.blocks import read_block
from cohortex.errors import Refused
from cohortex.filters.foreground import foreground
from cohortex.items import Image, settings_for
from cohortex.measures.image_quality import noise_sigma
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.models.registry import NOISE_UNITS, Expects
from cohortex.stages.denoise import apply_transform, is_rician
from cohortex.training import patches
from cohortex.training.noise import dose_noise, split_views, with_noise
from cohortex.training.objectives import Reads

if TYPE_CHECKING:
    from torch import nn

Draw = Callable[[np.random.Generator], tuple[Any, Any]]

LEVELS = (0.5, 1.5)
"""Synthetic noise, as a multiple of the scan's own, or of that of the dose."""

MOST_IMAGES, MOST_SLICES = 24, 64
"""Training images in memory, slices kept of each."""

PROJECTED_SLICES, REALISATIONS, SPLITS = 16, 2, 4
"""Where slices are projected: how many of each image, how often noise is drawn of each, into how many parts the views are split."""

STACK = 8
"""Slices that a network of whole slices in three dimensions is given at once, where `patch` does not say it."""


@dataclass(frozen=True)
class Scan:
    """Slices of a training image, and how its noise is made.

    Attributes
    ----------
    clean : (x, y, z) float32 array
        The image without noise, in its units; the image as it is where only noisy ones are read.
    sigma : float
        Noise of the scan, in these units.
    rician : bool
    low, high : float
        The network's range, see `cohortex.models.intensity`.
    places : (n, 3) array
        Indices of foreground voxels.
    noise : tuple of (x, y, z) arrays
        Noise of less dose, drawn before; without any it is drawn pixel by pixel.
    others : tuple of (x, y, z) arrays
        The same slices with independent noise: another scan, or all reconstructions from a part of the views (then `clean` is their mean).
    extra : float
        Noise that is added, as a multiple of `sigma`, before it is varied by `LEVELS`.
    """

    clean: np.ndarray
    sigma: float
    rician: bool
    low: float
    high: float
    places: np.ndarray
    noise: tuple[np.ndarray, ...] = ()
    others: tuple[np.ndarray, ...] = ()
    extra: float = 1.0

    def noisy(self, clean: np.ndarray, box: Sequence[tuple[int, int]], halo: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """Return a box of `clean` with noise of a random level."""
        level = self.extra * float(rng.uniform(*LEVELS))
        if not self.noise:
            return with_noise(clean, self.sigma * level, self.rician, rng)
        drawn = read_block(self.noise[rng.integers(len(self.noise))], box, halo).reshape(clean.shape)
        # Noise of the other sign is as likely.
        return clean + np.float32(level * rng.choice((-1.0, 1.0))) * drawn


@dataclass(frozen=True)
class Shape:
    """What a network is given in a training.

    Attributes
    ----------
    expects : Expects
    edges : three ints
        Of the target. Of a network of whole slices only the last counts.
    lost : three ints
        What the output is shorter than the input, on each side; of adjacent slices those on one side.
    """

    expects: Expects
    edges: tuple[int, int, int]
    lost: tuple[int, int, int] = (0, 0, 0)
    reads: Reads = "pairs"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flat(self) -> bool:
        """Whether it takes pictures."""
        return self.expects.dimensions == 2

    def of(self, scan: Scan) -> tuple[int, int, int]:
        """Return the edges of a patch of a scan."""
        return (*scan.clean.shape[:2], self.edges[2]) if self.expects.whole_slices else self.edges  # pyright: ignore[reportReturnType]


def shape_of(network: nn.Module, expects: Expects, patch: int | Sequence[int], reads: Reads) -> Shape:
    """Return what a network is given, by its entry, its setting ``patch`` and a look at what it makes of a small patch.

    Raises
    ------
    Refused
        When a list of edges has not the network's number of axes.
    """
    import torch

    axes = expects.dimensions
    if not isinstance(patch, int) and len(patch) != axes:
        raise Refused(f"denoise.default.training.patch has {len(patch)} edges, but the network takes {axes}: give {axes}, or one number.")
    multiple = int(getattr(network, "multiple", 1))  # pyright: ignore[reportArgumentType]
    edges = [int(patch)] * axes if isinstance(patch, int) else [int(n) for n in patch]
    if expects.whole_slices and isinstance(patch, int) and axes == 3:
        edges[2] = STACK
    edges = [-(-n // multiple) * multiple for n in edges] + [1] * (3 - axes)
    lost = [0, 0, 0]
    if not expects.whole_slices:
        halo: Any = getattr(network, "halo", 0)
        reach = list(halo) if isinstance(halo, tuple | list) else [halo] * axes
        small = [-(-(2 * int(n) + 8) // multiple) * multiple for n in reach[:axes]]
        before = network.training
        network.eval()
        with torch.no_grad():
            made = network(torch.zeros(1, expects.channels, *small)).shape[2:]
        network.train(before)
        lost[:axes] = [(a - b) // 2 for a, b in zip(small, made, strict=True)]
    if expects.channels > 1:
        lost[2] = expects.channels // 2
    return Shape(expects, (edges[0], edges[1], edges[2]), (lost[0], lost[1], lost[2]), reads)


# --- scans ---------------------------------------------------------------------------------------------------------


def scans_for(
    images: Sequence[Image],
    section: Mapping[str, Any],
    training: Mapping[str, Any],
    reads: Reads,
    seed: int,
    most: int = MOST_SLICES,
) -> list[Scan]:
    """Return images as an objective reads them, at most so many slices of each; those without noise are left out.

    Raises
    ------
    Refused
        When there is none.
    """
    if reads == "halves":
        scans = repeats(images, section, most) or [noisy_scan(image, section, rng_of(seed, i), most) for i, image in enumerate(images)]
    elif reads == "projections":
        scans = [
            split_scan(image, section, rng_of(seed, i), min(most, PROJECTED_SLICES))
            for i, image in enumerate(images)
            if image.modality == "CT"
        ]
    elif reads == "noisy":
        scans = [noisy_scan(image, section, rng_of(seed, i), most) for i, image in enumerate(images)]
    else:
        scans = [pair_scan(image, section, training, rng_of(seed, i), most) for i, image in enumerate(images)]
    scans = [scan for scan in scans if scan.sigma > 0]
    if not scans:
        kind = "CT scans" if reads == "projections" else "scans"
        raise Refused(
            f"denoise: weights: train needs {kind} of training subjects with noise in them, there is none; give more or name a model."
        )
    return scans


def in_units(scan: Scan, expects: Expects, reads: Reads) -> Scan:
    """Return a scan in the range of a network: 1 is the standard deviation of its noise where the network works in units of it."""
    if expects.values != NOISE_UNITS:
        return scan
    # Halves that are made of one scan have twice its variance.
    split = reads == "halves" and not scan.others
    return replace(scan, low=0.0, high=scan.sigma * (2**0.5 if split else 1.0))


def rng_of(seed: int, index: int) -> np.random.Generator:
    """Return the generator that an image is prepared with."""
    return np.random.default_rng([seed, index])


def prepared(image: Image, section: Mapping[str, Any], rng: np.random.Generator, most: int = MOST_SLICES) -> Scan:
    """Return the middle slices of a scan, cleaned without learning."""
    scan, spacing = _measured(image, section, most)
    strength = float(settings_for(section, image.modality).get("strength", 1.0))
    inside = scan.places
    clean = apply_transform(scan.clean, spacing, scan.sigma, strength, scan.rician)
    return replace(scan, clean=clean, places=patches.places(inside, rng))


def noisy_scan(image: Image, section: Mapping[str, Any], rng: np.random.Generator, most: int = MOST_SLICES) -> Scan:
    """Return the middle slices of a scan as they are."""
    scan, _ = _measured(image, section, most)
    return replace(scan, places=patches.places(scan.places, rng))


def pair_scan(
    image: Image, section: Mapping[str, Any], training: Mapping[str, Any], rng: np.random.Generator, most: int = MOST_SLICES
) -> Scan:
    """Return the middle slices of a scan that are to be made noisy: cleaned or as they are, with noise as the settings say."""
    dosed = training["noise"] == "dose" and image.modality == "CT"
    most = min(most, PROJECTED_SLICES) if dosed else most
    scan = (prepared if training["target"] == "cleaned" else noisy_scan)(image, section, rng, most)
    if training["noise"] in ("gaussian", "rician"):
        scan = replace(scan, rician=training["noise"] == "rician")
    if not dosed or scan.sigma <= 0:
        return scan
    # Variance goes with one over the dose; a target that is the scan itself has the whole dose's noise already.
    extra = (1 / training["dose"] - (training["target"] == "scan")) ** 0.5
    inside = np.zeros(scan.clean.shape, bool)
    inside[tuple(scan.places.T)] = True
    spacing = float(np.mean(image.volume.spacing[:2]))
    noise = tuple(dose_noise(scan.clean, spacing, scan.sigma, rng, inside) for _ in range(REALISATIONS))
    return replace(scan, noise=noise, rician=False, extra=extra)


def split_scan(image: Image, section: Mapping[str, Any], rng: np.random.Generator, most: int = PROJECTED_SLICES) -> Scan:
    """Return the middle slices of a CT scan, reconstructed from parts of their projections."""
    scan = noisy_scan(image, section, rng, most)
    if scan.sigma <= 0:
        return scan
    parts = split_views(scan.clean, float(np.mean(image.volume.spacing[:2])), SPLITS)
    return replace(scan, clean=np.mean(parts, axis=0), others=tuple(parts))


def repeats(images: Sequence[Image], section: Mapping[str, Any], most: int = MOST_SLICES) -> list[Scan]:
    """Return pairs of scans of one session, modality and grid: two runs of the same thing, whose noise is independent."""
    found: list[Scan] = []
    for number, image in enumerate(images):
        for other in images[number + 1 :]:
            same = (image.subject, image.session, image.modality) == (other.subject, other.session, other.modality)
            if same and image.volume.shape == other.volume.shape and np.allclose(image.volume.affine, other.volume.affine, atol=1e-3):
                scan = noisy_scan(image, section, rng_of(0, number), most)
                found.append(replace(scan, others=(scan.clean, _measured(other, section, most)[0].clean)))
                break
    return found


def _measured(image: Image, section: Mapping[str, Any], most: int) -> tuple[Scan, tuple[float, float, float]]:
    """Return the middle slices of an image with its noise, `places` being the foreground itself, and the spacing."""
    settings = settings_for(section, image.modality)
    array = image.volume.array(np.float32)
    inside = foreground(array)
    low, high = unit_range(array, values_for(image.modality))
    spare = max(0, array.shape[2] - most)
    kept = slice(spare // 2, array.shape[2] - (spare - spare // 2))
    array, inside = np.ascontiguousarray(array[:, :, kept]), inside[:, :, kept]
    sigma = noise_sigma(array, inside)
    rician = is_rician(float(array.min()), image.modality, settings.get("rician", "auto"))
    return Scan(array, sigma, rician, low, high, inside), image.volume.spacing


# --- patches -------------------------------------------------------------------------------------------------------


def draw(scan: Scan, shape: Shape, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return one example as an objective reads it (`objectives.Kind.reads`), with its channel axis, in the network's range.

    Returns
    -------
    source, target : arrays (channels, ...) float32, or a tuple (image, sigma) as target where only noisy images are read
        The source has the network's channels and halo. A target has one channel and neither; but of two halves each is as the source.
    """
    size = shape.of(scan)
    (x, _), (y, _), (z, _) = patches.random_box(scan.clean.shape, size, rng, scan.places)
    # Small pictures are continued by the edge rule, so that all patches have one size.
    box = ((x, x + size[0]), (y, y + size[1]), (z, z + size[2]))
    flat = shape.flat and shape.expects.channels == 1

    def read(array: np.ndarray) -> np.ndarray:
        block = read_block(array, box, shape.lost)
        return block[:, :, 0] if flat else block

    if shape.reads == "pairs":
        clean = read(scan.clean)
        pair = [scan.noisy(clean, box, shape.lost, rng), clean]
    elif shape.reads == "noisy":
        pair = [read(scan.clean)] * 2
    else:
        pair = _halves(scan, shape.reads, read, rng)
    source, target = patches.turned([to_unit(a, scan.low, scan.high) for a in pair], rng, swap=(0, 1))
    given = as_channels(source, shape)
    if shape.reads in ("halves", "projections"):
        return given, as_channels(target, shape)
    wanted = inner(target, shape)
    if shape.reads == "pairs":
        return given, wanted
    sigma = np.full((1,) * given.ndim, scan.sigma / (scan.high - scan.low), np.float32)
    return given, (as_channels(target, shape)[given.shape[0] // 2][None], sigma)


def _halves(scan: Scan, reads: Reads, read: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return two images of a box with independent noise."""
    if reads == "projections":
        first, *others = (read(scan.others[int(i)]) for i in rng.permutation(len(scan.others)))
        return [np.mean(others, axis=0), first]
    if scan.others:
        pair = [read(array) for array in scan.others]
        return pair[::-1] if rng.random() < 0.5 else pair
    # No second scan: Gaussian noise is split in two of twice the variance each.
    image = read(scan.clean)
    more = np.float32(scan.sigma) * rng.standard_normal(image.shape, dtype=np.float32)
    return [image + more, image - more]


def as_channels(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Return a patch with its channel axis first: adjacent slices are channels."""
    if array.ndim == 2 or not shape.flat:
        return array[None]
    return np.ascontiguousarray(np.moveaxis(array, 2, 0))


def inner(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Return the part of a patch that the output shows, (1, ...)."""
    cut = array[tuple(slice(n, length - n) for n, length in zip(shape.lost, array.shape, strict=False))]
    return np.ascontiguousarray(cut[:, :, 0] if shape.flat and cut.ndim == 3 else cut)[None]


def sampler(scans: Sequence[Scan], shape: Shape) -> Callable[[np.random.Generator, int], tuple[Any, Any]]:
    """Return the sampler of a training: batches of patches of random scans; whole slices of a batch are of one scan."""

    def sample(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
        one = scans[int(rng.integers(len(scans)))] if shape.expects.whole_slices else None
        drawn = [draw(one or scans[int(rng.integers(len(scans)))], shape, rng) for _ in range(count)]
        return tuple(_stacked([each[side] for each in drawn]) for side in (0, 1))  # pyright: ignore[reportReturnType]

    return sample


def _stacked(parts: Sequence[Any]) -> Any:
    return tuple(np.stack(part) for part in zip(*parts, strict=True)) if isinstance(parts[0], tuple) else np.stack(parts)
