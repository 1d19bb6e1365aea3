"""Trains one network of a classifier: augmentation on the coarse grid, fixed steps, one seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.training.augment import Ranges, draw, resample, rotation_3d, vary_image
from cohortex.training.balance import Loss, loss_for, one_pass
from cohortex.training.beside import Beside, attach, with_beside
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
PICTURE = Ranges(translate=0.1, rotate_deg=10.0, shear=0.05, scale=0.1, flip=(0,), gain=0.1, offset=0.1, noise=0.05)
"""How pictures are varied where nothing else is said."""


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
        How examples are varied; None varies volumes as the shipped classifier's were, pictures by `PICTURE`.
    balance : str
        See `cohortex.training.balance.BALANCES`.
    optimiser : {"adamw", "muon"}
    average : float
        Share of the old average of the weights kept at each step; the network ends with the average. 0: with its last weights.
    """

    steps: int = 120
    batch: int = 8
    minutes: float = 10.0
    learning_rate: float = 2e-3
    augment: Ranges | None = None
    balance: str = "weights"
    optimiser: str = "adamw"
    average: float = 0.0


@dataclass(frozen=True)
class Start:
    """Which network is trained, and what it begins with.

    Attributes
    ----------
    network : str
        Name in the registry.
    options : mapping
        Beside channels and classes, where they are not in it.
    weights : mapping of str to array, optional
        What it takes over of another network, by name: everything but its head (`cohortex.training.transfer`).
    hardness : (n,) float array, optional
        How hard each example is: the easiest are learned first (`cohortex.training.curriculum`).
    beside : Beside, optional
        What is learned beside the classes, rows as of the examples.
    """

    network: str = "smallcnn3d"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] | None = None
    hardness: np.ndarray | None = None
    beside: Beside | None = None


