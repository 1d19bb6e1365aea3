"""What a network of classes learns beside the classes: further facts of the same subjects, and where lesions lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cohortex.errors import Refused
from cohortex.items import Image
from cohortex.models.classify.inputs import Input
from cohortex.models.classify.regrid import LESION, LESION_GAIN, network_input
from cohortex.models.classify.scans import labels_of

UNKNOWN = ("", "n/a")
QUICK = 10.0
"""How much faster than other parameters the weights of the tasks move, so that a short training sets them too."""


@dataclass(frozen=True)
class Task:
    """A further fact of every example.

    Attributes
    ----------
    values : (n,) float64 array
        Numbers, or the number of the category; NaN where it is not known.
    categories : int
        How many there are; 0: the values are numbers.
    """

    values: np.ndarray
    categories: int = 0

    def standard(self) -> np.ndarray:
        """Return numbers with mean 0 and deviation 1 over what is known; categories as they are."""
        if self.categories:
            return self.values
        known = self.values[~np.isnan(self.values)]
        return (self.values - known.mean()) / (known.std() or 1.0) if known.size else self.values


@dataclass(frozen=True)
class Beside:
    """What is learned beside the classes, rows as of the examples.

    Attributes
    ----------
    tasks : tuple of Task
    masks : (n, 1, *space) float32 array, optional
        Share of lesion in each voxel of the network's input, for networks that have a loss of it.
    """

    tasks: tuple[Task, ...] = ()
    masks: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> Beside:
        """Return some of the rows."""
        tasks = tuple(replace(task, values=task.values[rows]) for task in self.tasks)
        return Beside(tasks, None if self.masks is None else self.masks[rows])


def task_of(name: str, told: Sequence[str]) -> Task:
    """Return the task of a column: numbers where all that is known are numbers, categories otherwise.

    Raises
    ------
    Refused
        When the column has fewer than two values.
    """
    known = sorted({value for value in told if value not in UNKNOWN})
    if len(known) < 2:
        raise Refused(
            f"classify.default.training.tasks: the column {name} has {len(known)} values among the training subjects, so there is nothing "
            "to learn from it; name another."
        )
    try:
        return Task(np.array([float("nan") if value in UNKNOWN else float(value) for value in told]))
    except ValueError:
        return Task(np.array([float("nan") if value in UNKNOWN else float(known.index(value)) for value in told]), len(known))


def beside_of(scans: Sequence[Image], images: Sequence[Image], training: Mapping[str, Any], asked: Input) -> Beside | None:
    """Return what the settings ask a network to learn beside the classes; None where that is nothing.

    Parameters
    ----------
    scans : sequence of Image
    images : sequence of Image
        Everything of their subjects.
    training : mapping
        ``tasks``: names of columns; ``lesions``: the label that marks lesions in the label maps ``<scan>+seg``, or None.
    asked : Input

    Raises
    ------
    Refused
        See `task_of`; when lesions are asked for and scans are not scaled as a whole, labels are an input, or a scan has no label map.
    """
    tasks = tuple(task_of(name, [str(scan.row.get(name) or "") for scan in scans]) for name in training.get("tasks") or ())
    label = training.get("lesions")
    masks = None if label is None else np.stack([_mask(scan, images, int(label), asked) for scan in scans])
    return Beside(tasks, masks) if tasks or masks is not None else None


def _mask(scan: Image, images: Sequence[Image], label: int, asked: Input) -> np.ndarray:
    """Return the share of a label in each voxel of the network's input, (1, *size) float32."""
    if asked.spacing_mm is not None:
        raise Refused(
            "classify.default.training.lesions needs scans that are scaled as a whole: set classify.default.input.spacing_mm to null, "
            "or leave lesions out."
        )
    if asked.labels:
        raise Refused("classify.default.training.lesions: the network sees the labels already; set classify.default.input.labels to false.")
    labels = labels_of(scan, images)
    if labels is None:
        raise Refused(
            f"classify.default.training.lesions: {scan.id} has no label map {scan.id}+seg; give one (empty where there is no lesion), or "
            "leave lesions out."
        )
    found = np.asarray(labels[...]) == label
    shares = network_input(found.astype(np.float32), found * np.uint8(LESION), scan.volume.spacing, asked.space, None, "cohort")
    return shares[-1].reshape(1, *asked.size) / np.float32(LESION_GAIN)


