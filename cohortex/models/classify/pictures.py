"""Features of a picture without labels: intensity and texture of all of its foreground."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortex.models.classify import first_order, neighbourhood, texture
from cohortex.models.classify.radiomics import discretise, textures
from cohortex.models.classify.regrid import axis_weights

PICTURE_NAMES: dict[str, tuple[str, ...]] = {
    "firstorder": first_order.NAMES,
    "histogram": first_order.HISTOGRAM_NAMES,
    "glcm": texture.GLCM_NAMES,
    "glrlm": texture.EMPHASIS_NAMES,
    "glszm": texture.EMPHASIS_NAMES,
    "gldzm": texture.EMPHASIS_NAMES,
    "ngtdm": neighbourhood.NGTDM_NAMES,
    "ngldm": neighbourhood.NGLDM_NAMES,
    "lbp": neighbourhood.LBP_NAMES,
}
"""The features of every family."""
DARK = 0.02
"""Share of a picture's range up to which a pixel is dark."""
OUTLIERS = (0.5, 99.5)
"""Percentiles of the foreground at which values are cut before they become grey levels: a bright marker must not squeeze the rest."""


def picture_names(families: Sequence[str] = tuple(PICTURE_NAMES)) -> tuple[str, ...]:
    """Return the names of `picture_features` in their order.

    Raises
    ------
    ValueError
        When a family is unknown.
    """
    unknown = [family for family in families if family not in PICTURE_NAMES]
    if unknown:
        raise ValueError(f"there is no family {unknown[0]!r}; there are {', '.join(PICTURE_NAMES)}")
    own = [f"{family}_{name}" for family in PICTURE_NAMES if family in families for name in PICTURE_NAMES[family]]
    return ("area_mm2", "foreground_share", *own)


def picture_foreground(image: np.ndarray) -> np.ndarray:
    """Return the mask of a picture without the dark surroundings that reach its border and without values that are not finite.

    Parameters
    ----------
    image : (x, y) array

    Returns
    -------
    (x, y) bool array
        Dark is what lies within 2 % of the range above the darkest value. Dark parts inside belong to the foreground, and so
        does everything where nothing else would be left.
    """
    import cc3d

    finite = np.isfinite(image)
    if not finite.any():
        return finite
    low, high = float(image[finite].min()), float(np.percentile(image[finite], 99.5))
    dark = finite & (image <= low + DARK * (high - low))
    if not dark.any() or dark[finite].all():
        return finite
    parts = np.asarray(cc3d.connected_components(np.ascontiguousarray(dark[:, :, None]), connectivity=6))[:, :, 0]
    border = np.zeros(int(parts.max()) + 1, dtype=bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        border[edge] = True
    border[0] = False
    found = finite & ~border[parts]
    return found if found.any() else finite


def picture_features(
    image: np.ndarray,
    spacing: Sequence[float],
    mask: np.ndarray | None = None,
    bins: int = 32,
    families: Sequence[str] = tuple(PICTURE_NAMES),
) -> dict[str, float]:
    """Return the features of a picture's foreground, or of a region of it.

    Parameters
    ----------
    image : (x, y) or (x, y, 1) array
        Grey values. Intensities keep their unit; texture knows neither gain nor offset.
    spacing : two or three floats
        Distance between pixel centres along x and y in mm. Pixels that are not square (by more than 1 %) are averaged to squares of
        their longer side first.
    mask : (x, y) or (x, y, 1) bool array, optional
        The region, `picture_foreground` by default.
    bins : int
        Grey levels.
    families : sequence of str
        Some of `PICTURE_NAMES`.

    Returns
    -------
    dict of str to float
        `picture_names`; all NaN but area and share (0) where nothing is in the region.

    Raises
    ------
    ValueError
        When the array is no picture, the mask has another shape, or a family is unknown.

    References
    ----------
    IBSI reference manual (arXiv:1612.07003), two-dimensional aggregation with merged directions; for `lbp` Ojala et al., IEEE
    TPAMI 2002.
    """
    names = picture_names(families)
    values = _plane(image).astype(np.float64)
    region = picture_foreground(values) if mask is None else _plane(mask).astype(bool)
    if region.shape != values.shape:
        raise ValueError(f"the mask has shape {region.shape}, its picture {values.shape}")
    values, region, side = _squares(values, region & np.isfinite(values), spacing)
    found = {"area_mm2": float(region.sum()) * side * side, "foreground_share": float(region.mean())}
    if not region.any():
        return {name: found.get(name, float("nan")) for name in names}
    box = tuple(slice(int(hit[0]), int(hit[-1]) + 1) for hit in (np.flatnonzero(region.any(axis=other)) for other in (1, 0)))
    values, region = values[box], region[box]
    inside = values[region]
    found |= {f"firstorder_{name}": value for name, value in first_order.first_order(inside).items()} if "firstorder" in families else {}
    levels = np.zeros((*region.shape, 1), dtype=np.uint16)
    levels[region, 0] = discretise(np.clip(inside, *np.percentile(inside, OUTLIERS)), bins)
    if "histogram" in families:
        found |= {f"histogram_{name}": value for name, value in first_order.histogram(levels[region, 0]).items()}
    found |= textures(levels, region[:, :, None], bins, families, planar=True)
    if "lbp" in families:
        found |= {f"lbp_{name}": value for name, value in neighbourhood.lbp(values, region).items()}
    return {name: found[name] for name in names}


def _plane(array: np.ndarray) -> np.ndarray:
    """Return a picture as an (x, y) array."""
    plane = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if plane.ndim != 2 or 0 in plane.shape:
        raise ValueError(f"a picture has the shape (x, y) or (x, y, 1), here it is {array.shape}")
    return plane


def _squares(values: np.ndarray, region: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray, float]:
    """Return picture and region on square pixels, and the length of their side in mm."""
    steps = [float(step) for step in spacing[:2]]
    side = max(steps)
    if side / min(steps) < 1.01:
        return values, region, float(np.sqrt(steps[0] * steps[1]))
    weights, nearest = [], []
    for length, step in zip(values.shape, steps, strict=True):
        count = max(1, round(length * step / side))
        centres = (np.arange(count) - (count - 1) / 2) * side + (length - 1) / 2 * step
        weights.append(axis_weights(length, step, centres, side).astype(np.float64))
        nearest.append(np.clip(np.round(centres / step), 0, length - 1).astype(np.int64))
    # the mean over the pixels of the region only: what lies outside must not colour its edge
    total = weights[0] @ np.where(region, values, 0.0) @ weights[1].T
    share = weights[0] @ region.astype(np.float64) @ weights[1].T
    coarse = region[np.ix_(*nearest)] & (share > 1e-6)
    return np.divide(total, share, out=np.zeros_like(total), where=coarse), coarse, side
