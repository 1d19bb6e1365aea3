"""Brings a volume to a coarse grid: separable, by averaging where voxels shrink and by interpolation where they grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from cohortex.blocks import ALIGN, Box, at_hand, map_columns, over_blocks
from cohortex.lazy import Elementwise, Within
from cohortex.survey import sample_of, spread
from cohortex.volume import ArrayLike

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


def bounding_box(labels: ArrayLike) -> Box | None:
    """Return the box around the brain of a label map, which may be lazy; None where there is none."""

    def one(box: Box, block: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        inside, ends = brain(block), []
        for axis, (start, _) in enumerate(box):
            hit = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
            if hit.size == 0:
                return None
            ends.append((start + int(hit[0]), start + int(hit[-1]) + 1))
        low, high = np.array(ends).T
        return low, high

    found = [each for each in over_blocks(one, labels) if each is not None]
    if not found:
        return None
    low, high = np.min([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)
    x, y, z = ((int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z


def network_input(
    image: ArrayLike,
    labels: ArrayLike | None,
    spacing: Sequence[float],
    size: Sequence[int],
    step_mm: float | None,
    values: str = "robust",
    with_labels: bool = True,
) -> np.ndarray:
    """Return what a network sees of a scan, which may be larger than memory.

    Parameters
    ----------
    image : (x, y, z) array-like
        In RAS order.
    labels : (x, y, z) integer array-like or None
        Label map of a head on the same grid.
    spacing : three floats
        mm.
    size : three ints
        Voxels of the result along x, y and z.
    step_mm : float or None
        Its isotropic spacing; None: the whole scan is scaled to the size, each axis by itself.
    values : {"robust", "whole", "unit", "cohort"}
        robust: centred on the median of the brain (of the foreground without labels) and divided by the distance of the 10th to the
        90th percentile, cut at +-4. whole: centred on the mean of the whole scan, divided by its standard deviation. unit: from 0 to
        1, which are the scan's percentiles 0.5 and 99.5. cohort: as they are, for a mean and a deviation that all scans share (see
        `cohortex.models.classify.inputs`).
    with_labels : bool
        Whether there are channels of labels.

    Returns
    -------
    (1 + 4, *size) or (1, *size) float32 array
        The image, 0 outside; then the share of CSF, grey matter, white matter and lesion in each voxel, the lesion's times
        `LESION_GAIN` (0 without labels). With a spacing the grid is centred on the brain. Median and percentiles of more than
        2^25 voxels are those of `cohortex.survey`'s cubes.
    """
    numbers = Elementwise(_finite, image)
    region: ArrayLike = numbers
    if values == "robust" or step_mm is not None:
        region = _region(numbers, labels)
    weights, box = [], []
    for matrix in _whole(numbers.shape, size) if step_mm is None else _centred(region, spacing, size, step_mm):
        # only what the box of the network covers is read
        hit = np.flatnonzero(matrix.any(axis=0))
        start, stop = (int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, 1)
        weights.append(np.ascontiguousarray(matrix[:, start:stop]))
        box.append((start, stop))
    covered: Box = (box[0], box[1], box[2])
    found = np.zeros((1 + (len(TISSUES) if with_labels else 0), *size), dtype=np.float32)
    found[0] = _weighed(Elementwise(_scaled(numbers, region, values), Within(image, covered)), weights)
    if labels is not None and with_labels:
        near, _ = at_hand(Within(labels, covered), labels.dtype)
        for channel, label in enumerate(TISSUES.values(), start=1):
            share = Elementwise(lambda block, label=label: (block == label).astype(np.float32), near)
            found[channel] = _weighed(share, weights) * (LESION_GAIN if label == LESION else 1.0)
    return found


def input_affine(image: ArrayLike, labels: ArrayLike | None, affine: np.ndarray, size: Sequence[int], step_mm: float | None) -> np.ndarray:
    """Return the affine of the grid of `network_input`, voxels to mm RAS, (4, 4), so that what is found there can be brought back.

    Parameters are those of `network_input`, with the affine of the image instead of its spacing.
    """
    to_image = np.eye(4)
    if step_mm is None:
        ratio = np.array(image.shape) / np.array(size)
        to_image[:3, :3], to_image[:3, 3] = np.diag(ratio), ratio / 2 - 0.5
        return affine @ to_image
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    centre = _centre(_region(Elementwise(_finite, image), labels))
    # the only slice of a picture stays as thick as it is
    spacing = np.where((np.array(image.shape) == 1) & (np.array(size) == 1), step_mm, spacing)
    to_image[:3, :3] = np.diag(step_mm / spacing)
    to_image[:3, 3] = centre - (np.array(size) - 1) / 2 * step_mm / spacing
    return affine @ to_image


def _region(values: Elementwise, labels: ArrayLike | None) -> ArrayLike:
    """Return the lazy mask of the brain; of the foreground where there are no labels, or no brain in them."""
    if labels is None or bounding_box(labels) is None:
        return _bright(values)  # pyright: ignore[reportArgumentType]
    return Elementwise(brain, labels, bool)


def _centre(region: ArrayLike) -> list[float]:
    """Return the centre of mass of a mask along every axis, in voxels; the middle of the grid where it is empty."""
    mass = [np.sum(parts, axis=0) for parts in zip(*over_blocks(_profiles(region.shape), region), strict=True)]
    return [float((along * np.arange(len(along))).sum() / along.sum()) if along.sum() else (len(along) - 1) / 2 for along in mass]


def _whole(shape: Sequence[int], size: Sequence[int]) -> list[np.ndarray]:
    """Return one matrix an axis that scales all of it to the size."""
    found = []
    for length, count in zip(shape, size, strict=True):
        ratio = length / count
        found.append(axis_weights(length, 1.0, (np.arange(count) + 0.5) * ratio - 0.5, ratio))
    return found


def _centred(region: ArrayLike, spacing: Sequence[float], size: Sequence[int], step_mm: float) -> list[np.ndarray]:
    """Return one matrix an axis to a grid of a spacing that is centred on a mask."""
    found = []
    for length, old, count, centre in zip(region.shape, spacing, size, _centre(region), strict=True):
        if length == count == 1:
            # the only slice of a picture, however thick the table says it is
            found.append(np.ones((1, 1), np.float32))
            continue
        found.append(axis_weights(length, old, (np.arange(count) - (count - 1) / 2) * step_mm + centre * old, step_mm))
    return found


def _scaled(numbers: ArrayLike, region: ArrayLike, values: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that brings a block of a scan to the range of values, see `network_input`."""
    if values == "cohort":
        return _finite
    if values == "whole":
        middle, scale = _mean_and_deviation(numbers)
        return lambda block: ((_finite(block) - middle) / scale).astype(np.float32)
    if values == "unit":
        low, high = np.percentile(_values_in(numbers, Elementwise(np.isfinite, numbers, bool)), (0.5, 99.5))
        span = np.float32(high - low) or np.float32(1)
        return lambda block: np.clip((_finite(block) - np.float32(low)) / span, 0.0, 1.0)
    middle, scale = robust_scale(_values_in(numbers, region))
    return lambda block: np.clip((_finite(block) - middle) / scale, -4.0, 4.0).astype(np.float32)


