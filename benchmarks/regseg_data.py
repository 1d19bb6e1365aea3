"""The subjects of `benchmarks.regseg`: heads of the demo as MR and CT, the second one at another place and bent, with labels of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi

from cohortex.models.regseg.grid import Grid, intensity_range, normalised
from cohortex.registration.fields import inverse, least_jacobian
from cohortex.training.regseg_data import Case, Labelled, Material

if TYPE_CHECKING:
    from cohortex.demo.anatomy import Head

SEED = 60001
SHAPE = (24, 32, 24)
SPACING_MM = 6.5
MERGED = np.array([0, 1, 1, 2, 3, 4, 4], np.uint8)
"""Classes of the demo's labels: grey matter with CSF, which is thinner than these voxels; white matter; bone; other soft tissue."""
CLASSES = 5
KNOTS_MM = 45.0
BEND_MM = 5.0
"""Mean length of the displacement in the head, before `TURN_DEG` and `SHIFT_MM`."""
TURN_DEG, SHIFT_MM = 2.0, 2.0
"""Spread of what an affine alignment leaves."""
VALIDATION, HELD_OUT, PAIRS = 6, 16, 40
"""Subjects by what they are for; the pairs that are learned from are M."""


@dataclass(frozen=True)
class Subject:
    """A head: two images of each modality, all with labels; the `moving` ones lie elsewhere.

    Attributes
    ----------
    images : mapping
        ``T1w``, ``CT`` and ``moving T1w``, ``moving CT``: (X, Y, Z) float16 within 0 and 1.
    labels, moving_labels : (X, Y, Z) uint8
    flow : (3, X, Y, Z) float32
        The truth: voxel p of the fixed images is at p + flow(p) of the moving ones.
    """

    name: str
    images: dict[str, np.ndarray]
    labels: np.ndarray
    moving_labels: np.ndarray
    flow: np.ndarray


