"""One run of `benchmarks.regseg`: networks pre-trained or not, trained in turns or alone, and measured on the held-out subjects."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.regseg_data import HELD_OUT, PAIRS, SPACING_MM, VALIDATION, Subject, material, subjects
from cohortex.measures.registration import folding_percent
from cohortex.measures.segmentation import dice, hausdorff95_mm, mean_of
from cohortex.models.regseg.multitask import MultiTask
from cohortex.models.regseg.similarity import similarity_of
from cohortex.models.regseg.warp import warp
from cohortex.training import regseg as training
from cohortex.training.loop import Clock
from cohortex.training.regseg_data import Case, Material, one_hot
from cohortex.training.regseg_losses import Run
from cohortex.training.regseg_multitask import train_multitask

SCALES = [[1, 1], [1, 2]]
SIMILARITIES: dict[str, dict[str, Any]] = {
    "E_msMIND": {"name": "mind_ssc", "weight": 1.0},
    "MIND-SSC, one scale": {"name": "mind_ssc", "scales": [[1, 1]], "weight": 1.0},
    "mutual information": {"name": "mutual_information", "weight": 0.34},
    "NCC": {"name": "ncc", "weight": 0.64},
    "NCC, one modality": {"name": "ncc", "weight": 0.17},
}
"""With weights by which each drops as much from no displacement to the true one as E_msMIND does (measured on three other subjects)."""
REGISTER: dict[str, dict[str, Any]] = {
    "diffeomorphic": {"name": "voxelmorph_small", "options": {"encoder": [8, 16, 16], "decoder": [16, 16, 16]}},
    "displacement": {
        "name": "voxelmorph",
        "options": {"encoder": [8, 16, 16], "decoder": [16, 16, 16], "final": [16], "half_resolution": True},
    },
}
SEGMENT: dict[str, dict[str, Any]] = {
    "unet3d": {"name": "unet3d_small", "options": {"features": [8, 16, 32]}},
    "attention_unet": {"name": "attention_unet", "options": {"features": [8, 16, 32]}},
}


@dataclass(frozen=True)
class Budget:
    """How long everything learns."""

    steps: int = 400
    segment_steps: int = 500
    rounds: int = 8
    turn: int = 100
    patience: int = 8
    rate: float = 4e-3
    turn_rate: float = 6e-4
    batch: int = 3
    crop: int = 16


@dataclass(frozen=True)
class Setup:
    """What is trained; all of it is settings of the stage, but for `multitask`, which is a network of another structure."""

    kind: tuple[str, str] = ("T1w", "CT")
    labelled: int = 10
    register: str = "diffeomorphic"
    segment: str = "unet3d"
    shared: bool = False
    similarity: str = "E_msMIND"
    consistency: float = 0.3
    pretrain: bool = True
    linked: bool = True
    multitask: bool = False
    budget: Budget = field(default_factory=Budget)


def result(setup: Setup, seed: int, folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Return what a run measured, taken from the folder if it is there.

    Returns
    -------
    dict
        ``before`` and ``after``: measures of every held-out subject, of the pre-trained networks and of those that the turns left;
        ``history``: the validation scores.
    """
    path = folder / f"run-{_key(asdict(setup), seed)}.json"
    if path.is_file():
        return json.loads(path.read_text())
    made = subjects(PAIRS + VALIDATION + HELD_OUT, seed, folder)
    say(f"seed {seed}: {_short(setup)}")
    found = (_multitask if setup.multitask else _in_turns)(setup, seed, made, folder)
    found = {"setup": asdict(setup), "seed": seed, **found}
    path.with_suffix(".tmp").write_text(json.dumps(found))
    path.with_suffix(".tmp").replace(path)
    return found


def _in_turns(setup: Setup, seed: int, made: list[Subject], folder: Path) -> dict[str, Any]:
    run, budget = _run(setup, seed, material(made, setup.labelled, setup.kind)), setup.budget
    if setup.pretrain:
        _pretrained(run, setup, seed, folder)
    before = measured(_parts(run), run, made)
    run.rng = np.random.default_rng([seed, 2])
    # Networks that begin at random take the rate of pre-training, and as many steps as that and the turns have.
    more = 0 if setup.pretrain else round((budget.steps + budget.segment_steps) / 2 / budget.turn)
    if not setup.pretrain:
        run.turn_rate = budget.rate / 2
    history = training.alternate(run, budget.rounds + more, budget.turn, budget.patience + more)
    return {"before": before, "after": measured(_parts(run), run, made), "history": history}


def _multitask(setup: Setup, seed: int, made: list[Subject], folder: Path) -> dict[str, Any]:
    run, budget = _run(setup, seed, material(made, setup.labelled, setup.kind)), setup.budget
    torch.manual_seed(seed)
    network = MultiTask([8, 16, 32], run.material.classes)
    run.rng = np.random.default_rng([seed, 3])
    train_multitask(run, network, budget.steps + budget.segment_steps + 2 * budget.rounds * budget.turn)
    return {"before": [], "after": measured(network, run, made), "history": []}


