"""Magnetic resonance as physics: signal, slices, coils, k-space sampling and noise.

Stacks of slices have axes (slice, y, x), coil images (slice, coil, y, x), k-space (slice, coil, ky, kx): the layout of
fastMRI. Fourier transforms are those of `cohortex.physics.fourier`: centred and unitary.
"""

from __future__ import annotations

import math

import numpy as np

from cohortex.physics.fourier import centred_fft, centred_ifft


def spoiled_gradient_echo(
    pd: np.ndarray, t1_ms: np.ndarray, t2star_ms: np.ndarray, tr_ms: float, te_ms: float, flip_deg: float
) -> np.ndarray:
    """Return the steady-state signal of an ideally spoiled gradient echo (Ernst & Anderson, Rev. Sci. Instrum. 37, 1966).

    Parameters
    ----------
    pd, t1_ms, t2star_ms : arrays that broadcast together
        Proton density (any unit) and relaxation times in ms, above zero.
    tr_ms, te_ms, flip_deg : float
        Repetition time, echo time, flip angle.

    Returns
    -------
    array
        In the unit of `pd`.
    """
    flip = math.radians(flip_deg)
    e1 = np.exp(-tr_ms / np.asarray(t1_ms))
    return np.asarray(pd) * math.sin(flip) * (1 - e1) / (1 - math.cos(flip) * e1) * np.exp(-te_ms / np.asarray(t2star_ms))


def slice_profile(thickness_mm: float, step_mm: float, edge_mm: float) -> np.ndarray:
    """Return the weights with which a slice sees the planes that lie `step_mm` apart around its centre.

    A box of the slice's thickness whose edges a Gaussian of standard deviation `edge_mm` has softened, averaged over
    each plane's extent. The number of planes is even when thickness / step is (the centre lies between two
    planes), else odd; the sum is 1. float32.
    """
    from scipy.special import erf

    planes = round(thickness_mm / step_mm)
    planes += 2 * math.ceil(2 * edge_mm / step_mm)
    fine = 32
    z = (np.arange(planes * fine) + 0.5) * (step_mm / fine) - planes * step_mm / 2
    width = max(edge_mm, 1e-6) * math.sqrt(2)
    box = erf((z + thickness_mm / 2) / width) - erf((z - thickness_mm / 2) / width)
    weights = box.reshape(planes, fine).mean(1)
    return (weights / weights.sum()).astype(np.float32)


