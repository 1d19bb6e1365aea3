"""How well the stage classify tells pictures apart: pneumonia in chest radiographs, three kinds of brain tumours; and heads with lesions.

    python -m benchmarks.classify [--only pneumonia,brain3,demo,conformal] [--pick] [--ship FOLDER] [--heads 100] [--folder FOLDER]
        [--data ../shared/data] [--save FILE]

Pneumonia: the stage's own training on the train part of PneumoniaMNIST, without the images that its validation part has too and without
repeats; the model is measured once on the validation part, beside a support vector machine on principal components of the raw pixels.
All settings, those of the support vector machine too, were chosen by cross-validation within the train part; `--pick` cross-validates
candidates there (single networks, few steps). In this copy of the data two in three of the normal children were left out of the train
part, but not of the validation part: the training is told the shares of the original train part (`expected`). `--ship` keeps the model
there: zoo/classify/chest was made so. Brain tumours: cross-validated in 5 folds; slices of one patient are neighbours in the numbering but
patients are not known, so blocks of consecutive numbers stay in one fold; beside a ResNet-18. Heads: see `benchmarks.classify_demo`.
Conformal sets: see `benchmarks.classify_evaluation`. With `--only` and `--save` the other parts of the record stay. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.classify_demo import demo
from benchmarks.classify_evaluation import conformal_sets, read_pictures
from benchmarks.record import ROOT, Run, Table, add_save, commit
from cohortex.io.pictures import read_picture
from cohortex.items import Image
from cohortex.measures.classification import accuracy, auc, delong_interval, rates
from cohortex.measures.intervals import bootstrap_interval, paired_interval
from cohortex.measures.resampling import grouped_folds
from cohortex.models.classify import SMALL
from cohortex.models.classify.classifier import load_classifier, network_logits
from cohortex.models.classify.fusion import fit_temperature, fuse, shift_of
from cohortex.models.classify.inputs import input_for
from cohortex.models.folder import read_model, write_model
from cohortex.training.checkpoint import Journal
from cohortex.training.classify import DEFAULTS, train_classify
from cohortex.training.classify_examples import examples_of
from cohortex.training.classify_members import fit_members, plan_of
from cohortex.volume import Volume

CLASSES = ("normal", "pneumonia")
EXPECTED = {"normal": 0.26, "pneumonia": 0.74}
"""Shares in the train part of PneumoniaMNIST as it was published: 1214 and 3494 of 4708."""
PNEUMONIA: dict[str, Any] = {
    "weights": "train",
    "modalities": ["DX"],
    "parts": ["cnn"],
    "network": {"name": "smallresnet2d", "options": {"widths": [16, 32, 64]}},
    "input": {"size": [28, 28], "spacing_mm": None, "labels": False, "values": "cohort"},
    "training": {
        "folds": 2,
        "steps": 600,
        "batch": 64,
        "minutes": 1000.0,
        "augment": {"translate": 0.185, "flip": [0], "gain": 0.1, "offset": 0.1, "whole": True},
        "balance": "none",
        "optimiser": "muon",
        "rate": 3e-3,
        "average": 0.99,
        "members": 4,
        "mirror": True,
        "own_scale": True,
        "expected": EXPECTED,
    },
}
"""Settings of the stage. Examples are moved by whole pixels: of interpolated, smoother ones a network learns to take the sharper ones that
it is shown later for normal."""
CANDIDATES: dict[str, dict[str, Any]] = {
    "smallresnet2d, whole pixels": {},
    "smallresnet2d of four widths, whole pixels": {"network": {"name": "smallresnet2d", "options": {}}},
    "smallresnet2d, interpolated": {"training": {"augment": None}},
    "smallresnet2d, whole pixels, scale of each picture": {"input": {"values": "whole"}},
    "resnet18, whole pixels": {"network": {"name": "resnet18", "options": SMALL["resnet18"]}},
    "densenet121, whole pixels": {"network": {"name": "densenet121", "options": SMALL["densenet121"]}},
}
"""What `--pick` compares as single networks. It tells whole from interpolated pixels and DenseNet from the others, but not residual
networks from each other; the smallest was taken, whose committee has the weights of one of the others."""
ABOUT: dict[str, Any] = {
    "name": "chest-pneumonia-28",
    "data": "the train part of PneumoniaMNIST (CC BY 4.0; Yang J. et al., MedMNIST v2, Scientific Data 10, 2023), chest radiographs of "
    "children from one hospital (Kermany D. S. et al., Cell 172, 2018), scaled to 28 x 28 pixels, without copies",
    "license": "CC-BY-4.0",
    "intended_use": "shows how pictures are classified; research on thumbnails like its own",
    "limits": "sees 28 x 28 pixels of a frontal radiograph of a child, any other picture is scaled to that; learned images of one hospital "
    "and expects 26 % normal; not measured on other hospitals, adults or whole radiographs; not for patients",
}
"""What the card of the model says that a cohort's own does not know."""

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


