"""Blobs without training: maxima of the scale-normalised Laplacian of Gaussian (Lindeberg, Int. J. Comput. Vis. 30(2), 1998)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage as ndi

from cohortex.models.recognize.boxes import Found, best


def blobs(
    image: np.ndarray, diameters: Sequence[float], bright: bool = True, score: float = 0.05, overlap: float = 0.3, most: int = 100
) -> Found:
    """Return boxes around what is brighter (darker) than its surroundings and as round as a ball.

    Parameters
    ----------
    image : np.ndarray
        2-D or 3-D, of any units.
    diameters : sequence of float
        In voxels, that are looked for; a ball of radius r answers most to a Gaussian of deviation r / sqrt(dimensions).
    bright : bool
    score, overlap, most
        See `boxes.best`. The score is ``a / (1 + a)`` of the answer a in robust standard deviations of the image.
    """
    values = np.asarray(image, np.float32)
    spread = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    values = (values - np.median(values)) / (spread if spread > 0 else float(values.std()) or 1.0)
    sign = -1.0 if bright else 1.0
    deviations = [d / 2 / math.sqrt(values.ndim) for d in diameters]
    space = np.stack([sign * s**2 * ndi.gaussian_laplace(values, s, mode="nearest") for s in deviations])
    peaks = (space == ndi.maximum_filter(space, 3, mode="nearest")) & (space > 0)
    scale, *places = np.nonzero(peaks)
    middles = np.stack(places, 1) + 0.5
    half = np.asarray(diameters, np.float32)[scale][:, None] / 2
    corners = np.concatenate([middles - half, middles + half], 1).astype(np.float32)
    answers = space[peaks]
    return best(
        torch.from_numpy(corners),
        torch.from_numpy(answers / (1 + answers)),
        torch.zeros(len(corners), dtype=torch.int64),
        values.shape,
        score,
        overlap,
        most,
    )
