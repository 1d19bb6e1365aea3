"""What the trainings of one network have in common: patches drawn one by one, an objective, a model folder at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.items import Image
from cohortex.models.folder import write_model
from cohortex.training import cards, objectives
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.loop import fit

if TYPE_CHECKING:
    from torch import nn

Example = np.ndarray | tuple[np.ndarray, ...]
"""One example's array, or several for a network or an objective that takes several."""


def train_on_patches(
    network: nn.Module,
    draw: Callable[[np.random.Generator], tuple[Example, Example]],
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
) -> tuple[dict[str, Any], Journal]:
    """Train a network on patches; go on at the checkpoint beside the model folder where there is one.

    Parameters
    ----------
    network : nn.Module
        With its first weights; has the trained ones at the end.
    draw : callable
        Given a generator it returns a patch and what the network is to make of it, float32 without batch and channel; or what else the
        objective reads (`objectives.Kind.reads`). Each may be a tuple of arrays.
    training : mapping
        ``steps``, ``batch``, ``minutes`` and ``rate`` of the section.
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
        sources, targets = zip(*(draw(rng) for _ in range(count)), strict=True)
        return together(sources), together(targets)

    name, options = objectives.settings(objective)
    aim = objectives.build(objective)
    journal = open_journal(folder, images, section, seed)
    curves = fit(
        network,
        sample,
        aim,
        steps=training["steps"],
        batch=training["batch"],
        minutes=training["minutes"],
        rate=training["rate"],
        seed=seed,
        device=device,
        slower=slower,
        validate=validate,
        checkpoint=journal.of("network"),
    )
    told = {"objective": {"name": name, **options, "about": objectives.kind(name).about, **aim.facts()}}
    return {**curves.recipe(), **told, "run": cards.how_it_ran(device, training["batch"], curves.steps, journal)}, journal


def leave_model(folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Any], journal: Journal) -> None:
    """Write the model folder and forget the checkpoints of its training."""
    write_model(folder, card, tensors)
    journal.forget()
