"""Maps of the structures of heads, 1 mm, that `cohortex.training.contrasts` paints: varied from the demo's template, or of one real head.

Structures are those of the demo's tissues, with the fluid of the ventricles, deep grey matter, and the white matter of brain stem and
cerebellum as structures of their own.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.demo.anatomy import make_head
from cohortex.demo.template import FREE, ORIGIN_MM, SHAPE, template
from cohortex.demo.tissues import AIR, BONE, CSF, DURA, FAT, GREY, SOFT, WHITE
from cohortex.errors import Refused
from cohortex.training.contrasts import DEEP, STEM, VENTRICLE

# Deep grey matter in MNI space: centre and half axes of ellipsoids in mm, right side; the left is the mirror image.
_DEEP: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((11, -18, 7), (10, 15, 9.5)),  # thalamus
    ((20, -3, 0), (8, 10, 7)),  # pallidum
    ((27, 3, 0), (8, 17, 12)),  # putamen
    ((13, 14, 8), (7, 11, 13)),  # head of the caudate nucleus
    ((17, -4, 20), (5, 15, 7)),  # and its body
)
# Within these the fluid of the template is that of the ventricles: lateral and third, temporal horns, fourth.
_VENTRICLES: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((14, -6, 15), (16, 42, 17)),
    ((24, -40, 12), (15, 20, 18)),
    ((30, -27, -10), (9, 22, 16)),
    ((0, -18, -2), (4, 16, 12)),
    ((0, -45, -34), (10, 11, 16)),
)
AAL_DEEP = (71, 72, 73, 74, 75, 76, 77, 78)
"""Caudate nucleus, putamen, pallidum and thalamus of both sides in the AAL atlas as MRIcron numbers it."""
INDIVIDUAL = ("ch2.nii.gz", "ch2bet.nii.gz", "aal.nii.gz")
"""The files of one real head, Colin27 (Holmes et al. 1998), its brain, and the AAL atlas drawn on it, as Debian's mricron-data has them."""


