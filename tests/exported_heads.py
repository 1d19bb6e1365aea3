"""Gives a cohort that never ran (`tests.fake_cohort`) the volumes that its export would have left."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cohortex.io.nifti import write_nifti
from cohortex.publish import file_sha256
from cohortex.records import write_manifest
from cohortex.tables import read_table
from cohortex.volume import Volume
from tests.fake_cohort import anatomy

OBLIQUE = np.array([[1.98, 0.28, 0, -90], [-0.28, 1.98, 0.05, -110], [0.01, -0.05, 2.0, -70], [0, 0, 0, 1]])
"""About 2 mm, turned by 8 degrees."""
MARK = 3.0
"""Value of a cube at the patient's right, in front of the middle and above it: an image that is turned or mirrored shows it elsewhere."""


def small_head(shape: tuple[int, int, int] = (24, 30, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Return a ball with a mark in it, and labels of both."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    ball = x**2 + y**2 + z**2 < 0.8
    mark = (np.abs(x - 0.4) < 0.2) & (np.abs(y - 0.3) < 0.2) & (np.abs(z - 0.2) < 0.2)
    return np.where(mark, MARK, np.where(ball, 1 + 0.2 * x, 0)).astype(np.float32), np.where(mark, 6, np.where(ball, 3, 0)).astype(np.uint8)


def brain() -> tuple[np.ndarray, np.ndarray]:
    """Return the MNI152 T1 at 2 mm with the mark in it, and its labels."""
    t1, labels, _ = anatomy()
    t1 = t1 + 0.6 * (labels == 5) + 0.2 * (labels == 4)
    t1[62:70, 70:80, 45:55], labels[62:70, 70:80, 45:55] = MARK, 6
    return t1.astype(np.float32), labels


def with_volumes(
    work: Path,
    results: Path,
    head: tuple[np.ndarray, np.ndarray] | None = None,
    affine: np.ndarray = OBLIQUE,
    ending: str = ".nii.gz",
    maps: bool = False,
) -> Path:
    """Write the volumes of every image in the records of the export, and what the records say of them; return the work folder.

    With `maps` each T1w has a map of uncertainty, too.
    """
    values, labels = head or small_head()
    shape, spacing = "x".join(map(str, values.shape)), "x".join(f"{n:.6g}" for n in np.linalg.norm(affine[:3, :3], axis=0))
    for path in sorted((work / "records" / "export").glob("*/manifest.tsv")):
        rows = read_table(path)
        for row in rows:
            if not row["path"]:
                continue
            kind = row["kind"]
            array = labels if kind == "labels" else values if row["modality"] != "CT" else values * 30
            place = f"sub-{row['subject']}/anat/{row['image'].replace('+', '_desc-')}{ending}"
            volume = Volume(array, affine, row["modality"], "labels" if kind == "labels" else "image", row["body_part"])
            (results / place).parent.mkdir(parents=True, exist_ok=True)
            if ending == ".ozx":
                from cohortex.io.ozx import write_ozx

                write_ozx(results / place, volume)
            else:
                write_nifti(results / place, volume)
            row |= {"exported": place, "exported_sha256": file_sha256(results / place), "shape": shape, "spacing_mm": spacing}
            if kind == "labels":
                row |= {"sources": row["image"].partition("+")[0], "entities": f"space={row['modality']};desc=regseg"}
        if maps:
            rows += [_doubted(row, values, affine, results) for row in rows if row["image"].endswith("_T1w") and row["path"]]
        write_manifest(path, rows)
    return work


def _doubted(row: dict[str, str], values: np.ndarray, affine: np.ndarray, results: Path) -> dict[str, str]:
    """Write a map of uncertainty that is high in the mark and nowhere else; return its row."""
    place = row["exported"].replace(".nii.gz", "_desc-uncertainty.nii.gz")
    write_nifti(results / place, Volume((values == MARK).astype(np.float32), affine, row["modality"]))
    more = {"sources": row["image"], "entities": "desc=uncertainty", "exported": place, "exported_sha256": file_sha256(results / place)}
    return {**row, "image": f"{row['image']}+uncertainty", **more}
