"""Images of any contrast from label maps, for networks that shall not know which scanner made an image.

A map of structures is bent at random and painted with random intensities: a mixture of Gaussians for each structure, then bias field,
blur, thick slices, gamma and noise (Billot et al., SynthSeg, Medical Image Analysis 86, 2023; Hoffmann et al., SynthMorph, IEEE TMI
41(3), 2022). Part of the contrasts have the order of T1, T2, FLAIR or CT. Everything here depends on the generator that is given alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from cohortex.demo.tissues import AIR, BONE, CSF, DURA, EYE, FAT, GREY, MARROW, MASS, OEDEMA, RIM, SOFT, WHITE
from cohortex.models.regseg.grid import normalised

VENTRICLE, DEEP, STEM = 13, 14, 15
"""Structures beside the tissues of the demo: fluid of the ventricles, deep grey matter, white matter of brain stem and cerebellum."""
STRUCTURES = 16
CLASSES = ("background", "csf", "grey_matter", "white_matter", "bone", "soft_tissue", "lesion", "ventricles")
CLASS_OF = np.array([0, 1, 2, 3, 4, 5, 6, 5, 4, 5, 6, 6, 1, 7, 2, 3], np.uint8)
"""Class of each structure."""
BRAIN = np.isin(np.arange(STRUCTURES), (GREY, WHITE, MASS, RIM, OEDEMA, VENTRICLE, DEEP, STEM))
CLUSTERS = 3
"""Gaussians of a structure, each in patches of its own."""

# Lowest and highest level of every structure as a share of the brightest tissue, in the order of `STRUCTURES`.
_RANGES: dict[str, dict[tuple[int, ...], tuple[float, float]]] = {
    "T1w": {
        (AIR,): (0.0, 0.03),
        (CSF, VENTRICLE, EYE): (0.08, 0.28),
        (GREY,): (0.42, 0.6),
        (DEEP,): (0.5, 0.72),
        (WHITE, STEM): (0.68, 0.88),
        (BONE,): (0.02, 0.2),
        (MARROW,): (0.4, 0.9),
        (FAT,): (0.8, 1.1),
        (SOFT, DURA): (0.3, 0.6),
        (MASS,): (0.2, 0.5),
        (RIM,): (0.5, 1.0),
        (OEDEMA,): (0.3, 0.55),
    },
    "T2w": {
        (AIR,): (0.0, 0.03),
        (CSF, VENTRICLE, EYE): (0.8, 1.1),
        (GREY,): (0.42, 0.62),
        (DEEP,): (0.3, 0.52),
        (WHITE, STEM): (0.26, 0.42),
        (BONE,): (0.02, 0.15),
        (MARROW,): (0.3, 0.6),
        (FAT,): (0.4, 0.9),
        (SOFT, DURA): (0.1, 0.35),
        (MASS,): (0.5, 0.9),
        (RIM,): (0.4, 0.7),
        (OEDEMA,): (0.55, 0.8),
    },
    "FLAIR": {
        (AIR,): (0.0, 0.03),
        (CSF, VENTRICLE, EYE): (0.04, 0.25),
        (GREY,): (0.5, 0.72),
        (DEEP,): (0.42, 0.66),
        (WHITE, STEM): (0.38, 0.56),
        (BONE,): (0.02, 0.15),
        (MARROW,): (0.3, 0.6),
        (FAT,): (0.5, 1.0),
        (SOFT, DURA): (0.2, 0.5),
        (MASS,): (0.4, 0.8),
        (RIM,): (0.6, 0.9),
        (OEDEMA,): (0.7, 1.0),
    },
    "CT": {
        (AIR,): (-1000, -990),
        (CSF, VENTRICLE, EYE): (0, 14),
        (GREY,): (34, 42),
        (DEEP,): (34, 42),
        (WHITE, STEM): (25, 31),
        (BONE,): (900, 1600),
        (MARROW,): (200, 700),
        (FAT,): (-110, -75),
        (SOFT,): (40, 65),
        (DURA,): (40, 60),
        (MASS,): (12, 30),
        (RIM,): (40, 60),
        (OEDEMA,): (12, 24),
    },
}


@dataclass(frozen=True)
class Contrast:
    """Intensities of one image.

    Attributes
    ----------
    kind : {"random", "T1w", "T2w", "FLAIR", "CT"}
        Whose order the levels have.
    level : (STRUCTURES, CLUSTERS) float32
        Means of the Gaussians; Hounsfield units of CT, otherwise the brightest tissue is about 1.
    spread : (STRUCTURES,) float32
        Their standard deviations.
    """

    kind: str
    level: np.ndarray
    spread: np.ndarray


def random_contrast(rng: np.random.Generator, ordered: float = 0.5) -> Contrast:
    """Return random intensities of all structures.

    Parameters
    ----------
    rng : numpy.random.Generator
    ordered : float
        Share of contrasts that have the order of T1w, T2w, FLAIR or CT; the others are uniform, grey and white matter at least 0.15
        apart, since nothing could tell them otherwise.
    """
    if rng.random() < ordered:
        kind = str(rng.choice(["T1w", "T1w", "T2w", "FLAIR", "CT"]))
        level = np.zeros(STRUCTURES)
        for members, (low, high) in _RANGES[kind].items():
            level[list(members)] = rng.uniform(low, high)
        unit = 25.0 if kind == "CT" else 1.0
        level += unit * 0.02 * rng.standard_normal(STRUCTURES)
    else:
        kind, unit = "random", 1.0
        level = rng.uniform(0, 1, STRUCTURES)
        while abs(level[GREY] - level[WHITE]) < 0.15:
            level[[GREY, WHITE]] = rng.uniform(0, 1, 2)
        # The same tissue in another place is not quite another tissue.
        for near, of in ((DEEP, GREY), (STEM, WHITE), (VENTRICLE, CSF)):
            level[near] = level[of] + rng.normal(0, 0.06)
        if rng.random() < 0.5:
            level[AIR] = rng.uniform(0, 0.05)
    clusters = level[:, None] + unit * rng.uniform(0, 0.05) * rng.standard_normal((STRUCTURES, CLUSTERS))
    # Soft tissue, fat and bone are many things.
    mixed = [SOFT, FAT, MARROW, MASS, RIM]
    clusters[mixed] += (60.0 if kind == "CT" else 1.0) * rng.uniform(0, 0.12) * rng.standard_normal((len(mixed), CLUSTERS))
    spread = unit * rng.uniform(0, 0.05, STRUCTURES)
    return Contrast(kind, clusters.astype(np.float32), spread.astype(np.float32))


Where = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Where a cube lies in a map: (3, 4) affine from its voxels to the map's, and displacements in voxels of the map at control points that
span the cube, coarse and fine, (n, n, n, 3) each; all float32."""


