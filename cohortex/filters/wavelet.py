"""Wavelet shrinkage with the BayesShrink threshold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cohortex import threads
from cohortex.filters.arrays import checked, relative_spacing
from cohortex.filters.noise import given_or_estimated
from cohortex.filters.steps import Resolved, Step, Triple, slab_planes
from cohortex.filters.wavelet_kernels import shrink, squares
from cohortex.filters.wavelet_transform import decompose, deepest, recompose, taps_of

_THICK = 2.0
"""Axes this much coarser than the finest one are not transformed."""


def wavelet(
    array: np.ndarray,
    spacing_mm: Sequence[float],
    sigma: float | None = None,
    basis: str = "sym4",
    levels: int | None = None,
    shifts: int = 4,
) -> np.ndarray:
    """Return the image with its wavelet coefficients shrunk.

    In every band the coefficients are moved towards zero by sigma^2 over the standard deviation of the signal in that band, which
    is what the variance of the band leaves after that of the noise.

    Parameters
    ----------
    array : (x, y, z) float32 array
        A picture is (x, y, 1). Finite.
    spacing_mm : three floats
        Axes more than twice as coarse as the finest one are not transformed, nor are axes too short for two levels (for one, where all
        are short).
    sigma : float, optional
        Standard deviation of the white noise; estimated from the finest diagonal band where it is not given.
    basis : str
        An orthogonal wavelet that PyWavelets knows.
    levels : int, optional
        At most 3 by default.
    shifts : int
        Cycle spinning: average over this many diagonal shifts of the image. Each costs one transform more.

    Returns
    -------
    (x, y, z) float32 array

    Raises
    ------
    ValueError
        NaN or infinite values, or a parameter out of its range.

    Notes
    -----
    Edge rule: reflection, the outermost voxel twice. With one shift this is `skimage.restoration.denoise_wavelet` with BayesShrink, soft
    thresholds, `rescale_sigma=False` and the same wavelet and levels, to 1e-6 of the range.

    References
    ----------
    Chang, Yu and Vetterli, IEEE Trans. Image Processing 9 (2000) 1532-1546; Coifman and Donoho, Translation-invariant
    de-noising, 1995 (cycle spinning).
    """
    values = checked(array, spacing_mm)
    resolved = _plan(values, spacing_mm, sigma, basis, levels, shifts)
    if not resolved["depth"]:
        return values.copy()
    most = max(1, min(threads.count(), shifts))
    with ThreadPoolExecutor(most) as pool:
        spun = (map if most == 1 else pool.map)(lambda shift: _spun(values, resolved, shift, None, (0, 0, 0)), range(shifts))
        total = np.zeros_like(values)
        for result in spun:
            total += result
    return total / np.float32(shifts)


def _plan(array: Any, spacing_mm: Sequence[float], sigma: float | None, basis: str, levels: int | None, shifts: int) -> dict[str, Any]:
    """Return all but the thresholds; a depth of 0 means that nothing is to be done."""
    if shifts < 1:
        raise ValueError(f"cycle spinning takes at least 1 shift, not {shifts}")
    if levels is not None and levels < 1:
        raise ValueError(f"a wavelet transform has at least 1 level, not {levels}")
    taps_of(basis)
    scale = given_or_estimated(array, sigma)
    axes = _axes(array.shape, spacing_mm, basis)
    depth = 0
    if scale > 0 and axes:
        most = min(deepest(array.shape[axis], basis) for axis in axes)
        depth = max(1, min(most, 3 if levels is None else levels))
    return {"sigma": scale, "basis": basis, "axes": axes, "depth": depth, "shifts": shifts, "shape": tuple(array.shape)}


def _resolve(
    array: Any,
    spacing_mm: Sequence[float],
    sigma: float | None = None,
    basis: str = "sym4",
    levels: int | None = None,
    shifts: int = 4,
) -> dict[str, Any]:
    """Return the plan and the thresholds of every shift, level and band."""
    resolved = _plan(array, spacing_mm, sigma, basis, levels, shifts)
    if resolved["depth"]:
        resolved["thresholds"] = [_thresholds(_powers(array, resolved, shift), resolved["sigma"]) for shift in range(shifts)]
    return resolved


def _powers(array: Any, resolved: Resolved, shift: int) -> list[dict[str, float]]:
    """Return the mean square of every band; a lazy array is read in slabs along x."""
    axes, depth, size = resolved["axes"], resolved["depth"], array.shape[0]
    unit = 2**depth if 0 in axes else 1
    ahead = shift if 0 in axes else 0  # places are counted from where the shifted image begins
    margin = unit * _tap_count(resolved) if 0 in axes else 0
    planes = size + ahead if isinstance(array, np.ndarray) else max(unit, slab_planes(array.shape, 64) // unit * unit)
    found: list[dict[str, list[np.ndarray]]] = []
    counts: list[dict[str, int]] = []
    for start in range(0, size + ahead, planes):
        stop = min(size + ahead, start + planes)
        first, last = max(0, start - margin), min(size + ahead, stop + margin)
        low = max(0, first - ahead)
        part = np.ascontiguousarray(array[low : last - ahead], dtype=np.float32)
        bands = decompose(_shifted(part, resolved, shift, (low, 0, 0))[0], axes, resolved["basis"], depth)
        for level, named in enumerate(bands[1:]):
            step = 2 ** (depth - level) if 0 in axes else 1
            if start == 0:
                found.append({name: [] for name in named})
                counts.append(dict.fromkeys(named, 0))
            for name, band in named.items():
                sums = np.empty(band.shape[0])
                squares(band, sums)
                begin = (start - first) // step
                end = (stop - first) // step if stop < size + ahead else band.shape[0]
                found[level][name].append(sums[begin:end])
                counts[level][name] += (end - begin) * band.shape[1] * band.shape[2]
    return [{name: float(np.sum(np.concatenate(sums))) / counts[i][name] for name, sums in level.items()} for i, level in enumerate(found)]


def _tap_count(resolved: Resolved) -> int:
    """Return the number of taps of the wavelet."""
    return taps_of(resolved["basis"])[0].size


def _thresholds(powers: list[dict[str, float]], sigma: float) -> list[dict[str, np.float32]]:
    """Return the variance of the noise over the standard deviation of the signal, for every band."""
    least = float(np.finfo(np.float32).eps)
    return [
        {name: np.float32(sigma**2 / max(np.sqrt(max(power - sigma**2, least * power)), 1e-30)) for name, power in level.items()}
        for level in powers
    ]


def _shifted(values: np.ndarray, resolved: Resolved, shift: int, origin: Triple) -> tuple[np.ndarray, list[int]]:
    """Return a part of the image as the transform of a shift sees it, and where it begins in the part along each axis.

    At the border of the image it begins `shift` voxels before (so negative), elsewhere where the coefficients of the whole image begin.
    """
    unit = 2 ** resolved["depth"]
    begins = [0, 0, 0]
    for axis in resolved["axes"]:
        begins[axis] = -shift if origin[axis] == 0 else -(origin[axis] + shift) % unit
    pads = [(max(0, -begin), 0) for begin in begins]
    inner = values[tuple(slice(max(0, begin), None) for begin in begins)]
    return np.ascontiguousarray(np.pad(inner, pads, mode="symmetric") if any(before for before, _ in pads) else inner), begins


def _spun(values: np.ndarray, resolved: Resolved, shift: int, thresholds: Any, origin: Triple) -> np.ndarray:
    """Return a part of the image after one shift's shrinkage; without thresholds they are those of the part."""
    piece, begins = _shifted(values, resolved, shift, origin)
    axes, basis = resolved["axes"], resolved["basis"]
    bands = decompose(piece, axes, basis, resolved["depth"])
    if thresholds is None:
        powers = []
        for level in bands[1:]:
            found = {}
            for name, band in level.items():
                sums = np.empty(band.shape[0])
                squares(band, sums)
                found[name] = float(np.sum(sums)) / band.size
            powers.append(found)
        thresholds = _thresholds(powers, resolved["sigma"])
    for level, limits in zip(bands[1:], thresholds, strict=True):
        for name, band in level.items():
            shrink(band, limits[name])
    result = recompose(bands, axes, basis, piece.shape)
    if not any(begins):
        return result
    out = values.copy()
    out[tuple(slice(max(0, begin), None) for begin in begins)] = result[tuple(slice(max(0, -begin), None) for begin in begins)]
    return out


