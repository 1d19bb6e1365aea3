"""The loop of all trainings: a step, its gradient averaged over the processes, checkpoints, the end of an attempt.

`take_steps` is used by every training; `fit` trains one network with it, by an objective that may have networks of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cohortex.training.checkpoint import Checkpoint, optimiser_tensors, restore_optimiser, tensors_of, tensors_under
from cohortex.training.limit import Interrupted
from cohortex.training.team import team

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cohortex.training.objectives.objective import Objective

Sampler = Callable[[np.random.Generator, int], "tuple[Any, Any]"]
"""Given a generator and how many examples it draws a batch: input and target, both (examples, channels, ...) float32 arrays, or tuples of
such arrays where a network takes several, or an objective looks at several targets."""

LOG = logging.getLogger("cohortex.training")


@dataclass
class Clock:
    """The time that a training may take, over all its attempts.

    Attributes
    ----------
    minutes : float
    used_s : float
        Seconds of the attempts before this one.
    """

    minutes: float = float("inf")
    used_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return the seconds that were used."""
        return self.used_s + time.monotonic() - self.began

    def over(self) -> bool:
        """Return whether the time is up."""
        return self.seconds() > 60 * self.minutes


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
    told : dict
        What the objective told of its own (`Objective.told`), by name; the means of each tenth as for the loss.
    stopped : str
        ``steps`` or ``minutes``.
    seconds : float
        Wall-clock time of all attempts.
    """

    steps: int = 0
    loss: list[float] = field(default_factory=list)
    validation: list[list[float]] = field(default_factory=list)
    told: dict[str, list[float]] = field(default_factory=dict)
    stopped: str = "steps"
    seconds: float = 0.0

    def recipe(self) -> dict[str, Any]:
        """Return what a card says of it; no times, so that the same seed gives the same card."""
        own = {name: [_short(v) for v in values] for name, values in self.told.items()}
        curves = {"loss": [_short(v) for v in self.loss], **({"of_objective": own} if own else {})}
        if self.validation:
            curves["validation"] = [[step, _short(value)] for step, value in self.validation]
        return {"steps_done": self.steps, **curves, "stopped": self.stopped}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def take_steps(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[int], torch.Tensor],
    steps: int,
    *,
    called: str,
    device: str,
    first: int = 0,
    batch: int = 1,
    rate: Callable[[int], float] | None = None,
    clip: float = 1.0,
    before: Callable[[int], None] | None = None,
    over: Callable[[], bool] = lambda: False,
    after: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
    keep: Callable[[int], None] | None = None,
) -> int:
    """Take the steps of an optimiser, with all processes of the team.

    Every process draws its own share of a step's batch; gradients, the loss and the running means of norms are averaged over the
    processes by what each looked at, so that all have the same weights after every step.

    Parameters
    ----------
    network : nn.Module
        Whose parameters with ``requires_grad`` the optimiser has.
    loss : callable
        ``loss(step)``, a scalar: the mean over this process's share of the batch.
    steps, first : int
        Step `first` is the first one to take, ``steps - 1`` the last.
    called : str
        What is trained, for the log.
    device : str
    batch : int
        Examples of a step in all processes together, see `Team.share`.
    rate : callable, optional
        The learning rate of a step, as a share of the optimiser's (or of a group's ``largest``). None leaves it as it is.
    clip : float
        Largest norm of the averaged gradient.
    before : callable, optional
        ``before(step)`` before the network's own turn: that of the networks which an objective has beside it, see `take_turn`.
    over : callable
        Whether the training's own time is up: the first process decides for all.
    after : callable, optional
        ``after(done, loss)`` after each step, `loss` being the mean over the whole batch.
    checkpoint : Checkpoint, optional
        Says when it is time for `keep`.
    keep : callable, optional
        ``keep(done)`` writes the checkpoint; all processes call it.

    Returns
    -------
    int
        Steps done: fewer than `steps` when the time was up.

    Raises
    ------
    Interrupted
        When the attempt has to end (`Team.limit`), after at least one step and a checkpoint.
    CohortexError
        When the processes have come to different weights.
    """
    import torch

    now, done, began = team(), first, time.monotonic()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    weight = weight_of(batch)
    losses: list[float] = []
    said = max(1, steps // 20)
    if first >= steps or now.agree(over()):
        return done
    with now.limit.stepping():
        while done < steps:
            if rate is not None:
                for group in optimiser.param_groups:
                    group["lr"] = group.get("largest", optimiser.defaults["lr"]) * rate(done)
            if before is not None:
                before(done)
            optimiser.zero_grad(set_to_none=True)
            with now.autocast(device):
                value = loss(done)
            value.backward()
            words = [
                float(now.limit.reached()),
                float(now.leads and checkpoint is not None and checkpoint.due()),
                float(now.leads and over()),
            ]
            mean, words = _together(network, parameters, value, weight, words)
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            done += 1
            losses.append(mean)
            if after is not None:
                after(done, mean)
            if done % said == 0:
                LOG.info("%s: step %d of %d, loss %.4g, %.0f s", called, done, steps, np.mean(losses[-said:]), time.monotonic() - began)
            ends, due, late = words
            if keep is not None and (ends or due):
                keep(done)
            if ends:
                a_step_s = (time.monotonic() - began) / (done - first)
                raise Interrupted(
                    f"{called}: step {done} of {steps}, since {now.limit.reason()}; the rest of this part takes about "
                    f"{max(1, round((steps - done) * a_step_s / 60))} minutes"
                )
            if late:
                break
    now.confirm(network.state_dict())
    return done


def weight_of(batch: int) -> float:
    """Return the share of a step's batch that this process looks at; all processes call it."""
    now = team()
    return now.share(batch) / sum(now.gather(now.share(batch)))