def _mean_and_deviation(values: ArrayLike) -> tuple[np.float32, np.float32]:
    """Return mean and standard deviation (1 where it is 0), added up in blocks that do not depend on the memory."""
    count, cut = prod(values.shape), (2 * ALIGN,) * 3
    mean = sum(over_blocks(lambda _, block: block.sum(dtype=np.float64), values, block=cut)) / count
    square = sum(over_blocks(lambda _, block: ((block - mean) ** 2).sum(dtype=np.float64), values, block=cut)) / count
    return np.float32(mean), np.float32(np.sqrt(square) or 1.0)


def _finite(block: np.ndarray) -> np.ndarray:
    return np.nan_to_num(block.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)


def _bright(values: ArrayLike) -> Elementwise:
    """Return the mask of the values above their mean, which is added up in blocks that do not depend on the memory."""
    sums = over_blocks(lambda _, block: block.sum(dtype=np.float64), values, block=(2 * ALIGN,) * 3)
    mean = np.float32(sum(sums) / prod(values.shape))
    return Elementwise(lambda block: block > mean, values, bool)


def _values_in(values: ArrayLike, region: ArrayLike) -> np.ndarray:
    """Return the values inside a mask; of a large volume those in its sample."""
    if spread(tuple(values.shape)) is not None:
        return sample_of(values)[sample_of(region)]
    return np.concatenate(over_blocks(lambda _, block, inside: block[inside], values, region))


def _profiles(shape: Sequence[int]) -> Callable[[Box, np.ndarray], list[np.ndarray]]:
    """Return the function that tells how many voxels of a block of a mask lie in each plane of the volume, by axis."""

    def one(box: Box, block: np.ndarray) -> list[np.ndarray]:
        counts = []
        for axis, (length, (start, stop)) in enumerate(zip(shape, box, strict=True)):
            along = np.zeros(length, np.int64)
            along[start:stop] = block.sum(axis=tuple(a for a in range(3) if a != axis))
            counts.append(along)
        return counts

    return one


def _weighed(array: ArrayLike, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return what `apply_weights` does, one axis after the other in columns that do not depend on the memory."""
    for axis, matrix in enumerate(weights):

        def column(block: np.ndarray, axis: int = axis, matrix: np.ndarray = matrix) -> tuple[np.ndarray, None]:
            return np.moveaxis(np.tensordot(matrix, block, axes=(1, axis)), 0, axis), None

        array, _ = map_columns(column, array, axis=axis, count=len(matrix))
    return np.asarray(array[...])
