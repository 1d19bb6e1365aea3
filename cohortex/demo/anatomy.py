"""One simulated person's head: the template's anatomy varied, with lesions, and painted onto any grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from cohortex.demo.template import BASE, CELLS, ORIGIN_MM, SHAPE, template
from cohortex.demo.tissues import AIR, BONE, CSF, DURA, FAT, GREY, LABELS, MARROW, MASS, OEDEMA, RIM, SOFT, WHITE

LATTICE_MM = 5.0
"""Spacing of the nodes between which a person's displacement is interpolated linearly."""


@dataclass(frozen=True, eq=False)
class Head:
    """A person's anatomy.

    Attributes
    ----------
    tissue : uint8
        Tissue of every voxel of the template's canvas, varied for this person.
    detail : int8
        Local texture in units of 1/64.
    displacement : (nodes, nodes, nodes, 3) float32
        In mm on a lattice: point p of the person's head is at p + displacement(p) of the canvas.
    lattice_mm : (3,) float64
        Where the lattice's first node is.
    lesions : list of mapping
        What was drawn: kind, centre on the canvas and diameter, in mm.
    """

    tissue: np.ndarray
    detail: np.ndarray
    displacement: np.ndarray
    lattice_mm: np.ndarray
    lesions: list[dict[str, Any]]


def make_head(traits: Mapping[str, Any], rng: np.random.Generator) -> Head:
    """Make a person's head.

    Parameters
    ----------
    traits : mapping
        diagnosis (control | tumour | lesions) and age in years, which widens sulci and ventricles.
    rng : numpy.random.Generator
        Decides everything else: shape, folds, thickness of skull and scalp, texture, lesions.
    """
    base = template()
    folds = _lattice_noise(3, rng)
    shells = _lattice_noise(16, rng)
    texture = _lattice_noise(2, rng)
    tissue, detail = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.int8)
    fluid_from = 128 - 0.45 * (float(traits["age"]) - 50) + rng.normal(0, 5)
    skull_mm, fat_mm = rng.uniform(5.5, 8.0), rng.uniform(2.5, 5.0)
    _compose(
        (base.white, base.fluid, base.detail, base.inner_mm, base.face_mm, base.drawn),
        (folds, shells, texture),
        np.array([fluid_from, skull_mm, fat_mm], np.float32),
        ORIGIN_MM.astype(np.float32),
        tissue,
        detail,
    )
    lesions = _draw_lesions(tissue, str(traits["diagnosis"]), rng)
    displacement, first = _deformation(rng)
    return Head(tissue, detail, displacement, first, lesions)


@dataclass(frozen=True, eq=False)
class Bend:
    """How a scanner's gradients bend space: image point p shows what is at p + d(p).

    d(p) = cubic * p_a |p|^2 / (100 mm)^2 along each axis a, plus a smooth bump along y.
    """

    cubic: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bump_mm: float = 0.0
    bump_centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    bump_width_mm: float = 20.0

    def numbers(self) -> np.ndarray:
        """Return the numbers as the kernel takes them, float64."""
        return np.array([*self.cubic, self.bump_mm, *self.bump_centre_mm, self.bump_width_mm], np.float64)

    def __call__(self, points_mm: np.ndarray) -> np.ndarray:
        """Return p + d(p) of (n, 3) points."""
        points = np.asarray(points_mm, np.float64)
        bent = points + np.array(self.cubic) * points * (np.sum(points**2, axis=1, keepdims=True) / 1e4)
        from_bump = np.sum((points - self.bump_centre_mm) ** 2, axis=1) / self.bump_width_mm**2
        bent[:, 1] += self.bump_mm * np.exp(-0.5 * from_bump)
        return bent


