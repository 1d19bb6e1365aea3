"""Registration inside a region that is outlined in the fixed image, where the rest of the two images has little in common.

For an ultrasound of an organ, say, and an MR in which its contour is known: the field of view and the outer anatomy of the two differ,
and only the organ and what is around it counts. The start puts the middle of the region on the middle of the moving image; then follow a
shift, a rigid and an affine motion, and a stiff deformation, all by Gauss-Newton on self-similarities (MIND-SSC) at voxels so large that
speckle is averaged out. Nothing is known of the moving image but its intensities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

from cohortex.registration import gauss_newton, linear
from cohortex.registration.mind import mind_bytes

REDUCTION = 3
"""Voxels that are averaged along each axis."""
MARGIN = 5
"""Voxels by which the region is grown: its border is the structure that both modalities show."""
HOLD = 3.0
"""Weight of what the affine does to lengths and angles, see `linear.improved`."""
SMOOTH = 50.0
"""Factor of the weights of smoothness of the deformation."""
LEVEL_MM = 4.0
"""What the averaged voxels count as when the levels of the deformation are chosen: the last two."""


@dataclass(frozen=True)
class Located:
    """Where the region lies in the moving image.

    Attributes
    ----------
    start, matrix : (4, 4) arrays
        Voxel p of the fixed image lies at matrix(p) of the moving one, before and after.
    displacement : (3, X, Y, Z) float32 array
        In voxels of the fixed image, applied before `matrix`.
    """

    start: np.ndarray
    matrix: np.ndarray
    displacement: np.ndarray


def register_region(
    fixed: np.ndarray,
    moving: np.ndarray,
    region: np.ndarray,
    start: np.ndarray | None = None,
    reduction: int = REDUCTION,
    margin: int = MARGIN,
    smooth: float = SMOOTH,
) -> Located:
    """Find a region of the fixed image in the moving one.

    Parameters
    ----------
    fixed, moving : (X, Y, Z) float32 arrays
        Finite; cubic voxels of one size, the shapes may differ.
    region : (X, Y, Z) bool array
        On the fixed image.
    start : (4, 4) array, optional
        Voxels of the fixed to voxels of the moving image; by default the middle of the region goes to the middle of the moving image.
    reduction, margin : int
        See `REDUCTION` and `MARGIN`.
    smooth : float
        See `SMOOTH`.

    Raises
    ------
    ValueError
        When the region is empty or not on the grid of the fixed image, or an axis is shorter than 8 averaged voxels.
    """
    if region.shape != fixed.shape or not region.any():
        raise ValueError(f"the region is a mask on the fixed image {fixed.shape} and not empty, this one is {region.shape}")
    if min(*fixed.shape, *moving.shape) < 8 * reduction:
        raise ValueError(f"axes have at least {8 * reduction} voxels, these images are {fixed.shape} and {moving.shape}")
    if start is None:
        start = np.eye(4)
        start[:3, 3] = (np.array(moving.shape) - 1) / 2 - np.argwhere(region).mean(0)
    here, there = (averaged(np.asarray(x, np.float32), reduction) for x in (fixed, moving))
    counts = averaged(ndi.binary_dilation(region, iterations=margin).astype(np.float32), reduction) > 0.5
    to_fine = np.diag([reduction] * 3 + [1.0])
    to_fine[:3, 3] = (reduction - 1) / 2
    to_coarse = np.linalg.inv(to_fine)
    matrix, features = to_coarse @ start @ to_fine, (mind_bytes(here), mind_bytes(there))
    for freedom in linear.FREEDOMS:
        matrix, _ = linear.improved(matrix, features, counts.astype(np.uint8), 1, here.shape, freedom, hold=HOLD)
    places = np.tensordot(matrix[:3, :3], np.indices(here.shape), 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
    aligned = ndi.map_coordinates(there, places, order=1, mode="nearest")
    seen = np.all([(p >= 0) & (p <= n - 1) for p, n in zip(places, there.shape, strict=True)], axis=0)
    found = gauss_newton.register(here, aligned, counts & seen, LEVEL_MM, finish="mind", smooth=smooth).displacement
    at = (np.indices(fixed.shape) - (reduction - 1) / 2) / reduction
    fine = np.stack([ndi.map_coordinates(u, at, order=1, mode="nearest") for u in found]) * np.float32(reduction)
    return Located(start, to_fine @ matrix @ to_coarse, fine.astype(np.float32))


def averaged(image: np.ndarray, factor: int) -> np.ndarray:
    """Return the means over blocks of `factor` voxels along each axis, (X, Y, Z) float32; what is left over at the ends is cut off."""
    a, b, c = (n // factor for n in image.shape)
    blocks = image[: a * factor, : b * factor, : c * factor].reshape(a, factor, b, factor, c, factor)
    return np.ascontiguousarray(blocks.mean((1, 3, 5)), dtype=np.float32)
