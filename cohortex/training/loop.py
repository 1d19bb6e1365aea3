"""One supervised loop: AdamW with warm-up and cosine, clipped gradients, averaged weights, and a checkpoint that resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.publish import atomic_path

if TYPE_CHECKING:
    import torch
    from torch import nn

Sampler = Callable[[np.random.Generator], "tuple[np.ndarray, np.ndarray]"]
"""Given a generator it draws a batch: input and target, both (batch, channels, ...) float32."""

LOG = logging.getLogger("cohortex.training")

STATE = ("exp_avg", "exp_avg_sq")


@dataclass
class Curves:
    """What came of a training.

    Attributes
    ----------
    steps : int
        Done, which is fewer than asked for when the time was up.
    loss : list of float
        Mean training loss of each tenth of the steps.
    validation : list of [step, value]
    stopped : str
        ``steps`` or ``minutes``.
    seconds : float
        Wall-clock time, not counting what was resumed.
    """

    steps: int = 0
    loss: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    stopped: str = "steps"
    seconds: float = 0.0

    def recipe(self) -> dict[str, Any]:
        """Return what a card says of it; no times, so that the same seed gives the same card."""
        return {"steps_done": self.steps, "loss": [float(f"{v:.4g}") for v in self.loss], "stopped": self.stopped}


def fit(
    network: nn.Module,
    sampler: Sampler,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    steps: int,
    seed: int,
    minutes: float = float("inf"),
    rate: float = 6e-4,
    device: str = "cpu",
    validate: Callable[[nn.Module], float] | None = None,
    checkpoint: Path | None = None,
    every_s: float = 60.0,
    ema: float = 0.99,
    clip: float = 1.0,
    slower: Mapping[str, float] | None = None,
    key: Mapping[str, Any] | None = None,
) -> Curves:
    """Train a network in place; at the end it has the averaged weights.

    The batch of a step depends on the seed and the step only, so a training that was killed and resumed from its checkpoint
    ends with the same bytes as one that was not (on a CPU, at one number of threads).

    Parameters
    ----------
    network : nn.Module
        With its first weights; moved to `device`.
    sampler, loss : callable
        ``loss(output, target)`` is a scalar.
    steps : int
        Steps of the optimiser; the learning rate follows them.
    seed : int
    minutes : float
        Upper bound of the wall-clock time: a training that it ends depends on the machine.
    rate : float
        Largest learning rate, after a warm-up of a twentieth of the steps; a cosine to zero follows.
    validate : callable, optional
        Called at each fifth of the steps with the network holding the averaged weights.
    checkpoint : path, optional
        A file without suffix: ``.safetensors`` and ``.json`` beside each other, written every `every_s` seconds and at
        the end; read when they are there and belong to the same training.
    ema : float
        Share of the old average kept at each step (less in the first steps).
    clip : float
        Largest norm of the gradient.
    slower : mapping, optional
        Beginnings of names of parameters, and the share of the learning rate that these take.
    key : mapping, optional
        What else makes it the same training (data, settings); plain values.

    Returns
    -------
    Curves
    """
    import torch

    network.to(device).train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    shares = slower or {}
    groups: dict[float, list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(next((share for prefix, share in shares.items() if name.startswith(prefix)), 1.0), []).append(parameter)
    optimiser = torch.optim.AdamW([{"params": members, "share": share} for share, members in groups.items()], lr=rate, weight_decay=1e-4)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    identity = _identity(network, steps, seed, rate, ema, clip, [slower, key])
    curves, losses, first = Curves(), [], 0
    if checkpoint is not None:
        first, losses, curves.validation = _resume(checkpoint, identity, network, optimiser, average)
    began = saved = time.monotonic()
    done = first
    for step in range(first, steps):
        if (time.monotonic() - began) / 60 > minutes:
            curves.stopped = "minutes"
            break
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"] * schedule(step, steps)
        source, target = (torch.from_numpy(part).to(device) for part in sampler(np.random.default_rng([seed, step])))
        optimiser.zero_grad(set_to_none=True)
        value = loss(network(source), target)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimiser.step()
        keep = min(ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, new in network.state_dict().items():
                average[name].copy_(torch.lerp(average[name], new, 1 - keep) if new.is_floating_point() else new)
        losses.append(float(value.detach()))
        done = step + 1
        if done % max(1, steps // 20) == 0:
            LOG.info("step %d of %d, loss %.4g, %.0f s", done, steps, np.mean(losses[-max(1, steps // 20) :]), time.monotonic() - began)
        if validate is not None and (done % max(1, steps // 5) == 0):
            curves.validation.append([done, _with_average(network, average, validate)])
        if checkpoint is not None and time.monotonic() - saved > every_s:
            _save(checkpoint, identity, network, optimiser, average, done, losses, curves.validation)
            saved = time.monotonic()
    curves.steps = done
    curves.seconds = time.monotonic() - began
    width = max(1, -(-len(losses) // 10))
    curves.loss = [float(np.mean(losses[i : i + width])) for i in range(0, len(losses), width)]
    if checkpoint is not None:
        _save(checkpoint, identity, network, optimiser, average, done, losses, curves.validation)
    network.load_state_dict(average)
    network.eval()
    return curves


def schedule(step: int, steps: int) -> float:
    """Return the share of the largest learning rate at a step: linear warm-up, then a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def fresh(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a network whose first weights come from the seed, without touching torch's own generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def squared_error(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error."""
    return ((made - target) ** 2).mean()


def forget(checkpoint: Path) -> None:
    """Remove the checkpoint of a training that is over."""
    for suffix in (".safetensors", ".json"):
        checkpoint.with_suffix(suffix).unlink(missing_ok=True)


def _with_average(network: nn.Module, average: Mapping[str, torch.Tensor], validate: Callable[[nn.Module], float]) -> float:
    """Validate the averaged weights and go back to the others."""
    import torch

    kept = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(average)
    network.eval()
    with torch.inference_mode():
        value = float(validate(network))
    network.load_state_dict(kept)
    network.train()
    return value


def _identity(network: nn.Module, steps: int, seed: int, rate: float, ema: float, clip: float, key: Any) -> str:
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    whole = json.dumps([shapes, steps, seed, rate, ema, clip, key], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


def _save(
    path: Path,
    identity: str,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Mapping[str, torch.Tensor],
    step: int,
    losses: list[float],
    validation: list[list[float]],
) -> None:
    """Write both files; the second names the hash of the first, so a kill between them leaves nothing that is taken for whole."""
    from safetensors.torch import save

    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": state[name] for name in STATE}
    raw = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    note = {"identity": identity, "sha256": hashlib.sha256(raw).hexdigest(), "step": step, "losses": losses, "validation": validation}
    for suffix, content in ((".safetensors", raw), (".json", json.dumps(note).encode())):
        with atomic_path(path.with_suffix(suffix)) as temporary:
            temporary.write_bytes(content)


def _resume(
    path: Path, identity: str, network: nn.Module, optimiser: torch.optim.Optimizer, average: Mapping[str, torch.Tensor]
) -> tuple[int, list[float], list[list[float]]]:
    """Take up a checkpoint; start anew when there is none, or one of another training, or half of one."""
    import torch
    from safetensors.torch import load

    if not (path.with_suffix(".json").is_file() and path.with_suffix(".safetensors").is_file()):
        return 0, [], []
    note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    raw = path.with_suffix(".safetensors").read_bytes()
    if note["identity"] != identity or note["sha256"] != hashlib.sha256(raw).hexdigest():
        return 0, [], []
    tensors = load(raw)
    network.load_state_dict({name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")})
    for name, value in average.items():
        value.copy_(tensors[f"average.{name}"])
    state = optimiser.state_dict()
    count = sum(len(group["params"]) for group in state["param_groups"])
    state["state"] = {
        index: {"step": torch.tensor(float(note["step"])), **{name: tensors[f"optimiser.{index}.{name}"] for name in STATE}}
        for index in range(count)
    }
    optimiser.load_state_dict(state)
    return int(note["step"]), list(note["losses"]), list(note["validation"])
