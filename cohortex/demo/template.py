"""The head that every simulated person is a variation of, in the space of the MNI152 template.

The brain is the MNI152 2009a symmetric average and its tissue maps, which nilearn ships (Fonov et al., NeuroImage
54(1), 2011; copyright of the McConnell Brain Imaging Centre, free to use with this notice). It is skull-stripped, so
skull, scalp, face and neck are drawn around it with a few smooth shapes: plausible, not anatomy to learn from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.demo.tissues import AIR, BONE, CSF, EYE, FAT, SOFT, WHITE
from cohortex.errors import Refused

ORIGIN_MM = np.array([-100.0, -134.0, -94.0])
SHAPE = (201, 247, 201)
"""The canvas: 1 mm voxels, axes along R, A and S, voxel (0, 0, 0) at `ORIGIN_MM` of MNI space."""

CELLS, BASE, FREE = 100, 101, 255
"""Entries of `Template.drawn` beside the tissues: cells of air and mucosa, mixed skull base, nothing drawn."""

# The extra parts: tissue, centre and half axes in mm of MNI space, and whether the left side has one, too. Later ones
# are drawn over earlier ones.
_PARTS: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float], bool], ...] = (
    (BONE, (31, 53, -39), (22, 26, 20), True),  # orbit
    (FAT, (31, 55, -39), (19.5, 25, 17.5), True),
    (SOFT, (20, 40, -38), (4, 22, 3.5), True),  # optic nerve and muscles
    (SOFT, (31, 50, -26), (5, 16, 2), True),
    (SOFT, (31, 50, -52), (5, 16, 2), True),
    (SOFT, (46, 52, -39), (2, 15, 5), True),
    (SOFT, (32, 64, -39), (13, 13, 13), True),  # sclera
    (EYE, (32, 64, -39), (12, 12, 12), True),
    (SOFT, (32, 72.5, -39), (4.5, 2.2, 4.5), True),  # lens
    (BONE, (27, 52, -76), (20, 22, 19), True),  # maxilla
    (AIR, (27, 52, -76), (16.5, 18.5, 15.5), True),
    (BONE, (0, 60, -54), (14, 29, 26), False),  # nose and ethmoid cells
    (CELLS, (0, 60, -54), (12, 27.5, 24.5), False),
    (SOFT, (0, 60, -60), (1.2, 30, 24), False),
    (BONE, (0, 24, -41), (15, 13, 11), False),  # sphenoid sinus
    (AIR, (0, 25, -41), (12, 10.5, 8.5), False),
    (AIR, (13, 80, -16), (12, 5, 10), True),  # frontal sinus
    (BONE, (54, -36, -44), (13, 17, 17), True),  # mastoid
    (CELLS, (54, -36, -44), (10.5, 14, 14.5), True),
    (BONE, (38, -26, -38), (17, 8, 8), True),  # petrous bone
    (AIR, (66, -22, -40), (15, 2.6, 3), True),  # ear canal
    (AIR, (0, 30, -80), (9, 13, 18), False),  # pharynx
)


@dataclass(frozen=True, eq=False)
class Template:
    """What a person's anatomy is composed of; all arrays lie on the canvas.

    Attributes
    ----------
    white : int16
        Map of white minus map of grey matter, -255 to 255.
    fluid : int16
        How much like CSF a place is, in units of the tissue maps, sulci sharpened.
    detail : int8
        Deviation of the template's T1 from its tissue's mean, in units of 1/64.
    inner_mm : float32
        Signed distance from the inner surface of the skull, negative inside.
    face_mm : float32
        Signed distance from the surface of face and neck, negative inside (the vault's skin follows `inner_mm`).
    drawn : uint8
        The extra parts: a tissue, `CELLS`, `BASE`, or `FREE`.
    deep : (n, 3) float32
        Points in mm, deep in the cerebral white matter: where lesions may start.
    """

    white: np.ndarray
    fluid: np.ndarray
    detail: np.ndarray
    inner_mm: np.ndarray
    face_mm: np.ndarray
    drawn: np.ndarray
    deep: np.ndarray


@cache
def template() -> Template:
    """Return the template, made once a process (about two seconds)."""
    from scipy import ndimage

    t1, grey, white = (_canvas(name) for name in ("t1", "gm", "wm"))
    brain = t1 > 0
    smooth = ndimage.gaussian_filter(t1.astype(np.float32), 2.5, truncate=2.5)
    valley = np.where(brain, np.clip(smooth - t1, 0, 60), 0)
    fluid = np.where(brain, 255 - grey.astype(np.float32) - white + 1.6 * valley, 255)
    mean = np.where(white > grey, np.float32(220), np.float32(167))
    detail = np.where(brain & (fluid < 110), np.clip((t1 - mean) / mean * 300, -60, 60), 0)
    inner, base = _skull(brain)
    drawn = np.full(SHAPE, FREE, np.uint8)
    drawn[base] = BASE
    for part in _PARTS:
        _draw(drawn, *part)
    _draw_cord(drawn)
    uniform = ndimage.uniform_filter(white, 7)
    deep = np.argwhere(uniform > 225) + ORIGIN_MM
    deep = deep[(deep[:, 2] > 0) & (np.abs(deep[:, 0]) > 14)]
    return Template(
        white=white.astype(np.int16) - grey,
        fluid=fluid.astype(np.int16),
        detail=detail.astype(np.int8),
        inner_mm=inner,
        face_mm=_enlarge(_face()),
        drawn=drawn,
        deep=deep.astype(np.float32),
    )


def _canvas(name: str) -> np.ndarray:
    """Return one of nilearn's maps on the canvas, uint8; nilearn itself is not imported, which takes seconds."""
    import nibabel as nib

    package = find_spec("nilearn")
    if package is None or not package.submodule_search_locations:
        raise Refused("the demo needs the MNI152 maps that the package nilearn ships, and nilearn is not installed; run make install.")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    image: Any = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    data = np.asarray(image.dataobj)
    first = np.round(image.affine[:3, 3] - ORIGIN_MM).astype(int)
    canvas = np.zeros(SHAPE, np.uint8)
    here = tuple(slice(max(0, f), min(n, f + m)) for f, n, m in zip(first, SHAPE, data.shape, strict=True))
    there = tuple(slice(s.start - f, s.stop - f) for s, f in zip(here, first, strict=True))
    canvas[here] = data[there]
    return canvas


def _skull(brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance from the inner table, and where the mixed base of the skull is (both on the canvas)."""
    from scipy import ndimage

    coarse = np.ascontiguousarray(brain[::2, ::2, ::2])

    def distance(mask: np.ndarray) -> np.ndarray:
        found: Any = ndimage.distance_transform_edt(mask, sampling=2.0)
        return found.astype(np.float32)

    outside = distance(~coarse)
    hull_mm, gap_mm = 12.0, 2.2  # gyri and fissures up to 24 mm wide are bridged; what CSF is between brain and bone
    hull = outside > hull_mm
    # distances count from the surface hull_mm outside the brain
    inner = np.where(hull, distance(hull), 1 - distance(~hull)) + np.float32(hull_mm - gap_mm)
    inner = ndimage.gaussian_filter(inner, 1.5)
    wide = _enlarge(ndimage.gaussian_filter(outside, 0.7))
    z = _axis(2)
    return _enlarge(inner), (wide > 4.5) & (z < -14)


def _face() -> np.ndarray:
    """Return the signed distance from the surface of face and neck on every second voxel of the canvas, about in mm."""
    x, y, z = (_axis(axis)[tuple(slice(None, None, 2) for _ in range(3))] for axis in range(3))

    def ball(centre: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
        near = np.sqrt(sum(((p - c) / h) ** 2 for p, c, h in zip((x, y, z), centre, half, strict=True)))
        return ((near - 1) * min(half)).astype(np.float32)

    def join(one: np.ndarray, other: np.ndarray, round_mm: float) -> np.ndarray:
        blend = np.clip(0.5 + 0.5 * (other - one) / round_mm, 0, 1)
        return other + (one - other) * blend - round_mm * blend * (1 - blend)

    face = ball((0, 28, -62), (69, 62, 66))
    nose = ball((0, 88, -64), (14, 23, 20))
    neck = ball((0, -38, -105), (66, 72, 66))
    cheeks = ball((0, 5, -85), (74, 60, 48))
    ears = np.minimum(ball((80, -26, -42), (7, 14, 24)), ball((-80, -26, -42), (7, 14, 24)))
    return join(join(join(join(face, nose, 10), cheeks, 15), neck, 20), ears, 6)


def _draw(drawn: np.ndarray, tissue: int, centre: tuple[float, float, float], half: tuple[float, float, float], mirrored: bool) -> None:
    """Draw an ellipsoid and, when `mirrored`, its mirror image."""
    for side in (1, -1) if mirrored else (1,):
        middle = np.array([side * centre[0], centre[1], centre[2]]) - ORIGIN_MM
        low = np.maximum(np.floor(middle - half).astype(int), 0)
        high = np.minimum(np.ceil(middle + half).astype(int) + 1, SHAPE)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grids = np.ogrid[box]
        inside = sum(((g - m) / h) ** 2 for g, m, h in zip(grids, middle, half, strict=True)) <= 1
        drawn[box][inside] = tissue


def _draw_cord(drawn: np.ndarray) -> None:
    """Draw the spinal cord in its canal below the brain, with the ring of the first vertebra around it."""
    x, y, z = _axis(0), _axis(1), _axis(2)
    radius = np.hypot(x, y + 45)
    below = z < -66
    for reach, tissue in ((17.0, BONE), (12.0, CSF), (5.5, WHITE)):
        ring = (radius < reach) & (below if tissue != WHITE else z < -71)
        drawn[ring] = tissue
    drawn[(radius < 17) & (radius >= 12) & (np.abs(z + 84) > 5) & below] = SOFT


def _axis(axis: int) -> np.ndarray:
    """Return the canvas's coordinates in mm along an axis, shaped to broadcast over the canvas."""
    shape = [1, 1, 1]
    shape[axis] = SHAPE[axis]
    return (np.arange(SHAPE[axis]) + ORIGIN_MM[axis]).reshape(shape)


def _enlarge(coarse: np.ndarray) -> np.ndarray:
    """Return an array on every second voxel of the canvas on all of it, linearly interpolated, float32."""
    fine = coarse.astype(np.float32)
    for axis in range(3):
        moved = np.moveaxis(fine, axis, 0)
        longer = np.empty((2 * len(moved) - 1, *moved.shape[1:]), np.float32)
        longer[::2] = moved
        longer[1::2] = 0.5 * (moved[:-1] + moved[1:])
        fine = np.moveaxis(longer, 0, axis)
    return np.ascontiguousarray(fine)
