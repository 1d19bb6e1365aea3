"""Radiomic features of one region of one image, defined as the Image Biomarker Standardisation Initiative defines them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortex.models.classify import first_order, shape

FAMILIES = ("firstorder", "histogram", "shape", "glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm")
TEXTURE_FAMILIES = ("glcm", "glrlm", "glszm", "gldzm", "ngtdm", "ngldm")


def discretise(values: np.ndarray, bins: int | None = None, width: float | None = None, start: float | None = None) -> np.ndarray:
    """Cut values into grey levels from 1 on.

    Parameters
    ----------
    values : array
        Finite values of the region only.
    bins : int, optional
        Fixed number of levels between the smallest and the largest value (for arbitrary units, such as MR).
    width : float, optional
        Fixed width of a level in the image's unit (for calibrated units, such as HU); exactly one of the two is given.
    start : float, optional
        Where the first level of fixed width begins, the smallest value by default. Values below it get level 1.

    Returns
    -------
    array of uint16, of the shape of `values`

    Raises
    ------
    ValueError
        When neither or both of `bins` and `width` are given.

    References
    ----------
    IBSI reference manual (arXiv:1612.07003), section 2.7.
    """
    if (bins is None) == (width is None):
        raise ValueError("give either a number of bins or a width of a bin")
    if values.size == 0:
        return np.zeros(values.shape, dtype=np.uint16)
    floats = values.astype(np.float64)
    if width is not None:
        low = float(floats.min()) if start is None else start
        return np.clip(np.floor((floats - low) / width) + 1, 1, 65535).astype(np.uint16)
    assert bins is not None
    low, high = float(floats.min()), float(floats.max())
    if high <= low:
        return np.ones(values.shape, dtype=np.uint16)
    return np.clip(np.floor(bins * (floats - low) / (high - low)) + 1, 1, bins).astype(np.uint16)


def radiomics(
    image: np.ndarray,
    mask: np.ndarray,
    spacing: Sequence[float],
    bins: int | None = 32,
    width: float | None = None,
    families: Sequence[str] = FAMILIES,
) -> dict[str, float]:
    """Return the features of a region by ``<family>_<feature>``.

    Parameters
    ----------
    image : (x, y, z) array
        Values; those that are not finite are left out of the region for intensities and texture.
    mask : (x, y, z) bool array
        The region on the same grid.
    spacing : three floats
        Distance between voxel centres in mm; texture takes neighbours as they are, so resample to an isotropic grid first.
    bins, width
        Discretisation for histogram and texture, see `discretise`.
    families : sequence of str
        Some of `FAMILIES`.

    Returns
    -------
    dict of str to float
        Every feature of the families; NaN throughout for an empty region (never 0).

    Raises
    ------
    ValueError
        When image and mask have different shapes, or a family is unknown.
    """
    if image.shape != mask.shape:
        raise ValueError(f"the mask has shape {mask.shape}, its image {image.shape}")
    unknown = set(families) - set(FAMILIES)
    if unknown:
        raise ValueError(f"there is no family {sorted(unknown)[0]!r}; there are {', '.join(FAMILIES)}")
    box = _box(mask)
    image, mask = image[box], mask[box].astype(bool)
    seen = mask & np.isfinite(image)
    values = image[seen]
    found: dict[str, float] = {}
    if "firstorder" in families:
        found |= _named("firstorder", first_order.first_order(values))
    if "shape" in families:
        found |= _named("shape", shape.shape(mask, spacing))
    if not {"histogram", *TEXTURE_FAMILIES} & set(families):
        return found
    inside = discretise(values, bins, width)
    if "histogram" in families:
        found |= _named("histogram", first_order.histogram(inside))
    levels = np.zeros(mask.shape, dtype=np.uint16)
    levels[seen] = inside
    count = bins if bins is not None else max(1, int(levels.max(initial=1)))
    return found | textures(levels, mask, count, families)


def textures(levels: np.ndarray, mask: np.ndarray, count: int, families: Sequence[str], planar: bool = False) -> dict[str, float]:
    """Return the texture features of a region whose grey levels are known, by ``<family>_<feature>``.

    Parameters
    ----------
    levels : (x, y, z) uint16 array
        0 outside the region, 1 to `count` inside.
    mask : (x, y, z) bool array
        The region whose edge counts (`gldzm`).
    count : int
        Number of grey levels that the discretisation allows.
    families : sequence of str
        Some of `TEXTURE_FAMILIES`; others are not looked at.
    planar : bool
        A slice or picture, (x, y, 1): directions and distances within it only.
    """
    if not set(TEXTURE_FAMILIES) & set(families):
        return {}
    from cohortex.models.classify import neighbourhood, texture

    directions = texture.IN_PLANE if planar else texture.DIRECTIONS
    kinds = {
        "glcm": lambda: texture.glcm(levels, count, directions),
        "glrlm": lambda: texture.glrlm(levels, count, directions),
        "glszm": lambda: texture.glszm(levels),
        "gldzm": lambda: neighbourhood.gldzm(levels, mask, planar),
        "ngtdm": lambda: neighbourhood.ngtdm(levels),
        "ngldm": lambda: neighbourhood.ngldm(levels),
    }
    found: dict[str, float] = {}
    for family, features in kinds.items():
        if family in families:
            found |= _named(family, features())
    return found


def _named(family: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{family}_{name}": value for name, value in values.items()}


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the bounding box of a mask; one voxel where it is empty, so that every family sees an array."""
    found = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        found.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 1))
    return tuple(found)
