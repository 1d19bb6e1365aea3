"""The noise of an image that may be lazy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cohortex.filters.steps import slab_planes, slabs
from cohortex.measures.image_quality import LEAST_NOISE, MAD_TO_SIGMA, finest_band, noise_sigma


def given_or_estimated(array: Any, sigma: float | None) -> float:
    """Return the given standard deviation of the noise, or the estimated one.

    Raises
    ------
    ValueError
        A sigma that is not a number from 0 on.
    """
    scale = estimated(array) if sigma is None else float(sigma)
    if not (np.isfinite(scale) and scale >= 0):
        raise ValueError(f"the noise sigma is a number not below 0, this one is {sigma}")
    return scale


def estimated(array: Any) -> float:
    """Return `cohortex.measures.image_quality.noise_sigma`, of a lazy array in three passes over slabs of a few planes.

    The median is found exactly without holding the coefficients: a float32 that is not negative sorts as its bits do, so a first histogram
    counts the upper 16 bits and a second one the lower 16 of the two that hold the middle.
    """
    if isinstance(array, np.ndarray):
        return noise_sigma(array)
    largest = np.float32(0)
    for start, stop in slabs(array):
        part = np.asarray(array[start:stop], dtype=np.float32)
        largest = np.maximum(largest, np.abs(part).max(initial=0))  # unlike max it keeps NaN
    if not np.isfinite(largest):
        raise ValueError("the noise of an image with NaN or infinite values is not defined: replace them first")
    least = LEAST_NOISE * float(largest)
    upper = np.zeros(2**16, dtype=np.int64)
    for bits in _bits(array, least):
        upper += np.bincount(bits >> 16, minlength=2**16)
    total, below = int(upper.sum()), np.concatenate([[0], np.cumsum(upper)])
    if total == 0:
        return 0.0
    ranks = sorted({(total - 1) // 2, total // 2})
    bins = [int(np.searchsorted(below, rank, side="right")) - 1 for rank in ranks]
    lower = {number: np.zeros(2**16, dtype=np.int64) for number in bins}
    for bits in _bits(array, least):
        for number, counts in lower.items():
            counts += np.bincount(bits[bits >> 16 == number] & 0xFFFF, minlength=2**16)
    found = []
    for rank, number in zip(ranks, bins, strict=True):
        place = int(np.searchsorted(np.cumsum(lower[number]), rank - below[number], side="right"))
        found.append(np.array([number << 16 | place], dtype=np.uint32).view(np.float32)[0])
    return float(MAD_TO_SIGMA * np.mean(np.array(found, dtype=np.float32)))


def _bits(array: Any, least: float) -> Iterator[np.ndarray]:
    """Yield the magnitudes of the finest band that count, as bits."""
    size = array.shape[0]
    if size < 4:
        yield _counted(np.asarray(array[0:size]), least)
        return
    coefficients, at_once = (size - 4) // 2 + 1, slab_planes(array.shape) // 2
    for first in range(0, coefficients, at_once):
        last = min(coefficients, first + at_once)
        yield _counted(np.asarray(array[2 * first : 2 * last + 2]), least)


def _counted(part: np.ndarray, least: float) -> np.ndarray:
    """Return the bits of the coefficients of a slab that count."""
    band = finest_band(part)
    return band[band > least].view(np.uint32).astype(np.int64)
