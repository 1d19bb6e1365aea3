"""How the intensities of an image come into a network's range, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cohortex.survey import Survey

CT_WINDOW = {"kind": "window", "low": -1100.0, "high": 1500.0}
PERCENTILES = {"kind": "percentile", "low": 0.5, "high": 99.0}


def values_for(modality: str) -> dict[str, Any]:
    """Return the usual ``values`` of a card: a window of HU for CT, percentiles for everything else."""
    return dict(CT_WINDOW if modality == "CT" else PERCENTILES)


def unit_range(array: np.ndarray, values: Mapping[str, Any]) -> tuple[float, float]:
    """Return what becomes 0 and what becomes 1.

    Parameters
    ----------
    array : (x, y, z) array
    values : mapping
        ``values`` of a model card. kind ``window``: low and high are intensities. kind ``percentile``: low is a percentile of
        the whole image (its background), high one of the foreground (`cohortex.filters.foreground`), so that neither the
        amount of air around the patient nor a few bright vessels matter. kind ``noise``: low is an intensity, and high is so many
        standard deviations of the noise (`cohortex.measures.image_quality.noise_sigma`, in the foreground) above it.

    Returns
    -------
    low, high : float
        ``high`` above ``low``, for a constant image too; of kind ``noise`` they are equal where there is no noise.
    """
    from cohortex.filters.foreground import foreground

    if values["kind"] == "noise":
        return _noise(array, foreground(array), values)
    return _percentiles(array, lambda: array[foreground(array)], values)


def unit_range_of(look: Survey, values: Mapping[str, Any]) -> tuple[float, float]:
    """Return `unit_range` of a volume that was looked at (`cohortex.survey`); a large one is judged by its sample."""
    if values["kind"] == "noise":
        return _noise(look.of(look.data), look.sample_inside, values)
    array = look.of(look.data) if values["kind"] == "percentile" else np.empty(0, np.float32)
    return _percentiles(array, lambda: array[look.sample_inside], values)


def _noise(array: np.ndarray, inside: np.ndarray, values: Mapping[str, Any]) -> tuple[float, float]:
    from cohortex.measures.image_quality import noise_sigma

    low = float(values["low"])
    return low, low + float(values["high"]) * noise_sigma(array, inside)


def _percentiles(array: np.ndarray, foreground: Callable[[], np.ndarray], values: Mapping[str, Any]) -> tuple[float, float]:
    if values["kind"] == "window":
        return float(values["low"]), float(values["high"])
    low = float(np.percentile(array, values["low"]))
    inside = foreground()
    high = float(np.percentile(inside if inside.size else array, values["high"]))
    return low, high if high > low else low + 1.0


def to_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return the array with `low` at 0 and `high` at 1 (nothing is clipped), float32."""
    return (np.asarray(array, dtype=np.float32) - np.float32(low)) * np.float32(1 / (high - low))


def from_unit(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Undo `to_unit`."""
    return np.asarray(array, dtype=np.float32) * np.float32(high - low) + np.float32(low)
