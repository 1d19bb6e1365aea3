"""Joint training of a registration network and two segmentation networks, in turns.

MC-RSNet as the review in IEEE Access 2023 (doi:10.1109/ACCESS.2023.3313977, IV.D) describes it; the single-modality twin is
DeepAtlas (Xu and Niethammer, MICCAI 2019). M pairs, N <= M of them with labels:

1. the registration learns from all pairs (E_msMIND and smoothness), the segmentations from the labelled ones (E_dice);
2. registration turn, segmentations frozen: E_msMIND + smooth + a E_dice (labelled) + b E_consistency (the others);
3. segmentation turn, registration frozen: a E_dice (labelled) + b E_consistency (the others);
4. again from 2, until no network's validation score has risen for `patience` rounds, or the rounds or the minutes are used up.

Each network is kept as its own validation score was best: for a user each works alone, and what brings one of them further may cost
another. A network that learns alone has a checkpoint of its own, the turns have one together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.errors import Refused
from cohortex.inference import channels_last
from cohortex.items import DEMO_SITE, Image
from cohortex.models import registry
from cohortex.models.regseg.similarity import similarity_of
from cohortex.training import cards
from cohortex.training.checkpoint import (
    Checkpoint,
    generator_state,
    open_journal,
    optimiser_tensors,
    restore_optimiser,
    tensors_of,
    tensors_under,
)
from cohortex.training.loop import Clock, take_steps
from cohortex.training.regseg_data import Material, gather
from cohortex.training.regseg_losses import (
    Nets,
    Run,
    draw,
    evaluate,
    labelled_batch,
    labelled_loss,
    learnt_from,
    predict,
    registration_loss,
    segmentation_loss,
)
from cohortex.training.team import team

LOG = logging.getLogger("cohortex.training")

VALIDATED = 8
"""Validation pairs that are looked at after a round; the last measurement uses all."""
SETTLING = 60
"""Batches over which the running means of the batch norms are taken anew."""


@dataclass
class Place:
    """Where the turns stand: the round, the network whose turn it is, its steps; the pairs of this process's round (None: not begun).

    `worse` counts the last rounds in which no network did better than ever before; `best` has every network's highest score.
    """

    round: int = 0
    part: int = 0
    step: int = 0
    worse: int = 0
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    chosen: list[int] | None = None


def train_regseg(images: Sequence[Image], section: Mapping[str, Any], seed: int, device: str, folder: Path) -> None:
    """Train on the images of the stage before and write one model folder.

    Parameters
    ----------
    images : sequence of Image
        Of training and validation subjects (``row["split"]``), labels among them (role ``labels``).
    section : mapping
        The section ``regseg``; its ``default`` has the networks, spacings, weights of the losses and the budget.
    seed : int
    device : {"cpu", "cuda"}
    folder : Path
        Gets ``card.yaml`` and ``model.safetensors``; checkpoints lie beside it while the training runs.

    Raises
    ------
    Refused
        When no pair or no labels are there.
    """
    from cohortex.training.regseg_card import card_of
    from cohortex.training.regseg_quality import quality_of
    from cohortex.training.supervised import leave_model

    settings = section["default"]
    budget = settings["training"]
    clock = Clock(float(budget["minutes"]))
    torch.manual_seed(seed % 2**63)
    material = gather(images, settings, seed)
    nets = _networks(settings, material, device)
    run = Run(
        material,
        nets,
        budget["weights"],
        similarity_of(budget["similarity"], settings["deformable"]["scales"]),
        int(budget["crop"]),
        int(budget["register_crop"]),
        int(budget["batch"]),
        float(budget["rate"]),
        device,
        team().generator(seed),
        clock,
        turn_rate=float(budget["turn_rate"]),
        linked=bool(budget["linked"]),
        predicted=int(budget["predicted"]),
        journal=open_journal(folder, images, section, seed),
    )
    if budget["pretrain"]:
        pretrain(run, int(budget["steps"]), int(budget["segment_steps"]))
    history = alternate(run, int(budget["rounds"]), int(budget["turn"]), int(budget["patience"]))
    nets.freeze_all_but()
    final = evaluate(run, run.split("validation") or run.split("train"))
    ran = cards.how_it_ran(device, {"register": 1, "segment": run.batch}, run.steps, run.journal)
    if not team().leads:
        return
    demo = all(image.row.get("site") == DEMO_SITE for image in images)
    card = card_of(run.material, settings, seed, history, final, clock.over(), demo)
    card["extra"]["quality"] = quality_of(run, float(settings["segment_spacing_mm"]), seed)
    leave_model(folder, {**card, "recipe": {**card["recipe"], "run": ran}}, nets.state(), run.journal)


def _networks(settings: Mapping[str, Any], material: Material, device: str) -> Nets:
    register = registry.build("regseg", settings["network"]["name"], **settings["network"].get("options", {}))
    given = {**settings["segment_network"].get("options", {}), "channels": 1, "classes": material.classes}
    name, shared = settings["segment_network"]["name"], bool(settings["segment_network"].get("shared"))
    if registry.expected(registry.entry("segment", name), given).dimensions != 3:
        raise Refused(
            f"regseg.default.segment_network: {name} is a network of two dimensions, and volumes are segmented; give it the option "
            "dimensions: 3, or name another one."
        )
    modalities = sorted(set(material.modalities))
    made = [channels_last(registry.build("segment", name, **given).to(device)) for _ in (modalities[:1] if shared else modalities)]
    return Nets(register.to(device), dict(zip(modalities, made * len(modalities) if shared else made, strict=False)))


def pretrain(run: Run, steps: int, segment_steps: int) -> None:
    """Step 1: the registration alone on all pairs, each segmentation alone on the labelled images."""
    pretrain_registration(run, steps)
    pretrain_segmentations(run, segment_steps)


def pretrain_registration(run: Run, steps: int) -> None:
    """Let the registration learn from all pairs, by the similarity alone."""
    run.nets.freeze_all_but(run.nets.register)
    note, checkpoint, keep = _take_up(run, "register")
    _repeat(
        run,
        "register",
        steps,
        lambda: registration_loss(run, draw(run, run.split("train")), pretraining=True),
        first=note["step"],
        schedule=_schedule,
        checkpoint=checkpoint,
        keep=keep,
    )
    keep(run.steps["register"])


def pretrain_segmentations(run: Run, steps: int) -> None:
    """Let each segmentation learn from the labelled images."""
    run.nets.freeze_all_but(*run.nets.segment.values())
    names = [name for name in run.nets.learners() if name != "register"]
    # The networks know nothing of each other yet: side by side on a thread each they are done in two thirds of the time. Several
    # processes speak to each other after every step, of one network at a time.
    threads = torch.get_num_threads()
    workers = min(threads, len(names)) if run.device == "cpu" and team().size == 1 else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)) as pool:
        own = [replace(run, rng=rng) for rng in run.rng.spawn(len(names))]
        list(pool.map(_pretrain_segmentation, own, names, [steps] * len(own)))
    torch.set_num_threads(threads)


def _take_up(run: Run, name: str) -> tuple[dict[str, Any], Checkpoint, Callable[[int], None]]:
    """Bring a network that learns alone to where its checkpoint has it.

    Returns
    -------
    note : dict
        Goes into the checkpoint; ``step`` says how many steps are done.
    checkpoint : Checkpoint
    keep : callable
        ``keep(done)`` writes it.
    """
    network, checkpoint = run.nets.named()[name], run.journal.of(name)
    optimiser = run.optimiser(network)
    note: dict[str, Any] = {"step": 0}
    found = checkpoint.load()
    if found is not None:
        tensors, note = found
        network.load_state_dict(tensors_of("network", tensors))
        restore_optimiser(optimiser, tensors_of("optimiser", tensors))
        run.rng.bit_generator.state = note["ranks"][team().rank]
        run.clock.used_s = max(run.clock.used_s, note["seconds"])
    run.steps[name] = note["step"]

    def keep(done: int) -> None:
        note.update(step=done, seconds=run.clock.seconds(), ranks=team().gather(generator_state(run.rng)))
        tensors = tensors_under("network", network.state_dict()) | tensors_under("optimiser", optimiser_tensors(optimiser))
        checkpoint.save(tensors, note)

    return note, checkpoint, keep


def _pretrain_segmentation(run: Run, name: str, steps: int) -> None:
    network, learnt = run.nets.named()[name], round(0.6 * steps)
    note, checkpoint, keep = _take_up(run, name)
    network.train()
    if not note.get("settled"):
        # Rare labels are weighed up until they are found, and then no longer, or there would be too much of them.
        weights = _class_weights(run, network)
        _repeat(
            run,
            name,
            learnt,
            lambda: labelled_loss(run, network, weights),
            first=note["step"],
            batch=run.batch,
            schedule=lambda share: _schedule(0.6 * share),
            checkpoint=checkpoint,
            keep=keep,
        )
        # A crop is not a head: the last part is learnt with the norms fixed, as they are when a whole image is segmented.
        _settle(run, network)
        note["settled"] = True
    network.eval()
    _repeat(
        run,
        name,
        steps - learnt,
        lambda: labelled_loss(run, network),
        first=max(0, note["step"] - learnt),
        batch=run.batch,
        schedule=lambda share: _schedule(0.6 + 0.4 * share),
        checkpoint=checkpoint,
        keep=lambda done: keep(learnt + done),
    )
    keep(run.steps[name])


def _class_weights(run: Run, network: nn.Module) -> torch.Tensor:
    """Return a weight for every class, by the root of how rare it is, at most 20, the mean over voxels 1 before that limit."""
    counts = sum(np.bincount(i.labels.ravel(), minlength=run.material.classes) for i in learnt_from(run, network))
    share = np.maximum(counts / np.sum(counts), 1e-9)
    weights = share**-0.5 / np.sum(share**0.5)
    return torch.from_numpy(np.minimum(weights, 20.0).astype(np.float32)).to(run.device)


def _schedule(share: float) -> float:
    """Return the learning rate as a part of the highest: a tenth of the steps up, a cosine down to 5 %, where the turns go on."""
    return share / 0.1 if share < 0.1 else 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


@torch.no_grad()
def _settle(run: Run, network: nn.Module) -> None:
    """Give the batch norms the plain means over some batches instead of the running ones, which follow the last few."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    for count in range(1, SETTLING + 1 if norms else 1):
        for norm in norms:
            norm.momentum = 1 / count
        network(labelled_batch(run, network)[0])
    team().average([b for b in network.buffers() if b.is_floating_point()], 1 / team().size)


