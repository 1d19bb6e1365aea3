"""Working images of a pair, the deformation between them, and labels from class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from cohortex.blocks import map_blocks
from cohortex.filters.scores import labels_from_scores
from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.affine import Scan
from cohortex.models.regseg.losses import bending, consistency_loss, diffusion, folding_loss
from cohortex.models.regseg.mind import difference, multiscale_mind, multiscale_mind_loss
from cohortex.models.regseg.warp import double, identity_points, invert, sample
from cohortex.volume import ArrayLike

EXTENT_MM = (200.0, 250.0, 240.0)
"""Largest box that is worked on, along R, A and S: a head with room."""
MULTIPLE = 8


@dataclass(frozen=True)
class Prepared:
    """An image ready to be put on working grids: array (may be lazy), affine and modality, coarse mask of the body, intensity range."""

    array: ArrayLike
    affine: np.ndarray
    modality: str
    mask: np.ndarray
    mask_affine: np.ndarray
    levels: tuple[float, float]

    def box(self, spacing_mm: float, extent_mm: Sequence[float] = EXTENT_MM) -> grids.Grid:
        """Return the working grid around the body."""
        return grids.box(*grids.bounds(self.mask, self.mask_affine), spacing_mm, extent_mm, MULTIPLE)

    def on(self, grid: grids.Grid, matrix: np.ndarray | None = None, out: Any = None) -> Any:
        """Return the image on a grid, within 0 and 1; `matrix` takes the grid's world to the image's.

        It goes to `out`, block by block; to an array in memory when that is not given.
        """
        means, affine = grids.averaged(self.array, self.affine, float(grid.spacing[0]))
        there = grids.looked(means, affine, grid, matrix, outside=self.levels[0])
        normalised = partial(grids.normalised, modality=self.modality, levels=self.levels)
        return map_blocks(normalised, there, out=np.empty(grid.shape, np.float32) if out is None else out)

    def covers(self, grid: grids.Grid, matrix: np.ndarray | None = None) -> np.ndarray:
        """Return where on a grid the image has voxels, (X, Y, Z) bool."""
        whole = np.ones(self.mask.shape, np.float32)
        return grids.resample(whole, self.mask_affine, grid, matrix, mode="nearest", outside=0.0) > 0.5

    def body_on(self, grid: grids.Grid, grown: int = 2) -> np.ndarray:
        """Return the body mask, grown by coarse voxels, on a grid, (X, Y, Z) bool."""
        from scipy import ndimage as ndi

        larger = ndi.binary_dilation(self.mask, iterations=grown) if grown else self.mask
        return grids.resample(larger.astype(np.float32), self.mask_affine, grid, mode="nearest", outside=0.0) > 0.5

    def scan(self, spacing_mm: float = 3.0) -> Scan:
        """Return the image as the affine search wants it."""
        unit = grids.size_unit(self.array.shape, self.affine)
        small, affine = grids.reduced(self.array, self.affine, spacing_mm * unit)
        return Scan(grids.normalised(small, self.modality, self.levels), affine, self.mask, self.mask_affine)


def prepare(array: ArrayLike, affine: np.ndarray, modality: str) -> Prepared:
    """Look at an image once, which may be lazy: where the body is, which intensities it has."""
    small, coarse = grids.reduced(array, affine, grids.COARSE_MM * grids.size_unit(array.shape, affine))
    mask = grids.body(small, modality)
    return Prepared(array, affine, modality, mask, coarse, grids.intensity_range(small, modality, mask))


def refine(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    mask: torch.Tensor,
    start: torch.Tensor | None,
    steps: int,
    scales: Sequence[tuple[int, int]],
    smooth: float,
    consistency: float = 0.0,
    labels: tuple[torch.Tensor, torch.Tensor] | None = None,
    knots: int = 16,
) -> torch.Tensor:
    """Improve a displacement for this one pair (instance optimisation, as in Balakrishnan et al. 2019 and Siebert et al. 2021).

    L-BFGS on the control points of a smooth displacement that is added to the start, by the difference of MIND descriptors
    (computed once and warped), bending and diffusion energy, a guard against folding and, with soft labels of both, their agreement.

    Parameters
    ----------
    fixed, moving, mask : (1, 1, X, Y, Z) tensors
        On the working grid, the moving one aligned; even axes.
    start : (1, 3, X, Y, Z) tensor, optional
        Displacement in voxels to begin with.
    steps : int
        Iterations; 0 returns the start.
    scales : sequence of (radius, dilation)
    smooth, consistency : float
        Weights beside the MIND term.
    labels : two (1, K, X, Y, Z) tensors, optional
        Class probabilities of the fixed and of the moving image.
    knots : int
        Voxels from one control point to the next, even. Single voxels would follow noise, most of all in the air.

    Returns
    -------
    (1, 3, X, Y, Z) tensor
        Displacement in voxels.
    """
    begun = torch.zeros(1, 3, *fixed.shape[2:], device=fixed.device) if start is None else start
    if steps == 0:
        return begun
    pool = torch.nn.functional.avg_pool3d
    with torch.no_grad():
        # Averaged, and looked at between the voxels (the means of eight): linear interpolation blurs, blurred noise differs less, and
        # an energy taken at the voxels themselves would pay every displacement that ends between them.
        here, there = (pool(multiscale_mind(x, scales), 3, stride=1, padding=1, count_include_pad=False) for x in (fixed, moving))
        begun_coarse, target, weight = pool(begun, 2) / 2, pool(here, 2), pool(mask, 2)
        soft = (pool(labels[0], 2), labels[1]) if labels is not None and consistency > 0 else None
    shape = tuple(begun_coarse.shape[2:])
    centres = 2 * identity_points(shape, fixed.device)[None] + 0.5
    points = [max(2, 2 * n // knots) for n in shape]
    control = torch.zeros(1, 3, *points, device=fixed.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([control], max_iter=steps, history_size=10, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def energy() -> torch.Tensor:
        optimiser.zero_grad()
        coarse = begun_coarse + _smooth(control, shape)
        where = centres + 2 * coarse
        loss = difference(target, sample(there, where, exact=False), weight)
        loss = loss + smooth * (diffusion(coarse) + bending(coarse)) + folding_loss(coarse)
        if soft is not None:
            loss = loss + consistency * consistency_loss(soft[0], sample(soft[1], where, exact=False))
        loss.backward()
        return loss

    # Steps of Adam are as long where nothing is to be seen as at an edge; quasi-Newton steps follow the energy.
    optimiser.step(energy)  # type: ignore[arg-type]
    with torch.no_grad():
        return begun + double(_smooth(control, shape))


def _smooth(control: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return control points spread over a grid: linear between them, then averaged, close to a cubic spline."""
    spread = torch.nn.functional.interpolate(control, size=tuple(shape), mode="trilinear", align_corners=False)
    return torch.nn.functional.avg_pool3d(spread, 3, stride=1, padding=1, count_include_pad=False)


