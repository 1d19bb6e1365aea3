"""Brings the features of subjects into the form that a classifier learns from: chosen, complete, of one scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cohortex.models.classify.selection import select

FARTHEST = 5.0
"""Standard deviations at which values end: an outlier of a scanner that was never seen must not outvote everything else."""


@dataclass(frozen=True)
class Preparation:
    """What was learned of the features of the training subjects.

    Attributes
    ----------
    columns : (k,) int64 array
        Which features are used.
    middle : (k,) float64 array
        Their medians, taken where one is missing.
    mean, scale : (k,) float64 arrays
    complete : (k,) bool array
        Whether every training subject had the feature: where one of these is missing, nothing can be said.
    indicators : (m,) int64 array
        Features whose absence is a feature of its own (1 absent, 0 there).
    """

    columns: np.ndarray
    middle: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    complete: np.ndarray
    indicators: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name, for a model folder."""
        found = {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}
        return found | {"complete": self.complete.astype(np.uint8)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Preparation:
        """Return the preparation that `tensors` described."""
        found = {name: np.asarray(tensors[name]) for name in cls.__dataclass_fields__}
        return cls(**{**found, "complete": found["complete"].astype(bool)})


def fit_preparation(x: np.ndarray, y: np.ndarray, count: int, selection: str, seed: int = 0) -> Preparation:
    """Learn which features to use, and their scale.

    Parameters
    ----------
    x : (n, features) array
        Of the training subjects of one fold. NaN where missing.
    y : (n,) integer array
    count : int
        Features at most.
    selection : str
        See `cohortex.models.classify.selection.select`.
    seed : int

    Raises
    ------
    ValueError
        When no feature varies or the selection is unknown.
    """
    columns = select(x, y, count, selection, seed)
    missing = np.isnan(x)
    chosen = x[:, columns]
    return Preparation(
        columns=columns,
        middle=np.nanmedian(chosen, axis=0),
        mean=np.nanmean(chosen, axis=0),
        scale=np.nanstd(chosen, axis=0),
        complete=np.logical_not(missing[:, columns].any(axis=0)),
        indicators=absences(missing),
    )


def prepare(preparation: Preparation, x: np.ndarray) -> np.ndarray:
    """Return the chosen features in standard deviations, then the indicators of absence, (n, k + m) float64."""
    chosen = x[:, preparation.columns]
    filled = np.where(np.isnan(chosen), preparation.middle, chosen)
    scaled = np.clip((filled - preparation.mean) / preparation.scale, -FARTHEST, FARTHEST)
    return np.concatenate([scaled, np.isnan(x[:, preparation.indicators]).astype(np.float64)], axis=1)


def speechless(preparation: Preparation, x: np.ndarray) -> np.ndarray:
    """Return which rows lack a feature that every training subject had, (n,) bool."""
    return np.asarray(np.isnan(x[:, preparation.columns[preparation.complete]]).any(axis=1))


def absences(missing: np.ndarray) -> np.ndarray:
    """Return one column for each pattern of absence that some but not all training subjects have.

    Parameters
    ----------
    missing : (n, features) bool array
    """
    some = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    _, first = np.unique(missing[:, some], axis=1, return_index=True)
    return np.sort(some[first]).astype(np.int64)
