"""Non-subsampled contourlet transform of pictures: bands by scale and direction, every band as large as the picture.

Da Cunha, Zhou & Do, The nonsubsampled contourlet transform, IEEE Trans. Image Process. 15(10), 2006,
doi:10.1109/TIP.2006.877507. A pyramid splits off one scale after the other, a tree of fan filters splits each scale by direction.
Every split is a two-channel filter bank made by their mapping approach: its filters are polynomials of one operator T, and
H0 G0 + H1 G1 = 1 holds for the polynomials themselves, so that reconstruction is perfect whatever T does at the picture's edges.

All functions take numpy arrays and torch tensors alike; what is made of a tensor can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

DIRECTIONS = (8, 4, 2)
"""Directions of the scales, the finest first: with the low-pass band these are 15 bands (Kang et al. 2017)."""

# Coefficients of 1, T, T^2, ... of the paper's near-orthogonal prototypes (1 + T)/2 (..): low-pass of analysis and of synthesis.
_ROOT = sqrt(2)
_H0 = (_ROOT / 2, 0.5, (1 - _ROOT) / 2)
_G0 = (_ROOT / 2, 2 - _ROOT, (1 - _ROOT) / 2, _ROOT - 1.5)
# The high-pass ones are the other's at -T.
_H1 = tuple(c * (-1) ** k for k, c in enumerate(_G0))
_G1 = tuple(c * (-1) ** k for k, c in enumerate(_H0))

Offset = tuple[int, int]


@dataclass(frozen=True)
class _Scale:
    """T of a pyramid's step: 1 at zero frequency, -1 at the highest one of either axis; samples lie `step` apart."""

    step: int

    @property
    def radius(self) -> int:
        return self.step

    def __call__(self, x: Any) -> Any:
        s = self.step
        wide = _padded(x, s)
        rows = wide[..., : -2 * s, :] + 2 * wide[..., s:-s, :] + wide[..., 2 * s :, :]
        smooth = rows[..., : -2 * s] + 2 * rows[..., s:-s] + rows[..., 2 * s :]
        return smooth / 8 - x


@dataclass(frozen=True)
class _Wedge:
    """T of a directional step: (cos p w - cos q w) / 2 for frequencies w and two offsets p and q."""

    p: Offset
    q: Offset

    @property
    def radius(self) -> int:
        return max(abs(n) for n in (*self.p, *self.q))

    def __call__(self, x: Any) -> Any:
        r = self.radius
        wide = _padded(x, r)
        rows, columns = x.shape[-2:]

        def at(offset: Offset) -> Any:
            a, b = r + offset[0], r + offset[1]
            return wide[..., a : a + rows, b : b + columns]

        (p0, p1), (q0, q1) = self.p, self.q
        return (at((p0, p1)) + at((-p0, -p1)) - at((q0, q1)) - at((-q0, -q1))) / 4


Operator = _Scale | _Wedge


def contourlet(picture: Any, directions: Sequence[int] = DIRECTIONS) -> Any:
    """Return the bands of pictures.

    Parameters
    ----------
    picture : (..., rows, columns) array or tensor, floating point
    directions : sequence of {1, 2, 4, 8}
        Of every scale, the finest first.

    Returns
    -------
    (..., 1 + sum(directions), rows, columns) array or tensor
        The low-pass band, then the scales from the coarsest to the finest. Of two directions the first has the frequencies that are higher
        along the rows' axis (-2) than along the columns' axis (-1).

    Raises
    ------
    ValueError
        When a scale has another number of directions.
    """
    _check(directions)
    low, bands = picture, []
    for level, count in enumerate(directions):
        low, detail = _split(low, _Scale(2**level))
        bands = [*_by_direction(detail, count, 2**level), *bands]
    return _stacked([low, *bands])


def inverse_contourlet(bands: Any, directions: Sequence[int] = DIRECTIONS) -> Any:
    """Return the pictures (..., rows, columns) of their bands, the inverse of `contourlet`.

    Raises
    ------
    ValueError
        When there are not as many bands as the directions make.
    """
    _check(directions)
    if bands.shape[-3] != 1 + sum(directions):
        raise ValueError(f"directions {tuple(directions)} make {1 + sum(directions)} bands, there are {bands.shape[-3]}")
    low, first = bands[..., 0, :, :], 1
    for level in reversed(range(len(directions))):
        count = directions[level]
        some = [bands[..., first + k, :, :] for k in range(count)]
        low, first = _joined(low, _from_directions(some, 2**level), _Scale(2**level)), first + count
    return low


