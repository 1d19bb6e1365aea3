"""The networks of the joint training while they learn, their losses, and how well they do.

The scheme is told in `cohortex.training.regseg`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from cohortex.measures.registration import folding_percent
from cohortex.measures.segmentation import dice, mean_of
from cohortex.models.regseg.losses import consistency_loss, dice_loss, diffusion, folding_loss, foreground_kept, soft_dice
from cohortex.models.regseg.segment import class_probabilities
from cohortex.models.regseg.similarity import Similarity
from cohortex.models.regseg.warp import sample, warp
from cohortex.training.checkpoint import Journal
from cohortex.training.loop import Clock
from cohortex.training.regseg_data import (
    Case,
    Labelled,
    Material,
    bent_pair,
    coarser,
    labelled_crop,
    one_hot,
    other_contrast,
    soft_labels,
)
from cohortex.training.team import team

REMEMBERED = 32
"""Most displacements of the frozen registration that are kept during the segmentations' turns: about 4 MB each for a head."""


@dataclass
class Nets:
    """The three networks: one that registers, one a modality that segments; two where one segments both modalities."""

    register: nn.Module
    segment: dict[str, nn.Module]

    def named(self) -> dict[str, nn.Module]:
        """Return the networks as ``register`` and ``segment.<modality>``."""
        return {"register": self.register, **{f"segment.{modality}": network for modality, network in self.segment.items()}}

    def learners(self) -> dict[str, nn.Module]:
        """Return `named` with each network once: one that segments both modalities goes by the first of them."""
        seen: dict[int, str] = {}
        return {name: n for name, n in self.named().items() if seen.setdefault(id(n), name) == name}

    def freeze_all_but(self, *kept: nn.Module) -> None:
        """Let gradients reach only the networks named. All are in evaluation mode: a batch norm is the fixed map that a user gets."""
        for network in self.named().values():
            network.requires_grad_(any(network is k for k in kept)).eval()

    def state(self) -> dict[str, torch.Tensor]:
        """Return all tensors under ``register.`` and ``segment.<modality>.``."""
        return {f"{part}.{name}": t.detach().clone() for part, network in self.named().items() for name, t in network.state_dict().items()}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take back what `state` gave."""
        for part, network in self.named().items():
            network.load_state_dict({k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")})


@dataclass
class Run:
    """What the turns share.

    Attributes
    ----------
    similarity : Similarity
        What the registration learns from beside labels.
    turn_rate : float, optional
        Learning rate of the turns; None leaves the optimisers' own.
    linked : bool
        False leaves out what links the networks: each goes on alone in its turns.
    predicted : int
        Most unlabelled pairs that are segmented before a registration turn, which learns from those.
    """

    material: Material
    nets: Nets
    weights: Mapping[str, float]
    similarity: Similarity
    crop: int
    register_crop: int
    batch: int
    rate: float
    device: str
    rng: np.random.Generator
    clock: Clock
    turn_rate: float | None = None
    linked: bool = True
    predicted: int = 8
    journal: Journal = field(default_factory=Journal)
    steps: dict[str, int] = field(default_factory=dict)
    soft: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    flows: dict[str, torch.Tensor] = field(default_factory=dict)
    optimisers: dict[int, torch.optim.Optimizer] = field(default_factory=dict)

    def split(self, split: str) -> list[Case]:
        """Return the pairs of a split."""
        return [c for c in self.material.cases if c.split == split]

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the network's Adam, the same one in every turn."""
        if id(network) not in self.optimisers:
            self.optimisers[id(network)] = torch.optim.Adam(network.parameters(), lr=self.rate)
        return self.optimisers[id(network)]


def registration_loss(run: Run, case: Case, pretraining: bool = False) -> torch.Tensor:
    """Return the loss of the registration turn for one pair; the segmentations enter as fixed soft labels only."""
    soft = None if pretraining or not run.linked else _soft_labels(run, case)
    fixed, moving, mask, soft = _crop(run, *bent_pair(case, run.material.modalities, run.rng, soft, run.device))
    flow = run.nets.register(torch.cat([fixed, moving], dim=1))
    loss = run.similarity(fixed, moving, flow, mask)
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
    """Return the loss of the segmentation turn: labelled crops of the network's modality, and a crop of an unlabelled pair.

    The labelled crops are in every batch: agreement alone does not say where anything is.
    """
    loss = run.weights["dice"] * labelled_loss(run, network)
    unlabelled = [c for c in run.split("train") if not c.labelled] or run.split("train")
    if run.linked and run.weights["consistency"] > 0:
        loss = loss + run.weights["consistency"] * _consistency_crop(run, network, draw(run, unlabelled))
    return loss


