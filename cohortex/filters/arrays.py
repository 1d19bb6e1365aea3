"""What every filter asks of its array: three axes, float32, finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def checked(array: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the array as contiguous float32, or refuse it.

    Raises
    ------
    ValueError
        Not three axes, empty, NaN or infinite values, or a spacing that is not three numbers above zero.
    """
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"a filter takes an array (x, y, z), a picture as (x, y, 1); this one has shape {array.shape}")
    if len(spacing_mm) != 3 or not all(np.isfinite(step) and step > 0 for step in spacing_mm):
        raise ValueError(f"a spacing is three numbers of mm above zero, this one is {tuple(spacing_mm)}")
    values = np.ascontiguousarray(array, dtype=np.float32)
    # The sum is finite only if every value is; where it overflows, the slow way decides.
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        raise ValueError("a filter would spread NaN and infinite values: replace them before filtering")
    return values
