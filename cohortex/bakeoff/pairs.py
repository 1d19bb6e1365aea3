"""Simulated pairs out of the user's own scans, as the stage's training makes them: what a system is given, and the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cohortex.bakeoff.systems import edges_of
from cohortex.filters.foreground import foreground
from cohortex.items import Image, settings_for
from cohortex.measures.image_quality import noise_sigma
from cohortex.models.intensity import to_unit, unit_range, values_for
from cohortex.models.superresolve import throughplane as through
from cohortex.stages.denoise import apply_transform, is_rician
from cohortex.training import patches
from cohortex.training.denoise import with_noise
from cohortex.training.superresolve import cubic, in_plane
from cohortex.volume import Volume
from cohortex.worker import seed_for

LEAST_SLICES = 8
"""A volume that is left with fewer thick slices, or voxels of a finer axis, is no pair."""

LEAST_CONTRAST = 0.02
"""Unit of the lesions' contrast in images without noise: a share of the range of the intensities."""


@dataclass(frozen=True)
class Pair:
    """A degraded image and its truth.

    Attributes
    ----------
    image : Image
        Degraded: the volume that a system is given.
    truth : (x, y, z) float32 array
        On the grid of the result, in the image's unit.
    spacing : three floats
        Of the truth in mm.
    inside : (x, y, z) bool array
        Foreground of the truth.
    low, high : float
        What is 0 and 1 when images are measured.
    noise : float
        Unit of the lesions' contrast; in a pair of `denoise` the noise that was simulated.
    degrade : callable
        From a truth to what a system is given, with the same noise each time.
    start : (x, y, z) float32 array
        What doing nothing gives, on the grid of the truth; changes are told from there.
    axis : int
        The slice axis; -1 in a pair of `denoise`.
    """

    image: Image
    truth: np.ndarray
    spacing: tuple[float, float, float]
    inside: np.ndarray
    low: float
    high: float
    noise: float
    degrade: Callable[[np.ndarray], np.ndarray]
    start: np.ndarray
    axis: int = -1

    @property
    def split(self) -> str:
        """Return the split of its subject."""
        return self.image.row["split"]

    def unit(self, array: np.ndarray) -> np.ndarray:
        """Return an array in the range in which images are measured."""
        return to_unit(array, self.low, self.high)


def chosen(images: Sequence[Image], asked: Mapping[str, Any], splits: Sequence[str] = ("validation", "test")) -> list[Image]:
    """Return the images that are looked at, at most ``images`` of each split, over modalities and subjects."""
    return [image for split in splits for image in patches.chosen(images, split, asked["images"]) if image.role == "image"]


def boxed(image: Image, edge: int | Sequence[int]) -> Image:
    """Return an image of which only the box is looked at that a pair is made of (`edges_of`); it is read when it is asked for."""

    def cut() -> Volume:
        array, affine = _cut(image.volume.array(np.float32), image.volume.affine, edges_of(edge))
        return image.volume.with_data(array, affine)

    return replace(image, opener=cut)


def make_pair(task: str, image: Image, asked: Mapping[str, Any], section: Mapping[str, Any], seed: int) -> Pair | str:
    """Return the pair of an image, or why there is none.

    Parameters
    ----------
    task : {"denoise", "superresolve"}
    image : Image
    asked : mapping
        The task's section of ``bakeoff``.
    section : mapping
        The section of the stage, the same for all systems.
    seed : int
        Of the bake-off; noise depends on it and on the image alone.
    """
    settings = settings_for(section, image.modality)
    array = image.volume.array(np.float32)
    if not np.isfinite(array).all():
        return "it has voxels that are NaN or infinite"
    if array.min() == array.max():
        return f"all its voxels are {array.flat[0]:g}, there is nothing to restore"
    if task == "denoise":
        return _noisy(image, asked, settings, seed_for(seed, image.id, "bakeoff"))
    return _thick(image, asked, settings)


def given(pair: Pair, array: np.ndarray) -> Image:
    """Return the image of a pair with other voxels."""
    volume = pair.image.volume.with_data(np.ascontiguousarray(array, dtype=np.float32))
    return replace(pair.image, opener=lambda: volume)


