"""Computed tomography as physics: parallel-beam projections, their adjoint, filtered backprojection, dose.

Volumes have axes (x, y, z): all slices along z go through the same geometry together. The pixel centre
(i, j) lies at ((i - (nx - 1) / 2) d, (j - (ny - 1) / 2) d), the ray of angle a and offset s is the line
x cos a + y sin a = s, the detector's centres are ((t - (nt - 1) / 2) d) with the same spacing d.
Sinograms have axes (view, detector, z).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numba
import numpy as np

MU_WATER_PER_MM = 0.0193
"""Attenuation of water at about 70 keV, 1/mm."""


def view_angles(views: int) -> np.ndarray:
    """Return `views` angles in radians, evenly spread over half a turn, float64."""
    return np.arange(views) * (math.pi / views)


def detectors_for(shape: tuple[int, int]) -> int:
    """Return the number of detector bins that sees the whole (x, y) grid under every angle."""
    return math.ceil(math.hypot(*shape)) + 2


def hu_to_mu(hu: np.ndarray) -> np.ndarray:
    """Return attenuation in 1/mm of Hounsfield units, float32; nothing attenuates less than vacuum."""
    return np.maximum(np.asarray(hu, np.float32) * np.float32(MU_WATER_PER_MM / 1000) + np.float32(MU_WATER_PER_MM), 0)


def mu_to_hu(mu: np.ndarray) -> np.ndarray:
    """Return Hounsfield units of attenuation in 1/mm, float32."""
    return (np.asarray(mu, np.float32) - np.float32(MU_WATER_PER_MM)) * np.float32(1000 / MU_WATER_PER_MM)


def radon(image: np.ndarray, angles: np.ndarray, spacing_mm: float, detectors: int | None = None) -> np.ndarray:
    """Return line integrals of a stack of slices.

    Rays are followed along the axis that they are closer to, with linear interpolation across it (Joseph,
    IEEE Trans. Med. Imaging 1(3), 1982).

    Parameters
    ----------
    image : (x, y, z) array
        Attenuation in 1/mm, zero outside the grid.
    angles : (view,) array
        Radians.
    spacing_mm : float
        Of pixels and of detector bins.
    detectors : int, optional
        Number of bins; as many as see the whole grid when None.

    Returns
    -------
    (view, detector, z) float32 array
        Without unit.
    """
    volume = np.ascontiguousarray(image, np.float32)
    bins = detectors_for(volume.shape[:2]) if detectors is None else detectors
    sinogram = np.zeros((len(angles), bins, volume.shape[2]), np.float32)
    _joseph(volume, sinogram, np.asarray(angles, np.float64), float(spacing_mm), False)
    return sinogram


def radon_adjoint(sinogram: np.ndarray, angles: np.ndarray, spacing_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the exact adjoint of `radon`: (view, detector, z) to (x, y, z) float32, the same weights transposed."""
    rays = np.ascontiguousarray(sinogram, np.float32)
    volume = np.zeros((*shape, rays.shape[2]), np.float32)
    _joseph(volume, rays, np.asarray(angles, np.float64), float(spacing_mm), True)
    return volume


def ramp_filter(bins: int, spacing_mm: float, window: Literal["ram-lak", "hann"]) -> np.ndarray:
    """Return the filter of `fbp` at the frequencies of a real FFT of twice the next power of two of `bins`.

    It is the transform of the band-limited ramp sampled in space, which has the right mean (Kak & Slaney,
    Principles of Computerized Tomographic Imaging, 1988, section 3.3), times the window. Unit 1/mm, float32.
    """
    length = 2 << max(0, bins - 1).bit_length()
    lag = np.fft.fftfreq(length, 1 / length)
    kernel = np.zeros(length)
    kernel[0] = 1 / (4 * spacing_mm**2)
    odd = lag % 2 == 1
    kernel[odd] = -1 / (math.pi * lag[odd] * spacing_mm) ** 2
    response = np.fft.rfft(kernel).real * spacing_mm
    if window == "hann":
        response *= 0.5 + 0.5 * np.cos(np.linspace(0, math.pi, response.size))
    return response.astype(np.float32)


