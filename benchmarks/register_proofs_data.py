"""What the proofs of registration have in common: simulated heads on one grid, pairs of them, trainings that are kept, measures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.registration_data import scaled
from cohortex.demo.anatomy import make_head, paint
from cohortex.demo.tissues import mr_contrast
from cohortex.measures.segmentation import dice, mean_of
from cohortex.models.folder import load_network
from cohortex.models.regseg.affine import rotation
from cohortex.registration import gauss_newton
from cohortex.registration.fields import warped
from cohortex.training.register import displaced, folded_percent, inverse_error, moved_labels, train_on_pairs
from cohortex.training.register_data import BEND, ImagePair, random_displacement, with_classical

SEED = 71
SPACING_MM, SHAPE = 5.0, (32, 48, 32)
TRAIN, TEST = 10, 4
"""Heads; every ordered pair of different ones is a pair."""
NOISE = 0.02
LABELS = (1, 2, 3, 4, 5)
"""Fluid, grey matter, white matter, bone, soft tissue; there are no lesions."""

Way = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""A registration: fixed and moving image to the displacement in voxels."""


@dataclass(frozen=True)
class Scores:
    """How a registration does on some pairs: means over the pairs.

    Attributes
    ----------
    dice, observed, held_out : float
        Of all labels, of those that the training with labels saw, and of the others.
    folding : float
        Percent of the voxels of the grid.
    apart : float
        Voxels by which the way there and back misses its start, inside the heads; NaN where only one direction was asked for.
    error : float
        Voxels by which it misses the true displacement, inside the heads; NaN where there is none.
    seconds : float
        CPU seconds a pair, the median.
    """

    dice: float
    observed: float
    held_out: float
    folding: float
    apart: float
    error: float
    seconds: float

    def told(self, name: str, *what: str) -> dict[str, float]:
        """Return some of the measures as figures of a system."""
        return {f"{name} {each}": float(getattr(self, each)) for each in what}


OBSERVED = (1, 3, 4)
"""Labels that the training with labels sees."""


