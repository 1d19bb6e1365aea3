"""What the rows S01 to S12 state about systems that add resolution, each tried with a small budget on simulated heads.

    python -m benchmarks.superresolve --proof S06,S09 [--steps 1] [--folder FOLDER] [--save FILE]

Heads of the demo (a seed of its own, cubes of 1.5 mm, no noise): three to learn from, four others to be tested on, the middle of each. An
in-plane axis plays the slice axis, as in the stage's own training, which is what trains the networks, each for about a minute on one
core. They are narrower than in their papers; twins have the same seed, steps and patches. Decibels are those over the cubic spline through
the slices, in the foreground; intervals are over the heads that are tested on (95 %) and know nothing of other seeds of the training. One
is said to be better than another where the whole interval of the difference is above zero.

What fails: S02, whose network adds 0.3 dB to cubic from one view, after three times the steps 0.5; two views hold by far.

``--steps`` multiplies the steps of every training. With ``--save`` the rows of a record that is there are kept beside the new ones. Last
line: FIGURE, over all rows of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.proofs import Found, rows_of, try_all
from benchmarks.record import Run, commit
from benchmarks.superresolve_proofs_data import Data, data, over, told
from benchmarks.superresolve_proofs_loop import loop
from cohortex.models.folder import Loaded
from cohortex.stages.superresolve import fed_by
from cohortex.training.superresolve_pairs import Manner

SQUARED: dict[str, Any] = {"objective": "squared_error", "even": True}
"""Of networks whose own objective is the absolute error: with it they add nothing for long, as the median of what is missing is zero
wherever they cannot yet tell which part of a slice a voxel is."""

ORTHOGONAL: dict[str, Any] = {"optimiser": "muon", "rate": 1e-3}
"""Where the rate that the others have leaves a network without any unit that is not zero, or learns too slowly."""


def mismatch(have: Data) -> Found:
    """Row S01: train on one way of making slices, test on each; what truncation leaves has nothing outside of the kept k-space."""
    from cohortex.physics.degrade import truncate

    kinds = ("profile", "truncate", "kernel")
    gains = np.zeros((3, 3, len(have.tested)))
    for i, trained_on in enumerate(kinds):
        model = have.trained("subslice", 3, 400, {"channels": 16, "blocks": 3}, degradation=trained_on, even=True, patch=14)
        for j, tested_on in enumerate(kinds):
            gains[i, j] = have.gains(model, 3, Manner(degradation=tested_on))
    own = gains[range(3), range(3)].mean(0)
    other = (gains.sum((0, 1)) - 3 * own) / 6
    truth = have.unit(3)[0][0]
    spectrum = np.abs(np.fft.rfft(truncate(truth, 3, (2,), keep_grid=True).astype(np.float64), axis=2)) ** 2
    outside = float(spectrum[..., (truth.shape[2] // 3 + 1) // 2 :].sum() / spectrum.sum())
    table = "; ".join(f"{kind}: " + ", ".join(f"{g:+.2f}" for g in row.mean(-1)) for kind, row in zip(kinds, gains, strict=True))
    figures = [
        told("same degradation", own, other) + " than on another",
        f"trained on (tested on {', '.join(kinds)}) {table}",
        f"energy outside of the kept k-space {outside:.1e}",
    ]
    return Found(figures, {"another degradation costs": over(own, other)[1] > 0, "nothing outside of the kept k-space": outside < 1e-6})


def cardiac(have: Data) -> Found:
    """Row S02: five times through-plane at least 1 dB over cubic, and two views above one."""
    # The paper's smooth error is a squared one up to 1, which no error of an image in 0 to 1 is above.
    manner = {"objective": {"name": "smooth_absolute_error", "width": 1.0}, **ORTHOGONAL}
    one, two = (
        have.gains(have.trained("cardiac_sr", 5, 400, {"factor": 5, "width": 16, "inputs": list(inputs)}, **manner), 5)
        for inputs in (("image",), ("image", "view"))
    )
    figures = [told("one view", one), told("two views", two, one)]
    return Found(figures, {"1 dB over cubic": one.mean() >= 1, "two views are better": over(two, one)[1] > 0})


def srcnn3d(have: Data, factor: float) -> np.ndarray:
    """Return the gains of SRCNN3D, which several rows are held against."""
    return have.gains(have.trained("srcnn3d", factor, 1000, {"residual": True}, patch=14, even=True, **ORTHOGONAL), factor)


def srcnn(have: Data) -> Found:
    """Row S03: at least 0.5 dB over the spline at x2, and the paper's count of parameters."""
    from cohortex.models.registry import build, count_parameters

    gain, count = srcnn3d(have, 2), count_parameters(build("superresolve", "srcnn3d"))
    figures = [told("x2", gain, 0.0).replace("more", "over the spline"), f"{count} parameters"]
    return Found(figures, {"0.5 dB over the spline": gain.mean() >= 0.5, "the paper's count": count == 52_801})