def excite_slices(planes: np.ndarray, profile: np.ndarray, step: int) -> np.ndarray:
    """Return the slices that a multi-slice sequence sees of an object given plane by plane.

    Parameters
    ----------
    planes : (n, ...) array
        The object's planes along the slice axis; n is a multiple of `step`.
    profile : (m,) array
        Of `slice_profile`; m and `step` both even or both odd.
    step : int
        Planes from one slice to the next.

    Returns
    -------
    (n / step, ...) array
        Beyond the first and last plane there is nothing.
    """
    if (len(profile) - step) % 2 or len(planes) % step:
        raise ValueError(f"{len(planes)} planes with a profile of {len(profile)} cannot be cut into slices of {step} planes")
    count, before = len(planes) // step, (len(profile) - step) // 2
    slices = np.zeros((count, *planes.shape[1:]), planes.dtype)
    for index, weight in enumerate(profile):
        shift = index - before
        first = -(-max(0, -shift) // step)
        last = min(count, (len(planes) - 1 - shift) // step + 1)
        slices[first:last] += weight * planes[first * step + shift : (last - 1) * step + shift + 1 : step]
    return slices


def coil_sensitivities(points_mm: tuple[np.ndarray, np.ndarray, np.ndarray], centres_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """Return smooth complex receive sensitivities of loop coils that face the origin.

    The magnitude falls with the distance as the field on a loop's axis, radius^3 / (radius^2 + distance^2)^(3/2)
    (Biot & Savart), the phase turns with the direction from the coil.

    Parameters
    ----------
    points_mm : three arrays that broadcast together
        x, y and z of the points, from the middle of the object.
    centres_mm : (coils, 3) array
        Where the coils are.
    radius_mm : float
        Of the loops.

    Returns
    -------
    (coils, ...) complex64 array
        Their root sum of squares is 1 at the origin.
    """
    x, y, z = (np.asarray(axis, np.float32) for axis in points_mm)
    maps = []
    for cx, cy, cz in np.asarray(centres_mm, np.float32):
        distance2 = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
        magnitude = (radius_mm**2 / (radius_mm**2 + distance2)) ** np.float32(1.5)
        reach = np.float32(math.hypot(cx, cy, cz))
        # the phase follows the direction across the coil's axis, slowly
        phase = (x * cy - y * cx) / (reach * reach) + z * cz / (2 * reach * reach) + math.atan2(cy, cx)
        maps.append((magnitude * np.exp(1j * phase.astype(np.float32))).astype(np.complex64))
    at_origin = (radius_mm**2 / (radius_mm**2 + np.sum(np.square(centres_mm, dtype=np.float64), axis=1))) ** 1.5
    return np.stack(maps) / np.float32(math.sqrt(np.sum(at_origin**2)))


def cartesian_mask(lines: int, acceleration: float, centre: float, rng: np.random.Generator, power: float = 2.0) -> np.ndarray:
    """Return which phase-encoding lines are measured: all of the centre, the others at random, denser near it.

    Lustig, Donoho & Pauly, Magn. Reson. Med. 58(6), 2007.

    Parameters
    ----------
    lines : int
        Number of lines of the full k-space; line ``lines // 2`` is the centre.
    acceleration : float
        Lines of the full k-space over measured lines, at least 1.
    centre : float
        Share of the lines around the centre that is always measured.
    rng : numpy.random.Generator
    power : float
        The density falls as (1 - distance / (largest + 1))^power.

    Returns
    -------
    (lines,) bool array
        With exactly ``round(lines / acceleration)`` lines.
    """
    wanted, inner = round(lines / acceleration), round(lines * centre)
    if not inner <= wanted <= lines:
        raise ValueError(f"{wanted} of {lines} lines cannot hold a centre of {inner}")
    distance = np.abs(np.arange(lines) - lines // 2)
    mask = np.zeros(lines, bool)
    mask[np.argsort(distance, kind="stable")[:inner]] = True
    density = (1 - distance / (distance.max() + 1)) ** power * ~mask
    if wanted > inner:
        mask[rng.choice(lines, wanted - inner, replace=False, p=density / density.sum())] = True
    return mask


def acquire_kspace(images: np.ndarray, sensitivities: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the multi-coil k-space of slices, zero on the lines that are not measured.

    Parameters
    ----------
    images : (slice, y, x) complex or real array
    sensitivities : (slice, coil, y, x) complex64 array
    mask : (ky,) or (slice, ky) bool array

    Returns
    -------
    (slice, coil, ky, kx) complex64 array
    """
    kspace = centred_fft(np.asarray(images)[:, None] * sensitivities, (-2, -1))
    return kspace * _lines(mask)


def acquire_adjoint(kspace: np.ndarray, sensitivities: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the adjoint of `acquire_kspace`: (slice, coil, ky, kx) to (slice, y, x), complex64."""
    images = centred_ifft(kspace * _lines(mask), (-2, -1))
    return np.sum(images * np.conj(sensitivities), axis=1)


def add_complex_noise(kspace: np.ndarray, sigma: float, rng: np.random.Generator, mask: np.ndarray | None = None) -> np.ndarray:
    """Return k-space with white complex Gaussian noise where it is measured.

    Parameters
    ----------
    kspace : (slice, coil, ky, kx) complex64 array
    sigma : float
        Standard deviation of the real and of the imaginary part; as the transform is unitary, a fully measured image has
        the same, and its magnitude is Rician.
    rng : numpy.random.Generator
    mask : (ky,) or (slice, ky) bool array, optional

    Returns
    -------
    complex64 array
    """
    noise = rng.standard_normal((*kspace.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    noise *= np.float32(sigma)
    if mask is not None:
        noise *= _lines(mask)
    noise += kspace
    return noise


def rician_mean(signal: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mean magnitude of a signal with complex Gaussian noise of `sigma` a part (Rice, 1944), float64."""
    from scipy.special import ive

    x = np.square(np.asarray(signal, np.float64)) / (4 * sigma**2)  # ive holds the factor exp(-x)
    return sigma * math.sqrt(math.pi / 2) * ((1 + 2 * x) * ive(0, x) + 2 * x * ive(1, x))


def noncentral_chi_mean(signal: np.ndarray, sigma: float, coils: int) -> np.ndarray:
    """Return the mean root sum of squares of coils with complex Gaussian noise (Constantinides et al., Magn. Reson. Med. 38(5), 1997).

    Parameters
    ----------
    signal : array
        Root sum of squares without noise.
    sigma : float
        Standard deviation of the real and of the imaginary part of each coil.
    coils : int
        One coil gives `rician_mean`.

    Returns
    -------
    float64 array
    """
    from scipy.special import gammaln, hyp1f1

    s = np.asarray(signal, np.float64)
    x = np.square(s) / (2 * sigma**2)
    first = sigma * math.sqrt(2) * math.exp(gammaln(coils + 0.5) - gammaln(coils))
    # The series of the hypergeometric function loses its digits at high signal, where its asymptotic one has them all.
    near = first * hyp1f1(-0.5, coils, -np.minimum(x, 500.0))
    y = 1 / np.maximum(x, 500.0)
    far = sigma * np.sqrt(2 / y) * (1 + (2 * coils - 1) * y / 4 - (2 * coils - 1) * (2 * coils - 3) * y**2 / 32)
    return np.where(x < 500, near, far)


def noisy_magnitude(signal: np.ndarray, sigma: float, rng: np.random.Generator, coils: int = 1) -> np.ndarray:
    """Return a magnitude image with the noise of its coils: Rician of one coil, non-central chi of several ones.

    Parameters
    ----------
    signal : real array
        Root sum of squares without noise.
    sigma : float
        Standard deviation of the real and of the imaginary part of each coil.
    rng : numpy.random.Generator
    coils : int
        How the signal is spread over them does not matter.

    Returns
    -------
    float32 array of the same shape
    """
    clean = np.asarray(signal, np.float32)
    power = np.square(clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32))
    for _ in range(2 * coils - 1):
        power += np.square(np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32))
    return np.sqrt(power)


def _lines(mask: np.ndarray) -> np.ndarray:
    """Return a mask of lines as (slice, 1, ky, 1), bool."""
    lines = np.atleast_2d(np.asarray(mask, bool))
    return lines[:, None, :, None]