def alternate(run: Run, rounds: int, turn: int, patience: int) -> list[dict[str, float]]:
    """Steps 2 to 4; leaves every network as its best round had it and returns the validation scores, pre-training first."""
    looked_at = (run.split("validation") or run.split("train"))[:VALIDATED]
    run.nets.freeze_all_but()
    cases, networks, checkpoint = run.split("train"), run.nets.learners(), run.journal.of("turns")
    rate = None if run.turn_rate is None else run.turn_rate / run.rate
    place, kept = _where_it_stood(run, checkpoint)
    if not place.history:
        place.history.append(_score(evaluate(run, looked_at)))
        _tell(place.history)
        place.best, kept = _own_scores(run, place.history[0]), run.nets.state()

    def keep(step: int) -> None:
        place.step = step
        tensors = tensors_under("networks", run.nets.state()) | tensors_under("kept", kept)
        for name, network in networks.items():
            tensors |= tensors_under(f"optimiser.{name}", optimiser_tensors(run.optimiser(network)))
        own = {"rng": generator_state(run.rng), "chosen": place.chosen}
        note = {"place": asdict(place), "steps": run.steps, "seconds": run.clock.seconds(), "ranks": team().gather(own)}
        checkpoint.save(tensors, note)

    while place.round < rounds:
        if place.chosen is None:
            if team().agree(run.clock.over()) or place.worse >= patience:
                break
            place.chosen = [int(i) for i in run.rng.permutation(len(cases))[:turn]]
        chosen = [cases[i] for i in place.chosen]
        for name, network in list(networks.items())[place.part :]:
            loss_of = lambda n=network: segmentation_loss(run, n)  # noqa: E731
            if name == "register":
                run.flows.clear()
                predict(run, [c for c in chosen if not c.labelled][: run.predicted] if run.linked else [])
                usable = [c for c in chosen if c.labelled or c.subject in run.soft or not run.linked]
                loss_of = lambda cases=usable: registration_loss(run, draw(run, cases))  # noqa: E731
            run.nets.freeze_all_but(network)
            batch = 1 if name == "register" else run.batch
            schedule = None if rate is None else (lambda share, rate=rate: rate)
            _repeat(run, name, turn, loss_of, first=place.step, batch=batch, schedule=schedule, checkpoint=checkpoint, keep=keep)
            place.part, place.step = place.part + 1, 0
        run.nets.freeze_all_but()
        place.history.append(_score(evaluate(run, looked_at)))
        _tell(place.history)
        better = {name: score for name, score in _own_scores(run, place.history[-1]).items() if score > place.best[name]}
        place.best |= better
        kept |= {name: t for name, t in run.nets.state().items() if any(_is_of(run, name, part) for part in better)}
        place.worse = 0 if better else place.worse + 1
        place.round, place.part, place.chosen = place.round + 1, 0, None
    keep(0)
    run.nets.restore(kept)
    return place.history


