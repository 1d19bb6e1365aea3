"""Cohorts and candidates of the bake-offs of classification and recognition: simulated heads and pictures of brain tumours.

The heads are those of the demo; each has a diagnosis (none, a tumour, several small lesions) and labels. They are told apart as volumes on
a coarse grid, and things are looked for in some of their slices on a finer one. The pictures (``brain-tumour-2d``) have a kind of tumour
each and a box around it. Their patients are not told apart, but follow each other: ten slices in a row are one subject here, and of each
kind a subject between two splits is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.recognize import boxes_of, picture
from cohortex.demo.table import DIAGNOSES
from cohortex.io.boxes import CORNERS
from cohortex.items import DEMO_SITE
from cohortex.models import registry
from cohortex.models.classify import SMALL
from cohortex.tables import write_table

SEED = 70003
SPACING_MM, SHAPE = 3.0, (49, 61, 49)
FINE_MM, FINE = 1.5, (96, 128, 1)
SLICES, APART = 3, 2
"""Slices of each head in which things are looked for, and how far apart they are at least, in voxels of the coarse grid."""
HEADS = {"train": 32, "validation": 16, "test": 24}
DIAGNOSED = {"classify": DIAGNOSES, "recognize": ("tumour", "control", "tumour")}
"""Small lesions have three pixels along an axis: too few for what a network learns within these budgets."""
ROLES = ("image", "labels")
LESION = 6
COLUMNS = ("subject", "run", "modality", "path", "body_part", "role", "site", "split", "diagnosis")

PICTURES = "brain-tumour-2d"
TUMOURS = ("pituitary", "meningioma", "glioma")
BLOCK, STEP = 10, 2
"""Slices in a row that are one subject, and of which every second is taken."""
DEALT = {"train": (0, 12), "validation": (13, 16), "test": (17, 20)}
"""Subjects of each kind, of twenty."""

# --- cohorts -----------------------------------------------------------------------------------------------------


def affine_of(spacing_mm: float, shape: Sequence[int], z_mm: float = 8.0) -> np.ndarray:
    """Return the affine (4, 4) in mm of a grid that the cerebrum fills, its middle at a height."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = np.array([0.0, -18.0, z_mm]) - (np.array(shape) - 1) / 2 * spacing_mm
    return affine


def diagnosis_of(number: int, task: str) -> str:
    """Return the diagnosis of a head; they take turns."""
    return DIAGNOSED[task][number % len(DIAGNOSED[task])]


def volume_of(number: int) -> list[nib.Nifti1Image]:
    """Return the T1w of a head, (x, y, z) float32 with 3 % noise, and its labels, uint8."""
    rng, painted = _head(number, "classify")
    return _images(*painted(SHAPE, affine_of(SPACING_MM, SHAPE)), affine_of(SPACING_MM, SHAPE), rng)


def pictures_of(number: int) -> list[list[nib.Nifti1Image]]:
    """Return slices of a head with their labels: those with most lesion, some way apart; of a healthy one some others."""
    rng, painted = _head(number, "recognize")
    _, coarse = painted(SHAPE, affine_of(SPACING_MM, SHAPE))
    # of equally good ones any, above the base of the skull
    lesion = (coarse == LESION).sum(axis=(0, 1)) + rng.random(SHAPE[2]) * (np.arange(SHAPE[2]) > SHAPE[2] / 3)
    found = []
    for _ in range(SLICES):
        place = int(lesion[APART : SHAPE[2] - APART].argmax()) + APART
        lesion[place - APART : place + APART + 1] = -1
        affine = affine_of(FINE_MM, FINE, float(affine_of(SPACING_MM, SHAPE)[2, 3]) + place * SPACING_MM)
        found.append(_images(*painted(FINE, affine), affine, rng))
    return found