@dataclass(frozen=True)
class Data:
    """Heads, pairs and trained networks.

    Attributes
    ----------
    folder : Path
        Of the trained networks; what is there is not made again.
    steps : float
        A multiple of the steps of every training.
    """

    folder: Path
    steps: float = 1.0
    found: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def heads(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Image within 0 and 1 and labels of every head, those that are learnt from first."""
        file = self.folder / "heads.npz"
        if not file.is_file():
            made = [_head(number) for number in range(TRAIN + TEST)]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, images=np.stack([a for a, _ in made]), labels=np.stack([b for _, b in made]))
        with np.load(file) as held:
            return list(zip(held["images"], held["labels"], strict=True))

    @cached_property
    def train(self) -> list[ImagePair]:
        """Pairs of different heads that are learnt from."""
        return self._pairs(range(TRAIN))

    @cached_property
    def test(self) -> list[ImagePair]:
        """Pairs of different heads that no training saw."""
        return self._pairs(range(TRAIN, TRAIN + TEST))

    def _pairs(self, which: Sequence[int]) -> list[ImagePair]:
        pairs = []
        for a, b in permutations(which, 2):
            (fixed, one), (moving, two) = self.heads[a], self.heads[b]
            pairs.append(ImagePair(fixed, moving, (one, two), None, f"head {a}"))
        return pairs

    def bent(self, bend: Mapping[str, float], number: int = 1) -> list[ImagePair]:
        """Return the test pairs with the moving image displaced further at random."""
        rng = np.random.default_rng([SEED, 5, number])
        return [_further(pair, random_displacement(SHAPE, rng, {**BEND, **bend})) for pair in self.test]

    def simulated(self, bend: Mapping[str, float], number: int = 2, count: int = 8) -> list[ImagePair]:
        """Return pairs of a test head and the same head displaced at random, with noise of its own; the displacement is known."""
        rng = np.random.default_rng([SEED, 6, number])
        pairs = []
        for place in range(count):
            image, labels = self.heads[TRAIN + place % TEST]
            truth = random_displacement(SHAPE, rng, {**BEND, **bend})
            fixed = warped(image, truth) + NOISE / 2 * rng.standard_normal(SHAPE, dtype=np.float32)
            pairs.append(ImagePair(fixed.clip(0, 1), image, (moved_labels(labels, truth), labels), truth, f"head {TRAIN + place % TEST}"))
        return pairs

    @cached_property
    def classical_train(self) -> list[ImagePair]:
        """The training pairs, with what Gauss-Newton finds."""
        return with_classical(self.train, SPACING_MM)

    def trained(self, network: str, steps: int, options: Mapping[str, Any] | None = None, **training: Any) -> nn.Module:
        """Return a network that was trained on the training pairs, trained now where it is not there yet."""
        training = {"contrast": False, "optimiser": "muon", **training, "steps": max(1, round(steps * self.steps))}
        settings = {"network": {"name": network, "options": dict(options or {})}, "training": training}
        words = json.dumps([settings, SEED, SHAPE, TRAIN], sort_keys=True)
        folder = self.folder / f"{network}-{sha256(words.encode()).hexdigest()[:12]}"
        if not (folder / "card.yaml").is_file():
            began = time.monotonic()
            pairs = self.classical_train if training.get("examples") == "classical" else self.train
            curves = train_on_pairs(pairs, settings, SEED, "cpu", folder, SPACING_MM, simulated=True)
            losses = ", ".join(f"{value:.3g}" for value in (curves.loss[0], curves.loss[-1]))
            print(f"{folder.name}: {curves.steps} steps, {time.monotonic() - began:.0f} s, loss {losses}", flush=True)
        return load_network(folder, part="register")

    def scored(self, way: Way, pairs: Sequence[ImagePair], both: bool = False, kept: str = "") -> Scores:
        """Return how a registration does; `both` asks for the other direction, too; `kept` names what is measured only once."""
        file = self.folder / f"{kept}.json"
        if kept and file.is_file():
            return Scores(**json.loads(file.read_text()))
        rows: list[list[float]] = []
        for pair in pairs:
            assert pair.labels is not None
            start = time.process_time()
            flow = way(pair.fixed, pair.moving)
            seconds = time.process_time() - start
            body = pair.labels[0] > 0
            each = dice(pair.labels[0], moved_labels(pair.labels[1], flow))
            error = np.nan if pair.displacement is None else float(np.linalg.norm(flow - pair.displacement, axis=0)[body].mean())
            apart = float(inverse_error(flow, way(pair.moving, pair.fixed))[body].mean()) if both else np.nan
            parts = [mean_of({k: v for k, v in each.items() if k in chosen}) for chosen in (LABELS, OBSERVED, set(LABELS) - set(OBSERVED))]
            rows.append([*parts, folded_percent(flow), apart, error, seconds])
        every, observed, held_out, folding, apart, error, _ = np.mean(rows, axis=0).tolist()
        found = Scores(every, observed, held_out, folding, apart, error, float(np.median([row[-1] for row in rows])))
        if kept:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(vars(found)))
        return found


def by(network: nn.Module) -> Way:
    """Return a network as a registration."""
    return lambda fixed, moving: displaced(network, fixed, moving)


def nothing(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Return the displacement that moves nothing."""
    return np.zeros((3, *fixed.shape), np.float32)


def by_gauss_newton(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Register by the stage's own classical engine."""
    return gauss_newton.register(fixed, moving, None, SPACING_MM).displacement


def _head(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a simulated head's image with noise, in a pose that an affine start leaves, and its labels."""
    rng = np.random.default_rng([SEED, number])
    head = make_head({"diagnosis": "control", "age": int(rng.integers(22, 85))}, rng)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = np.array([0.0, -10.0, 20.0]) - SPACING_MM * (np.array(SHAPE) - 1) / 2
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation(rng.normal(0, 2, 3).tolist()), rng.normal(0, 1.5, 3)
    values, labels = paint(head, affine, SHAPE, mr_contrast(rng), pose, parts=(4, 4, 4))
    image = scaled(values) + NOISE * rng.standard_normal(SHAPE, dtype=np.float32)
    return image.clip(0, 1), np.where(labels > max(LABELS), 0, labels).astype(np.uint8)


def _further(pair: ImagePair, displacement: np.ndarray) -> ImagePair:
    assert pair.labels is not None
    labels = pair.labels[0], moved_labels(pair.labels[1], displacement)
    return replace(pair, moving=warped(pair.moving, displacement), labels=labels)