def reach(directions: Sequence[int] = DIRECTIONS) -> tuple[int, int]:
    """Return how many pixels the transform looks at beyond a coefficient, and its inverse beyond a pixel."""
    there = back = low_there = low_back = 0
    for level, count in enumerate(directions):
        step = 2**level
        tree = sum(wedges[0].radius * step for wedges in _TREE[: count.bit_length() - 1])
        there = max(there, low_there + 3 * step + 3 * tree)
        back = max(back, low_back + 2 * step + 3 * tree)
        low_there, low_back = low_there + 2 * step, low_back + 3 * step
    return max(there, low_there), max(back, low_back)


# Steps of the directional tree. The fan: |w0| > |w1|. Then the signs of w0 and w1 are alike or not: sin w0 sin w1. Then, in the
# four wedges that this makes, on which side of the line w1 = w0 / 2 (or like it) a frequency lies: sin w0 sin(2 w1 - w0).
_TREE: tuple[tuple[_Wedge, ...], ...] = (
    (_Wedge((0, 1), (1, 0)),),
    (_Wedge((1, -1), (1, 1)), _Wedge((1, -1), (1, 1))),
    (_Wedge((2, -2), (0, 2)), _Wedge((2, 2), (0, 2)), _Wedge((2, -2), (2, 0)), _Wedge((2, 2), (2, 0))),
)


def _wedges(level: int, step: int) -> list[_Wedge]:
    """Return the operators of a level of the tree, one a branch, for samples `step` apart."""

    def times(offset: Offset) -> Offset:
        return (step * offset[0], step * offset[1])

    return [_Wedge(times(wedge.p), times(wedge.q)) for wedge in _TREE[level]]


def _by_direction(detail: Any, count: int, step: int) -> list[Any]:
    bands = [detail]
    for level in range(count.bit_length() - 1):
        bands = [half for band, wedge in zip(bands, _wedges(level, step), strict=True) for half in _split(band, wedge)]
    return bands


def _from_directions(bands: list[Any], step: int) -> Any:
    for level in reversed(range(len(bands).bit_length() - 1)):
        pairs = zip(bands[::2], bands[1::2], _wedges(level, step), strict=True)
        bands = [_joined(first, second, wedge) for first, second, wedge in pairs]
    return bands[0]


def _split(x: Any, operator: Operator) -> tuple[Any, Any]:
    """Return H0(T) x and H1(T) x."""
    powers = [x]
    for _ in range(3):
        powers.append(operator(powers[-1]))
    return _sum(_H0, powers), _sum(_H1, powers)


def _joined(low: Any, high: Any, operator: Operator) -> Any:
    """Return G0(T) low + G1(T) high, by Horner's rule."""
    y = _G0[3] * low
    for k in (2, 1, 0):
        y = operator(y) + (_G0[k] * low + _G1[k] * high)
    return y


def _sum(coefficients: Sequence[float], powers: Sequence[Any]) -> Any:
    total = coefficients[0] * powers[0]
    for coefficient, power in zip(coefficients[1:], powers[1:], strict=False):
        total = total + coefficient * power
    return total


def _padded(x: Any, width: int) -> Any:
    """Return the pictures with their outermost pixels repeated: it works for any size."""
    if isinstance(x, np.ndarray):
        return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(width, width)] * 2, mode="edge")
    from torch.nn.functional import pad

    flat = x.reshape(-1, 1, *x.shape[-2:])
    wide = pad(flat, (width, width, width, width), mode="replicate")
    return wide.reshape(*x.shape[:-2], *wide.shape[-2:])


def _stacked(bands: list[Any]) -> Any:
    if isinstance(bands[0], np.ndarray):
        return np.stack(bands, axis=-3)
    import torch

    stack: Callable[..., Any] = torch.stack
    return stack(bands, dim=-3)


def _check(directions: Sequence[int]) -> None:
    wrong = [count for count in directions if count not in (1, 2, 4, 8)]
    if wrong or not directions:
        raise ValueError(f"a scale has 1, 2, 4 or 8 directions, not {wrong[0] if wrong else 'none'}")
