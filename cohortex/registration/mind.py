"""MIND-SSC in bytes: twelve self-similarities of every voxel, for registration across contrasts.

Heinrich et al., Towards realtime multimodal fusion for image-guided interventions using self-similarities, MICCAI 2013. The same
descriptors as `cohortex.models.regseg.mind.mind_ssc` with radius 1 and dilation 2 gives as tensors, to the step of a byte.
"""

from __future__ import annotations

import numpy as np

from cohortex.registration import mind_kernels as kernels

FLOOR = 0.05
"""Share of the image's mean variance that is added to every local variance, so that flat noise has no structure."""


def mind_bytes(image: np.ndarray, floor: float = FLOOR) -> np.ndarray:
    """Return the twelve self-similarities of every voxel.

    Parameters
    ----------
    image : (X, Y, Z) float32 array
        Finite.
    floor : float
        See `FLOOR`.

    Returns
    -------
    (X, Y, Z, 12) uint8 array
        255 for the most alike pair of neighbours, towards 0 for unlike ones. Unchanged, up to rounding, when the image is scaled,
        shifted or inverted. Zero everywhere where the image is constant: nothing is known there.
    """
    if image.ndim != 3 or min(image.shape) < 1:
        raise ValueError(f"an image has three axes (X, Y, Z), this array is {image.shape}")
    values = np.ascontiguousarray(image, dtype=np.float32)
    out = np.zeros((*values.shape, kernels.CHANNELS), np.uint8)
    # Scaled to a range of one: squares of large intensities lose nothing, and what is constant is seen.
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return out
    padded = np.pad((values - np.float32(low)) * np.float32(1 / (high - low)), kernels.MARGIN, mode="edge")
    step = 1 if values.size < 50_000 else 4
    mean = float(kernels.mean_variance(padded, step))
    mean = max(mean, 1e-12)
    kernels.descriptors(padded, np.float32(floor * mean), np.float32(1e-3 * mean), np.float32(1e3 * mean), out)
    return out


def halved(features: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 x 2 voxels of (X, Y, Z, C) uint8 features, whose axes are even."""
    out = np.empty((*(n // 2 for n in features.shape[:3]), features.shape[3]), np.uint8)
    kernels.halved(features, out)
    return out
