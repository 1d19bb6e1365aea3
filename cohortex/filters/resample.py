"""Resampling in world space: images, labels and fields onto another grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal

import numpy as np

from cohortex.blocks import (
    ALIGN,
    COPIES,
    Box,
    Elementwise,
    align_of,
    at_hand,
    block_for,
    boxes,
    map_blocks,
    map_columns,
    new_array,
    plan,
    run_all,
)
from cohortex.filters.blockwise import run_filter
from cohortex.filters.resample_kernels import labels_linear, nearest, trilinear
from cohortex.filters.spline_kernels import MARGIN, cubic, prefilter
from cohortex.io.scratch import Scratch
from cohortex.volume import ArrayLike, Volume

Order = Literal["nearest", "linear", "cubic"]

_SNAP = 1e-6
"""Coordinates this close to a voxel centre, in voxels, are taken as that centre: rounding never blurs."""


def resample(
    volume: Volume,
    spacing_mm: Sequence[float] | None = None,
    *,
    affine: np.ndarray | None = None,
    shape: Sequence[int] | None = None,
    order: Order | None = None,
    antialias: bool = True,
    fill: float | None = None,
) -> Volume:
    """Return a volume on another grid of the same world.

    Parameters
    ----------
    volume : Volume
        Image, labels or field (the displacements are mm in the world and keep their values).
    spacing_mm : three floats, optional
        New spacing of the same field of view: the centre of the grid keeps its place, the number of voxels is rounded. An axis
        with a single voxel (a picture) keeps it.
    affine, shape : (4, 4) array and three ints, optional
        The new grid itself; give either both or `spacing_mm`.
    order : {"nearest", "linear", "cubic"}, optional
        By default linear, for labels nearest. Linear on labels gives the label with the largest linear weight.
        Cubic is the interpolating B-spline of the image continued by its outermost values: that of `scipy.ndimage.affine_transform`
        (mode nearest) to 1e-5 of the image's range; sums are float32.
    antialias : bool
        Smooth an image before it is sampled more coarsely, with the Gaussian that widens the old voxel to the new one
        (full widths at half maximum add in squares). Labels and fields are never smoothed.
    fill : float, optional
        Value outside the old field of view, by default the image's minimum, 0 for labels and fields.

    Returns
    -------
    Volume
        float32 for images and fields, the old type for labels. A point of the new grid is inside when it lies in an old voxel
        (up to half a voxel beyond the outermost centres, where the outermost value is taken).

    Raises
    ------
    ValueError
        NaN in an image, or a grid that is not one.

    References
    ----------
    Cardoso et al., Scale factor point spread function matching, MICCAI 2015 (the Gaussian before down-sampling).
    Unser, Splines: a perfect fit for signal and image processing, IEEE Signal Processing Magazine 16(6) (1999) 22-38.
    """
    if spacing_mm is not None:
        if affine is not None or shape is not None:
            raise ValueError("a grid is given either by a spacing or by affine and shape, not by both")
        affine, shape = grid_of_spacing(volume, spacing_mm)
    if affine is None or shape is None:
        raise ValueError("resample needs either a spacing or both affine and shape")
    target = np.asarray(affine, dtype=np.float64)
    sizes = tuple(int(size) for size in shape)
    if target.shape != (4, 4) or abs(np.linalg.det(target[:3, :3])) < 1e-12:
        raise ValueError("the affine of the new grid is not an invertible 4 x 4 matrix")
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"the new grid needs three axes of at least one voxel, its shape is {sizes}")
    chosen = order or ("nearest" if volume.kind == "labels" else "linear")
    if chosen not in ("nearest", "linear", "cubic") or (chosen == "cubic" and volume.kind == "labels"):
        raise ValueError(f"{volume.kind} cannot be resampled by order {chosen!r}; known are nearest, linear and, not for labels, cubic")
    step = {"step": "resample", "order": chosen, "spacing_mm": [round(float(s), 6) for s in np.linalg.norm(target[:3, :3], axis=0)]}

    matrix = np.linalg.inv(volume.affine) @ target
    matrix[:3] = np.where(np.abs(matrix[:3] - np.round(matrix[:3])) < _SNAP * 1e-3, np.round(matrix[:3]), matrix[:3])
    if volume.kind == "labels":
        source, _ = at_hand(volume.data, volume.data.dtype)
        kernel = nearest if chosen == "nearest" else labels_linear
        return volume.with_data(_sampled(kernel, source, matrix, sizes, source.dtype.type(0), source.dtype), target, step)
    if volume.kind == "field":
        parts = []
        for axis in range(3):
            component, found = at_hand(_Component(volume.data, axis), look=lambda _, block: bool(np.isfinite(block).all()))
            _refuse_not_finite(all(found))
            parts.append(_image(component, matrix, sizes, chosen, False, fill or 0.0))
        stacked = map_blocks(lambda *blocks: np.stack(blocks, axis=-1), *parts, out=new_array((*sizes, 3)))
        return volume.with_data(stacked, target, step)
    source, found = at_hand(volume.data, look=lambda _, block: (float(block.min()), bool(np.isfinite(block).all())))
    _refuse_not_finite(all(finite for _, finite in found))
    outside = min(low for low, _ in found) if fill is None else float(fill)
    return volume.with_data(_image(source, matrix, sizes, chosen, antialias, outside), target, step)


class _Component(Elementwise):
    """One component of a field."""

    def __init__(self, field: ArrayLike, axis: int):
        super().__init__(lambda block: block[..., axis], field)
        self.shape = tuple(int(n) for n in field.shape[:3])


def _refuse_not_finite(finite: bool | np.bool_) -> None:
    if not finite:
        raise ValueError("resampling would spread NaN and infinite values: replace them first")


def resample_to(
    volume: Volume,
    grid_volume: Volume,
    order: Order | None = None,
    antialias: bool = True,
    fill: float | None = None,
) -> Volume:
    """Return `volume` on the grid of `grid_volume`; see `resample`."""
    return resample(volume, affine=grid_volume.affine, shape=grid_volume.shape, order=order, antialias=antialias, fill=fill)


def grid_of_spacing(volume: Volume, spacing_mm: Sequence[float]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return affine and shape of the grid with another spacing on the same field of view."""
    wanted = np.asarray(spacing_mm, dtype=np.float64)
    if wanted.shape != (3,) or not (np.isfinite(wanted).all() and (wanted > 0).all()):
        raise ValueError(f"a spacing is three numbers of mm above zero, this one is {tuple(spacing_mm)}")
    old_shape, old = np.array(volume.shape), np.array(volume.spacing)
    wanted = np.where((old_shape == 1) | (np.abs(wanted - old) < 1e-6 * old), old, wanted)
    shape = np.maximum(1, np.round(old_shape * old / wanted)).astype(int)
    affine = volume.affine.copy()
    affine[:3, :3] *= wanted / old
    # The corner of the first voxel would keep its place only if the new voxels filled the old field exactly; the centre always can.
    affine[:3, 3] = (volume.affine @ np.append((old_shape - 1) / 2, 1))[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    if (wanted == old).all():
        affine = volume.affine.copy()
    return affine, (int(shape[0]), int(shape[1]), int(shape[2]))


def _image(source: ArrayLike, matrix: np.ndarray, shape: tuple[int, ...], order: str, antialias: bool, fill: float) -> Any:
    """Sample one float32 array."""
    if antialias and order != "nearest" and not _whole_voxels(matrix):
        source = _widened(source, matrix)
    if order == "cubic" and not _whole_voxels(matrix):
        margins = [MARGIN if size > 1 else 0 for size in source.shape]
        return _sampled(cubic, _coefficients(source), matrix, shape, np.float32(fill), np.dtype(np.float32), margins)
    return _sampled(nearest if order == "nearest" else trilinear, source, matrix, shape, np.float32(fill), np.dtype(np.float32))


def _sampled(
    kernel: Callable[..., None],
    source: ArrayLike,
    matrix: np.ndarray,
    shape: tuple[int, ...],
    fill: Any,
    dtype: np.dtype,
    margins: Sequence[int] = (0, 0, 0),
) -> Any:
    """Fill the new grid block by block, each from the part of the source that it lies in; the source has `margins` before its voxel 0."""
    out = new_array(shape, dtype)
    copies = _whole_voxels(matrix)
    budget = plan().memory_mb * 2**20 // (dtype.itemsize * COPIES * plan().threads)
    align = 1 if isinstance(out, np.ndarray | Scratch) else align_of(out)
    block = np.array(block_for(shape))
    while np.prod(np.minimum(np.abs(matrix[:3, :3]) @ block + 6, source.shape)) > max(budget, ALIGN**3) and block.max() > max(align, 8):
        # a coarser grid takes much of the source for a small block
        block[block.argmax()] = max(align, -(-int(block.max()) // (2 * align)) * align)

    def one(box: Box) -> None:
        made = np.empty([b - a for a, b in box], dtype)
        first, ends = np.array([a for a, _ in box]), np.array([b - 1 for _, b in box])
        corners = np.array(list(product(*zip(first, ends, strict=True)))) @ matrix[:3, :3].T + matrix[:3, 3] + margins
        # as far as a spline looks, and one more for rounding
        low = np.clip(np.floor(corners.min(0)).astype(np.int64) - 2, 0, np.array(source.shape))
        high = np.clip(np.ceil(corners.max(0)).astype(np.int64) + 4, 0, np.array(source.shape))
        if (low >= high).any():
            made[...] = fill
        elif copies:
            _copied(source, np.round(matrix[:3, 3]).astype(int), box, made, fill)
        else:
            part = np.ascontiguousarray(source[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))])
            kernel(part, matrix, made, fill, *(tuple(int(n) for n in triple) for triple in (first, low, source.shape)))
        out[tuple(slice(a, b) for a, b in box)] = made

    run_all(one, list(boxes(shape, [int(n) for n in block], align)), not isinstance(out, np.ndarray))
    return out


def _whole_voxels(matrix: np.ndarray) -> bool:
    """Tell whether the grids differ by whole voxels only."""
    offset = matrix[:3, 3] - np.round(matrix[:3, 3])
    return np.allclose(matrix[:3, :3], np.eye(3), rtol=0, atol=1e-9) and bool(np.abs(offset).max() <= _SNAP)


def _copied(source: ArrayLike, offset: np.ndarray, box: Box, made: np.ndarray, fill: Any) -> None:
    """Fill a block where the grids differ by whole voxels only: cropped and padded, bit for bit."""
    made[...] = fill
    into, outof = [], []
    for (a, b), shift, size in zip(box, offset, source.shape, strict=True):
        low, high = max(a, -int(shift)), min(b, size - int(shift))
        if high <= low:
            return
        into.append(slice(low - a, high - a))
        outof.append(slice(low + int(shift), high + int(shift)))
    made[tuple(into)] = source[tuple(outof)]


def _widened(source: ArrayLike, matrix: np.ndarray) -> ArrayLike:
    """Smooth the axes along which the new grid is coarser."""
    ratio = np.linalg.norm(matrix[:3, :3], axis=1)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) / (2 * np.sqrt(2 * np.log(2)))
    sigma = np.where((ratio < 1.01) | (np.array(source.shape) == 1), 0, sigma)
    if not sigma.any():
        return source
    return run_filter("gaussian", source, (1.0, 1.0, 1.0), {"sigma_mm": sigma.tolist()})


def _coefficients(source: ArrayLike) -> ArrayLike:
    """Return the coefficients of the interpolating spline with their margins: every line filtered whole, one axis after the other."""
    for axis in range(3):
        size = source.shape[axis]
        if size > 1:
            source, _ = map_columns(partial(_filtered, axis=axis), source, axis=axis, count=size + 2 * MARGIN)
    return source


def _filtered(block: np.ndarray, axis: int) -> tuple[np.ndarray, None]:
    """Return a column with the coefficients along an axis."""
    out = np.empty([size + 2 * MARGIN * (other == axis) for other, size in enumerate(block.shape)], np.float32)
    prefilter(np.moveaxis(block, axis, 0), np.moveaxis(out, axis, 0))
    return out, None
