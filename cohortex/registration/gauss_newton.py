"""Deformable registration without learning: Gauss-Newton on a cubic B-spline, over self-similarities, then intensities.

The displacement is a cubic B-spline (Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 18(8), 1999). It makes
the sum of squared differences of MIND-SSC features, plus its bending energy, small. Every iteration sums, in one pass over the voxels, the
exact gradient and the 3 x 3 products of feature gradients (Gauss-Newton's curvature) into the control points, lumped as a mass matrix is,
and solves the damped system by conjugate gradients. Coarser levels have means of the features of the finest grid, and control points
two voxels apart; from level to level the spline is refined exactly. The last steps compare what `finish` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cohortex.registration import finish as finishing
from cohortex.registration import solve_kernels, spline_kernels
from cohortex.registration.bspline import Spline, fitted, zero
from cohortex.registration.fields import inverse_of, unfolded, warped
from cohortex.registration.mind import halved, mind_bytes

COARSEST_MM = 8.0
"""Most of a voxel at the coarsest level."""
LEVELS = 3
ITERATIONS = 6
SMOOTH = (0.1, 0.2, 0.3)
"""Weight of the bending energy beside the data's mean curvature, from coarse to fine."""
FINISH_ITERATIONS = 3
FINISH_SMOOTH = 0.1
MIND_SMOOTH = 0.3
DAMPING = 1e-3
CONJUGATE = 12


@dataclass(frozen=True)
class Found:
    """What a registration found.

    Attributes
    ----------
    displacement : (3, X, Y, Z) float32 array
        In voxels: voxel p of the fixed image lies at p + displacement(p) of the moving image.
    finish : str
        What the last steps compared: images | moving-from-fixed | fixed-from-moving | mind | none; ``+mind`` where the
        self-similarities were compared as well.
    agreement : float
        Of the candidate that agreed best, see `cohortex.registration.finish`.
    backward : (3, X, Y, Z) float32 array or None
        Of the other direction, where it was estimated as well (`symmetric`).
    """

    displacement: np.ndarray
    finish: str
    agreement: float
    backward: np.ndarray | None = None


def register(
    fixed: np.ndarray,
    moving: np.ndarray,
    mask: np.ndarray | None = None,
    spacing_mm: float = 1.0,
    start: np.ndarray | None = None,
    finish: str = "auto",
    symmetric: bool = False,
    smooth: float = 1.0,
) -> Found:
    """Find the displacement that takes a fixed image to a moving one.

    Parameters
    ----------
    fixed, moving : (X, Y, Z) float32 arrays
        On one grid of cubic voxels, the moving one already brought there by an affine. Finite; any contrasts.
    mask : (X, Y, Z) bool array, optional
        Where the fixed image counts; everywhere when not given.
    spacing_mm : float
        Edge of a voxel; decides at which levels the search begins.
    start : (3, X, Y, Z) array, optional
        A displacement in voxels to begin with, from a network say: only the two finest levels and the last steps follow.
    finish : {"auto", "images", "moving-from-fixed", "fixed-from-moving", "mind", "none"}
        What the last steps compare; auto chooses as `cohortex.registration.finish` says.
    symmetric : bool
        Estimate both directions and, after each level, make either the mean of itself and of the other's inverse: twice the time,
        and what is found hardly depends on which image is called fixed.
    smooth : float
        Factor of the weights of smoothness.

    Returns
    -------
    Found
        The smallest Jacobian determinant of the displacement, by central differences, is at least `fields.LIMIT`.

    Raises
    ------
    ValueError
        When shapes differ or an axis is shorter than 8 voxels.
    """
    if fixed.shape != moving.shape or fixed.ndim != 3 or min(fixed.shape) < 8:
        raise ValueError(f"both images have one grid of at least 8 voxels an axis, these are {fixed.shape} and {moving.shape}")
    factors = levels_of(spacing_mm)
    shape, padding = fixed.shape, [(0, -n % factors[0]) for n in fixed.shape]
    here, there = (np.pad(_ranged(x), padding, mode="edge") for x in (fixed, moving))
    inside = np.pad(np.ones(shape, bool) if mask is None else np.asarray(mask, bool), padding)
    pyramids = [_pyramid(mind_bytes(x), factors) for x in (here, there)]
    weights = _pyramid(inside.astype(np.uint8)[..., None] * np.uint8(255), factors)
    both = [zero(here.shape, 2 * factors[0])] * (2 if symmetric else 1)
    used = factors
    if start is not None:
        used = factors[-2:]
        begun = np.pad(np.asarray(start, np.float32), [(0, 0), *padding], mode="edge")
        both = [fitted(begun, 2 * used[0])]
        both += [inverse_of(both[0])] if symmetric else []
    for factor in used:
        weight = SMOOTH[len(SMOOTH) - len(factors) + factors.index(factor)] * smooth
        for n, spline in enumerate(both):
            while spline.spacing > 2 * factor:
                spline = spline.refined()
            one, two = pyramids[n][factor], pyramids[1 - n][factor]
            both[n] = unfolded(improved(spline, [(one, two)], _counts(weights[factor]), factor, ITERATIONS, weight), factor=factor)
        both = _agreed(both)
    chosen, agreement = "none", 0.0
    if finish != "none":
        compared = _compared(here, there, inside, both[0], spacing_mm, finish)
        chosen, agreement = compared.kind, compared.agreement
        pairs = [] if chosen == "mind" else [(compared.fixed, compared.moving)]
        if chosen == "mind" or (finish == "auto" and agreement < finishing.SURE):
            pairs.append((pyramids[0][1], pyramids[1][1]))
            chosen += "" if chosen == "mind" else "+mind"
        weight = (MIND_SMOOTH if chosen == "mind" else FINISH_SMOOTH) * smooth
        for n, spline in enumerate(both):
            terms = pairs if n == 0 else [(moving, fixed) for fixed, moving in pairs]
            both[n] = improved(spline, terms, inside.astype(np.uint8), 1, FINISH_ITERATIONS, weight)
        both = _agreed(both)
    dense = [unfolded(spline).displacement()[(slice(None), *(slice(n) for n in shape))] for spline in both]
    return Found(np.ascontiguousarray(dense[0]), chosen, agreement, np.ascontiguousarray(dense[1]) if symmetric else None)


