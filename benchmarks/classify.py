"""How well the stage classify tells pictures apart: pneumonia in chest radiographs, three kinds of brain tumours.

    python -m benchmarks.classify [--only pneumonia|brain3] [--data ../shared/data] [--save FILE]

Pneumonia: networks of the stage's own training on the train part of PneumoniaMNIST, without the images that its validation part has too
and without repeats, and measured once on the validation part, beside a support vector machine on principal components of the raw
pixels. All settings, those of the support vector machine too, were chosen by cross-validation within the train part. Brain tumours:
cross-validated in 5 folds; slices of one patient are neighbours in the numbering but patients are not known, so blocks of consecutive
numbers stay in one fold; beside a ResNet-18. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.io.pictures import read_picture
from cohortex.items import Image
from cohortex.measures.classification import accuracy, auc, rates
from cohortex.measures.intervals import bootstrap_interval, paired_interval
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify.classifier import network_logits
from cohortex.models.classify.inputs import input_for
from cohortex.training.checkpoint import Journal
from cohortex.training.classify import DEFAULTS
from cohortex.training.classify_examples import examples_of
from cohortex.training.classify_members import fit_members, plan_of
from cohortex.volume import Volume

CLASSES = ("normal", "pneumonia")
PNEUMONIA: dict[str, Any] = {
    "modalities": ["DX"],
    "network": {"name": "smallresnet2d", "options": {}},
    "input": {"size": [28, 28], "spacing_mm": None},
    "training": {
        "steps": 600,
        "batch": 64,
        "minutes": 1000.0,
        "balance": "none",
        "optimiser": "muon",
        "rate": 3e-3,
        "average": 0.99,
        "members": 3,
        "mirror": True,
    },
}
"""Settings of the stage. In a cross-validation of the train part equal weight for both classes (logit_adjust) cost more accuracy in the
frequent one than it gave in the other, also where a quarter of the cases is normal; scaling each picture by itself and wider layers gave
no higher AUC."""

BLOCK = 10
"""Consecutive slices of a kind of tumour that stay in one fold: about as many as a patient has."""
TUMOURS = ("pituitary", "meningioma", "glioma")
BRAIN: dict[str, Any] = {
    "input": {"size": [64, 64], "spacing_mm": None, "labels": False, "values": "whole"},
    "training": {"steps": 300, "batch": 32, "minutes": 1000.0, "balance": "none", "optimiser": "muon", "rate": 3e-3, "average": 0.98},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "smallresnet2d": {"name": "smallresnet2d", "options": {"widths": [16, 32, 64, 128]}},
    "resnet18": {"name": "resnet18", "options": {"width": 32, "stem": "plain"}},
}


def radiographs(data: Path) -> tuple[list[Image], np.ndarray, list[Image], np.ndarray]:
    """Return images and classes of the train part, without copies, and of the validation part."""
    file = np.load(data / "pneumoniamnist" / "pneumoniamnist_trainval.npz")
    train, held = file["train_images"], file["val_images"]
    seen, kept = {hashlib.sha256(picture.tobytes()).digest() for picture in held}, []
    for number, picture in enumerate(train):
        digest = hashlib.sha256(picture.tobytes()).digest()
        if digest not in seen:
            kept.append(number)
            seen.add(digest)
    y, y_held = file["train_labels"].reshape(-1)[kept].astype(int), file["val_labels"].reshape(-1).astype(int)
    print(f"{len(kept)} of {len(train)} training images are no copies: {np.bincount(y)}; {len(held)} to measure on: {np.bincount(y_held)}")
    made = [_images(pictures, labels, split) for pictures, labels, split in ((train[kept], y, "train"), (held, y_held, "validation"))]
    return made[0], y, made[1], y_held


def _images(pictures: np.ndarray, labels: np.ndarray, split: str) -> list[Image]:
    """Return pictures (n, rows, columns) as images of a cohort."""
    found = []
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        volume = Volume(picture.T[:, ::-1, None].copy(), np.eye(4), "DX", body_part="chest")
        row = {"site": "pneumoniamnist", "split": split, "label": CLASSES[label]}
        name = f"{split}{number:04d}"
        found.append(Image(f"{name}_DX", name, "", "DX", "image", "image", "chest", row=row, opener=lambda volume=volume: volume))
    return found


def by_stage(train: Sequence[Image], held: Sequence[Image], settings: Mapping[str, Any], seed: int) -> np.ndarray:
    """Return the probabilities (n, classes) of the networks that the stage's training makes of the training images.

    The stage's own cross-validation is left out: it gives a temperature, which changes neither the order of cases nor the class.
    """
    settings = {**DEFAULTS, **settings, "parts": ["cnn"], "training": {**DEFAULTS["training"], **settings["training"]}}
    settings["input"] = {**DEFAULTS["input"], **settings["input"]}
    classes = sorted({image.row["label"] for image in train})
    asked = input_for(settings, train, train)
    plan, learned = plan_of(settings, asked, len(classes)), examples_of(train, train, classes, settings, asked)
    asked = asked.of_cohort(learned.inputs)
    learned = replace(learned, inputs=asked.standard(learned.inputs))
    shown = asked.standard(examples_of(held, held, classes, settings, asked).inputs)
    members, facts = fit_members(learned, plan, seed, "cpu", Journal(), "networks")
    print(f"trained in {facts['seconds']:.0f} s", flush=True)
    return np.exp(np.concatenate([network_logits(plan.one(members), shown[i : i + 32], "cpu") for i in range(0, len(shown), 32)]))


def by_svm(train: Sequence[Image], y: np.ndarray, held: Sequence[Image], seed: int) -> np.ndarray:
    """Return the score of pneumonia of a support vector machine on principal components of raw pixels, tuned on the train part."""
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import SVC

    x, x_held = (np.stack([image.volume.array(np.float32).ravel() for image in images]) / 255.0 for images in (train, held))
    grid = {"pca__n_components": [40, 80], "svc__C": [3, 10], "svc__class_weight": [None, "balanced"]}
    machine = make_pipeline(PCA(random_state=seed), SVC())
    found = GridSearchCV(machine, grid, scoring="balanced_accuracy", cv=StratifiedKFold(3, shuffle=True, random_state=seed)).fit(x, y)
    print(f"support vector machine: {found.best_params_}")
    return found.decision_function(x_held)


def auc_gain(y: np.ndarray, first: np.ndarray, second: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Return the difference of two AUC with its paired bootstrap interval, cases of each class drawn by themselves."""
    rng, members = np.random.default_rng(0), [np.flatnonzero(y == label) for label in (0, 1)]
    found = []
    for _ in range(draws):
        rows = np.concatenate([rng.choice(own, len(own)) for own in members])
        found.append(auc(y[rows] == 1, first[rows]) - auc(y[rows] == 1, second[rows]))
    low, high = np.percentile(found, (2.5, 97.5))
    return auc(y == 1, first) - auc(y == 1, second), float(low), float(high)


