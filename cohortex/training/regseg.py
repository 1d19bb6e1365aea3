"""Joint training of a registration network and two segmentation networks, in turns.

MC-RSNet as the review in IEEE Access 2023 (doi:10.1109/ACCESS.2023.3313977, IV.D) describes it; the single-modality twin is
DeepAtlas (Xu and Niethammer, MICCAI 2019). M pairs, N <= M of them with labels:

1. the registration learns from all pairs (E_msMIND and smoothness), the segmentations from the labelled ones (E_dice);
2. registration turn, segmentations frozen: E_msMIND + smooth + a E_dice (labelled) + b E_consistency (the others);
3. segmentation turn, registration frozen: a E_dice (labelled) + b E_consistency (the others);
4. again from 2, until the validation score has not risen for `patience` rounds, or the rounds or the minutes are used up.

The best round by the validation score is kept.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.inference import channels_last
from cohortex.items import DEMO_SITE, Image
from cohortex.measures.registration import folding_percent
from cohortex.measures.segmentation import dice, mean_of
from cohortex.models import registry
from cohortex.models.regseg.deform import displaced_mind_loss
from cohortex.models.regseg.losses import consistency_loss, dice_loss, diffusion, folding_loss, foreground_kept, soft_dice
from cohortex.models.regseg.segment import class_probabilities
from cohortex.models.regseg.warp import sample, warp
from cohortex.training.regseg_data import (
    Case,
    Labelled,
    Material,
    bent_pair,
    coarser,
    gather,
    labelled_crop,
    one_hot,
    other_contrast,
    soft_labels,
)

LOG = logging.getLogger("cohortex.training")

VALIDATED = 8
"""Validation pairs that are looked at after a round; the last measurement uses all."""
SETTLING = 60
"""Batches over which the running means of the batch norms are taken anew."""


@dataclass
class Nets:
    """The three networks: one that registers, one a modality that segments."""

    register: nn.Module
    segment: dict[str, nn.Module]

    def freeze_all_but(self, *kept: nn.Module) -> None:
        """Let gradients reach only the networks named. All are in evaluation mode: a batch norm is the fixed map that a user gets."""
        for network in (self.register, *self.segment.values()):
            network.requires_grad_(any(network is k for k in kept)).eval()

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors under ``register.`` and ``segment.<modality>.``."""
        parts = {"register": self.register, **{f"segment.{m}": n for m, n in self.segment.items()}}
        return {f"{part}.{name}": t.detach().clone() for part, network in parts.items() for name, t in network.state_dict().items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        parts = {"register": self.register, **{f"segment.{m}": n for m, n in self.segment.items()}}
        for part, network in parts.items():
            network.load_state_dict({k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")})


@dataclass
class Run:
    """What the turns share."""

    material: Material
    nets: Nets
    weights: Mapping[str, float]
    scales: list[tuple[int, int]]
    crop: int
    register_crop: int
    batch: int
    rate: float
    device: str
    rng: np.random.Generator
    deadline: float
    log: list[dict[str, Any]] = field(default_factory=list)
    soft: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    optimisers: dict[int, torch.optim.Optimizer] = field(default_factory=dict)

    def split(self, split: str) -> list[Case]:
        """Return the pairs of a split."""
        return [c for c in self.material.cases if c.split == split]

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the network's Adam, the same one in every turn."""
        if id(network) not in self.optimisers:
            self.optimisers[id(network)] = torch.optim.Adam(network.parameters(), lr=self.rate)
        return self.optimisers[id(network)]


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
        Gets ``card.yaml`` and ``model.safetensors``.

    Raises
    ------
    Refused
        When no pair or no labels are there.
    """
    from cohortex.models.folder import write_model
    from cohortex.training.regseg_card import card_of

    settings, begun = section["default"], time.monotonic()
    budget = settings["training"]
    torch.manual_seed(seed % 2**63)
    material = gather(images, settings, seed)
    nets = _networks(settings, material, device)
    run = Run(
        material,
        nets,
        budget["weights"],
        [(int(r), int(d)) for r, d in settings["deformable"]["scales"]],
        int(budget["crop"]),
        int(budget["register_crop"]),
        int(budget["batch"]),
        float(budget["rate"]),
        device,
        np.random.default_rng(seed),
        begun + 60 * float(budget["minutes"]),
    )
    pretrain(run, int(budget["steps"]), int(budget["segment_steps"]))
    history = alternate(run, int(budget["rounds"]), int(budget["turn"]), int(budget["patience"]))
    nets.freeze_all_but()
    final = evaluate(run, run.split("validation") or run.split("train"))
    demo = all(image.row.get("site") == DEMO_SITE for image in images)
    card, tensors = card_of(run.material, settings, seed, history, final, time.monotonic() >= run.deadline, demo), nets.state()
    write_model(folder, card, tensors)


def _networks(settings: Mapping[str, Any], material: Material, device: str) -> Nets:
    register = registry.build("regseg", settings["network"]["name"], **settings["network"].get("options", {}))
    given = {**settings["segment_network"].get("options", {}), "channels": 1, "classes": material.classes}
    segment = {m: registry.build("regseg", settings["segment_network"]["name"], **given) for m in sorted(set(material.modalities))}
    return Nets(register.to(device), {m: channels_last(n.to(device)) for m, n in segment.items()})


def pretrain(run: Run, steps: int, segment_steps: int) -> None:
    """Step 1: the registration alone on all pairs, each segmentation alone on the labelled images."""
    run.nets.freeze_all_but(run.nets.register)
    _repeat(run, steps, run.nets.register, lambda: registration_loss(run, _draw(run, run.split("train")), pretraining=True), _schedule)
    run.nets.freeze_all_but(*run.nets.segment.values())
    # The networks know nothing of each other yet: side by side on a thread each they are done in two thirds of the time.
    threads = torch.get_num_threads()
    workers = min(threads, len(run.nets.segment)) if run.device == "cpu" else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),)) as pool:
        own = [replace(run, rng=rng) for rng in run.rng.spawn(len(run.nets.segment))]
        list(pool.map(_pretrain_segmentation, own, run.nets.segment, [segment_steps] * len(own)))
    torch.set_num_threads(threads)


def _pretrain_segmentation(run: Run, modality: str, steps: int) -> None:
    network, learnt = run.nets.segment[modality], round(0.6 * steps)
    network.train()
    # Rare labels are weighed up until they are found, and then no longer, or there would be too much of them.
    weights = _class_weights(run, modality)
    _repeat(run, learnt, network, lambda: _labelled_loss(run, modality, weights), lambda share: _schedule(0.6 * share))
    # A crop is not a head: the last part is learnt with the norms fixed, as they are when a whole image is segmented.
    _settle(run, modality)
    network.eval()
    _repeat(run, steps - learnt, network, lambda: _labelled_loss(run, modality), lambda share: _schedule(0.6 + 0.4 * share))


def _class_weights(run: Run, modality: str) -> torch.Tensor:
    """Return a weight for every class, by the root of how rare it is, at most 20, the mean over voxels 1 before that limit."""
    counts = sum(np.bincount(i.labels.ravel(), minlength=run.material.classes) for i in _learnt_from(run, modality))
    share = np.maximum(counts / np.sum(counts), 1e-9)
    weights = share**-0.5 / np.sum(share**0.5)
    return torch.from_numpy(np.minimum(weights, 20.0).astype(np.float32)).to(run.device)


def _schedule(share: float) -> float:
    """Return the learning rate as a part of the highest: a tenth of the steps up, a cosine down to 5 %, where the turns go on."""
    return share / 0.1 if share < 0.1 else 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (share - 0.1) / 0.9))


@torch.no_grad()
def _settle(run: Run, modality: str) -> None:
    """Give the batch norms the plain means over some batches instead of the running ones, which follow the last few."""
    network = run.nets.segment[modality]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    for count in range(1, SETTLING + 1 if norms else 1):
        for norm in norms:
            norm.momentum = 1 / count
        network(_crops(run, modality)[0])


def alternate(run: Run, rounds: int, turn: int, patience: int) -> list[dict[str, float]]:
    """Steps 2 to 4; leaves the networks of the best round in place and returns the validation scores, pre-training first."""
    looked_at = (run.split("validation") or run.split("train"))[:VALIDATED]
    run.nets.freeze_all_but()
    history = [_score(evaluate(run, looked_at))]
    _tell(history)
    best, kept, worse = history[0]["score"], run.nets.state(), 0
    for _ in range(rounds):
        if time.monotonic() >= run.deadline or worse >= patience:
            break
        cases = run.split("train")
        chosen = [cases[i] for i in run.rng.permutation(len(cases))[:turn]]
        _predict(run, [c for c in chosen if not c.labelled][:8])
        usable = [c for c in chosen if c.labelled or c.subject in run.soft]
        run.nets.freeze_all_but(run.nets.register)
        _repeat(run, turn, run.nets.register, lambda cases=usable: registration_loss(run, _draw(run, cases)))
        for network in run.nets.segment.values():
            run.nets.freeze_all_but(network)
            _repeat(run, turn, network, lambda n=network: segmentation_loss(run, n))
        run.nets.freeze_all_but()
        history.append(_score(evaluate(run, looked_at)))
        _tell(history)
        if history[-1]["score"] > best:
            best, kept, worse = history[-1]["score"], run.nets.state(), 0
        else:
            worse += 1
    run.nets.restore(kept)
    return history


def _tell(history: Sequence[Mapping[str, float]]) -> None:
    LOG.info("round %d: %s", len(history) - 1, ", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))


def registration_loss(run: Run, case: Case, pretraining: bool = False) -> torch.Tensor:
    """Return the loss of the registration turn for one pair; the segmentations enter as fixed soft labels only."""
    soft = None if pretraining else _soft_labels(run, case)
    fixed, moving, mask, soft = _crop(run, *bent_pair(case, run.material.modalities, run.rng, soft, run.device))
    flow = run.nets.register(torch.cat([fixed, moving], dim=1))
    loss = displaced_mind_loss(fixed, moving, flow, run.scales, mask)
    loss = loss + run.weights["smooth"] * diffusion(flow) + folding_loss(flow)
    if soft is not None:
        moved = warp(soft[1], flow)
        if case.labelled:
            loss = loss + run.weights["dice"] * soft_dice(moved, soft[0])
        else:
            loss = loss + run.weights["consistency"] * consistency_loss(moved, soft[0], mask)
    return loss


def _crop(
    run: Run, fixed: torch.Tensor, moving: torch.Tensor, mask: torch.Tensor, soft: tuple[torch.Tensor, torch.Tensor] | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Cut the same cube out of all, around a random place of the mask: a step costs what the cube costs, not what the head does."""
    places = torch.nonzero(mask[0, 0] > 0)
    if not len(places):
        return fixed, moving, mask, soft
    centre = places[int(run.rng.integers(len(places)))].tolist()
    size = [min(run.register_crop, n) for n in mask.shape[2:]]
    low = [min(max(c - s // 2, 0), n - s) for c, s, n in zip(centre, size, mask.shape[2:], strict=True)]
    where = (slice(None), slice(None), *(slice(a, a + s) for a, s in zip(low, size, strict=True)))
    return fixed[where], moving[where], mask[where], None if soft is None else (soft[0][where], soft[1][where])


def segmentation_loss(run: Run, network: nn.Module) -> torch.Tensor:
    """Return the loss of the segmentation turn: a labelled crop of this modality, and a crop of an unlabelled pair."""
    modality = next(m for m, n in run.nets.segment.items() if n is network)
    loss = run.weights["dice"] * _labelled_loss(run, modality)
    unlabelled = [c for c in run.split("train") if not c.labelled] or run.split("train")
    if run.weights["consistency"] > 0:
        loss = loss + run.weights["consistency"] * _consistency_crop(run, network, _draw(run, unlabelled))
    return loss


def _consistency_crop(run: Run, network: nn.Module, case: Case) -> torch.Tensor:
    """Return how far the two segmentations of a crop disagree after the (frozen) registration, for the one network that learns."""
    fine, shape = case.fine_grid, case.fixed_fine.shape
    size = [min(run.crop, n) for n in shape]
    low = [int(run.rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
    cut = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
    crops = [torch.from_numpy(x[cut].astype(np.float32))[None, None].to(run.device) for x in (case.fixed_fine, case.moving_fine)]
    with torch.no_grad():
        pair = torch.cat([torch.from_numpy(x.astype(np.float32))[None, None] for x in (case.fixed, case.moving)], dim=1).to(run.device)
        flow = run.nets.register(pair)
        to_coarse = np.linalg.inv(case.grid.affine) @ fine.affine
        axes = [
            torch.arange(a, a + s, dtype=torch.float32) * float(to_coarse[i, i]) + float(to_coarse[i, 3])
            for i, (a, s) in enumerate(zip(low, size, strict=True))
        ]
        points = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None].to(run.device)
        moved = sample(flow, points, exact=False) * float(case.grid.spacing[0] / fine.spacing[0])
        inside = warp(torch.ones_like(crops[0]), moved, outside="zeros") > 0.99
    fixed_name, moving_name = run.material.modalities
    probabilities = []
    for name, crop in zip((fixed_name, moving_name), crops, strict=True):
        own = run.nets.segment[name]
        seen = other_contrast(crop, name, run.rng) if own is network else crop
        with torch.set_grad_enabled(own is network):
            probabilities.append(torch.softmax(own(seen.contiguous(memory_format=torch.channels_last_3d)), dim=1))
    fixed, moving = probabilities
    loss = consistency_loss(fixed, warp(moving, moved), inside.to(fixed))
    mine, other = (fixed, moving) if network is run.nets.segment[fixed_name] else (moving, fixed)
    # The frozen network says how much foreground there is: the learning one may not empty itself to agree.
    return loss + foreground_kept(mine, other.detach()[:, 1:].sum((1, 2, 3, 4)))


def _learnt_from(run: Run, modality: str) -> list[Labelled]:
    return [i for i in run.material.labelled if i.modality == modality and i.split == "train"]


def _crops(run: Run, modality: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of labelled crops (B, 1, n, n, n) and their labels (B, n, n, n)."""
    items = _learnt_from(run, modality)
    drawn = [labelled_crop(items[int(run.rng.integers(len(items)))], run.crop, run.rng) for _ in range(run.batch)]
    images, labels = torch.cat([image for image, _ in drawn]), torch.stack([known for _, known in drawn])
    return images.to(run.device).contiguous(memory_format=torch.channels_last_3d), labels.to(run.device)


def _labelled_loss(run: Run, modality: str, weights: torch.Tensor | None = None) -> torch.Tensor:
    images, labels = _crops(run, modality)
    logits = run.nets.segment[modality](images)
    entropy = nn.functional.cross_entropy(logits, labels.long(), weight=weights)
    return dice_loss(torch.softmax(logits, dim=1), one_hot(labels, run.material.classes)) + entropy


def _soft_labels(run: Run, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels of both images on the coarse grid: true ones, or what the frozen segmentations said before the turn."""
    if case.labelled and case.subject not in run.soft:
        assert case.fixed_labels is not None
        assert case.moving_labels is not None
        classes = run.material.classes
        run.soft[case.subject] = (
            soft_labels(case.fixed_labels, case.fine_grid, case.grid, classes).to(run.device),
            soft_labels(case.moving_labels, case.fine_grid, case.grid, classes).to(run.device),
        )
    return run.soft[case.subject]


def _predict(run: Run, cases: Sequence[Case]) -> None:
    """Segment both images of unlabelled pairs anew, forgetting what was said before."""
    run.soft = {c.subject: run.soft[c.subject] for c in run.material.cases if c.labelled and c.subject in run.soft}
    run.nets.freeze_all_but()
    for case in cases:
        said = []
        for modality, image in zip(run.material.modalities, (case.fixed_fine, case.moving_fine), strict=True):
            probabilities, _ = class_probabilities(run.nets.segment[modality], image, run.material.classes, run.device)
            said.append(coarser(torch.from_numpy(probabilities[...])[None], case.fine_grid, case.grid).to(run.device))
        run.soft[case.subject] = (said[0], said[1])


@torch.no_grad()
def evaluate(run: Run, cases: Sequence[Case]) -> list[dict[str, float]]:
    """Return for every pair the Dice of labels before and after the network's deformation, of both segmentations, and the folding."""
    results = []
    for case in cases:
        row: dict[str, float] = {}
        pair = torch.cat([torch.from_numpy(x.astype(np.float32))[None, None] for x in (case.fixed, case.moving)], dim=1).to(run.device)
        flow = run.nets.register(pair)
        field_mm = flow[0].permute(1, 2, 3, 0).cpu().numpy() * case.grid.spacing[0]
        row["folding_percent"] = folding_percent(field_mm, case.grid.affine, case.mask)
        if case.labelled:
            fixed, moving = _soft_labels(run, case)
            truth = fixed[0].argmax(0).cpu().numpy()
            row["dice_before"] = mean_of(dice(truth, moving[0].argmax(0).cpu().numpy()))
            row["dice_after"] = mean_of(dice(truth, warp(moving, flow)[0].argmax(0).cpu().numpy()))
        for modality, image, known in zip(
            run.material.modalities, (case.fixed_fine, case.moving_fine), (case.fixed_labels, case.moving_labels), strict=True
        ):
            if known is not None:
                probabilities, _ = class_probabilities(run.nets.segment[modality], image, run.material.classes, run.device)
                scores = dice(known, probabilities[...].argmax(0))
                row[f"dice_{modality}"] = mean_of(scores)
                row.update({f"dice_{modality}_{label}": value for label, value in scores.items()})
        results.append(row)
    return results


def _score(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means over pairs, and their mean as the score: overlap after registration and of each segmentation."""
    names = sorted({k for r in rows for k in r})
    means = {k: float(np.nanmean([r[k] for r in rows if k in r])) for k in names}
    counted = [v for k, v in means.items() if k == "dice_after" or (k.startswith("dice_") and k.count("_") == 1 and k != "dice_before")]
    return {"score": float(np.mean(counted)) if counted else -means.get("folding_percent", 0.0), **means}


def _draw(run: Run, cases: Sequence[Case]) -> Case:
    return cases[int(run.rng.integers(len(cases)))]


def _repeat(
    run: Run, steps: int, network: nn.Module, loss_of: Callable[[], torch.Tensor], schedule: Callable[[float], float] | None = None
) -> None:
    """Take so many steps; `schedule` gives the learning rate, as a part of the highest, by the share of the steps that is done."""
    optimiser = run.optimiser(network)
    part = "register" if network is run.nets.register else next(f"segment {m}" for m, n in run.nets.segment.items() if n is network)
    for step in range(steps):
        if time.monotonic() >= run.deadline:
            return
        if schedule is not None:
            optimiser.param_groups[0]["lr"] = run.rate * schedule((step + 1) / steps)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        run.log.append({"loss": float(loss.detach())})
        if (step + 1) % max(1, steps // 8) == 0:
            LOG.info("%s: step %d of %d, loss %.4g", part, step + 1, steps, run.log[-1]["loss"])
