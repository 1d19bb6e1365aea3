"""Whether measures of classifiers keep what they promise: coverage of sets, thresholds on new cases, splits, unequal classes, audits.

    python -m benchmarks.classify_evaluation [--resplits 200] [--audits 300] [--data ../shared/data] [--save FILE]

On chest X-rays of PneumoniaMNIST (28 x 28, normal or pneumonia; where they are here) with a principal component analysis and a logistic
regression, and on simulated scores. Conformal sets: how often they hold the true class over resplits. Rule-out thresholds: how often
they keep 95 % sensitivity on new cases. Splits: what cross-validation by images, and by subjects, tells beyond what new subjects show.
Classes of unequal size: recall of the rare one, as it comes and at equal specificity. Audit of groups: false alarms, and planted gaps
found.
Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.measures.balance import class_weights, oversampled, recall_at_specificity, smote, with_shares
from cohortex.measures.classification import auc
from cohortex.measures.conformal import coverage, fit_conformal, prediction_sets
from cohortex.measures.decisions import rule_out_threshold
from cohortex.measures.intervals import paired_interval, proportion_interval
from cohortex.measures.leakage import check_split, find_copies, to_leave_out
from cohortex.measures.resampling import nested_cross_validation
from cohortex.measures.subgroups import audit

Fitted = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pictures:
    """X-rays without copies: images (n, 28, 28) uint8, y (n,) with 1 for pneumonia, and which rows are of the validation part."""

    images: np.ndarray
    y: np.ndarray
    held: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """Return the pixels of each, (n, 784) from 0 to 1."""
        return self.images.reshape(len(self.images), -1) / 255.0


def read_pictures(data: Path) -> Pictures | None:
    """Return the X-rays, each once; copies leave the training part. None where they are not here."""
    file = data / "pneumoniamnist" / "pneumoniamnist_trainval.npz"
    if not file.is_file():
        return None
    with np.load(file) as arrays:
        images = np.concatenate([arrays["train_images"], arrays["val_images"]])
        y = np.concatenate([arrays["train_labels"], arrays["val_labels"]]).ravel().astype(np.int64)
        part = np.repeat(["train", "val"], [len(arrays["train_images"]), len(arrays["val_images"])])
    kept = np.setdiff1d(np.arange(len(y)), to_leave_out(find_copies(images), part, "val"))
    print(f"{len(y) - len(kept)} copies of {len(y)} X-rays are left out")
    return Pictures(images[kept], y[kept], part[kept] == "val")


def fitted(x: np.ndarray, y: np.ndarray, components: int = 50, weights: np.ndarray | None = None) -> Fitted:
    """Return the probabilities that a logistic regression on principal components gives."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    reduced = PCA(components, whiten=True, svd_solver="randomized", random_state=0).fit(x)
    regression = LogisticRegression(C=0.1, max_iter=1000).fit(reduced.transform(x), y, None if weights is None else weights[y])
    return lambda other: regression.predict_proba(reduced.transform(other))


# --- conformal sets ------------------------------------------------------------------------------------------------


