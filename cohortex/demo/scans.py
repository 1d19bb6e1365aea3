"""The two scans of a simulated head: a T1-weighted MR as raw k-space and a low-dose CT, with what they hide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohortex.demo.anatomy import Bend, Head, paint
from cohortex.demo.tissues import WHITE, ct_contrast, mr_contrast
from cohortex.physics import ct, mr
from cohortex.physics.fourier import root_sum_of_squares

CENTRE_MM = np.array([0.0, -12.0, 8.0])
"""About the middle of a head in its own coordinates: what poses turn about."""

MR_SHAPE, MR_SPACING = (128, 160, 62), (1.5, 1.5, 3.0)
CT_SHAPE, CT_SPACING = (160, 160, 64), (1.5, 1.5, 3.0)
ACCELERATION, CENTRE_SHARE = 1.4, 0.45
VIEWS, DETECTORS, APERTURE, ELECTRONIC = 240, 164, 0.15, 4.0
SIGNAL_SCALE = 1000.0


@dataclass(frozen=True, eq=False)
class MRScan:
    """A raw MR and its truth; volumes have axes (x, y, z) along R, A, S.

    Attributes
    ----------
    kspace : (slice, coil, ky, kx) complex64
    mask : (ky,) bool
        Measured phase-encoding lines.
    affine, affine_iso : (4, 4)
        Voxels of the acquired grid and of the truth's isotropic grid to the scanner's world.
    clean : float32
        Fully sampled and free of noise, on the acquired grid, coils combined in the same way.
    truth : float32
        The same object before slice selection, isotropic.
    labels, labels_iso : uint8
    pose : (4, 4)
        The head's coordinates to the scanner's world, before `bend`.
    bend : Bend
    noise : float
        Standard deviation of the noise of the combined image over the signal of white matter in the middle.
    """

    kspace: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    affine_iso: np.ndarray
    clean: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    labels_iso: np.ndarray
    pose: np.ndarray
    bend: Bend
    noise: float


@dataclass(frozen=True, eq=False)
class CTScan:
    """A reconstructed low-dose CT and its truth; volumes have axes (x, y, z) along about R, A, S.

    Attributes
    ----------
    image : int16
        Hounsfield units.
    clean : float32
        Reconstructed from noiseless rays.
    labels : uint8
    affine, pose : (4, 4)
        Voxels, and the head's coordinates, to the scanner's world.
    photons : float
        Mean count of an unattenuated ray.
    noise_hu : float
        Predicted standard deviation in the middle.
    """

    image: np.ndarray
    clean: np.ndarray
    labels: np.ndarray
    affine: np.ndarray
    pose: np.ndarray
    photons: float
    noise_hu: float


def mr_scan(head: Head, rng: np.random.Generator) -> MRScan:
    """Scan a head with a 2-D multi-slice spoiled gradient echo of 1.5 x 1.5 x 3 mm with four coils.

    The scanner's gradients bend space by up to about 3 mm, every third phase-encoding line or so outside the centre is
    left out, and the noise is 3 to 5 % of the signal of white matter.
    """
    pose = random_pose(rng, 3.0, 3.0)
    bend = Bend(
        cubic=tuple(float(c) for c in rng.choice([-1, 1], 3) * rng.uniform(0.008, 0.02, 3)),  # type: ignore[arg-type]
        bump_mm=float(rng.choice([-1, 1]) * rng.uniform(1.0, 2.0)),
        bump_centre_mm=(0.0, 50.0, -20.0),
        bump_width_mm=22.0,
    )
    spacing = MR_SPACING[0]
    iso_shape = (MR_SHAPE[0], MR_SHAPE[1], MR_SHAPE[2] * 2)
    affine_iso = _grid(iso_shape, (spacing, spacing, spacing), np.array([0.0, -10.0, 11.0]))
    affine = affine_iso @ np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (affine_iso @ [0, 0, 0.5, 1])[:3]
    signal, texture = mr_contrast(rng)
    scaled = (signal * np.float32(SIGNAL_SCALE), texture * np.float32(SIGNAL_SCALE))
    object_iso, labels_iso = paint(head, affine_iso, iso_shape, scaled, pose, bend)
    _, labels = paint(head, affine, MR_SHAPE, scaled, pose, bend, parts=(2, 2, 4))
    planes = np.ascontiguousarray(object_iso.transpose(2, 1, 0))
    slices = mr.excite_slices(planes, mr.slice_profile(MR_SPACING[2], spacing, 0.35), 2)
    x, y, z = (np.arange(n) * affine[a, a] + affine[a, 3] for a, n in enumerate(MR_SHAPE))
    coils = np.array([[115, -12, 8], [-115, -12, 8], [0, 130, 8], [0, -155, 8]]) + rng.normal(0, 8, (4, 3))
    points = (x[None, None] - CENTRE_MM[0], y[None, :, None] - CENTRE_MM[1], z[:, None, None] - CENTRE_MM[2])
    maps = mr.coil_sensitivities(points, coils - CENTRE_MM, 105.0)
    combined = root_sum_of_squares(maps, 0)
    turn = rng.normal(0, 1, 3) / 100
    phase = np.exp(1j * (x * turn[0] + y[:, None] * turn[1] + z[:, None, None] * turn[2])).astype(np.complex64)
    mask = mr.cartesian_mask(MR_SHAPE[1], ACCELERATION, CENTRE_SHARE, rng)
    noise = float(rng.uniform(0.03, 0.05))
    # what is left out of k-space takes its share of the noise with it
    sigma = noise * float(scaled[0][WHITE]) * math.sqrt(mask.size / mask.sum())
    kspace = mr.acquire_kspace(slices * phase, np.moveaxis(maps, 0, 1), mask)
    kspace = mr.add_complex_noise(kspace, sigma, rng, mask)
    # the coils' combined sensitivity between the slices' centres, a quarter of a slice off on either side
    below = np.concatenate([combined[:1], combined[:-1]])
    above = np.concatenate([combined[1:], combined[-1:]])
    planes[::2] *= 0.75 * combined + 0.25 * below
    planes[1::2] *= 0.75 * combined + 0.25 * above
    return MRScan(
        kspace=kspace,
        mask=mask,
        affine=affine,
        affine_iso=affine_iso,
        clean=(slices * combined).transpose(2, 1, 0),
        truth=planes.transpose(2, 1, 0),
        labels=labels,
        labels_iso=labels_iso,
        pose=pose,
        bend=bend,
        noise=noise,
    )


def ct_scan(head: Head, rng: np.random.Generator) -> CTScan:
    """Scan a head with a parallel-beam CT of 1.5 x 1.5 x 3 mm at a low dose, in a pose of its own.

    The pose is up to 10 degrees and 10 mm off, the slices are tilted a little, and the dose is such that the noise in the
    middle of the brain is 25 to 40 HU.
    """
    pose = random_pose(rng, 10.0, 10.0)
    tilt = math.radians(rng.uniform(-5, 5))
    turn = np.eye(4)
    turn[1:3, 1:3] = [[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]]
    affine = _grid(CT_SHAPE, CT_SPACING, np.zeros(3))
    affine = _shift(CENTRE_MM + np.array([0.0, 2.0, 0.0])) @ turn @ affine
    hu, labels = paint(head, affine, CT_SHAPE, ct_contrast(rng), pose, parts=(2, 2, 4))
    radius = np.hypot(*np.ogrid[tuple(slice(-(n - 1) / 2, n / 2) for n in CT_SHAPE[:2])])
    outside = radius > DETECTORS / 2 - 2
    hu[outside] = -1000
    labels[outside] = 0
    angles, spacing = ct.view_angles(VIEWS), CT_SPACING[0]
    sinogram = ct.aperture(ct.radon(ct.hu_to_mu(hu), angles, spacing, DETECTORS), APERTURE)
    noise_hu = float(rng.uniform(25, 40))
    photons = _photons_for(noise_hu, sinogram, angles)
    noisy = ct.low_dose(sinogram, photons, rng, ELECTRONIC)
    clean, image = (ct.mu_to_hu(ct.fbp(rays, angles, spacing, CT_SHAPE[:2], "hann")) for rays in (sinogram, noisy))
    for volume in (clean, image):
        volume[outside] = -1000
        np.clip(volume, -1024, 3071, out=volume)
    return CTScan(np.round(image).astype(np.int16), clean, labels, affine, pose, photons, noise_hu)


def random_pose(rng: np.random.Generator, degrees: float, shift_mm: float) -> np.ndarray:
    """Return a random rigid motion about `CENTRE_MM`: up to `degrees` about a random axis, up to `shift_mm` far, (4, 4)."""
    from scipy.spatial.transform import Rotation

    axis, direction = (v / np.linalg.norm(v) for v in rng.standard_normal((2, 3)))
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(axis * math.radians(degrees * rng.uniform(0.4, 1.0))).as_matrix()
    pose[:3, 3] = direction * shift_mm * rng.uniform(0.3, 1.0)
    return _shift(CENTRE_MM) @ pose @ _shift(-CENTRE_MM)


def landmarks(mr_truth: MRScan, ct_truth: CTScan, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return where points of the anatomy lie in both scans.

    They are on borders between tissues deep inside the brain (of cortex and white matter, of the ventricles), chosen far
    from each other one by one.

    Returns
    -------
    in_mr, in_ct : (count, 3) float64 arrays
        World coordinates in mm, RAS.
    """
    labels = mr_truth.labels_iso
    core = labels[1:-1, 1:-1, 1:-1]
    inside = (core >= 1) & (core <= 3)
    border = np.zeros(core.shape, bool)
    for axis in range(3):
        for shift in (0, 2):
            window = tuple(slice(shift, shift + n) if a == axis else slice(1, 1 + n) for a, n in enumerate(core.shape))
            other = labels[window]
            inside &= (other >= 1) & (other <= 3)
            border |= other != core
    candidates = np.argwhere(inside & border & (core >= 2)) + 1
    candidates = candidates[rng.choice(len(candidates), min(4000, len(candidates)), replace=False)]
    in_mr = candidates @ mr_truth.affine_iso[:3, :3].T + mr_truth.affine_iso[:3, 3]
    chosen = [0]
    distance = np.linalg.norm(in_mr - in_mr[0], axis=1)
    while len(chosen) < min(count, len(in_mr)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(in_mr - in_mr[chosen[-1]], axis=1))
    in_mr = in_mr[chosen]
    return in_mr, mr_to_ct(in_mr, mr_truth, ct_truth)