def linear(slices: np.ndarray, count: int, axis: int) -> np.ndarray:
    """Return slices interpolated along straight lines between their middles, as `throughplane.upsample` places them."""
    number = slices.shape[axis]
    place = np.clip((np.arange(count) + 0.5) * number / count - 0.5, 0, number - 1)
    first = np.minimum(place.astype(int), number - 2)
    share = (place - first).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return (1 - share) * np.take(slices, first, axis) + share * np.take(slices, first + 1, axis)


def _noisy(image: Image, asked: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> Pair | str:
    array, affine = _cut(image.volume.array(np.float32), image.volume.affine, edges_of(asked["edge"]))
    inside = foreground(array)
    sigma = noise_sigma(array, inside)
    if not sigma > 0:
        return "it has no noise"
    rician = is_rician(float(array.min()), image.modality, settings.get("rician", "auto"))
    spacing = image.volume.spacing
    clean = np.asarray(apply_transform(array, spacing, sigma, float(settings.get("strength", 1.0)), rician), dtype=np.float32)
    low, high = unit_range(clean, values_for(image.modality))
    sigma *= float(asked["noise"])

    def degrade(truth: np.ndarray) -> np.ndarray:
        return with_noise(np.asarray(truth, dtype=np.float32), sigma, rician, np.random.default_rng(seed)).astype(np.float32)

    noisy = degrade(clean)
    return Pair(_as_image(image, noisy, affine), clean, spacing, inside, low, high, sigma, degrade, noisy)


def _thick(image: Image, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> Pair | str:
    if min(image.volume.shape) == 1:
        return "it is a picture"
    factor, axis = int(asked["factor"]), in_plane(image)[0]
    spacing = np.array(image.volume.spacing)
    array = cubic(image.volume.array(np.float32), image.volume.spacing)
    # What `cubic` interpolated is finer by the voxels that it added.
    spacing *= np.array(image.volume.shape) / np.array(array.shape)
    if spacing[axis] * factor <= 1.01 * spacing.max():
        return f"its slices of {spacing.max():.3g} mm are thicker than {factor} of its pixels"
    affine = image.volume.affine @ np.diag([*(spacing / np.array(image.volume.spacing)), 1.0])
    edges = edges_of(asked["edge"])
    edges[axis] = min(edges[axis], array.shape[axis]) // factor * factor
    array, affine = _cut(array, affine, edges)
    slices = array.shape[axis] // factor
    if slices < LEAST_SLICES or min(array.shape) < LEAST_SLICES:
        return f"it has {array.shape[axis]} voxels along its {'xyz'[axis]} axis, too few for slices of {factor}"
    inside = foreground(array)
    low, high = unit_range(array, values_for(image.modality))
    profile: through.Profile = settings.get("profile", "box")
    degrade = partial(through.average, slices=slices, axis=axis, profile=profile)
    thick = degrade(array)
    noise = max(noise_sigma(array, inside), LEAST_CONTRAST * (high - low))
    coarse = affine.copy()
    coarse[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    coarse[:3, axis] *= factor
    kept = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
    start = linear(thick, array.shape[axis], axis)
    return Pair(_as_image(image, thick, coarse), array, kept, inside, low, high, noise, degrade, start, axis)


def box_of(array: np.ndarray, edge: int | Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the box of an array that is looked at, around the middle of its foreground (`edges_of`)."""
    inside = foreground(array)
    box = []
    for axis, (size, length) in enumerate(zip(array.shape, edges_of(edge), strict=True)):
        filled = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        middle = (int(filled[0]) + int(filled[-1]) + 1) // 2 if filled.size else size // 2
        start = min(max(0, middle - length // 2), max(0, size - length))
        box.append(slice(start, start + length))
    return box[0], box[1], box[2]


def moved(affine: np.ndarray, box: Sequence[slice]) -> np.ndarray:
    """Return the affine of a box of an array."""
    found = np.array(affine, dtype=np.float64)
    found[:3, 3] += found[:3, :3] @ np.array([each.start for each in box])
    return found


def _cut(array: np.ndarray, affine: np.ndarray, edges: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a box of an array around the middle of its foreground, and its affine."""
    box = box_of(array, edges)
    return np.ascontiguousarray(array[box]), moved(affine, box)


def _as_image(image: Image, array: np.ndarray, affine: np.ndarray) -> Image:
    volume = Volume(array, affine, modality=image.modality, body_part=image.body_part)
    return replace(image, opener=lambda: volume)
