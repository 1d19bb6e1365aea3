"""What the proofs of super-resolution have in common: heads with and without a split, trainings of equal budgets, gains over the spline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.superresolve import demo_heads, loaded
from cohortex.demo.make import TRUTH
from cohortex.io.nifti import read_nifti
from cohortex.items import Image
from cohortex.measures.intervals import paired_interval
from cohortex.models.folder import Loaded
from cohortex.stages.superresolve import fed_by
from cohortex.training.superresolve import measured, train_superresolve
from cohortex.training.superresolve_pairs import Manner, degrade
from cohortex.volume import Volume

SEED = 31
TRAIN, TEST = 3, 4
"""Heads."""

EDGE, ACROSS = 72, 40
"""What of a head is looked at, in voxels; and of those for testing across the axis that plays the slice axis."""

SECOND = np.array([0.0, 1.0, 0.55, 0.4, 0.1, 0.45, 0.85])
"""Brightness of the labels in the reference contrast, which is like a T2w: fluid is bright."""

TRAINING = {"batch": 2, "patch": 16, "slices": 8, "around": 3, "rate": 2e-3}
"""Of all, where a row says nothing else."""


@dataclass(frozen=True)
class Data:
    """Heads to learn from, other ones to be tested on, and what was trained so far.

    Attributes
    ----------
    train, test : list of Image
        T1w and T2w.
    folder : Path
        Of the models.
    steps : float
        By what the steps of every training are multiplied.
    """

    train: list[Image]
    test: list[Image]
    folder: Path
    steps: float = 1.0

    @property
    def tested(self) -> list[Image]:
        """The T1w of the heads to be tested on."""
        return [image for image in self.test if image.modality == "T1w"]

    def trained(self, name: str, factors: float | Sequence[float], steps: int, options: Mapping[str, Any], **training: Any) -> Loaded:
        """Return a model of a system: trained, or taken from the folder where another row has trained the same."""
        low, high = (factors, factors) if isinstance(factors, int | float) else factors
        further = {**TRAINING, **training, "steps": max(1, round(steps * self.steps))}
        settings = settings_of(name, options, (low, high), further)
        folder = self.folder / f"{name}-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}"
        if not folder.is_dir():
            seen = ("T1w", "T2w") if "reference" in options.get("inputs", ()) else ("T1w",)
            train_superresolve([image for image in self.train if image.modality in seen], {"default": settings}, SEED, "cpu", folder)
        return loaded(folder)

    def gains(self, model: Loaded, factor: float, manner: Manner | None = None) -> np.ndarray:
        """Return the dB over the cubic spline of every head that is tested on."""
        settings = settings_of(model.card["network"], model.card["options"], (factor, factor), {})
        manner = manner or Manner()
        rows = [measured(model.network, fed_by(model), image, self.test, settings, factor, manner, "cpu") for image in self.tested]
        return np.array([made - plain for made, plain, _ in rows])

    def unit(self, factor: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Return of every head that is tested on the truth, its slices and the spline through them, about 0..1, slice axis last."""
        found = []
        for image in self.tested:
            array = image.volume.array(np.float32)
            array = array[: array.shape[0] // round(factor) * round(factor)] / np.float32(np.percentile(array, 99.5))
            slices, start = degrade(array, 0, factor, Manner())
            truth, lines, fine = (np.ascontiguousarray(np.moveaxis(each, 0, 2)) for each in (array, slices, start))
            found.append((truth, lines, fine))
        return found


def settings_of(name: str, options: Mapping[str, Any], factors: tuple[float, float], training: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section's settings for a system."""
    further = {"options": dict(options), "factors": list(factors), "minutes": 600.0}
    return {"method": name, "reference": "T2w", "training": {**training, **further}}


def data(folder: Path, version: str, steps: float = 1.0) -> Data:
    """Return heads in cubes of 1.5 mm: a T1w, and a second contrast of the same grid made from the labels.

    Models lie in a folder of the `version` of the code.
    """
    images = demo_heads(folder / "heads", TRAIN + TEST, SEED, "proof")
    train: list[Image] = []
    test: list[Image] = []
    for index, image in enumerate(images):
        kept, split, across = (train, "train", EDGE) if index < TRAIN else (test, "test", ACROSS)
        labels = read_nifti(folder / "heads" / TRUTH / image.subject / "labels_T1w_iso.nii.gz")
        rng = np.random.default_rng([SEED, index])
        bright = SECOND[np.clip(labels.array().astype(int), 0, 6)] * 500
        second = labels.with_data((bright + rng.normal(0, 5, bright.shape)).astype(np.float32), kind="image", modality="T2w")
        other = replace(image, id=f"{image.subject}_T2w", modality="T2w", opener=lambda volume=second: volume)
        kept += [replace(each, row={"split": split}, opener=partial(middle, each, across)) for each in (image, other)]
    return Data(train, test, folder / "models" / version, steps)


def middle(image: Image, across: int) -> Volume:
    """Return the middle of a head: `EDGE` voxels along the first axis, `across` along the others."""
    volume = image.volume
    sizes = [(n, min(n, size)) for n, size in zip(volume.shape, (EDGE, across, across), strict=True)]
    return volume.with_data(volume.data[tuple(slice((n - size) // 2, (n - size) // 2 + size) for n, size in sizes)])


def over(better: np.ndarray, than: np.ndarray | float = 0.0) -> tuple[float, float, float]:
    """Return the mean difference of two rows of gains and its 95 % interval over heads."""
    return paired_interval(better, np.broadcast_to(than, better.shape))


def told(name: str, gains: np.ndarray, than: np.ndarray | float | None = None) -> str:
    """Return a figure: the mean of gains, and by how much they are more than others."""
    words = f"{name} {gains.mean():+.2f} dB"
    if than is None:
        return words
    mean, low, high = over(gains, than)
    return f"{words}, {mean:+.2f} [{low:+.2f}, {high:+.2f}] more"
