"""Pairs of thick slices and what was behind them, drawn from scans whose in-plane axes play the slice axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cohortex.blocks import read_block
from cohortex.filters.foreground import foreground
from cohortex.items import Image
from cohortex.lazy import Box, Boxed, Turned
from cohortex.models.intensity import to_unit, unit_range, unit_range_of, values_for
from cohortex.models.superresolve import throughplane as through
from cohortex.survey import survey
from cohortex.training import patches
from cohortex.volume import ArrayLike, Volume

Degradation = Literal["profile", "truncate", "kernel"]
"""How a fine line becomes slices: means over the slice profile, the middle of k-space, or a random Gaussian kernel with noise."""

MOST_VOXELS = 192
"""Longest edge of a training image that is held in memory."""

THICKEST = 4.0
"""A slice is interpolated to at most so many cubic voxels."""

MARGIN = 6
"""Voxels that are kept around the foreground of an image that is held."""


@dataclass(frozen=True)
class Scan:
    """A training image of cubic voxels in the network's range."""

    array: ArrayLike
    axes: list[int]
    """Axes that may play the slice axis."""
    places: np.ndarray
    """Indices of foreground voxels."""
    others: Mapping[str, ArrayLike] = field(default_factory=dict)
    """Further inputs of a network on the same grid, by name."""


@dataclass(frozen=True)
class Shape:
    """What a training cuts out of a scan.

    Attributes
    ----------
    edge : int
        Of the target, in voxels; for a network on the slices' grid in the slices' own plane.
    halo : three ints
        What the source has around it; along the last axis in voxels, or in slices for a network on the slices' grid.
    slices : int
        Of the target, for a network on the slices' grid; 0 for one on the fine grid.
    inputs : tuple of str
        What the network's channels are, ``image`` first.
    """

    edge: int
    halo: tuple[int, int, int]
    slices: int = 0
    inputs: tuple[str, ...] = ("image",)


@dataclass(frozen=True)
class Manner:
    """How slices are made and how varied the images are.

    Attributes
    ----------
    profile, degradation : str
    remap : bool
        Gamma, and now and then inversion, so that a network meets contrasts that no scan has.
    even : bool
        Patches are scaled so that the spline errs alike in all of them (within a factor of three): else bright scans with strong edges
        decide about the network, and decibels count each alike.
    """

    profile: through.Profile = "box"
    degradation: Degradation = "profile"
    remap: bool = False
    even: bool = False


EVEN = 0.05
"""Root mean square error of the spline in an evened patch, in units of the image's range."""


def in_plane(image: Image) -> list[int]:
    """Return the two axes with the smallest spacings."""
    return [int(axis) for axis in np.argsort(image.volume.spacing, kind="stable")[:2]]


