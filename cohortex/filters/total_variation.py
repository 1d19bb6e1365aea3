"""Total variation denoising (Rudin, Osher and Fatemi), solved on its dual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cohortex.filters.arrays import aligned, checked, relative_spacing
from cohortex.filters.noise import estimated
from cohortex.filters.steps import Resolved, Step, Triple, row_order, turned, turned_back, whole
from cohortex.filters.variation_kernels import descend, gap_of, image_of, room

Solver = Literal["accelerated", "chambolle"]

_DEPTH = 5
"""Iterations that run through the image at once, and between two looks at the duality gap."""

_SAMPLE = 96**3
"""Voxels up to which the gap is that of the image; of larger ones it is that of `_BOXES` boxes with as many voxels in all."""

_BOXES = 3
"""Along each axis."""


def total_variation(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    weight: float | None = None,
    tolerance: float | None = 1e-3,
    iterations: int = 100,
    solver: Solver = "accelerated",
) -> np.ndarray:
    """Return the minimiser u of 1/2 |u - array|^2 + weight * TV(u).

    TV is the sum of the lengths of the forward gradient, in which lengths are counted in the smallest spacing.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
    weight : float, optional
        In units of the image. By default the standard deviation of the noise times 0.6 for volumes, 1 for pictures.
    tolerance : float, optional
        Stop when the duality gap is at most this share of the objective: the objective is then no farther from its minimum. It is
        looked at every 5 iterations; in images of more than 96^3 voxels it is that of 27 boxes spread over the image. None: never stop.
    iterations : int
        Stop after these in any case.
    solver : {"accelerated", "chambolle"}
        Projected steps with momentum, or those of scikit-image's `denoise_tv_chambolle`, which need several times as many.

    Returns
    -------
    (x, y, z) float32 array
        After n iterations of "chambolle" on cubic voxels what scikit-image gives for max_num_iter = n + 1 (it returns the image before
        its last step), to 1e-6 of the range.

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: the gradient through the border of the image is zero.

    References
    ----------
    Chambolle, J. Mathematical Imaging and Vision 20 (2004) 89-97 (dual projection); Beck and Teboulle, IEEE Trans. Image
    Processing 18 (2009) 2419-2434 (its acceleration).
    """
    values = checked(array, spacing_mm)
    return whole(STEP, values, _resolve(values, spacing_mm, weight, tolerance, iterations, solver))


def solve(
    values: np.ndarray, inverse: np.ndarray, weight: float, tolerance: float | None, iterations: int, accelerated: bool
) -> tuple[np.ndarray, list[float]]:
    """Return the image and the gaps over the objective, where they were looked at.

    Parameters
    ----------
    values : (x, y, z) float32 array
        Finite.
    inverse : three float32
        One over the spacings, 0 for an axis of one voxel.
    weight, tolerance, iterations
        See `total_variation`.
    accelerated : bool
    """
    dual = aligned((3, *values.shape))
    ahead = aligned(dual.shape) if accelerated else dual
    planes, rows = room(values.shape, _DEPTH)
    squares = float(np.sum(inverse.astype(np.float64) ** 2))
    step = np.float32(1 / ((4 if accelerated else 2) * squares))
    momenta = _momenta(iterations) if accelerated else np.zeros(iterations, dtype=np.float32)
    image, gaps = np.empty_like(values), []
    for start in range(0, iterations, _DEPTH):
        some = momenta[start : start + _DEPTH]
        descend(values, dual, ahead, planes, rows, inverse, step, np.float32(weight), some, True if accelerated else None)
        if tolerance is not None:
            image_of(values, dual, inverse, image)
            gap, objective = gap_of(values, image, dual, inverse, weight)
            gaps.append(gap / max(objective, 1e-30))
            if gaps[-1] <= tolerance:
                return image, gaps
    image_of(values, dual, inverse, image)
    return image, gaps


def _momenta(iterations: int) -> np.ndarray:
    """Return the momentum after each iteration."""
    found, value = [], 1.0
    for _ in range(iterations):
        following = (1 + np.sqrt(1 + 4 * value**2)) / 2
        found.append((value - 1) / following)
        value = following
    return np.array(found, dtype=np.float32)


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    weight: float | None = None,
    tolerance: float | None = 1e-3,
    iterations: int = 100,
    solver: Solver = "accelerated",
) -> dict[str, Any]:
    """Return the weight and the number of iterations: those after which the boxes of the sample have come to the tolerance."""
    if weight is None:
        weight = estimated(array) * (0.6 if sum(size > 1 for size in array.shape) == 3 else 1.0)
    if not (np.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight of the total variation is a number not below 0, this one is {weight}")
    if not (tolerance is None or tolerance > 0) or iterations < 1:
        raise ValueError(f"tolerance is above 0 and iterations at least 1, they are {tolerance} and {iterations}")
    if solver not in ("accelerated", "chambolle"):
        raise ValueError(f"the solver is accelerated or chambolle, not {solver!r}")
    inverse = np.where(np.asarray(array.shape) > 1, 1 / relative_spacing(array.shape, spacing_mm), 0.0).astype(np.float32)
    accelerated = solver == "accelerated"
    count = int(iterations)
    if weight == 0 or not inverse.any():
        count = 0
    elif tolerance is not None:
        boxes = sample_boxes(array.shape)
        looks = [_looks(array, box, inverse, float(weight), tolerance, count, accelerated) for box in boxes]
        count = min(count, _DEPTH * max(looks))
    return {"weight": float(weight), "iterations": count, "accelerated": accelerated, "inverse": inverse, "order": row_order(array.shape)}


def _looks(array: Any, box: Any, inverse: np.ndarray, weight: float, tolerance: float, iterations: int, accelerated: bool) -> int:
    """Return at which look the gap of a box was small enough."""
    part = np.ascontiguousarray(array[box], dtype=np.float32)
    return len(solve(part, inverse, weight, tolerance, iterations, accelerated)[1])


def sample_boxes(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the boxes whose gaps stand for that of an image: the image, or boxes in the middle of equal parts of it."""
    if int(np.prod(shape)) <= _SAMPLE:
        return [tuple(slice(0, size) for size in shape)]
    edge = round((_SAMPLE / _BOXES**3) ** (1 / 3))
    pieces = []
    for size in shape:
        count = _BOXES if size >= _BOXES * edge else 1
        starts = [max(0, (2 * i + 1) * size // (2 * count) - edge // 2) for i in range(count)]
        pieces.append([slice(start, min(size, start + edge)) for start in starts])
    return [(x, y, z) for x in pieces[0] for y in pieces[1] for z in pieces[2]]


def _halo(resolved: Resolved) -> Triple:
    """Return one voxel an iteration and one for the image that is made of the dual field, along the axes with more than one voxel."""
    x, y, z = (resolved["iterations"] + 1 if step > 0 and resolved["iterations"] else 0 for step in resolved["inverse"])
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    if resolved["iterations"] == 0:
        return values.copy()
    order = list(resolved["order"])
    inverse = np.ascontiguousarray(resolved["inverse"][order])
    image, _ = solve(turned(values, order), inverse, resolved["weight"], None, resolved["iterations"], resolved["accelerated"])
    return turned_back(image, order)


STEP = Step(_resolve, _halo, _block)