def pick(data: Path, seed: int, steps: int = 250, folds: int = 2) -> tuple[dict[str, Table], dict[str, float]]:
    """Cross-validate single networks of the candidates within the train part."""
    train, y, _, _ = radiographs(data)
    table = Table({"candidate": "", "parameters": ",d", "AUC": ".4f", "low": ".4f", "high": ".4f", "accuracy": ".4f", "CPU s": ".0f"})
    groups = np.array([image.subject for image in train], dtype=object)
    share = np.array(list(EXPECTED.values()))
    for name, own in CANDIDATES.items():
        training = {**DEFAULTS["training"], **PNEUMONIA["training"], **own.get("training", {}), "members": 1, "steps": steps}
        settings = {**DEFAULTS, **PNEUMONIA, "network": own.get("network", PNEUMONIA["network"]), "training": training}
        settings["input"] = {**PNEUMONIA["input"], **own.get("input", {})}
        asked, began = input_for(settings, train, train), time.process_time()
        plan, examples = plan_of(settings, asked, len(CLASSES)), examples_of(train, train, CLASSES, settings, asked)
        logs, right, parameters = np.zeros((len(y), len(CLASSES))), np.zeros(len(y)), 0
        for number, (rest, held) in enumerate(grouped_folds(y, groups, folds, seed)):
            known = asked.of_cohort(examples.inputs[rest])
            ready = replace(examples, inputs=known.standard(examples.inputs))
            members, _ = fit_members(ready.take(rest), plan, seed + number, "cpu", Journal(), name)
            shown, network = ready.inputs[held], plan.one(members)
            found = np.concatenate([network_logits(network, shown[i : i + 32], "cpu") for i in range(0, len(held), 32)])
            logs[held], parameters = found, sum(p.numel() for p in members[0].parameters())
            # half of a fold calibrates the other one
            for mine, other in ((np.arange(len(held)) % 2 == part, np.arange(len(held)) % 2 != part) for part in (0, 1)):
                warmth = fit_temperature(found[other], y[held][other])
                told = found[mine] / warmth + shift_of(list(EXPECTED.values()), y[rest])
                right[held[mine]] = told.argmax(axis=1) == y[held[mine]]
        value = delong_interval(y == 1, logs[:, 1] - logs[:, 0])
        correct = float(share @ [right[y == label].mean() for label in range(len(CLASSES))])
        table.add(name, parameters, *value, correct, time.process_time() - began)
    return {"candidates": table}, {}