def random_map(
    edge: int, spacing_mm: float, centre: np.ndarray, rng: np.random.Generator, bend_mm: float = 3.0, freedom: float = 1.0
) -> Where:
    """Return where a cube of an image lies in a map of structures: turned, scaled, sheared, mirrored and bent at random.

    Parameters
    ----------
    edge : int
        Voxels of the cube along each axis.
    spacing_mm : float
        Of the cube's voxels; those of maps have 1 mm.
    centre : (3,) array
        Voxel of the map in the middle of the cube.
    rng : numpy.random.Generator
    bend_mm : float
        Largest standard deviation of the coarse displacement's control points, 24 mm apart; those 9 mm apart have a third of it.
    freedom : float
        How far it is turned (10 degrees about each axis), scaled (8 %, and 5 % along each axis) and sheared (3 %); 0 not at all, nor
        mirrored.
    """
    turn = np.eye(3)
    for axis, angle in enumerate(freedom * rng.normal(0, math.radians(10), 3)):
        one, two = (a for a in range(3) if a != axis)
        step = np.eye(3)
        step[one, one] = step[two, two] = math.cos(angle)
        step[one, two], step[two, one] = -math.sin(angle), math.sin(angle)
        turn = turn @ step
    size = np.exp(freedom * (rng.normal(0, 0.08) + rng.normal(0, 0.05, 3)))
    matrix = turn @ np.diag(size) @ (np.eye(3) + freedom * rng.normal(0, 0.03, (3, 3)) * (1 - np.eye(3))) * spacing_mm
    if rng.random() < 0.5 * (freedom > 0):
        matrix[:, 0] *= -1
    affine = np.concatenate([matrix, (centre - matrix @ np.full(3, (edge - 1) / 2))[:, None]], axis=1)
    nodes = [max(4, math.ceil(edge * spacing_mm / apart) + 3) for apart in (24.0, 9.0)]
    strength = rng.uniform(0.3, 1.0) * bend_mm
    coarse, fine = (s * rng.standard_normal((n, n, n, 3), dtype=np.float32) for n, s in zip(nodes, (strength, strength / 3), strict=True))
    return affine.astype(np.float32), coarse.astype(np.float32), fine.astype(np.float32)