def paint(
    head: Head,
    affine: np.ndarray,
    shape: tuple[int, int, int],
    contrast: tuple[np.ndarray, np.ndarray],
    pose: np.ndarray,
    bend: Bend | None = None,
    parts: tuple[int, int, int] = (2, 2, 2),
) -> tuple[np.ndarray, np.ndarray]:
    """Return what a scanner's grid holds of a head: the mean over each voxel, and its most frequent label.

    Parameters
    ----------
    head : Head
    affine : (4, 4) array
        Voxel indices to the scanner's world, mm.
    shape : (x, y, z)
    contrast : two (tissue,) float32 arrays
        Value of every tissue, and how much the texture changes it.
    pose : (4, 4) array
        Rigid: the head's coordinates to the scanner's world, mm.
    bend : Bend, optional
        The scanner's geometric distortion.
    parts : (x, y, z)
        Points a voxel is sampled at along each axis.

    Returns
    -------
    values : (x, y, z) float32 array
    labels : (x, y, z) uint8 array
    """
    values, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    _paint(
        (head.tissue, head.detail, LABELS, ORIGIN_MM, head.displacement, head.lattice_mm),
        np.asarray(affine, np.float64),
        np.linalg.inv(pose),
        (bend or Bend()).numbers(),
        (np.asarray(contrast[0], np.float32), np.asarray(contrast[1], np.float32) / np.float32(64)),
        parts,
        values,
        labels,
    )
    return values, labels


def to_canvas(head: Head, points_mm: np.ndarray) -> np.ndarray:
    """Return where (n, 3) points of a person's head lie on the template's canvas, in mm."""
    from scipy.ndimage import map_coordinates

    where = (np.asarray(points_mm, np.float64) - head.lattice_mm).T / LATTICE_MM
    moved = [map_coordinates(head.displacement[..., axis], where, order=1, mode="nearest") for axis in range(3)]
    return np.asarray(points_mm, np.float64) + np.array(moved).T


def _lattice_noise(step_mm: int, rng: np.random.Generator) -> np.ndarray:
    """Return standard normal noise on nodes `step_mm` apart that cover the canvas, float32."""
    return rng.standard_normal([math.ceil(n / step_mm) + 2 for n in SHAPE], dtype=np.float32)


def _deformation(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a person's displacement on its lattice and the lattice's first node.

    An affine variation of size and shape, then the flow of a random smooth velocity by scaling and squaring
    (Arsigny et al., MICCAI 2006), so that it is invertible; the flow moves points up to 5 to 8 mm.
    """
    from scipy import ndimage

    margin = 20.0
    nodes = [math.ceil((n + 2 * margin) / LATTICE_MM) + 1 for n in SHAPE]
    first = ORIGIN_MM - margin
    velocity = np.zeros((*nodes, 3))
    for width_mm, share in ((12.0, 0.45), (28.0, 1.0)):
        for axis in range(3):
            noise = ndimage.gaussian_filter(rng.standard_normal(nodes), width_mm / LATTICE_MM)
            velocity[..., axis] += share * noise / noise.std()
    length = np.linalg.norm(velocity, axis=-1)
    velocity *= rng.uniform(5.0, 8.0) / float(np.percentile(length, 99.5))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in nodes), indexing="ij")).astype(np.float64)

    def at(field: np.ndarray, where: np.ndarray) -> np.ndarray:
        return np.stack([ndimage.map_coordinates(field[..., axis], where, order=1, mode="nearest") for axis in range(3)], axis=-1)

    flow = velocity / 2**5
    for _ in range(5):
        flow = flow + at(flow, grid + np.moveaxis(flow, -1, 0) / LATTICE_MM)
    shape = np.eye(3) + np.diag(rng.normal(0, 0.02, 3) + rng.normal(0, 0.02)) + rng.normal(0, 0.012, (3, 3))
    shape = np.clip(shape, np.eye(3) * 0.95 - 0.03 * (1 - np.eye(3)), np.eye(3) * 1.07 + 0.03 * (1 - np.eye(3)))
    points = np.moveaxis(grid, 0, -1) * LATTICE_MM + first
    scaled = points @ shape.T
    total = scaled + at(flow, np.moveaxis((scaled - first) / LATTICE_MM, -1, 0)) - points
    return total.astype(np.float32), first


def _draw_lesions(tissue: np.ndarray, diagnosis: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Draw the lesions of a diagnosis into `tissue`, in the white matter, and return what was drawn."""
    deep = template().deep
    drawn: list[dict[str, Any]] = []
    if diagnosis == "tumour":
        centre, diameter = deep[rng.integers(len(deep))], rng.uniform(12.0, 22.0)
        rim, swelling = rng.uniform(1.5, 2.5), rng.uniform(3.0, 5.5)
        _blob(tissue, centre, diameter / 2 + swelling, OEDEMA, (WHITE,), 0.25, rng)
        _blob(tissue, centre, diameter / 2, RIM, (WHITE, GREY, OEDEMA), 0.1, rng)
        _blob(tissue, centre, diameter / 2 - rim, MASS, (RIM,), 0.1, rng)
        drawn.append({"kind": "mass", "centre_mm": centre.tolist(), "diameter_mm": float(diameter)})
    elif diagnosis == "lesions":
        wanted = int(rng.integers(7, 15))
        for _ in range(200):
            centre, diameter = deep[rng.integers(len(deep))], rng.uniform(4.0, 8.0)
            apart = [np.linalg.norm(centre - np.array(other["centre_mm"])) for other in drawn]
            if len(drawn) < wanted and (not apart or min(apart) > 10):
                _blob(tissue, centre, diameter / 2, OEDEMA, (WHITE,), 0.12, rng)
                drawn.append({"kind": "small", "centre_mm": centre.tolist(), "diameter_mm": float(diameter)})
    return drawn


def _blob(
    tissue: np.ndarray,
    centre_mm: np.ndarray,
    radius_mm: float,
    into: int,
    over: tuple[int, ...],
    uneven: float,
    rng: np.random.Generator,
) -> None:
    """Draw a ball whose radius varies by about `uneven` with the direction, over the tissues of `over` only."""
    middle = centre_mm - ORIGIN_MM
    reach = radius_mm * (1 + 3 * uneven)
    box = tuple(slice(int(m - reach), int(m + reach) + 2) for m in middle)
    offset = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) - m for s, m in zip(box, middle, strict=True)), indexing="ij"), axis=-1)
    distance = np.linalg.norm(offset, axis=-1)
    direction = offset / np.maximum(distance, 1e-3)[..., None]
    waves = sum(np.sin(direction @ (3 * rng.standard_normal(3)) + rng.uniform(0, 6.28)) for _ in range(4)) / math.sqrt(2)
    inside = distance < radius_mm * (1 + uneven * waves)
    region = tissue[box]
    region[inside & np.isin(region, over)] = into