def grid() -> Grid:
    """Return the grid of all images, around brain and skull."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = np.array([0.0, -10.0, 20.0]) - (np.array(SHAPE) - 1) / 2 * SPACING_MM
    return Grid(SHAPE, affine)


def subject(number: int, seed: int) -> Subject:
    """Make a subject; the same numbers give the same one."""
    from cohortex.demo.anatomy import paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    rng, where = np.random.default_rng([SEED, seed, number]), grid()
    head, bent, backward = bent_heads(rng, where)
    images, labels = {}, []
    for prefix, anatomy in (("", head), ("moving ", bent)):
        for modality, contrast in (("T1w", mr_contrast(rng)), ("CT", ct_contrast(rng))):
            clean, known = paint(anatomy, where.affine, SHAPE, contrast, np.eye(4))
            images[prefix + modality] = _scanned(clean, modality, rng)
        labels.append(MERGED[known])
    return Subject(f"{seed}-{number:03d}", images, labels[0], labels[1], inverse(backward))


def bent_heads(rng: np.random.Generator, where: Grid) -> tuple[Head, Head, np.ndarray]:
    """Return a head of the demo, the same one bent, and the displacement (3, X, Y, Z) float32 in voxels from the bent one to the other.

    The bent head is at q what the head is at q + displacement(q).
    """
    from cohortex.demo.anatomy import LATTICE_MM, make_head

    head = make_head({"diagnosis": "control", "age": int(rng.integers(22, 85))}, rng)
    points = _points(where)
    bend = _bend(rng, where)
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in head.displacement.shape[:3]), indexing="ij")).reshape(3, -1) * LATTICE_MM
    nodes = nodes + head.lattice_mm[:, None]
    there = bend(nodes)
    # One displacement after the other: the bent head is painted as finely as the other one.
    at = (there - head.lattice_mm[:, None]) / LATTICE_MM
    own = np.stack([ndi.map_coordinates(head.displacement[..., i], at, order=1, mode="nearest") for i in range(3)])
    bent = replace(head, displacement=(there - nodes + own).T.reshape(head.displacement.shape).astype(np.float32))
    return head, bent, ((bend(points) - points) / where.spacing[0]).reshape(3, *where.shape).astype(np.float32)


def _points(where: Grid) -> np.ndarray:
    """Return where the voxels of a grid are, (3, n) in mm."""
    return where.affine[:3, :3] @ np.indices(where.shape, dtype=np.float64).reshape(3, -1) + where.affine[:3, 3:]


def _bend(rng: np.random.Generator, where: Grid) -> Callable[[np.ndarray], np.ndarray]:
    """Return a random map of points (3, n) in mm: splines through random knots, and a rigid remainder."""
    from cohortex.models.regseg.affine import rotation

    low = where.affine[:3, 3] - 3 * KNOTS_MM
    count = [int(np.ceil(n * step / KNOTS_MM)) + 7 for n, step in zip(where.shape, where.spacing, strict=True)]
    knots = rng.standard_normal((3, *count))
    turn, shift = rotation(rng.normal(0, TURN_DEG, 3).tolist()) - np.eye(3), rng.normal(0, SHIFT_MM, (3, 1))
    middle = where.affine[:3, :3] @ (np.array(where.shape) / 2) + where.affine[:3, 3]

    def spread(points: np.ndarray) -> np.ndarray:
        at = (points - low[:, None]) / KNOTS_MM
        return np.stack([ndi.map_coordinates(k, at, order=3, mode="nearest", prefilter=False) for k in knots])

    found = spread(_points(where))
    scale = BEND_MM / np.linalg.norm(found, axis=0).mean()
    while least_jacobian((scale * found / where.spacing[0]).reshape(3, *where.shape).astype(np.float32)) < 0.3:
        scale *= 0.9
    return lambda points: points + scale * spread(points) + turn @ (points - middle[:, None]) + shift


def _scanned(clean: np.ndarray, modality: str, rng: np.random.Generator) -> np.ndarray:
    """Return an image as a scanner gives it, within 0 and 1: MR with a bias field, noise and another gamma, low-dose CT with noise."""
    if modality == "CT":
        made = clean + ndi.gaussian_filter(rng.standard_normal(SHAPE), 0.5) / 0.42 * 5.0
        return normalised(made, "CT", intensity_range(made, "CT")).astype(np.float16)
    bias = np.asarray(ndi.zoom(rng.normal(0, 0.15, (3, 3, 3)), [n / 3 for n in SHAPE], order=2))
    scaled = np.clip(clean / np.percentile(clean, 99.5), 0, 1) ** np.exp(rng.uniform(-0.25, 0.25)) * np.exp(bias)
    made = np.abs(scaled + rng.normal(0, 0.03, SHAPE))
    return normalised(made, "T1w", (0.0, float(np.percentile(made, 99.5)))).astype(np.float16)


def subjects(count: int, seed: int, folder: Path) -> list[Subject]:
    """Return the first so many subjects of a seed, kept in a folder."""
    path = folder / f"subjects-{seed}-{count}.npz"
    if path.is_file():
        with np.load(path) as found:
            parts = [[found[f"{i}/{part}"] for part in ("labels", "moving_labels", "flow")] for i in range(count)]
            images = [{m: found[f"{i}/{m}"] for m in MODALITIES} for i in range(count)]
            return [Subject(str(name), own, *rest) for name, own, rest in zip(found["names"], images, parts, strict=True)]
    made = [subject(number, seed) for number in range(count)]
    arrays: dict[str, Any] = {f"{i}/{m}": s.images[m] for i, s in enumerate(made) for m in MODALITIES}
    arrays |= {f"{i}/{part}": getattr(s, part) for i, s in enumerate(made) for part in ("labels", "moving_labels", "flow")}
    arrays["names"] = np.array([s.name for s in made])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".tmp.npz"), **arrays)
    path.with_suffix(".tmp.npz").replace(path)
    return made


MODALITIES = ("T1w", "CT", "moving T1w", "moving CT")


def material(made: list[Subject], labelled: int, kind: tuple[str, str] = ("T1w", "CT")) -> Material:
    """Return what the joint training takes: M pairs, N of them labelled, then the validation and the held-out subjects, all labelled."""
    cases, single, where = [], [], grid()
    for i, each in enumerate(made):
        split = "train" if i < PAIRS else "validation" if i < PAIRS + VALIDATION else "test"
        known = (each.labels, each.moving_labels) if split != "train" or i < labelled else (None, None)
        fixed, moving = each.images[kind[0]], each.images[f"moving {kind[1]}"]
        mask = ndi.binary_dilation(each.labels > 0, iterations=1)
        cases.append(Case(each.name, split, where, where, fixed, moving, mask, fixed, moving, *known))
        if known[0] is not None and known[1] is not None:
            single += [Labelled(each.name, split, kind[0], fixed, known[0]), Labelled(each.name, split, kind[1], moving, known[1])]
    return Material(kind, "head", cases, single, CLASSES)