def cubic(array: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the array with its thickest axis interpolated to the smallest spacing, as the stage would."""
    axis = int(np.argmax(spacing))
    count = cubic_count(array.shape, spacing)
    return array if count == array.shape[axis] else through.upsample(array, count, axis)


def cubic_count(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """Return how many voxels the thickest axis has after `cubic`."""
    return through.fine_count(shape[int(np.argmax(spacing))], min(THICKEST, max(spacing) / min(spacing)))


class Cubes(Boxed):
    """A scan in cubic voxels and a network's range, computed where it is read: of thick slices whole lines."""

    def __init__(self, volume: Volume, low: float, high: float):
        self.volume = volume
        self.range = (low, high)
        self.axis = int(np.argmax(volume.spacing))
        shape = list(volume.shape)
        shape[self.axis] = cubic_count(volume.shape, volume.spacing)
        self.shape = tuple(shape)
        self.dtype = np.dtype(np.float32)

    def box(self, box: Box) -> np.ndarray:
        """Return the values of a box."""
        whole = self.volume.shape[self.axis]
        if self.shape[self.axis] == whole:
            return to_unit(read_block(self.volume.data, box, (0, 0, 0)), *self.range)
        lines = read_block(self.volume.data, [(0, whole) if a == self.axis else piece for a, piece in enumerate(box)], (0, 0, 0))
        fine = through.upsample(lines, self.shape[self.axis], self.axis)
        start, stop = box[self.axis]
        return to_unit(np.take(fine, np.arange(start, stop), axis=self.axis), *self.range)


def prepared(image: Image, rng: np.random.Generator, others: Mapping[str, Image] | None = None) -> Scan:
    """Return a training image as it is held in memory: around its foreground, at most `MOST_VOXELS` along each axis."""
    array = cubic(image.volume.array(np.float32), image.volume.spacing)
    inside = foreground(array)
    low, high = unit_range(array, values_for(image.modality))
    kept = around(inside, MARGIN, MOST_VOXELS)
    further = {name: np.ascontiguousarray(on_grid(image, other)[kept]) for name, other in (others or {}).items()}
    array = np.ascontiguousarray(to_unit(array[kept], low, high))
    return Scan(array, in_plane(image), patches.places(inside[kept], rng), further)


def around(inside: np.ndarray, margin: int, most: int | None = None) -> tuple[slice, slice, slice]:
    """Return the box around a foreground with a margin, at most `most` voxels along each axis, in the middle of it."""
    crop = []
    for axis, size in enumerate(inside.shape):
        filled = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (int(filled[0]), int(filled[-1])) if len(filled) else (0, size - 1)
        start, stop = max(0, first - margin), min(size, last + 1 + margin)
        spare = max(0, stop - start - (most or size))
        crop.append(slice(start + spare // 2, stop - (spare - spare // 2)))
    return crop[0], crop[1], crop[2]


def read_when_drawn(image: Image, rng: np.random.Generator, others: Mapping[str, Image] | None = None) -> Scan:
    """Return a training image of which only the patches are read, when they are drawn; any size, and any number of them."""
    volume = image.volume
    look = survey(volume)
    low, high = unit_range_of(look, values_for(image.modality))
    array = Cubes(volume, low, high)
    places = patches.places(np.asarray(look.inside[...]), rng)
    places[:, array.axis] = (places[:, array.axis] * array.shape[array.axis]) // volume.shape[array.axis]
    return Scan(array, in_plane(image), places, {name: on_grid(image, other) for name, other in (others or {}).items()})


def on_grid(image: Image, other: Image) -> np.ndarray:
    """Return another image of the subject on an image's cubic grid, in the network's range, float32."""
    from cohortex.filters.resample import resample

    volume = image.volume
    axis = int(np.argmax(volume.spacing))
    count = cubic_count(volume.shape, volume.spacing)
    shape = tuple(count if a == axis else n for a, n in enumerate(volume.shape))
    affine = through.fine_affine(volume.affine, volume.shape[axis], count, axis)
    theirs = other.volume
    low, high = unit_range(theirs.array(np.float32), values_for(other.modality))
    return to_unit(resample(theirs, affine=affine, shape=shape, order="linear", antialias=False).array(np.float32), low, high)


def slices_of(array: np.ndarray, count: int, axis: int, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """Return the slices that would be measured of fine voxels along an axis.

    Parameters
    ----------
    array : (x, y, z) array
    count : int
        Slices.
    axis : int
    manner : Manner
    rng : numpy.random.Generator
        For the random kernel and its noise.
    """
    if manner.degradation == "profile":
        return through.average(array, count, axis, manner.profile)
    from cohortex.physics.degrade import random_kernel, truncate

    factor = array.shape[axis] / count
    if manner.degradation == "kernel":
        return random_kernel(array, factor, (axis,), rng)[0]
    # Mirrored at its end, since k-space takes the line for one period of something that repeats.
    doubled = np.concatenate([array, np.flip(array, axis)], axis=axis)
    return np.ascontiguousarray(np.take(truncate(doubled, factor, (axis,)), np.arange(count), axis=axis))


def degrade(
    array: np.ndarray, axis: int, factor: float, manner: Manner, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return slices of `factor` voxels along an axis, and the same interpolated back to the array's grid."""
    count = max(2, round(array.shape[axis] / factor))
    slices = slices_of(array, count, axis, manner, rng or np.random.default_rng(0))
    return slices, through.agreeing_spline(slices, array.shape[axis], axis, manner.profile)


def draw(scan: Scan, shape: Shape, factor: float, manner: Manner, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a pair for a network on the fine grid: the patch seen through slices, with its halo, and the patch itself without.

    Returns
    -------
    source : (channels, x, y, z) float32 array
        The interpolated slices, slice axis last, and the further inputs.
    target : (1, x, y, z) float32 array
        Without the halo.
    """
    axis, order, edge, halo = *_axis(scan, rng), shape.edge, shape.halo
    array, length = Turned(scan.array, order), scan.array.shape[axis]
    # Small volumes are continued by the edge rule, so that all patches have one size.
    (x, _), (y, _), (z, _) = patches.random_box(array.shape, (edge,) * 3, rng, scan.places[:, order])
    place, around = ((x, x + edge), (y, y + edge), (0, length)), (halo[0], halo[1], 0)
    fine = [read_block(array, place, around)]
    for name in shape.inputs[1:]:
        fine.append(view(fine[0], factor, manner) if name == "view" else read_block(Turned(scan.others[name], order), place, around))
    if manner.remap:
        fine = [remapped(each, rng) for each in fine]
    lines = fine[0]
    _, blurred = degrade(lines, 2, factor, manner, rng)
    parts = [read_block(a, ((0, a.shape[0]), (0, a.shape[1]), (z, z + edge)), (0, 0, halo[2])) for a in (blurred, *fine[1:], lines)]
    *sources, target = patches.turned(parts, rng, swap=(0, 1))
    inner = target[halo[0] : target.shape[0] - halo[0], halo[1] : target.shape[1] - halo[1], halo[2] : target.shape[2] - halo[2]]
    scale = evened(sources[0], target) if manner.even else 1.0
    return np.stack(sources) * np.float32(scale), np.ascontiguousarray(inner)[None] * np.float32(scale)


def draw_slices(scan: Scan, shape: Shape, factor: float, manner: Manner, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a pair for a network on the slices' grid: slices with their halo, and the fine voxels of the inner ones.

    Returns
    -------
    source : (channels, x, y, slices) float32 array
        Of further inputs the fine voxels of every slice are channels.
    target : (1, x, y, z) float32 array
        Without `cut` voxels at each end.
    """
    _, order, edge, halo = *_axis(scan, rng), shape.edge, shape.halo
    array = Turned(scan.array, order)
    slices = shape.slices + 2 * halo[2]
    length = round(slices * factor)
    (x, _), (y, _), (z, _) = patches.random_box(array.shape, (edge, edge, length), rng, scan.places[:, order])
    place, around = ((x, x + edge), (y, y + edge), (z, z + length)), (halo[0], halo[1], 0)
    fine = [read_block(array, place, around)]
    for name in shape.inputs[1:]:
        fine.append(view(fine[0], factor, manner) if name == "view" else read_block(Turned(scan.others[name], order), place, around))
    if manner.remap:
        fine = [remapped(each, rng) for each in fine]
    lines, *others = patches.turned(fine, rng, swap=(0, 1))
    measured = slices_of(lines, slices, 2, manner, rng)
    scale = np.float32(evened(through.agreeing_spline(measured, length, 2, manner.profile), lines) if manner.even else 1.0)
    channels = [measured[None], *(voxels_of_slices(other, slices) for other in others)]
    inner = lines[halo[0] : lines.shape[0] - halo[0], halo[1] : lines.shape[1] - halo[1], cut(shape, factor) : length - cut(shape, factor)]
    return np.concatenate(channels) * scale, np.ascontiguousarray(inner)[None] * scale


def cut(shape: Shape, factor: float) -> int:
    """Return how many fine voxels at each end belong to the halo of a network on the slices' grid."""
    return round(shape.halo[2] * factor)


def voxels_of_slices(fine: np.ndarray, slices: int) -> np.ndarray:
    """Return the fine voxels of every slice as channels: (x, y, slices * f) becomes (f, x, y, slices)."""
    return np.ascontiguousarray(np.moveaxis(fine.reshape(*fine.shape[:2], slices, -1), 3, 0))


def view(fine: np.ndarray, factor: float, manner: Manner) -> np.ndarray:
    """Return the second view of a patch: slices that lie across it, along its first axis, on the fine grid again."""
    return degrade(fine, 0, factor, Manner(manner.profile))[1]


def remapped(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return an image with another contrast: a gamma around its range, a fourth of the time the negative."""
    gamma = np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    made = np.sign(array) * np.abs(array) ** gamma
    return 1 - made if rng.random() < 0.25 else made


def evened(blurred: np.ndarray, fine: np.ndarray) -> float:
    """Return by what a pair is multiplied so that the spline errs by `EVEN`."""
    error = float(np.sqrt(np.mean((blurred - fine) ** 2)))
    return float(np.clip(EVEN / max(error, 1e-6), 1 / 3, 3))


def _axis(scan: Scan, rng: np.random.Generator) -> tuple[int, list[int]]:
    """Return an axis that plays the slice axis, and the order of axes that puts it last."""
    axis = scan.axes[rng.integers(len(scan.axes))]
    return axis, [a for a in range(3) if a != axis] + [axis]
