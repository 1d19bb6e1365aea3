"""Pairs that no network is for are deformed by Gauss-Newton, and what it finds is kept only where mutual information agrees."""

import numpy as np
import pytest
import yaml

from cohortex.filters.gaussian import gaussian
from cohortex.models.regseg import grid as grids
from cohortex.models.regseg.deform import prepare
from cohortex.models.regseg.register import register
from cohortex.registration.fields import compose, warped

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


def test_a_pair_without_a_network_is_deformed_by_gauss_newton(scans, wanted):
    one, two, truth = scans
    fixed, moving = prepare(one, AFFINE, "T1w"), prepare(two, AFFINE, "T2w")
    found = register(fixed, moving, "rigid", wanted)
    assert (found.measures["deformation"], found.measures["deformed_by"]) == ("kept", "gauss_newton")
    assert found.measures["jacobian_min"] > 0.05
    assert found.measures["folding_percent"] == 0
    points = np.argwhere(one > 60)[::50].astype(float)
    moves = grids.field_on(grids.Grid(SHAPE, AFFINE), found.displacement)
    here = tuple(points.astype(int).T)
    there = (points * 3 + moves[here]) @ found.matrix[:3, :3].T + found.matrix[:3, 3]
    true = points * 3 + 3 * truth[(slice(None), *here)].T
    assert np.linalg.norm(there - true, axis=1).mean() < 0.3 * np.linalg.norm(points * 3 - true, axis=1).mean()
    spacing = found.displacement.grid.spacing[0]
    round_trip = compose(found.backward.mm / spacing, found.displacement.mm / spacing)
    assert np.abs(round_trip).max() < 0.01


def test_the_affine_alone_can_be_asked_for(scans, wanted):
    fixed, moving = prepare(scans[0], AFFINE, "T1w"), prepare(scans[1], AFFINE, "T2w")
    found = register(fixed, moving, "rigid", wanted | {"deformable": wanted["deformable"] | {"otherwise": "none"}})
    assert found.displacement is None
    assert found.measures["deformation"] == "none"
