"""The tissues of the simulated heads and what scanners see of them.

Relaxation times are those of about 3 T and attenuations those of about 120 kV, rounded from the ranges that
textbooks give: they make a plausible contrast, no claim about a scanner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cohortex.physics.mr import spoiled_gradient_echo

AIR, CSF, GREY, WHITE, BONE, SOFT, MASS, FAT, MARROW, EYE, RIM, OEDEMA, DURA = range(13)
"""What a voxel of the anatomy can be."""

TR_MS, TE_MS, FLIP_DEG = 250.0, 4.0, 75.0
"""The T1-weighted multi-slice spoiled gradient echo of the demo."""


@dataclass(frozen=True)
class Tissue:
    """One tissue: its label and its parameters.

    Attributes
    ----------
    label : int
        1 CSF, 2 grey matter, 3 white matter, 4 bone, 5 other soft tissue, 6 lesion; 0 air.
    pd, t1_ms, t2star_ms : float
        Proton density relative to water, relaxation times.
    hu : float
        Hounsfield units.
    texture_mr, texture_hu : float
        How strongly the local detail (about -1 to 1) changes the MR signal (relative) and the attenuation (HU).
    """

    label: int
    pd: float
    t1_ms: float
    t2star_ms: float
    hu: float
    texture_mr: float
    texture_hu: float


TISSUES: tuple[Tissue, ...] = (
    Tissue(0, 0.0, 1000, 10, -1000, 0.0, 0),
    Tissue(1, 1.0, 3800, 200, 7, 0.04, 2),
    Tissue(2, 0.83, 1300, 52, 38, 0.10, 2),
    Tissue(3, 0.71, 800, 48, 29, 0.08, 2),
    Tissue(4, 0.15, 250, 0.6, 1350, 0.5, 180),
    Tissue(5, 0.78, 1050, 28, 52, 0.18, 9),
    Tissue(6, 0.90, 2300, 90, 17, 0.15, 5),
    Tissue(5, 0.80, 380, 30, -92, 0.15, 10),
    Tissue(4, 0.50, 480, 9, 480, 0.35, 180),
    Tissue(5, 1.0, 3800, 250, 9, 0.02, 1),
    Tissue(6, 0.78, 900, 45, 47, 0.12, 5),
    Tissue(6, 0.86, 1900, 75, 18, 0.08, 3),
    Tissue(1, 0.78, 1050, 28, 52, 0.1, 5),
)
LABELS = np.array([tissue.label for tissue in TISSUES], np.uint8)
"""Label of each tissue."""


def mr_contrast(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the T1-weighted signal of every tissue of one person and its texture, both (tissue,) float32."""
    person = 1 + 0.03 * rng.standard_normal((3, len(TISSUES)))
    pd, t1, t2 = np.array([[tissue.pd, tissue.t1_ms, tissue.t2star_ms] for tissue in TISSUES]).T * person
    signal = spoiled_gradient_echo(pd, t1, t2, TR_MS, TE_MS, FLIP_DEG).astype(np.float32)
    return signal, signal * np.array([tissue.texture_mr for tissue in TISSUES], np.float32)


def ct_contrast(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the Hounsfield units of every tissue of one person and their texture, both (tissue,) float32."""
    hu = np.array([tissue.hu for tissue in TISSUES])
    person = np.where(hu > 200, 1 + 0.06 * rng.standard_normal(hu.shape), 1) * hu
    person = np.where(np.abs(hu) < 200, person + rng.standard_normal(hu.shape), person)
    return person.astype(np.float32), np.array([tissue.texture_hu for tissue in TISSUES], np.float32)
