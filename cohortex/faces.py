"""Where the face of a head is: a region around the MNI152 brain that is laid over the head, and rays that look at the face from in front.

Points are in mm of the MNI152 template (R, A, S). The template is skull-stripped, so no face is in it: what lies in front of and below a
plane from the brow to the throat is face, what lies beside the brain at the height of the ears is ear, and what is nearer to the brain
than a margin is neither. The region is not cut along the skin: against the noise of the air zeros in the form of a face would show
that face.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.models.regseg.grid import Grid, looked, resample
from cohortex.volume import ArrayLike

BROW_MM, THROAT_MM = (90.0, 10.0), (10.0, -78.0)
"""Points (A, S) of the plane: on the skin above the eyebrows, and below the back of the mouth's floor."""
EARS_MM = ((70.0, 132.0), (-72.0, 22.0), (-96.0, -2.0))
"""The box of an ear: |R|, A, S."""
CANVAS_MM, CANVAS_FROM, CANVAS_TO = 2.0, (-132.0, -172.0, -220.0), (132.0, 176.0, 120.0)
"""The grid that the region is drawn on; beyond it the values of its border go on."""
WINDOW_MM = ((-50.0, 50.0), (-112.0, -14.0))
"""Where rays from in front begin: R, S."""
RAY_MM = (150, 30)
"""From where to where (A) they go."""
FRONT_MM, SKIN_MM = 40.0, 8.0
"""Skin of a face is at least so far in front (A), and so far from the brain."""
SAME_MM = 2.0
"""A surface that lies back by no more is the one that was there."""


@dataclass(frozen=True)
class Seen:
    """What rays from in front meet.

    Attributes
    ----------
    before, after : (R, S) float32 arrays
        Where (A, mm) the first tissue is, with the face and without; NaN where a ray meets none.
    face : (R, S) bool array
        Rays that met a face.
    """

    before: np.ndarray
    after: np.ndarray
    face: np.ndarray

    @property
    def rays(self) -> int:
        """How many rays met a face."""
        return int(self.face.sum())

    @property
    def left_percent(self) -> float:
        """Share of the face's surface that is where it was, in percent; 0 where there was no face."""
        return 100.0 * float((self.after[self.face] >= self.before[self.face] - SAME_MM).mean()) if self.rays else 0.0


def template_brain() -> tuple[np.ndarray, np.ndarray]:
    """Return the MNI152 T1, skull-stripped, that nilearn ships, (x, y, z) float32, and its affine; nilearn, slow to import, is not."""
    import nibabel as nib

    package = find_spec("nilearn")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    image: Any = nib.load(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")  # type: ignore[attr-defined]
    return np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine, np.float64)


def canvas() -> Grid:
    """Return the grid in the template's space that regions are drawn on."""
    affine = np.diag([CANVAS_MM] * 3 + [1.0])
    affine[:3, 3] = CANVAS_FROM
    x, y, z = (round((b - a) / CANVAS_MM) + 1 for a, b in zip(CANVAS_FROM, CANVAS_TO, strict=True))
    return Grid((x, y, z), affine)


@lru_cache(maxsize=1)
def brain_distance_mm() -> np.ndarray:
    """Return how far every point of the canvas is from the template's brain in mm, (X, Y, Z) float32, 0 inside."""
    from scipy import ndimage

    array, affine = template_brain()
    brain = resample((array > 0).astype(np.float32), affine, canvas(), outside=0.0) > 0.2
    found: Any = ndimage.distance_transform_edt(~brain, sampling=CANVAS_MM)
    return found.astype(np.float32)


def region(margin_mm: float, ears: bool = False) -> np.ndarray:
    """Return how deep every point of the canvas lies in what is to be removed, about in mm: removed is what is above 0.

    Parameters
    ----------
    margin_mm : float
        Nothing nearer to the template's brain is removed.
    ears : bool
        Whether the ears are removed, too.

    Returns
    -------
    (X, Y, Z) float32 array
    """
    grid = canvas()
    x, y, z = (
        (CANVAS_FROM[axis] + CANVAS_MM * np.arange(n, dtype=np.float32)).reshape([n if axis == each else 1 for each in range(3)])
        for axis, n in enumerate(grid.shape)
    )
    (front, top), (back, low) = BROW_MM, THROAT_MM
    deep = ((y - front) * (top - low) - (z - top) * (front - back)) / np.float32(np.hypot(front - back, top - low)) + 0 * x
    if ears:
        sides = zip((np.abs(x), y, z), EARS_MM, strict=True)
        inside = [np.minimum(where - begin, end - where) for where, (begin, end) in sides]
        deep = np.maximum(deep, np.minimum(np.minimum(inside[0], inside[1]), inside[2]))
    return np.ascontiguousarray(np.minimum(deep, brain_distance_mm() - np.float32(margin_mm)), dtype=np.float32)


def region_on(grid: Grid, deep: np.ndarray, matrix: np.ndarray) -> ArrayLike:
    """Return a region of the canvas at the points of an image's grid, lazily.

    Parameters
    ----------
    grid : Grid
        Of the image.
    deep : (X, Y, Z) array
        What `region` gave.
    matrix : (4, 4) array
        World of the template to world of the image, mm.
    """
    return looked(deep, canvas().affine, grid, np.linalg.inv(matrix))


def depth_at(deep: np.ndarray, points_mm: np.ndarray) -> np.ndarray:
    """Return a region of the canvas at (n, 3) points of the template's space, (n,) float32."""
    from scipy import ndimage

    places = ((np.asarray(points_mm) - CANVAS_FROM) / CANVAS_MM).T
    return ndimage.map_coordinates(deep, places, order=1, mode="nearest").astype(np.float32)


def seen_from_in_front(array: ArrayLike, affine: np.ndarray, level: float, deep: np.ndarray, matrix: np.ndarray) -> Seen:
    """Look at a head from in front, with a region and without it.

    Parameters
    ----------
    array, affine
        Of the head's image.
    level : float
        What is brighter is tissue.
    deep : (X, Y, Z) array
        What `region` gave.
    matrix : (4, 4) array
        World of the template to world of the image, mm.

    Returns
    -------
    Seen
        Rays that first meet tissue within `SKIN_MM` of the brain met no skin: there the image ends, or it shows none.
    """
    (left, right), (low, high) = WINDOW_MM
    begin, end = RAY_MM
    affine_of_rays = np.diag([2.0, -1.0, 2.0, 1.0])
    affine_of_rays[:3, 3] = (left, begin, low)
    rays = Grid((round((right - left) / 2) + 1, begin - end + 1, round((high - low) / 2) + 1), affine_of_rays)
    tissue = resample(array, affine, rays, matrix, outside=level - 1.0) > level
    gone, far = (resample(each, canvas().affine, rays) for each in (deep, brain_distance_mm()))
    before, after = _first(tissue), _first(tissue & (gone <= 0))
    beside = np.take_along_axis(far, np.argmax(tissue, axis=1)[:, None], axis=1)[:, 0]
    return Seen(before, after, (before > FRONT_MM) & (beside > SKIN_MM))


def _first(tissue: np.ndarray) -> np.ndarray:
    """Return where (A, mm) the first True along the second axis is, NaN where there is none."""
    return np.where(tissue.any(axis=1), RAY_MM[0] - np.argmax(tissue, axis=1), np.nan).astype(np.float32)
