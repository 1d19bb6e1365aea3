"""Training of the multi-task baseline: all losses of the joint training in one step of one network.

A pair has one step, with labels or without: similarity and smoothness always, and with labels Dice of the moved ones and of both
segmentations. There are no turns and no agreement of two networks; see `cohortex.models.regseg.multitask`.
"""

from __future__ import annotations

import torch
from torch import nn

from cohortex.models.regseg.losses import dice_loss, diffusion, folding_loss, soft_dice
from cohortex.models.regseg.multitask import MultiTask
from cohortex.models.regseg.warp import warp
from cohortex.training.loop import schedule, take_steps
from cohortex.training.regseg_data import Case, bent_pair
from cohortex.training.regseg_losses import Run, draw, true_labels


def train_multitask(run: Run, network: MultiTask, steps: int, labelled_share: float = 0.5) -> None:
    """Train in place.

    Parameters
    ----------
    run : Run
        Its material, similarity and weights; its own networks are not touched.
    network : MultiTask
    steps : int
    labelled_share : float
        Of the steps, that see a labelled pair: the others are drawn from all pairs.
    """
    cases = run.split("train")
    labelled = [c for c in cases if c.labelled]
    optimiser = torch.optim.Adam(network.parameters(), lr=run.rate)
    network.train()

    def loss_of(step: int) -> torch.Tensor:
        return multitask_loss(run, network, draw(run, labelled if run.rng.random() < labelled_share else cases))

    take_steps(
        network,
        optimiser,
        loss_of,
        steps,
        called="multitask",
        device=run.device,
        rate=lambda step: schedule(step, steps),
        over=run.clock.over,
    )
    network.eval()


def multitask_loss(run: Run, network: MultiTask, case: Case) -> torch.Tensor:
    """Return the sum of the losses of one pair."""
    known = true_labels(run, case) if case.labelled else None
    fixed, moving, mask, known = bent_pair(case, run.material.modalities, run.rng, known, run.device)
    flow, *logits = network(torch.cat([fixed, moving], dim=1))
    loss = run.similarity(fixed, moving, flow, mask) + run.weights["smooth"] * diffusion(flow) + folding_loss(flow)
    if known is None:
        return loss
    loss = loss + run.weights["dice"] * soft_dice(warp(known[1], flow), known[0])
    for said, truth in zip(logits, known, strict=True):
        entropy = nn.functional.cross_entropy(said, truth)
        loss = loss + run.weights["dice"] * (dice_loss(torch.softmax(said, dim=1), truth) + entropy)
    return loss
