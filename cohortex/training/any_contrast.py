"""Train the shipped networks that label and register heads of any contrast, from label maps alone.

    python -m cohortex.training.any_contrast --folder zoo/regseg/any_contrast [--brains /usr/share/mricron/templates]

Every step sees a new head: a map of structures (`cohortex.training.head_maps`) bent and painted at random
(`cohortex.training.contrasts`). The segmentation learns Dice and cross-entropy, the registration the Dice of the structures after
the deformation and smoothness (Billot et al., Medical Image Analysis 86, 2023; Hoffmann et al., IEEE TMI 41(3), 2022). No real image is
seen but the one head of --brains, as a map. A training that was stopped goes on from its checkpoints beside the folder; the same seed
and steps give the same bytes on one kind of processor with one thread. Afterwards what ``benchmarks.real_heads --save FILE`` measured
goes into the card:

    python -m cohortex.training.any_contrast --folder zoo/regseg/any_contrast --record FILE
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cohortex.models import registry
from cohortex.models.folder import load_network, read_card
from cohortex.models.regseg.losses import diffusion, folding_loss
from cohortex.models.regseg.warp import warp
from cohortex.publish import atomic_path
from cohortex.training.any_contrast_card import with_record, write
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.contrasts import CLASSES, STRUCTURES, sample_pair, two_scans
from cohortex.training.head_maps import head_maps
from cohortex.training.limit import TRY_AGAIN, Interrupted, Limit
from cohortex.training.loop import Curves, fit, fresh
from cohortex.training.muon import Muon
from cohortex.training.objectives.objective import Objective, Start
from cohortex.training.team import changed_team

LOG = logging.getLogger("cohortex.training")

SEGMENT: dict[str, Any] = {
    "network": "planned_unet",
    "options": {"features": [16, 32, 64, 128], "blocks": 1, "norm": "batch", "deep_supervision": False},
    "steps": 5000,
    "rate": 2e-3,
    "kernels_faster": 2.0,
    "edge": 48,
    "spacing_mm": 1.5,
    "ema": 0.99,
    "norms_learn": 0.55,
    "ordered": 0.7,
}
REGISTER: dict[str, Any] = {
    "network": "voxelmorph_small",
    # of images themselves, in random contrasts, it learns to move nothing in as many steps
    "options": {"mind": [[1, 2]]},
    "steps": 2500,
    "rate": 4e-3,
    "kernels_faster": 2.0,
    "edge": 56,
    "spacing_mm": 3.0,
    "ema": 0.99,
    "smooth": 0.1,
}
PARTS = {"segment": "segment.any", "register": "register"}
MAPS: dict[str, Any] = {"simulated": 8, "individual": 5}


class _ByMuon(Objective):
    """Kernels of hidden layers take orthogonal steps."""

    def __init__(self, faster: float):
        super().__init__()
        self.faster = faster

    def optimiser(self, groups: Iterable[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return `Muon`; first and last layers take steps of Adam."""
        kernels = [p for p in self.start.network.parameters() if p.ndim == 5 and min(p.shape[:2]) > len(CLASSES)]
        return Muon(groups, rate, kernels, self.faster)


class DiceEntropy(_ByMuon):
    """One minus the mean Dice of the classes that are there, and cross-entropy.

    For a first share of the steps batch norms use each crop's own statistics, which makes learning quick; then they are the fixed maps that
    a user gets, and the network learns to do with them.
    """

    def __init__(self, faster: float, norms_learn: float):
        super().__init__(faster)
        self.norms_learn = norms_learn

    def begin(self, start: Start) -> None:
        """Let running means follow a hundred crops, not ten: every crop has another contrast."""
        super().begin(start)
        for norm in self._norms(start.network):
            norm.momentum = 0.01 if start.steps > 200 else 0.1

    @staticmethod
    def _norms(network: nn.Module) -> list[nn.BatchNorm3d]:
        return [module for module in network.modules() if isinstance(module, nn.BatchNorm3d)]

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of logits (n, classes, x, y, z) and classes (n, x, y, z)."""
        for norm in self._norms(network):
            norm.train(step < self.norms_learn * self.start.steps)
        logits = network(source.contiguous(memory_format=torch.channels_last_3d)).float()
        return _overlap_loss(torch.softmax(logits, 1), _one_hot(target, logits.shape[1])) + functional.cross_entropy(logits, target.long())


class LabelsAfter(_ByMuon):
    """One minus the mean Dice of the structures after the deformation, smoothness, and a guard against folding."""

    def __init__(self, faster: float, smooth: float):
        super().__init__(faster)
        self.smooth = smooth

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of two images (n, 2, x, y, z) and their structures (n, 2, x, y, z)."""
        flow = network(source.contiguous(memory_format=torch.channels_last_3d)).float()
        fixed, moving = (_one_hot(target[:, n], STRUCTURES) for n in (0, 1))
        return _overlap_loss(warp(moving, flow), fixed) + self.smooth * diffusion(flow) + folding_loss(flow)


def _one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return functional.one_hot(labels.long(), classes).movedim(-1, 1).float()


