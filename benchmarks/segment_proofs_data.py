"""What `benchmarks.segment_proofs` learns from and is tested on: heads, cells and spots, made from seeds.

Heads are the demo's anatomy, painted at 2.5 mm as T1w and as CT with noise of 3 % of the range. Cells are ellipses that touch, with a dark
rim and noise. Spots are discs on a texture whose class is their size, so that their surroundings have to be seen at several scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

SEED = 60606
SHAPE, SPACING_MM = (72, 88, 64), 2.5
CLASSES = 7


@dataclass(frozen=True)
class Case:
    """A volume or a picture, standardised float32, with its labels (uint8, 255: not labelled)."""

    image: np.ndarray
    labels: np.ndarray


def _standardised(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(np.float32)


def heads(folder: Path, split: str, count: int, contrast: str = "T1w") -> list[Case]:
    """Return heads of a split, which are painted once and kept in the folder."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = folder / f"{split}{number}.npz"
        if not path.is_file():
            rng = np.random.default_rng([SEED, ("train", "test").index(split), number])
            head = make_head({"diagnosis": ("control", "tumour", "lesions")[number % 3], "age": int(rng.integers(22, 85))}, rng)
            affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
            affine[:3, 3] = np.array([0.0, -12.0, 10.0]) + rng.uniform(-6, 6, 3) - SPACING_MM * (np.array(SHAPE) - 1) / 2
            made = {}
            for name, tissues in (("T1w", mr_contrast(rng)), ("CT", ct_contrast(rng))):
                values, made["labels"] = paint(head, affine, SHAPE, tissues, np.eye(4))
                if name == "CT":
                    values = np.clip(values, -200, 300)
                made[name] = _standardised(values + rng.normal(0, 0.03 * np.ptp(values), SHAPE).astype(np.float32))
            # an unfinished file has another name
            part = path.with_suffix(".part.npz")
            np.savez(part, **made)
            part.rename(path)
        with np.load(path) as kept:
            found.append(Case(kept[contrast], kept["labels"]))
    return found


def slices(cases: list[Case], step: int = 4) -> list[Case]:
    """Return axial slices of volumes."""
    return [Case(case.image[:, :, z], case.labels[:, :, z]) for case in cases for z in range(step // 2, case.image.shape[2], step)]


def rare(cases: list[Case]) -> list[Case]:
    """Return volumes with lesions alone as labels, one at least put in by hand, all together below 1 % of the volume."""
    made = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([SEED, 2, number])
        image, white = case.image.copy(), np.argwhere(ndi.binary_erosion(case.labels == 3, iterations=1))
        labels = np.zeros(image.shape, np.uint8)
        for _ in range(3):
            middle = white[int(rng.integers(len(white)))]
            away = np.sqrt(sum((np.arange(n) - m).reshape([-1 if a == axis else 1 for a in range(3)]) ** 2
                               for axis, (n, m) in enumerate(zip(image.shape, middle, strict=True))))  # fmt: skip
            labels[(away < rng.uniform(2.0, 4.0)) & (case.labels > 0)] = 1
        image[labels == 1] -= rng.uniform(0.5, 0.9)
        assert 0 < labels.mean() < 0.01
        made.append(Case(image, labels))
    return made


def cells(split: str, count: int, edge: int = 64) -> list[Case]:
    """Return pictures of ellipses that all but touch: labels 0 and 1, objects apart by a pixel or two of background."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([SEED, 3, ("train", "test").index(split), number])
        sites = rng.uniform(0, edge, (16, 2))
        y, x = np.indices((edge, edge))
        away = np.sort(np.hypot(*(np.stack([y, x])[:, None] - sites.T[:, :, None, None])), axis=0)
        # half way between two sites there is a gap; far away from all of them there is background
        inside = (away[1] - away[0] > 1.5) & (away[0] < 11)
        labels = np.asarray(ndi.binary_opening(inside)).astype(np.uint8)
        image = ndi.gaussian_filter(labels.astype(np.float32), 1.0) + rng.normal(0, 0.35, labels.shape)
        made.append(Case(_standardised(image), labels))
    return made


def spots(split: str, count: int, edge: int = 96) -> list[Case]:
    """Return pictures of discs of one brightness whose label is their size: 1 below 4 pixels of radius, 2 below 9, 3 above."""
    made = []
    for number in range(count):
        rng = np.random.default_rng([SEED, 4, ("train", "test").index(split), number])
        labels = np.zeros((edge, edge), np.uint8)
        y, x = np.indices(labels.shape)
        for radius, label in ((rng.uniform(12, 17), 3), (rng.uniform(5, 8), 2), (rng.uniform(5, 8), 2), *[(rng.uniform(2, 3.5), 1)] * 4):
            for _ in range(40):
                middle = rng.uniform(radius, edge - radius, 2)
                away = np.hypot(y - middle[0], x - middle[1])
                if not labels[away < radius + 3].any():
                    labels[away < radius] = label
                    break
        texture = ndi.gaussian_filter(rng.standard_normal(labels.shape), 2)
        image = (labels > 0) + 0.6 * texture / texture.std() * 0.5 + rng.normal(0, 0.25, labels.shape)
        made.append(Case(_standardised(image), labels))
    return made


def boundary_dice(true: np.ndarray, said: np.ndarray, classes: int, width: int = 1) -> float:
    """Return the mean Dice over labels within a band around the true borders, `width` voxels to either side."""
    size = 2 * width + 1
    band = ndi.maximum_filter(true, size) != ndi.minimum_filter(true, size)
    return mean_dice(true[band], said[band], classes)


def mean_dice(true: np.ndarray, said: np.ndarray, classes: int) -> float:
    """Return the mean Dice over the labels that are there."""
    from cohortex.measures.segmentation import dice, mean_of

    return mean_of(dice(true, said, range(1, classes)))


def separated(true: np.ndarray, said: np.ndarray) -> float:
    """Return the F1 of objects: those of both maps that overlap by an IoU of at least a half."""
    ours, count = ndi.label(true)  # pyright: ignore[reportGeneralTypeIssues]
    theirs, other = ndi.label(said)  # pyright: ignore[reportGeneralTypeIssues]
    joint = np.zeros((count + 1, other + 1), np.int64)
    np.add.at(joint, (ours.ravel(), theirs.ravel()), 1)
    union = joint.sum(1, keepdims=True) + joint.sum(0, keepdims=True) - joint
    matched = int((joint[1:, 1:] / union[1:, 1:] >= 0.5).sum())
    return 2 * matched / max(1, count + other)
