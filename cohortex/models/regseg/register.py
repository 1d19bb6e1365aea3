"""Bring one image to another: affine start, network or Gauss-Newton, a few steps for this very pair, and the checks on all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.measures.registration import folding_percent, jacobian_determinant
from cohortex.models.regseg import affine as poses
from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.deform import Prepared, displaced_mind_loss, inverse, refine, to_mm
from cohortex.models.regseg.sharpen import sharpened
from cohortex.registration import fields, gauss_newton

FOLDED, MOST_FOLDED = 0.05, 0.5
"""Jacobian determinant up to which a voxel counts as folded, and the percentage of the body's that is tolerated."""
LEAST_COVERED, PARTLY_COVERED = 5.0, 50.0
"""Percent of the fixed body that the moving image reaches: below the first there is nothing to compare, below the second it is told."""
ASTRAY = "registration-not-better"
OVERLAPLESS, PARTIAL, FLIPPED, FOLDS = "no-overlap", "partial-overlap", "left-right-flipped", "deformation-folded"


@dataclass(frozen=True)
class Registration:
    """Where the moving image lies in the fixed one.

    Attributes
    ----------
    matrix : (4, 4) array
        World of the fixed to world of the moving image, mm RAS.
    displacement, backward : Displacement or None
        In mm on the working grid of the fixed image, applied before the matrix; and the way back.
    measures : mapping
        ``covered_percent`` (of the fixed body by the moving image), ``deformation`` (kept | left-out | folded | none),
        ``deformed_by`` (network | network+gauss_newton | instance | gauss_newton), ``mi_before``, ``mi_after`` (nats),
        ``mind_before``, ``mind_after``, ``folding_percent``, ``displacement_p95_mm``, ``inverse_error_mm``, ...
    doubts : tuple of (code, sentence)
        What did not improve or cannot be trusted.
    """

    matrix: np.ndarray
    displacement: grids.Displacement | None = None
    backward: grids.Displacement | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[tuple[str, str], ...] = ()