def _head(
    number: int, task: str
) -> tuple[np.random.Generator, Callable[[tuple[int, int, int], np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import mr_contrast

    rng = np.random.default_rng([SEED, number])
    made = make_head({"diagnosis": diagnosis_of(number, task), "age": rng.integers(25, 80)}, rng)
    contrast = mr_contrast(rng)
    return rng, lambda shape, affine: paint(made, affine, shape, contrast, np.eye(4))


def _images(clean: np.ndarray, labels: np.ndarray, affine: np.ndarray, rng: np.random.Generator) -> list[nib.Nifti1Image]:
    noisy = np.abs(clean + 0.03 * np.percentile(clean, 99.5) * rng.standard_normal(clean.shape)).astype(np.float32)
    found = [nib.Nifti1Image(array, affine) for array in (noisy, labels)]
    for image in found:
        image.header.set_xyzt_units("mm")
    return found


def heads_table(folder: Path, task: str) -> Path:
    """Write the heads, whole or in slices as the task wants them, with their labels, and the table of the cohort; what is there stays."""
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    for number, split in enumerate(split for split, count in HEADS.items() for _ in range(count)):
        runs = [""] if task == "classify" else [str(k + 1) for k in range(SLICES)]
        files = [folder / "heads" / f"{number:03d}_{run}{role}.nii" for run in runs for role in ROLES]
        if not all(file.is_file() for file in files):
            made = [volume_of(number)] if task == "classify" else pictures_of(number)
            for file, image in zip(files, [image for pair in made for image in pair], strict=True):
                nib.save(image, file)
        told = zip([run for run in runs for _ in ROLES], files, ROLES * len(runs), strict=True)
        about = DEMO_SITE, split, diagnosis_of(number, task)
        rows += [(f"head{number:03d}", run, "T1w", str(file), "head", role, *about) for run, file, role in told]
    return _table(folder, rows)


def slices_of(data: Path) -> Iterator[tuple[str, str, str, Path]]:
    """Yield subject, split, kind of tumour and file of each slice that is taken, in the order of their numbers."""
    for number, kind in enumerate(TUMOURS):
        files = sorted((data / PICTURES / str(number)).glob("*.jpg"), key=lambda file: int(file.stem))
        for split, (start, stop) in DEALT.items():
            for block in range(start, stop):
                for file in files[block * BLOCK : (block + 1) * BLOCK : STEP]:
                    yield f"{kind}{block:02d}", split, kind, file


def pictures_table(folder: Path, data: Path) -> Path:
    """Write the slices as pictures of 128 x 128 means, their boxes as tables, and the table of the cohort; what is there stays."""
    (folder / "slices").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    for subject, split, kind, file in slices_of(data):
        start = folder / "slices" / f"{kind}{file.stem}"
        files = {"image": start.with_suffix(".nii"), "boxes": start.with_name(f"{start.name}_boxes.tsv")}
        if not all(each.is_file() for each in files.values()):
            # the first row of a picture lies in front
            nib.save(nib.Nifti1Image(picture(file).astype(np.uint8), np.diag([-1.0, -1, 1, 1])), files["image"])
            truth = boxes_of(file.with_suffix(".txt").read_text(encoding="ascii"))
            told = zip(truth.labels, truth.corners.tolist(), strict=True)
            write_table(
                files["boxes"], ("label", *CORNERS), [{"label": TUMOURS[k], **dict(zip(CORNERS, box, strict=True))} for k, box in told]
            )
        rows += [(subject, file.stem, "T1w", str(each), "head", role, "figshare", split, kind) for role, each in files.items()]
    return _table(folder, rows)


def _table(folder: Path, rows: Sequence[tuple[str, ...]]) -> Path:
    write_table(folder / "cohort.tsv", COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows])
    return folder / "cohort.tsv"


# --- settings ----------------------------------------------------------------------------------------------------

SEEN = {"demo": [21, 26, 21], "pictures": [48, 48]}
"""What a classifier sees of a scan: all of it, scaled to so many voxels."""

TAUGHT = {"folds": 2, "batch": 8, "balance": "none", "optimiser": "muon", "rate": 3e-3}
"""The same for all classifiers."""

SHALLOW: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8},
    "resnet34": {"width": 8},
    "resnet50": {"width": 4},
    "densenet121": {"growth": 4, "width": 8},
    "googlenet": {"width": 0.0625},
    "swin_t": {"width": 12},
    "ag_cnn": {"width": 4},
    "browse_focus": {"width": 8},
    "stacked_autoencoder": {"grid": 12},
    "deep_belief": {"grid": 12},
}
"""Of volumes, laid over `cohortex.models.classify.SMALL`: a step takes a few tenths of a second."""

FINDER: dict[str, Any] = {
    "backbone": [8, 16, 32, 64],
    "filters": 32,
    "convs": 2,
    "hidden": 64,
    "proposals": 30,
    "sampled_anchors": 64,
    "sampled_boxes": 32,
}
"""Options of networks that recognise, of those that they have."""

OF_PATCHES: dict[str, dict[str, Any]] = {"patch_detector": {"filters": [8, 16]}, "cascade": {"filters": 8}}
"""Of those that look at patches, laid over these."""

FOUND = {"demo": {"6": "lesion"}, "pictures": {str(number + 1): kind for number, kind in enumerate(TUMOURS)}}
OVERLAP = {"demo": 0.3, "pictures": 0.5}
"""From which a box is right; slices at the edge of a simulated tumour show little of it."""


def classifiers(cohort: str) -> list[dict[str, Any]]:
    """Return every network of the registry that tells classes of such images apart, as a candidate of the bake-off."""
    dimensions, found = len(SEEN[cohort]), []
    for entry in registry.entries("classify"):
        either = "dimensions" in entry.options
        if "classes" not in entry.options or not (either or entry.expects.dimensions == dimensions):
            continue
        options = {**SMALL.get(entry.name, {}), **(SHALLOW.get(entry.name, {}) if dimensions == 3 else {})}
        found.append({entry.name: {"network": {"name": entry.name, "options": options}}})
    return found


def finders() -> list[dict[str, Any]]:
    """Return every network of the registry that recognises as a candidate of the bake-off, for pictures."""
    found = []
    for entry in registry.entries("recognize"):
        # what another network means by the same word is left alone
        options = {key: value for key, value in FINDER.items() if type(entry.options.get(key)) is type(value)}
        training = {"batch": 8, "rate": 2e-3, "options": {**options, **OF_PATCHES.get(entry.name, {})}}
        found.append({entry.name: {"network": entry.name, "training": training}})
    return found


def sections(task: str, cohort: str) -> dict[str, Any]:
    """Return what the section of the stage says: what the truth is, what a classifier sees and how it learns."""
    if task == "recognize":
        return {"labels": FOUND[cohort], "modality": "T1w"}
    seen = {"size": SEEN[cohort], "spacing_mm": None}
    return {"target": "diagnosis", "modalities": ["T1w"], "parts": ["cnn"], "input": seen, "training": TAUGHT}
