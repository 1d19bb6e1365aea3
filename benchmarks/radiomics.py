"""What hand-made features and the classifiers that learn from them can do, on simulated lesions and pictures of two classes.

    python -m benchmarks.radiomics [--proof C01,C16,C18,C20] [--cases 300] [--save FILE]

C01 classifies lesions by all radiomic features with every estimator in nested, grouped cross-validation, and plants a leak: features
of pure noise that were selected on all subjects look excellent, selected inside the folds they are worth nothing. C16 trains a small
3-D network on the same lesions and fuses it with the features; the lesions have one sign for each. C18 looks at nodules in three
coordinates: learned ones against principal components. C20 compares all families of texture with each of them alone on pictures.
AUCs are those of predictions for subjects that nothing was fitted on, their intervals and the tests DeLong's. About three minutes of one
core. Last line: FIGURE features_auc ... proofs_holding proofs_total.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from benchmarks.proofs import Found, Statements, rows_of, try_all
from benchmarks.radiomics_data import Cases, lesions, moles, nodules
from benchmarks.record import Run, add_save
from cohortex.measures.classification import delong_interval, delong_test
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify.estimators import fit_estimator, predict_logits
from cohortex.models.classify.fusion import compare_parts, fit_fusion, fuse, log_softmax
from cohortex.models.classify.pictures import PICTURE_NAMES, picture_features, picture_names
from cohortex.models.classify.radiomics import radiomics
from cohortex.models.classify.selection import select
from cohortex.threads import set_threads

SEED = 90001
FOLDS = 5
EPOCHS, BATCH, RATE = 20, 16, 3e-3
COORDINATES = 3


def out_of_fold(x: np.ndarray, y: np.ndarray, predict: Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]) -> np.ndarray:
    """Return log-probabilities of every case by what was fitted on the other folds: predict(x, y, of new x, seed)."""
    logs = np.full((len(y), 2), np.nan)
    for number, (train, held) in enumerate(grouped_folds(y, np.arange(len(y)), FOLDS, SEED)):
        logs[held] = predict(x[train], y[train], x[held], number)
    return logs


def by_estimator(name: str, **options: Any) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]:
    """Return what `out_of_fold` calls: an estimator that chooses features and settings within the training cases."""

    def predict(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
        return predict_logits(fit_estimator(name, x, y, np.arange(len(y)), 2, seed, **options), new)

    return predict


def by_network(x: np.ndarray, y: np.ndarray, new: np.ndarray, seed: int) -> np.ndarray:
    """Return log-probabilities of a small 3-D network, trained for `EPOCHS` with Adam on volumes that may be mirrored along y and z."""
    import torch

    from cohortex.models.registry import build

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = build("classify", "smallcnn3d", channels=1, classes=2)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    steps = EPOCHS * (len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    network.train()
    for step in range(steps):
        if step % (len(y) // BATCH) == 0:
            order = rng.permutation(len(y))
        rows = order[(step % (len(y) // BATCH)) * BATCH :][:BATCH]
        shown = np.stack([_mirrored(volume, rng) for volume in x[rows]])[:, None]
        loss = torch.nn.functional.cross_entropy(network(torch.from_numpy(shown)), torch.from_numpy(y[rows]), label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.inference_mode():
        return log_softmax(network(torch.from_numpy(np.ascontiguousarray(new[:, None]))).double().numpy())


def _mirrored(volume: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a volume mirrored along its second and third axis, each one time in two."""
    axes = tuple(axis for axis in (1, 2) if rng.random() < 0.5)
    return np.ascontiguousarray(np.flip(volume, axes))


@cache
def lesions_seen(cases: int) -> tuple[Cases, np.ndarray]:
    """Return the lesions and all their radiomic features, (n, features)."""
    made = lesions(cases, SEED)
    pairs = zip(made.images, made.masks, strict=True)
    return made, np.array([list(radiomics(image, mask, (1, 1, 1)).values()) for image, mask in pairs])


def told(y: np.ndarray, logs: np.ndarray) -> tuple[float, float, float]:
    """Return the AUC of log-probabilities with DeLong's interval."""
    return delong_interval(y == 1, logs[:, 1])


def text(values: tuple[float, float, float]) -> str:
    """Return an AUC and its interval as they are printed."""
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"


def prove_features(cases: int) -> Found:
    """Every estimator on all features of the lesions, and the planted leak."""
    made, x = lesions_seen(cases)
    found = {name: told(made.y, out_of_fold(x, made.y, by_estimator(name))) for name in ("logistic", "svm", "forest")}
    rng = np.random.default_rng([SEED, 4])
    noise, label = rng.normal(size=(80, 1000)), rng.permutation(np.arange(80) % 2)
    quick = by_estimator("svm", keep=10, strength=1.0)
    leaking = told(label, out_of_fold(noise[:, select(noise, label, 10)], label, quick))
    honest = told(label, out_of_fold(noise, label, quick))
    return Found(
        {**{name: text(each) for name, each in found.items()}, "noise, selected on all": text(leaking), "inside the folds": text(honest)},
        {
            "every interval lies above .5": all(low > 0.5 for _, low, _ in found.values()),
            "a selection outside the folds makes noise look like a finding": leaking[1] > 0.6,
            "inside the folds noise is noise": honest[1] < 0.5 < honest[2],
        },
        {f"features_{name}": each[0] for name, each in found.items()} | {"noise_leaking": leaking[0], "noise_honest": honest[0]},
    )