def _where_it_stood(run: Run, checkpoint: Checkpoint) -> tuple[Place, dict[str, torch.Tensor]]:
    """Bring the networks to where the checkpoint of the turns has them; return the place and the best weights."""
    found = checkpoint.load()
    if found is None:
        return Place(), {}
    tensors, note = found
    run.nets.restore(tensors_of("networks", tensors))
    for name, network in run.nets.learners().items():
        restore_optimiser(run.optimiser(network), tensors_of(f"optimiser.{name}", tensors))
    own = note["ranks"][team().rank]
    run.rng.bit_generator.state = own["rng"]
    run.steps.update(note["steps"])
    run.clock.used_s = max(run.clock.used_s, note["seconds"])
    return Place(**{**note["place"], "chosen": own["chosen"]}), tensors_of("kept", tensors)


def _is_of(run: Run, tensor: str, learner: str) -> bool:
    """Return whether a tensor of `Nets.state` is of a network of `Nets.learners`, which may go by two names."""
    named = run.nets.named()
    return any(tensor.startswith(f"{name}.") for name, network in named.items() if network is named[learner])


def _own_scores(run: Run, score: Mapping[str, float]) -> dict[str, float]:
    """Return for every network of `Nets.learners` what it alone is answerable for in a validation score (see `_score`).

    Dice of labels carried over for the registration, without any the folding; Dice of its modalities for a segmentation. What was not
    measured counts as the score of all.
    """
    own: dict[str, float] = {}
    for learner, network in run.nets.learners().items():
        if learner == "register":
            own[learner] = score.get("dice_after", -score.get("folding_percent", 0.0))
        else:
            dices = [score.get(f"dice_{m}", score["score"]) for m, each in run.nets.segment.items() if each is network]
            own[learner] = float(np.mean(dices))
    return own


