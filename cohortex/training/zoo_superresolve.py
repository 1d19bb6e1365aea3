"""Train the shipped network of stage `superresolve`, for any factor from 2 to 6 and any contrast.

    python -m cohortex.training.zoo_superresolve --folder zoo/superresolve/subslice [--scans ../shared/data] [--work build/zoo-superresolve]

It learns from simulated heads and from a fixed list of openly licensed scans; other subjects of these collections, of which it learns
nothing, give the metrics of its card. The same scans, seed and steps give the same bytes on one kind of processor with one thread. A
training that was stopped goes on from its checkpoint in the work folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.demo.make import TRUTH, make_demo
from cohortex.demo.table import demo_rows
from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.folder import read_model, write_model
from cohortex.training.superresolve import train_superresolve
from cohortex.training.team import changed_team
from cohortex.volume import Volume

NETWORK = "subslice"
SEED = 20261126
TRAINING: dict[str, Any] = {
    "steps": 6000, "minutes": 600.0, "batch": 4, "patch": 14, "slices": 8, "factors": [1.5, 6.0], "remap": True, "even": True,
}  # fmt: skip
HEADS = {"subjects": 6, "seed": 4711, "prefix": "zoo", "split": {"train": 0.5, "validation": 0.5, "test": 0}}
"""Simulated heads, half of them for validation."""

MULTIMODAL, LONGITUDINAL = "brain-ms-multimodal/patient07", "brain-ms-longitudinal"
SCANS: dict[str, tuple[tuple[str, str, str, str, str], ...]] = {
    "train": (
        *(("ms07", name, modality, "head", f"{MULTIMODAL}/{file}.nii.gz")
          for name, modality, file in (("", "FLAIR", "FLAIR"), ("", "T1w", "T1"), ("post", "T1w", "T1post"), ("", "T2w", "T2"))),
        *(("ms01", f"visit{visit}", modality, "head", f"{LONGITUDINAL}/patient01/raw/study{visit}_{file}.nii.gz")
          for visit in (1, 2) for modality, file in (("FLAIR", "FLAIR"), ("T1w", "T1W"), ("T2w", "T2W"))),
        ("abdomen", "", "CT", "abdomen", "abdomen-ct-mr/example_ct.nii.gz"),
        ("cord", "", "T1w", "spine", "spinal-cord-mr/t1/t1w.nii.gz"),
        ("cord", "", "T2w", "spine", "spinal-cord-mr/t2/t2.nii.gz"),
    ),
    "validation": (
        ("t1labels", "", "T1w", "head", "brain-t1-labels/subject_a.npz"),
        *(("ms20", "visit2", modality, "head", f"{LONGITUDINAL}/patient20/raw/study2_{file}.nii.gz")
          for modality, file in (("FLAIR", "FLAIR"), ("T1w", "T1W"))),
        ("tumour", "post", "T1w", "head", "lesion-nrrd/brain1_image.nrrd"),
    ),
}  # fmt: skip
"""Subject, what else names the scan, modality, body part and file below the folder of scans; no subject is in both parts."""

SOURCES = (
    "open_ms_data (Laboratory of Imaging Technologies, University of Ljubljana; Lesjak et al. 2016, 2018), brains of two patients in T1w, "
    "T2w and FLAIR, CC BY; TotalSegmentator's example CT, Apache-2.0; a cervical cord of sct_testing_data, MIT; simulated heads of the demo"
)


def scans(folder: Path) -> list[Image]:
    """Return the real scans, their contents unread.

    Raises
    ------
    Refused
        When one of them is not there.
    """
    images = []
    for split, rows in SCANS.items():
        for subject, name, modality, body_part, file in rows:
            path = folder / file
            if not path.exists():
                raise Refused(f"{file} is not below the folder of scans; give a folder that holds them with --scans.")
            images.append(image_at(subject, name, modality, body_part, split, path, {"source": file}))
    return images


def heads(work: Path) -> list[Image]:
    """Return simulated heads without noise, made where they are not there yet: the T1w in cubes of 1.5 mm, the CT in its thick slices."""
    rows = demo_rows(HEADS)[0]
    make_demo(rows, work, int(HEADS["seed"]), 1)
    files = {"T1w": "T1w_truth", "CT": "CT_clean"}
    return [
        image_at(
            row["subject"], "", row["modality"], "head", row["split"], work / TRUTH / row["subject"] / f"{files[row['modality']]}.nii.gz"
        )
        for row in rows
    ]


def image_at(subject: str, name: str, modality: str, body_part: str, split: str, path: Path, row: Mapping[str, str] | None = None) -> Image:
    """Return an image whose content is read from a file when it is asked for: NIfTI, NRRD, or an .npz with the array ``vol`` in mm."""

    def read() -> Volume:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return Volume(file["vol"].astype(np.float32), np.eye(4), modality=modality, body_part=body_part)
        from cohortex.io import read as read_image

        return dataclasses.replace(read_image(path)[0], modality=modality, body_part=body_part)

    parts = [part for part in (subject, name, modality) if part]
    facts = {"split": split, **(row or {})}
    return Image("_".join(parts), subject, name, modality, "image", body_part=body_part, row=facts, opener=read)


def train(folder: Path, data: Path, work: Path, training: Mapping[str, Any], seed: int = SEED) -> dict[str, Any]:
    """Train, leave the model folder, and return its card."""
    images = [*scans(data), *heads(work / "heads")]
    section = {"default": {"method": NETWORK, "training": dict(training)}}
    made = work / "model"
    # Computed in bfloat16, kept in float32: a training on a CPU takes half the time.
    with changed_team(precision="bfloat16"):
        train_superresolve(images, section, seed, "cpu", made)
    card, tensors = read_model(made)
    changed = {
        **{key: value for key, value in card.items() if key != "sha256"},
        "modality": ["any"],
        "body_part": ["any"],
        "spacing_mm": {"min": 0.1, "max": 15.0},
        "data": SOURCES,
        "simulated": False,
        "intended_use": "Adds through-plane detail to thick slices of MR and CT, by any factor from 1.5 to 6, on top of the spline.",
        "limits": (
            "Brains of two patients, one abdomen, one cord and simulated heads taught it: elsewhere it was not tested. For viewing, "
            "registration and segmentation, not for finding what is thinner than a slice; detail is estimated."
        ),
    }
    write_model(folder, changed, tensors)
    return changed


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model folder to be written")
    parser.add_argument("--scans", type=Path, default=Path("../shared/data"), help="folder with the real scans")
    parser.add_argument("--work", type=Path, default=Path("build/zoo-superresolve"), help="simulated heads and checkpoints")
    parser.add_argument("--steps", type=int, default=TRAINING["steps"])
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from cohortex.threads import set_threads

    set_threads(1)
    card = train(given.folder, given.scans, given.work, {**TRAINING, "steps": given.steps})
    for metric in card["metrics"]:
        logging.getLogger("cohortex").info("%s %s [%s, %s] %s", *(metric[key] for key in ("name", "value", "low", "high", "on")))


if __name__ == "__main__":
    main()