def register(
    fixed: Prepared,
    moving: Prepared,
    freedom: str,
    settings: Mapping[str, Any],
    network: nn.Module | None = None,
    spacing_mm: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: np.ndarray | None = None,
) -> Registration:
    """Register one pair.

    Parameters
    ----------
    fixed, moving : Prepared
    freedom : {"rigid", "affine", "none"}
        Of the start.
    settings : mapping
        ``affine`` (starts, refine), ``deformable`` (method, otherwise, refine_with, refine_steps, scales, smooth,
        gauss_newton, most_folded_percent), ``working_spacing_mm``, ``mirrored``.
    network : nn.Module, optional
        Two images on the working grid to a displacement in voxels.
    spacing_mm : float, optional
        Spacing that the network was trained at; by default that of the settings.
    seed : int
    device : str
    start : (4, 4) array, optional
        The affine, which is searched for when it is not given.

    Returns
    -------
    Registration
        Never folded, and never worse than the start by mutual information: what did not improve is left out and told in `doubts`.
    """
    doubts: list[tuple[str, str]] = []
    method = settings["affine"].get("method", "auto")
    kind: Any = freedom if method == "auto" else method
    here, there = fixed.scan(), moving.scan()
    pose = poses.align(here, there, kind, settings["affine"]["starts"], seed) if start is None else poses.given(here, there, start)
    matrix, after, refined = pose.matrix, pose.after, False
    wants = start is None and kind == "rigid" and settings["affine"].get("refine", "mind") == "mind"
    if wants and _covered_percent(fixed, moving, matrix) >= LEAST_COVERED:
        candidate = sharpened(fixed, moving, matrix)
        told = poses.information(here, there, candidate)
        if told > after:
            matrix, after, refined = candidate, told, True
    if start is None and kind != "none" and pose.kept and pose.start == "header" and not pose.confirmed and not refined:
        sentence = (
            f"the search for a {kind} motion went astray: nothing had more mutual information than the positions in the headers "
            f"({pose.before:.4g}), which were kept; look at the checkerboard"
        )
        doubts.append((ASTRAY, sentence))
    covered = _covered_percent(fixed, moving, matrix)
    doubts += _reach(covered)
    if settings.get("mirrored", False) and start is None and kind in ("rigid", "affine") and covered >= LEAST_COVERED:
        doubts += _sides(here, there, pose, seed)
    own = float(settings["working_spacing_mm"]) * grids.size_unit(fixed.array.shape, fixed.affine)
    grid = fixed.box(own if spacing_mm is None else spacing_mm)
    scales = [(int(r), int(d)) for r, d in settings["deformable"]["scales"]]
    target = _tensor(fixed.on(grid), device)
    as_is, aligned = (_tensor(moving.on(grid, m), device) for m in (np.eye(4), matrix))
    mask = _tensor(fixed.body_on(grid) & moving.covers(grid, matrix), device)
    with torch.no_grad():
        mind_before = float(displaced_mind_loss(target, as_is, None, scales, mask))
        mind_pose = mind_after = float(displaced_mind_loss(target, aligned, None, scales, mask))
    deformation, displacement, backward = "none", None, None
    wanted = settings["deformable"]
    how, more, found, flow = _method(wanted, network), {}, None, None
    if how in ("network", "instance"):
        begun = _by_network(target, aligned, network) if how == "network" else None
        if begun is not None and wanted.get("refine_with") == "gauss_newton":
            how = "network+gauss_newton"
            found, more = _by_gauss_newton(fixed, moving, matrix, wanted.get("gauss_newton", {}), to_mm(begun, grid))
        else:
            flow = refine(target, aligned, mask, begun, int(wanted["refine_steps"]), scales, float(wanted["smooth"]))
            found = to_mm(flow, grid)
    elif how == "gauss_newton":
        found, more = _by_gauss_newton(fixed, moving, matrix, wanted.get("gauss_newton", {}))
    if found is not None:
        if flow is None:
            flow = _tensor(np.moveaxis(grids.field_on(grid, found), -1, 0) / np.float32(grid.spacing[0]), device)[0]
        with torch.no_grad():
            mind_flow = float(displaced_mind_loss(target, aligned, flow, scales, mask))
        mi_flow = poses.information(here, there, matrix, found)
        # Mutual information knows nothing of MIND or of the network: what it does not confirm is left out.
        better = mind_flow < mind_pose and mi_flow > after and covered >= LEAST_COVERED
        folded = _folded_percent(fixed, found) if better else 0.0
        if folded > float(wanted.get("most_folded_percent", MOST_FOLDED)):
            sentence = f"the deformation folds in {folded:.2g} % of the body and was left out; the {freedom} motion alone was kept"
            doubts.append((FOLDS, sentence))
            deformation, more = "folded", {**more, "folded_percent": folded}
        elif better:
            displacement, mind_after, after, deformation = found, mind_flow, mi_flow, "kept"
            backward = _backward(found) if how.endswith("gauss_newton") else inverse(found)
        else:
            deformation = "left-out"
    measures: dict[str, Any] = {
        "mi_before": pose.before,
        "mi_after": after,
        "mind_before": mind_before,
        "mind_after": mind_after,
        "affine_start": pose.start,
        "covered_percent": covered,
        "affine_refined": refined,
        "deformation": deformation,
        **_motion(matrix, fixed),
    }
    if found is not None:
        measures |= {"deformed_by": how, **more}
    if displacement is not None:
        body = fixed.body_on(displacement.grid, grown=0)
        lengths = np.linalg.norm(displacement.mm, axis=0)
        measures["folding_percent"] = folding_percent(np.moveaxis(displacement.mm, 0, -1), displacement.grid.affine, body)
        measures["displacement_p95_mm"] = float(np.percentile(lengths[body], 95)) if body.any() else 0.0
        assert backward is not None
        measures["inverse_error_mm"] = _inverse_error_mm(displacement, backward, body)
    return Registration(matrix, displacement, backward, measures, tuple(doubts))


def _covered_percent(fixed: Prepared, moving: Prepared, matrix: np.ndarray) -> float:
    """Return how much of the fixed body the moving image reaches at a pose, in percent."""
    grid = grids.Grid(fixed.mask.shape, fixed.mask_affine)  # type: ignore[arg-type]
    return 100.0 * float(moving.covers(grid, matrix)[fixed.mask].mean()) if fixed.mask.any() else 0.0


def _reach(covered: float) -> list[tuple[str, str]]:
    """Return the doubts about images that lie apart, or of which one shows a part of the other only."""
    if covered < LEAST_COVERED:
        sentence = (
            f"the images lie apart: the moving one reaches {covered:.2g} % of the fixed body wherever the search began; look whether both "
            "are of one body part and whether their headers say where they are"
        )
        return [(OVERLAPLESS, sentence)]
    if covered < PARTLY_COVERED:
        return [(PARTIAL, f"the moving image shows {covered:.0f} % of the fixed body only; beyond that there is nothing of it")]
    return []


