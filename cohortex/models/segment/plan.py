"""What a cohort's own numbers say about how to segment it (the rules of nnU-Net, Isensee et al., Nat. Methods 18, 2021, in short).

`fingerprint` looks at images, `plan` decides from what it found alone: spacing, patch, batch, poolings along each axis, kernels, range of
values. Nothing here imports torch; ``registry.build("segment", "planned_unet", **plan.options)`` builds the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from cohortex.errors import Refused

ANISOTROPIC = 3.0
"""From this ratio of the coarsest axis to the others on, a cohort is anisotropic in spacing, and in voxels."""
LOW = 10
"""Percentile of the spacing along the coarse axis of an anisotropic cohort: finer than the median, so that few slices are lost."""
EDGE = 4
"""Voxels that the coarsest level keeps along each axis at least."""
WIDEST = {2: 512, 3: 320}
"""Most filters of a level."""
FIRST = 32
"""Filters of the finest level."""
SHARE = 0.05
"""Of all voxels of a cohort at most so many in one batch."""
VALUES = 10_000
"""Of the foreground of an image that the window is taken of."""
KEPT = 12.0
"""Bytes of memory that a feature takes in training: its value and those that the gradient needs of norm and activation."""


@dataclass(frozen=True)
class Fingerprint:
    """What the labelled images of a cohort are like.

    Attributes
    ----------
    shapes : list of three ints
        Of the foreground of each image (without the air around), in voxels.
    spacings : list of three floats
        In mm.
    modality : str
    channels, classes : int
    percentiles : two floats
        0.5th and 99.5th percentile of the voxels with a label other than the background, over all images.
    mean, deviation : float
        Of these voxels.
    """

    shapes: list[tuple[int, int, int]]
    spacings: list[tuple[float, float, float]]
    modality: str
    channels: int
    classes: int
    percentiles: tuple[float, float] = (0.0, 1.0)
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How a network for a cohort is built, fed and trained.

    Attributes
    ----------
    spacing : three floats
        In mm, to which images are resampled.
    shape : three ints
        Median of the images at that spacing.
    dimensions : {2, 3}
        2 for pictures, and for volumes of few slices that are far apart.
    across : int or None
        Of two dimensions: the axis that slices are stacked along.
    patch : tuple of int
        Of `dimensions` axes.
    batch : int
    strides, kernels : list of lists of int
        Of each level.
    features : list of int
    normalise : {"window", "each"}
        window: cut at the foreground's percentiles and standardised by its mean and deviation, the same for all images (values with a
        meaning, as of CT); each: every image by its own mean and deviation.
    window : two floats
    mean, deviation : float
        Of a window.
    bytes : float
        What a batch is expected to take.
    """

    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    dimensions: int
    across: int | None
    patch: tuple[int, ...]
    batch: int
    strides: list[list[int]]
    kernels: list[list[int]]
    features: list[int]
    channels: int
    classes: int
    normalise: str
    window: tuple[float, float]
    mean: float
    deviation: float
    bytes: float

    @property
    def options(self) -> dict[str, Any]:
        """The options of the network ``planned_unet``."""
        names = ("dimensions", "channels", "classes", "features", "kernels", "strides")
        return {name: getattr(self, name) for name in names}

    def told(self) -> dict[str, Any]:
        """Return the plan as plain values, for a card."""
        return asdict(self)