def pneumonia(data: Path, seed: int) -> tuple[Table, dict[str, float]]:
    """Measure on PneumoniaMNIST."""
    train, y, held, y_held = radiographs(data)
    svm = by_svm(train, y, held, seed)
    ours = by_stage(train, held, PNEUMONIA, seed)[:, 1]
    table = Table({"method": "", "accuracy": ".4f", "low": ".4f", "high": ".4f", "AUC": ".4f", "sensitivity": ".3f", "specificity": ".3f"})
    right = {}
    for name, score, cut in (("PCA + SVM on raw pixels", svm, 0.0), ("stage classify", ours, 0.5)):
        said = (score > cut).astype(int)
        right[name] = (said == y_held).astype(float)
        found = rates(y_held, said)
        table.add(name, *bootstrap_interval(right[name]), auc(y_held == 1, score), found.sensitivity, found.specificity)
    more = paired_interval(right["stage classify"], right["PCA + SVM on raw pixels"])
    higher = auc_gain(y_held, ours, svm)
    table.add("gain", *more, higher[0], None, None)
    print(f"gain of AUC {higher[0]:.4f} [{higher[1]:.4f}, {higher[2]:.4f}]")
    figures = {
        "pneumonia_accuracy": right["stage classify"].mean(),
        "pneumonia_auc": auc(y_held == 1, ours),
        "pneumonia_svm_accuracy": right["PCA + SVM on raw pixels"].mean(),
        "pneumonia_svm_auc": auc(y_held == 1, svm),
        "pneumonia_gain": more[0],
        "pneumonia_gain_low": more[1],
        "pneumonia_gain_high": more[2],
        "pneumonia_auc_gain": higher[0],
        "pneumonia_auc_gain_low": higher[1],
        "pneumonia_auc_gain_high": higher[2],
    }
    return table, figures


