"""Where a head lies in the template's space, and which of its points are brain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.errors import BadInput
from cohortex.items import Image
from cohortex.stages.regseg_models import Model, Subject, labeller_for

if TYPE_CHECKING:
    from cohortex.models.regseg.deform import Prepared

BRAIN = ("grey_matter", "white_matter", "lesion", "ventricles")
INSIDE = ("csf", *BRAIN)
"""What is called so by the network is brain; with the fluid around it it is one solid piece."""
CORE_MM = 7.5
"""Pieces of what the network takes for brain that hang together by bridges of less than twice this (mucosa, muscles, eyes) are parted."""
LEAST_BRAIN_ML, LEAST_AGREEMENT = 150.0, 0.75
"""Below that volume there is no brain to go by; below that overlap (Dice) of it with the template's brain the head was not found."""
LEAST_SHARED, LEAST_INFORMATION = 0.25, 0.15
"""Mutual information with the template in nats, below which a segmented brain, or a whole image, is none: real brains share 0.4 and
more, a block of noise that a network takes for a brain 0.18."""
NETWORK, TEMPLATE = "network", "template"
SEARCH: dict[str, Any] = {
    "affine": {"method": "auto", "starts": ["header", "masses", "centres"], "refine": "none"},
    "deformable": {"method": "gauss_newton", "scales": [[1, 1], [1, 2]], "smooth": 100, "refine_steps": 0, "most_folded_percent": 5},
    "working_spacing_mm": 3,
    "mirrored": False,
}
"""How the template is registered where no network is for an image: see `cohortex.models.regseg.register`."""


@dataclass(frozen=True)
class Place:
    """Where a head lies.

    Attributes
    ----------
    matrix : (4, 4) array
        World of the template to world of the image, mm.
    brain_mm : (n, 3) array
        Points of the image's brain, evenly spread, brought to the template's space by the inverse of `matrix`.
    by : {"network", "template"}
        Who says what is brain: a segmentation of the image, or the template's brain after a deformation.
    agreement : float
        Dice of the segmented brain and the template's where the image reaches; NaN without a segmentation.
    why : str
        Why there was no segmentation.
    """

    matrix: np.ndarray
    brain_mm: np.ndarray
    by: str
    agreement: float
    why: str = ""


def template() -> Prepared:
    """Return the template's brain ready for a search."""
    from cohortex.faces import template_brain
    from cohortex.models.regseg.deform import prepare

    return prepare(*template_brain(), "T1w")


def placed(image: Image, part: str, settings: Mapping[str, Any], models: Mapping[str, Model], seed: int) -> Place:
    """Find a head's place.

    The brain that the network sees is searched for in the template's brain by mutual information (twelve parameters), with nothing around
    it that could mislead. Where there is no network for the image the search is for the brain in the whole image.

    Raises
    ------
    BadInput
        ``head-not-found``: what is seen does not look like a brain, or does not lie as one.
    """
    section = {"default": {"weights": settings.get("weights"), "segment": True, "intensities": "none", "assume_body_part": part}}
    subject = Subject({image.id: image}, {image.id: image.modality}, section, models, seed)
    labeller = labeller_for(image, subject, lambda sentence: None)
    if labeller is None:
        return _by_template(image, subject, subject.misfits.get(image.id, "none is named"), seed)
    soft, _ = labeller.look(labeller.values)
    names = labeller.names
    brain, spacing = solid_brain(np.argmax(np.asarray(soft[...]), axis=0), names, float(labeller.grid.spacing[0])), labeller.grid.spacing
    volume_ml = float(brain.sum() * np.prod(spacing) / 1000)
    if volume_ml < LEAST_BRAIN_ML:
        raise BadInput(
            "head-not-found",
            f"{image.id} shows {volume_ml:.0f} ml of brain, too little to find the face by: if it shows no head say so in the column "
            "body_part, else leave it out of the cohort.",
        )
    return _by_network(image, subject, labeller, brain, seed)


