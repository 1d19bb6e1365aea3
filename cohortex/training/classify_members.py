"""The part ``cnn`` of a classifier: one network or several, from scratch or from what a model learned before, in the order asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cohortex.errors import Refused
from cohortex.models.classify.classifier import network_logits
from cohortex.models.classify.committee import as_one, own_scale
from cohortex.models.classify.inputs import Input, network_options
from cohortex.training.augment import ranges_of
from cohortex.training.checkpoint import Journal
from cohortex.training.classify_examples import Examples
from cohortex.training.classify_network import Budget, Start, train_network
from cohortex.training.curriculum import losses_of
from cohortex.training.decompose import subclasses
from cohortex.training.transfer import BATCH, class_tensors, features_of, fit_head, head_of, taken_over

ANOTHER = 1_000_003
"""Between the seeds of two members."""


@dataclass(frozen=True)
class Plan:
    """How the networks of a classifier are trained.

    Attributes
    ----------
    network : str
    options : mapping
        With channels and classes.
    training : mapping
        The section's ``training``.
    classes : int
    weights : mapping, optional
        What is taken over of another model.
    """

    network: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    classes: int
    weights: Mapping[str, np.ndarray] | None = None

    @property
    def written(self) -> dict[str, Any]:
        """What the card says of each member."""
        outputs = self.classes * self.training["decompose"]
        return {"network": self.network, "options": {**self.options, "classes": outputs}}

    def one(self, members: list[Any]) -> Any:
        """Return members as one network."""
        return as_one(members, **self.committee)

    @property
    def committee(self) -> dict[str, Any]:
        """How members are put together, as `cohortex.models.classify.committee.as_one` takes it."""
        training = self.training
        return {"mirrored": training["mirror"], "subclasses": training["decompose"], "own_scale": training["own_scale"]}


def plan_of(settings: Mapping[str, Any], asked: Input, classes: int) -> Plan:
    """Return the plan of a section's settings.

    Raises
    ------
    Refused
        When the network does not fit, the model to start from is another, or frozen features have no model.
    """
    training, network = settings["training"], settings["network"]["name"]
    options = network_options(settings, asked, classes)
    if training["frozen"] and (training["start"] is None or training["decompose"] > 1 or training["curriculum"]):
        raise Refused(
            "classify.default.training.frozen keeps the features of a model and learns the last layer alone: name the model's folder "
            "under start, with decompose 1 and curriculum false."
        )
    weights = None if training["start"] is None else taken_over(_folder(training["start"]), network, options)
    if training["frozen"] or training["decompose"] > 1:
        from cohortex.models.registry import build

        head_of(build("classify", network, **options), class_tensors(network, options))
    return Plan(network, options, training, classes, weights)


def _folder(name: str) -> Path:
    """Return a model folder by its name: shipped ones lie beside the package, others where the workflow runs."""
    shipped = Path(__file__).resolve().parents[2] / name
    return shipped if name.startswith("zoo/") and shipped.exists() else Path(name)


def fit_members(train: Examples, plan: Plan, seed: int, device: str, journal: Journal, called: str) -> tuple[list[Any], dict[str, Any]]:
    """Train the networks of a classifier on all rows.

    Parameters
    ----------
    train : Examples
        Inputs as networks see them.
    plan : Plan
    seed : int
    device : str
    journal : Journal
        Each network has a checkpoint of its own.
    called : str

    Returns
    -------
    members : list of nn.Module
        In evaluation mode.
    facts : dict
        steps, loss and seconds, over the members; ``members`` where there are several.
    """
    training = plan.training
    looks = training["members"] * (2 if training["curriculum"] or training["decompose"] > 1 else 1)
    budget = Budget(
        steps=training["steps"],
        batch=training["batch"],
        minutes=training["minutes"] / (training["folds"] + 1) / looks,
        learning_rate=training["rate"],
        augment=None if training.get("augment") is None else ranges_of(training["augment"]),
        balance=training["balance"],
        optimiser=training["optimiser"],
        average=training["average"],
    )
    members, every = [], []
    for number in range(training["members"]):
        name = called if number == 0 else f"{called}.member{number + 1}"
        seen = _in_own_scale(train) if training["own_scale"] and number % 2 else train
        network, facts = _fit_one(seen, plan, budget, seed + ANOTHER * number, device, journal, name)
        members.append(network)
        every.append(facts)
    if len(every) == 1:
        return members, every[0]
    losses = [facts["loss"] for facts in every if facts["loss"] is not None]
    loss = float(np.mean(losses)) if losses else None
    seconds = round(sum(facts["seconds"] for facts in every), 1)
    return members, {"steps": min(facts["steps"] for facts in every), "loss": loss, "seconds": seconds}


def _in_own_scale(train: Examples) -> Examples:
    """Return examples as the network of an `cohortex.models.classify.committee.OwnScale` sees them."""
    import torch

    parts = [own_scale(torch.from_numpy(train.inputs[i : i + BATCH])).numpy() for i in range(0, len(train.y), BATCH)]
    return replace(train, inputs=np.concatenate(parts))


def _fit_one(
    train: Examples, plan: Plan, budget: Budget, seed: int, device: str, journal: Journal, called: str
) -> tuple[Any, dict[str, Any]]:
    training, start = plan.training, Start(plan.network, plan.options, plan.weights, beside=train.beside)
    if training["frozen"]:
        network, facts = train_network(train.inputs, train.y, plan.classes, seed, replace(budget, steps=0), device, None, called, start)
        layer = head_of(network, class_tensors(plan.network, plan.options))[1]
        fit_head(layer, features_of(network, layer, train.inputs, device), train.y, train.groups, training["balance"], seed)
        return network, facts
    y, classes = train.y, plan.classes
    if training["curriculum"] or training["decompose"] > 1:
        # the teacher is the same network, trained on everything at once
        checkpoint = journal.of(f"{called}.teacher")
        teacher, _ = train_network(train.inputs, y, classes, seed, budget, device, checkpoint, f"{called}.teacher", start)
        if training["curriculum"]:
            logs = [network_logits(teacher, train.inputs[i : i + BATCH], device) for i in range(0, len(y), BATCH)]
            start = replace(start, hardness=losses_of(np.concatenate(logs), y))
        if training["decompose"] > 1:
            name, layer = head_of(teacher, class_tensors(plan.network, plan.options))
            y = subclasses(features_of(teacher, layer, train.inputs, device), y, training["decompose"], seed)
            kept = {key: value.cpu().numpy() for key, value in teacher.state_dict().items() if key.rpartition(".")[0] != name}
            start, classes = replace(start, weights=kept), classes * training["decompose"]
    return train_network(train.inputs, y, classes, seed, budget, device, journal.of(called), called, start)