def displaced_mind_loss(
    fixed: torch.Tensor, moving: torch.Tensor, flow: torch.Tensor | None, scales: Sequence[tuple[int, int]], mask: torch.Tensor
) -> torch.Tensor:
    """Return E_msMIND of a fixed and a displaced moving image, compared half-way between the voxels (`between`)."""
    target, moved, weight = between(fixed, moving, flow, mask)
    return multiscale_mind_loss(target, moved, scales, weight)


def between(
    fixed: torch.Tensor, moving: torch.Tensor, flow: torch.Tensor | None, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a fixed image, a displaced moving image and a mask as they are half-way between the voxels.

    There both are the means of eight voxels where nothing moves, so the blur of interpolation rewards no displacement. `flow` is
    (B, 3, X, Y, Z) in voxels, None for none; the other tensors are (B, 1, X, Y, Z); those returned are a voxel smaller along each axis.
    """
    target, weight = (torch.nn.functional.avg_pool3d(x, 2, stride=1) for x in (fixed, mask))
    if flow is None:
        return target, torch.nn.functional.avg_pool3d(moving, 2, stride=1), weight
    points = identity_points(tuple(target.shape[2:]), fixed.device) + 0.5 + torch.nn.functional.avg_pool3d(flow, 2, stride=1)
    return target, sample(moving, points, exact=False), weight


def to_mm(displacement: torch.Tensor, grid: grids.Grid) -> grids.Displacement:
    """Return a displacement (1, 3, X, Y, Z) in voxels of a grid along the world's axes as millimetres."""
    return grids.Displacement(np.ascontiguousarray(displacement[0].cpu().numpy() * np.float32(grid.spacing[0])), grid)


def inverse(displacement: grids.Displacement) -> grids.Displacement:
    """Return the displacement that leads back, on the same grid."""
    spacing = np.float32(displacement.grid.spacing[0])
    backward = invert(torch.from_numpy(displacement.mm / spacing)[None])[0].numpy() * spacing
    return grids.Displacement(np.ascontiguousarray(backward), displacement.grid)


def labels_on(
    grid: grids.Grid,
    probabilities: ArrayLike,
    box: grids.Grid,
    transform: np.ndarray | None = None,
    displacement: grids.Displacement | None = None,
) -> Any:
    """Return the most probable class at every voxel of a grid, uint8; the probabilities are never laid on that grid.

    Parameters
    ----------
    grid : Grid
        Of the labels wanted; where they do not fit into memory they are a scratch array.
    probabilities : (K, X, Y, Z) array-like
        On `box`; beyond it everything is background. May be lazy.
    transform, displacement
        From the world of `grid` to that of `box`, as in `grid.looked`.
    """
    to_box = np.linalg.inv(box.affine) @ (np.eye(4) if transform is None else transform)
    return labels_from_scores(probabilities, grids.route(grid, to_box, displacement), grid.shape)