def _halo(resolved: Resolved) -> Triple:
    """Return how far the coefficients of the deepest level reach, there and back, and how far the next place is where they begin."""
    depth, reach = resolved["depth"], 0
    if depth:
        taps, unit = _tap_count(resolved), 2**depth
        for size in range(64 * unit * taps, 64 * unit * taps + unit):
            lows, highs = [0], [size - 1]  # coefficients of every level that see nothing beyond the part
            for _ in range(depth):
                lows.append(-(-(lows[-1] + taps - 2) // 2))
                highs.append((highs[-1] - 1) // 2)
            low, high = lows[-1], highs[-1]
            for level in range(depth, 0, -1):
                low, high = 2 * max(low, lows[level]), 2 * (min(high, highs[level]) - taps // 2 + 1) + 1
            reach = max(reach, low + unit - 1, size - 1 - high)
    x, y, z = (reach if axis in resolved["axes"] else 0 for axis in range(3))
    return x, y, z


def _block(values: np.ndarray, resolved: Resolved, origin: Triple) -> np.ndarray:
    """Filter a part of an image."""
    if not resolved["depth"]:
        return values.copy()
    total = np.zeros_like(values)
    for shift in range(resolved["shifts"]):
        total += _spun(values, resolved, shift, resolved["thresholds"][shift], origin)
    return total / np.float32(resolved["shifts"])


def _axes(shape: Sequence[int], spacing_mm: Sequence[float], basis: str) -> list[int]:
    """Return the axes to transform."""
    relative = relative_spacing(shape, spacing_mm)
    levels = [deepest(shape[axis], basis) if relative[axis] <= _THICK else 0 for axis in range(3)]
    return [axis for axis in range(3) if levels[axis] >= max(1, min(2, max(levels)))]


STEP = Step(_resolve, _halo, _block)
