"""What `benchmarks.recognize_proofs` learns from and is tested on: pictures and volumes with lesions, made from seeds.

Values are 0..1. `lesions`: three to six ellipses of 5 to 26 pixels on a texture that is as bright in places, beside bright lines like
vessels. `rare`: larger pictures, three of ten with one lesion of 6 to 9 pixels. `depths`: tissues of very different values, as in CT, and
lesions that differ from the tissue around them by a fortieth of the range. `bleeds`: volumes with dark balls, among dark tubes that are as
wide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage as ndi

SEED = 70707
SPLITS = ("train", "test", "validation")


@dataclass(frozen=True)
class Case:
    """An image (float32) with boxes ``[low..., high...]`` (n, 2 * dimensions), half open, all of one class; `lesions` know their pixels."""

    image: np.ndarray
    corners: np.ndarray
    masks: np.ndarray | None = None

    @property
    def labels(self) -> np.ndarray:
        """Class 0 for every box."""
        return np.zeros(len(self.corners), np.int64)


def texture(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Return smooth noise of deviation 1."""
    values = np.asarray(ndi.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap"))
    return values / values.std()


def ellipse(shape: tuple[int, ...], middle: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the voxels within radii (along the axes) of a middle."""
    places = np.indices(shape, dtype=np.float32)
    away = sum(((p - m) / r) ** 2 for p, m, r in zip(places, middle, radii, strict=True))
    return np.asarray(away <= 1)


def line(shape: tuple[int, ...], rng: np.random.Generator, width: float) -> np.ndarray:
    """Return the voxels of a straight line through the image, all of that width."""
    way = rng.standard_normal(len(shape))
    way /= np.linalg.norm(way)
    places = np.indices(shape, dtype=np.float32) - rng.uniform(0.2, 0.8, len(shape)).reshape(-1, *[1] * len(shape)) * shape[0]
    along = np.tensordot(way, places, 1)
    return np.sqrt(np.maximum((places**2).sum(0) - along**2, 0)) <= width


def box_of(mask: np.ndarray) -> list[int]:
    """Return the box around the voxels of a mask."""
    places = np.argwhere(mask)
    return [*places.min(0).tolist(), *(places.max(0) + 1).tolist()]


def place(rng: np.random.Generator, shape: tuple[int, ...], taken: np.ndarray, low: float, high: float) -> np.ndarray | None:
    """Return an ellipse that keeps away from those before it, or None where none fits; `taken` is added to."""
    for _ in range(30):
        radii = rng.uniform(low, high) * rng.uniform(0.8, 1.25, len(shape))
        middle = rng.uniform(high + 1, np.array(shape) - high - 1)
        mask = ellipse(shape, middle, radii)
        if mask.any() and not taken[ellipse(shape, middle, radii + 3)].any():
            taken |= mask
            return mask
    return None


def lesions(rng: np.random.Generator, edge: int = 96) -> Case:
    """Return a picture with several lesions of many sizes."""
    shape = (edge, edge)
    image = 0.4 + 0.05 * texture(rng, shape, 6) + 0.04 * texture(rng, shape, 1.5)
    for _ in range(3):
        image[line(shape, rng, rng.uniform(0.8, 2.0))] += rng.uniform(0.1, 0.2)
    taken, boxes, masks = np.zeros(shape, bool), [], []
    for low, high in [(9, 13), *[(2.5, 4.5)] * int(rng.integers(1, 4)), *[(4.5, 8)] * int(rng.integers(1, 3))]:
        mask = place(rng, shape, taken, low, high)
        if mask is not None:
            image = image + rng.uniform(0.1, 0.2) * np.asarray(ndi.gaussian_filter(mask.astype(np.float32), 0.8))
            boxes.append(box_of(mask))
            masks.append(mask)
    return replace(_case(image + 0.03 * rng.standard_normal(shape), boxes), masks=np.stack(masks))


def rare(rng: np.random.Generator, edge: int = 128) -> Case:
    """Return a picture with one small lesion, or (seven of ten) none."""
    shape = (edge, edge)
    image = 0.4 + 0.05 * texture(rng, shape, 6) + 0.04 * texture(rng, shape, 1.5)
    for _ in range(4):
        image[line(shape, rng, rng.uniform(0.8, 2.0))] += rng.uniform(0.1, 0.2)
    taken, boxes = np.zeros(shape, bool), []
    mask = place(rng, shape, taken, 3.0, 4.5) if rng.random() < 0.3 else None
    if mask is not None:
        image = image + rng.uniform(0.12, 0.2) * np.asarray(ndi.gaussian_filter(mask.astype(np.float32), 0.8))
        boxes.append(box_of(mask))
    return _case(image + 0.03 * rng.standard_normal(shape), boxes)


def depths(rng: np.random.Generator, edge: int = 96) -> Case:
    """Return a picture of tissues of three ranges of values, each with lesions of a fortieth of the range."""
    shape = (edge, edge)
    kind = np.digitize(texture(rng, shape, 12), [-0.5, 0.5])
    base = np.array([0.08, 0.5, 0.92])[kind]
    image = np.asarray(ndi.gaussian_filter(base, 0.7)) + 0.004 * texture(rng, shape, 3)
    taken, boxes = np.asarray(ndi.morphological_gradient(kind, size=5)) > 0, []
    for _ in range(int(rng.integers(2, 6))):
        mask = place(rng, shape, taken, 3.5, 6.0)
        if mask is not None:
            image = image + rng.uniform(0.018, 0.03) * np.asarray(ndi.gaussian_filter(mask.astype(np.float32), 0.7))
            boxes.append(box_of(mask))
    return _case(image + 0.008 * rng.standard_normal(shape), boxes)


def bleeds(rng: np.random.Generator, edge: int = 40) -> Case:
    """Return a volume with two or three dark balls among dark tubes of the same width."""
    shape = (edge,) * 3
    image = 0.6 + 0.04 * texture(rng, shape, 2)
    for _ in range(4):
        image[line(shape, rng, rng.uniform(1.5, 2.5))] -= rng.uniform(0.15, 0.25)
    taken, boxes = image < 0.45, []
    for _ in range(int(rng.integers(2, 4))):
        mask = place(rng, shape, taken, 2.0, 3.0)
        if mask is not None:
            image = image - rng.uniform(0.15, 0.25) * np.asarray(ndi.gaussian_filter(mask.astype(np.float32), 0.5))
            boxes.append(box_of(mask))
    return _case(image + 0.03 * rng.standard_normal(shape), boxes)


KINDS = {"lesions": lesions, "rare": rare, "depths": depths, "bleeds": bleeds}


def cases(kind: str, split: str, count: int) -> list[Case]:
    """Return cases of a kind; those of the splits have no seed in common."""
    make = KINDS[kind]
    return [make(np.random.default_rng([SEED, list(KINDS).index(kind), SPLITS.index(split), n])) for n in range(count)]


def mirrored(case: Case, axes: np.ndarray) -> Case:
    """Return a case mirrored along the axes that are told."""
    image, corners, masks = case.image, case.corners.copy(), case.masks
    d = image.ndim
    for axis in np.flatnonzero(axes).tolist():
        image = np.flip(image, axis)
        masks = None if masks is None else np.flip(masks, axis + 1)
        corners[:, [axis, axis + d]] = image.shape[axis] - corners[:, [axis + d, axis]]
    return Case(np.ascontiguousarray(image), corners, None if masks is None else np.ascontiguousarray(masks))


def _case(image: np.ndarray, boxes: list[Any]) -> Case:
    return Case(np.clip(image, 0, 1).astype(np.float32), np.array(boxes, np.float32).reshape(-1, 2 * image.ndim))