def _consistency_crop(run: Run, network: nn.Module, case: Case) -> torch.Tensor:
    """Return how far the two segmentations of a crop disagree after the (frozen) registration, for the one network that learns."""
    fine, shape = case.fine_grid, case.fixed_fine.shape
    size = [min(run.crop, n) for n in shape]
    low = [int(run.rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
    cut = tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))
    crops = [torch.from_numpy(x[cut].astype(np.float32))[None, None].to(run.device) for x in (case.fixed_fine, case.moving_fine)]
    with torch.no_grad():
        flow = _flow(run, case)
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
    for name, mine, other in ((fixed_name, fixed, moving), (moving_name, moving, fixed)):
        if run.nets.segment[name] is network:
            # The other segmentation says how much foreground there is: the learning network may not empty itself to agree.
            loss = loss + foreground_kept(mine, other.detach()[:, 1:].sum((1, 2, 3, 4)))
    return loss


def _flow(run: Run, case: Case) -> torch.Tensor:
    """Return what the frozen registration says of a pair; the first pairs of a turn are remembered."""
    if case.subject in run.flows:
        return run.flows[case.subject]
    pair = torch.cat([torch.from_numpy(x.astype(np.float32))[None, None] for x in (case.fixed, case.moving)], dim=1).to(run.device)
    flow = run.nets.register(pair)
    if len(run.flows) < REMEMBERED:
        run.flows[case.subject] = flow
    return flow


def learnt_from(run: Run, network: nn.Module) -> list[Labelled]:
    """Return the labelled images that a segmentation network learns from: those of its modality, or of both."""
    own = [modality for modality, each in run.nets.segment.items() if each is network]
    return [i for i in run.material.labelled if i.modality in own and i.split == "train"]


def labelled_batch(run: Run, network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of labelled crops (B, 1, n, n, n) and their labels (B, n, n, n)."""
    items = learnt_from(run, network)
    drawn = [labelled_crop(items[int(run.rng.integers(len(items)))], run.crop, run.rng) for _ in range(team().share(run.batch))]
    images, labels = torch.cat([image for image, _ in drawn]), torch.stack([known for _, known in drawn])
    return images.to(run.device).contiguous(memory_format=torch.channels_last_3d), labels.to(run.device)


def labelled_loss(run: Run, network: nn.Module, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of a batch of labelled crops: Dice and cross-entropy, with a weight for every class where given."""
    images, labels = labelled_batch(run, network)
    logits = network(images)
    entropy = nn.functional.cross_entropy(logits, labels.long(), weight=weights)
    return dice_loss(torch.softmax(logits, dim=1), one_hot(labels, run.material.classes)) + entropy


def _soft_labels(run: Run, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels of both images on the coarse grid: true ones, or what the frozen segmentations said before the turn."""
    if case.labelled and case.subject not in run.soft:
        run.soft[case.subject] = true_labels(run, case)
    return run.soft[case.subject]


def true_labels(run: Run, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the true labels of both images as shares on the coarse grid, (1, K, X, Y, Z)."""
    assert case.fixed_labels is not None
    assert case.moving_labels is not None
    fixed, moving = (
        soft_labels(known, case.fine_grid, case.grid, run.material.classes).to(run.device)
        for known in (case.fixed_labels, case.moving_labels)
    )
    return fixed, moving


def predict(run: Run, cases: Sequence[Case]) -> None:
    """Segment both images of unlabelled pairs anew, forgetting what was said before."""
    run.soft = {c.subject: run.soft[c.subject] for c in run.material.cases if c.labelled and c.subject in run.soft}
    run.nets.freeze_all_but()
    for case in cases:
        said = []
        for modality, image in zip(run.material.modalities, (case.fixed_fine, case.moving_fine), strict=True):
            probabilities, _ = class_probabilities(run.nets.segment[modality], image, run.material.classes, run.device)
            said.append(coarser(torch.from_numpy(probabilities[...])[None], case.fine_grid, case.grid).to(run.device))
        run.soft[case.subject] = (said[0], said[1])


def draw(run: Run, cases: Sequence[Case]) -> Case:
    """Return one of the pairs at random."""
    return cases[int(run.rng.integers(len(cases)))]


@torch.no_grad()
def evaluate(run: Run, cases: Sequence[Case]) -> list[dict[str, float]]:
    """Return for every pair the Dice of labels before and after the network's deformation, of both segmentations, and the folding."""
    results = []
    for case in cases[team().rank :: team().size]:
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
    found = team().gather(results)
    return [found[i % team().size][i // team().size] for i in range(len(cases))]