def fbp(
    sinogram: np.ndarray, angles: np.ndarray, spacing_mm: float, shape: tuple[int, int], window: Literal["ram-lak", "hann"] = "ram-lak"
) -> np.ndarray:
    """Reconstruct slices by filtered backprojection over half a turn.

    Parameters
    ----------
    sinogram : (view, detector, z) array
        Line integrals.
    angles : (view,) array
        Evenly spread over half a turn, radians.
    spacing_mm : float
        Of pixels and of detector bins.
    shape : (nx, ny)
        Of the slices.
    window : {"ram-lak", "hann"}
        What the ramp is damped by: nothing, or a Hann window up to the highest frequency.

    Returns
    -------
    (x, y, z) float32 array
        Attenuation in 1/mm; zero where not every view sees the pixel.
    """
    filtered = ramp_filtered(np.asarray(sinogram, np.float32), ramp_filter(np.shape(sinogram)[1], spacing_mm, window))
    volume = np.zeros((*shape, filtered.shape[2]), np.float32)
    _gather(volume, filtered, np.asarray(angles, np.float64), math.pi / len(angles))
    return volume


def fbp_adjoint(
    image: np.ndarray, angles: np.ndarray, spacing_mm: float, detectors: int, window: Literal["ram-lak", "hann"] = "ram-lak"
) -> np.ndarray:
    """Return the exact adjoint of `fbp`: (x, y, z) to (view, detector, z) float32.

    The backprojection's weights are transposed; the filter, whose response is real and even, is its own adjoint.
    """
    volume = np.ascontiguousarray(image, np.float32)
    rays = np.zeros((len(angles), detectors, volume.shape[2]), np.float32)
    _scatter(volume, rays, np.asarray(angles, np.float64), math.pi / len(angles))
    return ramp_filtered(rays, ramp_filter(detectors, spacing_mm, window))


