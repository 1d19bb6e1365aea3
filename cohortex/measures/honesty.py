"""What a restoration added or took away: structure in the residual, agreement with what was measured, and planted lesions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

Restore = Callable[[np.ndarray], np.ndarray]
"""From a degraded image to a restored one, which may have another grid."""

SUBVOXELS = 5
"""Points along each axis of a voxel at which a lesion's partial volume is found."""


# --- the residual ------------------------------------------------------------------------------------------------


def residual_structure(before: np.ndarray, after: np.ndarray, mask: np.ndarray | None = None) -> dict[str, float]:
    """Return what a restoration changed, and whether that looks like the anatomy.

    Noise that was removed knows nothing of the anatomy: all correlations are near zero. Detail that went with it shows in each of them.

    Parameters
    ----------
    before, after : (x, y) or (x, y, z) arrays of one shape and unit
    mask : bool array, optional
        Only these voxels count.

    Returns
    -------
    dict
        ``residual_mean`` and ``residual_std`` of before - after, in the image's unit; ``image_correlation``, of the residual with the
        restored image; ``edge_correlation``, of the residual's magnitude with the gradient's magnitude of the restored image;
        ``autocorrelation_<axis>``, of the residual with itself one voxel further along an axis. Each correlation is Pearson's,
        0 where one side is constant.
    """
    residual, restored, inside = _residual(before, after, mask)
    edges = np.zeros_like(restored)
    for axis, size in enumerate(restored.shape):
        if size > 1:
            edges += np.gradient(restored, axis=axis) ** 2
    found = {
        "residual_mean": float(residual[inside].mean()),
        "residual_std": float(residual[inside].std()),
        "image_correlation": _correlation(residual[inside], restored[inside]),
        "edge_correlation": _correlation(np.abs(residual[inside]), np.sqrt(edges[inside])),
    }
    for axis, size in enumerate(residual.shape):
        if size > 1:
            found[f"autocorrelation_{'xyz'[axis]}"] = autocorrelation(residual, axis, inside)
    return found


