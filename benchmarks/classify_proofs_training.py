"""Networks of the proofs of classification, trained as the stage classify trains those of a cohort."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classify_proofs_data import KINDS, Pictures, Settings
from cohortex.measures.intervals import bootstrap_interval, paired_interval
from cohortex.models.classify import SMALL
from cohortex.models.classify.classifier import Classifier, network_logits, save_classifier
from cohortex.models.classify.fusion import Fusion
from cohortex.models.classify.inputs import Input
from cohortex.training.checkpoint import Journal
from cohortex.training.classify import DEFAULTS
from cohortex.training.classify_examples import Examples
from cohortex.training.classify_members import Plan, fit_members, plan_of

NETWORK = {**SMALL, "smallresnet2d": {"widths": [12, 24, 48]}}
"""Options of every network where a proof says nothing else."""
TEST, SOURCE = 0, 9
"""Numbers of the sets of cases of a repetition; those that are learned from are 1 and more."""
PLAIN = {"flip": [0, 1], "gain": 0.1, "offset": 0.1}
"""How cases are varied. What turns, moves or scales them interpolates, which takes away the noise of pixels and with it the detail of a
pixel or two that tells classes of so small pictures apart; a network that learned from smooth pictures fails in those that are not."""
BATCH = 50
"""Cases at once where nothing is learned."""


@dataclass(frozen=True)
class Trained:
    """What a training of the stage left.

    Attributes
    ----------
    plan : Plan
    members : list of torch module
    asked : Input
        With mean and deviation of what was learned from.
    loss : float
        Mean of the last tenth of the steps.
    """

    plan: Plan
    members: list[Any]
    asked: Input
    loss: float

    def logs(self, images: np.ndarray, member: int | None = None) -> np.ndarray:
        """Return the log-probabilities (n, classes) of all members together, or of one."""
        network = self.plan.one(self.members if member is None else [self.members[member]])
        shown = self.asked.standard(images[:, None])
        return np.concatenate([network_logits(network, shown[i : i + BATCH], "cpu") for i in range(0, len(shown), BATCH)])


def cases(have: Settings, kind: str, n: int, repetition: int, part: int) -> Pictures:
    """Return cases of a kind; those of two repetitions, and of two parts of one, have no seed in common."""
    return KINDS[kind](n, seed_of(have, repetition, part))


def seed_of(have: Settings, repetition: int, part: int) -> int:
    """Return the seed of a set of cases, or of a training."""
    return 100 * (1000 * have.seed + repetition) + part


def learn(
    have: Settings,
    learned: Pictures,
    network: str,
    seed: int,
    steps: int,
    options: Mapping[str, Any] | None = None,
    start: Path | None = None,
    **training: Any,
) -> Trained:
    """Train a network on pictures as the stage does: its settings, its input, its members.

    Parameters
    ----------
    have : Settings
    learned : Pictures
    network : str
        Of the registry, with the options `NETWORK` where none are given.
    seed : int
    steps : int
        Times those of the settings.
    options : mapping, optional
    start : Path, optional
        The model that it begins with.
    **training
        Laid over the section's ``training``; batches of 16 and no weights of classes, which are equally frequent here.
    """
    size = list(learned.images.shape[1:])
    own = {"steps": max(2, round(steps * have.steps)), "minutes": 1e6, "balance": "none", "batch": 16, "average": 0.95, "augment": PLAIN}
    settings = {
        **DEFAULTS,
        "modalities": ["CT" if len(size) == 3 else "DX"],
        "parts": ["cnn"],
        "network": {"name": network, "options": dict(NETWORK[network] if options is None else options)},
        "input": {"size": size, "spacing_mm": None, "labels": False, "values": "cohort"},
        "training": {**DEFAULTS["training"], **own, "start": None if start is None else str(start), **training},
    }
    asked = Input.of(settings["input"]).of_cohort(learned.images[:, None])
    plan = plan_of(settings, asked, int(learned.y.max()) + 1)
    members, facts = fit_members(examples(learned, asked), plan, seed, "cpu", Journal(), network)
    return Trained(plan, members, asked, float("nan") if facts["loss"] is None else facts["loss"])


def examples(learned: Pictures, asked: Input) -> Examples:
    """Return pictures as rows that a classifier learns from, each of a subject of its own."""
    names = np.array([f"case{number:05d}" for number in range(len(learned.y))], dtype=object)
    return Examples(np.full((len(names), 1), np.nan), asked.standard(learned.images[:, None]), learned.y, names, names)


def source(have: Settings, kind: str, n: int, network: str, steps: int, start: Path | None = None, rate: float = 2e-3) -> Path:
    """Return the folder of a model of many cases of a kind, trained when it is first asked for."""
    told = [kind, n, network, NETWORK[network], round(steps * have.steps), have.seed, None if start is None else start.name, rate]
    name = f"{kind.replace(' ', '-')}-{network}-{sha256(json.dumps(told).encode()).hexdigest()[:10]}"
    folder = have.folder / "models" / name
    if not (folder / "model.json").is_file() and not folder.is_dir():
        made = learn(have, cases(have, kind, n, 0, SOURCE), network, seed_of(have, 0, SOURCE), steps, start=start, rate=rate)
        folder.parent.mkdir(parents=True, exist_ok=True)
        save(made, folder, name)
    return folder


def save(made: Trained, folder: Path, name: str) -> None:
    """Write a model folder as the stage does, of which another training can begin."""
    classes = [f"class{number}" for number in range(made.plan.classes)]
    card = {
        "name": name,
        "task": "classify",
        "network": made.plan.network,
        "parts": {"cnn": made.plan.written},
        "modality": ["DX"],
        "body_part": ["any"],
        "dimensions": [len(made.asked.size)],
        "spacing_mm": {"min": 0.0, "max": 1e6},
        "classes": classes,
        "data": "generated pictures",
        "simulated": True,
        "recipe": {"training": {key: value for key, value in made.plan.training.items() if value not in (None, False)}},
        "seed": 0,
        "metrics": [],
        "intended_use": "a proof of what transfer is worth",
        "limits": "knows generated pictures only",
        "subjects": {"train": [], "validation": []},
        "extra": {"parts": ["cnn"], "input": made.asked.told()},
    }
    save_classifier(folder, Classifier(card, None, None, Fusion(np.ones(1), np.ones(1)), "cpu"), made.members)


def right(logs: np.ndarray, y: np.ndarray) -> float:
    """Return the share of cases whose likeliest class is theirs."""
    return float((logs.argmax(axis=1) == y).mean())


def repeated(count: int, values: Callable[[int], Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Return what repetitions 1, 2 ... measured, by name: each has cases, both to learn from and to be tested on, and seeds of its own."""
    found = [values(repetition) for repetition in range(1, count + 1)]
    return {name: np.array([one[name] for one in found]) for name in found[0]}


def told(found: Sequence[float]) -> str:
    """Return a value and its interval in words."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found)


def gain(ours: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Return by how much one is above the other over the repetitions, with the 95 % interval of the mean."""
    return paired_interval(ours, others)


def gained(found: Sequence[float]) -> str:
    """Return a difference and its interval in words."""
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


def mean(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean over the repetitions, with its 95 % interval."""
    return bootstrap_interval(values)


def shortened(settings: Settings, count: int) -> int:
    """Return how many repetitions there are: fewer, at least two, where steps are fewer."""
    return count if settings.steps >= 1 else max(2, round(count * settings.steps))


def with_training(made: Trained, **training: Any) -> Trained:
    """Return what was trained, looked at with other settings of its committee."""
    return replace(made, plan=replace(made.plan, training={**made.plan.training, **training}))
