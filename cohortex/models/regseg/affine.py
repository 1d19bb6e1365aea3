"""Where one image lies in another: rigid or affine, by mutual information.

Several starts (the headers, the centres of mass, the centres of the grids, with a few turns of the head) are compared at a coarse
grid; the best is refined by SimpleITK's Mattes mutual information (Mattes et al., IEEE TMI 22(1), 2003) from coarse to fine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cohortex.measures.registration import mutual_information
from cohortex.models.regseg import grid as grids

Kind = Literal["rigid", "affine", "centres", "none"]
TURNS_DEG = (-15.0, 0.0, 15.0)
FINE_MM = 4.0
"""Spacing at which poses are judged; like all lengths here for heads, less for small images (`grid.size_unit`)."""
SEARCH_MM = 8.0
BINS = 32
MIRROR_MARGIN = 0.03
"""Share by which a mirrored image has to have more mutual information before it is said to be the right one."""
MIRROR_HOPELESS = 0.15
"""Share by which it may have less before it is looked for any further."""
CLOSE_MM, CLOSE_DEG = 2.0, 2.0
"""A refinement that ends so near to the headers' pose confirms it: random samples alone move its end by about half of that."""


@dataclass(frozen=True)
class Scan:
    """An image as the search needs it: array (X, Y, Z) float32 within 0 and 1, affine, coarse mask of the body and its affine."""

    array: np.ndarray
    affine: np.ndarray
    mask: np.ndarray
    mask_affine: np.ndarray


@dataclass(frozen=True)
class Pose:
    """What was found.

    Attributes
    ----------
    matrix : (4, 4) array
        World of the fixed to world of the moving image, mm RAS.
    before, after : float
        Mutual information in nats at the headers' pose and at `matrix`.
    start : str
        Which start won: header | masses | centres.
    kept : bool
        The refinement found nothing better, so `matrix` is the start.
    confirmed : bool
        The headers' pose was kept, and the refinement that began elsewhere ended beside it: the images already lay together.
    """

    matrix: np.ndarray
    before: float
    after: float
    start: str
    kept: bool
    confirmed: bool = False


def align(fixed: Scan, moving: Scan, kind: Kind = "rigid", starts: Sequence[str] = ("header", "masses", "centres"), seed: int = 0) -> Pose:
    """Find the affine from the fixed to the moving world.

    Parameters
    ----------
    fixed, moving : Scan
    kind : {"rigid", "affine", "centres", "none"}
        Six or twelve parameters; centres: only the middles of the two bodies are put together, whatever the information says (ultrasound);
        none keeps the headers' pose.
    starts : sequence of {"header", "masses", "centres"}
        Where the search may begin; starts other than the header are tried with turns of the head as well.
    seed : int
        Of the random samples of the mutual information.

    Returns
    -------
    Pose
        With the best start where the refinement is not better than it.
    """
    fine, search = _target(fixed, FINE_MM), _target(fixed, SEARCH_MM)
    before = _information(fine, moving, np.eye(4))
    if kind == "none":
        return Pose(np.eye(4), before, before, "header", kept=True)
    if kind == "centres":
        matrix = np.eye(4)
        matrix[:3, 3] = _middle(moving, _midrange) - _middle(fixed, _midrange)
        return Pose(matrix, before, _information(fine, moving, matrix), "centres", kept=True)
    ranked = sorted(((_information(search, moving, m), name, m) for name, m in _starts(fixed, moving, starts)), key=lambda r: -r[0])
    _, name, start = ranked[0]
    matrix = _refine(fixed, moving, start, "rigid", seed)
    if kind == "affine":
        matrix = _refine(fixed, moving, matrix, "affine", seed)
    at_start, after = _information(fine, moving, start), _information(fine, moving, matrix)
    if max(at_start, before) >= after:
        best, name, after = (np.eye(4), "header", before) if before >= at_start else (start, name, at_start)
        return Pose(best, before, after, name, kept=True, confirmed=name == "header" and _is_small(matrix, fixed))
    return Pose(matrix, before, after, name, kept=False)


def given(fixed: Scan, moving: Scan, matrix: np.ndarray) -> Pose:
    """Return a pose that is known already as `align` returns what it found."""
    fine = _target(fixed, FINE_MM)
    return Pose(matrix, _information(fine, moving, np.eye(4)), _information(fine, moving, matrix), "given", kept=True)


def mirrored_information(fixed: Scan, moving: Scan, pose: Pose, seed: int = 0) -> float:
    """Return the mutual information in nats of the fixed and the mirrored moving image where they lie best.

    Parameters
    ----------
    fixed, moving : Scan
    pose : Pose
        Where the moving image lies. The search for the mirrored one begins at that place, mirrored at the middle of either body; where it
        shares much less there it is the wrong way round for certain, and is not moved any further.
    seed : int
    """
    fine = _target(fixed, FINE_MM)
    here, there = (np.diag([-1.0, 1.0, 1.0, 1.0]) for _ in range(2))
    here[0, 3], there[0, 3] = 2 * _middle(fixed, _midrange)[0], 2 * _middle(moving, _midrange)[0]
    other = Scan(*_mirrored(moving.array, moving.affine, there), *_mirrored(moving.mask, moving.mask_affine, there))
    start = there @ pose.matrix @ here
    at_start = _information(fine, other, start)
    if at_start < (1 - MIRROR_HOPELESS) * pose.after:
        return at_start
    turned = start[:3, :3]
    kind: Kind = "rigid" if np.allclose(turned @ turned.T, np.eye(3), atol=1e-6) else "affine"
    return max(at_start, _information(fine, other, _refine(fixed, other, start, kind, seed)))