def autocorrelation(array: np.ndarray, axis: int, mask: np.ndarray | None = None) -> float:
    """Return the correlation of an array with itself one voxel further along an axis, over pairs inside the mask: 0 for white noise."""
    values = np.asarray(array, dtype=np.float64)
    inside = np.ones(values.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    here, there = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
    both = inside[here] & inside[there]
    return _correlation(values[here][both], values[there][both])


def noise_agreement(before: np.ndarray, after: np.ndarray, sigma: float, mask: np.ndarray | None = None) -> dict[str, float]:
    """Return whether what a denoiser removed is as large as the noise, and white.

    Parameters
    ----------
    before, after : arrays of one shape and unit
    sigma : float
        Standard deviation of the noise of `before`, in its unit.
    mask : bool array, optional

    Returns
    -------
    dict
        ``removed_share``: standard deviation of what was removed over sigma. Above 1 more than noise went. ``whiteness``: 1 minus
        the root mean square of its autocorrelations at one voxel along the axes; 1 for white noise.

    Raises
    ------
    ValueError
        Sigma is not above zero, or shapes differ.
    """
    if not sigma > 0:
        raise ValueError(f"the noise that a denoiser is held against is above zero, this one is {sigma}")
    residual, _, inside = _residual(before, after, mask)
    along = [autocorrelation(residual, axis, inside) for axis, size in enumerate(residual.shape) if size > 1]
    return {
        "removed_share": float(residual[inside].std()) / sigma,
        "whiteness": 1.0 - float(np.sqrt(np.mean(np.square(along)))) if along else 1.0,
    }


def slice_agreement(fine: np.ndarray, slices: np.ndarray, axis: int, profile: Literal["box", "gaussian"] = "box") -> float:
    """Return how far a super-resolved volume is from the slices that were measured.

    The root mean square difference of the means over the slice profile and the slices, over the root mean square of the slices: 0 when
    nothing that was measured is contradicted.

    Parameters
    ----------
    fine, slices : (x, y, z) arrays
        Of one field of view, with different numbers of voxels along `axis`.
    axis : int
    profile : {"box", "gaussian"}
        See `cohortex.models.superresolve.throughplane.profile_matrix`.
    """
    from cohortex.models.superresolve.throughplane import average

    measured = np.asarray(slices, dtype=np.float64)
    error = average(fine, measured.shape[axis], axis, profile) - measured
    scale = float(np.sqrt(np.mean(measured**2)))
    if scale == 0:
        raise ValueError("the agreement with slices that are zero everywhere is not defined")
    return float(np.sqrt(np.mean(error**2))) / scale


# --- planted lesions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lesion:
    """A sphere that was put into an image.

    Attributes
    ----------
    middle : three floats
        In voxels.
    diameter_mm : float
    contrast : float
        What is added inside, in units of the noise.
    """

    middle: tuple[float, float, float]
    diameter_mm: float
    contrast: float


@dataclass(frozen=True)
class Planted:
    """An image with lesions, and what was added for each.

    Attributes
    ----------
    image : (x, y, z) float32 array
    lesions : tuple of Lesion
    boxes : tuple of three slices each
        Around each lesion; no two touch.
    profiles : tuple of arrays
        What was added in each box, in the image's unit.
    """

    image: np.ndarray
    lesions: tuple[Lesion, ...]
    boxes: tuple[tuple[slice, slice, slice], ...]
    profiles: tuple[np.ndarray, ...]


def plant_lesions(
    clean: np.ndarray,
    spacing_mm: Sequence[float],
    mask: np.ndarray,
    noise: float,
    diameters_mm: Sequence[float] = (2.0, 4.0, 8.0),
    contrasts: Sequence[float] = (2.0, 4.0),
    each: int = 2,
    seed: int = 0,
) -> Planted:
    """Add spheres at random places of the foreground, with partial volume at their surface.

    Parameters
    ----------
    clean : (x, y, z) array
        Before noise or degradation is simulated.
    spacing_mm : three floats
    mask : (x, y, z) bool array
        The foreground: each lesion lies in it as a whole as far as there is such a place, else with its middle.
    noise : float
        Unit of the contrasts, in the image's unit.
    diameters_mm, contrasts : floats
        Every pair of them is planted. A negative contrast is darker.
    each : int
        How many of each pair, fewer where there is no room. All pairs are placed once before any is placed again, large ones first.
    seed : int
        The same seed puts them at the same places.

    Raises
    ------
    ValueError
        A contrast unit or a diameter that is not above zero, or not a single lesion fits.
    """
    from scipy import ndimage

    if not noise > 0 or min(diameters_mm) <= 0:
        raise ValueError(f"noise and diameters are above zero, here are {noise} and {min(diameters_mm)}")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    inside = np.asarray(mask, dtype=bool)
    # Beyond the border is not foreground, along axes that have more than one voxel.
    padded = np.pad(inside, [(1, 1) if size > 1 else (0, 0) for size in inside.shape])
    depth = np.asarray(ndimage.distance_transform_edt(padded, sampling=spacing))
    depth = depth[tuple(slice(1, -1) if size > 1 else slice(None) for size in inside.shape)]
    free = inside.copy()
    rng = np.random.default_rng(seed)
    image = np.array(clean, dtype=np.float32)
    lesions: list[Lesion] = []
    boxes: list[tuple[slice, slice, slice]] = []
    profiles: list[np.ndarray] = []
    for diameter, contrast in [pair for _ in range(each) for pair in product(sorted(diameters_mm, reverse=True), contrasts)]:
        places = np.flatnonzero(free & (depth >= diameter / 2))
        if not places.size:
            places = np.flatnonzero(free)
        if not places.size:
            continue
        voxel = np.unravel_index(int(places[rng.integers(places.size)]), inside.shape)
        shift = [0.0 if size == 1 else float(rng.uniform(-0.5, 0.5)) for size in inside.shape]
        middle = np.array([v + s for v, s in zip(voxel, shift, strict=True)])
        box = _box(middle, diameter / 2 / spacing + 1, inside.shape)
        profile = (_sphere(middle, diameter, spacing, box) * contrast * noise).astype(np.float32)
        # The middle of no other lesion may come so near that their boxes touch.
        free[_box(middle, (diameter + max(diameters_mm)) / 2 / spacing + 4, inside.shape)] = False
        image[box] += profile
        lesions.append(Lesion((float(middle[0]), float(middle[1]), float(middle[2])), float(diameter), float(contrast)))
        boxes.append(box)
        profiles.append(profile)
    if not lesions:
        raise ValueError("no lesion fits: the foreground is empty")
    return Planted(image, tuple(lesions), tuple(boxes), tuple(profiles))


def contrast_recovery(planted: Planted, restored_with: np.ndarray, restored_without: np.ndarray) -> list[float]:
    """Return for each lesion the share of its contrast that a restoration kept.

    The difference of two restorations, with and without the lesions but with the same noise, is what they became; it is projected on what
    was added. 1: kept as a whole, 0: gone, above 1: exaggerated.

    Parameters
    ----------
    planted : Planted
    restored_with, restored_without : (x, y, z) arrays
        On the grid of the planted image.
    """
    difference = np.asarray(restored_with, dtype=np.float64) - np.asarray(restored_without, dtype=np.float64)
    if difference.shape != planted.image.shape:
        raise ValueError(f"the restored images have the shape {difference.shape}, the planted one {planted.image.shape}")
    return [
        float(np.sum(difference[box] * profile) / np.sum(profile.astype(np.float64) ** 2))
        for box, profile in zip(planted.boxes, planted.profiles, strict=True)
    ]


def planted_lesion_test(
    clean: np.ndarray, planted: Planted, degrade: Restore, restore: Restore, baseline: Restore
) -> list[dict[str, float]]:
    """Degrade and restore an image with and without planted lesions, by a method and by one to hold it against.

    Parameters
    ----------
    clean : (x, y, z) array
    planted : Planted
        Of `clean`.
    degrade : callable
        Simulates noise, or thick slices. Called twice: it must draw the same noise both times.
    restore, baseline : callables

    Returns
    -------
    list of dict
        One a lesion: ``diameter_mm``, ``contrast``, ``recovery`` of the method, ``baseline`` (recovery of the other).
    """
    degraded, plain = degrade(planted.image), degrade(np.asarray(clean, dtype=np.float32))
    kept = contrast_recovery(planted, restore(degraded), restore(plain))
    other = contrast_recovery(planted, baseline(degraded), baseline(plain))
    return [
        {"diameter_mm": lesion.diameter_mm, "contrast": lesion.contrast, "recovery": mine, "baseline": theirs}
        for lesion, mine, theirs in zip(planted.lesions, kept, other, strict=True)
    ]


def recovery_by_size(rows: Sequence[dict[str, float]], key: str = "recovery") -> dict[tuple[float, float], float]:
    """Return the mean recovery by diameter and contrast, smallest first."""
    groups: dict[tuple[float, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["diameter_mm"], row["contrast"]), []).append(row[key])
    return {size: float(np.mean(values)) for size, values in sorted(groups.items())}


# --- parts -------------------------------------------------------------------------------------------------------


def _residual(before: np.ndarray, after: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"two images to compare have one shape, these have {first.shape} and {second.shape}")
    inside = np.ones(first.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if not inside.any():
        raise ValueError("there is no voxel to compare: the image or the mask is empty")
    return first - second, second, inside


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.size < 2:
        return 0.0
    a, b = first - first.mean(), second - second.mean()
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    # Differences that are only rounding do not count as structure.
    small = 1e-12 * first.size * max(float(np.abs(first).max()), 1e-300) * max(float(np.abs(second).max()), 1e-300)
    return float(np.sum(a * b)) / scale if scale > small else 0.0


def _box(middle: np.ndarray, reach: np.ndarray, shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return the voxels within a reach of a place."""
    low = np.maximum(np.floor(middle - reach), 0).astype(int)
    high = np.minimum(np.ceil(middle + reach) + 1, shape).astype(int)
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1])), slice(int(low[2]), int(high[2]))


def _sphere(middle: np.ndarray, diameter_mm: float, spacing: np.ndarray, box: tuple[slice, slice, slice]) -> np.ndarray:
    """Return the share of each voxel of a box that lies in a sphere."""
    parts = (np.arange(SUBVOXELS) + 0.5) / SUBVOXELS - 0.5
    squares = []
    for axis, side in enumerate(box):
        places = (np.arange(side.start, side.stop)[:, None] + parts).reshape(-1)
        squares.append(((places - middle[axis]) * spacing[axis]) ** 2)
    inside = squares[0][:, None, None] + squares[1][:, None] + squares[2] <= (diameter_mm / 2) ** 2
    shape = [n for side in box for n in (side.stop - side.start, SUBVOXELS)]
    return inside.reshape(shape).mean(axis=(1, 3, 5))
