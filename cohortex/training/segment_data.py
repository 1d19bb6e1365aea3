"""What a network that segments learns from: labelled images at the spacing of the plan, of which only the patches are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.blocks import Box, at_hand, over_blocks, read_block
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.regseg.grid import Grid, looked, resample
from cohortex.models.segment.apply import grid_of, standardised
from cohortex.models.segment.plan import Plan, fingerprint, plan
from cohortex.training.augment import Ranges, vary
from cohortex.volume import ArrayLike

LOOKED_AT = 24
"""Labelled images whose numbers make the fingerprint."""
PLACES = 2000
"""Voxels of each label that are known of an image."""
FOREGROUND = 0.67
"""Share of the patches that have a label other than the background in their middle."""
VARIED = Ranges(translate=0.0, rotate_deg=12.0, shear=0.03, scale=0.12, gain=0.1, offset=0.1, noise=0.1)
"""How far patches are varied, values being standardised."""


@dataclass(frozen=True)
class Labelled:
    """An image and its labels, with what the plan makes of them.

    Attributes
    ----------
    image, labels : Image
    grid : Grid
        Of the plan's spacing.
    values : (X, Y, Z) array-like
        The image on that grid, standardised, float32; read when it is asked for.
    known : (X, Y, Z) array-like
        The labels on it.
    places : list of (n, 3) int arrays
        Of each label that the image has some voxels.
    """

    image: Image
    labels: Image
    grid: Grid
    values: ArrayLike
    known: ArrayLike
    places: list[np.ndarray]


def labelled_pairs(images: Sequence[Image], split: str, modality: str | None = None) -> list[tuple[Image, Image]]:
    """Return the images of a split that have labels, with these, sorted by id."""
    labels = {image.id.rsplit("+", 1)[0]: image for image in images if image.role == "labels"}
    chosen = [i for i in images if i.kind == "image" and i.role == "image" and i.id in labels and i.row.get("split") == split]
    return [(i, labels[i.id]) for i in sorted(chosen, key=lambda i: i.id) if modality in (None, i.modality)]


def most_common(images: Sequence[Image]) -> str:
    """Return the modality of which most training images have labels.

    Raises
    ------
    Refused
        When none has.
    """
    found = [image.modality for image, _ in labelled_pairs(images, "train")]
    if not found:
        raise Refused(
            "segment: no image of a training subject has labels; add them to the cohort table (role labels), or name a trained model."
        )
    return max(sorted(set(found)), key=found.count)


def plan_of(pairs: Sequence[tuple[Image, Image]], classes: int, memory_gb: float) -> Plan:
    """Return the plan of labelled images."""
    index = np.unique(np.linspace(0, len(pairs) - 1, min(LOOKED_AT, len(pairs))).round().astype(int))

    def cases() -> Iterator[tuple[np.ndarray, np.ndarray, Sequence[float]]]:
        for i in index:
            image, labels = pairs[i]
            values, _ = at_hand(image.volume.data)
            yield np.asarray(values[...]), known_of(image, labels), image.volume.spacing

    return plan(fingerprint(cases(), pairs[0][0].modality, classes), memory_gb)


def classes_of(pairs: Sequence[tuple[Image, Image]]) -> int:
    """Return how many classes there are, the background being 0 and the others 1 to the largest label."""
    largest = 0
    for _, labels in pairs:
        largest = max(largest, *over_blocks(lambda _, block: int(block.max()), labels.volume.data))
    return largest + 1


def prepared(pair: tuple[Image, Image], how: Plan, rng: np.random.Generator) -> Labelled:
    """Return a labelled image on the plan's grid; of it nothing but numbers and places is held."""
    image, labels = pair
    grid = grid_of(image.volume, how)
    known = looked(labels.volume.data, labels.volume.affine, grid, mode="nearest", outside=0)
    return Labelled(image, labels, grid, standardised(image.volume, how, grid), known, _places(known, how.classes, rng))


def _places(known: ArrayLike, classes: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return some voxels of each label but the background that there is."""

    def some(box: Box, block: np.ndarray) -> list[np.ndarray]:
        found = []
        start = np.array([a for a, _ in box])
        for label in range(1, classes):
            at = np.argwhere(block == label)
            found.append((at[:: max(1, len(at) // PLACES)] + start).astype(np.int32))
        return found

    made = []
    for parts in zip(*over_blocks(some, known), strict=True):
        at = np.concatenate(parts)
        if len(at):
            made.append(at[np.sort(rng.permutation(len(at))[:PLACES])])
    return made


def draw_patch(item: Labelled, patch: Sequence[int], across: int | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch (1, ...) float32 and its labels (1, ...) int64, varied.

    Parameters
    ----------
    item : Labelled
    patch : sequence of int
        Of three axes, or of two where `across` says along which the slice is cut.
    across : int, optional
    rng : numpy.random.Generator
    """
    shape = item.known.shape
    size = list(patch)
    if across is not None:
        size.insert(across, 1)
    if item.places and rng.random() < FOREGROUND:
        at = item.places[int(rng.integers(len(item.places)))]
        middle = at[int(rng.integers(len(at)))]
        # somewhere in the middle half of the patch
        starts = [int(m - rng.integers(s // 4, max(s // 4 + 1, 3 * s // 4 + 1))) for m, s in zip(middle, size, strict=True)]
    else:
        starts = [int(rng.integers(min(0, n - s), max(0, n - s) + 1)) for s, n in zip(size, shape, strict=True)]
    # within the image where it is large enough, around it where it is not
    starts = [int(np.clip(a, min(0, n - s), max(0, n - s))) for a, s, n in zip(starts, size, shape, strict=True)]
    box = tuple((a, a + s) for a, s in zip(starts, size, strict=True))
    image, labels = (read_block(array, box, (0, 0, 0), "reflect") for array in (item.values, item.known))
    if across is not None:
        image, labels = image.squeeze(across), labels.squeeze(across)
    image, labels, _ = vary(np.asarray(image, np.float32), np.asarray(labels), VARIED, rng)
    return image[None], labels[None].astype(np.int64)


def known_of(image: Image, labels: Image) -> np.ndarray:
    """Return the labels of an image on its own grid, (X, Y, Z); those that lie on another one are taken from the nearest voxel."""
    volume, theirs = image.volume, labels.volume
    if theirs.shape == volume.shape and np.allclose(theirs.affine, volume.affine, atol=1e-3):
        return np.asarray(at_hand(theirs.data, theirs.data.dtype)[0][...])
    own = Grid((volume.shape[0], volume.shape[1], volume.shape[2]), volume.affine)
    return np.asarray(resample(theirs.data, theirs.affine, own, mode="nearest", outside=0))


def sampler_of(items: Sequence[Labelled], patch: Sequence[int], across: int | None) -> Any:
    """Return what draws a batch for `cohortex.training.loop.fit`."""

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw_patch(items[int(rng.integers(len(items)))], patch, across, rng) for _ in range(count)]
        return np.stack([image for image, _ in drawn]), np.stack([labels for _, labels in drawn])

    return sample


def names_of(classes: int, names: Mapping[str, str]) -> list[str]:
    """Return what each class is called."""
    return ["background", *(str(names.get(str(i), f"label{i}")) for i in range(1, classes))]