def solid_brain(labels: np.ndarray, names: list[str], spacing_mm: float) -> np.ndarray:
    """Return the brain among labels: the largest piece, parted from what a bridge joins to it.

    Parameters
    ----------
    labels : (X, Y, Z) array
    names : list of str
        What they mean, the background first.
    spacing_mm : float

    Returns
    -------
    (X, Y, Z) bool array
    """
    from scipy import ndimage
    from skimage.segmentation import watershed

    def of(these: tuple[str, ...]) -> np.ndarray:
        return np.isin(labels, [value for value, name in enumerate(names) if name in these])

    every = ndimage.binary_fill_holes(of(INSIDE))
    deep: Any = ndimage.distance_transform_edt(every, sampling=spacing_mm)
    cores, count = ndimage.label(deep > CORE_MM)  # type: ignore[misc]
    if count == 0:
        return np.zeros(labels.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(cores.ravel())[1:]))
    return (watershed(-deep, cores, mask=every) == largest) & of(BRAIN)


def _by_network(image: Image, subject: Subject, labeller: Any, brain: np.ndarray, seed: int) -> Place:
    """Return the place of a segmented brain."""
    from scipy import ndimage

    from cohortex.faces import template_brain
    from cohortex.models.regseg.affine import align
    from cohortex.models.regseg.deform import prepare
    from cohortex.models.regseg.grid import resample

    grid = labeller.grid
    near = ndimage.binary_dilation(brain, iterations=2)
    alone = np.ascontiguousarray(np.where(near, np.asarray(labeller.values[...]), 0), dtype=np.float32)
    pose = align(template().scan(), prepare(alone, grid.affine, "MR").scan(), "affine", seed=seed)
    matrix = pose.matrix
    array, affine = template_brain()
    meant = resample((array > 0).astype(np.float32), affine, grid, np.linalg.inv(matrix), outside=0.0) > 0.5
    # filled: the template's brain has its fluid
    whole = ndimage.binary_closing(brain, iterations=3) & subject.of(image).covers(grid)
    meant &= subject.of(image).covers(grid)
    agreement = float(2 * (whole & meant).sum() / max(1, whole.sum() + meant.sum()))
    if agreement < LEAST_AGREEMENT or pose.after < LEAST_SHARED:
        raise BadInput(
            "head-not-found",
            f"the brain of {image.id} does not lie as a brain does or look as one (Dice {agreement:.2f} and {pose.after:.2g} nats of "
            "mutual information with the template's): if it shows no head say so in the column body_part, else leave it out of the cohort "
            "or deface it by hand.",
        )
    points = np.argwhere(brain) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return Place(matrix, _moved(points, np.linalg.inv(matrix)), NETWORK, agreement)


def _by_template(image: Image, subject: Subject, why: str, seed: int) -> Place:
    """Return the place that the template finds in the whole image, its brain after a deformation."""
    from cohortex.models.regseg.grid import Grid, field_on
    from cohortex.models.regseg.register import LEAST_COVERED, register

    brain = template()
    found = register(brain, subject.of(image), "affine", SEARCH, seed=seed)
    if found.measures["mi_after"] < LEAST_INFORMATION or found.measures["covered_percent"] < LEAST_COVERED:
        raise BadInput(
            "head-not-found",
            f"the template's brain is not found in {image.id} ({found.measures['mi_after']:.2g} nats of mutual information): if it shows "
            "no head say so in the column body_part, else leave it out of the cohort or deface it by hand.",
        )
    grid = Grid(brain.mask.shape, brain.mask_affine)  # type: ignore[arg-type]
    points = np.argwhere(brain.mask) @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    if found.displacement is not None:
        points = points + field_on(grid, found.displacement)[brain.mask]
    return Place(found.matrix, points, TEMPLATE, float("nan"), why)


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
