"""X-rays as physics: projection radiographs of an attenuation volume, photon and electronic noise, the logarithm.

The law of Beer and Lambert: of the photons of a ray, exp(-p) come through, p being the line integral of the attenuation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np


@dataclass(frozen=True)
class PointSource:
    """A tube in front of a flat detector, the volume's middle on the line from the focus to the detector's middle.

    Attributes
    ----------
    object_mm, detector_mm : float
        From the focus to the middle of the volume and to the detector.
    shape : (columns, rows)
        Pixels of the detector.
    pixel_mm : (float, float)
        Their size along columns and rows, at the detector.
    """

    object_mm: float
    detector_mm: float
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]

    @property
    def magnification(self) -> float:
        """How many times larger the middle of the object looks on the detector."""
        return self.detector_mm / self.object_mm


def project(volume: np.ndarray, spacing_mm: tuple[float, float, float], axis: int = 1) -> np.ndarray:
    """Return the line integrals of parallel rays along an axis.

    Parameters
    ----------
    volume : (x, y, z) array
        Attenuation in 1/mm.
    spacing_mm : (float, float, float)
    axis : int
        Along which the rays run; y (front to back) makes a frontal radiograph.

    Returns
    -------
    array of the other two axes, float32
        Without unit.
    """
    return np.asarray(np.sum(volume, axis=axis, dtype=np.float64) * spacing_mm[axis], np.float32)


def project_from_point(volume: np.ndarray, spacing_mm: tuple[float, float, float], source: PointSource, axis: int = 1) -> np.ndarray:
    """Return the line integrals of rays from a focus to the pixels of a flat detector.

    Rays are followed from plane to plane across `axis` with bilinear interpolation in the planes (Joseph, IEEE Trans. Med.
    Imaging 1(3), 1982).

    Parameters
    ----------
    volume : (x, y, z) array
        Attenuation in 1/mm, zero outside the grid.
    spacing_mm : (float, float, float)
    source : PointSource
        Its columns and rows run along the other two axes of the volume, in their order.
    axis : int
        From the focus to the detector.

    Returns
    -------
    (columns, rows) float32 array
        Without unit.

    Raises
    ------
    ValueError
        When the focus or the detector would be inside the volume.
    """
    order = [a for a in range(3) if a != axis] + [axis]
    array = np.ascontiguousarray(np.transpose(np.asarray(volume, np.float32), order))
    spacing = np.array([spacing_mm[a] for a in order], np.float64)
    half = array.shape[2] * spacing[2] / 2
    if source.object_mm <= half or source.detector_mm < source.object_mm + half:
        raise ValueError(
            f"a volume {2 * half:g} mm deep does not fit between a focus {source.object_mm:g} mm from its middle and a detector "
            f"{source.detector_mm:g} mm from the focus: enlarge the distances"
        )
    image = np.zeros(source.shape, np.float32)
    pixel = np.array(source.pixel_mm, np.float64)
    _cone(array, image, spacing, pixel, float(source.object_mm), float(source.detector_mm))
    return image


def expose(p: np.ndarray, photons: float, rng: np.random.Generator, electronic: float = 0.0) -> np.ndarray:
    """Return what a detector counts behind an object.

    Counts are Poisson of mean ``photons exp(-p)``, plus Gaussian electronic noise.

    Parameters
    ----------
    p : array
        Line integrals.
    photons : float
        Mean count of a ray that meets nothing.
    rng : numpy.random.Generator
    electronic : float
        Standard deviation of the electronic noise, in counts.

    Returns
    -------
    array of the same shape, float32
        Below zero where electronic noise is and photons are not.
    """
    p = np.asarray(p, np.float32)
    counts = rng.poisson(photons * np.exp(-p)).astype(np.float32)
    if electronic:
        counts += np.float32(electronic) * rng.standard_normal(p.shape, dtype=np.float32)
    return counts


def counts_variance(p: np.ndarray, photons: float, electronic: float = 0.0) -> np.ndarray:
    """Return the variance of `expose`, float64: that of a Poisson variable is its mean."""
    return photons * np.exp(-np.asarray(p, np.float64)) + electronic**2


def line_integrals(counts: np.ndarray, photons: float) -> np.ndarray:
    """Return the line integrals that counts tell, float32; the logarithm is taken of at least half a count."""
    return np.float32(math.log(photons)) - np.log(np.maximum(np.asarray(counts, np.float32), np.float32(0.5)))


def line_integrals_variance(p: np.ndarray, photons: float, electronic: float = 0.0) -> np.ndarray:
    """Return the variance of `line_integrals` of `expose`, by propagating the counts' one through the logarithm (first order)."""
    mean = photons * np.exp(-np.asarray(p, np.float64))
    return (1.0 + electronic**2 / mean) / mean


@numba.njit(cache=True, nogil=True, fastmath=True)
def _cone(
    volume: np.ndarray, image: np.ndarray, spacing: np.ndarray, pixel: np.ndarray, object_mm: float, detector_mm: float
) -> None:  # pragma: no cover
    nu, nv, planes = volume.shape
    columns, rows = image.shape
    for column in range(columns):
        u = (column - 0.5 * (columns - 1)) * pixel[0] / detector_mm
        for row in range(rows):
            v = (row - 0.5 * (rows - 1)) * pixel[1] / detector_mm
            total = 0.0
            for plane in range(planes):
                depth = object_mm + (plane - 0.5 * (planes - 1)) * spacing[2]
                x = u * depth / spacing[0] + 0.5 * (nu - 1)
                y = v * depth / spacing[1] + 0.5 * (nv - 1)
                i, j = math.floor(x), math.floor(y)
                a, b = x - i, y - j
                for di in range(2):
                    for dj in range(2):
                        if 0 <= i + di < nu and 0 <= j + dj < nv:
                            w = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
                            total += w * volume[i + di, j + dj, plane]
            image[column, row] = total * spacing[2] * math.sqrt(1.0 + u * u + v * v)