def _mirrored(array: np.ndarray, affine: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an image reflected in the world by an affine; its first axis is turned round so that the grid stays right-handed."""
    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    turn[0, 3] = array.shape[0] - 1
    return np.ascontiguousarray(array[::-1]), mirror @ affine @ turn


def _is_small(matrix: np.ndarray, fixed: Scan) -> bool:
    """Say whether a motion moves the middle of the body by less than `CLOSE_MM` and turns it by less than `CLOSE_DEG`."""
    middle = _middle(fixed, np.mean)
    shift = np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle)
    cosine = np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)
    return bool(shift < CLOSE_MM * grids.size_unit(fixed.array.shape, fixed.affine) and np.degrees(np.arccos(cosine)) < CLOSE_DEG)


def information(fixed: Scan, moving: Scan, matrix: np.ndarray, displacement: grids.Displacement | None = None) -> float:
    """Return the mutual information in nats of two images inside the fixed one's body, at 4 mm."""
    return _information(_target(fixed, FINE_MM), moving, matrix, displacement)


def _target(fixed: Scan, spacing_mm: float) -> tuple[grids.Grid, np.ndarray, np.ndarray]:
    """Return a grid over the fixed image, its values there and where they count."""
    from scipy import ndimage as ndi

    small, affine = grids.reduced(fixed.array, fixed.affine, spacing_mm * grids.size_unit(fixed.array.shape, fixed.affine))
    lattice = grids.Grid(small.shape, affine)
    inside = grids.resample(ndi.binary_dilation(fixed.mask, iterations=2), fixed.mask_affine, lattice, mode="nearest", outside=0.0) > 0.5
    return lattice, small, inside


def _information(
    target: tuple[grids.Grid, np.ndarray, np.ndarray], moving: Scan, matrix: np.ndarray, displacement: grids.Displacement | None = None
) -> float:
    lattice, values, inside = target
    array, affine = grids.reduced(moving.array, moving.affine, float(lattice.spacing.max()))
    there = grids.resample(array, affine, lattice, matrix, displacement, outside=0.0)
    return mutual_information(values[inside], there[inside], BINS)


def _starts(fixed: Scan, moving: Scan, names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    found: list[tuple[str, np.ndarray]] = []
    if "header" in names:
        found.append(("header", np.eye(4)))
    centres = {
        "masses": (_middle(fixed, np.mean), _middle(moving, np.mean)),
        "centres": (_middle(fixed, _midrange), _middle(moving, _midrange)),
    }
    for name, (here, there) in centres.items():
        if name not in names:
            continue
        for turns in itertools.product(TURNS_DEG, repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = rotation(turns)
            matrix[:3, 3] = there - matrix[:3, :3] @ here
            found.append((name, matrix))
    return found or [("header", np.eye(4))]


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """Return the rotation about R, then A, then S by so many degrees, (3, 3)."""
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _midrange(points: np.ndarray, axis: int) -> np.ndarray:
    return (points.min(axis=axis) + points.max(axis=axis)) / 2


def _middle(scan: Scan, how: Any) -> np.ndarray:
    return how(np.argwhere(scan.mask) @ scan.mask_affine[:3, :3].T + scan.mask_affine[:3, 3], axis=0)


def _refine(fixed: Scan, moving: Scan, start: np.ndarray, kind: Kind, seed: int) -> np.ndarray:
    """Climb the mutual information from a start."""
    import SimpleITK
    from scipy import ndimage as ndi

    unit = grids.size_unit(fixed.array.shape, fixed.affine)
    here, there = _itk(fixed.array, fixed.affine), _itk(moving.array, moving.affine)
    centre = _middle(fixed, np.mean) * (-1, -1, 1)
    transform: Any = SimpleITK.Euler3DTransform() if kind == "rigid" else SimpleITK.AffineTransform(3)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    begun = lps @ start @ lps
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(begun[:3, :3].ravel().tolist(), *([1e-6] if kind == "rigid" else []))
    transform.SetTranslation((begun[:3, :3] @ centre + begun[:3, 3] - centre).tolist())
    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel([0.5, 0.25], seed=seed % (2**31 - 2) + 1)
    grown = ndi.binary_dilation(fixed.mask, iterations=2).astype(np.float32)
    mask = grids.resample(grown, fixed.mask_affine, grids.Grid(fixed.array.shape, fixed.affine), mode="nearest", outside=0.0)
    method.SetMetricFixedMask(SimpleITK.Cast(_itk(mask, fixed.affine), SimpleITK.sitkUInt8))
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0 * unit, 0.01 * unit, 60, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-5)
    method.SetOptimizerScalesFromPhysicalShift()
    thin = min(min(fixed.array.shape), min(moving.array.shape)) < 16
    method.SetShrinkFactorsPerLevel([1, 1] if thin else [2, 1])
    method.SetSmoothingSigmasPerLevel([4.0 * unit, 2.0 * unit])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(here, there)
    except RuntimeError:
        # ITK's word for too little overlap: the caller compares with the start and keeps that.
        return start
    found = np.eye(4)
    found[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    found[:3, 3] = np.array(transform.GetTranslation()) + centre - found[:3, :3] @ centre
    return lps @ found @ lps


def _itk(array: np.ndarray, affine: np.ndarray) -> Any:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.astype(np.float32).transpose(2, 1, 0)))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    flip = np.array([-1.0, -1.0, 1.0])
    # Affines with a little shear are made orthogonal: SimpleITK takes rotations only.
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((affine[:3, 3] * flip).tolist())
    image.SetDirection((flip[:, None] * (left @ right)).ravel().tolist())
    return image
