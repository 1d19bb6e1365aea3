"""What the trainings of one network have in common: patches drawn one by one, an objective, a model folder at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.items import Image
from cohortex.models.folder import SHOWN, write_model
from cohortex.training import cards, objectives
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.loop import Sampler, fit

if TYPE_CHECKING:
    from torch import nn

Example = np.ndarray | tuple[np.ndarray, ...]
"""One example's array, or several for a network or an objective that takes several."""


def train_on_patches(
    network: nn.Module,
    draw: Callable[[np.random.Generator], tuple[Example, Example]] | None,
    training: Mapping[str, Any],
    images: Sequence[Image],
    section: Mapping[str, Any],
    seed: int,
    device: str,
    folder: str | Path,
    slower: Mapping[str, float] | None = None,
    objective: str | Mapping[str, Any] = "squared_error",
    validate: Callable[[nn.Module], float] | None = None,
    channels: bool = False,
    sampler: Sampler | None = None,
    phases: Sequence[str] = (),
) -> tuple[dict[str, Any], Journal]:
    """Train a network on patches; go on at the checkpoint beside the model folder where there is one.

    Parameters
    ----------
    network : nn.Module
        With its first weights; has the trained ones at the end.
    draw : callable, optional
        Given a generator it returns a patch and what the network is to make of it, float32 without batch and channel; or what else the
        objective reads (`objectives.Kind.reads`). Each may be a tuple of arrays.
    training : mapping
        ``steps``, ``batch``, ``minutes`` and ``rate`` of the section, and ``optimiser`` where it names one.
    images, section, seed
        What makes it the same training.
    device : str
    folder : path
        The model folder to be.
    slower : mapping, optional
        See `loop.fit`.
    objective : str or mapping
        See `objectives.build`.
    validate : callable, optional
        See `loop.fit`.
    channels : bool
        The drawn arrays have their channel axis already.
    sampler : callable, optional
        See `loop.fit`; instead of `draw`.
    phases : sequence of str
        Parts of the network (beginnings of names) that are trained one after the other, each with the rest as it is, and each for its share
        of the steps; none: all of it at once.

    Returns
    -------
    recipe : dict
        What the card says of the training: curves, the objective, what it ran on.
    journal : Journal
    """

    def together(parts: Sequence[Example]) -> Example:
        if isinstance(parts[0], tuple):
            return tuple(np.stack(part) if channels else np.stack(part)[:, None] for part in zip(*parts, strict=True))
        return np.stack(parts) if channels else np.stack(parts)[:, None]

    def sample(rng: np.random.Generator, count: int) -> tuple[Example, Example]:
        assert draw is not None
        sources, targets = zip(*(draw(rng) for _ in range(count)), strict=True)
        return together(sources), together(targets)

    name, options = objectives.settings(objective)
    aim = objectives.build(objective)
    journal = open_journal(folder, images, section, seed)
    recipe: dict[str, Any] = {}
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    for number, phase in enumerate(phases or ("",)):
        for each, parameter in network.named_parameters():
            parameter.requires_grad_(each in learning and each.startswith(phase))
        curves = fit(
            network,
            sampler or sample,
            aim,
            steps=max(1, training["steps"] // max(1, len(phases))),
            batch=training["batch"],
            minutes=training["minutes"] / max(1, len(phases)),
            rate=training["rate"],
            seed=seed + number,
            device=device,
            slower=slower,
            optimiser=training.get("optimiser") or "adamw",
            validate=validate,
            checkpoint=journal.of(f"network.{phase}" if phase else "network"),
        )
        recipe = _after(recipe, curves.recipe(), phase)
    for each, parameter in network.named_parameters():
        parameter.requires_grad_(each in learning)
    told = {"objective": {"name": name, **options, "about": objectives.kind(name).about, **aim.facts()}}
    return {**recipe, **told, "run": cards.how_it_ran(device, training["batch"], recipe["steps_done"], journal)}, journal


def _after(before: Mapping[str, Any], recipe: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """Return what the card says of several phases: their steps together, their curves one behind the other."""
    if not phase:
        return dict(recipe)
    done = before.get("steps_done", 0)
    joined = {**recipe, "steps_done": done + recipe["steps_done"], "loss": [*before.get("loss", []), *recipe["loss"]]}
    if "validation" in recipe:
        joined["validation"] = [*before.get("validation", []), *([done + step, value] for step, value in recipe["validation"])]
    return {**joined, "phases": [*before.get("phases", []), phase]}


def leave_model(
    folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Any], journal: Journal, shown: Mapping[str, Any] | None = None
) -> None:
    """Write the model folder and forget the checkpoints of its training.

    Parameters
    ----------
    folder, card, tensors
        See `write_model`.
    journal : Journal
    shown : mapping, optional
        What the report shows of the training, see `cohortex.training.shown`.
    """
    write_model(folder, card, tensors, {} if shown is None else {SHOWN: json.dumps(shown, separators=(",", ":")).encode()})
    journal.forget()
