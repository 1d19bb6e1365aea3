"""How well a network trained on simulated motion sees it, and whether an order from easy to hard helps.

    python -m benchmarks.motion [--seeds 3] [--heads 16] [--held-out 10] [--steps 400] [--data ../shared/data] [--save FILE]

Slices of simulated T1w heads are spoiled in k-space (cohortex.training.motion). For each seed the same network learns the same
examples in two orders, sorted from severe to slight motion and as they were drawn, and is judged by the AUC on slices of heads that
it never saw, half of them with motion of the same range of severity, and on real scans where they are here. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.demo.anatomy import make_head, paint
from cohortex.demo.tissues import mr_contrast
from cohortex.filters.resample import resample
from cohortex.io.nifti import read_nifti
from cohortex.measures.classification import auc, delong_interval
from cohortex.measures.intervals import paired_interval
from cohortex.training.motion import Examples, Recipe, draw_examples, fit_motion_detector, motion_logit

SHAPE, SPACING, SLICES = (80, 96), 2.3, 6
REAL = ("brain-ms-multimodal/patient07/T1.nii.gz", "brain-ms-longitudinal/patient01/raw/study1_T1W.nii.gz")


def head_slices(seed: int) -> list[np.ndarray]:
    """Return axial slices (y, x) of a simulated head of its own size, age and contrast."""
    rng = np.random.default_rng([seed, 9])
    diagnosis = ("control", "tumour", "lesions")[seed % 3]
    head = make_head({"diagnosis": diagnosis, "age": float(rng.uniform(20, 85))}, rng)
    affine = np.diag([SPACING, SPACING, 14.0, 1.0])
    affine[:3, 3] = [-SPACING * (SHAPE[0] - 1) / 2, -18 - SPACING * (SHAPE[1] - 1) / 2, float(rng.uniform(-25, -12))]
    values, labels = paint(head, affine, (*SHAPE, SLICES), mr_contrast(rng), np.eye(4), parts=(2, 2, 1))
    # Every third one without its skull, as many data sets are shared.
    values[:, :, ::3] *= (labels[:, :, ::3] > 0) & ((labels[:, :, ::3] <= 3) | (labels[:, :, ::3] == 6))
    return [np.ascontiguousarray(values[:, :, z].T) for z in range(SLICES)]


def real_slices(data: Path) -> list[np.ndarray]:
    """Return axial slices of the real scans that are here, on the same grid."""
    found = []
    for name in REAL:
        if not (data / name).is_file():
            continue
        volume = read_nifti(data / name)
        shape = (*SHAPE, 11)
        affine = np.diag([SPACING, SPACING, 6.0, 1.0])
        middle = volume.affine @ [*((np.array(volume.shape) - 1) / 2), 1]
        affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        image = np.maximum(resample(volume, affine=affine, shape=shape, fill=0.0).array(np.float32), 0)
        found += [np.ascontiguousarray(image[:, :, z].T) for z in range(shape[2])]
    return found


def judged(network: object, made: Examples) -> np.ndarray:
    """Return how much each example looks like motion."""
    return motion_logit(network, made.inputs)  # type: ignore[arg-type]


def main() -> None:
    """Train and judge."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    add_save(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run("motion", ["numpy", "torch"])
    recipe = Recipe(steps=options.steps)
    train = [s for seed in range(options.heads) for s in head_slices(seed)]
    held = [s for seed in range(1000, 1000 + options.held_out) for s in head_slices(seed)]
    test = draw_examples(held, 4 * len(held), recipe, np.random.default_rng(5))
    real = real_slices(options.data)
    print(f"{len(train)} slices to learn from, {len(held)} of other heads, {len(real)} real")
    moved = draw_examples(real, 4 * len(real), recipe, np.random.default_rng(6)) if real else None
    scores: dict[str, list[float]] = {"curriculum": [], "random": [], "real": []}
    bands = {f"{least:g} to {most:g} px": (least, most) for least, most in ((0.3, 0.65), (0.65, 1.4), (1.4, 3.0))}
    columns = {"seed": "d", "order": "", "AUC": ".4f", "low": ".4f", "high": ".4f"} | dict.fromkeys(bands, ".3f")
    detectors = Table(columns | {"real scans": ".4f", "last losses": ".3f"})
    for seed in range(options.seeds):
        made = draw_examples(train, recipe.steps * recipe.batch, recipe, np.random.default_rng([seed, 1]))
        for order in ("curriculum", "random"):
            network, losses = fit_motion_detector(made, seed, replace(recipe, order=order))
            score = judged(network, test)
            value, low, high = delong_interval(test.severity > 0, score)
            scores[order].append(value)
            parts = []
            for least, most in bands.values():
                some = (test.severity == 0) | ((test.severity >= least) & (test.severity < most))
                parts.append(auc(test.severity[some] > 0, score[some]))
            on_real = None if moved is None else auc(moved.severity > 0, judged(network, moved))
            if order == "curriculum" and on_real is not None:
                scores["real"].append(on_real)
            detectors.add(seed, order, value, low, high, *parts, on_real, float(np.mean(losses[-20:])))
    gain, low, high = paired_interval(scores["curriculum"], scores["random"])
    figures = {"auc_curriculum": np.mean(scores["curriculum"]), "auc_random": np.mean(scores["random"]), "gain": gain}
    figures |= {"gain_low": low, "gain_high": high} if low == low else {}
    figures |= {"auc_real": np.mean(scores["real"])} if scores["real"] else {}
    run.end(
        {"detectors": detectors}, {name: float(value) for name, value in figures.items()} | {"cpu_s": time.process_time()}, options.save
    )


if __name__ == "__main__":
    main()
