"""Patches for training: which images, which places, which way round."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cohortex.items import Image
from cohortex.survey import survey

LOG = logging.getLogger("cohortex.training")


def chosen(images: Sequence[Image], split: str, most: int = 48) -> list[Image]:
    """Return the images of a split, at most `most` of them, evenly over modalities and subjects, sorted by id.

    Prepared images stay in memory during a training, so a large cohort gives a sample of itself.
    """
    by_modality: dict[str, list[Image]] = defaultdict(list)
    for image in sorted(images, key=lambda i: i.id):
        if image.kind == "image" and image.row.get("split") == split:
            by_modality[image.modality].append(image)
    share = max(1, most // max(1, len(by_modality)))
    picked: list[Image] = []
    for group in by_modality.values():
        index = np.unique(np.linspace(0, len(group) - 1, min(share, len(group))).round().astype(int))
        picked.extend(group[i] for i in index)
    return sorted(picked, key=lambda i: i.id)


def showing(images: Sequence[Image]) -> list[Image]:
    """Return the images that show something: constant ones, and those with NaN or infinite values, are left out and named in the log."""
    kept = []
    for image in images:
        look = survey(image.volume)
        if look.wrong:
            LOG.warning("%s is left out: it has %d voxels that are NaN or infinite", image.id, look.wrong)
        elif look.low == look.high:
            LOG.warning("%s is left out: all its voxels are %g", image.id, look.low)
        else:
            kept.append(image)
    return kept


def random_box(
    shape: Sequence[int], size: Sequence[int], rng: np.random.Generator, inside: np.ndarray | None = None
) -> tuple[tuple[int, int], ...]:
    """Return a box of a size at a random place, its middle in the foreground.

    Parameters
    ----------
    shape, size : ints
        The box is not larger than the array.
    inside : (n, axes) int array, optional
        Indices of foreground voxels; one of them is near the middle of the box.

    Returns
    -------
    tuple of (start, stop)
    """
    size = [min(s, n) for s, n in zip(size, shape, strict=True)]
    if inside is None or len(inside) == 0:
        starts = [int(rng.integers(0, n - s + 1)) for s, n in zip(size, shape, strict=True)]
    else:
        middle = inside[rng.integers(len(inside))]
        starts = [int(np.clip(m - rng.integers(0, s), 0, n - s)) for m, s, n in zip(middle, size, shape, strict=True)]
    return tuple((a, a + s) for a, s in zip(starts, size, strict=True))


def places(mask: np.ndarray, rng: np.random.Generator, most: int = 20_000) -> np.ndarray:
    """Return the indices of some of the True voxels, (n, axes) int32."""
    found = np.flatnonzero(mask)
    if len(found) > most:
        found = np.sort(rng.choice(found, most, replace=False))
    return np.stack(np.unravel_index(found, mask.shape), axis=-1).astype(np.int32)


def turned(arrays: Sequence[np.ndarray], rng: np.random.Generator, swap: tuple[int, int] | None = None) -> list[np.ndarray]:
    """Flip arrays of one shape along random axes, all alike, and swap two axes half of the time (equal lengths only)."""
    axes = tuple(int(axis) for axis in np.flatnonzero(rng.random(arrays[0].ndim) < 0.5))
    swapped = swap is not None and rng.random() < 0.5 and len({arrays[0].shape[axis] for axis in swap}) == 1
    made = [np.flip(array, axis=axes) for array in arrays]
    return [np.ascontiguousarray(np.swapaxes(a, *swap) if swapped and swap is not None else a) for a in made]
