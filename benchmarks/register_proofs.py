"""What the rows G02, G03, G12, G14 to G18, G23 and G24 state about registration, each tried with small budgets on simulated heads.

    python -m benchmarks.register_proofs [--proof G14,G17] [--steps 1] [--folder FOLDER] [--save FILE]

Ten simulated heads of the demo (a seed of its own) are learnt from, four more are what is tested on: T1-weighted, 32 x 48 x 32 voxels of
5 mm, each in a slightly other pose and with noise of 2 %; every ordered pair of different heads is a pair. Dice is the mean over fluid,
grey matter, white matter, bone and soft tissue, times are CPU seconds of one thread, errors are voxels inside the heads.

Networks are trained by `cohortex.training.register`, for two or three minutes each on one core (600 orthogonal steps, `optimiser: muon`,
which is little), with squared local correlation in windows of 5 voxels where nothing else is said. They are as wide as published;
TransMorph is the registry's small one, and all but FAIM and ICNet give their flow at half the resolution. What is compared with another
network has that one's images, seed and objective, and, but for ICNet (three quarters of the steps, each in both directions) and TransMorph
(half of the rate), its rate and number of steps. Classical registrations are the stage's Gauss-Newton, and SimpleITK's demons and B-splines
(`benchmarks.register_classical`; B-splines only in G23), also on one thread.

``--steps`` multiplies the steps of every training. With ``--save`` the rows that the record has already are kept beside the new ones. Last
line: FIGURE, over all rows of the record.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from benchmarks import register_classical as classical
from benchmarks.proofs import Found, parser_of, rows_of, try_all
from benchmarks.record import Run
from benchmarks.register_proofs_data import LABELS, OBSERVED, SPACING_MM, Data, Scores, by, by_gauss_newton, nothing
from cohortex.models import registry
from cohortex.models.regseg.warp import warp

RATE, STEPS = 1e-3, 600
ALIKE = {"name": "images_alike", "window": 5, "smooth": 0.3}
HALVES = {"half_resolution": True}
"""The flow at half the resolution, in units of 10 mm as the finest control points of Gauss-Newton."""
WANDERING = {"turn_deg": 7.0, "shift": 2.5, "stretch": 0.06}
"""Affine displacements of misaligned starts, see `register_data.BEND`."""
LARGE = {"spread": 7.0}
"""Elastic displacements of about 3.5 voxels in the mean."""
ELASTIC = {"spread": 3.0}


def plain(have: Data) -> nn.Module:
    """Return VoxelMorph (G14), trained by likeness and smoothness."""
    return have.trained("voxelmorph", STEPS, HALVES, rate=RATE, objective=ALIKE)


def of_gauss_newton(have: Data) -> Scores:
    """Return how Gauss-Newton does on the test pairs."""
    return have.scored(by_gauss_newton, have.test, both=True, kept="gauss_newton")


# --- one after the other -----------------------------------------------------------------------------------------


def labels_of_classical(have: Data) -> Found:
    """Row G02: nearer to the classical registration than half of what it moves, in a twentieth of its time."""
    network = have.trained("displacement_regression", STEPS, HALVES, rate=RATE)
    truth = [by_gauss_newton(pair.fixed, pair.moving) for pair in have.test]
    moved, missed = [], []
    for pair, field in zip(have.test, truth, strict=True):
        assert pair.labels is not None
        body = pair.labels[0] > 0
        moved.append(float(np.linalg.norm(field, axis=0)[body].mean()))
        missed.append(float(np.linalg.norm(by(network)(pair.fixed, pair.moving) - field, axis=0)[body].mean()))
    ours, engine = have.scored(by(network), have.test), of_gauss_newton(have)
    demons = have.scored(classical.demons, have.test, kept="demons")
    share = float(np.mean(missed) / np.mean(moved))
    figures = {"error": float(np.mean(missed)), "classical moves": float(np.mean(moved)), "share": share}
    figures |= {**ours.told("network", "dice", "seconds"), **engine.told("Gauss-Newton", "dice", "seconds")}
    return Found(
        {**figures, **demons.told("demons", "dice", "seconds")},
        {"below half of identity": share < 0.5, "a twentieth of the engine's time": 20 * ours.seconds < engine.seconds},
    )


def simulated(have: Data) -> Found:
    """Row G03: below a voxel on held-out simulated pairs, and a gain in Dice on pairs of different heads."""
    network = have.trained("displacement_simulated", STEPS, HALVES, rate=RATE, bend=ELASTIC, contrast=True)
    pairs = have.simulated(ELASTIC)
    known, before = have.scored(by(network), pairs), have.scored(nothing, pairs)
    different, start = have.scored(by(network), have.test), have.scored(nothing, have.test)
    figures = {"error": known.error, "error of identity": before.error, "Dice of different heads": different.dice, "at first": start.dice}
    return Found(figures, {"below a voxel": known.error < 1, "Dice gain": different.dice > start.dice})


def transformer(have: Data) -> Found:
    """Row G12: right gradients, the very image for nothing, the very voxels for whole shifts."""
    image = torch.from_numpy(have.heads[0][0])[None, None]
    same = torch.equal(warp(image, torch.zeros(1, 3, *image.shape[2:])), image)
    shift = torch.tensor([2.0, -3.0, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *image.shape[2:])
    moved = warp(image, shift)[0, 0, :-2, 3:, :-1]
    exact = torch.equal(moved, image[0, 0, 2:, :-3, 1:])
    torch.manual_seed(2)
    small = torch.rand(1, 1, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    flow = (0.3 + 0.2 * torch.rand(1, 3, 4, 5, 4, dtype=torch.float64)).requires_grad_()
    right = torch.autograd.gradcheck(lambda a, b: warp(a, b)[:, :, :3, :4, :3], (small, flow), atol=1e-5, raise_exception=False)
    return Found({"voxels": float(image.numel())}, {"gradients": bool(right), "identity": same, "whole shift": exact})


def voxelmorph(have: Data) -> Found:
    """Row G14: Dice within 0.02 of the classical ones in a tenth of the time, next to no folds; published count."""
    figures: dict[str, float | str] = {**have.scored(nothing, have.test).told("nothing", "dice")}
    others = {"demons": have.scored(classical.demons, have.test, kept="demons"), "Gauss-Newton": of_gauss_newton(have)}
    halves = have.trained("voxelmorph_diffeomorphic", STEPS, rate=RATE, objective=ALIKE)
    ours = {"plain": have.scored(by(plain(have)), have.test), "diffeomorphic": have.scored(by(halves), have.test)}
    for name, each in (others | ours).items():
        figures |= each.told(name, "dice", "folding", "seconds")
    best = max(ours.values(), key=lambda each: each.dice)
    return Found(
        figures,
        {
            "Dice within .02 of demons": best.dice >= others["demons"].dice - 0.02,
            "Dice within .02 of Gauss-Newton": best.dice >= others["Gauss-Newton"].dice - 0.02,
            "10 times faster than demons": 10 * best.seconds < others["demons"].seconds,
            "folding below 1 %": best.folding < 1,
            "count": registry.count_parameters(registry.build("regseg", "voxelmorph")) == 301_411,
        },
    )


def with_labels(have: Data) -> Found:
    """Row G15: higher Dice of the labels it saw than without them, and no lower Dice of the others."""
    network = have.trained(
        "voxelmorph_labels", STEPS, HALVES, rate=RATE, objective={**ALIKE, "labels": 1.0}, classes=list(OBSERVED)
    )  # fmt: skip
    ours, theirs = have.scored(by(network), have.test), have.scored(by(plain(have)), have.test)
    figures = {**ours.told("with labels", "observed", "held_out", "folding"), **theirs.told("without", "observed", "held_out", "folding")}
    return Found(
        {"observed": ", ".join(map(str, OBSERVED)), "held out": ", ".join(map(str, sorted(set(LABELS) - set(OBSERVED)))), **figures},
        {"observed labels": ours.observed > theirs.observed, "held-out labels": ours.held_out >= theirs.held_out},
    )


def faim(have: Data) -> Found:
    """Row G16: fewer weights than VoxelMorph and fewer folds at the same Dice."""
    network = have.trained("faim", STEPS, rate=RATE, objective={**ALIKE, "folding": 1.0})
    ours, theirs = have.scored(by(network), have.test), have.scored(by(plain(have)), have.test)
    counts = [registry.count_parameters(registry.build("regseg", name)) for name in ("faim", "voxelmorph")]
    figures = {"FAIM weights": float(counts[0]), **ours.told("FAIM", "dice", "folding", "seconds")}
    return Found(
        {**figures, "VoxelMorph weights": float(counts[1]), **theirs.told("VoxelMorph", "dice", "folding", "seconds")},
        {
            "fewer weights": counts[0] < counts[1],
            "fewer folds": ours.folding < theirs.folding,
            "same Dice": ours.dice >= theirs.dice - 0.01,
        },
    )


def inverse_consistent(have: Data) -> Found:
    """Row G17: half of VoxelMorph's inverse error, no folds; published count."""
    # local correlation is some twenty times as large as the squared error to which the paper's weights belong
    objective = {"name": "inverse_consistent", "similarity": "correlation", "window": 5, "smooth": 0.3, "inverse": 1.0, "antifold": 2e6}
    network = have.trained("icnet", round(0.75 * STEPS), rate=RATE, objective=objective)
    ours, theirs = (have.scored(by(each), have.test, both=True) for each in (network, plain(have)))
    figures = {**ours.told("ICNet", "dice", "apart", "folding"), **theirs.told("VoxelMorph", "dice", "apart", "folding")}
    return Found(
        figures,
        {
            "half of the inverse error": ours.apart < theirs.apart / 2,
            "no folds": ours.folding == 0,
            "count": registry.count_parameters(registry.build("regseg", "icnet")) == 1_111_840,
        },
    )


