"""One of two processes that train together on the CPU, for the tests: ``python -m tests.train_together RANK PLACE OUT``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from cohortex.errors import CohortexError
from cohortex.training import loop, objectives, regseg
from cohortex.training.checkpoint import Checkpoint
from cohortex.training.classify_network import Budget, train_network
from cohortex.training.limit import Interrupted, Limit
from cohortex.training.objectives.pixel import squared_error
from cohortex.training.team import Team, end, meet, part, team, use_team
from tests.workflow import ROOT

BATCH, STEPS = 5, 6
CRITIC = {"width": 2, "hidden": 4}


def network(seed: int = 5) -> torch.nn.Module:
    """Return a small network without norms."""
    return loop.fresh(lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)), seed)


def halves(rank: int, size: int):
    """Return a sampler whose batches, put together over the processes, are those of one process."""
    step = iter(range(1000))

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        whole = np.random.default_rng(next(step)).normal(size=(BATCH, 4)).astype(np.float32)
        mine = whole[:count] if rank == 0 else whole[-count:]
        return mine, mine.sum(axis=1, keepdims=True)

    return sample


def adversarial(out: Path, rank: int) -> dict:
    """Train a network against a critic in one attempt and in many; return digests of both networks of each, and the attempts."""
    found: dict = {"attempts": 0}

    def digest_of(name: str) -> str:
        objective = objectives.build({"name": "wgan_features", "feature_steps": 2, "feature_width": 2, "critic_steps": 2, **CRITIC})
        net = loop.fresh(lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(2, 1, 3, padding=1)), 5)
        loop.fit(net, pictures, objective, steps=3, seed=1, batch=4, rate=1e-2, checkpoint=Checkpoint(out / name))
        # the order of an optimiser's tensors is not that of a checkpoint's
        tensors = [*net.state_dict().values(), *(value for _, value in sorted(objective.state().items()))]
        return hashlib.sha256(b"".join(v.numpy().tobytes() for v in tensors)).hexdigest()

    found["whole"] = digest_of("adversarial-whole")
    before = use_team(Team(rank, team().size, limit=Limit(until=0)))
    while True:
        try:
            found["attempt"] = digest_of("adversarial-attempts")
            break
        except Interrupted:
            found["attempts"] += 1
    use_team(before)
    return found


def pictures(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy pictures and what they were."""
    truth = rng.random((count, 1, 4, 4)).repeat(4, 2).repeat(4, 3).astype(np.float32)
    return truth + 0.2 * rng.standard_normal(truth.shape, dtype=np.float32), truth


def joint_section() -> dict:
    """Return a section of regseg whose training takes seconds."""
    default = yaml.safe_load((ROOT / "config.yaml").read_text())["regseg"]["default"]
    default |= {
        "working_spacing_mm": 6.0,
        "segment_spacing_mm": 5.0,
        "segment_network": {"name": "unet3d_small", "options": {"features": [4, 8]}},
        "network": {"name": "voxelmorph_small", "options": {"encoder": [4, 4], "decoder": [4, 4]}},
    }
    default["training"] |= {"steps": 2, "segment_steps": 3, "turn": 2, "rounds": 2, "patience": 3, "crop": 16, "register_crop": 16}
    return {"default": default}


def joint_images() -> list:
    """Return two training subjects, one of them with labels, and a validation subject."""
    from tests.unit.test_regseg import subject_of

    splits = [("train", True), ("train", False), ("validation", True)]
    return [image for i, (split, labelled) in enumerate(splits) for image in subject_of(f"s{i}", i, split, labelled)]


def digest(folder: Path) -> str:
    """Return the sha256 of a folder's weights as its card has it."""
    return yaml.safe_load((folder / "card.yaml").read_text())["sha256"]


def main(rank: int, place: Path, out: Path) -> None:
    """Do everything that is tested with two processes, and write down what came of it."""
    torch.set_num_threads(1)
    meet(rank, 2, place, "cpu")
    use_team(Team(rank, 2))
    found: dict = {"gathered": team().gather({"rank": rank, "none": float("nan") if rank else 1.0}), "agreed": team().agree(rank == 0)}
    rows = np.zeros((3, 2))
    rows[rank::2] = rank + 1.5
    team().sum(rows)
    found["rows"] = rows[:, 0].tolist()

    net = network()
    curves = loop.fit(net, halves(rank, 2), squared_error, steps=STEPS, seed=1, batch=BATCH, ema=0.0)
    found["loss"] = curves.loss
    found["weights"] = [value.tolist() for value in net.state_dict().values()]

    drawn: list[bytes] = []

    def own(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(count, 4)).astype(np.float32)
        drawn.append(x.tobytes())
        return x, x[:, :1]

    loop.fit(network(), own, squared_error, steps=2, seed=1, batch=4)
    found["drawn"] = [each.hex() for each in drawn]

    found["adversarial"] = adversarial(out, rank)

    # batch norms and drop-out: the loop itself makes sure that the weights stay the same
    rng = np.random.default_rng(0)
    inputs, y = rng.normal(size=(6, 2, 16, 16, 16)).astype(np.float32), np.array([0, 1, 0, 1, 0, 1])
    net, _ = train_network(inputs, y, 2, 3, Budget(steps=3, batch=4))
    found["classify"] = hashlib.sha256(b"".join(v.numpy().tobytes() for v in net.state_dict().values())).hexdigest()

    images, section = joint_images(), joint_section()
    material = regseg.gather(images, section["default"], 3)
    regseg.gather = lambda *given: material
    regseg.train_regseg(images, section, 3, "cpu", out / "whole")
    attempts = 0
    use_team(Team(rank, 2, limit=Limit(until=0)))
    while True:
        try:
            regseg.train_regseg(images, section, 3, "cpu", out / "attempts")
            break
        except Interrupted:
            attempts += 1
            # the process that does not lead may be the one that is asked to end
            use_team(Team(rank, 2, limit=Limit(until=0 if (attempts + rank) % 2 else float("inf"))))
    found["attempts"] = attempts

    use_team(Team(rank, 2))
    try:
        loop.fit(network(seed=rank), own, squared_error, steps=1, seed=1, batch=4)
    except CohortexError as error:
        found["apart"] = str(error)
    (out / f"{rank}.json").write_text(json.dumps(found))
    part()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
    end(0)