def simulated(rng: np.random.Generator, n: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of three unequal classes, as sharp as they should be at 1, and the true classes."""
    shares = np.array([0.6, 0.3, 0.1])
    y = rng.choice(3, n, p=shares)
    logits = sharpness * (rng.normal(size=(n, 3)) + 2.0 * np.eye(3)[y] + np.log(shares))
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probability / probability.sum(axis=1, keepdims=True), y


def conformal_sets(pictures: Pictures | None, resplits: int) -> tuple[Table, dict[str, float]]:
    """Calibrate on one part and cover another, over resplits; the gap is the largest distance of mean coverage from the nominal one."""
    rng = np.random.default_rng(0)
    draws: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = {}
    for name, sharpness in (("simulated, calibrated", 1.0), ("simulated, overconfident", 4.0), ("simulated, timid", 0.3)):
        pool, y = simulated(rng, 4000, sharpness)
        orders = [rng.permutation(4000) for _ in range(resplits)]
        draws[name] = [(pool[o[:1000]], y[o[:1000]], pool[o[1000:]], y[o[1000:]]) for o in orders]
    if pictures is not None:
        x, its = pictures.flat, pictures.y
        draws["X-rays"] = []
        for _ in range(-(-resplits // 20)):
            order = rng.permutation(len(its))
            train, rest = order[: len(order) // 3], order[len(order) // 3 :]
            told = fitted(x[train], its[train])(x[rest])
            for _ in range(20):
                o = rng.permutation(len(rest))
                half = len(o) // 2
                draws["X-rays"].append((told[o[:half]], its[rest[o[:half]]], told[o[half:]], its[rest[o[half:]]]))
    columns = {"scores": "", "promise": "", "nominal": ".2f", "coverage": ".4f", "rarest class": ".4f", "classes in a set": ".2f"}
    table = Table(columns | {"empty": ".3f", "with empty ones filled": ".4f"})
    gaps, rare = [], []
    for name, splits in draws.items():
        for promise, score, error in (
            ("all", "least", 0.1),
            ("all", "least", 0.05),
            ("each class", "least", 0.1),
            ("all", "adaptive", 0.1),
        ):
            found = []
            for calibration, y, fresh, theirs in splits[:resplits]:
                model = fit_conformal(calibration, y, error, promise == "each class", score)  # type: ignore[arg-type]
                kept = coverage(prediction_sets(model, fresh, "keep"), theirs)
                filled = coverage(prediction_sets(model, fresh), theirs)
                rarest = int(np.bincount(theirs).argmin())
                found.append([kept.covered, kept.by_class[rarest], kept.size, kept.empty, filled.covered])
            mean = np.mean(found, axis=0)
            table.add(name, promise + ("" if score == "least" else ", adaptive"), 1 - error, *mean)
            gaps.append(abs(mean[0] - (1 - error)))
            if promise == "each class":
                rare.append(abs(mean[1] - (1 - error)))
    return table, {"conformal_gap": max(gaps), "conformal_gap_rarest": max(rare)}


# --- thresholds ----------------------------------------------------------------------------------------------------


def thresholds(pictures: Pictures | None, resplits: int) -> tuple[Table, dict[str, float]]:
    """Choose a rule-out threshold on one part and apply it to many new cases."""
    rng = np.random.default_rng(1)
    table = Table({"scores": "", "chosen": "", "resplits that keep 95 %": ".3f", "sensitivity": ".4f", "specificity": ".4f"})
    figures = {}
    truth = rng.random(20000) < 0.3
    pools = {"simulated": (truth, rng.normal(size=20000) + 2.0 * truth)}
    if pictures is not None:
        train = np.flatnonzero(~pictures.held)[::3]
        rest = np.setdiff1d(np.arange(len(pictures.y)), train)
        pools["X-rays"] = (pictures.y[rest] == 1, fitted(pictures.flat[train], pictures.y[train])(pictures.flat[rest])[:, 1])
    for name, (positive, score) in pools.items():
        for words, sure in (("just reaches it", None), ("sure at 90 %", 0.9)):
            found = []
            for _ in range(resplits):
                order = rng.permutation(len(score))
                mine, fresh = order[:400], order[400:]
                called = score[fresh] >= rule_out_threshold(positive[mine], score[mine], 0.95, sure)
                found.append([called[positive[fresh]].mean(), (~called[~positive[fresh]]).mean()])
            rates = np.array(found)
            kept = float((rates[:, 0] >= 0.95).mean())
            table.add(name, words, kept, *rates.mean(axis=0))
            if sure is not None:
                figures[f"rule_out_kept_{name.lower().replace('-', '')}"] = kept
    return table, figures


# --- splits --------------------------------------------------------------------------------------------------------


def many_of_each(images: np.ndarray, rng: np.random.Generator, times: int = 4) -> np.ndarray:
    """Return every image several times, shifted by up to a pixel, brighter or darker and noisier, as scans of one subject are alike."""
    found = []
    for image in images:
        for _ in range(times):
            moved = np.roll(image.astype(np.float64), rng.integers(-1, 2, 2), axis=(0, 1))
            found.append(moved * rng.uniform(0.9, 1.1) + rng.normal(0, 3.0, image.shape))
    return np.array(found)


def splits(pictures: Pictures | None, seeds: int) -> tuple[Table, dict[str, float]]:
    """Tell the AUC of a nearest-neighbour rule by cross-validation of images and of subjects, and on new subjects.

    Where the X-rays are not here, smooth random pictures stand for subjects: their label is chance.
    """
    from scipy.ndimage import gaussian_filter
    from sklearn.neighbors import KNeighborsClassifier

    table = Table(
        {"labels": "", "by images": ".3f", "by subjects": ".3f", "new subjects": ".3f", "copies across": "d", "subjects across": "d"}
    )
    figures: dict[str, float] = {}
    for labels in ("real", "by lot") if pictures is not None else ("by lot",):
        told: dict[str, list[float]] = {"by images": [], "by subjects": [], "new": []}
        copies = shared = 0
        for seed in range(seeds):
            rng = np.random.default_rng([seed, 2])
            if pictures is None:
                images, y = np.array([1000 * gaussian_filter(rng.normal(size=(28, 28)), 3) for _ in range(160)]), np.arange(160) % 2
            else:
                sides = [rng.choice(np.flatnonzero(pictures.y == k), 80, replace=False) for k in (0, 1)]
                rows = rng.permutation(np.concatenate(sides))
                images, y = pictures.images[rows], pictures.y[rows]
            y = rng.permutation(y) if labels == "by lot" else y
            x = many_of_each(images, rng).reshape(640, -1)
            y, subject = np.repeat(y, 4), np.repeat(np.arange(160), 4)
            known = subject < 80

            def fit(rows: np.ndarray, _: object, __: int, x: np.ndarray = x, y: np.ndarray = y) -> Fitted:
                rule = KNeighborsClassifier(3).fit(x[rows], y[rows])
                return lambda held: rule.predict_proba(x[held])

            mine = np.flatnonzero(known)
            for name, groups in (("by images", mine), ("by subjects", subject[mine])):
                found = nested_cross_validation(lambda r, c, s, fit=fit: fit(r, c, s), [None], y[mine], groups, 5, seed=seed)
                told[name].append(auc(y[mine] == 1, found.probability[:, 1]))
                if seed == 0:
                    leak = check_split(found.fold[0], x[mine].reshape(-1, 28, 28), subject[mine].astype(str))
                    if name == "by images":
                        copies, shared = len(leak.copies), len(leak.subjects)
                    else:
                        figures["splits_caught"] = min(figures.get("splits_caught", 1.0), float(not leak.leaks and copies > 0))
            told["new"].append(auc(y[~known] == 1, fit(mine, None, seed)(np.flatnonzero(~known))[:, 1]))
        table.add(labels, *(float(np.mean(v)) for v in told.values()), copies, shared)
        for name, key in (("by images", "image_split_inflates"), ("by subjects", "subject_split_inflates")):
            gain, low, high = paired_interval(told[name], told["new"])
            figures |= {key: gain, f"{key}_low": low, f"{key}_high": high} if labels == "by lot" else {f"{key}_real": gain}
    return table, figures


# --- unequal classes -----------------------------------------------------------------------------------------------


def ways_of(model: Callable[..., Any], x: np.ndarray, y: np.ndarray, fresh: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the probabilities of new cases by every way of handling unequal classes, for a classifier that `model` makes."""

    def told(x: np.ndarray, y: np.ndarray, **weight: np.ndarray) -> np.ndarray:
        return model().fit(x, y, **weight).predict_proba(fresh)

    again, rng = oversampled(y, seed), np.random.default_rng([seed, 5])
    found = {"none": told(x, y), "drawn again": told(x[again], y[again]), SMOTE: told(*smote(x, y, seed))}
    if "sample_weight" in inspect.signature(model().fit).parameters:
        found["class weights"] = told(x, y, sample_weight=class_weights(y, 2)[y])
    rare, often = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    bags = [np.concatenate([rare, rng.choice(often, len(rare), replace=False)]) for _ in range(20)]
    found["bags of equal classes"] = np.mean([told(x[bag], y[bag]) for bag in bags], axis=0)
    found["threshold moved"] = with_shares(found["none"], np.bincount(y) / len(y), np.array([0.5, 0.5]))
    return found


SMOTE = "new cases between (SMOTE)"


def unequal(pictures: Pictures, draws: int) -> tuple[Table, dict[str, float]]:
    """Compare ways to deal with few normal X-rays among many of pneumonia, on the validation part, by two classifiers."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    columns = {"rare": "d", "frequent": "d", "classifier": "", "handling": "", "recall": ".3f", "specificity": ".3f"}
    table = Table(columns | {"recall at 95 % specificity": ".3f", "AUC": ".4f"})
    figures = {}
    held, train = np.flatnonzero(pictures.held), np.flatnonzero(~pictures.held)
    rare_rows, often = train[pictures.y[train] == 0], train[pictures.y[train] == 1]
    positive = pictures.y[held] == 0
    models = {
        "logistic regression": lambda: LogisticRegression(C=0.1, max_iter=1000),
        "15 nearest neighbours": lambda: KNeighborsClassifier(15),
    }
    for rare, repeats in ((len(rare_rows), 1), (40, draws)):
        found: dict[tuple[str, str], list[list[float]]] = {}
        for draw in range(repeats):
            rng = np.random.default_rng([draw, 3])
            rows = np.concatenate([rng.choice(rare_rows, rare, replace=False), often])
            reduced = PCA(50, whiten=True, svd_solver="randomized", random_state=0).fit(pictures.flat[rows])
            x, fresh = reduced.transform(pictures.flat[rows]), reduced.transform(pictures.flat[held])
            y = (pictures.y[rows] == 0).astype(np.int64)
            for which, model in models.items():
                for name, probability in ways_of(model, x, y, fresh, draw).items():
                    called, score = probability[:, 1] >= 0.5, probability[:, 1]
                    rates = [called[positive].mean(), (~called[~positive]).mean()]
                    each = [*rates, recall_at_specificity(positive, score, 0.95), auc(positive, score)]
                    found.setdefault((which, name), []).append(each)
        for (which, name), each in found.items():
            table.add(rare, len(often), which, name, *np.mean(each, axis=0))
        if rare == 40:
            for which, key in (("15 nearest neighbours", "rare_recall_gain"), ("logistic regression", "rare_recall_gain_logistic")):
                gain, low, high = paired_interval(np.array(found[which, SMOTE])[:, 2], np.array(found[which, "none"])[:, 2])
                figures |= {key: gain, f"{key}_low": low, f"{key}_high": high}
    return table, figures


# --- audits --------------------------------------------------------------------------------------------------------


def audits(number: int) -> tuple[Table, dict[str, float]]:
    """Audit simulated classifiers with and without a gap in one of three groups."""
    table = Table(
        {"subjects": "d", "planted": "", "audits": "d", "with an alarm": ".3f", "low": ".3f", "high": ".3f", "names the group": ".3f"}
    )
    figures = {}
    kinds = {
        "none": {},
        "AUC .98 to .92": {"loss": 0.32},
        "AUC .98 to .84": {"loss": 0.52},
        "probabilities too high": {"shift": 1.5},
    }
    for subjects in (200, 600):
        for name, kind in kinds.items():
            alarms = named = 0
            count = number if name == "none" else number // 3
            for seed in range(count):
                rng = np.random.default_rng([seed, subjects, 4])
                group = rng.choice(["a", "b", "c"], subjects)
                odd = group == "c"
                positive = rng.random(subjects) < 0.4
                score = 3.0 * np.where(odd, 1 - kind.get("loss", 0.0), 1.0) * (positive - 0.5) + rng.normal(size=subjects)
                probability = 1 / (1 + np.exp(-(3.0 * score + np.log(0.4 / 0.6) + odd * kind.get("shift", 0.0))))
                found = audit(positive, probability, group, permutations=199, resamples=0, seed=seed)
                alarms += bool(found.alarms)
                named += any(gap.group == "c" for gap in found.alarms)
            share, low, high = proportion_interval(alarms, count)
            table.add(subjects, name, count, share, low, high, named / count)
            if name == "none":
                figures["audit_false_alarms"] = max(figures.get("audit_false_alarms", 0.0), share)
            if name == "AUC .98 to .84" and subjects == 600:
                figures["audit_power"] = named / count
    return table, figures


def main() -> None:
    """Measure all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--resplits", type=int, default=200)
    parser.add_argument("--audits", type=int, default=300)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    add_save(parser)
    options = parser.parse_args()
    run = Run("classify_evaluation", ["numpy", "scipy", "scikit-learn"])
    pictures = read_pictures(options.data)
    parts = {
        "conformal": lambda: conformal_sets(pictures, options.resplits),
        "thresholds": lambda: thresholds(pictures, options.resplits),
        "splits": lambda: splits(pictures, 10),
        "audits": lambda: audits(options.audits),
    }
    if pictures is not None:
        parts["unequal"] = lambda: unequal(pictures, 10)
    tables, figures = {}, {}
    for name, part in parts.items():
        print(f"\n{name}")
        tables[name], its = part()
        figures |= its
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