def _sides(fixed: poses.Scan, moving: poses.Scan, pose: poses.Pose, seed: int) -> list[tuple[str, str]]:
    """Return the doubt whether left and right of one image are exchanged."""
    mirrored, as_is = poses.mirrored_information(fixed, moving, pose, seed), pose.after
    if mirrored <= as_is * (1 + poses.MIRROR_MARGIN):
        return []
    sentence = (
        f"with left and right exchanged the images share more ({mirrored:.3g} nats of mutual information against {as_is:.3g}): "
        "the header of one of them may name the wrong side; look at it before sides are read off"
    )
    return [(FLIPPED, sentence)]


def _folded_percent(fixed: Prepared, displacement: grids.Displacement) -> float:
    """Return the share of the body's voxels whose Jacobian determinant is at most `FOLDED`, in percent."""
    jacobian = jacobian_determinant(np.moveaxis(displacement.mm, 0, -1), displacement.grid.affine)
    body = fixed.body_on(displacement.grid, grown=0)
    return 100.0 * float((jacobian[body] <= FOLDED).mean()) if body.any() else 0.0


def _inverse_error_mm(there: grids.Displacement, back: grids.Displacement, body: np.ndarray) -> float:
    """Return how far from where they began the points of the body end, there and back, in the mean."""
    if not body.any():
        return 0.0
    spacing = np.float32(there.grid.spacing[0])
    apart = np.linalg.norm(fields.compose(there.mm / spacing, back.mm / spacing), axis=0)
    return float(apart[body].mean()) * float(spacing)


def _method(wanted: Mapping[str, Any], network: nn.Module | None) -> str:
    """Return how a pair is deformed: network | instance | gauss_newton | none."""
    method = str(wanted["method"])
    return str(wanted.get("otherwise", "none")) if method == "network" and network is None else method


def _by_gauss_newton(
    fixed: Prepared, moving: Prepared, matrix: np.ndarray, wanted: Mapping[str, Any], start: grids.Displacement | None = None
) -> tuple[grids.Displacement, dict[str, Any]]:
    """Return the displacement that Gauss-Newton finds on a grid of its own, from a start or from nothing, and what it says of it."""
    spacing = float(wanted.get("spacing_mm", 2.0))
    unit = grids.size_unit(fixed.array.shape, fixed.affine)
    grid = fixed.box(spacing * unit)
    found = gauss_newton.register(
        fixed.on(grid),
        moving.on(grid, matrix),
        fixed.body_on(grid) & moving.covers(grid, matrix),
        spacing,
        None if start is None else np.moveaxis(grids.field_on(grid, start), -1, 0) / np.float32(grid.spacing[0]),
        finish=str(wanted.get("finish", "auto")),
        symmetric=bool(wanted.get("symmetric", False)),
        smooth=float(wanted.get("smooth", 1.0)),
    )
    said: dict[str, Any] = {"finished_by": found.finish, "jacobian_min": fields.least_jacobian(found.displacement)}
    if found.backward is not None:
        apart = np.linalg.norm(fields.compose(found.displacement, found.backward), axis=0)
        said["consistency_mm"] = float(apart[fixed.body_on(grid, grown=0)].mean()) * float(grid.spacing[0])
    return grids.Displacement(found.displacement * np.float32(grid.spacing[0]), grid), said


def _backward(displacement: grids.Displacement) -> grids.Displacement:
    """Return the displacement that leads back, by Newton's method."""
    spacing = np.float32(displacement.grid.spacing[0])
    return grids.Displacement(fields.inverse(displacement.mm / spacing) * spacing, displacement.grid)


def _by_network(target: torch.Tensor, aligned: torch.Tensor, network: Any) -> torch.Tensor:
    """Return the network's displacement in voxels."""
    with torch.no_grad():
        return network(torch.cat([target, aligned], dim=1))


def _motion(matrix: np.ndarray, fixed: Prepared) -> dict[str, float]:
    """Return how far the affine moves the middle of the body and by how much it turns."""
    low, high = grids.bounds(fixed.mask, fixed.mask_affine)
    middle = (low + high) / 2
    left, _, right = np.linalg.svd(matrix[:3, :3])
    cosine = np.clip((np.trace(left @ right) - 1) / 2, -1, 1)
    shift = float(np.linalg.norm(matrix[:3, :3] @ middle + matrix[:3, 3] - middle))
    return {"affine_shift_mm": shift, "affine_turn_deg": float(np.degrees(np.arccos(cosine)))}


def _tensor(array: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))[None, None].to(device)
