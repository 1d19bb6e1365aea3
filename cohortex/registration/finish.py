"""What the last steps of a registration compare, and how it is chosen.

Once self-similarities have brought two images nearly together, intensities say more than they do wherever those of one image follow from
those of the other. Candidates are the images themselves and, in either direction, what one image would look like in the contrast of the
other: the conditional mean given the other's intensity (the idea of the correlation ratio: Roche et al., The correlation ratio as a new
similarity measure for multimodal image registration, MICCAI 1998), with the moving image's slow changes of brightness divided out. All
are compared after local normalisation, so that least squares are local cross-correlation (Cachier et al., Iconic feature based
nonrigid registration: the PASHA algorithm, Computer Vision and Image Understanding 89, 2003).

The criterion: `agreement`, the correlation of the two locally normalised images over the foreground, with the alignment that
self-similarities gave. The images as they are are taken at once from `PLAIN` on; else the candidate with the highest agreement. From `SURE`
on it is compared alone, from `ENOUGH` on together with the self-similarities at full resolution, and below that the self-similarities
are compared alone: where no relation of intensities holds everywhere, what is locally normalised has the wrong sign or no counterpart
somewhere, and agrees badly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cohortex.filters.gaussian import gaussian

Finish = Literal["images", "moving-from-fixed", "fixed-from-moving", "mind"]

PLAIN, SURE, ENOUGH = 0.8, 0.7, 0.6
"""Agreements, see above."""
AHEAD = 0.02
"""By how much a predicted contrast has to agree better than the images as they are."""
BINS = 96
FLOOR = 0.03
"""Share of an image's range that is added, in squares, to local variances: differences far below it are noise."""
BIAS_SIGMA = 16.0
"""Voxels over which the brightness of a scan may change."""
ONE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Compared:
    """What the last steps compare: two locally normalised images (X, Y, Z) float32 and how well they agree; nothing for `mind`."""

    kind: Finish
    fixed: np.ndarray
    moving: np.ndarray
    agreement: float


def locally_normalised(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return an image less its local mean, over its local standard deviation with a floor; widths are voxels, (X, Y, Z) float32."""
    mean = gaussian(image, ONE, sigma)
    variance = np.maximum(gaussian(image * image, ONE, sigma) - mean * mean, 0)
    return np.asarray((image - mean) / np.sqrt(variance + np.float32(FLOOR**2)), np.float32)


def agreement(fixed: np.ndarray, warped: np.ndarray, inside: np.ndarray) -> float:
    """Return the correlation of two locally normalised images inside a mask, 0 where either is flat."""
    a, b = fixed[inside].astype(np.float64), warped[inside].astype(np.float64)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def predicted(source: np.ndarray, target: np.ndarray, inside: np.ndarray, wanted: np.ndarray | None = None) -> np.ndarray:
    """Return what an image looks like in the contrast of another: the mean of `target` where `source` has a voxel's intensity.

    Parameters
    ----------
    source, target : (X, Y, Z) float32 arrays
        Voxel by voxel of one place, within 0 and 1.
    inside : (X, Y, Z) bool array
        Where the means are learned; the target's slow changes of brightness are estimated and divided out there in two rounds.
    wanted : (X, Y, Z) float32 array, optional
        The image to translate, `source` when not given.
    """
    given, values = source[inside], target[inside]
    weight = gaussian(inside.astype(np.float32), ONE, BIAS_SIGMA) + np.float32(1e-3)
    gain = np.ones(values.shape, np.float32)
    curve = np.zeros(BINS, np.float64)
    for round_ in range(2):
        curve = _conditional_mean(given, values / gain)
        if round_ == 1:
            break
        # How much brighter than predicted, over a wide neighbourhood; offsets keep dark places from deciding.
        there, should = np.zeros(source.shape, np.float32), np.zeros(source.shape, np.float32)
        there[inside], should[inside] = values + np.float32(0.05), _at(curve, given) + np.float32(0.05)
        ratio = gaussian(there, ONE, BIAS_SIGMA) / (gaussian(should, ONE, BIAS_SIGMA) + np.float32(1e-3) * weight)
        gain = np.clip(ratio[inside], 0.3, 3.0).astype(np.float32)
    return _at(curve, source if wanted is None else wanted)


def _conditional_mean(given: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean of values at `BINS` evenly spaced intensities between 0 and 1, each value shared by the two next to it."""
    place = np.clip(given, 0, 1) * np.float32(BINS - 1)
    low = np.minimum(place.astype(np.int64), BINS - 2)
    share = place - low
    count = np.bincount(low, 1 - share, BINS) + np.bincount(low + 1, share, BINS)
    total = np.bincount(low, (1 - share) * values, BINS) + np.bincount(low + 1, share * values, BINS)
    # Smoothed over neighbouring intensities, more so where there are few voxels, and carried on into empty ones.
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 1.2) ** 2)
    wide = np.exp(-0.5 * (np.arange(-12, 13) / 4.0) ** 2) * 1e-3
    count, total = (np.convolve(x, kernel + wide, "same") for x in (count, total))
    known = count > 1e-6 * max(count.max(), 1e-12)
    return np.interp(np.arange(BINS), np.flatnonzero(known), (total[known] / count[known])) if known.any() else np.zeros(BINS)


def _at(curve: np.ndarray, image: np.ndarray) -> np.ndarray:
    place = np.clip(image, 0, 1) * np.float32(BINS - 1)
    low = np.minimum(place.astype(np.int32), BINS - 2)
    table = curve.astype(np.float32)
    return table[low] + (place - low) * (table[low + 1] - table[low])
