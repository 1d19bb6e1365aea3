"""The pairs of a cohort as a training of one registration network sees them: affinely aligned, on grids of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.blocks import at_hand
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.regseg.affine import align
from cohortex.models.regseg.deform import Prepared, prepare
from cohortex.models.regseg.grid import Grid
from cohortex.models.regseg.pair import Pair, kind_of
from cohortex.training.register_data import ImagePair
from cohortex.training.register_settings import pairs_to_train
from cohortex.training.regseg_data import at_most, labels_to, splits_of


@dataclass(frozen=True)
class Gathered:
    """Pairs of one kind, all on grids of one shape, those of validation subjects apart; their body part, empty where nobody knew it."""

    train: list[ImagePair]
    validation: list[ImagePair]
    body_part: str


def gather(images: Sequence[Image], settings: Mapping[str, Any], seed: int) -> Gathered:
    """Bring the pairs of the training and validation subjects onto working grids.

    Each pair begins where the affine search puts it and lies in the box around the fixed image's body, as the stage `regseg` gives pairs
    to the network; so that all have one shape, boxes grow around their middle to the largest along each axis.

    Parameters
    ----------
    images : sequence of Image
        Of training and validation subjects, labels among them (role ``labels``).
    settings : mapping
        ``pair`` (rules), ``pairs`` (most of all splits together), ``spacing_mm``, perhaps the moving ``modality``.
    seed : int
        Of the affine search.

    Raises
    ------
    Refused
        When no training subject has a pair.
    """
    labels = {image.id.rsplit("+", 1)[0]: image for image in images if image.role == "labels"}
    chosen = at_most(pairs_to_train(images, settings["pair"], settings.get("modality")), labels, int(settings["pairs"]))
    splits = splits_of(chosen)
    posed = [_posed(pair, float(settings["spacing_mm"]), seed) for pair in chosen]
    shape = np.max([grid.shape for _, grid in posed], axis=0)
    found: dict[str, list[ImagePair]] = {"train": [], "validation": []}
    for pair, (matrix, grid) in zip(chosen, posed, strict=True):
        found[splits[pair.moving.subject]].append(_on(grown(grid, shape), pair, matrix, labels))
    if not found["train"]:
        raise Refused("regseg: register_weights: train found pairs of validation subjects only; give training subjects some.")
    return Gathered(found["train"], found["validation"], kind_of(chosen[0])[2])


def grown(grid: Grid, shape: Sequence[int] | np.ndarray) -> Grid:
    """Return a grid with as many voxels as `shape` says, more on all sides; where their number is odd, one more at the upper end."""
    before = (np.asarray(shape) - grid.shape) // 2
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ before
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _prepared(pair: Pair) -> tuple[Prepared, Prepared]:
    assert pair.fixed is not None
    fixed, moving = (prepare(at_hand(i.volume.data)[0], i.volume.affine, i.modality) for i in (pair.fixed, pair.moving))
    return fixed, moving


def _posed(pair: Pair, spacing_mm: float, seed: int) -> tuple[np.ndarray, Grid]:
    """Return the affine of a pair, and the box around the fixed image's body; the images are not held."""
    fixed, moving = _prepared(pair)
    matrix = align(fixed.scan(), moving.scan(), "rigid" if pair.freedom == "rigid" else "affine", seed=seed).matrix
    return matrix, fixed.box(spacing_mm)


def _on(grid: Grid, pair: Pair, matrix: np.ndarray, labels: Mapping[str, Image]) -> ImagePair:
    assert pair.fixed is not None
    fixed, moving = _prepared(pair)
    a, b = (labels_to(labels.get(image.id), grid, m) for image, m in ((pair.fixed, None), (pair.moving, matrix)))
    known = (a, b) if a is not None and b is not None else None
    names = (pair.fixed.modality, pair.moving.modality)
    return ImagePair(fixed.on(grid), moving.on(grid, matrix), known, None, pair.moving.subject, names)