def ramp_filtered(rays: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return views, (view, detector, z) float32, filtered along the detector with the response of `ramp_filter`, zero beyond its ends."""
    from scipy import fft

    length = 2 * (response.size - 1)
    filtered = np.empty_like(rays)
    block = max(1, (1 << 22) // (length * rays.shape[2]))  # views at a time: the padded copies stay small
    for first in range(0, len(rays), block):
        views = slice(first, first + block)
        spectrum: Any = fft.rfft(rays[views], length, axis=1)
        spectrum *= response[None, :, None]
        back: Any = fft.irfft(spectrum, length, axis=1)
        filtered[views] = back[:, : rays.shape[1]]
    return filtered


def aperture(sinogram: np.ndarray, share: float) -> np.ndarray:
    """Return line integrals as bins of some width and a source of some size see them.

    Parameters
    ----------
    sinogram : (view, detector, z) array
    share : float
        What each bin takes from either neighbour.

    Returns
    -------
    (view, detector, z) float32 array
        With the sum over the detector as before where the outermost bins are zero.
    """
    rays = np.asarray(sinogram, np.float32)
    blurred = np.float32(1 - 2 * share) * rays
    blurred[:, 1:] += np.float32(share) * rays[:, :-1]
    blurred[:, :-1] += np.float32(share) * rays[:, 1:]
    return blurred


def low_dose(sinogram: np.ndarray, photons: float, rng: np.random.Generator, electronic: float = 0.0) -> np.ndarray:
    """Return line integrals as a scanner with few photons measures them.

    Counts are Poisson of mean ``photons exp(-p)``, plus Gaussian electronic noise; the logarithm is taken of at
    least half a count.

    Parameters
    ----------
    sinogram : array
        Noiseless line integrals p.
    photons : float
        Mean count of a ray that meets nothing.
    rng : numpy.random.Generator
    electronic : float
        Standard deviation of the electronic noise, in counts.

    Returns
    -------
    array of the sinogram's shape, float32
    """
    p = np.asarray(sinogram, np.float32)
    counts = rng.poisson(photons * np.exp(-p)).astype(np.float32)
    if electronic:
        counts += np.float32(electronic) * rng.standard_normal(p.shape, dtype=np.float32)
    return np.float32(math.log(photons)) - np.log(np.maximum(counts, np.float32(0.5)))


def low_dose_variance(sinogram: np.ndarray, photons: float, electronic: float = 0.0) -> np.ndarray:
    """Return the variance of `low_dose` by propagating the counts' variance through the logarithm (first order)."""
    mean = photons * np.exp(-np.asarray(sinogram, np.float64))
    return (1.0 + electronic**2 / mean) / mean


def fbp_variance(variance: np.ndarray, angles: np.ndarray, spacing_mm: float, window: Literal["ram-lak", "hann"] = "ram-lak") -> float:
    """Return the variance at the centre of rotation of `fbp` when the rays through it have this variance each.

    Parameters
    ----------
    variance : (view,) array
        Variance of the central rays, about the same in neighbouring bins.
    angles, spacing_mm, window
        As for `fbp`.

    Returns
    -------
    float
        1/mm^2, averaged over where between two bins the pixel falls (linear interpolation).
    """
    response = ramp_filter(4 * len(angles), spacing_mm, window).astype(np.float64)
    length = 2 * (response.size - 1)
    kernel = np.fft.irfft(response, length)
    # the mean over the fraction f of |(1 - f) h_t + f h_(t+1)|^2 is 2/3 |h_t|^2 + 1/3 h_t h_(t+1)
    gain = (2 * np.sum(kernel**2) + np.sum(kernel * np.roll(kernel, 1))) / 3
    return float((math.pi / len(angles)) ** 2 * gain * np.sum(variance))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _joseph(volume: np.ndarray, sinogram: np.ndarray, angles: np.ndarray, spacing: float, adjoint: bool) -> None:  # pragma: no cover
    nx, ny, nz = volume.shape
    bins = sinogram.shape[1]
    for view in range(angles.size):
        c, s = math.cos(angles[view]), math.sin(angles[view])
        along_x = abs(s) >= abs(c)
        major, minor = (nx, ny) if along_x else (ny, nx)
        a, b = (c, s) if along_x else (s, c)
        weight = spacing / abs(b)
        for t in range(bins):
            offset = t - 0.5 * (bins - 1)
            for i in range(major):
                position = (offset - (i - 0.5 * (major - 1)) * a) / b + 0.5 * (minor - 1)
                low = math.floor(position)
                fraction = position - low
                for side in range(2):
                    j = low + side
                    if j < 0 or j >= minor:
                        continue
                    w = np.float32(weight * (fraction if side else 1.0 - fraction))
                    x, y = (i, j) if along_x else (j, i)
                    if adjoint:
                        for z in range(nz):
                            volume[x, y, z] += w * sinogram[view, t, z]
                    else:
                        for z in range(nz):
                            sinogram[view, t, z] += w * volume[x, y, z]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _gather(volume: np.ndarray, sinogram: np.ndarray, angles: np.ndarray, scale: float) -> None:  # pragma: no cover
    nx, ny, nz = volume.shape
    views, bins = sinogram.shape[:2]
    reach = 0.5 * (bins - 1) - 1e-6
    cosines, sines = np.cos(angles), np.sin(angles)
    factor = np.float32(scale)
    for i in range(nx):
        x = i - 0.5 * (nx - 1)
        for view in range(views):
            for j in range(ny):
                y = j - 0.5 * (ny - 1)
                if x * x + y * y > reach * reach:
                    continue
                position = x * cosines[view] + y * sines[view] + 0.5 * (bins - 1)
                low = int(position)
                high = np.float32(position - low) * factor
                rest = factor - high
                for z in range(nz):
                    volume[i, j, z] += rest * sinogram[view, low, z] + high * sinogram[view, low + 1, z]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _scatter(volume: np.ndarray, sinogram: np.ndarray, angles: np.ndarray, scale: float) -> None:  # pragma: no cover
    """Add a volume to a sinogram with the weights of `_gather`."""
    nx, ny, nz = volume.shape
    views, bins = sinogram.shape[:2]
    reach = 0.5 * (bins - 1) - 1e-6
    cosines, sines = np.cos(angles), np.sin(angles)
    factor = np.float32(scale)
    for view in range(views):
        for i in range(nx):
            x = i - 0.5 * (nx - 1)
            for j in range(ny):
                y = j - 0.5 * (ny - 1)
                if x * x + y * y > reach * reach:
                    continue
                position = x * cosines[view] + y * sines[view] + 0.5 * (bins - 1)
                low = int(position)
                high = np.float32(position - low) * factor
                rest = factor - high
                for z in range(nz):
                    sinogram[view, low, z] += rest * volume[i, j, z]
                    sinogram[view, low + 1, z] += high * volume[i, j, z]
