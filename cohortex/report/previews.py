"""Small 8-bit pictures of volumes, made by the runner while a volume is at hand and shown by the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cohortex.lazy import Elementwise
from cohortex.report.records import STACK, STACK_WINDOW
from cohortex.volume import Volume

VIEWS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Name of a view and the axis of the grid that it looks along."""

CT_WINDOWS = {"head": (40.0, 100.0)}
CT_WINDOW = (40.0, 400.0)
"""Centre and width in HU; the soft tissue window serves chest, abdomen and whatever is not known."""

MR_WHITE = 2.2
"""White in an MR image is at most so many times the median of the body: fat of the scalp would leave the brain dark."""

OVERLAY = (255, 120, 0)
"""Colour of what is laid over a picture."""

_BLOCK = 16
"""Edge in voxels of the blocks that the grey window is looked for in, beside the three slices."""


def orthogonal_views(volume: Volume, size: int = 160, at: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """Return pictures of the three slices through the middle of a volume's grid, or through another voxel.

    Pixels are isotropic and equally large in all views. The convention is the radiological one: the patient's right
    is on the left, front up (axial), head up (coronal, sagittal), the face to the left (sagittal). A view is left
    out where the grid has a single voxel along one of its axes, so that a picture (x, y, 1) has only ``axial``.

    Parameters
    ----------
    volume : Volume
        Axes in the closest canonical order (RAS). A lazy volume is never read whole: only the three slices and a few
        small blocks. Of a displacement field the length of the displacements is shown.
    size : int
        Pixels on the longest side at most.
    at : three ints, optional
        The voxel that the slices meet in.

    Returns
    -------
    dict of str to (rows, columns) uint8 array
        ``sagittal``, ``coronal``, ``axial``. Grey values are windowed (`grey_window`); of labels the values are kept
        (values above 255 become ``1 + (value - 1) % 255``, so that a label never turns into background).
    """
    shape = volume.shape
    axes = {name: axis for name, axis in VIEWS.items() if all(shape[other] > 1 for other in range(3) if other != axis)}
    slices = {name: _slice(volume, axis, at) for name, axis in (axes or {"axial": 2}).items()}
    if volume.kind == "labels":
        grey = {name: label_bytes(pixels) for name, pixels in slices.items()}
    else:
        low, high = grey_window(np.concatenate([_sample(volume), *(pixels.ravel() for pixels in slices.values())]), volume)
        grey = {name: np.nan_to_num((pixels - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0) for name, pixels in slices.items()}
    longest = max(count * step for count, step in zip(shape, volume.spacing, strict=True))
    pixel_mm = max(min(volume.spacing), longest / size)
    return {name: _picture(pixels, VIEWS[name], volume, pixel_mm, size) for name, pixels in grey.items()}


def slices_of(volume: Volume, count: int, size: int = 112) -> dict[str, np.ndarray]:
    """Return small axial slices through a volume that is in memory, for the scroll of the subject's page.

    They are evenly spaced over the grid, so that those of two volumes of one grid, or of one field of view, lie at the same places. The
    convention is that of `orthogonal_views`.

    Parameters
    ----------
    volume : Volume
        As for `orthogonal_views`.
    count : int
        Slices at most; 0 makes none.
    size : int
        Pixels on the longer side at most.

    Returns
    -------
    dict of str to array
        ``stack``, (slices, rows, columns) uint8, feet first, and, but of labels, ``stack_window``, the two values (float32) that are black
        and white. Empty where the volume is lazy (it would be read whole) or has a single voxel along an axis.
    """
    if count < 1 or min(volume.shape) < 2 or not _in_memory(volume.data):
        return {}
    depth = volume.shape[2]
    places = ((np.arange(min(count, depth)) + 0.5) * depth / min(count, depth)).astype(int)
    slices = [_magnitude(np.asarray(volume.data[:, :, place]), volume) for place in places]
    pixel_mm = max(min(volume.spacing[:2]), max(n * step for n, step in zip(volume.shape[:2], volume.spacing[:2], strict=True)) / size)
    if volume.kind == "labels":
        return {STACK: np.stack([_picture(label_bytes(pixels), 2, volume, pixel_mm, size) for pixels in slices])}
    low, high = grey_window(np.concatenate([_sample(volume), *(pixels.ravel() for pixels in slices)]), volume)
    grey = [np.nan_to_num((pixels - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0) for pixels in slices]
    return {
        STACK: np.stack([_picture(pixels, 2, volume, pixel_mm, size) for pixels in grey]),
        STACK_WINDOW: np.array([low, high], np.float32),
    }


def grey_window(sample: np.ndarray, volume: Volume) -> tuple[float, float]:
    """Return the values that are shown black and white.

    CT has the fixed window of its body part (HU). Of an X-ray these are the percentiles .5 and 99.5; of everything
    else the percentile .5 and the percentile 99.5 of the foreground, which Otsu's threshold parts from the background
    (so that a skull-stripped or small object is not shown too dark). White of weighted MR images is at most `MR_WHITE` times the median
    of the body, as bright fat would leave all else dark. Where values go only a little below zero, black is zero.

    Parameters
    ----------
    sample : array
        Values of the volume, in any shape; those that are not finite are left out.
    volume : Volume
        Only its modality, kind and body part are looked at.
    """
    if volume.modality == "CT" and volume.kind == "image":
        centre, width = CT_WINDOWS.get(volume.body_part, CT_WINDOW)
        return centre - width / 2, centre + width / 2
    values = sample[np.isfinite(sample)].astype(np.float64)
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, (0.5, 99.5))
    if volume.modality != "XR":
        tails = np.clip(values, *np.percentile(values, (0.1, 99.9)))
        foreground = values[tails > _otsu(tails)]
        high = np.percentile(foreground, 99.5) if foreground.size else high
        if -0.1 * high < low < 0:
            low = 0.0
        if volume.kind == "image" and weighted(volume.modality):
            # Of square roots: else the threshold may part fat from all else instead of the body from the air.
            roots = np.sqrt(np.maximum(tails - low, 0))
            body = values[roots > _otsu(roots)]
            high = min(high, low + MR_WHITE * (np.median(body) - low)) if body.size else high
    if volume.kind == "field":
        low = 0.0
    return float(low), float(high if high > low else low + 1)


def weighted(modality: str) -> bool:
    """Say whether a modality is an MR image of no unit (T1w, FLAIR, ...)."""
    return modality.endswith("w") or modality in ("FLAIR", "MR", "inplaneT1", "inplaneT2", "T2star")


def checkerboard(a: np.ndarray, b: np.ndarray, tiles: int = 8) -> np.ndarray:
    """Return one picture whose tiles are alternately from `a` and `b`.

    Parameters
    ----------
    a, b : (rows, columns) or (rows, columns, 3) array
        Pictures of one shape.
    tiles : int
        Number of tiles along the longer side; tiles are square.
    """
    if a.shape != b.shape:
        raise ValueError(f"a checkerboard needs two pictures of one shape, these are {a.shape} and {b.shape}")
    edge = max(1, -(-max(a.shape[:2]) // tiles))
    rows, columns = (np.arange(count) // edge for count in a.shape[:2])
    first = (rows[:, None] + columns[None, :]) % 2 == 0
    return np.where(first[..., None] if a.ndim == 3 else first, a, b)


def overlaid(views: Mapping[str, np.ndarray], share: Volume, at: Sequence[int] | None = None, most: float = 1.0) -> dict[str, np.ndarray]:
    """Return views of an image with a share from 0 to 1 over them, as orange that hides the more the higher it is.

    Parameters
    ----------
    views : mapping of str to (rows, columns) uint8 array
        What `orthogonal_views` gave of the image.
    share : Volume
        On the image's grid.
    at : three ints, optional
        As `orthogonal_views` had it.
    most : float
        How much of the picture a share of 1 hides.
    """
    # as labels, so that values keep their meaning instead of being windowed
    bytes_of = Elementwise(lambda x: np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8), share.data)
    shares = orthogonal_views(Volume(bytes_of, share.affine, share.modality, "labels"), max(max(v.shape) for v in views.values()), at)
    made = {}
    for name, grey in views.items():
        if name in shares and shares[name].shape == grey.shape:
            alpha = most * shares[name][..., None] / 255.0
            made[name] = np.rint((1 - alpha) * grey[..., None] + alpha * np.array(OVERLAY)).astype(np.uint8)
    return made


def _picture(pixels: np.ndarray, axis: int, volume: Volume, pixel_mm: float, size: int) -> np.ndarray:
    """Return a slice across an axis, grey from 0 to 1 or labels, as a picture of isotropic pixels in the radiological convention."""
    spacing = [step for other, step in enumerate(volume.spacing) if other != axis]
    rows, columns = (min(size, max(1, round(count * step / pixel_mm))) for count, step in zip(pixels.shape, spacing, strict=True))
    if volume.kind == "labels":
        small = pixels[np.ix_(_nearest(pixels.shape[0], rows), _nearest(pixels.shape[1], columns))]
    else:
        smooth = _linear(pixels.shape[0], rows) @ np.clip(pixels, 0, 1) @ _linear(pixels.shape[1], columns).T
        small = np.rint(smooth * 255).astype(np.uint8)
    return np.ascontiguousarray(small.T[::-1, ::-1])


def _slice(volume: Volume, axis: int, at: Sequence[int] | None) -> np.ndarray:
    """Return the slice across an axis at a voxel, the middle one otherwise, (other axes in order), float32 or the labels' type."""
    index: list[slice | int] = [slice(None)] * 3
    index[axis] = volume.shape[axis] // 2 if at is None else at[axis]
    return _magnitude(np.asarray(volume.data[tuple(index)]), volume)


def _sample(volume: Volume) -> np.ndarray:
    """Return the values of up to 27 blocks in the inner part of the grid, flat."""
    starts = [sorted({max(0, count * part // 4 - _BLOCK // 2) for part in (1, 2, 3)}) for count in volume.shape]
    if volume.modality == "CT" and volume.kind == "image":
        return np.empty(0, np.float32)
    blocks = [
        np.asarray(volume.data[x : x + _BLOCK, y : y + _BLOCK, z : z + _BLOCK]) for x in starts[0] for y in starts[1] for z in starts[2]
    ]
    return np.concatenate([_magnitude(block, volume).ravel() for block in blocks])


def _in_memory(data: object) -> bool:
    """Say whether reading a slice of an array reads, and computes, nothing but that slice."""
    while isinstance(data, Elementwise):
        data = data.array
    return isinstance(data, np.ndarray)


def _magnitude(values: np.ndarray, volume: Volume) -> np.ndarray:
    if volume.kind == "labels":
        return values
    values = values.astype(np.float32)
    return np.linalg.norm(values, axis=-1) if volume.kind == "field" else values


def label_bytes(labels: np.ndarray) -> np.ndarray:
    """Return labels as bytes; values above 255 begin again at 1, so that none becomes background."""
    labels = labels.astype(np.int64)
    return np.where(labels > 255, 1 + (labels - 1) % 255, labels).astype(np.uint8)


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values into two classes with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    total = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (total / below - (total[-1] - total) / above) ** 2
    between = np.nan_to_num(between)
    # All thresholds in the gap between two classes are equally good: the middle one is taken.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-6))
    return float(edges[int(best.mean()) + 1])


def _nearest(count: int, wanted: int) -> np.ndarray:
    return np.minimum(((np.arange(wanted) + 0.5) * count / wanted).astype(int), count - 1)


def _linear(count: int, wanted: int) -> np.ndarray:
    """Return the (wanted, count) matrix of linear interpolation, its triangles widened where it makes things smaller."""
    centres = (np.arange(wanted) + 0.5) * count / wanted - 0.5
    width = max(1.0, count / wanted)
    clamped = np.clip(centres, 0, count - 1) if width == 1 else centres
    weights = np.maximum(0, 1 - np.abs(np.arange(count)[None, :] - clamped[:, None]) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
