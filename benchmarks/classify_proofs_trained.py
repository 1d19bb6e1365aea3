"""Trains the networks of `benchmarks.classify_proofs` as the stage classify does, and holds one way of training against another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.classify_proofs_pictures import Cases
from cohortex.measures.classification import auc
from cohortex.measures.intervals import paired_interval
from cohortex.models.classify import SMALL
from cohortex.models.classify.classifier import network_logits
from cohortex.models.classify.inputs import Input
from cohortex.training.beside import Beside
from cohortex.training.checkpoint import Journal
from cohortex.training.classify import DEFAULTS
from cohortex.training.classify_examples import Examples
from cohortex.training.classify_members import fit_members, plan_of

BATCH = 100
"""Pictures at once where nothing is learned."""
RESNET = ("smallresnet2d", {"widths": [12, 24, 48]})


@dataclass(frozen=True)
class Learnt:
    """A network, with the input that it was trained with."""

    network: Any
    asked: Input

    def shown(self, images: np.ndarray) -> np.ndarray:
        """Return images as the network sees them."""
        return self.asked.standard(images)

    def logs(self, images: np.ndarray, network: Any = None) -> np.ndarray:
        """Return the log-probabilities (n, classes) of images (n, channels, *space), of a part of the network where one is given."""
        one, seen = network or self.network, self.shown(images)
        return np.concatenate([network_logits(one, seen[i : i + BATCH], "cpu") for i in range(0, len(seen), BATCH)])

    def score(self, images: np.ndarray, network: Any = None) -> np.ndarray:
        """Return the log-odds (n,) of the second of two classes."""
        logs = self.logs(images, network)
        return logs[:, 1] - logs[:, 0]


def learn(
    cases: Cases,
    network: tuple[str, Mapping[str, Any]],
    seed: int,
    training: Mapping[str, Any],
    *,
    classes: int = 2,
    beside: Beside | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    values: str = "cohort",
) -> Learnt:
    """Train a network with the stage's own code.

    Parameters
    ----------
    cases : Cases
    network : tuple of str and mapping
        Name, and what its options have other than `cohortex.models.classify.SMALL` and the registry.
    seed : int
    training : mapping
        What the section ``classify.default.training`` has other than the stage's defaults.
    beside : Beside, optional
        What is learned beside the classes.
    weights : mapping, optional
        What it begins with; an empty one keeps a network that trains its layers beforehand from doing so.
    values : str
        See `cohortex.models.classify.inputs.Input`; ``unit`` leaves pictures, 0 to 1, as they are.
    """
    name, options = network
    asked = Input(cases.images.shape[2:], None, False, values).of_cohort(cases.images)
    settings = {
        "network": {"name": name, "options": {**SMALL.get(name, {}), **options}},
        "training": {**DEFAULTS["training"], "minutes": 1e6, "batch": 16, **training},
    }
    plan = replace(plan_of(settings, asked, classes), weights=weights)
    count = len(cases.y)
    names = np.array([f"{number:05d}" for number in range(count)], dtype=object)
    rows = Examples(np.full((count, 1), np.nan), asked.standard(cases.images), cases.y, names, names, beside=beside)
    members, _ = fit_members(rows, plan, seed, "cpu", Journal(), name)
    return Learnt(plan.one(members), asked)


def steps_of(steps: int, share: float) -> dict[str, int]:
    """Return the steps of a training, times what was asked for."""
    return {"steps": max(1, round(steps * share))}


def auc_of(cases: Cases, learnt: Learnt) -> float:
    """Return the AUC of the second class."""
    return auc(cases.y == 1, learnt.score(cases.images))


def over(ours: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return how much more the one is than the other over pairs, with its interval of 95 %."""
    return paired_interval(ours, others)


def said(found: tuple[float, float, float]) -> str:
    """Return a difference in words."""
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found)


def repeated(seed: int, times: int, once: Callable[[int], Sequence[float]]) -> np.ndarray:
    """Return what several trainings gave, (times, values), each with training cases and first weights of its own seed."""
    torch.set_num_threads(1)
    return np.array([once(1000 * seed + number) for number in range(times)])