@numba.njit(cache=True, nogil=True)
def _at(lattice: np.ndarray, x: float, y: float, z: float) -> float:  # pragma: no cover
    """Linear interpolation; the point is inside the lattice."""
    i, j, k = int(x), int(y), int(z)
    a, b, c = np.float32(x - i), np.float32(y - j), np.float32(z - k)
    one = np.float32(1)
    near = (lattice[i, j, k] * (one - c) + lattice[i, j, k + 1] * c) * (one - b)
    near += (lattice[i, j + 1, k] * (one - c) + lattice[i, j + 1, k + 1] * c) * b
    far = (lattice[i + 1, j, k] * (one - c) + lattice[i + 1, j, k + 1] * c) * (one - b)
    far += (lattice[i + 1, j + 1, k] * (one - c) + lattice[i + 1, j + 1, k + 1] * c) * b
    return near * (one - a) + far * a


@numba.njit(cache=True, nogil=True)
def _compose(maps, noises, numbers, origin, tissue, detail):  # pragma: no cover
    white, fluid, brain_detail, inner, face, drawn = maps
    folds, shells, texture = noises
    fluid_from, skull, fat = numbers[0], numbers[1], numbers[2]
    nx, ny, nz = tissue.shape
    # The folds of the white matter are the same noise with two axes exchanged, the first shorter than the second: mirrored at its end.
    last_fold = 3 * (folds.shape[0] - 2)
    for i in range(nx):
        x = i + origin[0]
        for j in range(ny):
            y = j + origin[1]
            along = last_fold - abs(last_fold - j)
            for k in range(nz):
                z = k + origin[2]
                deep = inner[i, j, k]
                if deep > 16 and face[i, j, k] > 1:
                    continue
                grain = _at(texture, i / 2, j / 2, k / 2)
                fine = grain * 24
                thick = _at(shells, i / 16, j / 16, k / 16)
                bone = skull + thick * np.float32(1.2)
                vault = deep - bone - fat - np.float32(2.5) - thick * np.float32(0.8)
                out = min(vault, face[i, j, k])
                if out > 0:
                    continue
                part = drawn[i, j, k]
                if deep < 0 and part != WHITE and part != BONE:
                    if part == BASE:
                        # base of the skull between the lobes: marrow and cortical bone
                        what = BONE if grain + thick > 0.1 else MARROW
                    elif fluid[i, j, k] + 22 * _at(folds, i / 3, j / 3, k / 3) > fluid_from:
                        what = CSF
                        if abs(x) < 1.1 and (z > 28 or y > 45 or y < -78) and z > -20 and fluid[i, j, k] > 60:
                            what = DURA  # the falx
                    else:
                        what = WHITE if white[i, j, k] + 25 * _at(folds, along / 3, i / 3, k / 3) > 0 else GREY
                        fine = brain_detail[i, j, k] + grain * 12
                elif part < CELLS and (out < -2 or part == SOFT) and deep > -1.5:
                    what = part
                elif part == CELLS and out < -2:
                    # cells between thin walls: where the noise is near zero
                    wall = abs(_at(folds, i / 3, j / 3, k / 3))
                    what = AIR if wall > 0.22 else (BONE if grain > 0 else SOFT)
                elif deep < bone:
                    near = min(deep, bone - deep)
                    what = BONE if near < 1.6 + 0.3 * thick or bone < 4.5 else MARROW
                elif out > -1.8:
                    what = SOFT  # skin
                elif out > -1.8 - fat:
                    what = FAT if grain > -1.6 else SOFT
                else:
                    # muscles, with fat between them
                    layer = _at(shells, k / 20 + 1, i / 20, j / 20) + 0.35 * _at(folds, i / 6, j / 6, k / 6)
                    what = FAT if abs(layer) < 0.1 else SOFT
                tissue[i, j, k] = what
                detail[i, j, k] = np.int8(max(min(fine, 120), -120))