def context(have: Data) -> Found:
    """Row S04: context on above off, and above SRCNN3D."""
    manner = {**SQUARED, **ORTHOGONAL}
    on, off = (have.gains(have.trained("context_sr", 2, 250, {"width": 16, "context": c}, **manner), 2) for c in (True, False))
    third = srcnn3d(have, 2)
    figures = [told("context", on), told("without", off), told("SRCNN3D", third)]
    figures += [told("context over without", on - off, 0.0), told("over SRCNN3D", on - third, 0.0)]
    return Found(figures, {"context helps": over(on, off)[1] > 0, "beats SRCNN3D": over(on, third)[1] > 0})


def hybrid(have: Data) -> Found:
    """Row S05: above SRCNN3D at x2 and x3; several branches above one."""
    small = {"width": 16, "growth": 8, "blocks": 2}
    manner = {**SQUARED, **ORTHOGONAL}
    figures, beats = [], []
    ours = {}
    for factor in (2, 3):
        ours[factor], third = (
            have.gains(have.trained("hybrid_sr", factor, 250, {**small, "factor": factor}, **manner), factor),
            srcnn3d(have, factor),
        )
        figures.append(told(f"x{factor}", ours[factor], third) + f" than SRCNN3D ({third.mean():+.2f} dB)")
        beats.append(over(ours[factor], third)[1] > 0)
    single = have.gains(have.trained("hybrid_sr", 2, 250, {**small, "factor": 2, "branches": 1}, **manner), 2)
    figures.append(told("three branches x2", ours[2], single) + " than one")
    return Found(figures, {"beats SRCNN3D": all(beats), "branches help": over(ours[2], single)[1] > 0})


def splitting(have: Data) -> Found:
    """Row S06: split channels above a single branch of equal parameters."""
    split, plain = (
        have.gains(have.trained("csn", 2, 400, {"factor": 2, "width": 16, "blocks": 2, "split": each}), 2) for each in (True, False)
    )
    return Found([told("split", split, plain) + " than one branch"], {"splitting helps": over(split, plain)[1] > 0})


def bayesian(have: Data) -> Found:
    """Row S07: where it says that it is unsure it errs more, and by about as much as it says; the shuffle loses nothing."""
    import torch
    from scipy.stats import spearmanr

    from cohortex.models.superresolve.layers import to_channels, to_voxels

    model = have.trained("bayesian_espcn", 2, 400, {"factor": 2})
    network: Any = model.network
    errors, deviations = [], []
    for truth, slices, _ in have.unit(2):
        made, own, of_weights = (part[0, 0].numpy() for part in network.predict(torch.from_numpy(slices)[None, None]))
        inside = truth > 0.1
        errors.append(np.abs(made - truth)[inside])
        deviations.append(np.sqrt(own + of_weights)[inside])
    error, said = np.concatenate(errors), np.concatenate(deviations)
    ranks: Any = spearmanr(error, said)
    # Of a Gaussian 90 % are within 1.645 standard deviations.
    share, fine = float((error <= 1.6449 * said).mean()), torch.from_numpy(have.unit(2)[0][0])[None, None]
    exact = torch.equal(to_voxels(to_channels(fine, (2, 2, 2)), (2, 2, 2)), fine)
    figures = [
        told("x2", have.gains(model, 2)),
        f"Spearman {float(ranks.statistic):.2f}",
        f"within the interval of 90 %: {100 * share:.0f} %, ratio of RMS error and RMS deviation "
        f"{np.sqrt(np.mean(error**2) / np.mean(said**2)):.2f}",
    ]
    knows, calibrated = float(ranks.statistic) > 0.4, abs(share - 0.9) <= 0.1
    return Found(figures, {"knows where": knows, "calibrated within 10 %": calibrated, "the shuffle is exact": exact})


def saint(have: Data) -> Found:
    """Row S08: one model above cubic at x2, x4 and x6; fused above each view."""
    import torch

    model = have.trained("saint", (2, 6), 240, {}, **ORTHOGONAL)
    gains = {factor: have.gains(model, factor) for factor in (2, 4, 6)}
    network: Any = model.network
    views = []
    for truth, slices, _ in have.unit(4):
        with torch.no_grad():
            made = network.estimates(torch.from_numpy(slices)[None, None], truth.shape[2] / slices.shape[2])
        views.append([-10 * np.log10(np.mean((part[0, 0].numpy() - truth) ** 2)) for part in made])
    fused, sagittal, coronal = np.array(views).T
    figures = [told(f"x{factor}", gain, 0.0).replace("more", "over cubic") for factor, gain in gains.items()]
    figures += [told("fused over each view at x4", fused - view, 0.0) for view in (sagittal, coronal)]
    above = all(over(gain)[1] > 0 for gain in gains.values())
    return Found(figures, {"above cubic everywhere": above, "fusion helps": all(over(fused, v)[1] > 0 for v in (sagittal, coronal))})