def fingerprint(cases: Iterable[tuple[np.ndarray, np.ndarray, Sequence[float]]], modality: str, classes: int) -> Fingerprint:
    """Return the fingerprint of labelled images, which are looked at one by one.

    Parameters
    ----------
    cases : iterable of (image, labels, spacing)
        (X, Y, Z) arrays, or (channels, X, Y, Z) images; spacings in mm.
    modality : str
    classes : int
        With the background.

    Raises
    ------
    Refused
        When there is no image, or no voxel with a label other than the background.
    """
    shapes: list[tuple[int, int, int]] = []
    spacings: list[tuple[float, float, float]] = []
    seen: list[np.ndarray] = []
    channels = 1
    for image, known, spacing in cases:
        first = image if image.ndim == 3 else image[0]
        channels = 1 if image.ndim == 3 else len(image)
        values = np.asarray(first[known > 0], np.float64)
        # each image has as many values at most, evenly taken, whatever its size
        seen.append(values[:: max(1, len(values) // VALUES)])
        shapes.append(_without_air(first))
        spacings.append((float(spacing[0]), float(spacing[1]), float(spacing[2])))
    together = np.concatenate(seen) if seen else np.zeros(0)
    if not together.size:
        raise Refused("segment: no labelled image has a voxel with a label other than 0; give labels of the training subjects.")
    low, high = (float(v) for v in np.percentile(together, [0.5, 99.5]))
    deviation = float(max(together.std(), 1e-8))
    return Fingerprint(shapes, spacings, modality, channels, classes, (low, high), float(together.mean()), deviation)


def _without_air(image: np.ndarray) -> tuple[int, int, int]:
    """Return the shape of the box of voxels above the lowest value."""
    inside = image > image.min()
    if not inside.any():
        return image.shape[0], image.shape[1], image.shape[2]
    lengths = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(inside.any(axis=other))
        lengths.append(int(places[-1] - places[0] + 1))
    return lengths[0], lengths[1], lengths[2]


def plan(found: Fingerprint, memory_gb: float = 8.0) -> Plan:
    """Return how to segment a cohort.

    Parameters
    ----------
    found : Fingerprint
    memory_gb : float
        That a training batch may take.
    """
    spacing = target_spacing(found)
    shapes = np.array(found.shapes, float) * np.array(found.spacings, float) / np.array(spacing)
    shape = tuple(max(1, round(float(n))) for n in np.median(shapes, axis=0))
    thin = int(np.argmin(shape))
    # too few slices to convolve across, or a picture
    flat = min(shape) == 1 or (min(shape) < 2 * EDGE and spacing[thin] > ANISOTROPIC * np.median(spacing))
    kept = [axis for axis in range(3) if not (flat and axis == thin)]
    own_spacing, own_shape = [spacing[axis] for axis in kept], [shape[axis] for axis in kept]
    dimensions = len(kept)
    patch = _first_patch(own_spacing, own_shape, dimensions)
    while True:
        strides, kernels, multiple = topology(own_spacing, patch)
        patch = [-(-n // m) * m for n, m in zip(patch, multiple, strict=True)]
        features = [min(WIDEST[dimensions], FIRST * 2**level) for level in range(len(strides))]
        one = expected_bytes(patch, strides, features, found.channels, found.classes)
        least = 2
        if least * one <= memory_gb * 2**30:
            break
        # the axis that is longest against the median image gives way
        order = sorted(range(dimensions), key=lambda axis: patch[axis] / own_shape[axis], reverse=True)
        axis = next((a for a in order if patch[a] > max(EDGE * 2, multiple[a])), None)
        if axis is None:
            break
        patch[axis] = max(EDGE * 2, patch[axis] - max(multiple[axis], 1))
    voxels = float(np.prod(np.array(own_shape, float))) * len(found.shapes) * (shape[thin] if flat else 1)
    batch = int(min(memory_gb * 2**30 // one, SHARE * voxels // prod(patch)))
    window = found.modality == "CT"
    return Plan(
        spacing,
        (shape[0], shape[1], shape[2]),
        dimensions,
        thin if flat else None,
        tuple(patch),
        max(least, batch),
        strides,
        kernels,
        features,
        found.channels,
        found.classes,
        "window" if window else "each",
        found.percentiles,
        found.mean,
        found.deviation,
        max(least, batch) * one,
    )


def target_spacing(found: Fingerprint) -> tuple[float, float, float]:
    """Return the spacing that images are resampled to: medians, of a much coarser axis with few voxels a low percentile."""
    spacings, shapes = np.array(found.spacings, float), np.array(found.shapes, float)
    median, size = np.median(spacings, axis=0), np.median(shapes, axis=0)
    coarse = int(np.argmax(median))
    others = [axis for axis in range(3) if axis != coarse]
    if median[coarse] > ANISOTROPIC * max(median[others]) and size[coarse] * ANISOTROPIC < min(size[others]):
        # never finer than the others, which would be a false resolution
        median[coarse] = max(np.percentile(spacings[:, coarse], LOW), max(median[others]))
    return float(median[0]), float(median[1]), float(median[2])


def _first_patch(spacing: Sequence[float], shape: Sequence[int], dimensions: int) -> list[int]:
    """Return a patch as long in mm along every axis, of 256 voxels (2048 in a plane) a side if spacing is even, within the median image."""
    edge = 2048 if dimensions == 2 else 256
    inverse = 1 / np.array(spacing, float)
    wanted = inverse / np.exp(np.log(inverse).mean()) * edge
    return [max(1, min(round(float(w)), n)) for w, n in zip(wanted, shape, strict=True)]


def topology(spacing: Sequence[float], patch: Sequence[int]) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Return strides and kernels of every level, and what the patch has to be a multiple of.

    An axis is pooled while at least `EDGE` voxels remain and while it is not much coarser than the finest one that is pooled: so in-plane
    axes of thick slices are pooled first. A kernel is 1 along an axis that is still more than twice as coarse as the finest one.
    """
    dimensions = len(spacing)
    now, size = list(map(float, spacing)), list(map(int, patch))
    strides, kernels, multiple = [[1] * dimensions], [], [1] * dimensions
    opened = [False] * dimensions
    while True:
        finest = min(now)
        for axis in range(dimensions):
            opened[axis] = opened[axis] or now[axis] <= 2 * finest
        kernels.append([3 if open_ else 1 for open_ in opened])
        can = [axis for axis in range(dimensions) if size[axis] >= 2 * EDGE]
        if not can:
            break
        least = min(now[axis] for axis in can)
        pooled = [axis for axis in can if now[axis] <= 2 * least]
        strides.append([2 if axis in pooled else 1 for axis in range(dimensions)])
        for axis in pooled:
            now[axis], size[axis], multiple[axis] = 2 * now[axis], -(-size[axis] // 2), 2 * multiple[axis]
    return strides, kernels, multiple


def expected_bytes(patch: Sequence[int], strides: Sequence[Sequence[int]], features: Sequence[int], channels: int, classes: int) -> float:
    """Return what one example takes in training: all that the convolutions of a level make, down and up, is kept for gradients."""
    total, size = float(channels * prod(patch)), list(map(float, patch))
    for level, (stride, width) in enumerate(zip(strides, features, strict=True)):
        size = [n / s for n, s in zip(size, stride, strict=True)]
        convolutions = 2 if level == len(strides) - 1 else 5
        total += prod(size) * (convolutions * width + classes)
    return KEPT * total
