"""The centred, unitary Fourier transform pair and the combination of receive coils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import fft


def centred_fft(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Transform an image to k-space, with the zero frequency at index n // 2 of each of `axes`.

    Parameters
    ----------
    x : array
        Real or complex, any shape; its origin is at index n // 2. Single precision stays single precision.
    axes : sequence of int
        The axes to transform.

    Returns
    -------
    array
        Complex, the same shape and the same energy (scaled by 1 / sqrt(n)).
    """
    return _centred(fft.fftn, x, axes)


def centred_ifft(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Transform k-space to an image: the inverse of `centred_fft`, with the same conventions."""
    return _centred(fft.ifftn, x, axes)


def _centred(transform: Any, x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    moved = fft.ifftshift(x, axes=axes)
    return np.asarray(fft.fftshift(transform(moved, axes=axes, norm="ortho", overwrite_x=True), axes=axes))


def root_sum_of_squares(x: np.ndarray, axis: int) -> np.ndarray:
    """Combine the coil images along `axis` into one magnitude image.

    The root of the sum of squared magnitudes is the best combination without knowledge of the coils at high signal
    [Roemer et al., The NMR phased array, Magn Reson Med 16 (1990) 192-225].

    Returns
    -------
    array
        Real, in the precision of `x`, without the coil axis.
    """
    power = np.real(x) ** 2 + np.imag(x) ** 2 if np.iscomplexobj(x) else x**2
    return np.sqrt(power.sum(axis=axis))
