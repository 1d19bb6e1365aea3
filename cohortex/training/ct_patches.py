"""What the shipped CT denoiser learns from: clean slices, real and simulated, and patches of them with the noise of less dose."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cohortex.blocks import read_block
from cohortex.filters.foreground import foreground
from cohortex.physics import ct
from cohortex.training import patches
from cohortex.training.noise import FEWEST, MOST, PHOTONS, VIEWS

LOG = logging.getLogger("cohortex.training")

LEVELS = (1.5, 70.0)
"""Root mean square in HU, over the patient, of the noise that is added: from more than a full dose to a tenth of one."""

TIMES_OWN = 1.5
"""An image gets at least so many times the noise that it has of its own: it is the target, and its noise would count as detail."""

ELECTRONIC = 4.0
"""Standard deviation of the electronic noise, in photons, as in the demo's scanner."""

REALISATIONS = 4
"""Of the noise of each image, each with a reconstruction kernel of its own."""

SOFT = (-20.0, 180.0)
"""HU of the tissue whose local standard deviations tell an image's own noise."""

REAL: tuple[tuple[str, str, tuple[tuple[str, tuple[int, int, int], float], ...]], ...] = (
    ("abdomen-ct-mr/example_ct.nii.gz", "abdomen", (("", (1, 1, 1), 0.2), (" in thick slices", (1, 1, 2), 0.1))),
    (
        "chest-ct-dicom/LIDC-IDRI-0314",
        "chest",
        (("", (1, 1, 2), 0.08), (" in thick slices", (1, 1, 3), 0.12), (" in thick slices of half the pixels", (2, 2, 3), 0.1)),
    ),
)
"""Files or folders of real scans, the body part, and by name the voxels along each axis that are averaged, with a share of the patches."""

SIMULATED, OTHER_GRIDS = 0.25, 0.15
"""Shares of simulated heads as the demo scans them, and on other grids."""


@dataclass(frozen=True)
class Clean:
    """An image to add noise to.

    Attributes
    ----------
    name : str
    hu : (x, y, z) float32 array
    noise : sequence of (x, y, z) float32 arrays
        Noise of less dose with a root mean square of 1 in the foreground; correlated, and stronger where rays met more.
    own : float
        Standard deviation in HU of the noise that it has already.
    places : (n, 3) array
        Indices of foreground voxels.
    share : float
        Of the patches, relative to the others.
    """

    name: str
    hu: np.ndarray
    noise: Sequence[np.ndarray]
    own: float
    places: np.ndarray
    share: float


def clean_images(scans: Path | None, heads: int, seed: int) -> list[Clean]:
    """Return all images of the training.

    Parameters
    ----------
    scans : Path, optional
        The folder that has those of `REAL`; None: simulated heads only.
    heads : int
        Simulated people.
    seed : int
        Of the simulated heads and of the noise.
    """
    rng = np.random.default_rng([seed, 1])
    found = [clean(name, hu, spacing_mm, 0.0, share, rng) for name, hu, spacing_mm, share in simulated(heads, seed)]
    for name, hu, spacing_mm, share in real(scans):
        found.append(clean(name, hu, spacing_mm, own_noise(hu), share, rng))
    for image in found:
        LOG.info("%s: %s voxels, own noise %.1f HU, share %.3f", image.name, image.hu.shape, image.own, image.share)
    return found


def clean(name: str, hu: np.ndarray, spacing_mm: float, own: float, share: float, rng: np.random.Generator) -> Clean:
    """Return an image ready for `draw`, with noise of several levels and kernels."""
    inside = foreground(hu)
    noise = []
    for level in np.exp(np.linspace(np.log(LEVELS[0]), np.log(LEVELS[1]), REALISATIONS)):
        kernel: Literal["ram-lak", "hann"] = "hann" if rng.random() < 0.6 else "ram-lak"
        made = quantum_noise(hu, spacing_mm, max(float(level), 5.0), rng, inside, kernel, float(rng.uniform(0, 0.25)))
        noise.append(made / np.float32(rms(made, inside)))
    return Clean(name, np.ascontiguousarray(hu, np.float32), noise, own, patches.places(inside, rng), share)


