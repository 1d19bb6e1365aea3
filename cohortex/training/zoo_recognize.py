"""Train the shipped detector: the lesions of the demo's simulated heads, in their T1w.

    python -m cohortex.training.zoo_recognize --folder zoo/recognize/lesions

Heads are made as the demo makes them and painted on a grid of slices, with noise; the workflow's own training does the rest. The same
seed and steps give the same bytes on one kind of processor with one thread (OMP_NUM_THREADS=1). A training that was stopped goes on from
its checkpoint beside the folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.items import DEMO_SITE, Image
from cohortex.models.folder import read_model, write_model
from cohortex.threads import set_threads
from cohortex.training.team import changed_team
from cohortex.volume import Volume

SEED = 20261126
"""Heads of the demo (seed 7) and of the benchmarks have other seeds."""
HEADS = {"train": 32, "validation": 8}
SPACING_MM, SHAPE = (1.5, 1.5, 2.5), (104, 128, 40)
MIDDLE_MM = (0.0, -18.0, 18.0)
"""Of the grid: its slices hold the cerebral white matter, in which lesions lie."""
DIAGNOSES = ("lesions", "tumour", "lesions", "control")
"""Take turns."""
NOISE = (0.005, 0.03)
"""Deviation of the noise as a share of what is bright."""
SECTION: dict[str, Any] = {
    "default": {
        "network": "retinanet",
        "labels": {"6": "lesion"},
        "modality": "T1w",
        "training": {
            "steps": 1000,
            "minutes": 600.0,
            "batch": 8,
            "rate": 2e-3,
            "flip": [0],
            "augment": {"rotate_deg": 10.0, "gamma": 0.2, "scale": 0.15},
            "options": {"stem": 1, "first": 1, "further": 1, "filters": 32, "convs": 2},
        },
    }
}


CARD: dict[str, Any] = {
    "name": "recognize-demo-lesions",
    "data": "Simulated heads of the demo, T1w, axial slices of 1.5 x 1.5 x 2.5 mm with 0.5 to 3 % noise (cohortex.training.zoo_recognize): "
    "half with several small lesions, a quarter with a tumour, a quarter with neither.",
    "intended_use": "Boxes around the lesions and tumours of the demo's simulated heads in T1w: shows the stage at work, and starts tests.",
    "limits": "Knows simulated heads only; the stage does not ask it about a real scan. Lesions of 4 mm have three pixels along an axis "
    "and about as much contrast as the noise: small ones are missed.",
}


def painted_head(number: int, seed: int = SEED) -> tuple[Volume, Volume, str]:
    """Return the T1w of a head (x, y, z) float32, its labels uint8, in which 6 is a lesion, and its diagnosis.

    Parameters
    ----------
    number : int
        Decides everything with the seed; diagnoses take turns.
    seed : int
    """
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import mr_contrast

    rng = np.random.default_rng([seed, number])
    diagnosis = DIAGNOSES[number % len(DIAGNOSES)]
    head = make_head({"diagnosis": diagnosis, "age": rng.integers(25, 80)}, rng)
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = np.array(MIDDLE_MM) - (np.array(SHAPE) - 1) / 2 * SPACING_MM
    clean, labels = paint(head, affine, SHAPE, mr_contrast(rng), np.eye(4))
    noise = rng.uniform(*NOISE) * np.percentile(clean, 99.5) * rng.standard_normal(SHAPE)
    image = np.abs(clean + noise).astype(np.float32)
    return Volume(image, affine, "T1w", "image", "head"), Volume(labels.astype(np.uint8), affine, "T1w", "labels", "head"), diagnosis


def heads() -> Iterator[Image]:
    """Yield the images of all heads, each with its labels."""
    for number, split in enumerate(split for split, count in HEADS.items() for _ in range(count)):
        image, labels, _ = painted_head(number)
        subject = f"lesions{number:03d}"
        row = {"split": split, "sha256": f"{SEED}-{number}", "site": DEMO_SITE}
        for tag, kind, volume in (("", "image", image), ("+labels", "labels", labels)):
            yield Image(f"{subject}_T1w{tag}", subject, "", "T1w", kind, kind, "head", row=row, opener=lambda volume=volume: volume)


def main() -> None:
    """Train and write the model folder."""
    from cohortex.training.recognize import train_recognize

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("zoo/recognize/lesions"), help="the model folder that is written")
    options = parser.parse_args()
    set_threads(1)
    with changed_team(precision="bfloat16"):
        train_recognize(list(heads()), SECTION, SEED, "cpu", options.folder)
    card, tensors = read_model(options.folder)
    write_model(options.folder, {**card, **CARD}, tensors)


if __name__ == "__main__":
    main()
