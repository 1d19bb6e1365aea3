"""Foreground: the voxels of the patient, without air and table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from cohortex.blocks import ALIGN, read_block, run_all
from cohortex.lazy import Computed
from cohortex.volume import ArrayLike

_LARGEST_AXIS = 256


class Repeated(Computed):
    """A mask (x, y, z) of a volume larger than memory, kept at the resolution that it was found at."""

    def __init__(self, small: np.ndarray, factors: Sequence[int], shape: Sequence[int]):
        super().__init__(self._enlarged, shape, bool)
        self.small = small
        self.factors = tuple(factors)

    def _enlarged(self, *indices: np.ndarray) -> np.ndarray:
        return self.small[np.ix_(*(index // factor for index, factor in zip(indices, self.factors, strict=True)))]


def foreground(array: ArrayLike) -> Any:
    """Return the largest bright component with its holes filled.

    The image is averaged over 3 voxels, thresholded by Otsu's method, reduced to its largest component, and holes are filled
    in space and in every slice (lungs, sinuses). Axes longer than 256 voxels are shrunk first.

    Parameters
    ----------
    array : (x, y, z) array-like
        Finite. May be lazy: it is read in blocks. Values far below zero (first percentile under -200) are read as Hounsfield units
        and clipped to -1000..300; anything else is compressed by a square root, so that dark tissue falls on the side of the tissue.

    Returns
    -------
    (x, y, z) bool array
        All True when there is no contrast to separate. Of a lazy array a lazy mask, `Repeated`.

    Raises
    ------
    ValueError
        NaN or infinite values.

    References
    ----------
    Otsu, IEEE Trans. Systems, Man and Cybernetics 9 (1979) 62-66.
    """
    from scipy import ndimage

    factors = [-(-size // _LARGEST_AXIS) for size in array.shape]
    small = _shrunk(array, factors) if max(factors) > 1 else np.asarray(array[...], dtype=np.float32)
    if not np.isfinite(small).all():
        raise ValueError("the foreground of an image with NaN or infinite values is not defined: replace them first")
    width: Any = [3 if size > 2 else 1 for size in small.shape]
    smooth = np.asarray(ndimage.uniform_filter(small, width))
    thinned = smooth[::2, ::2, ::2] if smooth.size > 100_000 else smooth
    low, high = np.percentile(thinned, [1.0, 99.5])
    hounsfield = low < -200
    if hounsfield:
        low, high = max(float(low), -1000.0), min(float(high), 300.0)
    level = np.clip(smooth, low, high) - low
    threshold = _otsu(level if hounsfield else np.sqrt(level))
    if threshold is None:
        return _on_grid(np.ones(small.shape, dtype=bool), factors, array)
    cut = low + (threshold if hounsfield else threshold**2)
    mask = _largest(smooth > cut)
    # Averaging has widened the mask by up to a voxel of air.
    mask &= (small > cut) | ndimage.binary_erosion(mask, border_value=1)
    return _on_grid(_filled(_largest(mask)), factors, array)


def _on_grid(mask: np.ndarray, factors: list[int], array: ArrayLike) -> Any:
    """Return a mask on the grid of the image that it was found in."""
    if not isinstance(array, np.ndarray):
        return Repeated(mask, factors, array.shape)
    for axis, factor in enumerate(factors):
        if factor > 1:
            mask = np.repeat(mask, factor, axis=axis)
    return np.ascontiguousarray(mask[tuple(slice(0, size) for size in array.shape)])


def _shrunk(array: ArrayLike, factors: list[int]) -> np.ndarray:
    """Return the means of blocks of an array that may be lazy."""
    if isinstance(array, np.ndarray):
        return _block_mean(array, factors)
    # boxes of whole chunks that are whole blocks, too; an odd factor takes what is near
    edges = [ALIGN * f if f in (1, 2, 3, 4) else f * max(1, 128 // f) for f in factors]
    small = np.empty([-(-n // f) for n, f in zip(array.shape, factors, strict=True)], np.float32)
    grid = list(product(*([(a, min(a + edge, n)) for a in range(0, n, edge)] for n, edge in zip(array.shape, edges, strict=True))))

    def one(box: tuple[tuple[int, int], ...]) -> None:
        here = tuple(slice(a // f, -(-b // f)) for (a, b), f in zip(box, factors, strict=True))
        small[here] = _block_mean(read_block(array, box, (0, 0, 0)), factors)

    run_all(one, grid)
    return small


def _block_mean(array: np.ndarray, factors: list[int]) -> np.ndarray:
    """Return the means of blocks; the last block is filled up with the edge."""
    padded = np.pad(array, [(0, -size % factor) for size, factor in zip(array.shape, factors, strict=True)], mode="edge")
    for axis, factor in enumerate(factors):
        if factor > 1:
            shape = (*padded.shape[:axis], padded.shape[axis] // factor, factor, *padded.shape[axis + 1 :])
            padded = padded.reshape(shape).mean(axis=axis + 1, dtype=np.float32)
    return np.asarray(padded, dtype=np.float32)


def _otsu(level: np.ndarray, bins: int = 256) -> float | None:
    """Return the threshold that separates two classes best, None where there is one value only."""
    low, high = float(level.min()), float(level.max())
    if not high > low:
        return None
    counts, edges = np.histogram(level, bins=bins, range=(low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    # Equal maxima (an empty gap between two classes) share the middle of the gap.
    between = np.nan_to_num(between[:-1])
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float((edges[best[0] + 1] + edges[best[-1] + 1]) / 2)


def _largest(mask: np.ndarray) -> np.ndarray:
    """Return the largest 6-connected component."""
    import cc3d

    components = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=6)
    sizes = np.bincount(components.reshape(-1))
    if sizes.size < 2:
        return mask
    sizes[0] = 0
    return components == int(sizes.argmax())


def _filled(mask: np.ndarray) -> np.ndarray:
    """Fill holes in space, then in the slices along each axis."""
    if min(mask.shape) > 1:
        mask = _without_holes(mask)
    for axis in range(3):
        slices = np.moveaxis(mask, axis, 0)
        if min(slices.shape[1:]) > 2:
            mask = np.moveaxis(np.stack([_without_holes(part) for part in slices]), 0, axis)
    return mask


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the parts of the background that do not touch the border."""
    from scipy import ndimage

    if mask.all() or not mask.any():
        return mask
    if mask.ndim == 3:
        import cc3d

        outside: Any = cc3d.connected_components(np.ascontiguousarray(~mask), connectivity=6)
    else:
        labelled: Any = ndimage.label(~mask)
        outside = labelled[0]
    open_parts = np.zeros(int(outside.max()) + 1, dtype=bool)
    for axis in range(outside.ndim):
        for end in (0, -1):
            open_parts[np.unique(np.take(outside, end, axis=axis))] = True
    open_parts[0] = False
    return ~open_parts[outside]
