"""Labels of tissues by the image's own intensities.

A network that learned from random contrasts knows where tissues are, and little of where exactly they end, as every contrast blurs that in
another way. One image has one contrast: what is surely grey matter tells how bright it is there, and that says which of the doubtful
voxels are grey matter as well. The network's probabilities are the prior of a mixture of Gaussians, one a tissue, whose means change slowly
over the image as a bias field makes them (expectation and maximisation: Wells et al., IEEE TMI 15(4), 1996; Ashburner and Friston,
NeuroImage 26(3), 2005, have an atlas for a prior).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage as ndi

from cohortex.blocks import new_array
from cohortex.volume import ArrayLike

NEAR_MM, CELL_MM = 12.0, 6.0
"""How far around a place its means are taken (standard deviation), and edge of the cells in which sums for them are kept."""
POWER = 0.5
"""Of the prior: a network is surer of itself than it should be."""
ITERATIONS = 4
LEAST_VOXELS = 200.0
"""Of every tissue; where one has fewer, nothing is changed."""
LEAST_STD = 0.01
EDGE = 96
"""Voxels of a block along each axis, about."""


def followed(soft: ArrayLike, image: ArrayLike, spacing_mm: float, card: Mapping[str, Any]) -> ArrayLike:
    """Return probabilities `by_intensity` where a model's card says which classes are tissues (``extra: tissues``), as they are elsewhere.

    There every tissue has the list of its classes, by their names in ``classes``.
    """
    known = card.get("extra", {}).get("tissues", {})
    names = [str(c) for c in card.get("classes", [])]
    return by_intensity(soft, image, spacing_mm, {names.index(c): t for t, classes in known.items() for c in classes}) if known else soft


@dataclass(frozen=True)
class Mixture:
    """The mean of every tissue in every cell (T, cells...), and its standard deviation (T,)."""

    means: np.ndarray
    std: np.ndarray


def by_intensity(soft: ArrayLike, image: ArrayLike, spacing_mm: float, tissues: Mapping[int, str], power: float = POWER) -> ArrayLike:
    """Return class probabilities with those of tissues changed by intensities; of the other classes they stay.

    Parameters
    ----------
    soft : (K, X, Y, Z) array-like
        Probabilities of a network. May be larger than memory: blocks are looked at one after the other.
    image : (X, Y, Z) array-like
        Within 0 and 1.
    spacing_mm : float
        Edge of the voxels.
    tissues : mapping
        Classes that are tissues to the tissue's name; classes of one name (fluid in ventricles and in sulci) share their intensities and
        are told apart by the prior alone.
    power : float
        Of the prior.

    Returns
    -------
    (K, X, Y, Z) float32 array-like
        A new one; `soft` itself where a tissue has fewer than `LEAST_VOXELS` voxels. Each voxel's probabilities of tissues sum to what
        they did.
    """
    classes = sorted(tissues)
    names = sorted(set(tissues.values()))
    of = np.array([names.index(tissues[k]) for k in classes])
    cell = max(1, round(CELL_MM / spacing_mm))
    shape = tuple(int(n) for n in soft.shape[1:])
    cells = tuple(-(-n // cell) for n in shape)

    def sums(mixture: Mixture | None) -> np.ndarray:
        """Return weight, sum and sum of squares of every tissue in every cell."""
        found = np.zeros((3, len(names), *cells))
        for box in _boxes(shape, cell):
            prior, values = _read(soft, image, classes, box)
            q = prior if mixture is None else _posterior(prior, values, mixture, of, cell, box, power)
            q = np.where(prior.sum(0) > 0.5, q, 0)
            weight = np.stack([q[of == t].sum(0) for t in range(len(names))])
            place = (slice(None), *(slice(a.start // cell, -(-a.stop // cell)) for a in box))
            for n, each in enumerate((weight, weight * values, weight * values * values)):
                found[n][place] = _by_cells(each, cell)
        return found

    mixture = None
    for _ in range(ITERATIONS):
        found = sums(mixture)
        if found[0].sum((1, 2, 3)).min() < LEAST_VOXELS:
            return soft
        mixture = _mixture(found, NEAR_MM / (cell * spacing_mm))
    assert mixture is not None
    made = new_array(soft.shape, np.float32)
    for box in _boxes(shape, cell):
        block = np.array(soft[(slice(None), *box)], np.float32)
        prior, values = _read(soft, image, classes, box)
        q = _posterior(prior, values, mixture, of, cell, box, power)
        block[classes] = np.where(prior.sum(0) > 0.5, q, prior)
        made[(slice(None), *box)] = block
    return made


def _boxes(shape: Sequence[int], cell: int) -> Iterator[tuple[slice, ...]]:
    """Yield blocks that begin at the face of a cell."""
    edge = max(1, EDGE // cell) * cell
    for start in product(*(range(0, n, edge) for n in shape)):
        yield tuple(slice(a, min(a + edge, n)) for a, n in zip(start, shape, strict=True))


def _read(soft: ArrayLike, image: ArrayLike, classes: Sequence[int], box: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([np.asarray(soft[(k, *box)], np.float32) for k in classes]), np.asarray(image[box], np.float32)


def _mixture(found: np.ndarray, sigma: float) -> Mixture:
    """Return the means near every cell, that of the whole image where a tissue is not near, and the spread around them."""
    weight, first, second = found
    means = np.empty_like(first)
    for t, (w, x) in enumerate(zip(weight, first, strict=True)):
        near_w, near_x = (ndi.gaussian_filter(each, sigma, mode="constant") for each in (w, x))
        means[t] = (near_x + x.sum() / w.sum()) / (near_w + 1)
    apart = (second - 2 * means * first + means**2 * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    return Mixture(means.astype(np.float32), np.maximum(np.sqrt(np.maximum(apart, 0)), LEAST_STD).astype(np.float32))


def _posterior(
    prior: np.ndarray, values: np.ndarray, mixture: Mixture, of: np.ndarray, cell: int, box: tuple[slice, ...], power: float
) -> np.ndarray:
    """Return the classes' probabilities in a block, which sum to those of the prior."""
    means = _between_cells(mixture.means, cell, box)
    std = mixture.std.reshape(-1, 1, 1, 1)
    like = np.exp(-0.5 * ((values - means) / std) ** 2) / std
    q = np.maximum(prior, 1e-4) ** np.float32(power) * like[of] + np.float32(1e-12)
    return q * (prior.sum(0) / q.sum(0))


def _by_cells(array: np.ndarray, cell: int) -> np.ndarray:
    """Return the sums (T, cells...) over the cells of a block (T, X, Y, Z)."""
    for axis in (1, 2, 3):
        array = np.add.reduceat(array, range(0, array.shape[axis], cell), axis=axis, dtype=np.float64)
    return array


def _between_cells(cells: np.ndarray, cell: int, box: tuple[slice, ...]) -> np.ndarray:
    """Return values of cells (T, cells...) at the voxels of a block, linear between the middles of the cells."""
    for axis, part in enumerate(box, 1):
        count = cells.shape[axis]
        at = np.clip((np.arange(part.start, part.stop) + 0.5) / cell - 0.5, 0, count - 1)
        low = np.minimum(at.astype(int), max(count - 2, 0))
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
        cells = np.take(cells, low, axis) * (1 - share) + np.take(cells, np.minimum(low + 1, count - 1), axis) * share
    return cells
