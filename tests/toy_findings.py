"""Small made-up images with bright and dark balls, and the labels of these, for the tests of recognition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cohortex.items import Image
from cohortex.volume import Volume

SPACING = (1.0, 1.0, 2.0)


def scene(
    seed: int, shape: tuple[int, int, int] = (48, 56, 12), things: int | None = None, kinds: int = 1
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, ...]]]:
    """Return an image (noise of deviation 1 on a disc of 10), labels and corners of its balls, which do not touch.

    Kind 1 is bright, kind 2 is dark; a picture (x, y, 1) has discs.
    """
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    inside = sum(((g - (n - 1) / 2) / (0.5 * n)) ** 2 for g, n in zip(grid[:2], shape[:2], strict=True)) < 1
    image = np.where(inside, 10.0, 0.0) + rng.normal(0, 1, shape) * inside
    labels = np.zeros(shape, np.uint8)
    corners = []
    for _ in range(int(rng.integers(1, 4)) if things is None else things):
        for _attempt in range(50):
            radius = rng.uniform(3.5, 6.0)
            middle = [n / 2 + rng.uniform(-0.28, 0.28) * n for n in shape[:2]] + [rng.uniform(0.3, 0.7) * (shape[2] - 1)]
            steps = SPACING if shape[2] > 1 else (1.0, 1.0, 1.0)
            away = sum(((g - m) * s) ** 2 for g, m, s in zip(grid, middle, steps, strict=True))
            if not labels[away < (radius + 3) ** 2].any():
                break
        else:
            continue
        ball = away < radius**2
        kind = int(rng.integers(1, kinds + 1))
        image[ball] += 8.0 if kind == 1 else -7.0
        labels[ball] = kind
        places = np.argwhere(ball)
        corners.append((kind, *places.min(axis=0).tolist(), *(places.max(axis=0) + 1).tolist()))
    return image.astype(np.float32), labels, corners


def pair(
    subject: str, seed: int, shape: tuple[int, int, int] = (48, 56, 12), split: str = "train", site: str = "", **how: int
) -> list[Image]:
    """Return an image and its labels as a stage is given them."""
    image, labels, _ = scene(seed, shape, **how)
    affine = np.diag([*(SPACING if shape[2] > 1 else (1.0, 1.0, 1.0)), 1.0])
    affine[:3, 3] = -20, 5, 7
    row = {"split": split, "site": site, "sha256": str(seed)}
    made = []
    for tag, array, kind in (("", image, "image"), ("+labels", labels, "labels")):
        volume = Volume(array, affine, "T2w", kind=kind, body_part="head")
        made.append(Image(f"{subject}_T2w{tag}", subject, "", "T2w", kind, kind, "head", row=row, opener=lambda volume=volume: volume))
    return made


def cohort(count: int = 10, held_out: int = 4, shape: tuple[int, int, int] = (48, 56, 1), first: int = 0, **how: int) -> list[Image]:
    """Return pairs of training subjects, then of validation subjects."""
    splits: Sequence[str] = ["train"] * count + ["validation"] * held_out
    return [each for i, split in enumerate(splits) for each in pair(f"{i:03d}", first + i, shape, split, **how)]