def quantum_noise(
    hu: np.ndarray,
    spacing_mm: float,
    level: float,
    rng: np.random.Generator,
    inside: np.ndarray,
    kernel: Literal["ram-lak", "hann"] = "hann",
    smooth: float = 0.0,
    rounds: int = 2,
) -> np.ndarray:
    """Return what few photons add to a scan: the slices are projected, photons counted, and the change reconstructed.

    Parameters
    ----------
    hu : (x, y, z) array
    spacing_mm : float
        Of the pixels, which are taken as squares.
    level : float
        Wanted root mean square within `inside`, HU.
    rng : numpy.random.Generator
    inside : (x, y, z) bool array
    kernel : {"ram-lak", "hann"}
        Of the filtered backprojection.
    smooth : float
        What each bin of the changed projections takes from either neighbour: 0 leaves the kernel as it is, 0.25 makes a soft one.
    rounds : int
        How often the number of photons is corrected by the noise that the middle slice gets: 2 come within a half where few photons pass.

    Returns
    -------
    (x, y, z) float32 array
        HU, to be added.
    """
    shape = (hu.shape[0], hu.shape[1])
    angles = ct.view_angles(VIEWS * max(shape) // 2)
    rays = ct.radon(ct.hu_to_mu(hu), angles, spacing_mm)

    def noise(of: np.ndarray, photons: float) -> np.ndarray:
        changed = ct.aperture(ct.low_dose(of, photons, rng, ELECTRONIC) - of, smooth)
        return ct.fbp(changed, angles, spacing_mm, shape, kernel) * np.float32(1000 / ct.MU_WATER_PER_MM)

    middle = slice(hu.shape[2] // 2, hu.shape[2] // 2 + 1)
    photons = PHOTONS
    # Variance goes with one over the photons but for what electronics add, and for rays that no photon passes.
    for _ in range(rounds):
        photons = float(np.clip(photons * (rms(noise(rays[:, :, middle], photons), inside[:, :, middle]) / level) ** 2, FEWEST, MOST))
    return noise(rays, photons)


def rms(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the root mean square within a mask."""
    return float(np.sqrt(np.mean(np.square(values[inside], dtype=np.float64))))


def own_noise(hu: np.ndarray, edge: int = 7) -> float:
    """Return the noise of a scan in HU: the most frequent standard deviation of small squares of soft tissue.

    Unlike a wavelet's it sees the noise of soft kernels as well.

    References
    ----------
    Christianson et al., Automated technique to measure noise in clinical CT examinations, AJR 205 (2015) W93-W99.
    """
    from scipy import ndimage

    values = hu.astype(np.float64)
    window: Any = (edge, edge, 1)
    mean, square = (ndimage.uniform_filter(each, window) for each in (values, values**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0) * edge**2 / (edge**2 - 1))
    counts, edges = np.histogram(spread[(mean > SOFT[0]) & (mean < SOFT[1])], np.arange(0, 100, 0.5))
    at = int(np.argmax(ndimage.uniform_filter1d(counts.astype(float), 5)))
    return float(edges[at] + 0.25)


def real(scans: Path | None) -> list[tuple[str, np.ndarray, float, float]]:
    """Return name, HU, spacing in the plane and share of real scans."""
    from cohortex.io import read

    found: list[tuple[str, np.ndarray, float, float]] = []
    for file, _, versions in REAL if scans is not None else ():
        path = Path(scans or ".") / file
        if not path.exists():
            LOG.info("%s is not there", file)
            continue
        volume = read(path)[0]
        whole = np.asarray(volume.data[...], np.float32)
        for name, factors, share in versions:
            found.append((file + name, averaged(whole, factors), float(volume.spacing[0]) * factors[0], share))
    return found


def averaged(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Return an array whose voxels are means of so many along each axis; what does not fill one is left out."""
    for axis, factor in enumerate(factors):
        length = array.shape[axis] // factor
        kept = np.take(array, range(length * factor), axis)
        array = kept.reshape(*kept.shape[:axis], length, factor, *kept.shape[axis + 1 :]).mean(axis + 1)
    return np.ascontiguousarray(array, np.float32)


def simulated(heads: int, seed: int) -> list[tuple[str, np.ndarray, float, float]]:
    """Return simulated heads without noise: as the demo's scanner shows them, and on other grids."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.scans import APERTURE, CENTRE_MM, ct_contrast, ct_scan, random_pose
    from cohortex.demo.table import DIAGNOSES

    found: list[tuple[str, np.ndarray, float, float]] = []
    for number in range(heads):
        rng = np.random.default_rng([seed, 2, number])
        head = make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng)
        scan = ct_scan(head, rng)
        found.append((f"head {number}", scan.clean, float(np.linalg.norm(scan.affine[:3, 0])), SIMULATED / heads))
        pixel, thick = float(rng.uniform(0.7, 1.5)), float(rng.uniform(1.0, 5.0))
        shape = (round(230 / pixel), round(230 / pixel), min(24, round(140 / thick)))
        affine = np.diag([pixel, pixel, thick, 1.0])
        affine[:3, 3] = CENTRE_MM + np.array([0, 0, rng.uniform(-25, 25)]) - (np.array(shape) - 1) / 2 * affine.diagonal()[:3]
        hu, _ = paint(head, affine, shape, ct_contrast(rng), random_pose(rng, 10.0, 5.0), parts=(2, 2, 3))
        angles = ct.view_angles(VIEWS * max(shape) // 2)
        rays = ct.aperture(ct.radon(ct.hu_to_mu(hu), angles, pixel), APERTURE)
        hu = ct.mu_to_hu(ct.fbp(rays, angles, pixel, shape[:2], "hann"))
        found.append((f"head {number} of another grid", hu, pixel, OTHER_GRIDS / heads))
    return found


def draw(images: Sequence[Clean], edge: int, adjacent: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a slice with noise between those beside it, (2 * adjacent + 1, edge, edge), and the clean one, (1, edge, edge), in HU.

    The patch is turned any way round, and half of the time its contrast around some intensity is changed. Most of the time the noise is
    that of the place where the image lies, one time in five that of another place; one time in five it is alike in
    neighbouring slices, as in slices that overlap.
    """
    shares = np.array([image.share for image in images])
    image = images[rng.choice(len(images), p=shares / shares.sum())]
    box = around(image, edge, adjacent, rng)
    hu = read_block(image.hu, box, (0, 0, 0), "reflect")
    other = around(image, edge, adjacent, rng) if rng.random() < 0.2 else box
    correlated = rng.random() < 0.2
    wide = (*other[:2], (other[2][0] - correlated, other[2][1] + correlated))
    noise = read_block(image.noise[int(rng.integers(len(image.noise)))], wide, (0, 0, 0), "reflect")
    if correlated:
        side = np.float32(rng.uniform(0, 0.5))
        noise = (noise[:, :, 1:-1] + side * (noise[:, :, :-2] + noise[:, :, 2:])) / np.sqrt(1 + 2 * side**2, dtype=np.float32)
    gain = np.float32(1)
    if rng.random() < 0.5:
        pivot, gain = np.float32(rng.uniform(-100, 150)), np.float32(np.exp(rng.uniform(-0.6, 0.6)))
        hu = np.clip((hu - pivot) * gain + pivot, -1024, 3071)
    low = min(max(LEVELS[0], TIMES_OWN * image.own * float(gain)), 0.5 * LEVELS[1])
    level = np.float32(np.exp(rng.uniform(np.log(low), np.log(LEVELS[1]))))
    pair = [hu + level * noise, hu]
    swap = (0, 1) if rng.random() < 0.5 else None
    noisy, hu = patches.turned(pair, rng, swap)
    return np.moveaxis(noisy, 2, 0), hu[None, :, :, adjacent]


def around(image: Clean, edge: int, adjacent: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Return a box of `edge` pixels and a slice with those beside it, with a foreground voxel in it; it may end outside the image."""
    x, y, z = (int(n) for n in image.places[rng.integers(len(image.places))])
    starts = [int(np.clip(m - rng.integers(0, edge), 0, max(0, n - edge))) for m, n in zip((x, y), image.hu.shape, strict=False)]
    return (starts[0], starts[0] + edge), (starts[1], starts[1] + edge), (z - adjacent, z + adjacent + 1)
