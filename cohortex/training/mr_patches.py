"""What the shipped MR denoiser learns from: clean images, real and simulated, and patches of them with noise of any level."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cohortex.blocks import read_block
from cohortex.filters.foreground import foreground
from cohortex.measures.image_quality import noise_sigma
from cohortex.training import patches

LOG = logging.getLogger("cohortex.training")

LEVELS = (0.015, 0.14)
"""Standard deviation of the noise that is added, over the image's 99th percentile."""

TIMES_OWN = 2.0
"""An image gets at least so many times the noise that it has of its own: it is the target, and its noise would count as detail."""

SLACK = 0.04
"""Relative error of the noise level that the network is told, one standard deviation."""

REAL: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("brain-ms-multimodal/patient07", ("T1", "T1post", "T2", "FLAIR"), 0.4),
    ("brain-ms-longitudinal/patient01/raw", tuple(f"study{n}_{kind}" for n in (1, 2) for kind in ("T1W", "T2W", "FLAIR")), 0.3),
    ("spinal-cord-mr/t2", ("t2",), 0.02),
    ("abdomen-ct-mr", ("example_mr_sm",), 0.02),
    ("prostate-mr-us/mr_images", ("case000000", "case000002", "case000004"), 0.02),
)
"""Folders of real scans, the names of their files, and the share of the patches that each folder gives where all are there."""

TEMPLATE, SIMULATED = 0.04, 0.25
"""Shares of the MNI152 average and of simulated heads."""


@dataclass(frozen=True)
class Clean:
    """An image to add noise to.

    Attributes
    ----------
    name : str
    data : (x, y, z) float32 array
        Air about 0, 99th percentile of the foreground 1.
    own : float
        Standard deviation of the noise that it has already.
    places : (n, 3) array
        Indices of foreground voxels.
    share : float
        Of the patches, relative to the others.
    """

    name: str
    data: np.ndarray
    own: float
    places: np.ndarray
    share: float


def clean_images(scans: Path | None, heads: int, seed: int) -> list[Clean]:
    """Return all images of the training.

    Parameters
    ----------
    scans : Path, optional
        The folder that has the folders of `REAL`; None: simulated heads and the template only.
    heads : int
        Simulated people.
    seed : int
        Of the simulated heads.
    """
    rng = np.random.default_rng([seed, 1])
    found = [clean(name, array, 0.0, share, rng) for name, array, share in [*template(), *simulated(heads, seed)]]
    for name, array, halved_axes, share in real(scans):
        found.append(clean(name, array, None, 0.7 * share, rng))
        # Each axis along which pairs are averaged takes half of the noise's variance; the estimate would see detail there.
        half = halved(array, halved_axes)
        found.append(clean(f"{name} (half)", half, found[-1].own / 2 ** (np.sum(halved_axes) / 2), 0.3 * share, rng))
    for image in found:
        LOG.info("%s: %s voxels, own noise %.2f %%, share %.3f", image.name, image.data.shape, 100 * image.own, image.share)
    return found


def clean(name: str, array: np.ndarray, own: float | None, share: float, rng: np.random.Generator) -> Clean:
    """Return an image ready for `draw`; its own noise (over the 99th percentile) is estimated where it is not given."""
    inside = foreground(array)
    data = np.maximum(array, 0) / np.float32(np.percentile(array[inside], 99))
    own = noise_sigma(data, inside) if own is None else own
    return Clean(name, np.ascontiguousarray(data, np.float32), own, patches.places(inside, rng), share)


def real(scans: Path | None) -> list[tuple[str, np.ndarray, np.ndarray, float]]:
    """Return name, array, which axes have the finer voxels, and share of real scans."""
    import nibabel as nib

    found: list[tuple[str, np.ndarray, np.ndarray, float]] = []
    for folder, names, share in REAL if scans is not None else ():
        for name in names:
            path = Path(scans or ".") / folder / f"{name}.nii.gz"
            if not path.is_file():
                LOG.info("%s/%s is not there", folder, path.name)
                continue
            image = nib.load(path)  # pyright: ignore[reportPrivateImportUsage]
            array, spacing = np.asarray(image.dataobj, np.float32), np.array(image.header.get_zooms()[:3])  # pyright: ignore
            found.append((f"{folder}/{name}", array, spacing < 1.5 * spacing.min(), share / len(names)))
    return found


def halved(array: np.ndarray, axes: Sequence[bool] | np.ndarray) -> np.ndarray:
    """Return an array with pairs of voxels averaged along some axes."""
    for axis in np.flatnonzero(axes):
        even = array.shape[axis] // 2 * 2
        array = np.take(array, range(0, even, 2), axis) / 2 + np.take(array, range(1, even, 2), axis) / 2
    return array