def tumours(data: Path) -> list[Image]:
    """Return the slices with tumours; the subject is the block of consecutive numbers of one kind."""
    found = []
    for label, kind in enumerate(TUMOURS):
        files = sorted((data / "brain-tumour-2d" / str(label)).glob("*.jpg"), key=lambda file: int(file.stem))
        for number, file in enumerate(files):
            subject = f"{kind}{number // BLOCK:03d}"
            row = {"site": "figshare", "split": "train", "label": kind}
            name = f"{subject}_run-{number}_T1w"
            found.append(Image(name, subject, "", "T1w", "image", "image", "head", row=row, opener=lambda file=file: read_picture(file)[0]))
    return found


def brain3(data: Path, seed: int, folds: int = 5) -> tuple[Table, dict[str, float]]:
    """Cross-validate on the brain tumours."""
    images = tumours(data)
    table = Table({"network": "", "parameters": ",d", "accuracy": ".4f", "low": ".4f", "high": ".4f"})
    right: dict[str, np.ndarray] = {}
    for name, network in NETWORKS.items():
        training = {**DEFAULTS["training"], **BRAIN["training"]}
        settings = {**DEFAULTS, **BRAIN, "parts": ["cnn"], "network": network, "training": training}
        asked = input_for(settings, images, images)
        plan, examples = plan_of(settings, asked, len(TUMOURS)), examples_of(images, images, TUMOURS, settings, asked)
        said, parameters = np.zeros(len(images), int), 0
        for number, (rest, held) in enumerate(grouped_folds(examples.y, examples.groups, folds, seed)):
            members, facts = fit_members(examples.take(rest), plan, seed + number, "cpu", Journal(), f"{name}, fold {number}")
            shown = examples.inputs[held]
            logs = [network_logits(plan.one(members), shown[i : i + 8], "cpu") for i in range(0, len(held), 8)]
            said[held] = np.concatenate(logs).argmax(axis=1)
            parameters = sum(p.numel() for p in members[0].parameters())
            print(f"{name}, fold {number}: {accuracy(examples.y[held], said[held]):.3f}, {facts['seconds']:.0f} s", flush=True)
        # slices of one block are no independent cases
        correct = (said == examples.y).astype(float)
        right[name] = np.array([correct[examples.groups == group].mean() for group in np.unique(examples.groups)])
        table.add(name, parameters, *bootstrap_interval(right[name]))
    gain, low, high = paired_interval(right["smallresnet2d"], right["resnet18"])
    table.add("gain", None, gain, low, high)
    figures = {"brain3_accuracy": right["smallresnet2d"].mean(), "brain3_resnet18_accuracy": right["resnet18"].mean()}
    return table, figures | {"brain3_gain": gain, "brain3_gain_low": low, "brain3_gain_high": high}


def main() -> None:
    """Train and measure."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=["pneumonia", "brain3"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    add_save(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run("classify", ["numpy", "torch", "scikit-learn"])
    tables, figures = {}, {}
    for name, measure in (("pneumonia", pneumonia), ("brain3", brain3)):
        if options.only in (None, name):
            tables[name], found = measure(options.data, options.seed)
            figures |= found
    run.end(tables, {name: float(value) for name, value in figures.items()}, options.save)


if __name__ == "__main__":
    main()
