"""Heads of the demo whose CT is bent against their T1w, as files and a cohort table: pairs that a rigid motion does not align."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage as ndi

from benchmarks.regseg_data import bent_heads
from cohortex.items import DEMO_SITE
from cohortex.models.regseg.grid import Grid
from cohortex.tables import write_table

SPACING_MM = 3.0
SHAPE = (56, 72, 56)
SEED = 70002
COLUMNS = ("subject", "modality", "path", "body_part", "role", "site", "split")


def grid() -> Grid:
    """Return the grid of all images, around brain, skull and the upper face."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = np.array([0.0, -10.0, 20.0]) - (np.array(SHAPE) - 1) / 2 * SPACING_MM
    return Grid(SHAPE, affine)


def bent_table(folder: Path, subjects: int) -> Path:
    """Write the images with their labels and the table of the cohort; what is there already stays.

    Half of the subjects are for training, a quarter for validation and a quarter for the test. Displacements are those of
    `benchmarks.regseg`: 5 mm in the mean, turned by 2 degrees and moved by 2 mm along each axis.
    """
    rows = []
    for number in range(subjects):
        split = "train" if number < subjects / 2 else "validation" if number < 0.75 * subjects else "test"
        for modality, role, path in _files(folder, number):
            rows.append(dict(zip(COLUMNS, (f"bent{number:02d}", modality, str(path), "head", role, DEMO_SITE, split), strict=True)))
    write_table(folder / "cohort.tsv", COLUMNS, rows)
    return folder / "cohort.tsv"


def _files(folder: Path, number: int) -> list[tuple[str, str, Path]]:
    """Return modality, role and path of a subject's files, made where they are not there."""
    from cohortex.demo.anatomy import paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    kinds = [(modality, role) for modality in ("T1w", "CT") for role in ("image", "labels")]
    places = [(modality, role, folder / "bent" / f"{number:02d}_{modality}_{role}.nii") for modality, role in kinds]
    if all(path.is_file() for *_, path in places):
        return places
    (folder / "bent").mkdir(parents=True, exist_ok=True)
    rng, where = np.random.default_rng([SEED, number]), grid()
    head, bent, _ = bent_heads(rng, where)
    for modality, anatomy, contrast in (("T1w", head, mr_contrast(rng)), ("CT", bent, ct_contrast(rng))):
        clean, labels = paint(anatomy, where.affine, SHAPE, contrast, np.eye(4))
        noise = rng.standard_normal(SHAPE)
        # Low-dose CT has coarse noise, of 5 HU; a magnitude image that of 3 % of its brightest tissue.
        grain = ndi.gaussian_filter(noise, 0.5) / 0.42 * 5.0 if modality == "CT" else 0.03 * np.percentile(clean, 99.5) * noise
        values = clean + grain if modality == "CT" else np.abs(clean + grain)
        for role, array in (("image", values.astype(np.float32)), ("labels", labels)):
            image = nib.Nifti1Image(array, where.affine)
            image.header.set_xyzt_units("mm")
            nib.save(image, folder / "bent" / f"{number:02d}_{modality}_{role}.nii")
    return places