def residuals(have: Data) -> Found:
    """Row S09: global and local residuals above either alone."""
    kinds = {"both": (True, True), "local alone": (True, False), "global alone": (False, True)}
    gains = {
        name: have.gains(have.trained("mglrl", 2, 300, {"width": 4, "local_residual": a, "global_residual": b}), 2)
        for name, (a, b) in kinds.items()
    }
    both, *others = gains.values()
    figures = [told("both", both), *(told(f"than {name}", both - gain, 0.0) for name, gain in list(gains.items())[1:])]
    return Found(figures, {"both are better": all(over(both, other)[1] > 0 for other in others)})


def contrasts(have: Data) -> Found:
    """Row S10: with the reference contrast at least 0.5 dB above without."""
    objective = {"name": "progressive_gan_features", "feature_steps": 100, "feature_width": 8, "width": 8}
    on, off = (
        have.gains(have.trained("progressive_sr", 3, 250, {"width": 12, "blocks": 1, "inputs": list(inputs)}, objective=objective), 3)
        for inputs in (("image", "reference"), ("image",))
    )
    return Found([told("with the reference", on, off) + " than without"], {"0.5 dB by the reference": over(on, off)[0] >= 0.5})


def jitter(made: np.ndarray, truth: np.ndarray) -> float:
    """Return how much the error changes from one fine slice to the next, as a share of how much the truth does."""
    return float(np.abs(np.diff(made - truth, axis=2)).mean() / np.abs(np.diff(truth, axis=2)).mean())


def slabs(have: Data) -> Found:
    """Row S11: joining slices lowers the jitter between them."""
    from cohortex.models.superresolve.apply import run_fine

    def jitters(fusion: bool) -> np.ndarray:
        model: Loaded = have.trained("slab_sr", 3, 600, {"width": 16, "fusion": fusion}, **SQUARED)
        return np.array([jitter(run_fine(model.network, fed_by(model), b, c, {})[0], a) for a, b, c in have.unit(3)])

    joined, slicewise = jitters(True), jitters(False)
    mean, low, high = over(slicewise, joined)
    figures = [
        f"jitter of the errors joined {joined.mean():.3f}, slice by slice {slicewise.mean():.3f}",
        f"lower by {mean:.3f} [{low:.3f}, {high:.3f}]",
    ]
    return Found(figures, {"joining lowers it": low > 0})


PROOFS: dict[str, tuple[str, Callable[[Data], Found]]] = {
    "S01": ("made coarse by k-space truncation, profile or random kernels; another degradation than the trained one costs", mismatch),
    "S02": ("cardiac_sr at x5: at least 1 dB over cubic; two views above one", cardiac),
    "S03": ("srcnn3d: the paper's count; at least 0.5 dB over the spline at x2", srcnn),
    "S04": ("context_sr at x2: context above none; above srcnn3d", context),
    "S05": ("hybrid_sr: above srcnn3d at x2 and x3; branches above one", hybrid),
    "S06": ("csn at x2: split channels above one branch of equal parameters", splitting),
    "S07": ("bayesian_espcn at x2: exact shuffle; error and uncertainty go together (Spearman > 0.4), calibrated within 10 %", bayesian),
    "S08": ("saint: one model above cubic at x2, x4, x6; fused above each view", saint),
    "S09": ("mglrl at x2: global and local residuals above either alone", residuals),
    "S10": ("progressive_sr at x3: at least 0.5 dB by the reference contrast", contrasts),
    "S11": ("slab_sr at x3: less jitter between slices than slice by slice", slabs),
    "S12": ("train, evaluate, refine: leaves six artefacts; validation PSNR does not fall", loop),
}
"""Statements and proofs by row."""


def prove(rows: str, folder: Path, steps: float, save: Path | None) -> None:
    """Try the statements of rows, and keep what is known of others in the record.

    Parameters
    ----------
    rows : str
        With commas, or ``all``.
    folder : Path
        Of heads and models: what was trained for a row by the same commit is taken again for the next one.
    steps : float
        By what the steps of the trainings are multiplied.
    save : Path, optional
        The record.

    Raises
    ------
    Refused
        For a row that is not here.
    """
    run = Run("superresolve_proofs", ["numpy", "torch", "snakemake"], "superresolve")
    have = data(folder / "proofs", commit(), steps)
    try_all(run, {row: (words, partial(proof, have)) for row, (words, proof) in PROOFS.items()}, rows_of(rows, PROOFS), save)
