"""Trains the twins of `benchmarks.segment_proofs`, and applies them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.segment_proofs_data import SEED, Case, boundary_dice, cells, heads, mean_dice, rare, slices, spots
from cohortex.measures.intervals import paired_interval
from cohortex.models import registry
from cohortex.training.loop import fit, fresh
from cohortex.training.segment import objective_of

Answer = Callable[[Case], np.ndarray]


@dataclass(frozen=True)
class Trained:
    """A network that learned, and the CPU seconds that it took."""

    network: nn.Module
    seconds: float

    def logits(self, case: Case) -> torch.Tensor:
        """Return the logits (1, classes, ...) of a case."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(torch.from_numpy(case.image)[None, None])

    def __call__(self, case: Case) -> np.ndarray:
        """Return the labels of a case."""
        return self.logits(case)[0].argmax(0).numpy().astype(np.uint8)

    def seconds_each(self, cases: Sequence[Case]) -> float:
        """Return the least CPU seconds of a case, of three times through all."""
        self(cases[0])
        runs = []
        for _ in range(3):
            start = time.process_time()
            for case in cases:
                self(case)
            runs.append(time.process_time() - start)
        return min(runs) / len(cases)


@dataclass
class Data:
    """The cases, and networks that are trained when they are first asked for; both are kept in a folder."""

    folder: Path
    steps: float = 1.0
    kept: dict[str, Any] = field(default_factory=dict)

    def train(self, kind: str) -> list[Case]:
        """Return what is learnt from: T1w, CT, slices, rare, cells, spots or patterns."""
        return self._cases(kind, "train")

    def test(self, kind: str) -> list[Case]:
        """Return what is tested on."""
        return self._cases(kind, "test")

    def _cases(self, kind: str, split: str) -> list[Case]:
        name = f"{kind} {split}"
        if name not in self.kept:
            count = 10 if split == "train" else 8
            if kind in ("T1w", "CT"):
                made = heads(self.folder / "heads", split, count, kind)
            elif kind == "slices":
                made = slices(self._cases("T1w", split), 4 if split == "train" else 8)
            elif kind == "rare":
                made = rare(self._cases("T1w", split))
            else:
                made = {"cells": cells, "spots": spots}[kind](split, 60 if split == "train" else 24)
            self.kept[name] = made
        return self.kept[name]

    @cached_property
    def classes(self) -> Mapping[str, int]:
        """Return how many classes each kind of case has."""
        return {"T1w": 7, "CT": 7, "slices": 7, "rare": 2, "cells": 2, "spots": 4}

    def trained(
        self,
        name: str,
        kind: str,
        options: Mapping[str, Any] | None = None,
        *,
        loss: str | Mapping[str, Any] = "dice_cross_entropy",
        steps: int = 220,
        batch: int = 4,
        rate: float = 2e-3,
        patch: int | None = None,
        cases: Sequence[Case] | None = None,
        called: str = "",
        build: Callable[[], nn.Module] | None = None,
    ) -> Trained:
        """Return a network that learned from the training cases of a kind, or from others (`called` then tells them apart).

        Parameters
        ----------
        patch : int, optional
            Edge of the cubes or squares that are cut from the cases; whole cases otherwise.
        build : callable, optional
            Makes a network that is not in the registry (`called` names it).
        """
        chosen = list(cases) if cases is not None else self.train(kind)
        given = {"channels": 1, "classes": self.classes[kind], **(options or {})}
        told = [name, kind, given, loss, round(steps * self.steps), batch, rate, patch, called]
        path = self.folder / "models" / f"{name}-{sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]}.safetensors"
        network = fresh(build or (lambda: registry.build("segment", name, **given)), SEED)
        clock = path.with_suffix(".seconds")
        if not clock.is_file():

            def draw(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
                pairs = [_cut(chosen[int(rng.integers(len(chosen)))], patch, rng) for _ in range(count)]
                return np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs])

            start = time.process_time()
            fit(network, draw, objective_of(loss), steps=told[4], batch=batch, rate=rate, seed=SEED)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
            clock.write_text(f"{time.process_time() - start:.2f}")
            print(f"  {name} {kind} {json.dumps(options or {})} {called}: {clock.read_text()} s", flush=True)
        network.load_state_dict(load_file(path))
        return Trained(network.eval(), float(clock.read_text()))

    def scores(self, answer: Answer, kind: str, border: bool = False) -> list[float]:
        """Return the mean Dice of each test case, with `border` that within a voxel of the true borders."""
        measure = boundary_dice if border else mean_dice
        return [measure(case.labels, answer(case), self.classes[kind]) for case in self.test(kind)]


def better(ours: Sequence[float], others: Sequence[float], called: str) -> dict[str, str]:
    """Return the paired difference with its interval as a figure."""
    mean, low, high = paired_interval(ours, others)
    return {called: f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"}


def mean(values: Sequence[float]) -> float:
    """Return the mean of what is finite."""
    return float(np.nanmean(values))


def _cut(case: Case, patch: int | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch (1, ...) and its labels (1, ...), mirrored at random; half of the patches have a label in the middle."""
    image, labels = case.image, case.labels
    if patch is not None:
        spare = [n - patch for n in image.shape]
        starts = [int(rng.integers(0, n + 1)) for n in spare]
        known = np.argwhere((labels > 0) & (labels < 255))
        if rng.random() < 0.5 and len(known):
            middle = known[int(rng.integers(len(known)))]
            starts = [int(np.clip(m - patch // 2, 0, n)) for m, n in zip(middle, spare, strict=True)]
        window = tuple(slice(a, a + patch) for a in starts)
        image, labels = image[window], labels[window]
    if rng.random() < 0.5:
        image, labels = image[::-1], labels[::-1]
    return np.ascontiguousarray(image)[None], np.ascontiguousarray(labels)[None].astype(np.int64)