def _tell(history: Sequence[Mapping[str, float]]) -> None:
    LOG.info("round %d: %s", len(history) - 1, ", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))


def _score(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over pairs, and their mean as the score: overlap after registration and of each segmentation."""
    names = sorted({k for r in rows for k in r})
    means = {k: float(np.nanmean([r[k] for r in rows if k in r])) for k in names}
    counted = [v for k, v in means.items() if k == "dice_after" or (k.startswith("dice_") and k.count("_") == 1 and k != "dice_before")]
    return {"score": float(np.mean(counted)) if counted else -means.get("folding_percent", 0.0), **means}


def _repeat(
    run: Run,
    name: str,
    steps: int,
    loss_of: Callable[[], torch.Tensor],
    *,
    first: int = 0,
    batch: int = 1,
    schedule: Callable[[float], float] | None = None,
    checkpoint: Checkpoint | None = None,
    keep: Callable[[int], None] | None = None,
) -> None:
    """Take the steps of a network; `schedule` gives the learning rate, as a part of the highest, by the share of the steps that is done."""
    network = run.nets.named()[name]

    def count(done: int, loss: float) -> None:
        run.steps[name] = run.steps.get(name, 0) + 1

    take_steps(
        network,
        run.optimiser(network),
        lambda step: loss_of(),
        steps,
        called=name,
        device=run.device,
        first=first,
        batch=batch,
        rate=None if schedule is None else lambda step: schedule((step + 1) / steps),
        over=run.clock.over,
        after=count,
        checkpoint=checkpoint,
        keep=keep,
    )