def affine_and_deformable(have: Data) -> Found:
    """Row G18: recovers random affine and elastic displacements; over the deformable network alone from misaligned starts."""
    bend = WANDERING | {"spread": 1.5}
    objective = {**ALIKE, "name": "affine_and_deformable"}
    network = have.trained("affine_voxelmorph", STEPS, HALVES, rate=RATE, objective=objective, bend=bend)
    alone = have.trained("voxelmorph", STEPS, HALVES, rate=RATE, objective=ALIKE, bend=bend)
    known, misaligned = have.simulated(bend, 3), have.bent(WANDERING)
    found, first = have.scored(by(network), known), have.scored(nothing, known)
    both, one, start = (have.scored(way, misaligned) for way in (by(network), by(alone), nothing))
    figures = {"error": found.error, "error of identity": first.error}
    figures |= {
        **start.told("misaligned", "dice"),
        **both.told("both", "dice", "folding"),
        **one.told("deformable alone", "dice", "folding"),
    }
    return Found(figures, {"error below a voxel": found.error < 1, "over deformable alone by .05": both.dice >= one.dice + 0.05})


def baselines(have: Data) -> Found:
    """Row G23: rigid, affine, demons and B-splines find a known transform to less than a voxel."""
    rigid, affine = ({name: WANDERING[name] for name in names} for names in (("turn_deg", "shift"), tuple(WANDERING)))
    figures: dict[str, float | str] = {}
    errors = {}
    ways: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], dict[str, float]]] = {
        "rigid": (lambda a, b: classical.by_information(a, b, "rigid", SPACING_MM), rigid),
        "affine": (lambda a, b: classical.by_information(a, b, "affine", SPACING_MM), affine),
        "demons": (classical.demons, ELASTIC),
        "B-spline": (classical.bspline, ELASTIC),
        "Gauss-Newton": (by_gauss_newton, ELASTIC),
    }
    for name, (way, bend) in ways.items():
        pairs = have.simulated(bend, 4, 4)
        found = have.scored(way, pairs)
        errors[name] = found.error
        figures |= {f"{name} error": found.error, f"{name} at first": have.scored(nothing, pairs).error, f"{name} seconds": found.seconds}
    return Found(figures, {f"{name} below a voxel": error < 1 for name, error in errors.items()})


