"""A head with a face for the tests of `deface`: that of a demo subject on a coarse grid, with its truth."""

from __future__ import annotations

from functools import cache

import numpy as np

from cohortex.items import Image
from cohortex.volume import Volume

SETTINGS = {
    "weights": "zoo/regseg/any_contrast",
    "ears": False,
    "margin_mm": 8,
    "most_brain_percent": 5,
    "warn_brain_percent": 1.5,
    "most_face_percent": 25,
    "assume_body_part": "head",
}


@cache
def head(modality: str = "CT", step_mm: float = 3.0) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Return a head in the axes of the template, its true labels, and its pose (template's world to the scan's)."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    rng = np.random.default_rng(4)
    person = make_head({"diagnosis": "control", "age": 40.0}, rng)
    pose = np.eye(4)
    turn = np.deg2rad(8)
    pose[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    pose[:3, 3] = 12, -20, 30
    shape = (int(216 / step_mm), int(264 / step_mm), int(234 / step_mm))
    affine = np.diag([step_mm] * 3 + [1.0])
    affine[:3, 3] = pose[:3, 3] + (-108, -140, -128)
    contrast = ct_contrast(rng) if modality == "CT" else mr_contrast(rng)
    values, labels = paint(person, affine, shape, contrast, pose)
    return Volume(values.astype(np.float32), affine, modality, body_part="head"), labels, pose


def image(volume: Volume, name: str = "1_x", body_part: str = "head") -> Image:
    """Return a volume as a stage is given it."""
    return Image(name, "1", "", volume.modality, "image", body_part=body_part, opener=lambda: volume)