def train_network(
    inputs: np.ndarray,
    y: np.ndarray,
    classes: int,
    seed: int,
    budget: Budget,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    called: str = "network",
    start: Start | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Train a network, from scratch where nothing else is said.

    Parameters
    ----------
    inputs : (n, channels, x, y, z) or (n, channels, x, y) float32 array
        As `cohortex.models.classify.inputs.Input` makes them.
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
    start : Start, optional
        The small 3-D network with fresh weights where nothing else is said.

    Returns
    -------
    network : torch module
        In evaluation mode.
    facts : dict
        steps (really done), loss (mean of the last tenth), seconds.
    """
    import torch

    from cohortex.models.registry import build
    from cohortex.training.curriculum import easiest
    from cohortex.training.muon import muon
    from cohortex.training.transfer import class_tensors, head_of

    now, clock, checkpoint, start = team(), Clock(budget.minutes), checkpoint or Checkpoint(), start or Start()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        options = {"channels": inputs.shape[1], **start.options, "classes": classes}
        network = build("classify", start.network, **options).to(device)
        if start.weights is not None:
            network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in start.weights.items()}, strict=False)
        beside, head = start.beside, None
        if beside is not None:
            if beside.tasks:
                found = getattr(network, "head", None)
                head = found if isinstance(found, torch.nn.Linear) else head_of(network, class_tensors(start.network, start.options))[1]
            attach(network, beside, head)
            network = network.to(device)
        order_of = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
        # a fifth faster with pictures
        network = network.to(memory_format=order_of)  # pyright: ignore[reportCallIssue]
        if now.rank:
            # The first weights are those of all; what drops out is each process's own.
            torch.manual_seed(int(np.random.SeedSequence([seed, now.rank]).generate_state(1)[0]))
        rng = now.generator(seed)
        if budget.optimiser == "muon":
            optimizer: torch.optim.Optimizer = muon(network, [{"params": list(network.parameters())}], budget.learning_rate)
        else:
            optimizer = torch.optim.AdamW(network.parameters(), lr=budget.learning_rate, weight_decay=1e-2)
        warm = max(1, budget.steps // 20)
        loss = loss_for(budget.balance, y, classes, device)
        every = np.arange(len(y))
        network.train()
        average = {name: value.detach().clone() for name, value in network.state_dict().items()} if budget.average else {}
        losses: list[float] = []
        order = np.empty(0, dtype=np.int64)
        found = checkpoint.load()
        if found is None and start.weights is None and hasattr(network, "pretrain"):
            # layer by layer, on images without labels; every process does the same
            network.pretrain(torch.from_numpy(inputs).to(device), seed=seed % 2**63)  # pyright: ignore[reportCallIssue]
            average = {name: value.detach().clone() for name, value in network.state_dict().items() if name in average}
        if found is not None:
            tensors, note = found
            network.load_state_dict(tensors_of("network", tensors))
            average = {name: value.to(device) for name, value in tensors_of("average", tensors).items()}
            restore_optimiser(optimizer, tensors_of("optimiser", tensors))
            losses, clock.used_s, own = note["losses"], note["seconds"], note["ranks"][now.rank]
            rng.bit_generator.state, order = own["rng"], np.array(own["order"], dtype=np.int64)
            _set_torch_generator(own["torch"], device)

        def loss_of(step: int) -> torch.Tensor:
            nonlocal order
            mine = now.share(budget.batch)
            while order.size < mine:
                allowed = every if start.hardness is None else easiest(start.hardness, y, step / budget.steps)
                order = np.concatenate([order, one_pass(budget.balance, y, allowed, rng)])
            chosen, order = order[:mine], order[mine:]
            given = inputs[chosen]
            if beside is not None and beside.masks is not None:
                given = np.concatenate([given, beside.masks[chosen]], axis=1)
            varied = torch.from_numpy(_augmented(given, rng, budget.augment)).to(device)
            batch = varied[:, : inputs.shape[1]].contiguous(memory_format=order_of)
            target = torch.from_numpy(y[chosen].astype(np.int64)).to(device)
            if beside is None:
                return _weighed_loss(network, batch, target, loss)
            masks = None if beside.masks is None else varied[:, inputs.shape[1] :]
            return with_beside(network, head, beside, chosen, batch, masks, lambda: _weighed_loss(network, batch, target, loss))

        def after(done: int, mean: float) -> None:
            losses.append(mean)
            kept = min(budget.average, done / (9 + done))
            with torch.no_grad():
                for name, new in network.state_dict().items() if average else ():
                    average[name].copy_(torch.lerp(average[name], new, 1 - kept) if new.is_floating_point() else new)

        def keep(done: int) -> None:
            own = {"rng": generator_state(rng), "order": order.tolist(), "torch": _torch_generator(device)}
            note = {"losses": losses, "seconds": clock.seconds(), "ranks": now.gather(own)}
            tensors = tensors_under("network", network.state_dict()) | tensors_under("average", average)
            checkpoint.save(tensors | tensors_under("optimiser", optimiser_tensors(optimizer)), note)

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
            after=after,
            checkpoint=checkpoint,
            keep=keep,
        )
        if done > first:
            keep(done)
        if average:
            network.load_state_dict(average)
        if beside is not None:
            del network.beside
    tail = losses[-max(1, len(losses) // 10) :]
    facts = {"steps": len(losses), "loss": float(np.mean(tail)) if tail else None, "seconds": round(clock.seconds(), 1)}
    return network.eval().requires_grad_(False), facts


def _weighed_loss(network: Any, batch: torch.Tensor, target: torch.Tensor, loss: Loss) -> torch.Tensor:
    """Return the loss of a network's logits, with its further heads (`cohortex.models.classify.network`) where it has some."""
    import torch

    if not hasattr(network, "outputs"):
        return loss(network(batch), target)
    found = [share * loss(logits, target) for share, logits in zip(network.outputs_weights, network.outputs(batch), strict=True)]
    return found[0] if len(found) == 1 else torch.stack(found).sum()


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
    if ranges is None and batch.ndim == 4:
        ranges = PICTURE
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
