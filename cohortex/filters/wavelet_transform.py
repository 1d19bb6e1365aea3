"""The wavelet transform of volumes, along some of their axes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from cohortex.filters.wavelet_kernels import analyse_along, analyse_rows, synthesise_along, synthesise_rows

Taps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@lru_cache(maxsize=16)
def taps_of(basis: str, dtype: str = "float32") -> Taps:
    """Return the taps of analysis (low, high) and synthesis (low, high) of a discrete wavelet that PyWavelets knows."""
    library = _pywt()
    if basis not in library.wavelist(kind="discrete"):
        raise ValueError(f"{basis!r} is not a discrete wavelet; some that are: haar, db2, sym4, coif1")
    found = library.Wavelet(basis)
    low, high, back_low, back_high = (np.array(taps, dtype=dtype) for taps in found.filter_bank)
    return low, high, back_low, back_high


def deepest(size: int, basis: str) -> int:
    """Return the number of levels after which borders would be all there is."""
    return _pywt().dwt_max_level(size, taps_of(basis)[0].size)


def decompose(array: np.ndarray, axes: Sequence[int], basis: str, depth: int) -> list[Any]:
    """Return the coarse image, then a mapping of bands a level, coarse to fine, named by a (low) or d (high) an axis.

    Parameters
    ----------
    array : (x, y, z) float32 or float64 array
        The bands have its type.
    axes : ints
    basis : str
    depth : int
        Levels.
    """
    low, high, _, _ = taps_of(basis, array.dtype.name)
    coarse, levels = array, []
    for _ in range(depth):
        parts = {"": coarse}
        for axis in axes:
            halves = {name: _analysed(part, axis, low, high) for name, part in parts.items()}
            parts = {name + kind: half for name, pair in halves.items() for kind, half in zip("ad", pair, strict=True)}
        coarse = parts.pop("a" * len(axes))
        levels.append(parts)
    return [coarse, *levels[::-1]]


def recompose(bands: list[Any], axes: Sequence[int], basis: str, shape: Sequence[int]) -> np.ndarray:
    """Return the array of a given shape that `decompose` took apart."""
    _, _, low, high = taps_of(basis, bands[0].dtype.name)
    sizes = [tuple(shape)]
    for _ in bands[2:]:
        sizes.append(tuple((n + low.size - 1) // 2 if axis in axes else n for axis, n in enumerate(sizes[-1])))
    coarse = bands[0]
    for level, size in zip(bands[1:], sizes[::-1], strict=True):
        parts = {"a" * len(axes): coarse, **level}
        for place in range(len(axes) - 1, -1, -1):
            axis, names = axes[place], {name[:place] for name in parts}
            parts = {name: _synthesised(parts[name + "a"], parts[name + "d"], axis, size[axis], low, high) for name in names}
        coarse = parts[""]
    return coarse


def _analysed(array: np.ndarray, axis: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both halves along an axis."""
    shape = list(array.shape)
    shape[axis] = (shape[axis] + low.size - 1) // 2
    first, second = np.empty(shape, dtype=array.dtype), np.empty(shape, dtype=array.dtype)
    if _runs(shape, axis):
        size = shape[axis]
        analyse_along(array.reshape(-1, array.shape[axis]), first.reshape(-1, size), second.reshape(-1, size), low, high)
    else:
        analyse_rows(_flat(array, axis), _flat(first, axis), _flat(second, axis), low, high)
    return first, second


def _synthesised(first: np.ndarray, second: np.ndarray, axis: int, size: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the array of both halves along an axis."""
    shape = list(first.shape)
    shape[axis] = size
    out = np.empty(shape, dtype=first.dtype)
    if _runs(shape, axis):
        count = first.shape[axis]
        synthesise_along(first.reshape(-1, count), second.reshape(-1, count), out.reshape(-1, size), low, high)
    else:
        synthesise_rows(_flat(first, axis), _flat(second, axis), _flat(out, axis), low, high)
    return out


def _runs(shape: Sequence[int], axis: int) -> bool:
    """Tell whether neighbours along an axis are neighbours in memory."""
    return all(size == 1 for size in shape[axis + 1 :])


def _flat(array: np.ndarray, axis: int) -> np.ndarray:
    """Return the array with the axes before and after one made one each."""
    return array.reshape(int(np.prod(array.shape[:axis])), array.shape[axis], int(np.prod(array.shape[axis + 1 :])))


def _pywt() -> Any:
    """Return the library; most of its names exist only at run time, so its type is left open."""
    import pywt

    return pywt