def prove_fusion(cases: int) -> Found:
    """The features and the network on the same lesions, and their fusion, whose weights are chosen on the other folds."""
    made, x = lesions_seen(cases)
    shown = (made.images - made.images.mean(axis=(1, 2, 3), keepdims=True)) / made.images.std(axis=(1, 2, 3), keepdims=True)
    parts = [out_of_fold(x, made.y, by_estimator("svm")), out_of_fold(shown, made.y, by_network)]
    fused = np.full((cases, 2), np.nan)
    for rest, held in grouped_folds(made.y, np.arange(cases), FOLDS, SEED):
        mix = fit_fusion([part[rest] for part in parts], made.y[rest], [1.0, None])
        fused[held] = fuse([part[held] for part in parts], mix)[0]
    found = compare_parts(made.y, {"features": parts[0], "network": parts[1]}, fused)
    return Found(
        {name: f"{each.auc:.3f} ({each.low:.3f} to {each.high:.3f})" for name, each in found.items()}
        | {f"gain over {name}": f"{each.gain:.3f}, p {each.p:.2g}" for name, each in found.items() if name != "fused"},
        {f"the fusion is better than the {name} alone": each.gain > 0 and each.p < 0.05 for name, each in found.items() if name != "fused"},
        {f"fusion_{name}": each.auc for name, each in found.items()}
        | {f"fusion_p_{name}": each.p for name, each in found.items() if name != "fused"},
    )


def prove_manifold(cases: int) -> Found:
    """Nearest neighbours in three coordinates of the nodules' features, learned in four ways."""
    made = nodules(cases, SEED)
    x = np.array([list(picture_features(image, (1, 1), mask=np.ones(image.shape, bool)).values()) for image in made.images])
    logs = {
        method: out_of_fold(
            x, made.y, by_estimator("nearest", selection="none", keep=1, embedding=method, dimensions=COORDINATES, count=(9, 21))
        )
        for method in ("pca", "isomap", "laplacian", "neighbourhood")
    }
    test = delong_test(made.y == 1, logs["neighbourhood"][:, 1], logs["pca"][:, 1])
    return Found(
        {name: text(told(made.y, each)) for name, each in logs.items()}
        | {"neighbourhood less pca": f"{test.difference:.3f}, p {test.p:.2g}"},
        {"learned coordinates beat principal components": test.low > 0},
        {f"manifold_{name}": told(made.y, each)[0] for name, each in logs.items()} | {"manifold_p": test.p},
    )


def prove_hybrid(cases: int) -> Found:
    """All families of texture together against each alone, on the moles, with the same estimator."""
    made = moles(cases, SEED)
    names = np.array(picture_names())
    x = np.array([list(picture_features(image, (1, 1), mask=mask).values()) for image, mask in zip(made.images, made.masks, strict=True)])
    # how large a mole is tells nothing here, and textures know no gain
    families = {family: np.char.startswith(names, f"{family}_") for family in PICTURE_NAMES if family != "firstorder"}
    alone = {name: out_of_fold(x[:, columns], made.y, by_estimator("logistic")) for name, columns in families.items()}
    hybrid = out_of_fold(x[:, np.any(list(families.values()), axis=0)], made.y, by_estimator("logistic"))
    tests = {name: delong_test(made.y == 1, hybrid[:, 1], each[:, 1]) for name, each in alone.items()}
    nearest = max(tests, key=lambda name: tests[name].second)
    return Found(
        {"hybrid": text(told(made.y, hybrid))}
        | {name: text(told(made.y, each)) for name, each in alone.items()}
        | {f"hybrid less {nearest}": f"{tests[nearest].difference:.3f}, p {tests[nearest].p:.2g}"},
        {"all families together beat the best of them": tests[nearest].low > 0},
        {"hybrid": tests[nearest].first, "hybrid_best_single": tests[nearest].second, "hybrid_p": tests[nearest].p},
    )


def statements(cases: int) -> Statements:
    """Return the rows."""
    proofs: Mapping[str, tuple[str, Callable[[int], Found]]] = {
        "C01": ("radiomic features, selection in the fold and three estimators find a class; a leak is seen", prove_features),
        "C16": ("features and network together are better than each", prove_fusion),
        "C18": ("nearest neighbours in learned coordinates are better than in principal components", prove_manifold),
        "C20": ("hybrid texture is better than any family alone", prove_hybrid),
    }
    return {row: (statement, lambda prove=prove: prove(cases)) for row, (statement, prove) in proofs.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Try the rows and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proof", default="all", help="rows, with commas between them")
    parser.add_argument("--cases", type=int, default=300, help="lesions or pictures of each row")
    add_save(parser)
    options = parser.parse_args(words)
    set_threads(1)
    every = statements(options.cases)
    run = Run("radiomics", ["numpy", "scipy", "scikit-learn", "torch"])
    try_all(run, every, rows_of(options.proof, every), options.save)


if __name__ == "__main__":
    main()
