"""Scans whose truth is known, for trainings that may not see it: a case keeps the truth apart from the images that a training is given.

MR: real brains (the middle of the folder of test data's, their own noise of 0.5 to 2.5 % counts as truth for all methods) and heads of the
demo, with Rician noise. CT: slices of the demo's heads and of an abdomen, whose projections have few photons.
All are stacks of thick slices: of the two isotropic brains every fourth slice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import SimpleITK

from benchmarks.denoise import SIGNAL, scaled
from cohortex.filters.foreground import foreground
from cohortex.items import Image
from cohortex.measures.image_quality import noise_sigma
from cohortex.physics import ct
from cohortex.training.noise import VIEWS, with_noise
from cohortex.volume import Volume

if TYPE_CHECKING:
    from cohortex.demo.anatomy import Head

PATIENT01 = tuple(
    (f"patient01 visit {visit} {kind}", kind.replace("W", "w"), f"brain-ms-longitudinal/patient01/raw/study{visit}_{kind}.nii.gz", 1)
    for visit in (1, 2)
    for kind in ("T1W", "T2W", "FLAIR")
)
REAL: dict[str, tuple[tuple[str, str, str, int], ...]] = {
    "train": PATIENT01,
    "validation": (
        ("patient07 T1", "T1w", "brain-ms-multimodal/patient07/T1.nii.gz", 4),
        ("patient07 T2", "T2w", "brain-ms-multimodal/patient07/T2.nii.gz", 4),
    ),
    "test": (
        ("patient20 T1", "T1w", "brain-ms-longitudinal/patient20/raw/study2_T1W.nii.gz", 1),
        ("patient20 FLAIR", "FLAIR", "brain-ms-longitudinal/patient20/raw/study2_FLAIR.nii.gz", 1),
        ("brain1 T1 post", "T1w", "lesion-nrrd/brain1_image.nrrd", 1),
        ("subject_a T1", "T1w", "brain-t1-labels/subject_a.npz", 4),
    ),
}
"""Name, modality, file, and which of how many slices are taken, of each split; no patient is in two of them."""

HEADS = {"train": 3, "validation": 1, "test": 2}
"""Simulated heads of each split."""

SLICES = {"train": 16, "validation": 4, "test": 4}
LEVELS = {"train": (0.05, 0.1), "validation": (0.05, 0.1), "test": (0.05, 0.1)}
"""Rician noise over the 99.9th percentile: between these in training, where each scan has one of its own; else all scans with each."""

ABDOMEN = "abdomen-ct-mr/example_ct_sm.nii.gz"
CT_NOISE = (25.0, 60.0)
"""Of the CT in the middle of the body, in HU."""


@dataclass(frozen=True)
class Case:
    """A scan with noise, the same once more with noise of its own, and the truth.

    Attributes
    ----------
    scan, again : Image
        What a user has: all that a training from noisy scans is given.
    truth : (x, y, z) float32 array
        In the scan's units.
    inside : (x, y, z) bool array
        Where it is compared.
    reach : float
        What stands for the range in a PSNR.
    """

    name: str
    scan: Image
    again: Image
    truth: np.ndarray
    inside: np.ndarray
    reach: float

    @cached_property
    def sigma(self) -> float:
        """Return the noise of the scan, estimated as the stage `denoise` does it."""
        return noise_sigma(self.noisy, foreground(self.noisy))

    @property
    def noisy(self) -> np.ndarray:
        """Return the scan's voxels."""
        return self.scan.volume.array(np.float32)


def mr_cases(split: str, folder: Path) -> list[Case]:
    """Return the MR scans of a split; without the folder of test data simulated heads alone."""
    found: list[Case] = []
    for number, (name, modality, truth, spacing) in enumerate([*real(split, folder), *simulated(split)]):
        levels = LEVELS[split]
        if split == "train":
            levels = (float(np.random.default_rng([3, number]).uniform(*levels)),)
        for level in levels:
            rng = np.random.default_rng([len(split), number, round(1000 * level)])
            scans = [with_noise(truth, level, True, rng) for _ in range(2)]
            found.append(case(f"{name}, {100 * level:.0f} %", modality, truth, scans, spacing, truth > SIGNAL, 1.0))
    return found


def case(
    name: str,
    modality: str,
    truth: np.ndarray,
    scans: list[np.ndarray],
    spacing: tuple[float, float, float],
    inside: np.ndarray,
    reach: float,
) -> Case:
    """Return a case of a truth and two noisy versions of it."""

    def image(array: np.ndarray, run: int) -> Image:
        volume = Volume(np.ascontiguousarray(array, np.float32), np.diag([*spacing, 1.0]), modality=modality, body_part="head")
        return Image(f"{name} {run}", name, "", modality, "image", body_part="head", row={"split": "train"}, opener=lambda: volume)

    return Case(name, image(scans[0], 1), image(scans[1], 2), truth, inside, reach)