@numba.njit(cache=True, nogil=True)
def _paint(head, affine, pose, bend, contrast, parts, values, labels):  # pragma: no cover
    tissue, detail, label_of, origin, displacement, first = head
    level, change = contrast
    nx, ny, nz = values.shape
    px, py, pz = parts
    total = px * py * pz
    count = np.zeros(8, np.int64)
    step = np.ascontiguousarray(pose[:3, :3]) @ np.ascontiguousarray(affine[:3, :3])
    offsets = np.zeros((total, 3))
    n = 0
    for a in range(px):
        for b in range(py):
            for c in range(pz):
                u, v, w = (a + 0.5) / px - 0.5, (b + 0.5) / py - 0.5, (c + 0.5) / pz - 0.5
                for axis in range(3):
                    offsets[n, axis] = step[axis, 0] * u + step[axis, 1] * v + step[axis, 2] * w
                n += 1
    nodes = displacement.shape
    sx, sy, sz = tissue.shape
    inverse_width = 0.5 / (bend[7] * bend[7])
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                x = affine[0, 0] * i + affine[0, 1] * j + affine[0, 2] * k + affine[0, 3]
                y = affine[1, 0] * i + affine[1, 1] * j + affine[1, 2] * k + affine[1, 3]
                z = affine[2, 0] * i + affine[2, 1] * j + affine[2, 2] * k + affine[2, 3]
                if bend[0] != 0 or bend[3] != 0:
                    square = (x * x + y * y + z * z) * 1e-4
                    from_bump = (x - bend[4]) ** 2 + (y - bend[5]) ** 2 + (z - bend[6]) ** 2
                    push = bend[3] * math.exp(-from_bump * inverse_width)
                    x, y, z = x + bend[0] * x * square, y + bend[1] * y * square + push, z + bend[2] * z * square
                hx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
                hy = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
                hz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
                lx, ly, lz = (hx - first[0]) / LATTICE_MM, (hy - first[1]) / LATTICE_MM, (hz - first[2]) / LATTICE_MM
                lx = max(0.0, min(lx, nodes[0] - 1.001))
                ly = max(0.0, min(ly, nodes[1] - 1.001))
                lz = max(0.0, min(lz, nodes[2] - 1.001))
                tx = hx + _at(displacement[..., 0], lx, ly, lz) - origin[0] + 0.5
                ty = hy + _at(displacement[..., 1], lx, ly, lz) - origin[1] + 0.5
                tz = hz + _at(displacement[..., 2], lx, ly, lz) - origin[2] + 0.5
                value = np.float32(0)
                count[:] = 0
                for n in range(total):
                    ax, ay, az = math.floor(tx + offsets[n, 0]), math.floor(ty + offsets[n, 1]), math.floor(tz + offsets[n, 2])
                    what = 0
                    if 0 <= ax < sx and 0 <= ay < sy and 0 <= az < sz:
                        what = tissue[ax, ay, az]
                        value += level[what] + change[what] * detail[ax, ay, az]
                    else:
                        value += level[0]
                    count[label_of[what]] += 1
                values[i, j, k] = value / np.float32(total)
                labels[i, j, k] = np.argmax(count)