def _centre(structures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a point of the map, in the brain mostly, now and then one of rare structures or anywhere in the middle."""
    shape = np.array(structures.shape)
    which = rng.random()
    for _ in range(200):
        point = rng.integers(shape // 8, shape - shape // 8)
        found = int(structures[tuple(point)])
        if which < 0.15 or (BRAIN[found] if which < 0.75 else found in (VENTRICLE, DEEP, MASS, OEDEMA, STEM)):
            return point.astype(float)
    return shape / 2.0


def painted(structures: np.ndarray, where: Where, edge: int, contrast: Contrast, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a cube painted with a contrast, every voxel the mean of eight points, and the structure that most of these are in.

    Parameters
    ----------
    structures : (X, Y, Z) uint8 array
    where : Where
    edge : int
    contrast : Contrast
    rng : numpy.random.Generator
        Of the patches and the texture.

    Returns
    -------
    values : (edge, edge, edge) float32
    found : (edge, edge, edge) uint8
    """
    patches = smooth_noise(edge, int(rng.integers(3, 12)), rng) + 0.5 * smooth_noise(edge, edge // 3, rng)
    cluster = np.digitize(patches, (-0.5, 0.5)).astype(np.uint8)
    grain = rng.standard_normal((edge, edge, edge), dtype=np.float32)
    values, found = np.empty((edge,) * 3, np.float32), np.empty((edge,) * 3, np.uint8)
    _paint_cube(structures, where[0], where[1], where[2], cluster, grain, contrast.level, contrast.spread, values, found)
    return values, found


def stripped(values: np.ndarray, found: np.ndarray, outside: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a cube and its structures as a brain extraction leaves them: air beyond the brain, its surface near or loosely followed.

    Parameters are what `painted` returned, and the value of air.
    """
    from scipy import ndimage as ndi

    brain = BRAIN[found]
    width, share = int(rng.choice([1, 3, 3, 5, 7])), rng.uniform(0.25, 0.6)
    kept = brain
    if width > 1:
        kept = brain | (ndi.uniform_filter(brain.astype(np.float32), width, mode="nearest") > share)
    return np.where(kept, values, np.float32(outside)), np.where(kept, found, AIR).astype(np.uint8)


def degraded(values: np.ndarray, contrast: Contrast, spacing_mm: float, rng: np.random.Generator, outside: np.ndarray) -> np.ndarray:
    """Return a painted cube as a scanner would give it, between 0 and 1: bias field, blur or thick slices, noise, gamma, window.

    Parameters
    ----------
    values : (n, n, n) float32
    contrast : Contrast
        Of CT the values are Hounsfield units and follow the fixed curve of `normalised`; there is no bias and no gamma.
    spacing_mm : float
    rng : numpy.random.Generator
    outside : (n, n, n) bool
        Where a brain extraction has set the image to nothing; it stays nothing, without noise.

    Returns
    -------
    (n, n, n) float32
    """
    from scipy import ndimage as ndi

    edge, computed = len(values), contrast.kind == "CT"
    out = values.copy()
    unit = np.float32(25.0 if computed else 1.0)
    if not computed and rng.random() < 0.8:
        out *= np.exp(np.float32(rng.uniform(0, 0.35)) * smooth_noise(edge, int(rng.integers(3, 5)), rng))
    noise = unit * np.float32(rng.uniform(0, 0.05) if rng.random() < 0.8 else 0.0)
    early = rng.random() < 0.5
    if early:
        out += noise * rng.standard_normal(out.shape, dtype=np.float32)
    if rng.random() < 0.7:
        out = ndi.gaussian_filter(out, rng.uniform(0.2, 0.75, 3), truncate=2.5)
    if rng.random() < 0.3:
        out = thick_slices(out, int(rng.integers(3)), rng.uniform(2.0, 7.0) / spacing_mm)
    if not early:
        out += noise * rng.standard_normal(out.shape, dtype=np.float32)
    if computed:
        out = normalised(out + np.float32(rng.normal(0, 2)), "CT", (-1000.0, 1500.0))
    else:
        top = np.float32(np.percentile(out, 99.5)) if rng.random() < 0.5 else np.float32(1.0)
        out = np.clip(out / max(float(top), 0.2) * np.float32(rng.uniform(0.65, 1.15)), 0, 1)
        out **= np.float32(np.exp(rng.uniform(-0.35, 0.35)))
    out[outside] = 0
    return out


def thick_slices(values: np.ndarray, axis: int, thickness: float) -> np.ndarray:
    """Return a volume as slices of a thickness in voxels show it: means across the slice, taken once a slice, linear in between."""
    from scipy import ndimage as ndi

    length = values.shape[axis]
    thick: np.ndarray = ndi.gaussian_filter1d(values, thickness / 2.6, axis=axis, truncate=2.5)
    places = np.arange(0, length - 1 + thickness, thickness)
    taken = ndi.map_coordinates(
        np.moveaxis(thick, axis, 0).reshape(length, -1), _lines(places, values.size // length), order=1, mode="nearest"
    )
    at = np.arange(length) / thickness
    low = np.minimum(at.astype(int), len(places) - 2)
    share = (at - low).astype(np.float32)[:, None]
    back = taken[low] * (1 - share) + taken[low + 1] * share
    return np.moveaxis(back.reshape(np.moveaxis(values, axis, 0).shape), 0, axis).astype(np.float32)


def _lines(places: np.ndarray, width: int) -> np.ndarray:
    return np.stack(np.meshgrid(places, np.arange(width), indexing="ij"))


def smooth_noise(edge: int, nodes: int, rng: np.random.Generator) -> np.ndarray:
    """Return a cube of standard normal noise at so many nodes an axis, linear in between, (edge, edge, edge) float32."""
    control = rng.standard_normal((nodes, nodes, nodes), dtype=np.float32)
    at = np.linspace(0, nodes - 1, edge)
    low = np.minimum(at.astype(int), nodes - 2)
    weights = np.zeros((edge, nodes), np.float32)
    weights[np.arange(edge), low] = 1 - (at - low)
    weights[np.arange(edge), low + 1] = at - low
    for _ in range(3):
        control = np.moveaxis(np.tensordot(weights, control, (1, 0)), 0, 2)
    return np.ascontiguousarray(control)


def sample_pair(
    maps: Sequence[np.ndarray], edge: int, spacing_mm: float, rng: np.random.Generator, ordered: float = 0.5, strip: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Return a cube of a random head in a random contrast and its classes.

    Parameters
    ----------
    maps : sequence of (X, Y, Z) uint8 arrays
        Maps of structures, 1 mm voxels.
    edge : int
    spacing_mm : float
    rng : numpy.random.Generator
    ordered, strip : float
        Shares of realistic contrasts and of extracted brains.

    Returns
    -------
    image : (edge, edge, edge) float32
        Between 0 and 1.
    classes : (edge, edge, edge) uint8
        Indices of `CLASSES`.
    """
    structures = maps[int(rng.integers(len(maps)))]
    where = random_map(edge, spacing_mm, _centre(structures, rng), rng)
    image, found = scanned(structures, where, edge, spacing_mm, rng, ordered, strip)
    return image, CLASS_OF[found]


def scanned(
    structures: np.ndarray, where: Where, edge: int, spacing_mm: float, rng: np.random.Generator, ordered: float, strip: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a cube of a map in a random contrast, within 0 and 1, and its structures; parameters are those of `sample_pair`."""
    contrast = random_contrast(rng, ordered)
    values, found = painted(structures, where, edge, contrast, rng)
    outside = np.zeros(values.shape, bool)
    if rng.random() < strip:
        values, found = stripped(values, found, float(contrast.level[AIR].min()), rng)
        outside = found == AIR
    return degraded(values, contrast, spacing_mm, rng, outside), found


def two_scans(
    maps: Sequence[np.ndarray], edge: int, spacing_mm: float, rng: np.random.Generator, ordered: float = 0.5, strip: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Return two heads that lie about as an affine registration leaves them, each in a contrast and a shape of its own.

    They are one map bent twice or, as often, two maps. Parameters are those of `sample_pair`; all maps lie on one grid.

    Returns
    -------
    images : (2, edge, edge, edge) float32
    structures : (2, edge, edge, edge) uint8
    """
    first = int(rng.integers(len(maps)))
    second = first if rng.random() < 0.5 else int(rng.integers(len(maps)))
    centre = np.array(maps[first].shape) / 2 + rng.normal(0, 10, 3)
    base, _, _ = random_map(edge, spacing_mm, centre, rng)
    images, found = np.zeros((2, edge, edge, edge), np.float32), np.zeros((2, edge, edge, edge), np.uint8)
    extracted = float(rng.random() < strip)
    for number, which in enumerate((first, second)):
        # a tenth of the freedom of the first, as much as an affine registration is off
        off, coarse, fine = random_map(edge, 1.0, np.full(3, (edge - 1) / 2), rng, 4.0, 0.1)
        matrix = base[:, :3] @ off[:, :3] if np.linalg.det(off[:, :3]) > 0 else base[:, :3]
        affine = np.concatenate([matrix, (centre - matrix @ np.full(3, (edge - 1) / 2))[:, None]], axis=1).astype(np.float32)
        nodes = max(4, math.ceil(edge * spacing_mm / 30.0) + 3)
        coarse = rng.uniform(1.0, 5.0) * rng.standard_normal((nodes, nodes, nodes, 3), dtype=np.float32)
        images[number], found[number] = scanned(
            maps[which], (affine, coarse.astype(np.float32), 0.5 * fine), edge, spacing_mm, rng, ordered, extracted
        )
    return images, found


@numba.njit(cache=True, nogil=True)
def _line(field: np.ndarray, x: float, y: float, out: np.ndarray) -> None:  # pragma: no cover
    """Interpolate a (n, n, n, 3) field linearly along its first two axes."""
    i, j = int(x), int(y)
    a, b = np.float32(x - i), np.float32(y - j)
    for k in range(field.shape[2]):
        for axis in range(3):
            near = field[i, j, k, axis] * (1 - b) + field[i, j + 1, k, axis] * b
            far = field[i + 1, j, k, axis] * (1 - b) + field[i + 1, j + 1, k, axis] * b
            out[k, axis] = near * (1 - a) + far * a


@numba.njit(cache=True, nogil=True, fastmath=True)
def _paint_cube(structures, affine, coarse, fine, cluster, grain, level, spread, values, found):  # pragma: no cover
    edge = values.shape[0]
    sx, sy, sz = structures.shape
    to_coarse = np.float32((coarse.shape[0] - 1.001) / (edge - 1))
    to_fine = np.float32((fine.shape[0] - 1.001) / (edge - 1))
    along_coarse, along_fine = np.zeros((coarse.shape[2], 3), np.float32), np.zeros((fine.shape[2], 3), np.float32)
    count = np.zeros(level.shape[0], np.int32)
    seen = np.zeros(8, np.int32)
    steps = np.zeros((8, 3), np.float32)
    for a in range(8):
        u, v, w = np.float32((a & 1) * 0.5 - 0.25), np.float32(((a >> 1) & 1) * 0.5 - 0.25), np.float32((a >> 2) * 0.5 - 0.25)
        for axis in range(3):
            steps[a, axis] = affine[axis, 0] * u + affine[axis, 1] * v + affine[axis, 2] * w
    # Truncation is a floor where nothing is negative: points are shifted by so many voxels.
    shift = 4096
    half = np.float32(shift + 0.5)
    for i in range(edge):
        for j in range(edge):
            _line(coarse, i * to_coarse, j * to_coarse, along_coarse)  # pyright: ignore[reportArgumentType]
            _line(fine, i * to_fine, j * to_fine, along_fine)  # pyright: ignore[reportArgumentType]
            bx = affine[0, 3] + affine[0, 0] * i + affine[0, 1] * j + half
            by = affine[1, 3] + affine[1, 0] * i + affine[1, 1] * j + half
            bz = affine[2, 3] + affine[2, 0] * i + affine[2, 1] * j + half
            for k in range(edge):
                at, on = k * to_coarse, k * to_fine
                c, f = int(at), int(on)
                dc, df = np.float32(at - c), np.float32(on - f)
                x = bx + affine[0, 2] * k + along_coarse[c, 0] * (1 - dc) + along_coarse[c + 1, 0] * dc
                y = by + affine[1, 2] * k + along_coarse[c, 1] * (1 - dc) + along_coarse[c + 1, 1] * dc
                z = bz + affine[2, 2] * k + along_coarse[c, 2] * (1 - dc) + along_coarse[c + 1, 2] * dc
                x += along_fine[f, 0] * (1 - df) + along_fine[f + 1, 0] * df
                y += along_fine[f, 1] * (1 - df) + along_fine[f + 1, 1] * df
                z += along_fine[f, 2] * (1 - df) + along_fine[f + 1, 2] * df
                mean, wide = np.float32(0), np.float32(0)
                own = cluster[i, j, k]
                most, best = np.int32(0), np.int32(0)
                for a in range(8):
                    px, py, pz = int(x + steps[a, 0]) - shift, int(y + steps[a, 1]) - shift, int(z + steps[a, 2]) - shift
                    what = np.int32(0)
                    if 0 <= px < sx and 0 <= py < sy and 0 <= pz < sz:
                        what = np.int32(structures[px, py, pz])
                    seen[a] = what
                    count[what] += 1
                    if count[what] > most:
                        most, best = count[what], what
                    mean += level[what, own]
                    wide += spread[what]
                for a in range(8):
                    count[seen[a]] = 0
                values[i, j, k] = (mean + wide * grain[i, j, k]) * np.float32(0.125)
                found[i, j, k] = best
