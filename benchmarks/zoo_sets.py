"""Cohorts and candidates of the bake-offs of classification and recognition: simulated heads and pictures of brain tumours.

The heads are those of the demo, painted on a coarse grid; each has a diagnosis (none, a tumour, several small lesions) and labels. The
pictures (``brain-tumour-2d``) have a kind of tumour each and a box around it. Their patients are not told apart, but follow each other:
ten slices in a row are one subject here, and of each kind a subject between two splits is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
HEADS = {"train": 32, "validation": 16, "test": 24}
COLUMNS = ("subject", "run", "modality", "path", "body_part", "role", "site", "split", "diagnosis")

PICTURES = "brain-tumour-2d"
TUMOURS = ("pituitary", "meningioma", "glioma")
BLOCK, STEP = 10, 2
"""Slices in a row that are one subject, and of which every second is taken."""
DEALT = {"train": (0, 12), "validation": (13, 16), "test": (17, 20)}
"""Subjects of each kind, of twenty."""

# --- cohorts -----------------------------------------------------------------------------------------------------


def head_affine() -> np.ndarray:
    """Return the affine of all heads, (4, 4) in mm: the cerebrum fills the grid."""
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = np.array([0.0, -18.0, 8.0]) - (np.array(SHAPE) - 1) / 2 * SPACING_MM
    return affine


def head(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the T1w of a head, (x, y, z) float32 with 3 % noise, and its labels, (x, y, z) uint8; diagnoses take turns."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import mr_contrast

    rng = np.random.default_rng([SEED, number])
    made = make_head({"diagnosis": DIAGNOSES[number % len(DIAGNOSES)], "age": rng.integers(25, 80)}, rng)
    clean, labels = paint(made, head_affine(), SHAPE, mr_contrast(rng), np.eye(4))
    noise = 0.03 * np.percentile(clean, 99.5) * rng.standard_normal(SHAPE)
    return np.abs(clean + noise).astype(np.float32), labels


def heads_table(folder: Path) -> Path:
    """Write the heads with their labels and the table of the cohort; what is there already stays."""
    (folder / "heads").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, ...]] = []
    for number, split in enumerate(split for split, count in HEADS.items() for _ in range(count)):
        files = {role: folder / "heads" / f"{number:03d}_{role}.nii" for role in ("image", "labels")}
        if not all(file.is_file() for file in files.values()):
            for file, array in zip(files.values(), head(number), strict=True):
                image = nib.Nifti1Image(array, head_affine())
                image.header.set_xyzt_units("mm")
                nib.save(image, file)
        diagnosis = DIAGNOSES[number % len(DIAGNOSES)]
        rows += [(f"head{number:03d}", "", "T1w", str(file), "head", role, DEMO_SITE, split, diagnosis) for role, file in files.items()]
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
}
"""Of volumes, laid over `cohortex.models.classify.SMALL`: a step takes a few tenths of a second."""

FINDERS: dict[int, dict[str, Any]] = {
    2: {"backbone": [8, 16, 32, 64], "filters": 32, "convs": 2, "hidden": 64, "proposals": 30, "sampled_anchors": 64, "sampled_boxes": 32},
    3: {"backbone": [8, 16, 32], "filters": 16, "convs": 2, "hidden": 32, "proposals": 20, "sampled_anchors": 64, "sampled_boxes": 16},
}
"""Options of networks that recognise pictures and volumes, of those that they have."""

PATCHES: dict[int, dict[str, dict[str, Any]]] = {
    2: {"patch_detector": {"filters": [8, 16]}, "cascade": {"filters": 8}},
    3: {
        "patch_detector": {"patch": 16, "filters": [8, 16]},
        "cascade": {"patch": 16, "screening": [4, 8], "contexts": [8, 12, 16], "filters": 8},
    },
}
"""Of those that look at patches, laid over these."""

FOUND = {"demo": {"6": "lesion"}, "pictures": {str(number + 1): kind for number, kind in enumerate(TUMOURS)}}
OVERLAP = {"demo": 0.1, "pictures": 0.5}
"""From which a box is right: in volumes a shift along each of three axes multiplies."""


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


def finders(cohort: str) -> list[dict[str, Any]]:
    """Return every network of the registry that recognises as a candidate of the bake-off."""
    dimensions, found = len(SEEN[cohort]), []
    for entry in registry.entries("recognize"):
        # what another network means by the same word is left alone
        options = {key: value for key, value in FINDERS[dimensions].items() if type(entry.options.get(key)) is type(value)}
        options |= PATCHES[dimensions].get(entry.name, {})
        found.append({entry.name: {"network": entry.name, "training": {"options": options}}})
    return found


def sections(task: str, cohort: str) -> dict[str, Any]:
    """Return what the section of the stage says: what the truth is, what a classifier sees and how it learns."""
    if task == "recognize":
        return {"labels": FOUND[cohort], "modality": "T1w"}
    seen = {"size": SEEN[cohort], "spacing_mm": None}
    return {"target": "diagnosis", "modalities": ["T1w"], "parts": ["cnn"], "input": seen, "training": TAUGHT}