def simulated_map(rng: np.random.Generator) -> np.ndarray:
    """Return a map of one simulated head, (201, 247, 201) uint8 on the canvas of the template.

    Skull, face and lesions are the demo's. In the brain it is drawn anew where grey matter begins and ends, how wide sulci and
    ventricles are: by thresholds of the template's maps that vary from head to head and, through noise, from place to place.
    """
    from scipy import ndimage as ndi

    traits = {"diagnosis": str(rng.choice(["control", "tumour", "lesions"])), "age": float(rng.uniform(20, 90))}
    tissue = make_head(traits, rng).tissue.copy()
    base = template()
    deep, ventricles = zones()
    inner = (base.inner_mm < 0) & (base.drawn == FREE) & np.isin(tissue, (CSF, GREY, WHITE))

    def noise(step: int) -> np.ndarray:
        nodes = rng.standard_normal([n // step + 2 for n in SHAPE], dtype=np.float32)
        return np.asarray(ndi.zoom(nodes, step, order=1))[: SHAPE[0], : SHAPE[1], : SHAPE[2]]

    folds = noise(3)
    fluid = base.fluid + 25 * noise(4) > rng.uniform(70, 140)
    white = base.white + 25 * folds > rng.uniform(-40, 30)
    drawn = np.where(fluid, CSF, np.where(white, WHITE, GREY))
    # Grey matter is at least a thin layer between white matter and fluid.
    rind = ndi.uniform_filter((drawn == CSF).astype(np.float32), 3) > 0.15
    drawn = np.where((drawn == WHITE) & rind & ~ventricles, GREY, drawn)
    grey_inside = deep & ~fluid & (base.white + 15 * folds < 255 - rng.uniform(20, 120))
    drawn = np.where(grey_inside, DEEP, drawn)
    distance = ndi.gaussian_filter((ventricles & (base.fluid > 110)).astype(np.float32), rng.uniform(0.6, 1.8))
    widened = (distance + 0.06 * noise(6) > rng.uniform(0.12, 0.6)) & ventricles
    drawn = np.where(widened, VENTRICLE, np.where(ventricles & (drawn == CSF), np.where(base.white > 0, WHITE, GREY), drawn))
    drawn = np.where((drawn == WHITE) & stem(), STEM, drawn)
    return np.where(inner, drawn, tissue).astype(np.uint8)


@cache
def zones() -> tuple[np.ndarray, np.ndarray]:
    """Return where on the canvas deep grey matter and ventricles may be, both (201, 247, 201) bool."""
    deep = _ellipsoids(_DEEP)
    return deep, _ellipsoids(_VENTRICLES) & ~_ellipsoids((((11, -18, 4), (8, 12, 7)),))


def stem() -> np.ndarray:
    """Return where brain stem and cerebellum are on the canvas, (201, 247, 201) bool: below the tentorium."""
    x, y, z = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    right, front, up = x + ORIGIN_MM[0], y + ORIGIN_MM[1], z + ORIGIN_MM[2]
    return ((up < -10 - 0.35 * (front + 60)) & (front < -40) & (np.abs(right) < 60)) | (
        (up < -8) & (np.abs(right) < 16) & (front < -8) & (front > -50)
    )


def _ellipsoids(parts: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    found = np.zeros(SHAPE, bool)
    for centre, half in parts:
        for side in (1, -1):
            middle = (side * centre[0], centre[1], centre[2])
            found |= sum(((a + o - m) / h) ** 2 for a, o, m, h in zip(axes, ORIGIN_MM, middle, half, strict=True)) <= 1
    return found


def individual_map(folder: Path, rng: np.random.Generator) -> np.ndarray:
    """Return a map of the real head Colin27 by thresholds of its T1 that vary a little, on the canvas of the template.

    Parameters
    ----------
    folder : Path
        With the files `INDIVIDUAL`.
    rng : numpy.random.Generator

    Raises
    ------
    Refused
        When a file is missing.
    """
    from scipy import ndimage as ndi

    head, extracted, atlas = _individual(folder)
    brain = np.asarray(ndi.binary_fill_holes(ndi.binary_closing(extracted > 0, iterations=3)), bool)
    white_from, grey_from = rng.uniform(96, 102), rng.uniform(56, 70)
    drawn = np.where(head < grey_from, CSF, np.where(head < white_from, GREY, WHITE))
    drawn[(head > 128) & brain] = GREY  # vessels and fat that the extraction left
    region = _grown(np.isin(atlas, AAL_DEEP), 1)
    drawn[region & (drawn != CSF) & (head < rng.uniform(104, 112))] = DEEP
    ventricles = _ellipsoids(_VENTRICLES) & brain
    drawn[ventricles & (drawn == CSF)] = VENTRICLE
    # Between fluid of the ventricles and white matter voxels are a mean of both, not grey matter.
    edge = ventricles & (drawn == GREY) & _grown(drawn == VENTRICLE, 2) & ~region
    drawn[edge] = np.where(head[edge] < (white_from + grey_from) / 2 - 8, VENTRICLE, WHITE)
    drawn[(stem() | ((atlas >= 91) & (atlas <= 116))) & (drawn == WHITE)] = STEM
    return np.where(brain, drawn, _around(head, brain)).astype(np.uint8)


def _around(head: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return the structures around a brain: fluid next to it, then by brightness bone, soft tissue and fat, and air outside the skin."""
    from scipy import ndimage as ndi

    in_plane = ndi.generate_binary_structure(2, 1)[:, :, None]
    # The skull is dark and open towards the neck: it is filled slice by slice.
    body = np.asarray(ndi.binary_fill_holes(ndi.binary_opening(head > 22, iterations=2), in_plane), bool)
    near = _grown(brain, 3) & (head < 60)
    outer = np.where(head < 40, BONE, np.where(head < 105, SOFT, FAT))
    outer = np.where(near, CSF, outer)
    thin = _grown(brain, 2) & (outer == SOFT)
    return np.where(body, np.where(thin, DURA, outer), AIR)


def _grown(mask: np.ndarray, voxels: int) -> np.ndarray:
    from scipy import ndimage as ndi

    return np.asarray(ndi.binary_dilation(mask, iterations=voxels))


def _individual(folder: Path) -> list[np.ndarray]:
    import nibabel as nib

    missing = [name for name in INDIVIDUAL if not (folder / name).is_file()]
    if missing:
        raise Refused(f"{folder.name} has no {', '.join(missing)}; install Debian's mricron-data and name its folder of templates.")
    found = []
    for name in INDIVIDUAL:
        image: Any = nib.load(folder / name)  # pyright: ignore[reportPrivateImportUsage]
        data = np.asarray(image.dataobj)
        first = np.round(image.affine[:3, 3] - ORIGIN_MM).astype(int)
        here = tuple(slice(f, min(n, f + m)) for f, n, m in zip(first, SHAPE, data.shape, strict=True))
        canvas = np.zeros(SHAPE, np.uint8)
        canvas[here] = data[tuple(slice(0, s.stop - s.start) for s in here)]
        found.append(canvas)
    return found


def head_maps(simulated: int, individual: int, folder: Path | None, seed: int) -> list[np.ndarray]:
    """Return maps of simulated heads, and as many variants of the real one where its folder is given; the same for the same seed."""
    maps = [simulated_map(np.random.default_rng([seed, 1, n])) for n in range(simulated)]
    if folder is not None:
        maps += [individual_map(folder, np.random.default_rng([seed, 2, n])) for n in range(individual)]
    return maps
