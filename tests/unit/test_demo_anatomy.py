"""The simulated heads are anatomy: invertible, varied, with the lesions of their diagnosis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from cohortex.demo.anatomy import LATTICE_MM, Bend, Head, _deformation, make_head, paint, to_canvas
from cohortex.demo.scans import random_pose
from cohortex.demo.template import ORIGIN_MM, SHAPE
from cohortex.demo.tissues import AIR, LABELS, TISSUES, WHITE, ct_contrast, mr_contrast

PLAIN = (np.arange(len(TISSUES), dtype=np.float32), np.zeros(len(TISSUES), np.float32))


@pytest.fixture(scope="module")
def heads() -> dict[str, Head]:
    return {d: make_head({"diagnosis": d, "age": 50}, np.random.default_rng(3)) for d in ("control", "tumour", "lesions")}


def grid(shape: tuple[int, int, int], spacing: float) -> np.ndarray:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.array([0.0, -15.0, 10.0]) - (np.array(shape) - 1) / 2 * spacing
    return affine


def test_lesions_are_those_of_the_diagnosis(heads: dict[str, Head]) -> None:
    lesion = {name: LABELS[head.tissue] == 6 for name, head in heads.items()}
    assert not lesion["control"].any() and not heads["control"].lesions
    mass = heads["tumour"].lesions
    assert [item["kind"] for item in mass] == ["mass"] and 12 <= mass[0]["diameter_mm"] <= 22
    assert lesion["tumour"].sum() > 4 / 3 * np.pi * (mass[0]["diameter_mm"] / 2) ** 3 * 0.7
    small = heads["lesions"].lesions
    assert len(small) >= 7 and all(4 <= item["diameter_mm"] <= 8 for item in small)
    assert ndimage.label(lesion["lesions"], np.ones((3, 3, 3)))[1] == len(small)
    for item in small:
        inside = tuple(np.round(np.array(item["centre_mm"]) - ORIGIN_MM).astype(int))
        assert lesion["lesions"][inside] and heads["control"].tissue[inside] == WHITE


def test_a_head_has_every_tissue_from_the_inside_out(heads: dict[str, Head]) -> None:
    tissue = heads["control"].tissue
    assert set(np.unique(LABELS[tissue])) == {0, 1, 2, 3, 4, 5}
    volume_ml = np.bincount(LABELS[tissue].ravel(), minlength=6) / 1000
    assert 500 < volume_ml[2] < 1100 and 350 < volume_ml[3] < 900 and 60 < volume_ml[1] < 500 and 400 < volume_ml[4] < 1200
    # along a line from the middle of the head upwards: brain, then bone, then soft tissue, then air
    line = LABELS[tissue[100 + 15, 134 - 20, 94 + 30 :]]
    firsts = [int(np.argmax(line == 4)), len(line) - int(np.argmax(line[::-1] == 4)), len(line) - int(np.argmax(line[::-1] == 5))]
    assert 0 < firsts[0] < firsts[1] < firsts[2] and not line[firsts[2] :].any()
    assert not np.isin(line[firsts[1] :], (1, 2, 3, 4)).any()


@pytest.mark.parametrize("seed", range(4))
def test_the_deformation_is_invertible_and_of_the_stated_size(seed: int) -> None:
    displacement, first = _deformation(np.random.default_rng(seed))
    jacobian = (
        np.stack([np.gradient(displacement[..., axis], LATTICE_MM, axis=(0, 1, 2)) for axis in range(3)])
        + np.eye(3)[:, :, None, None, None]
    )
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)))
    assert determinant.min() > 0.2
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in displacement.shape[:3]), indexing="ij"), axis=-1) * LATTICE_MM + first
    points, values = nodes.reshape(-1, 3), displacement.reshape(-1, 3)
    design = np.c_[points, np.ones(len(points))]
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]  # without the affine part
    assert 3 < np.percentile(np.linalg.norm(rest, axis=1), 99.5) < 9


def test_people_differ_and_the_same_seed_is_the_same_person(heads: dict[str, Head]) -> None:
    again = make_head({"diagnosis": "control", "age": 50}, np.random.default_rng(3))
    np.testing.assert_array_equal(again.tissue, heads["control"].tissue)
    np.testing.assert_array_equal(again.displacement, heads["control"].displacement)
    other = make_head({"diagnosis": "control", "age": 50}, np.random.default_rng(4))
    affine, shape = grid((50, 60, 50), 4.0), (50, 60, 50)
    one, two = (paint(head, affine, shape, PLAIN, np.eye(4))[1] == WHITE for head in (again, other))
    assert 0.3 < 2 * (one & two).sum() / (one.sum() + two.sum()) < 0.9


def test_older_people_have_more_fluid_and_less_brain() -> None:
    young, old = (make_head({"diagnosis": "control", "age": age}, np.random.default_rng(3)) for age in (25, 80))
    assert (LABELS[old.tissue] == 1).sum() > 1.1 * (LABELS[young.tissue] == 1).sum()


def test_a_painted_voxel_shows_the_tissue_at_its_place(heads: dict[str, Head]) -> None:
    head, pose = heads["tumour"], random_pose(np.random.default_rng(1), 10.0, 10.0)
    bend = Bend((0.02, -0.02, 0.01), 2.0, (0.0, 50.0, -20.0), 22.0)
    shape = (20, 24, 20)
    affine = grid(shape, 8.0)
    values, labels = paint(head, affine, shape, PLAIN, pose, bend, parts=(1, 1, 1))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(pose)
    canvas = to_canvas(head, bend(world) @ inverse[:3, :3].T + inverse[:3, 3])
    voxel = np.floor(canvas - ORIGIN_MM + 0.5).astype(int)
    inside = np.all((voxel >= 0) & (voxel < SHAPE), axis=1)
    expected = np.full(len(voxel), AIR)
    expected[inside] = head.tissue[tuple(voxel[inside].T)]
    assert np.mean(values.ravel() == expected) > 0.999  # the rest are ties of rounding
    assert np.mean(labels.ravel() == LABELS[expected]) > 0.999


def test_a_voxel_holds_the_mean_of_its_parts_and_the_most_frequent_label(heads: dict[str, Head]) -> None:
    head, shape = heads["control"], (6, 6, 6)
    coarse = grid(shape, 6.0)
    fine = coarse @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = (coarse @ [-0.25, -0.25, -0.25, 1])[:3]
    still = Head(head.tissue, head.detail, np.zeros_like(head.displacement), head.lattice_mm, [])
    values, labels = paint(still, coarse, shape, PLAIN, np.eye(4))
    parts, part_labels = paint(still, fine, (12, 12, 12), PLAIN, np.eye(4), parts=(1, 1, 1))
    blocks = parts.reshape(6, 2, 6, 2, 6, 2)
    np.testing.assert_allclose(values, blocks.mean((1, 3, 5)), atol=1e-4)
    counts = np.stack([(part_labels == label).reshape(6, 2, 6, 2, 6, 2).sum((1, 3, 5)) for label in range(7)])
    np.testing.assert_array_equal(labels, counts.argmax(0))


def test_the_bend_stays_small_and_can_be_undone() -> None:
    bend = Bend((0.02, 0.02, -0.02), 2.0, (0.0, 50.0, -20.0), 22.0)
    points = np.random.default_rng(0).uniform(-90, 90, (500, 3))
    points = points[np.linalg.norm(points, axis=1) < 95]
    assert np.linalg.norm(bend(points) - points, axis=1).max() < 4.5
    guess = points.copy()
    for _ in range(20):
        guess += points - bend(guess)
    np.testing.assert_allclose(bend(guess), points, atol=1e-6)
    np.testing.assert_array_equal(Bend()(points), points)


def test_contrasts_are_those_of_a_t1w_and_of_a_ct() -> None:
    signal, _ = mr_contrast(np.random.default_rng(0))
    air, csf, grey, white, bone, _, mass, fat = signal[:8]
    assert air == 0 and bone < 0.15 * white and csf < 0.6 * grey < 0.95 * 0.6 * white < fat and mass < grey
    hu, _ = ct_contrast(np.random.default_rng(0))
    assert hu[0] == -1000 and hu[7] < -60 and 0 < hu[1] < 15 < hu[3] < hu[2] < 60 < 300 < hu[8] < hu[4]


def test_the_maps_are_read_without_importing_nilearn() -> None:
    code = "import sys; from cohortex.demo.template import _canvas; assert _canvas('gm').any(); assert 'nilearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


INSIDE = """
import numpy as np
from cohortex.demo.anatomy import Bend, make_head, paint
from cohortex.demo.tissues import ct_contrast
from cohortex.physics import ct

head = make_head({"diagnosis": "tumour", "age": 50}, np.random.default_rng(3))
affine = np.diag([8.0, 8.0, 8.0, 1.0])
affine[:3, 3] = -200
for bend in (None, Bend((0.01, 0.01, 0.01), 3.0)):
    values, _ = paint(head, affine, (50, 50, 50), ct_contrast(np.random.default_rng(1)), np.eye(4), bend)
angles, disc = ct.view_angles(12), np.zeros((24, 24, 2), np.float32)
disc[4:20, 4:20] = 0.02
assert ct.fbp(ct.radon(disc, angles, 1.0, 36), angles, 1.0, disc.shape[:2]).mean() > 0
"""


def test_compiled_loops_stay_inside_their_arrays(tmp_path: Path) -> None:
    """A read beyond an array's end is silent and gives other people on other days."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", INSIDE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