def take_turn(network: nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor, weight: float, clip: float | None = None) -> float:
    """Take one step of a network that an objective has beside the trained one, with all processes of the team.

    Parameters
    ----------
    network : nn.Module
        Whose parameters with ``requires_grad`` the optimiser has.
    loss : tensor
        Scalar, the mean over this process's share of the batch.
    weight : float
        See `weight_of`.
    clip : float, optional
        Largest norm of the averaged gradient.

    Returns
    -------
    float
        The loss over the whole batch.
    """
    import torch

    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    mean, _ = _together(network, parameters, loss, weight, [])
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    optimiser.step()
    return mean


def _together(
    network: nn.Module, parameters: list[nn.Parameter], loss: torch.Tensor, weight: float, words: list[float]
) -> tuple[float, list[float]]:
    """Average gradients, running means and the loss over the team; return the loss, and which words any of the processes said."""
    import torch

    now = team()
    if now.size == 1:
        return float(loss.detach()), words
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    means = [each for each in network.buffers() if each.is_floating_point()] if network.training else []
    # What is said is divided by the weight here, so that the sum has it once for each who says it.
    told = torch.tensor([float(loss.detach()), *(word / weight for word in words)], device=loss.device)
    now.average([*(p.grad for p in parameters if p.grad is not None), *means, told], weight)
    mean, *said = told.tolist()
    return mean, [float(word > 0.5) for word in said]


