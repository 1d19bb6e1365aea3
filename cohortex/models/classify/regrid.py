"""Brings a volume to a coarse grid: separable, by averaging where voxels shrink and by interpolation where they grow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LESION = 6
TISSUES = {"csf": 1, "gm": 2, "wm": 3, "lesion": LESION}
"""Labels of a head that the classifiers look at."""
LESION_GAIN = 8.0
"""A lesion fills a few voxels only: without a louder channel a short training ends before the network has noticed it."""


def axis_weights(length: int, step: float, centres: np.ndarray, new_step: float) -> np.ndarray:
    """Return the matrix that brings one axis to new voxel centres.

    Parameters
    ----------
    length : int
        Voxels along the axis, with centres at 0, step, 2 step, ... mm.
    step, new_step : float
        Distance between voxel centres before and after, mm.
    centres : (n,) array
        New voxel centres in mm.

    Returns
    -------
    (n, length) float32 array
        Rows sum to 1 (to less where a new voxel reaches over the border, to 0 outside). Where voxels get larger a
        row is the share of each old voxel in the new one, otherwise it interpolates linearly.
    """
    old = np.arange(length) * step
    if new_step > step:
        low = np.maximum(centres[:, None] - new_step / 2, old[None, :] - step / 2)
        high = np.minimum(centres[:, None] + new_step / 2, old[None, :] + step / 2)
        return (np.clip(high - low, 0.0, None) / new_step).astype(np.float32)
    inside = (centres >= -step / 2 - 1e-6) & (centres <= (length - 0.5) * step + 1e-6)
    distance = np.abs(np.clip(centres, 0.0, old[-1])[:, None] - old[None, :]) / step
    return (np.clip(1.0 - distance, 0.0, None) * inside[:, None]).astype(np.float32)


def apply_weights(array: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return an (x, y, z) array brought to a new grid, float32, by one matrix an axis."""
    found = array.astype(np.float32, copy=False)
    for axis, matrix in enumerate(weights):
        found = np.moveaxis(np.tensordot(matrix, found, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(found)


def isotropic(image: np.ndarray, labels: np.ndarray, spacing: Sequence[float], step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (averaged or interpolated) and its labels (nearest) on an isotropic grid of `step` mm.

    Nothing is done to axes of a grid that has this spacing already (within one percent).
    """
    if all(abs(s / step - 1.0) < 0.01 for s in spacing):
        return image.astype(np.float32, copy=False), labels
    weights, nearest = [], []
    for length, old in zip(image.shape, spacing, strict=True):
        count = max(1, round(length * old / step))
        centres = (np.arange(count) - (count - 1) / 2) * step + (length - 1) / 2 * old
        weights.append(axis_weights(length, old, centres, step))
        nearest.append(np.clip(np.round(centres / old), 0, length - 1).astype(np.int64))
    return apply_weights(image, weights), labels[np.ix_(*nearest)]


def brain(labels: np.ndarray) -> np.ndarray:
    """Return the mask of CSF, grey matter, white matter and lesion."""
    return np.isin(labels, tuple(TISSUES.values()))


def robust_scale(values: np.ndarray) -> tuple[float, float]:
    """Return the median and the distance from the 10th to the 90th percentile of values (never 0)."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, middle, high = np.percentile(finite, (10, 50, 90))
    return float(middle), float(high - low) if high > low else 1.0


def network_input(
    image: np.ndarray, labels: np.ndarray | None, spacing: Sequence[float], size: Sequence[int], step_mm: float
) -> np.ndarray:
    """Return what the 3-D network sees of a scan.

    Parameters
    ----------
    image : (x, y, z) array
        In RAS order.
    labels : (x, y, z) integer array or None
        Label map of a head on the same grid.
    spacing : three floats
        mm.
    size : three ints
        Voxels of the result along x, y and z.
    step_mm : float
        Its isotropic spacing.

    Returns
    -------
    (1 + 4, *size) float32 array
        The image, its values centred on the median of the brain (of the foreground without labels) and divided by the
        distance of the 10th to the 90th percentile, cut at +-4, 0 outside the image; then the share of CSF, grey
        matter, white matter and lesion in each voxel, the lesion's times `LESION_GAIN` (0 without labels). The grid is
        centred on the brain.
    """
    values = np.nan_to_num(image.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
    region = brain(labels) if labels is not None else np.zeros(values.shape, bool)
    if not region.any():
        region = values > values.mean()
    middle, scale = robust_scale(values[region])
    weights = []
    for axis, (length, old, count) in enumerate(zip(values.shape, spacing, size, strict=True)):
        mass = region.sum(axis=tuple(a for a in range(3) if a != axis))
        centre = float((mass * np.arange(length)).sum() / mass.sum()) if mass.sum() else (length - 1) / 2
        centres = (np.arange(count) - (count - 1) / 2) * step_mm + centre * old
        weights.append(axis_weights(length, old, centres, step_mm))
    found = np.zeros((1 + len(TISSUES), *size), dtype=np.float32)
    found[0] = apply_weights(np.clip((values - middle) / scale, -4.0, 4.0), weights)
    if labels is not None:
        for channel, label in enumerate(TISSUES.values(), start=1):
            found[channel] = apply_weights(labels == label, weights) * (LESION_GAIN if label == LESION else 1.0)
    return found
