"""Small copies of volumes for the viewer of a subject: means of blocks, or the label in the middle of each, in 8 bits, in place."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from math import prod

import numpy as np

from cohortex.blocks import cut, room
from cohortex.lazy import Box
from cohortex.report.previews import grey_window, label_bytes
from cohortex.volume import ArrayLike, Volume

LEVELS = 256
"""Values that a byte tells apart."""
CT_STEPS = ((-1024.0, 48), (-160.0, 144), (240.0, 64), (3072.0, 0))
"""From where on (HU) so many of a CT's levels are: soft tissue has steps of 3 HU, air and bone coarser ones."""
TAILS = (0.02, 99.98)
"""Percentiles of what is told of an image of no known unit."""


def factors_for(shape: Sequence[int], spacing: Sequence[float], voxels: int) -> tuple[int, int, int]:
    """Return the edges of the blocks that become one voxel, so that at most so many voxels are left; 1 along all axes where they fit.

    The finest axis is made coarser first, so that thick slices stay and thin ones are joined.
    """
    factors = [1, 1, 1]
    while prod(-(-n // f) for n, f in zip(shape, factors, strict=True)) > voxels:
        longer = [axis for axis in range(3) if factors[axis] < shape[axis]]
        if not longer:
            break
        factors[min(longer, key=lambda axis: spacing[axis] * factors[axis])] += 1
    return factors[0], factors[1], factors[2]


def reduced(volume: Volume, factors: Sequence[int]) -> Volume:
    """Return a volume of blocks of another one.

    Parameters
    ----------
    volume : Volume
        An image or labels; may be lazy, it is read once, block by block.
    factors : three ints
        Edges of the blocks in voxels; the last block along an axis may be shorter.

    Returns
    -------
    Volume
        In memory: of images the mean of each block (float32), so that nothing finer than the new voxels looks like something else; of
        labels that in the middle of each block (uint8, as `cohortex.report.previews.label_bytes` folds them). The affine has each new
        voxel in the middle of its block.
    """
    data, shape = volume.data, volume.shape
    small = tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
    labels = volume.kind == "labels"
    out = np.zeros(small, np.uint8 if labels else np.float32)
    for box in _boxes(data, factors):
        part = np.asarray(data[tuple(slice(a, b) for a, b in box)])
        there = tuple(slice(a // f, -(-b // f)) for (a, b), f in zip(box, factors, strict=True))
        out[there] = label_bytes(_middles(part, factors)) if labels else _means(part, factors)
    step, middle = np.diag([*map(float, factors), 1.0]), np.eye(4)
    middle[:3, 3] = [(f - 1) / 2 for f in factors]
    return Volume(out, volume.affine @ middle @ step, volume.modality, volume.kind, volume.body_part)


def levels_of(volume: Volume) -> tuple[np.ndarray, tuple[float, float]]:
    """Return what each byte of an image stands for, (256,) float32, and the values that are shown black and white at first.

    Of CT the levels are closer where soft tissue is; of everything else they are evenly spaced over all but the last few values. The
    window is that of the flat pictures (`cohortex.report.previews.grey_window`).
    """
    values = np.asarray(volume.data[...])
    low, high = grey_window(values.ravel(), volume)
    if volume.modality == "CT":
        parts = pairwise(CT_STEPS)
        levels = np.concatenate([np.linspace(a, b, count, endpoint=False) for (a, count), (b, _) in parts])
    else:
        finite = values[np.isfinite(values)]
        least, most = np.percentile(finite, TAILS) if finite.size else (0.0, 1.0)
        levels = np.linspace(min(low, least), max(high, most), LEVELS)
    return levels.astype(np.float32), (low, high)


def as_levels(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return the byte whose level is nearest to each value, of the same shape, uint8; NaN becomes 0."""
    between = (levels[1:].astype(np.float64) + levels[:-1]) / 2
    return np.searchsorted(between, np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)).astype(np.uint8)


def packed(data: np.ndarray) -> str:
    """Return an (x, y, z) uint8 array as base64 of gzip, x fastest, as browsers unpack it; the same array gives the same text."""
    return base64.b64encode(gzip.compress(data.tobytes(order="F"), 6, mtime=0)).decode("ascii")


def _boxes(data: ArrayLike, factors: Sequence[int]) -> Iterator[Box]:
    """Give boxes of whole blocks that fit the plan: whole slices of what is decoded in slices, else about cubes."""
    shape, budget = data.shape, room()
    most = [int(n) for n in shape]
    slow = getattr(data, "slow", None)
    while prod(most) > budget:
        axis = slow if slow is not None else int(np.argmax([n / f for n, f in zip(most, factors, strict=True)]))
        if most[axis] <= factors[axis]:
            break
        most[axis] = max(factors[axis], most[axis] // 2)
    return product(*(cut(int(n), m, f) for n, m, f in zip(shape, most, factors, strict=True)))


def _middles(part: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    places = [np.minimum(np.arange(0, n, f) + f // 2, n - 1) for n, f in zip(part.shape, factors, strict=True)]
    return part[np.ix_(*places)]


def _means(part: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Return means of blocks: along one axis after the other, as a mean of means of equal counts is the mean."""
    part = np.nan_to_num(part.astype(np.float32, copy=False), posinf=0.0, neginf=0.0)
    for axis, f in enumerate(factors):
        if f > 1:
            whole = part.shape[axis] // f
            moved = np.moveaxis(part, axis, 0)
            means = [moved[: whole * f].reshape(whole, f, *moved.shape[1:]).mean(axis=1)]
            if whole * f < len(moved):
                means.append(moved[whole * f :].mean(axis=0, keepdims=True))
            part = np.moveaxis(np.concatenate(means), 0, axis)
    return part
