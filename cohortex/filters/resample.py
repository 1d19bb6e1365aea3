"""Resampling in world space: images, labels and fields onto another grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from cohortex.filters.resample_kernels import labels_linear, nearest, trilinear
from cohortex.volume import Volume

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
        Cubic is the interpolating B-spline.
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
    source = volume.array()
    if volume.kind == "labels":
        return volume.with_data(_labels(source, matrix, sizes, chosen), target, step)
    source = source.astype(np.float32, copy=False)
    if not np.isfinite(source.sum(dtype=np.float64)) and not np.isfinite(source).all():
        raise ValueError("resampling would spread NaN and infinite values: replace them first")
    if volume.kind == "field":
        parts = [_image(np.ascontiguousarray(source[..., axis]), matrix, sizes, chosen, False, fill or 0.0) for axis in range(3)]
        return volume.with_data(np.stack(parts, axis=-1), target, step)
    outside = float(source.min()) if fill is None else float(fill)
    return volume.with_data(_image(source, matrix, sizes, chosen, antialias, outside), target, step)


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


def _labels(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], order: str) -> np.ndarray:
    """Sample a label map."""
    out = _by_copy(source, matrix, shape, 0)
    if out is not None:
        return out
    kernel = nearest if order == "nearest" else labels_linear
    out = np.zeros(shape, dtype=source.dtype)
    kernel(source, matrix, out, source.dtype.type(0))
    return out


def _image(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], order: str, antialias: bool, fill: float) -> np.ndarray:
    """Sample one float32 array."""
    out = _by_copy(source, matrix, shape, fill)
    if out is not None:
        return out
    if antialias and order != "nearest":
        source = _widened(source, matrix)
    if order == "cubic":
        return _cubic(source, matrix, shape, fill)
    out = np.empty(shape, dtype=np.float32)
    (nearest if order == "nearest" else trilinear)(source, matrix, out, np.float32(fill))
    return out


def _by_copy(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray | None:
    """Return the result where the grids differ by whole voxels only: cropped and padded, bit for bit."""
    offset = np.round(matrix[:3, 3])
    if not np.allclose(matrix[:3, :3], np.eye(3), rtol=0, atol=1e-9) or np.abs(matrix[:3, 3] - offset).max() > _SNAP:
        return None
    out = np.full(shape, fill, dtype=source.dtype)
    starts = offset.astype(int)
    into, outof = [], []
    for axis in range(3):
        low, high = max(0, -starts[axis]), min(shape[axis], source.shape[axis] - starts[axis])
        if high <= low:
            return out
        into.append(slice(low, high))
        outof.append(slice(low + starts[axis], high + starts[axis]))
    out[tuple(into)] = source[tuple(outof)]
    return out


def _widened(source: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Smooth the axes along which the new grid is coarser."""
    from scipy import ndimage

    ratio = np.linalg.norm(matrix[:3, :3], axis=1)
    sigma = np.sqrt(np.maximum(ratio**2 - 1, 0)) / (2 * np.sqrt(2 * np.log(2)))
    sigma = np.where((ratio < 1.01) | (np.array(source.shape) == 1), 0, sigma)
    if not sigma.any():
        return source
    return np.asarray(ndimage.gaussian_filter(source, tuple(sigma), mode="nearest", truncate=3.0))


def _cubic(source: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """Sample the interpolating cubic B-spline."""
    from scipy import ndimage

    linear: Any = matrix[:3, :3]
    offset: Any = matrix[:3, 3]
    diagonal = np.diag(np.diag(linear))
    aligned = np.allclose(linear, diagonal, rtol=0, atol=1e-9)
    # "nearest" continues the outermost value as far as the half voxel that still belongs to the image.
    out = ndimage.affine_transform(
        source, np.diag(linear) if aligned else linear, offset, cast(tuple[int, int, int], shape), order=3, mode="nearest"
    )
    inside = np.ones(shape, dtype=bool)
    indices = np.ogrid[tuple(slice(0, size) for size in shape)]
    for axis in range(3):
        position = offset[axis] + sum(linear[axis, other] * indices[other] for other in range(3))
        inside &= (position >= -0.5 - _SNAP) & (position <= source.shape[axis] - 0.5 + _SNAP)
    out[~inside] = fill
    return out.astype(np.float32, copy=False)