def template() -> list[tuple[str, np.ndarray, float]]:
    """Return the MNI152 average T1 that nilearn ships."""
    from importlib.util import find_spec

    import nibabel as nib

    package = find_spec("nilearn")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return [("MNI152", np.asarray(nib.load(path).dataobj, np.float32), TEMPLATE)]  # pyright: ignore


def simulated(heads: int, seed: int) -> list[tuple[str, np.ndarray, float]]:
    """Return simulated heads of the demo: its own T1 (thick slices, and before they are selected), and random contrasts and grids."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.scans import CENTRE_MM, mr_scan, random_pose
    from cohortex.demo.table import DIAGNOSES
    from cohortex.demo.tissues import TISSUES

    found: list[tuple[str, np.ndarray, float]] = []
    for number in range(heads):
        rng = np.random.default_rng([seed, 2, number])
        head = make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng)
        scan = mr_scan(head, rng)
        found += [
            (f"head {number}", scan.clean, SIMULATED * 0.5 / heads),
            (f"head {number} isotropic", scan.truth, SIMULATED * 0.2 / heads),
        ]
        signal = rng.uniform(0.05, 1.0, len(TISSUES)).astype(np.float32)
        signal[0] = 0
        texture = signal * np.float32(rng.uniform(0.3, 1.0)) * np.array([tissue.texture_mr for tissue in TISSUES], np.float32)
        spacing = np.array([*(rng.uniform(0.8, 1.6) * np.ones(2)), rng.uniform(0.8, 4.0)])
        shape = tuple(int(n) for n in np.round(np.array([170, 200, 150]) / spacing))
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = CENTRE_MM - (np.array(shape) - 1) / 2 * spacing
        painted, _ = paint(head, affine, shape, (signal, texture), random_pose(rng, 10.0, 5.0), parts=(2, 2, 3))  # pyright: ignore
        found.append((f"head {number} of random contrast", painted, SIMULATED * 0.3 / heads))
    return found


def draw(images: Sequence[Clean], edge: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch with noise and the clean one, both (edge, edge, edge) in units of the noise.

    The patch is turned any way round, four times in ten its contrast is changed (a smooth curve, in a tenth of these cases turned
    upside down), and the noise is that of a magnitude. One time in twenty the noise is correlated along some axes, as reconstruction
    and interpolation leave it; one in twenty air without signal is exactly 0, as after masking. A voxel of the foreground lies in the
    middle half of the patch: less of it is air.
    """
    shares = np.array([image.share for image in images])
    image = images[rng.choice(len(images), p=shares / shares.sum())]
    box = [
        (int(m) - edge // 4 - int(rng.integers(0, edge // 2)), n)
        for m, n in zip(image.places[rng.integers(len(image.places))], image.data.shape, strict=True)
    ]
    starts = [int(np.clip(a, 0, max(0, n - edge))) for a, n in box]
    # What is thinner than a patch is continued in the mirror.
    patch = read_block(image.data, [(a, a + edge) for a in starts], (0, 0, 0), "reflect")
    patch = np.transpose(patch, rng.permutation(3))
    (patch,) = patches.turned([patch], rng)
    low = min(max(LEVELS[0], TIMES_OWN * image.own), 0.5 * LEVELS[1])
    level = np.float32(np.exp(rng.uniform(np.log(low), np.log(LEVELS[1]))))
    masked = patch <= 0 if rng.random() < 0.05 else None
    if rng.random() < 0.4:
        patch = recoloured(patch, rng)
    signal = patch / level
    noise = rng.standard_normal((2, *patch.shape), dtype=np.float32)
    if rng.random() < 0.05:
        noise = correlated(noise, rng)
    noisy = np.hypot(signal + noise[0], noise[1])
    if masked is not None:
        noisy[masked] = signal[masked] = 0
    told = np.float32(np.exp(SLACK * rng.standard_normal()))
    return noisy / told, signal / told


def recoloured(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a patch seen through a smooth random curve; its noise is at most doubled and what is 0 stays 0, unless it is inverted."""
    knots = np.linspace(0, 1.25, 6)
    heights = np.cumsum(np.concatenate([[0], rng.uniform(-0.4, 1.8, 5)])) * 0.25
    heights = np.abs(heights)
    curve = np.interp(np.linspace(0, 1.25, 126), knots, heights)
    curve = np.convolve(np.pad(curve, 10, mode="edge"), np.full(21, 1 / 21), "valid")
    curve -= curve[0]
    if rng.random() < 0.1:
        curve = curve.max() - curve
    made = np.interp(patch, np.linspace(0, 1.25, 126), curve)
    return np.maximum(made, 0).astype(np.float32)


def correlated(noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise (2, x, y, z) with neighbours alike along some axes, of the same variance."""
    for axis in (1, 2, 3):
        if rng.random() < 0.5:
            side = np.float32(rng.uniform(0, 0.4))
            noise = (noise + side * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))) / np.sqrt(1 + 2 * side**2, dtype=np.float32)
    return noise
