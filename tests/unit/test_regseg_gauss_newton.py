"""Pairs that no network is for are deformed by Gauss-Newton, and what it finds is kept only where mutual information agrees."""

import numpy as np
import pytest
import SimpleITK
import torch
import yaml

from cohortex.filters.gaussian import gaussian
from cohortex.io.itk import write_affine
from cohortex.io.nifti import write_nifti
from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.register import register
from cohortex.registration.fields import compose, warped
from cohortex.volume import Volume

ONE = (1.0, 1.0, 1.0)
SHAPE = (48, 48, 48)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def wanted(root) -> dict:
    section = yaml.safe_load((root / "config.yaml").read_text())["regseg"]["default"]
    return section | {"affine": section["affine"] | {"starts": ["header"]}, "working_spacing_mm": 6}


def noise(seed: int, sigma: float, count: int = 1) -> np.ndarray:
    return np.stack([gaussian(n, ONE, sigma) for n in np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)])


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A ball of random structure, deformed by 2 voxels in the mean, and the same in another contrast."""
    away = np.sqrt(((np.indices(SHAPE) - 23.5) ** 2).sum(0))
    structure = noise(0, 1.5)[0]
    ball = np.where(away < 18, 150 + 60 * structure / structure.std(), 0).clip(0).astype(np.float32)
    truth = noise(1, 6.0, 3)
    truth *= 2.0 / np.linalg.norm(truth, axis=0)[away < 18].mean()
    other = np.where(ball > 0, 400 - ball, 0).astype(np.float32)
    return warped(ball, truth), other, truth


@pytest.fixture(scope="module")
def found(scans, wanted):
    return register(prepare(scans[0], AFFINE, "T1w"), prepare(scans[1], AFFINE, "T2w"), "rigid", wanted)


def test_a_pair_without_a_network_is_deformed_by_gauss_newton(scans, found):
    one, _, truth = scans
    assert (found.measures["deformation"], found.measures["deformed_by"]) == ("kept", "gauss_newton")
    assert found.measures["jacobian_min"] > 0.05
    assert found.measures["folding_percent"] == 0
    points = np.argwhere(one > 60)[::50].astype(float)
    moves = grids.field_on(grids.Grid(SHAPE, AFFINE), found.displacement)
    here = tuple(points.astype(int).T)
    there = (points * 3 + moves[here]) @ found.matrix[:3, :3].T + found.matrix[:3, 3]
    true = points * 3 + 3 * truth[(slice(None), *here)].T
    assert np.linalg.norm(there - true, axis=1).mean() < 0.3 * np.linalg.norm(points * 3 - true, axis=1).mean()


def test_the_way_back_undoes_the_way_there(found):
    spacing = found.displacement.grid.spacing[0]
    assert np.abs(compose(found.backward.mm / spacing, found.displacement.mm / spacing)).max() < 0.01


def test_itk_composes_what_is_written_and_resamples_once_to_the_same_image(scans, found, tmp_path):
    grid = grids.Grid(SHAPE, AFFINE)
    ours = grids.resample(scans[1], AFFINE, grid, found.matrix, found.displacement, outside=0.0)
    field = Volume(grids.field_on(grid, found.displacement), AFFINE, "T2w", "field", "head")
    write_nifti(tmp_path / "field.nii.gz", field)
    write_affine(tmp_path / "affine.txt", found.matrix)
    write_nifti(tmp_path / "moving.nii.gz", Volume(scans[1], AFFINE, "T2w", "image", "head"))
    moving = SimpleITK.ReadImage(str(tmp_path / "moving.nii.gz"))
    moves = SimpleITK.DisplacementFieldTransform(SimpleITK.ReadImage(str(tmp_path / "field.nii.gz"), SimpleITK.sitkVectorFloat64))
    # ITK goes through the last one first.
    both = SimpleITK.CompositeTransform([SimpleITK.ReadTransform(str(tmp_path / "affine.txt")), moves])
    theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(moving, moving, both, SimpleITK.sitkLinear)).T
    inner = (slice(4, -4),) * 3
    assert np.abs(theirs[inner] - ours[inner]).max() < 0.02 * float(scans[1].max())


class Rough(torch.nn.Module):
    """Says one displacement, in voxels."""

    def __init__(self, voxels: torch.Tensor) -> None:
        super().__init__()
        self.voxels = voxels

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        assert pair.shape[2:] == self.voxels.shape[2:]
        return self.voxels


def test_what_a_network_says_is_improved_by_gauss_newton(scans, wanted):
    fixed, moving = prepare(scans[0], AFFINE, "T1w"), prepare(scans[1], AFFINE, "T2w")
    grid = fixed.box(6.0)
    told = grids.field_on(grid, grids.Displacement(3 * scans[2], grids.Grid(SHAPE, AFFINE))) * np.float32(0.7 / 6)
    rough = Rough(torch.from_numpy(np.moveaxis(told, -1, 0).copy())[None])
    chosen = wanted | {"affine": {"method": "none", "starts": ["header"]}}
    chosen["deformable"] = wanted["deformable"] | {"refine_with": "gauss_newton"}
    better = register(fixed, moving, "rigid", chosen, rough, 6.0)
    assert better.measures["deformed_by"] == "network+gauss_newton"
    assert better.displacement is not None
    moves = np.moveaxis(grids.field_on(grids.Grid(SHAPE, AFFINE), better.displacement), -1, 0)
    inside = scans[0] > 60
    assert np.linalg.norm(moves - 3 * scans[2], axis=0)[inside].mean() < 0.24 * 3 * np.linalg.norm(scans[2], axis=0)[inside].mean()


def test_the_affine_alone_can_be_asked_for(scans, wanted):
    fixed, moving = prepare(scans[0], AFFINE, "T1w"), prepare(scans[1], AFFINE, "T2w")
    alone = register(fixed, moving, "rigid", wanted | {"deformable": wanted["deformable"] | {"otherwise": "none"}})
    assert alone.displacement is None
    assert alone.measures["deformation"] == "none"