def fit(
    network: nn.Module,
    sampler: Sampler,
    objective: Objective | Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    steps: int,
    seed: int,
    batch: int = 1,
    minutes: float = float("inf"),
    rate: float = 6e-4,
    device: str = "cpu",
    validate: Callable[[nn.Module], float] | None = None,
    checkpoint: Checkpoint | None = None,
    ema: float = 0.99,
    clip: float = 1.0,
    slower: Mapping[str, float] | None = None,
    optimiser: Literal["adamw", "muon"] = "adamw",
) -> Curves:
    """Train a network in place: warm-up and cosine, clipped gradients; at the end it has the averaged weights.

    The batch of a step depends on the seed, the step and the number of the process only, so a training that was killed and resumed
    from its checkpoint ends with the same bytes as one that was not (on a CPU, at one number of threads).

    Parameters
    ----------
    network : nn.Module
        With its first weights, the same in all processes; moved to `device`.
    sampler : callable
    objective : Objective or callable
        What is made small (`cohortex.training.objectives`), whose own networks learn beside this one and are in the checkpoint; or a
        plain ``loss(output, target)``, a scalar.
    steps : int
        Steps of the optimiser; the learning rate follows them.
    seed : int
    batch : int
        Examples of a step, in all processes together.
    minutes : float
        Upper bound of the wall-clock time of all attempts: a training that it ends depends on the machine.
    rate : float
        Largest learning rate, after a warm-up of a twentieth of the steps; a cosine to zero follows.
    validate : callable, optional
        Called at each fifth of the steps with the network holding the averaged weights.
    checkpoint : Checkpoint, optional
        Read when it is there, written now and then and at the end.
    ema : float
        Share of the old average kept at each step (less in the first steps).
    clip : float
        Largest norm of the gradient.
    slower : mapping, optional
        Beginnings of names of parameters, and the share of the learning rate that these take.
    optimiser : {"adamw", "muon"}
        adamw: that of the objective, AdamW where it has no other; muon: `cohortex.training.muon.muon`.

    Returns
    -------
    Curves

    Raises
    ------
    Interrupted
        See `take_steps`.
    """
    import torch

    from cohortex.training.muon import muon
    from cohortex.training.objectives.objective import Objective, Plain, Start

    network.to(device).train()
    shares = slower or {}
    groups: dict[float, list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(next((share for prefix, share in shares.items() if name.startswith(prefix)), 1.0), []).append(parameter)
    members = [{"params": some, "largest": rate * share} for share, some in groups.items()]
    checkpoint, clock = checkpoint or Checkpoint(), Clock(minutes)
    aim = objective if isinstance(objective, Objective) else Plain(objective)
    aim.begin(Start(network, sampler, steps, batch, rate, seed, device, checkpoint))
    steps_by = muon(network, members, rate) if optimiser == "muon" else aim.optimiser(members, rate)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    curves, losses, told, first = Curves(), [], {}, 0
    found = checkpoint.load()
    if found is not None:
        tensors, note = found
        network.load_state_dict(tensors_of("network", tensors))
        for name, value in tensors_of("average", tensors).items():
            average[name].copy_(value)
        restore_optimiser(steps_by, tensors_of("optimiser", tensors))
        aim.restore(tensors_of("objective", tensors))
        first, losses, curves.validation, told, clock.used_s = (note[key] for key in ("step", "losses", "validation", "told", "seconds"))
    drawn: list[tuple[Any, Any]] = []

    def before(step: int) -> None:
        rng = np.random.default_rng(team().stream(seed, step))
        drawn[:] = [on_device(device, sampler(rng, team().share(batch))) for _ in range(aim.draws)]
        aim.before(network, drawn[1:], step, schedule(step, steps))

    def loss_of(step: int) -> torch.Tensor:
        return aim.loss(network, *drawn[0], step)

    def after(done: int, mean: float) -> None:
        kept = min(ema, done / (9 + done))
        with torch.no_grad():
            for name, new in network.state_dict().items():
                average[name].copy_(torch.lerp(average[name], new, 1 - kept) if new.is_floating_point() else new)
        losses.append(mean)
        for name, value in aim.told().items():
            told.setdefault(name, []).append(value)
        if validate is not None and done % max(1, steps // 5) == 0:
            curves.validation.append([done, _with_average(network, average, validate)])

    def keep(done: int) -> None:
        tensors = tensors_under("network", network.state_dict()) | tensors_under("average", average)
        tensors |= tensors_under("objective", aim.state()) | tensors_under("optimiser", optimiser_tensors(steps_by))
        note = {"step": done, "losses": losses, "validation": curves.validation, "told": told, "seconds": clock.seconds()}
        checkpoint.save(tensors, note)

    curves.steps = take_steps(
        network,
        steps_by,
        loss_of,
        steps,
        called="training",
        device=device,
        first=first,
        batch=batch,
        rate=lambda step: schedule(step, steps),
        clip=clip,
        before=before,
        over=clock.over,
        after=after,
        checkpoint=checkpoint,
        keep=keep,
    )
    for own in aim.networks().values():
        team().confirm(own.state_dict())
    if curves.steps > first:
        keep(curves.steps)
    curves.stopped = "steps" if curves.steps == steps else "minutes"
    curves.seconds = clock.seconds()
    curves.loss, curves.told = _tenths(losses), {name: _tenths(values) for name, values in told.items()}
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


def on_device(device: str, drawn: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return a batch as tensors on a device; arrays in tuples too."""
    import torch

    def moved(part: Any) -> Any:
        return tuple(map(moved, part)) if isinstance(part, tuple) else torch.from_numpy(part).to(device)

    source, target = drawn
    return moved(source), moved(target)


def _tenths(values: list[float]) -> list[float]:
    """Return the means of ten stretches of a list."""
    width = max(1, -(-len(values) // 10))
    return [float(np.mean(values[i : i + width])) for i in range(0, len(values), width)]


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
