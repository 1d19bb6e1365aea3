"""Small heads with two kinds of lesions, for the tests of the classifiers."""

from collections.abc import Sequence

import numpy as np

from cohortex.items import Image
from cohortex.volume import Volume

KINDS = ("control", "many", "one")


def head(seed: int, kind: str, size: int = 32, step: float = 5.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a T1w, a CT (HU) and the labels of a head: `one` large bright lesion, `many` small dark ones, or none."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1).astype(float)
    centre = np.full(3, (size - 1) / 2) + rng.uniform(-1, 1, 3)
    radius = np.linalg.norm((grid - centre) / rng.uniform(0.9, 1.1, 3), axis=-1) * 160 / size
    labels = np.zeros((size,) * 3, np.uint8)
    for limit, label in ((78, 5), (72, 4), (66, 1), (60, 2), (45, 3), (12, 1)):
        labels[radius < limit] = label
    count, width = {"control": (0, 0.0), "many": (9, 7.0), "one": (1, 17.0)}[kind]
    for _ in range(count):
        direction = rng.normal(size=3)
        spot = centre + direction / np.linalg.norm(direction) * rng.uniform(20, 38) * size / 160
        near = np.linalg.norm(grid - spot, axis=-1) * 160 / size < width * rng.uniform(0.85, 1.15)
        labels[near & (labels > 0)] = 6
    t1w = np.array([0, 30, 70, 100, 10, 60, 130 if kind == "one" else 45], np.float32)[labels] * rng.uniform(0.7, 1.4)
    ct = np.array([-1000, 8, 38, 28, 900, 40, 60 if kind == "one" else 18], np.float32)[labels]
    return t1w + rng.normal(0, 4, t1w.shape).astype(np.float32), ct + rng.normal(0, 8, ct.shape).astype(np.float32), labels


def subject(name: str, seed: int, kind: str, parts: Sequence[str] = ("T1w", "CT", "seg", "warped"), **row: str) -> list[Image]:
    """Return a subject's images as the stage regseg would leave them; `parts` says which there are."""
    t1w, ct, labels = head(seed, kind)
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = -80
    facts = {"site": "demo-simulator", "split": "train", "label": kind, **row}

    def image(tag: str, modality: str, data: np.ndarray, volume_kind: str = "image") -> Image:
        volume = Volume(data, affine, modality, volume_kind, "head")  # type: ignore[arg-type]
        role = "labels" if volume_kind == "labels" else "image"
        return Image(f"{name}_{tag}", name, "", modality, volume_kind, role, "head", row=facts, opener=lambda: volume)

    every = {
        "T1w": [image("T1w", "T1w", t1w)],
        "CT": [image("CT", "CT", ct)],
        "seg": [image(f"{m}+seg", m, labels, "labels") for m in ("T1w", "CT") if m in parts],
        "warped": [image("CT+warped", "CT", ct)] if "CT" in parts else [],
    }
    return [each for part in parts for each in every[part]]