def _overlap_loss(found: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return one minus the mean soft Dice of the classes that `known` has, but the first."""
    axes = (0, 2, 3, 4)
    both, sizes, there = (found * known).sum(axes), (found + known).sum(axes), known.sum(axes) > 0
    dice = (2 * both + 1) / (sizes + 1)
    there[0] = False
    return 1 - (dice[there].mean() if there.any() else dice.sum() * 0)


def segmenter(maps: Sequence[np.ndarray], training: Mapping[str, Any], seed: int, journal: Journal) -> tuple[nn.Module, Curves]:
    """Return the network that labels, trained, and how that went."""
    edge, spacing = int(training["edge"]), float(training["spacing_mm"])

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [sample_pair(maps, edge, spacing, rng, float(training["ordered"])) for _ in range(count)]
        return np.stack([d[0] for d in drawn])[:, None], np.stack([d[1] for d in drawn])

    options = {**training["options"], "channels": 1, "classes": len(CLASSES)}
    network = fresh(lambda: registry.build("segment", training["network"], **options), seed)
    return _fitted(
        network,
        sample,
        DiceEntropy(float(training["kernels_faster"]), float(training["norms_learn"])),
        training,
        seed,
        journal.of("segment"),
    )


def registrar(maps: Sequence[np.ndarray], training: Mapping[str, Any], seed: int, journal: Journal) -> tuple[nn.Module, Curves]:
    """Return the network that registers, trained, and how that went."""
    edge, spacing = int(training["edge"]), float(training["spacing_mm"])

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [two_scans(maps, edge, spacing, rng) for _ in range(count)]
        return np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])

    network = fresh(lambda: registry.build("regseg", training["network"], **training["options"]), seed)
    aim = LabelsAfter(float(training["kernels_faster"]), float(training["smooth"]))
    return _fitted(network, sample, aim, training, seed, journal.of("register"))


def _fitted(
    network: nn.Module, sample: Any, aim: Objective, training: Mapping[str, Any], seed: int, checkpoint: Any
) -> tuple[nn.Module, Curves]:
    network = network.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]
    with changed_team(precision="bfloat16"):
        curves = fit(
            network,
            sample,
            aim,
            steps=int(training["steps"]),
            rate=float(training["rate"]),
            ema=float(training["ema"]),
            seed=seed,
            checkpoint=checkpoint,
        )
    return network, curves


def main() -> None:
    """Train and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model folder to be")
    parser.add_argument(
        "--brains", type=Path, help="Colin27 and the AAL atlas as Debian's mricron-data has them; without it only the demo's heads"
    )
    parser.add_argument("--segment-steps", type=int, default=SEGMENT["steps"])
    parser.add_argument("--register-steps", type=int, default=REGISTER["steps"])
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--attempt-minutes", type=float, default=float("inf"), help="stop after so long; the next call goes on")
    parser.add_argument("--only", choices=("segment", "register"), help="train this one anew; the other stays as the folder has it")
    parser.add_argument("--record", type=Path, help="do not train: add what this record of benchmarks.real_heads says to the folder's card")
    options = parser.parse_args()
    if options.record is not None:
        with_record(options.folder, options.record)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe: dict[str, Any] = {
        "segment": {**SEGMENT, "steps": options.segment_steps},
        "register": {**REGISTER, "steps": options.register_steps},
        "maps": {**MAPS, "individual": MAPS["individual"] if options.brains else 0},
    }
    before_it: dict[str, Any] = {}
    if options.only is not None:
        other = "register" if options.only == "segment" else "segment"
        card = read_card(options.folder)
        recipe[other], before_it = card["recipe"][other], card["recipe"]["curves"]
    journal = open_journal(options.folder, [], {**recipe, "only": options.only}, options.seed)
    maps = kept_maps(recipe["maps"], options.brains, options.seed, journal)
    with changed_team(limit=Limit(time.time() + 60 * options.attempt_minutes)):
        try:
            made: dict[str, nn.Module] = {}
            curves: dict[str, Any] = dict(before_it)
            for part, train in (("register", registrar), ("segment", segmenter)):
                if options.only in (None, part):
                    made[part], learnt = train(maps, recipe[part], options.seed, journal)
                    curves[part] = learnt.recipe()
                else:
                    made[part] = load_network(options.folder, part=PARTS[part])
        except Interrupted as why:
            LOG.info("stopped: %s; call it again", why)
            raise SystemExit(TRY_AGAIN) from None
    told = {"curves": curves, "run": {"precision": "bfloat16"}}
    write(options.folder, (made["segment"], recipe["segment"]), (made["register"], recipe["register"]), {**recipe, **told}, options.seed)
    journal.forget()


def kept_maps(wanted: Mapping[str, int], brains: Path | None, seed: int, journal: Journal) -> list[np.ndarray]:
    """Return the maps of a training, made once and kept beside its checkpoints."""
    path = None if journal.folder is None else journal.folder / "maps.npz"
    if path is not None and path.is_file():
        with np.load(path) as found:
            return [found[name] for name in sorted(found.files)]
    maps = head_maps(wanted["simulated"], wanted["individual"], brains, seed)
    if path is not None:
        named = {f"map{n:03d}": each for n, each in enumerate(maps)}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **named)  # pyright: ignore[reportArgumentType]
    return maps


if __name__ == "__main__":
    main()