def real(split: str, folder: Path) -> Iterator[tuple[str, str, np.ndarray, tuple[float, float, float]]]:
    """Yield name, modality, middle slices and spacing of the real MR scans of a split that are there."""
    for name, modality, file, step in REAL[split]:
        path = folder / file
        if not path.is_file():
            print(f"{file} is absent", file=sys.stderr)
            continue
        array, (x, y, z) = read(path)
        yield name, modality, framed(scaled(array)[:, :, ::step], SLICES[split]), (x, y, step * z)


def read(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return the voxels (x, y, z) of a NIfTI, NRRD or npz file, and their spacing in mm."""
    if path.suffix == ".npz":
        return np.load(path)["vol"].astype(np.float32), (1.0, 1.0, 1.0)
    if path.suffix == ".nrrd":
        image = SimpleITK.ReadImage(str(path))
        return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), image.GetSpacing()
    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    x, y, z = (float(width) for width in image.header.get_zooms()[:3])
    return np.asarray(image.dataobj, np.float32), (x, y, z)


def framed(array: np.ndarray, slices: int) -> np.ndarray:
    """Return the middle slices, cut to a box around the foreground with a little air."""
    start = max(0, (array.shape[2] - slices) // 2)
    array = array[:, :, start : start + slices]
    inside = foreground(array)
    box = []
    for axis in (0, 1):
        filled = np.flatnonzero(inside.any(axis=(1 - axis, 2)))
        box.append(slice(max(0, int(filled[0]) - 8), int(filled[-1]) + 9))
    return np.ascontiguousarray(array[tuple(box)])


@cache
def head(number: int) -> Head:
    """Return a simulated head of a seed that no shipped training saw."""
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.table import DIAGNOSES

    rng = np.random.default_rng([90002, number])
    return make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng)


def heads(split: str, scanner: int) -> Iterator[tuple[Head, np.random.Generator]]:
    """Yield the simulated heads of a split, each with a random generator for a scanner."""
    first = sum(HEADS[other] for other in list(HEADS)[: list(HEADS).index(split)])
    for number in range(first, first + HEADS[split]):
        yield head(number), np.random.default_rng([90002, number, scanner])


def simulated(split: str) -> Iterator[tuple[str, str, np.ndarray, tuple[float, float, float]]]:
    """Yield the heads of a split as the demo's MR scanner images them without noise."""
    from cohortex.demo.scans import MR_SPACING, mr_scan

    for number, (one, rng) in enumerate(heads(split, 1)):
        yield f"{split} head {number}", "T1w", framed(scaled(mr_scan(one, rng).clean), SLICES[split]), MR_SPACING


def ct_cases(split: str, folder: Path) -> list[Case]:
    """Return the CT scans of a split: reconstructed from projections with few photons; the truth from the same without noise."""
    found: list[Case] = []
    for number, (name, hu, spacing) in enumerate(slices_of_ct(split, folder)):
        rng = np.random.default_rng([5, len(split), number])
        wanted = float(rng.uniform(*CT_NOISE))
        angles = ct.view_angles(VIEWS * max(hu.shape) // 2)
        rays = ct.radon(ct.hu_to_mu(hu), angles, spacing[0])

        def made(of: np.ndarray, angles: np.ndarray = angles, hu: np.ndarray = hu, width: float = spacing[0]) -> np.ndarray:
            return ct.mu_to_hu(ct.fbp(of, angles, width, (hu.shape[0], hu.shape[1])))

        truth = made(rays)
        middle = tuple(slice(n // 2 - n // 8, n // 2 + n // 8) for n in hu.shape[:2])
        photons = 1e5
        photons *= (float(np.std((made(ct.low_dose(rays, photons, rng)) - truth)[middle])) / wanted) ** 2
        scans = [made(ct.low_dose(rays, photons, rng)) for _ in range(2)]
        found.append(case(f"{name}, {wanted:.0f} HU", "CT", truth, scans, spacing, hu > -300, 2000.0))
    return found


def slices_of_ct(split: str, folder: Path) -> Iterator[tuple[str, np.ndarray, tuple[float, float, float]]]:
    """Yield name, middle slices in HU and spacing of the CT of a split."""
    from cohortex.demo.scans import CT_SPACING, ct_scan

    for number, (one, rng) in enumerate(heads(split, 2)):
        clean = ct_scan(one, rng).clean
        start = (clean.shape[2] - SLICES[split]) // 2
        yield f"{split} head {number}", clean[:, :, start : start + SLICES[split]], CT_SPACING
    path = folder / ABDOMEN
    if split == "test" and path.is_file():
        hu, spacing = read(path)
        start = (hu.shape[2] - SLICES[split]) // 2
        yield "abdomen", hu[:, :, start : start + SLICES[split]], spacing