def mr_to_ct(points_mm: np.ndarray, mr_truth: MRScan, ct_truth: CTScan) -> np.ndarray:
    """Return where (n, 3) points of the MR's world lie in the CT's world, mm."""
    motion: Any = ct_truth.pose @ np.linalg.inv(mr_truth.pose)
    return mr_truth.bend(points_mm) @ motion[:3, :3].T + motion[:3, 3]


def _photons_for(noise_hu: float, sinogram: np.ndarray, angles: np.ndarray) -> float:
    """Return how many photons a ray needs so that the noise in the middle of the brain is `noise_hu`."""
    middle, slices = sinogram.shape[1] // 2, sinogram.shape[2]
    rays = sinogram[:, middle - 2 : middle + 3, slices * 3 // 8 : slices * 5 // 8]
    wanted = (noise_hu * ct.MU_WATER_PER_MM / 1000) ** 2
    photons = 1e5
    for _ in range(8):  # electronic noise makes it a little nonlinear
        variance = ct.low_dose_variance(rays, photons, ELECTRONIC).mean(axis=(1, 2))
        photons *= ct.fbp_variance(variance, angles, CT_SPACING[0], "hann") / wanted
    return float(photons)


def _grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], centre_mm: np.ndarray) -> np.ndarray:
    """Return the affine of a grid along R, A, S whose middle is at `centre_mm`."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre_mm - (np.array(shape) - 1) / 2 * spacing
    return affine


def _shift(by_mm: np.ndarray) -> np.ndarray:
    shift = np.eye(4)
    shift[:3, 3] = by_mm
    return shift
