"""Simulated lesions and pictures of two classes for `benchmarks.radiomics`: signs that hand-made features see, and one they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Cases:
    """What was made.

    Attributes
    ----------
    images : (n, *space) float32 array
    masks : (n, *space) bool array
        The lesion.
    y : (n,) int64 array
        0 or 1, as many of each.
    """

    images: np.ndarray
    masks: np.ndarray
    y: np.ndarray


def grain(rng: np.random.Generator, shape: tuple[int, ...], length: float) -> np.ndarray:
    """Return a Gaussian random field of mean 0 and variance 1 that is alike over about `length` voxels."""
    field = ndimage.gaussian_filter(rng.normal(size=[n + 8 for n in shape]), length)[tuple(slice(4, -4) for _ in shape)]
    return (field - field.mean()) / field.std()


def blob(rng: np.random.Generator, shape: tuple[int, ...], radius: float, rough: float) -> np.ndarray:
    """Return an ellipsoid in the middle, its axes varied by 20 % and its surface by `rough` of the radius."""
    axes = radius * (1 + 0.2 * rng.uniform(-1, 1, len(shape)))
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    away = np.sqrt(sum((g / a) ** 2 for g, a in zip(grid, axes, strict=True)))
    return away + rough * grain(rng, shape, 3.0) < 1


def lesions(n: int, seed: int, size: int = 24) -> Cases:
    """Return lesions in three dimensions, with two signs of the second class that have nothing to do with each other.

    The texture inside is coarser (0.9 voxels, on average 1.2, varied by 0.15), which features of texture see through noise; and the
    lesion is brighter towards the end of the first axis instead of its start, which no feature sees that does not know directions.
    Size, form, gain, offset and noise tell nothing.
    """
    rng = np.random.default_rng([seed, 1])
    shape = (size,) * 3
    images, masks, y = [], [], np.arange(n) % 2
    along = np.linspace(-1, 1, size)[:, None, None]
    for label in y:
        mask = blob(rng, shape, size * rng.uniform(0.27, 0.4), 0.1)
        inside = grain(rng, shape, float(np.clip(rng.normal(0.9 + 0.3 * label, 0.15), 0.5, 1.8)))
        inside = inside + rng.normal(0.7 * label - 0.35, 0.35) * along
        image = np.where(mask, 3.0 + inside, 0.0) + 0.2 * rng.normal(size=shape)
        images.append(rng.uniform(0.7, 1.4) * image + rng.normal(0, 1))
        masks.append(mask)
    return Cases(np.asarray(images, dtype=np.float32), np.asarray(masks), y)


def moles(n: int, seed: int, size: int = 64) -> Cases:
    """Return pictures of moles; the second class has three weak signs, each of which another family of texture sees best.

    Its network is a little wider (what lies beside what), it has a few more straight streaks (runs), and it is brighter in its
    middle than at its rim (zones by their distance to the edge). Every sign varies by about as much as the classes differ in it.
    Size, form and gain tell nothing.
    """
    rng = np.random.default_rng([seed, 2])
    shape = (size, size)
    images, masks, y = [], [], np.arange(n) % 2
    for label in y:
        mask = blob(rng, shape, size * rng.uniform(0.34, 0.42), 0.1)
        image = grain(rng, shape, float(np.clip(rng.normal(1.0 + 0.1 * label, 0.15), 0.5, 2.0)))
        for _ in range(rng.poisson(2 + 4 * label)):
            row, start = rng.integers(12, size - 12), rng.integers(8, size // 2)
            image[row, start : start + size // 3] = rng.normal(0, 1)
        depth = np.asarray(ndimage.distance_transform_edt(mask))
        image = image + rng.normal(0.6 * label - 0.3, 0.35) * (depth - depth[mask].mean()) / depth[mask].std()
        images.append(np.where(mask, image, -6.0) * rng.uniform(0.7, 1.4))
        masks.append(mask)
    return Cases(np.asarray(images, dtype=np.float32), np.asarray(masks), y)


def nodules(n: int, seed: int, size: int = 28) -> Cases:
    """Return slices of nodules; the second class has spicules.

    Where the nodule lies, how large, how long and how bright it is varies much more than the spicules change a pixel, and so
    does what lies around it.
    """
    rng = np.random.default_rng([seed, 3])
    grid = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    images, masks, y = [], [], np.arange(n) % 2
    for label in y:
        offset, radius = rng.uniform(-2.5, 2.5, 2), rng.uniform(4.5, 8.0)
        gx, gy = grid[0] - offset[0], grid[1] - offset[1]
        angle, away = np.arctan2(gy, gx), np.hypot(gx, gy)
        stretch = 1 + rng.uniform(0, 0.25) * np.cos(2 * (angle - rng.uniform(0, np.pi)))
        teeth = max(0.0, rng.normal(0.06 + 0.12 * label, 0.05))
        edge = radius * stretch * (1 + teeth * np.cos(rng.integers(6, 10) * angle + rng.uniform(0, 2 * np.pi)))
        image = rng.uniform(0.6, 1.4) / (1 + np.exp((away - edge) / 0.6))
        image = image + 0.15 * grain(rng, (size, size), 2.0) + 0.1 * rng.normal(size=(size, size))
        images.append(image)
        masks.append(away < edge)
    return Cases(np.asarray(images, dtype=np.float32), np.asarray(masks), y)
