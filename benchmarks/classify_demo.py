"""Lesions told from other heads by the shipped classifier, on simulated heads that nothing was trained on, through the workflow itself.

Part of `benchmarks.classify`. Heads are of the demo's generator with a seed of their own. Every one goes from raw k-space and low-dose CT
through all stages to classify, which sees the labels that regseg made: no truth. What takes a minute a head and hardly changes labels is
left out: slices are interpolated by splines instead of the network, the deformation is not refined for every pair, the rigid motion ends
with mutual information, nobody looks for heads with left and right exchanged. Probabilities are judged as they are written.
"""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.record import Table
from benchmarks.workflow import command, environment
from cohortex.measures.calibration import reliability
from cohortex.measures.classification import accuracy, auc_macro, brier, calibration_error, delong_interval
from cohortex.measures.intervals import bootstrap_interval
from cohortex.models.classify.fusion import log_softmax

SEED = 90003
"""Of the heads; no training nor choice of settings saw them."""
CLASSES = ("control", "lesions", "tumour")
CHI_95 = 3.841458820694124
"""95 % of a chi-squared variable with one degree of freedom lie below."""


def demo(folder: Path, subjects: int, cores: int = 1) -> tuple[dict[str, Table], dict[str, float]]:
    """Run the workflow on heads, or end a run that was stopped, and judge the probabilities.

    Parameters
    ----------
    folder : Path
        Of the run; what is there already is not made again.
    subjects : int
    cores : int
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "heads.yaml"
    settings.write_text(
        f"demo: {{subjects: {subjects}, seed: {SEED}, prefix: held}}\n"
        "batch_size: 50\n"
        "stages: [acquire, preprocess, denoise, superresolve, regseg, classify, export]\n"
        "superresolve: {default: {method: spline, weights: null}}\n"
        "regseg: {default: {weights_otherwise: null, mirrored: false, affine: {refine: none}, deformable: {refine_steps: 0}}}\n"
    )
    words = command("--configfile", str(settings), cores=cores)
    with (folder / "benchmark.log").open("ab") as log:
        subprocess.run(words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT, check=True)
    y, probability = told(folder / "results")
    return judged(y, probability)


def told(results: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the true classes (n,) and the probabilities (n, classes) of the T1w that were classified, in the order of `CLASSES`."""
    with (results / "participants.tsv").open(encoding="utf-8", newline="") as file:
        known = {row["participant_id"].removeprefix("sub-"): row["diagnosis"] for row in csv.DictReader(file, delimiter="\t")}
    found: dict[str, list[float]] = {}
    with (results / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["image"] == f"{row['subject']}_T1w" and row.get("classify.class"):
                found[row["subject"]] = [float(row[f"classify.p_{name}"]) for name in CLASSES]
    print(f"{len(found)} of {len(known)} heads were classified")
    order = sorted(found)
    return np.array([CLASSES.index(known[subject]) for subject in order]), np.array([found[subject] for subject in order])


def judged(y: np.ndarray, probability: np.ndarray) -> tuple[dict[str, Table], dict[str, float]]:
    """Return tables and figures of probabilities (n, classes) of classes (n,)."""
    lesions = y == CLASSES.index("lesions")
    value, low, high = delong_interval(lesions, probability[:, CLASSES.index("lesions")])
    right = bootstrap_interval((probability.argmax(axis=1) == y).astype(float))
    squares = bootstrap_interval(((probability - np.eye(len(CLASSES))[y]) ** 2).sum(axis=1))
    error, expected = calibration_error(y, probability), errors_if_calibrated(probability)
    slope = calibration_slope(y, probability)
    measures = Table({"measure": "", "heads": "d", "value": ".3f", "low": ".3f", "high": ".3f"})
    measures.add("AUC of lesions (DeLong)", len(y), value, low, high)
    measures.add("AUC, mean of the classes", len(y), auc_macro(y, probability), None, None)
    measures.add("accuracy", len(y), *right)
    measures.add("Brier score, sum of the classes", len(y), *squares)
    measures.add("calibration error, and of calibrated probabilities", len(y), error, *np.quantile(expected, (0.025, 0.975)))
    measures.add("calibration slope", len(y), *slope)
    bins = Table({"told": ".3f", "heads": "d", "right": ".3f", "low": ".3f", "high": ".3f"})
    found = reliability(probability.argmax(axis=1) == y, probability.max(axis=1))
    for row in zip(found.told, found.cases, found.seen, found.seen_low, found.seen_high, strict=True):
        bins.add(float(row[0]), int(row[1]), *(float(number) for number in row[2:]))
    figures = {
        "demo_auc": value,
        "demo_auc_low": low,
        "demo_auc_high": high,
        "demo_accuracy": accuracy(y, probability.argmax(axis=1)),
        "demo_brier": brier(y, probability),
        "demo_calibration_error": error,
        "demo_calibration_error_chance": float(np.quantile(expected, 0.95)),
        "demo_slope": slope[0],
        "demo_slope_low": slope[1],
        "demo_slope_high": slope[2],
    }
    return {"heads": measures, "reliability": bins}, figures


def errors_if_calibrated(probability: np.ndarray, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """Return calibration errors (draws,) of classes that are drawn from the probabilities themselves: what chance alone makes of it.

    References
    ----------
    Broecker and Smith, Increasing the reliability of reliability diagrams, Weather and Forecasting 2007 (consistency resampling).
    """
    rng, edges = np.random.default_rng(seed), probability.cumsum(axis=1)
    drawn = (rng.random((draws, len(probability), 1)) > edges[None, :, :-1]).sum(axis=2)
    return np.array([calibration_error(y, probability) for y in drawn])


def calibration_slope(y: np.ndarray, probability: np.ndarray) -> tuple[float, float, float]:
    """Return what the log-probabilities should be multiplied by, with its interval by the likelihood ratio; 1 where they are calibrated.

    Above 1 the probabilities are too cautious, below 1 too sure. The upper end is 100 where the data set none.

    References
    ----------
    Cox, Two further applications of a model for binary regression, Biometrika 1958 (the slope; here of several classes, without intercept).
    """
    logs, slopes = np.log(np.clip(probability, 1e-12, None)), np.exp(np.linspace(np.log(0.01), np.log(100.0), 2000))
    likelihood = np.array([log_softmax(slope * logs)[np.arange(len(y)), y].sum() for slope in slopes])
    inside = slopes[likelihood >= likelihood.max() - CHI_95 / 2]
    return float(slopes[likelihood.argmax()]), float(inside[0]), float(inside[-1])