def by_stage(images: Sequence[Image], held: Sequence[Image], seed: int, folder: Path) -> np.ndarray:
    """Train the stage's model, keep it in a folder, and return its probabilities (n, classes) of the images held out."""
    began = time.process_time()
    train_classify(images, {"default": PNEUMONIA}, seed, "cpu", folder)
    card, tensors = read_model(folder)
    write_model(folder, {key: value for key, value in card.items() if key != "sha256"} | ABOUT, tensors)
    print(f"trained in {time.process_time() - began:.0f} s of the processor", flush=True)
    model = load_classifier(folder)
    shown = np.stack([model.input.shown(image, images) for image in held])
    logs = np.concatenate([network_logits(model.network, shown[i : i + 32], "cpu") for i in range(0, len(shown), 32)])
    return fuse([logs], model.fusion)[0]


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


def pneumonia(data: Path, seed: int, folder: Path) -> tuple[dict[str, Table], dict[str, float]]:
    """Measure on PneumoniaMNIST; the model stays in the folder."""
    train, y, held, y_held = radiographs(data)
    svm = by_svm(train, y, held, seed)
    ours = by_stage([*train, *held], held, seed, folder)[:, 1]
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
    return {"pneumonia": table}, figures


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


def brain3(data: Path, seed: int, folds: int = 5) -> tuple[dict[str, Table], dict[str, float]]:
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
    return {"brain3": table}, figures | {"brain3_gain": gain, "brain3_gain_low": low, "brain3_gain_high": high}


def conformal(data: Path) -> tuple[dict[str, Table], dict[str, float]]:
    """Measure the coverage of conformal sets over 200 resplits."""
    table, figures = conformal_sets(read_pictures(data), 200)
    return {"conformal": table}, {"conformal_gap": figures["conformal_gap"]}


def main() -> None:
    """Train and measure."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="pneumonia,brain3,demo,conformal")
    parser.add_argument("--pick", action="store_true", help="cross-validate the candidates too (about 12 minutes)")
    parser.add_argument("--ship", type=Path, help="where the model of the chest radiographs is kept")
    parser.add_argument("--heads", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="where the heads are kept; a run that was stopped goes on there")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    add_save(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run("classify", ["numpy", "torch", "scikit-learn"])
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        parts: dict[str, Callable[[], tuple[dict[str, Table], dict[str, float]]]] = {
            "pick": lambda: pick(options.data, options.seed),
            "pneumonia": lambda: pneumonia(options.data, options.seed, options.ship or place / "chest"),
            "brain3": lambda: brain3(options.data, options.seed),
            "demo": lambda: demo(options.folder or place / "heads", options.heads),
            "conformal": lambda: conformal(options.data),
        }
        chosen = [*(["pick"] if options.pick else []), *(name for name in options.only.split(",") if name)]
        tables: dict[str, Table] = {}
        figures: dict[str, float] = {}
        done = []
        for name in chosen:
            began = time.monotonic()
            found, numbers = parts[name]()
            tables |= found
            figures |= {key: float(value) for key, value in numbers.items()}
            done.append((name, (time.monotonic() - began) / 60, commit()))
    before, others = kept(options.save, chosen)
    if before["parts"].rows:
        run.about["command"] = "python -m benchmarks.classify --only PART, as in the table of parts"
        run.start -= 60 * sum(row[1] or 0 for row in before["parts"].rows)
    for row in done:
        before["parts"].add(*row)
    run.end(before | tables, others | figures, options.save)


def kept(save: Path | None, renewed: Sequence[str]) -> tuple[dict[str, Table], dict[str, float]]:
    """Return the tables and figures of a record that is there already, without the rows of ``parts`` that are renewed."""
    parts = Table({"part": "", "minutes": ".1f", "commit": ""})
    if save is None or not save.is_file():
        return {"parts": parts}, {}
    record = json.loads(save.read_text(encoding="utf-8"))
    tables = {name: Table(table["columns"], table["rows"]) for name, table in record["tables"].items()}
    rows = tables["parts"].rows if "parts" in tables else [[name, None, record["commit"]] for name in tables]
    parts.rows.extend(row for row in rows if row[0] not in renewed)
    return tables | {"parts": parts}, dict(record["figures"])


if __name__ == "__main__":
    main()
