"""Compiled loops of `cohortex.filters.wavelet`; compiled code is cached beside this file or in the user's cache.

Coefficient k of a signal x is the sum over j of tap j times x[2 k + 1 - j], beyond the ends the reflected signal (the outermost value
twice), as PyWavelets has it in its mode "symmetric". Taps are even in number.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from cohortex.filters.median_kernels import mirrored

_PIECE = 2048
"""Elements of a row that are worked on at once."""


@njit(cache=True, nogil=True)
def _two(out, a, b, wa, wb):
    for k in range(out.size):
        out[k] = wa * a[k] + wb * b[k]


@njit(cache=True, nogil=True)
def _add_two(out, a, b, wa, wb):
    for k in range(out.size):
        out[k] = out[k] + wa * a[k] + wb * b[k]


@njit(cache=True, nogil=True)
def _four(out, a, b, c, d, wa, wb, wc, wd):
    for k in range(out.size):
        out[k] = wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]


@njit(cache=True, nogil=True)
def _add_four(out, a, b, c, d, wa, wb, wc, wd):
    for k in range(out.size):
        out[k] = out[k] + wa * a[k] + wb * b[k] + wc * c[k] + wd * d[k]


@njit(cache=True, nogil=True)
def _analysed(out, rows, place, start, stop, taps):
    """Set `out` to the sum of rows with their taps, in the elements start to stop - 1."""
    out = out[start:stop]
    j = 0
    if taps.size < 4:
        _two(out, rows[place[0], start:], rows[place[1], start:], taps[0], taps[1])
        return
    while j < taps.size:
        a, b = rows[place[j], start:], rows[place[j + 1], start:]
        if j + 4 > taps.size:
            _add_two(out, a, b, taps[j], taps[j + 1])
            return
        c, d = rows[place[j + 2], start:], rows[place[j + 3], start:]
        if j == 0:
            _four(out, a, b, c, d, taps[0], taps[1], taps[2], taps[3])
        else:
            _add_four(out, a, b, c, d, taps[j], taps[j + 1], taps[j + 2], taps[j + 3])
        j += 4


@njit(cache=True, nogil=True)
def analyse_rows(source, low, high, taps_low, taps_high):
    """Transform (outer, n, inner) along the middle axis into `low` and `high`, (outer, (n + taps - 1) // 2, inner)."""
    outer, size, inner = source.shape
    place = np.empty(taps_low.size, dtype=np.int64)
    for o in range(outer):
        for start in range(0, inner, _PIECE):
            stop = min(inner, start + _PIECE)
            for k in range(low.shape[1]):
                for j in range(taps_low.size):
                    place[j] = mirrored(2 * k + 1 - j, size)
                _analysed(low[o, k], source[o], place, start, stop, taps_low)
                _analysed(high[o, k], source[o], place, start, stop, taps_high)


@njit(cache=True, nogil=True)
def _synthesised(out, low, high, t, start, stop, taps_low, taps_high, first):
    """Set `out` to the sum of rows t, t + 1, ... of both bands with every second tap, from the last (`first` 1) or last but one (2)."""
    out = out[start:stop]
    size = taps_low.size
    half = size // 2
    w, v = taps_low[size - first :: -2], taps_high[size - first :: -2]
    if half == 1:
        _two(out, low[t, start:], high[t, start:], w[0], v[0])
        return
    i = 0
    while i < half:
        a, b = low[t + i, start:], high[t + i, start:]
        if i + 2 > half:
            _add_two(out, a, b, w[i], v[i])
            return
        c, d = low[t + i + 1, start:], high[t + i + 1, start:]
        if i == 0:
            _four(out, a, b, c, d, w[0], v[0], w[1], v[1])
        else:
            _add_four(out, a, b, c, d, w[i], v[i], w[i + 1], v[i + 1])
        i += 2


@njit(cache=True, nogil=True)
def synthesise_rows(low, high, out, taps_low, taps_high):
    """Undo `analyse_rows`; `out` may end one row early."""
    outer, size, inner = out.shape
    for o in range(outer):
        for start in range(0, inner, _PIECE):
            stop = min(inner, start + _PIECE)
            for n in range(size):
                _synthesised(out[o, n], low[o], high[o], n // 2, start, stop, taps_low, taps_high, 2 - n % 2)


@njit(cache=True, nogil=True)
def analyse_along(source, low, high, taps_low, taps_high):
    """Transform (rows, n) along the rows."""
    size, reach = source.shape[1], taps_low.size // 2
    count = low.shape[1]
    split = np.empty((2, count + reach), dtype=source.dtype)  # values of even and of odd places
    rows = np.empty((taps_low.size, count), dtype=source.dtype)
    place = np.arange(taps_low.size)
    inside = size // 2
    for r in range(source.shape[0]):
        line = source[r]
        even, odd = split[0, reach - 1 :], split[1, reach - 1 :]
        for k in range(min(inside, count)):
            even[k], odd[k] = line[2 * k], line[2 * k + 1]
        for k in range(inside, count):
            even[k], odd[k] = line[mirrored(2 * k, size)], line[mirrored(2 * k + 1, size)]
        for k in range(1, reach):
            split[0, reach - 1 - k], split[1, reach - 1 - k] = line[mirrored(-2 * k, size)], line[mirrored(1 - 2 * k, size)]
        for j in range(taps_low.size):
            begin = reach - 1 - j // 2
            rows[j] = split[1 - j % 2, begin : begin + count]
        _analysed(low[r], rows, place, 0, count, taps_low)
        _analysed(high[r], rows, place, 0, count, taps_high)


@njit(cache=True, nogil=True)
def synthesise_along(low, high, out, taps_low, taps_high):
    """Undo `analyse_along`; `out` may end one element early."""
    size, half = out.shape[1], taps_low.size // 2
    count = low.shape[1] - half + 1
    even, odd = np.empty(count, dtype=out.dtype), np.empty(count, dtype=out.dtype)
    lows, highs = np.empty((half, count), dtype=out.dtype), np.empty((half, count), dtype=out.dtype)
    for r in range(out.shape[0]):
        for i in range(half):
            lows[i], highs[i] = low[r, i : i + count], high[r, i : i + count]
        _synthesised(even, lows, highs, 0, 0, count, taps_low, taps_high, 2)
        _synthesised(odd, lows, highs, 0, 0, count, taps_low, taps_high, 1)
        line = out[r]
        for k in range(size // 2):
            line[2 * k], line[2 * k + 1] = even[k], odd[k]
        if size % 2:
            line[size - 1] = even[size // 2]


@njit(cache=True, nogil=True)
def squares(band, sums):
    """Set `sums` to the sums of squares in every plane along the first axis, float64."""
    for i in range(band.shape[0]):
        line = np.zeros(band.shape[2])
        for j in range(band.shape[1]):
            row = band[i, j]
            for k in range(row.size):
                value = np.float64(row[k])
                line[k] += value * value
        total = 0.0
        for k in range(line.size):
            total += line[k]
        sums[i] = total


@njit(cache=True, nogil=True)
def shrink(band, threshold):
    """Move values towards zero by a threshold, in place."""
    zero = np.float32(0)
    flat = band.reshape(-1)
    for k in range(flat.size):
        value = flat[k]
        up, down = value - threshold, value + threshold
        flat[k] = up if up > zero else (down if down < zero else zero)