def _run(setup: Setup, seed: int, has: Material) -> Run:
    budget = setup.budget
    torch.manual_seed(seed)
    nets = training._networks(
        {"network": REGISTER[setup.register], "segment_network": SEGMENT[setup.segment] | {"shared": setup.shared}}, has, "cpu"
    )
    weights = {"smooth": 0.5, "dice": 1.0, "consistency": setup.consistency}
    return Run(
        has,
        nets,
        weights,
        similarity_of(SIMILARITIES[setup.similarity], SCALES),
        budget.crop,
        48,
        budget.batch,
        budget.rate,
        "cpu",
        np.random.default_rng([seed, 1]),
        Clock(),
        turn_rate=budget.turn_rate,
        linked=setup.linked,
        predicted=PAIRS,
    )


def _pretrained(run: Run, setup: Setup, seed: int, folder: Path) -> None:
    """Bring the networks to where step 1 leaves them, each part from the folder if it is there: runs that share it begin alike."""
    budget = asdict(setup.budget)
    parts = {
        "register": ((setup.kind, setup.register, setup.similarity), ("steps",)),
        "segment": ((setup.kind, setup.segment, setup.shared, setup.labelled), ("segment_steps", "batch", "crop")),
    }
    for part, (what, spent) in parts.items():
        path = folder / f"{part}-{_key([what, [budget[k] for k in (*spent, 'rate')]], seed)}.safetensors"
        if path.is_file():
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            from safetensors.torch import save_file

            run.rng = np.random.default_rng([seed, 1])
            (training.pretrain_registration if part == "register" else training.pretrain_segmentations)(run, budget[spent[0]])
            state = {k: t.contiguous() for k, t in run.nets.state().items() if k.startswith(part)}
            save_file({k: t.clone() for k, t in state.items()}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        run.nets.restore({**run.nets.state(), **state})
    run.optimisers.clear()
    run.steps.clear()


Parts = MultiTask | Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def _parts(run: Run) -> Parts:
    """Return the three networks as one function of the pair: displacement, and logits of the fixed and of the moving image."""
    run.nets.freeze_all_but()
    fixed, moving = (run.nets.segment[m] for m in run.material.modalities)

    def look(pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return run.nets.register(pair), fixed(pair[:, :1]), moving(pair[:, 1:])

    return look


@torch.no_grad()
def measured(look: Parts, run: Run, made: list[Subject]) -> list[dict[str, float]]:
    """Return the measures of every held-out subject.

    ``registration``: mean Dice of the moving labels, displaced, with the fixed ones; ``fixed`` and ``moving``: mean Dice of the
    segmentations; ``agreement``: mean Dice of the two segmentations with each other after the displacement; ``tre_mm``: distance from
    the true displacement in the head; ``hd95_fixed_mm`` and ``hd95_moving_mm``; ``foreground_fixed`` and ``foreground_moving``: voxels that
    are no background beside the truth's.
    """
    truth = {s.name: s for s in made}
    return [_measured(look, case, truth[case.subject], run.material.classes) for case in run.split("test")]


def _measured(look: Parts, case: Case, subject: Subject, classes: int) -> dict[str, float]:
    pair = torch.cat([torch.from_numpy(x.astype(np.float32))[None, None] for x in (case.fixed, case.moving)], dim=1)
    flow, *logits = look(pair)
    fixed, moving = (torch.softmax(x, dim=1) for x in logits)
    assert case.fixed_labels is not None
    assert case.moving_labels is not None
    moved = warp(one_hot(torch.from_numpy(case.moving_labels)[None], classes), flow)[0].argmax(0).numpy()
    said = {"fixed": fixed[0].argmax(0).numpy(), "moving": moving[0].argmax(0).numpy()}
    known = {"fixed": case.fixed_labels, "moving": case.moving_labels}
    head = case.fixed_labels > 0
    apart = np.linalg.norm(flow[0].numpy() - subject.flow, axis=0)[head] * SPACING_MM
    row = {
        "registration": mean_of(dice(case.fixed_labels, moved)),
        "none": mean_of(dice(case.fixed_labels, case.moving_labels)),
        "agreement": mean_of(dice(said["fixed"], warp(moving, flow)[0].argmax(0).numpy())),
        "tre_mm": float(apart.mean()),
        "folding_percent": folding_percent(np.moveaxis(flow[0].numpy(), 0, -1) * SPACING_MM, case.grid.affine, head),
    }
    for which, labels in known.items():
        distances = [hausdorff95_mm(labels == k, said[which] == k, (SPACING_MM,) * 3) for k in range(1, classes)]
        row[which] = mean_of(dice(labels, said[which]))
        row[f"hd95_{which}_mm"] = float(np.mean([d for d in distances if np.isfinite(d)] or [np.nan]))
        row[f"foreground_{which}"] = float((said[which] > 0).sum() / (labels > 0).sum())
    return row


def _key(what: Any, seed: int) -> str:
    return f"{hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]}-{seed}"


def _short(setup: Setup) -> str:
    """Return where a setup differs from the joint training."""
    plain = asdict(Setup())
    own = {k: v for k, v in asdict(setup).items() if v != plain[k]}
    return ", ".join(f"{k} {v}" for k, v in own.items()) or "joint"


def column(rows: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    """Return a measure of all subjects."""
    return np.array([row[name] for row in rows], float)