def by_attention(have: Data) -> Found:
    """Row G24: Dice at least VoxelMorph's where displacements are large, next to no folds."""
    network = have.trained("transmorph_small", STEPS, rate=RATE / 2, objective=ALIKE, bend=LARGE)
    twin, pairs = have.trained("voxelmorph_diffeomorphic", STEPS, rate=RATE, objective=ALIKE, bend=LARGE), have.bent(LARGE)
    ours, theirs, start = (have.scored(way, pairs) for way in (by(network), by(twin), nothing))
    figures = {**start.told("at first", "dice"), **ours.told("TransMorph", "dice", "folding", "seconds")}
    return Found(
        {**figures, **theirs.told("VoxelMorph", "dice", "folding", "seconds")},
        {"Dice at least VoxelMorph's": ours.dice >= theirs.dice, "folding below 1 %": ours.folding < 1},
    )


STATEMENTS: dict[str, tuple[str, Callable[[Data], Found]]] = {
    "G02": ("Displacement regression, labels of Gauss-Newton: error < 50 % of identity, in < 1/20 of its time", labels_of_classical),
    "G03": ("Displacement regression, simulated: error < 1 voxel held out; Dice gain on different heads", simulated),
    "G12": ("Spatial transformer: gradients pass the check; identity and whole shifts exact", transformer),
    "G14": ("VoxelMorph: Dice within .02 of classical, 10 times faster; folding < 1 %", voxelmorph),
    "G15": ("VoxelMorph with labels: Dice > G14 on observed labels, not worse on held-out ones", with_labels),
    "G16": ("FAIM: fewer weights than G14, fewer folds at the same Dice", faim),
    "G17": ("ICNet: inverse error < half of G14's, no folds", inverse_consistent),
    "G18": ("Affine and deformable: recovers random ones; .05 Dice over deformable alone from misaligned starts", affine_and_deformable),
    "G23": ("Classical baselines: a known transform to < 1 voxel", baselines),
    "G24": ("TransMorph: Dice >= G14 at large displacements, folding < 1 %", by_attention),
}  # fmt: skip
"""What each row states, and who tries it."""

QUICK = ("G12", "G23", "G14", "G17", "G02", "G03", "G15", "G16", "G24", "G18")
"""All rows, in the order in which a run that is stopped has tried most of them."""


def main() -> None:
    """Try what was asked for, and print what holds."""
    options = parser_of(__doc__, "register_proofs").parse_args()
    rows = sorted(rows_of(options.proof, STATEMENTS), key=QUICK.index)
    torch.set_num_threads(1)
    run = Run("register_proofs", ["numpy", "torch", "numba", "SimpleITK"])
    have = Data(options.folder, options.steps)
    # compiled code is warm before anything is timed
    by_gauss_newton(have.heads[0][0], have.heads[1][0])
    try_all(run, {row: (words, partial(prove, have)) for row, (words, prove) in STATEMENTS.items()}, rows, options.save)


if __name__ == "__main__":
    main()
