"""ComBat: takes the shift and the scale of batches out of measures and leaves what covariates explain.

Johnson, Li and Rabinovic 2007 (10.1093/biostatistics/kxj037), with the parametric empirical Bayes estimates; for images Fortin et al. 2018
(10.1016/j.neuroimage.2017.11.024). Written from the papers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLOSE = 1e-4
"""Relative change from which on the estimates are taken as they are."""
ROUNDS = 1000
"""At most so many turns between the estimate of the shift and that of the scale."""


class CannotHarmonise(ValueError):
    """What was asked for cannot be estimated; the text says why, in a sentence."""


@dataclass(frozen=True)
class Fit:
    """What was taken out: shift and scale of every batch and measure (batches, measures), in units of the residual deviation."""

    batches: list[str]
    shift: np.ndarray
    scale: np.ndarray


def combat(values: np.ndarray, batches: np.ndarray, covariates: np.ndarray) -> tuple[np.ndarray, Fit]:
    """Return values without the shift and the scale of their batch.

    Parameters
    ----------
    values : ndarray (images, measures)
        NaN where a measure is missing: there it stays so, and the others of the image count.
    batches : ndarray of str (images,)
    covariates : ndarray (images, covariates)
        Columns of the design without the intercept, no NaN; their effect is kept.

    Returns
    -------
    harmonised : ndarray (images, measures)
        Of one batch only, the values as they are.
    fit : Fit

    Raises
    ------
    CannotHarmonise
        A batch has one image, batches and covariates cannot be told apart, or a measure does not vary.

    Notes
    -----
    Each measure is modelled as covariates, a shift of the batch and noise with a scale of the batch, all standardised by the residual
    deviation of all batches. Shifts are drawn to the mean of the batch over all measures, by as much as these agree (a normal prior);
    scales by an inverse gamma prior with the moments of the batch. With one measure there is nothing to share: its own estimates are taken.
    """
    names, member = np.unique(batches, return_inverse=True)
    count = len(names)
    if count == 1:
        return values.astype(np.float64), Fit([str(names[0])], np.zeros((1, values.shape[1])), np.ones((1, values.shape[1])))
    few = [str(name) for number, name in enumerate(names) if (member == number).sum() < 2]
    if few:
        raise CannotHarmonise(f"{', '.join(few)} has one image only, too few to know its scale")
    design = np.concatenate([np.eye(count)[member], covariates], axis=1)
    told = np.isfinite(values)
    spread = np.empty(values.shape[1])
    standard = np.full(values.shape, np.nan)
    kept = np.empty(values.shape)
    for column in range(values.shape[1]):
        rows = told[:, column]
        if any((rows & (member == number)).sum() < 2 for number in range(count)):
            raise CannotHarmonise("a measure has fewer than two values in a batch")
        if np.linalg.matrix_rank(design[rows]) < design.shape[1]:
            raise CannotHarmonise(
                "batches and covariates cannot be told apart: a covariate is the same throughout each batch, or follows from others"
            )
        found, *_ = np.linalg.lstsq(design[rows], values[rows, column], rcond=None)
        sizes = np.bincount(member[rows], minlength=count)
        mean = float(sizes @ found[:count] / sizes.sum())
        kept[:, column] = mean + covariates @ found[count:]
        residual = values[rows, column] - design[rows] @ found
        spread[column] = np.sqrt(np.mean(residual**2))
        if spread[column] <= 1e-9 * max(abs(mean), 1e-300):
            raise CannotHarmonise("a measure does not vary within batches")
        standard[rows, column] = (values[rows, column] - kept[rows, column]) / spread[column]
    shift, scale = np.empty((count, values.shape[1])), np.empty((count, values.shape[1]))
    for number in range(count):
        shift[number], scale[number] = _empirical_bayes(standard[member == number])
    harmonised = (standard - shift[member]) / np.sqrt(scale[member]) * spread + kept
    return harmonised, Fit([str(name) for name in names], shift, np.sqrt(scale))


def _empirical_bayes(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shift and variance of one batch's standardised measures, drawn to what the measures have in common."""
    counts = np.isfinite(part).sum(axis=0)
    own, variance = np.nanmean(part, axis=0), np.nanvar(part, axis=0, ddof=1)
    if part.shape[1] < 2 or np.var(own) == 0 or np.var(variance) == 0:
        return own, variance
    middle, width = float(np.mean(own)), float(np.var(own, ddof=1))
    mean, among = float(np.mean(variance)), float(np.var(variance, ddof=1))
    shape, rate = 2 + mean**2 / among, mean + mean**3 / among  # of the inverse gamma distribution with that mean and variance
    shift, scale = own, variance
    for _ in range(ROUNDS):
        new_shift = (width * counts * own + scale * middle) / (width * counts + scale)
        squares = np.nansum((part - new_shift) ** 2, axis=0)
        new_scale = (rate + squares / 2) / (shape + counts / 2 - 1)
        change = max(np.max(np.abs(new_shift - shift) / np.maximum(np.abs(shift), 1e-12)), np.max(np.abs(new_scale - scale) / scale))
        shift, scale = new_shift, new_scale
        if change < CLOSE:
            break
    return shift, scale
