"""Computed tomography with a fan: a point that turns around the object, a flat or a curved detector.

Slices are those of `cohortex.physics.ct`. At the source's angle b the middle ray is the parallel ray of angle b (the line
x cos b + y sin b = 0, the source on the side of negative -x sin b + y cos b); a ray at the fan angle g from it is the parallel ray
of angle b - g and offset R sin g, R being the source's distance from the axis. Positive g lies towards (cos b, sin b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

from cohortex.physics.ct import follow_ray, ramp_filter, ramp_filtered


@dataclass(frozen=True, eq=False)
class Fan:
    """The geometry of a fan-beam scan.

    Attributes
    ----------
    angles : (view,) array
        Of the source, radians.
    source_mm, detector_mm : float
        From the source to the axis of rotation and to the middle of the detector.
    bins : int
    bin_mm : float
        Distance of the bins at the detector; on the curved one along the arc.
    detector : {"flat", "curved"}
        A line, or an arc around the source.
    """

    angles: np.ndarray
    source_mm: float
    detector_mm: float
    bins: int
    bin_mm: float
    detector: Literal["flat", "curved"] = "flat"

    def __post_init__(self) -> None:
        if self.detector not in ("flat", "curved"):
            raise ValueError(f"detector is {self.detector!r}: flat or curved")
        if min(self.source_mm, self.detector_mm, self.bin_mm) <= 0 or self.bins < 2:
            raise ValueError("a fan needs distances above zero and at least two bins")

    @property
    def pitch_mm(self) -> float:
        """Distance of the bins scaled to the axis of rotation."""
        return self.bin_mm * self.source_mm / self.detector_mm

    def fan_angles(self) -> np.ndarray:
        """Return the angle of each bin from the middle ray, radians, float64."""
        along = (np.arange(self.bins) - (self.bins - 1) / 2) * self.bin_mm / self.detector_mm
        return np.arctan(along) if self.detector == "flat" else along

    def radius_mm(self) -> float:
        """Return the radius of the disc that every view sees."""
        return self.source_mm * math.sin(float(self.fan_angles()[-1]))


def full_turn(views: int) -> np.ndarray:
    """Return `views` angles in radians, evenly spread over a whole turn, float64."""
    return np.arange(views) * (2 * math.pi / views)


def fan_for(
    shape: tuple[int, int],
    spacing_mm: float,
    views: int,
    source_mm: float = 570.0,
    detector_mm: float = 1040.0,
    detector: Literal["flat", "curved"] = "curved",
    bins: int | None = None,
) -> Fan:
    """Return a full turn that sees a whole grid; its bins are as far apart at the axis as the pixels.

    The default distances are about those of a clinical CT.
    """
    half = _half_mm(shape, spacing_mm, source_mm)
    widest = math.asin(half / source_mm)
    reach = source_mm * (math.tan(widest) if detector == "flat" else widest)
    count = 2 * math.ceil(reach / spacing_mm) + 3 if bins is None else bins
    return Fan(full_turn(views), source_mm, detector_mm, count, spacing_mm * detector_mm / source_mm, detector)


def fan_radon(image: np.ndarray, fan: Fan, spacing_mm: float) -> np.ndarray:
    """Return line integrals along the rays of a fan, followed like those of `cohortex.physics.ct.radon`.

    Parameters
    ----------
    image : (x, y, z) array
        Attenuation in 1/mm, zero outside the grid.
    fan : Fan
    spacing_mm : float
        Of pixels.

    Returns
    -------
    (view, detector, z) float32 array
        Without unit.

    Raises
    ------
    ValueError
        When the source would be inside the grid.
    """
    volume = np.ascontiguousarray(image, np.float32)
    _half_mm((volume.shape[0], volume.shape[1]), spacing_mm, fan.source_mm)
    rays = np.zeros((len(fan.angles), fan.bins, volume.shape[2]), np.float32)
    gamma = fan.fan_angles()
    _rays(volume, rays, np.asarray(fan.angles, np.float64), gamma, fan.source_mm / spacing_mm, float(spacing_mm), False)
    return rays


def fan_adjoint(sinogram: np.ndarray, fan: Fan, spacing_mm: float, shape: tuple[int, int]) -> np.ndarray:
    """Return the exact adjoint of `fan_radon`: (view, detector, z) to (x, y, z) float32, the same weights transposed."""
    _half_mm(shape, spacing_mm, fan.source_mm)
    rays = np.ascontiguousarray(sinogram, np.float32)
    volume = np.zeros((*shape, rays.shape[2]), np.float32)
    gamma = fan.fan_angles()
    _rays(volume, rays, np.asarray(fan.angles, np.float64), gamma, fan.source_mm / spacing_mm, float(spacing_mm), True)
    return volume


def fan_fbp(
    sinogram: np.ndarray, fan: Fan, spacing_mm: float, shape: tuple[int, int], window: Literal["ram-lak", "hann"] = "ram-lak"
) -> np.ndarray:
    """Reconstruct slices by filtered backprojection over a whole turn (Kak & Slaney, 1988, sections 3.4.1 and 3.4.2).

    Parameters
    ----------
    sinogram : (view, detector, z) array
        Line integrals.
    fan : Fan
        Its angles lie evenly over a whole turn.
    spacing_mm : float
        Of pixels.
    shape : (nx, ny)
        Of the slices.
    window : {"ram-lak", "hann"}
        What the ramp is damped by: nothing, or a Hann window up to the highest frequency.

    Returns
    -------
    (x, y, z) float32 array
        Attenuation in 1/mm; zero where not every view sees the pixel.
    """
    _half_mm(shape, spacing_mm, fan.source_mm)
    weighted = np.asarray(sinogram, np.float32) * np.cos(fan.fan_angles()).astype(np.float32)[:, None]
    filtered = ramp_filtered(weighted, _ramp(fan, window))
    volume = np.zeros((*shape, filtered.shape[2]), np.float32)
    _back(volume, filtered, *_geometry(fan, spacing_mm), False)
    return volume


def fan_fbp_adjoint(image: np.ndarray, fan: Fan, spacing_mm: float, window: Literal["ram-lak", "hann"] = "ram-lak") -> np.ndarray:
    """Return the exact adjoint of `fan_fbp`: (x, y, z) to (view, detector, z) float32."""
    volume = np.ascontiguousarray(image, np.float32)
    _half_mm((volume.shape[0], volume.shape[1]), spacing_mm, fan.source_mm)
    rays = np.zeros((len(fan.angles), fan.bins, volume.shape[2]), np.float32)
    _back(volume, rays, *_geometry(fan, spacing_mm), True)
    return ramp_filtered(rays, _ramp(fan, window)) * np.cos(fan.fan_angles()).astype(np.float32)[:, None]


def _half_mm(shape: tuple[int, int], spacing_mm: float, source_mm: float) -> float:
    """Return half of a grid's diagonal; the source has to be further away from the middle."""
    half = math.hypot(*shape) * spacing_mm / 2
    if half >= source_mm:
        raise ValueError(f"a grid {2 * half:g} mm across reaches the source, {source_mm:g} mm from its middle: move the source away")
    return half


