"""Motion during an MR scan: every phase-encoding line of k-space sees the object in another place.

A shift is a phase error of a line's samples (the shift theorem); a turn needs the image of the turned object. Images have axes
(..., y, x), k-space (..., ky, kx), lines are rows ky, measured from the first to the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cohortex.physics.fourier import centred_fft, centred_ifft

Kind = Literal["sudden", "drift", "periodic"]
KINDS: tuple[Kind, ...] = ("sudden", "drift", "periodic")


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the object is when each line is measured.

    Attributes
    ----------
    shift : (lines, 2) float64 array
        Along y and x, pixels.
    turn_deg : (lines,) float64 array
        About the middle of the image, from the y axis to the x axis.
    """

    shift: np.ndarray
    turn_deg: np.ndarray

    def severity(self) -> float:
        """Return the root mean square of the shifts, a degree counting as one pixel."""
        return float(np.sqrt(np.mean(np.sum(self.shift**2, axis=1) + self.turn_deg**2)))


def shift_lines(kspace: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return k-space whose lines saw the object shifted.

    Parameters
    ----------
    kspace : (..., ky, kx) complex array
        Of the object at rest.
    shift : (ky, 2) array
        Along y and x, pixels, for each line.

    Returns
    -------
    complex array
        Of the same shape, precision and energy: the error is one of phase.
    """
    ny, nx = kspace.shape[-2:]
    ky, kx = (np.arange(ny) - ny // 2) / ny, (np.arange(nx) - nx // 2) / nx
    phase = ky[:, None] * shift[:, :1] + kx * shift[:, 1:]
    return kspace * np.exp(-2j * np.pi * phase).astype(kspace.dtype)


def move(image: np.ndarray, motion: Motion, turn_step_deg: float = 0.25) -> np.ndarray:
    """Return the image that a scan of a moving object gives.

    Parameters
    ----------
    image : (..., y, x) real or complex array
        Of the object at rest.
    motion : Motion
        One place for each of the y lines.
    turn_step_deg : float
        Turns are rounded to multiples of this.

    Returns
    -------
    (..., y, x) complex array
        In single precision.
    """
    from scipy.ndimage import affine_transform

    still = np.asarray(image, np.result_type(image, np.complex64))
    steps = np.rint(motion.turn_deg / turn_step_deg).astype(int)
    kspace = np.empty(still.shape, np.complex64)
    middle: Any = (np.array(still.shape[-2:]) - 1) / 2
    for step in np.unique(steps):
        seen = still
        if step:
            angle = np.deg2rad(step * turn_step_deg)
            matrix: Any = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            seen = np.empty_like(still)
            for index in np.ndindex(still.shape[:-2]):
                for part in (np.real, np.imag):
                    turned = affine_transform(part(still[index]), matrix, middle - matrix @ middle, order=3)
                    if part is np.real:
                        seen[index] = turned
                    else:
                        seen[index] += 1j * turned
        rows = steps == step
        kspace[..., rows, :] = centred_fft(seen, (-2, -1))[..., rows, :]
    return centred_ifft(shift_lines(kspace, motion.shift), (-2, -1))


def random_motion(lines: int, rng: np.random.Generator, size: float, kind: Kind | None = None) -> Motion:
    """Return a random motion of a size, at rest in the centre of k-space.

    Parameters
    ----------
    lines : int
    rng : numpy.random.Generator
    size : float
        `Motion.severity` of it: pixels, or degrees.
    kind : {"sudden", "drift", "periodic"}, optional
        One to three jumps, a slow way, or breathing; drawn when None.

    Returns
    -------
    Motion
    """
    kind = KINDS[int(rng.integers(len(KINDS)))] if kind is None else kind
    time = np.arange(lines) / lines
    if kind == "sudden":
        # Jumps at the very edges of k-space would hardly be seen.
        when = np.sort(rng.uniform(0.15, 0.85, rng.integers(1, 4)))
        course = np.searchsorted(when, time)
        places = rng.standard_normal((len(when) + 1, 3))[course]
    elif kind == "drift":
        knots = np.cumsum(rng.standard_normal((6, 3)), axis=0)
        at = np.linspace(0, 1, 6)
        places = np.stack([np.interp(time, at, knots[:, a]) for a in range(3)], axis=1)
    elif kind == "periodic":
        cycles, phase = rng.uniform(4, 16), rng.uniform(0, 2 * np.pi)
        places = np.sin(2 * np.pi * cycles * time + phase)[:, None] * rng.standard_normal(3)
    else:
        raise ValueError(f"motion {kind!r} is not known: take one of {', '.join(KINDS)}")
    places = places - places[lines // 2]
    norm = np.sqrt(np.mean(np.sum(places**2, axis=1)))
    places = places * (size / norm if norm > 0 else 0.0)
    return Motion(places[:, :2], places[:, 2])
