"""Noise that a training adds to images: of magnitudes, of a CT with less dose, and images of some projections only."""

from __future__ import annotations

import numpy as np

from cohortex.measures.image_quality import noise_sigma
from cohortex.physics import ct

PHOTONS = 1e5
"""Of the first try, from which the number for the wanted noise follows."""

VIEWS = 3
"""Views over half a turn, for two pixels across: about as many as the outer pixels need (pi / 2 for each)."""

FEWEST, MOST = 300.0, 1e8
"""Photons a ray: with fewer the logarithm of a count means nothing."""


def with_noise(clean: np.ndarray, sigma: float, rician: bool, rng: np.random.Generator) -> np.ndarray:
    """Return an image with noise: the magnitude of a complex image with Gaussian noise, or Gaussian noise itself."""
    noisy = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.hypot(noisy, sigma * rng.standard_normal(clean.shape, dtype=np.float32)) if rician else noisy


def dose_noise(hu: np.ndarray, spacing_mm: float, sigma: float, rng: np.random.Generator, inside: np.ndarray | None = None) -> np.ndarray:
    """Return the noise that a scan with few photons has: correlated, with streaks along the rays that met most.

    The slices are projected (parallel beams), photons are counted, and what that changes is reconstructed by filtered backprojection; so
    the image itself loses nothing. The number of photons is the one that gives the wanted standard deviation.

    Parameters
    ----------
    hu : (x, y, z) array
        Hounsfield units.
    spacing_mm : float
        Of the pixels, which are taken as squares.
    sigma : float
        Wanted noise in HU as `noise_sigma` measures it; above 0.
    rng : numpy.random.Generator
    inside : (x, y, z) bool array, optional
        Where it is measured.

    Returns
    -------
    (x, y, z) float32 array
        HU, to be added.
    """
    shape = (hu.shape[0], hu.shape[1])
    angles = ct.view_angles(VIEWS * max(shape) // 2)
    rays = ct.radon(ct.hu_to_mu(hu), angles, spacing_mm)

    def noise(of: np.ndarray, photons: float) -> np.ndarray:
        changed = ct.low_dose(of, photons, rng) - of
        return ct.fbp(changed, angles, spacing_mm, shape) * np.float32(1000 / ct.MU_WATER_PER_MM)

    middle = hu.shape[2] // 2
    one = slice(middle, middle + 1)
    mask = None if inside is None else inside[:, :, one]
    first = noise_sigma(noise(rays[:, :, one], PHOTONS), mask)
    # The variance goes with the photons, as long as there are some.
    photons = float(np.clip(PHOTONS * (first / sigma) ** 2, FEWEST, MOST))
    made = noise(rays, photons)
    found = noise_sigma(made, inside)
    return made * np.float32(sigma / found) if found > 0 else made


def split_views(hu: np.ndarray, spacing_mm: float, splits: int) -> list[np.ndarray]:
    """Return reconstructions of slices from every n-th of their projections each, which share no projection.

    A reconstructed scan is projected anew: what noise lies in one view of it comes back in that view, so that the noise of the parts is
    independent but for what interpolation smears.

    Parameters
    ----------
    hu : (x, y, z) array
        Hounsfield units.
    spacing_mm : float
    splits : int

    Returns
    -------
    list of (x, y, z) float32 arrays
        HU; the mean of all is the reconstruction from all views.

    References
    ----------
    Hendriksen, Pelt and Batenburg, Noise2Inverse, IEEE Trans. Computational Imaging 6, 2020.
    """
    shape = (hu.shape[0], hu.shape[1])
    # As many views as pixels across, so that neighbouring views see about the same noise only near the axis.
    views = -(-max(shape) // splits) * splits
    angles = ct.view_angles(views)
    rays = ct.radon(ct.hu_to_mu(hu), angles, spacing_mm)
    return [
        ct.mu_to_hu(ct.fbp(np.ascontiguousarray(rays[part::splits]), angles[part::splits], spacing_mm, shape)) for part in range(splits)
    ]