def _ramp(fan: Fan, window: Literal["ram-lak", "hann"]) -> np.ndarray:
    return ramp_filter(fan.bins, fan.pitch_mm, window, math.inf if fan.detector == "flat" else fan.source_mm)


def _geometry(fan: Fan, spacing_mm: float) -> tuple[np.ndarray, float, float, float, bool, float]:
    """Return angles; source, pitch and radius of the seen disc in pixels; whether the detector is curved; the weight of a view."""
    radius = fan.radius_mm() / spacing_mm - 1e-6
    pitch, source = fan.pitch_mm / spacing_mm, fan.source_mm / spacing_mm
    # Every line is measured twice in a whole turn.
    return np.asarray(fan.angles, np.float64), source, pitch, radius, fan.detector == "curved", math.pi / len(fan.angles)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _rays(
    volume: np.ndarray, rays: np.ndarray, angles: np.ndarray, gamma: np.ndarray, source: float, spacing: float, adjoint: bool
) -> None:  # pragma: no cover
    for view in range(angles.size):
        for t in range(gamma.size):
            angle = angles[view] - gamma[t]
            follow_ray(volume, rays[view, t], math.cos(angle), math.sin(angle), source * math.sin(gamma[t]), spacing, adjoint)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _back(
    volume: np.ndarray,
    rays: np.ndarray,
    angles: np.ndarray,
    source: float,
    pitch: float,
    radius: float,
    curved: bool,
    scale: float,
    adjoint: bool,
) -> None:  # pragma: no cover
    nx, ny, nz = volume.shape
    views, bins = rays.shape[:2]
    for view in range(views):
        c, s = math.cos(angles[view]), math.sin(angles[view])
        for i in range(nx):
            x = i - 0.5 * (nx - 1)
            for j in range(ny):
                y = j - 0.5 * (ny - 1)
                if x * x + y * y > radius * radius:
                    continue
                across, depth = x * c + y * s, source - x * s + y * c
                if curved:
                    along = source * math.atan2(across, depth)
                    weight = scale * source * source / (across * across + depth * depth)
                else:
                    along = source * across / depth
                    weight = scale * source * source / (depth * depth)
                position = along / pitch + 0.5 * (bins - 1)
                low = min(max(int(position), 0), bins - 2)
                high = np.float32(weight * (position - low))
                rest = np.float32(weight) - high
                if adjoint:
                    for z in range(nz):
                        rays[view, low, z] += rest * volume[i, j, z]
                        rays[view, low + 1, z] += high * volume[i, j, z]
                else:
                    for z in range(nz):
                        volume[i, j, z] += rest * rays[view, low, z] + high * rays[view, low + 1, z]
