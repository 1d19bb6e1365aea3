"""Trains the small 3-D network of the classifiers: augmentation on the coarse grid, fixed steps, one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.training.augment import Ranges, draw, resample, rotation_3d, vary_image
from cohortex.training.checkpoint import Checkpoint, generator_state, optimiser_tensors, restore_optimiser, tensors_of, tensors_under
from cohortex.training.loop import Clock, take_steps
from cohortex.training.team import team

if TYPE_CHECKING:
    import torch

ROTATION_DEG = 10.0
SCALE = 0.08
SHIFT = 0.06
"""Share of half the grid's length."""
GAIN, OFFSET, NOISE = 0.15, 0.15, 0.1
"""In units of the normalised image."""


@dataclass(frozen=True)
class Budget:
    """How long the network is trained.

    Attributes
    ----------
    steps : int
        Updates of the weights.
    batch : int
        Subjects an update.
    minutes : float
        Stops earlier when this much wall-clock time has passed.
    learning_rate : float
    augment : Ranges, optional
        How examples are varied; None varies them as the shipped classifier's were.
    """

    steps: int = 120
    batch: int = 8
    minutes: float = 10.0
    learning_rate: float = 2e-3
    augment: Ranges | None = None


def train_network(
    inputs: np.ndarray,
    y: np.ndarray,
    classes: int,
    seed: int,
    budget: Budget,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    called: str = "network",
) -> tuple[Any, dict[str, Any]]:
    """Train a network from scratch.

    Parameters
    ----------
    inputs : (n, channels, x, y, z) float32 array
        As `cohortex.models.classify.regrid.network_input` makes them.
    y : (n,) integer array
        Classes from 0 on.
    classes : int
    seed : int
        The same seed gives the same weights on one device with one number of threads.
    budget : Budget
    device : str
    checkpoint : Checkpoint, optional
        Read when it is there, written now and then and at the end.
    called : str
        For the log.

    Returns
    -------
    network : torch module
        In evaluation mode.
    facts : dict
        steps (really done), loss (mean of the last tenth), seconds.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from cohortex.models.registry import build

    now, clock, checkpoint = team(), Clock(budget.minutes), checkpoint or Checkpoint()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = build("classify", "smallcnn3d", channels=inputs.shape[1], classes=classes).to(device)
        if now.rank:
            # The first weights are those of all; what drops out is each process's own.
            torch.manual_seed(int(np.random.SeedSequence([seed, now.rank]).generate_state(1)[0]))
        rng = now.generator(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=budget.learning_rate, weight_decay=1e-2)
        warm = max(1, budget.steps // 20)
        counts = np.bincount(y, minlength=classes)
        weight = torch.tensor(len(y) / (classes * np.maximum(counts, 1)), dtype=torch.float32, device=device)
        network.train()
        losses: list[float] = []
        order = np.empty(0, dtype=np.int64)
        found = checkpoint.load()
        if found is not None:
            tensors, note = found
            network.load_state_dict(tensors_of("network", tensors))
            restore_optimiser(optimizer, tensors_of("optimiser", tensors))
            losses, clock.used_s, own = note["losses"], note["seconds"], note["ranks"][now.rank]
            rng.bit_generator.state, order = own["rng"], np.array(own["order"], dtype=np.int64)
            _set_torch_generator(own["torch"], device)

        def loss_of(step: int) -> torch.Tensor:
            nonlocal order
            mine = now.share(budget.batch)
            while order.size < mine:
                order = np.concatenate([order, rng.permutation(len(y))])
            chosen, order = order[:mine], order[mine:]
            batch = torch.from_numpy(_augmented(inputs[chosen], rng, budget.augment)).to(device)
            target = torch.from_numpy(y[chosen].astype(np.int64)).to(device)
            return cross_entropy(network(batch), target, weight=weight, label_smoothing=0.05)

        def keep(done: int) -> None:
            own = {"rng": generator_state(rng), "order": order.tolist(), "torch": _torch_generator(device)}
            note = {"losses": losses, "seconds": clock.seconds(), "ranks": now.gather(own)}
            tensors = tensors_under("network", network.state_dict()) | tensors_under("optimiser", optimiser_tensors(optimizer))
            checkpoint.save(tensors, note)

        first = len(losses)
        done = take_steps(
            network,
            optimizer,
            loss_of,
            budget.steps,
            called=called,
            device=device,
            first=first,
            batch=budget.batch,
            rate=lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1.0 + np.cos(np.pi * min(1.0, step / budget.steps))),
            over=clock.over,
            after=lambda done, mean: losses.append(mean),
            checkpoint=checkpoint,
            keep=keep,
        )
        if done > first:
            keep(done)
    tail = losses[-max(1, len(losses) // 10) :]
    facts = {"steps": len(losses), "loss": float(np.mean(tail)) if tail else None, "seconds": round(clock.seconds(), 1)}
    return network.eval().requires_grad_(False), facts


def _torch_generator(device: str) -> dict[str, str]:
    """Return where torch's own generators stand, which say what drops out."""
    import torch

    states = {"cpu": torch.get_rng_state()} | ({} if device == "cpu" else {"cuda": torch.cuda.get_rng_state()})
    return {name: state.numpy().tobytes().hex() for name, state in states.items()}


def _set_torch_generator(states: dict[str, str], device: str) -> None:
    import torch

    there = {name: torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8) for name, state in states.items()}
    torch.set_rng_state(there["cpu"])
    if device != "cpu":
        torch.cuda.set_rng_state(there["cuda"])


def _augmented(batch: np.ndarray, rng: np.random.Generator, ranges: Ranges | None = None) -> np.ndarray:
    """Return a batch turned, scaled, moved and mirrored (left to right), with other gain, offset and noise of the image."""
    if ranges is not None:
        return np.stack([vary_image(volumes, draw(ranges, volumes.shape[1:], rng)) for volumes in batch])
    moved = np.empty_like(batch)
    middle = (np.array(batch.shape[2:]) - 1) / 2.0
    for i, volumes in enumerate(batch):
        turn = rotation_3d(np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG, 3))) * rng.uniform(1 - SCALE, 1 + SCALE)
        shift = rng.uniform(-SHIFT, SHIFT, 3) * middle
        if rng.random() < 0.5:
            turn[:, 0] *= -1.0
        resample(volumes, turn, middle + shift - turn @ middle, moved[i])
        image = moved[i, 0]
        changed = (
            image * rng.uniform(1 - GAIN, 1 + GAIN) + rng.uniform(-OFFSET, OFFSET) + NOISE * rng.standard_normal(image.shape, np.float32)
        )
        moved[i, 0] = np.where(image != 0, changed, 0.0)
    return moved