def attach(network: nn.Module, beside: Beside, head: nn.Linear | None) -> None:
    """Give a network the heads of the further tasks as its module ``beside``, for as long as it is trained.

    Parameters
    ----------
    network : nn.Module
    beside : Beside
    head : nn.Linear
        The network's last layer: the further heads look at what it looks at. Only needed where there are tasks.

    Raises
    ------
    Refused
        When there are masks and the network has no loss of lesions.
    """
    if beside.masks is not None and not hasattr(network, "lesion_loss") and not hasattr(network, "attention_loss"):
        raise Refused(
            f"classify.default.training.lesions: {type(network).__name__} cannot be told where lesions lie; lacnn and ag_cnn can "
            "(classify.default.network)."
        )
    network.add_module("beside", Heads(beside.tasks, 0 if head is None else head.in_features))


def with_beside(
    network: Any,
    head: nn.Linear | None,
    beside: Beside,
    rows: np.ndarray,
    batch: torch.Tensor,
    masks: torch.Tensor | None,
    loss: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Return the loss of a batch with everything that is learned beside the classes.

    Each task, the classes among them, is weighted by how well it can be told: with a spread s that is learned a loss L counts
    exp(-s) L + s / 2. Where lesions lie counts as much as the classes.

    Parameters
    ----------
    network : nn.Module
        With what `attach` gave it.
    head : nn.Linear
    beside : Beside
    rows : (batch,) integer array
        Of the examples in the batch.
    batch : (batch, channels, *space) tensor
    masks : (batch, 1, *space) tensor, optional
        Moved as the batch is.
    loss : callable
        ``loss()`` runs the network on the batch and returns the loss of the classes.

    References
    ----------
    Kendall et al., Multi-task learning using uncertainty to weigh losses for scene geometry and semantics, CVPR 2018.
    """
    seen: list[torch.Tensor] = []
    hook = None if head is None else head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        total = loss()
    finally:
        if hook is not None:
            hook.remove()
    if beside.tasks:
        total = network.beside(seen[0], rows, total)
    if masks is not None:
        where = network.lesion_loss if hasattr(network, "lesion_loss") else network.attention_loss
        total = total + where(batch, masks)
    return total


class Heads(nn.Module):
    """Linear heads of further tasks on the features (n, width) before a network's last layer, each task with the spread of its loss."""

    def __init__(self, tasks: Sequence[Task], width: int):
        super().__init__()
        self.wanted = [(task.standard(), task.categories) for task in tasks]
        self.layers = nn.ModuleList(nn.Linear(width, max(1, task.categories)) for task in tasks)
        # of the classes, then of each task
        self.spreads = nn.Parameter(torch.zeros(1 + len(tasks)))

    def forward(self, features: torch.Tensor, rows: np.ndarray, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss of the classes with those of the tasks for a batch of such rows; facts that are not known do not count."""
        spreads = QUICK * self.spreads
        total = torch.exp(-spreads[0]) * loss + spreads[0] / 2
        for layer, (values, categories), spread in zip(self.layers, self.wanted, spreads[1:], strict=True):
            wanted = torch.from_numpy(values[rows]).to(features.device)
            known = ~wanted.isnan()
            if not known.any():
                continue
            made = layer(features[known])
            if categories:
                own = cross_entropy(made, wanted[known].long())
            else:
                own = (made[:, 0] - wanted[known].to(made.dtype)).square().mean() / 2
            total = total + torch.exp(-spread) * own + spread / 2
        return total
