"""Checks of a voxel-to-world affine, and the step to the closest canonical axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.volume import ArrayLike

FINEST_MM, COARSEST_MM = 1e-3, 100.0
FINEST_MICROSCOPY_MM = 1e-5
"""For formats that name the unit of length of every axis, where no header in metres can be taken for millimetres."""
MAX_SHEAR_DEGREES = 1.0
MAX_WORLD_MM = 1e5


def check_affine(affine: np.ndarray, name: str, finest_mm: float = FINEST_MM) -> np.ndarray:
    """Return a voxel-to-world affine (mm) as float64 after checking that it describes a usable grid.

    Raises
    ------
    BadInput
        ``non-finite-affine``, ``singular-affine``, ``bad-spacing`` (voxels finer than `finest_mm` or coarser than
        100 mm), ``sheared-affine`` (axes more than 1 degree off a right angle), ``bad-position``.
    """
    affine = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(affine).all():
        raise BadInput("non-finite-affine", f"{name} has NaN or infinite values in its affine: write its geometry again.")
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if (spacing == 0).any() or abs(np.linalg.det(axes / np.where(spacing == 0, 1, spacing))) < 1e-3:
        raise BadInput("singular-affine", f"{name} has an affine that maps its voxels onto a plane or a point: write its geometry again.")
    if spacing.min() < finest_mm * (1 - 1e-9) or spacing.max() > COARSEST_MM:
        found = " x ".join(f"{s:.6g}" for s in spacing)
        raise BadInput(
            "bad-spacing",
            f"{name} has voxels of {found} mm, outside {finest_mm:g} to {COARSEST_MM:g} mm: check the units and geometry in its header.",
        )
    unit = axes / spacing
    cosine = np.abs(unit.T @ unit - np.eye(3)).max()
    if cosine > np.sin(np.radians(MAX_SHEAR_DEGREES)):
        found = f"{np.degrees(np.arcsin(min(1.0, cosine))):.1f}"
        raise BadInput(
            "sheared-affine", f"{name} has voxel axes that are {found} degrees off a right angle: resample it to an orthogonal grid."
        )
    if np.abs(affine[:3, 3]).max() > MAX_WORLD_MM:
        raise BadInput("bad-position", f"{name} lies more than {MAX_WORLD_MM / 1000:.0f} m from the origin: check its affine.")
    return affine


class Oriented:
    """A lazy array (x, y, z) seen with its axes in another order and some of them reversed; it is read in boxes."""

    def __init__(self, array: ArrayLike, order: Sequence[int], flipped: Sequence[bool]):
        self.array = array
        self.order = tuple(order)
        self.flipped = tuple(flipped)
        self.shape = tuple(int(array.shape[axis]) for axis in self.order)
        self.dtype = np.dtype(array.dtype)
        slow = getattr(array, "slow", None)
        self.slow = None if slow is None else self.order.index(slow)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = [slice(None) if part is Ellipsis else part for part in (key if isinstance(key, tuple) else (key,))]
        wanted = [slice(None)] * len(self.order)
        for axis, part in enumerate((*keys, *[slice(None)] * (len(self.order) - len(keys)))):
            size = self.shape[axis]
            start, stop, step = part.indices(size)
            if step != 1:
                raise IndexError("an oriented array is read in boxes, without steps")
            wanted[self.order[axis]] = (
                slice(size - max(stop, start), size - start) if self.flipped[axis] else slice(start, max(stop, start))
            )
        box = np.asarray(self.array[tuple(wanted)]).transpose(self.order)
        return box[tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)]


def to_ras(data: ArrayLike, affine: np.ndarray) -> tuple[Any, np.ndarray]:
    """Permute and flip the first three axes so that they run closest to right, front and up.

    No voxel is interpolated: each keeps its place in the world. Returns a view (`Oriented` of a lazy array) and its affine.
    """
    unit = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    # the permutation with the largest sum of cosines; six candidates need no solver
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    order = max(orders, key=lambda o: unit[0, o[0]] + unit[1, o[1]] + unit[2, o[2]])
    axes, origin = affine[:3, list(order)].copy(), affine[:3, 3].copy()
    flipped = [bool(axes[axis, axis] < 0) for axis in range(3)]
    for axis in range(3):
        if flipped[axis]:
            origin += axes[:, axis] * (data.shape[order[axis]] - 1)
            axes[:, axis] *= -1
    out = np.eye(4)
    # adding 0 turns -0 into 0: one geometry must have one hash
    out[:3, :3], out[:3, 3] = axes + 0.0, origin + 0.0
    if not isinstance(data, np.ndarray):
        return Oriented(data, order, flipped), out
    turned = data.transpose(*order, *range(3, data.ndim))
    return turned[tuple(slice(None, None, -1 if flip else 1) for flip in flipped)], out


def lps_to_ras(affine: np.ndarray) -> np.ndarray:
    """Return an affine whose world is RAS from one whose world is LPS (DICOM, ITK), or the other way round."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, dtype=np.float64)


def centred_affine(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> np.ndarray:
    """Return the affine of an axial grid around the origin whose x runs to the left and y to the back.

    It is how a picture or a slice without position lies in the world: its first row in front (on top), its
    first column at the patient's right, as pictures are shown.
    """
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
