"""Turns of the joint training on small balls: who learns from what, the trap of the empty mask, the baselines."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cohortex.measures.segmentation import dice, mean_of
from cohortex.models.regseg.grid import Grid
from cohortex.models.regseg.losses import consistency_loss, dice_loss, foreground_kept
from cohortex.models.regseg.multitask import MultiTask
from cohortex.models.regseg.similarity import Similarity
from cohortex.training import regseg as training
from cohortex.training import regseg_losses
from cohortex.training.loop import Clock
from cohortex.training.regseg_data import Case, Labelled, Material
from cohortex.training.regseg_multitask import multitask_loss, train_multitask

SHAPE = (16, 16, 16)
NETWORKS = {
    "network": {"name": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}},
    "segment_network": {"name": "unet3d_small", "options": {"features": [4, 8]}},
}


def ball(middle: float, radius: float) -> np.ndarray:
    distance = np.linalg.norm(np.indices(SHAPE) - np.array([middle, 7.5, 7.5]).reshape(3, 1, 1, 1), axis=0)
    return (distance < radius).astype(np.uint8)


def material(labelled: int = 2, kind: tuple[str, str] = ("T1w", "CT")) -> Material:
    grid = Grid(SHAPE, np.diag([4.0, 4.0, 4.0, 1.0]))
    rng = np.random.default_rng(0)
    cases, single = [], []
    for i in range(6):
        labels = [ball(7.5, 4 + 0.2 * i), ball(8.5, 4 + 0.2 * i)]
        levels = {"T1w": (0.2, 0.8), "CT": (0.7, 0.4)}
        images = [
            (np.where(known, levels[m][1], levels[m][0]) + 0.02 * rng.standard_normal(SHAPE)).astype(np.float16)
            for m, known in zip(kind, labels, strict=True)
        ]
        split = "train" if i < 4 else "validation"
        known = labels if split != "train" or i < labelled else [None, None]
        cases.append(Case(f"s{i}", split, grid, grid, images[0], images[1], np.ones(SHAPE, bool), images[0], images[1], known[0], known[1]))
        if known[0] is not None:
            single += [Labelled(f"s{i}", split, m, image, k) for m, image, k in zip(kind, images, labels, strict=True)]
    return Material(kind, "head", cases, single, 2)


def run_of(has: Material, shared: bool = False, **settings) -> training.Run:
    torch.manual_seed(0)
    nets = training._networks({**NETWORKS, "segment_network": NETWORKS["segment_network"] | {"shared": shared}}, has, "cpu")
    weights = {"smooth": 1.0, "dice": 1.0, "consistency": 0.5}
    run = training.Run(has, nets, weights, Similarity("mind_ssc", [(1, 1)]), 16, 16, 2, 4e-3, "cpu", np.random.default_rng(0), Clock())
    return replace(run, **settings)


def reached(run: training.Run, loss: torch.Tensor) -> set[str]:
    for network in run.nets.learners().values():
        network.zero_grad(set_to_none=True)
    loss.backward()
    return {name for name, network in run.nets.learners().items() if any(p.grad is not None for p in network.parameters())}


@pytest.mark.parametrize("labelled", [True, False])
def test_labels_true_or_said_pull_at_the_registration_alone_in_its_turn(labelled):
    run = run_of(material())
    case = next(c for c in run.split("train") if c.labelled == labelled)
    training.predict(run, [c for c in run.split("train") if not c.labelled])
    run.nets.freeze_all_but(run.nets.register)
    with_labels = training.registration_loss(run, case)
    assert reached(run, with_labels) == {"register"}
    run.rng = np.random.default_rng(5)
    plain = float(training.registration_loss(run, case, pretraining=True).detach())
    run.rng = np.random.default_rng(5)
    assert float(training.registration_loss(run, case).detach()) > plain + 0.01


@pytest.mark.parametrize("modality", ["T1w", "CT"])
def test_true_labels_and_agreement_pull_at_one_segmentation_alone_in_its_turn(modality):
    run = run_of(material())
    network = run.nets.segment[modality]
    run.nets.freeze_all_but(network)
    assert reached(run, training.labelled_loss(run, network)) == {f"segment.{modality}"}
    assert reached(run, regseg_losses._consistency_crop(run, network, run.split("train")[3])) == {f"segment.{modality}"}


def test_true_labels_are_in_every_step_of_a_segmentations_turn():
    """Without them the loss would not change with the labels of the labelled images."""
    losses = []
    for flipped in (False, True):
        has = material()
        if flipped:
            has = replace(has, labelled=[replace(i, labels=1 - i.labels) for i in has.labelled])
        run = run_of(has)
        run.rng = np.random.default_rng(3)
        run.nets.freeze_all_but(run.nets.segment["CT"])
        losses.append([float(training.segmentation_loss(run, run.nets.segment["CT"]).detach()) for _ in range(3)])
    assert all(abs(a - b) > 1e-3 for a, b in zip(*losses, strict=True))


def test_without_the_link_each_goes_on_alone():
    linked, alone = run_of(material()), run_of(material(), linked=False)
    case = alone.split("train")[0]
    for run in (linked, alone):
        run.rng = np.random.default_rng(4)
        run.nets.freeze_all_but(run.nets.register)
    assert float(training.registration_loss(alone, case).detach()) < float(training.registration_loss(linked, case).detach()) - 0.01
    network = alone.nets.segment["CT"]
    alone.rng = np.random.default_rng(4)
    together = float(training.segmentation_loss(alone, network).detach())
    alone.rng = np.random.default_rng(4)
    assert together == float(training.labelled_loss(alone, network).detach())


def soft(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(torch.cat([torch.zeros_like(logits), logits], dim=1), dim=1)


def one_hot(labels: np.ndarray) -> torch.Tensor:
    return nn.functional.one_hot(torch.from_numpy(labels).long(), 2).permute(3, 0, 1, 2)[None].float()


def descend(loss_of, start: torch.Tensor) -> torch.Tensor:
    logits = start.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        loss_of(soft(logits)).backward()
        optimiser.step()
    return soft(logits.detach())


def test_agreement_of_the_class_without_background_has_the_trap_and_this_one_has_not():
    """What a mean of squared differences would do: two masks that agree on nothing agree."""
    frozen = one_hot(ball(7.5, 5))
    volume = frozen[:, 1:].sum((1, 2, 3, 4))
    empty, right, shifted = one_hot(np.zeros(SHAPE, np.uint8)), frozen, one_hot(ball(9.5, 5))
    naive = lambda a, b: ((a - b) ** 2).mean()  # noqa: E731
    # Agreement alone: a pair of empty masks is as good as a pair of right ones.
    assert float(naive(empty, empty)) == float(naive(right, right)) == 0
    ours = lambda mine: consistency_loss(mine, frozen) + foreground_kept(mine, volume)  # noqa: E731
    assert float(ours(empty)) > float(ours(shifted)) > float(ours(right))
    assert float(ours(empty)) > 2


@pytest.mark.parametrize("start", [-6.0, 0.0])
def test_learning_to_agree_fills_a_mask_that_is_almost_empty(start):
    frozen = one_hot(ball(7.5, 5))
    found = descend(lambda mine: consistency_loss(mine, frozen), torch.full((1, 1, *SHAPE), start))
    assert float(dice_loss(found, frozen)) < 0.1


def test_two_masks_that_both_learn_do_not_empty_each_other():
    """Each in its turn, from two that hardly overlap: the foreground stays, since the other one asks for half of its own."""
    a, b = (torch.from_numpy(4.0 * ball(m, 4) - 2).float()[None, None] for m in (4.5, 10.5))
    before = int((a > 0).sum())
    for _ in range(4):
        for turn in (0, 1):
            mine, other = (a, b) if turn == 0 else (b, a)
            frozen = soft(other)
            volume = frozen[:, 1:].sum((1, 2, 3, 4))
            grown = descend(lambda x, f=frozen, v=volume: consistency_loss(x, f) + foreground_kept(x, v), mine)
            logits = torch.log(grown[:, 1:].clamp(1e-4, 1 - 1e-4) / grown[:, :1].clamp(1e-4, 1 - 1e-4))
            a, b = (logits, b) if turn == 0 else (a, logits)
    assert min(int((x > 0).sum()) for x in (a, b)) > 0.5 * before


def test_one_network_for_both_modalities_learns_in_one_turn_and_is_kept_for_each():
    run = run_of(material(), shared=True)
    assert run.nets.segment["T1w"] is run.nets.segment["CT"]
    assert set(run.nets.learners()) == {"register", "segment.CT"}
    assert {i.modality for i in regseg_losses.learnt_from(run, run.nets.segment["CT"])} == {"T1w", "CT"}
    training.pretrain(run, 1, 2)
    assert len(training.alternate(run, 1, 2, 1)) == 2
    assert set(run.steps) == {"register", "segment.CT"}
    state = run.nets.state()
    both = [{k.split(".", 2)[2]: t for k, t in state.items() if k.startswith(f"segment.{m}.")} for m in ("T1w", "CT")]
    assert all(torch.equal(both[0][k], both[1][k]) for k in both[0])


def test_two_images_of_one_modality_have_one_segmentation():
    run = run_of(material(kind=("T1w", "T1w")))
    assert set(run.nets.learners()) == {"register", "segment.T1w"}
    training.pretrain(run, 1, 1)
    assert len(training.alternate(run, 1, 1, 1)) == 2


def test_turns_have_their_own_learning_rate():
    run = run_of(material(), turn_rate=1e-3)
    training.alternate(run, 1, 1, 1)
    assert all(run.optimiser(n).param_groups[0]["lr"] == pytest.approx(1e-3) for n in run.nets.learners().values())


def test_turns_end_when_no_score_has_risen_for_so_many_rounds():
    run = run_of(material(), turn_rate=0.5)  # so large that it only gets worse
    training.pretrain_segmentations(run, 10)
    run.optimisers.clear()
    history = training.alternate(run, 5, 1, 2)
    assert len(history) < 6
    for name in ("dice_after", "dice_T1w", "dice_CT"):
        scores = [h[name] for h in history]
        assert max(scores[-2:]) <= max(scores[:-2])


@pytest.mark.parametrize("shared", [False, True])
def test_each_network_is_kept_as_its_own_best_round_had_it(shared, monkeypatch):
    """Scores as if one network had done best before the turns, the next one after the first round, the last one after the second."""
    run = run_of(material(), turn_rate=1e-2, shared=shared)
    told = [
        {"score": 0.5, "dice_after": 0.9, "dice_CT": 0.1, "dice_T1w": 0.1},
        {"score": 0.6, "dice_after": 0.2, "dice_CT": 0.8, "dice_T1w": 0.2},
        {"score": 0.4, "dice_after": 0.3, "dice_CT": 0.3, "dice_T1w": 0.3},
    ]
    left: list[dict[str, torch.Tensor]] = []

    def scored(rows: Any) -> dict[str, float]:
        left.append(run.nets.state())
        return told[len(left) - 1]

    monkeypatch.setattr(training, "_score", scored)
    training.alternate(run, 2, 1, 2)
    own_round = {"register": 0, "segment.CT": 1, "segment.T1w": 1 if shared else 2}
    for name, tensor in run.nets.state().items():
        own = next(k for part, k in own_round.items() if name.startswith(f"{part}."))
        assert torch.equal(tensor, left[own][name]), name
    assert not torch.equal(*(torch.cat([t.flatten() for k, t in s.items() if k.startswith("register.")]) for s in (left[0], left[2])))


def test_the_multi_task_network_gives_flow_and_classes_of_both_and_all_losses_reach_it():
    run = run_of(material())
    torch.manual_seed(1)
    network = MultiTask([4, 8, 8], 2)
    flow, fixed, moving = network(torch.rand(1, 2, *SHAPE))
    assert flow.shape == (1, 3, *SHAPE)
    assert fixed.shape == moving.shape == (1, 2, *SHAPE)
    assert float(flow.detach().abs().max()) < 1e-2
    cases = run.split("train")
    multitask_loss(run, network, cases[0]).backward()
    assert all(p.grad is not None for p in network.parameters())
    network.zero_grad(set_to_none=True)
    multitask_loss(run, network, cases[3]).backward()
    # Without labels nothing tells the head of the classes anything.
    assert network.labels.weight.grad is None
    train_multitask(replace(run, rate=2e-2), network, 80)
    with torch.no_grad():
        _, fixed, _ = network(torch.from_numpy(np.stack([cases[0].fixed, cases[0].moving]).astype(np.float32))[None])
    assert mean_of(dice(ball(7.5, 4), fixed[0].argmax(0).numpy())) > 0.85