def levels_of(spacing_mm: float) -> list[int]:
    """Return the factors of the levels, powers of two from coarse to fine."""
    coarsest = 1
    while coarsest < 8 and 2 * coarsest * spacing_mm <= COARSEST_MM * 1.01:
        coarsest *= 2
    return [f for f in (8, 4, 2, 1) if coarsest >= f > coarsest >> LEVELS]


def improved(
    spline: Spline, terms: Sequence[tuple[np.ndarray, np.ndarray]], weight: np.ndarray, factor: int, iterations: int, smooth: float
) -> Spline:
    """Return a displacement after iterations of Gauss-Newton.

    Parameters
    ----------
    spline : Spline
    terms : sequence of two arrays
        What is compared, of the fixed and of the moving image: (X, Y, Z, 12) uint8 features or (X, Y, Z) float32 images on the grid that is
        coarser by `factor` than the spline's. Every term counts by the inverse of its mean square, as if its differences were noise.
    weight : (X, Y, Z) uint8 array
        Not 0 where the fixed one counts.
    factor, iterations : int
    smooth : float
        Weight of the bending energy, in shares of the mean curvature of the data.
    """
    coefficients, tables = spline.coefficients.copy(), spline.tables(factor)
    knots = coefficients.shape[1:]
    total, system, change = np.empty((9, *knots), np.float32), np.empty((9, *knots), np.float32), np.empty_like(coefficients)
    for _ in range(iterations):
        total[:] = 0
        for fixed, moving in terms:
            system[:] = 0
            scale = np.float32(1 / factor)
            energy, count = spline_kernels.system(fixed, moving, weight, coefficients, *tables, scale, system)
            system *= np.float32(count / max(energy, 1e-9 * count, 1e-30))
            total += system
        # From the voxels of this grid to those of the finest.
        total[:6] *= np.float32(1 / factor**2)
        total[6:] *= np.float32(1 / factor)
        trace = (total[0] + total[3] + total[5]) / 3
        seen = trace > 0
        if not seen.any():
            break
        mean = float(trace[seen].mean())
        flat = (total.reshape(9, -1), coefficients.reshape(3, -1), knots)
        solve_kernels.step(*flat, np.float32(smooth * mean), np.float32(DAMPING * mean), CONJUGATE, 0.05, change.reshape(3, -1))
        coefficients += change
    return spline.with_coefficients(coefficients)


def _ranged(image: np.ndarray) -> np.ndarray:
    """Return an image between 0 and 1 by its percentiles 0.5 and 99.5, float32."""
    values = np.asarray(image, np.float32)
    low, high = np.percentile(values[::2, ::2, ::2], (0.5, 99.5))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return np.clip((values - np.float32(low)) / np.float32(max(high - low, 1e-12)), 0, 1)


def _pyramid(features: np.ndarray, factors: Sequence[int]) -> dict[int, np.ndarray]:
    found = {1: features}
    while (last := max(found)) < factors[0]:
        found[2 * last] = halved(found[last])
    return found


def _counts(weight: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(weight[..., 0] > 50).astype(np.uint8)


def _agreed(both: list[Spline]) -> list[Spline]:
    """Return either direction as the mean of itself and of the other one's inverse; a single direction stays."""
    if len(both) == 1:
        return both
    back = [inverse_of(both[1]), inverse_of(both[0])]
    return [one.with_coefficients((one.coefficients + other.coefficients) / 2) for one, other in zip(both, back, strict=True)]


def _compared(
    fixed: np.ndarray, moving: np.ndarray, inside: np.ndarray, spline: Spline, spacing_mm: float, wanted: str
) -> finishing.Compared:
    """Return what the last steps compare: what is wanted, or what agrees best."""
    nothing = np.zeros((0, 0, 0), np.float32)
    if wanted == "mind":
        return finishing.Compared("mind", nothing, nothing, 0.0)
    sigma = max(1.5, 3.0 / spacing_mm)
    displacement = spline.displacement()
    there = warped(moving, displacement)
    candidates: list[finishing.Compared] = []
    flat = finishing.locally_normalised(fixed, sigma), finishing.locally_normalised(moving, sigma)

    def consider(kind: finishing.Finish, one: np.ndarray, two: np.ndarray) -> None:
        candidates.append(finishing.Compared(kind, one, two, finishing.agreement(one, warped(two, displacement), inside)))

    if wanted in ("auto", "images"):
        consider("images", flat[0], flat[1])
    plain = wanted == "auto" and candidates[0].agreement >= finishing.PLAIN
    if wanted == "moving-from-fixed" or (wanted == "auto" and not plain):
        consider("moving-from-fixed", finishing.locally_normalised(finishing.predicted(fixed, there, inside), sigma), flat[1])
    if wanted == "fixed-from-moving" or (wanted == "auto" and not plain):
        translated = finishing.predicted(there, fixed, inside, moving)
        consider("fixed-from-moving", flat[0], finishing.locally_normalised(translated, sigma))
    best = max(candidates, key=lambda c: c.agreement + (finishing.AHEAD if c.kind == "images" else 0.0))
    if wanted == "auto" and best.agreement < finishing.ENOUGH:
        return finishing.Compared("mind", nothing, nothing, best.agreement)
    return best
