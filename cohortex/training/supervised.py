"""What the supervised trainings have in common: patches drawn one by one, one network, a model folder at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.items import Image
from cohortex.models.folder import write_model
from cohortex.training import cards
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.loop import fit, squared_error

if TYPE_CHECKING:
    from torch import nn


def train_on_patches(
    network: nn.Module,
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    training: Mapping[str, Any],
    images: Sequence[Image],
    section: Mapping[str, Any],
    seed: int,
    device: str,
    folder: str | Path,
    slower: Mapping[str, float] | None = None,
) -> tuple[dict[str, Any], Journal]:
    """Train a network on patches with the mean squared error; go on at the checkpoint beside the model folder where there is one.

    Parameters
    ----------
    network : nn.Module
        With its first weights; has the trained ones at the end.
    draw : callable
        Given a generator it returns a patch and what the network is to make of it, float32 without batch and channel.
    training : mapping
        ``steps``, ``batch``, ``minutes`` and ``rate`` of the section.
    images, section, seed
        What makes it the same training.
    device : str
    folder : path
        The model folder to be.
    slower : mapping, optional
        See `loop.fit`.

    Returns
    -------
    recipe : dict
        What the card says of the training.
    journal : Journal
    """

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw(rng) for _ in range(count)]
        return np.stack([d[0] for d in drawn])[:, None], np.stack([d[1] for d in drawn])[:, None]

    journal = open_journal(folder, images, section, seed)
    curves = fit(
        network,
        sample,
        squared_error,
        steps=training["steps"],
        batch=training["batch"],
        minutes=training["minutes"],
        rate=training["rate"],
        seed=seed,
        device=device,
        slower=slower,
        checkpoint=journal.of("network"),
    )
    return {**curves.recipe(), "run": cards.how_it_ran(device, training["batch"], curves.steps, journal)}, journal


def leave_model(folder: str | Path, card: Mapping[str, Any], tensors: Mapping[str, Any], journal: Journal) -> None:
    """Write the model folder and forget the checkpoints of its training."""
    write_model(folder, card, tensors)
    journal.forget()
