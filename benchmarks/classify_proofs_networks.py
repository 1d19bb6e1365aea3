"""Rows C02 to C04, C17, C21, C22, F07 and F08: what networks are, and what they are better at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.classify_proofs_data import FINDINGS, NODULE_TYPES, Pictures, Settings
from benchmarks.classify_proofs_training import (
    NETWORK,
    TEST,
    cases,
    gain,
    gained,
    learn,
    mean,
    repeated,
    right,
    seed_of,
    shortened,
    told,
)
from benchmarks.proofs import Found
from benchmarks.radiomics_data import Cases, nodules
from cohortex.measures.classification import auc, delong_interval
from cohortex.measures.decisions import operating_point, rule_out_threshold
from cohortex.models import registry
from cohortex.models.classify.estimators import fit_estimator, predict_logits
from cohortex.models.classify.fusion import compare_parts, fit_fusion, fuse
from cohortex.models.classify.logistic import Logistic
from cohortex.models.classify.pictures import picture_features, picture_names
from cohortex.models.classify.why_features import contributions, term_names

EYES, TESTED = 400, 500
DEEP: dict[str, Any] = {"stem": "small", "width": 8, "depth": [4, 4, 4, 4], "bottleneck": False}
SHALLOW: dict[str, Any] = {**DEEP, "depth": [1, 1, 1, 1]}
SCALES = (0.25, 0.5, 1.0)
SENSITIVITY = 0.95


def counted(network: str) -> int:
    """Return how many parameters a network of the paper has; it takes no memory."""
    with torch.device("meta"):
        return registry.count_parameters(registry.build("classify", network))


def hand_made(pictures: Pictures | Cases, masks: np.ndarray | None = None) -> np.ndarray:
    """Return the features of pictures (n, features), of a region where there are masks."""
    regions = [None] * len(pictures.y) if masks is None else list(masks)
    return np.array([list(picture_features(p, (1.0, 1.0), m).values()) for p, m in zip(pictures.images, regions, strict=True)])


def alexnet(have: Settings) -> Found:
    """Row C02: the count of AlexNet; on eyes above the best estimator on hand-made features."""
    estimators = ("logistic", "svm", "forest")

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested = cases(have, "fundus", EYES, repetition, 1), cases(have, "fundus", TESTED, repetition, TEST)
        seed, (x, shown) = seed_of(have, repetition, 1), (hand_made(own) for own in (learned, tested))
        found = {"AlexNet": auc(tested.y == 1, learn(have, learned, "alexnet", seed, 250).logs(tested.images)[:, 1])}
        for name in estimators:
            made = fit_estimator(name, x, learned.y, np.arange(len(x)), 2, seed)
            found[name] = auc(tested.y == 1, predict_logits(made, shown)[:, 1])
        return found

    count, found = counted("alexnet"), repeated(shortened(have, 4), values)
    best = max(estimators, key=lambda name: found[name].mean())
    more = gain(found["AlexNet"], found[best])
    figures = {"parameters": f"{count:,}"} | {f"AUC, {name}": told(mean(own)) for name, own in found.items()}
    return Found(figures | {f"over {best}": gained(more)}, {"count": count == 61_100_840, "over hand-made features": more[1] > 0})


def vgg(have: Settings) -> Found:
    """Row C03: the count of VGG-16; it runs on a picture of the paper's size, and its narrow version learns nodules."""
    count = counted("vgg16")
    torch.manual_seed(have.seed)
    with torch.inference_mode():
        logits = registry.build("classify", "vgg16").eval()(torch.zeros(1, 3, 224, 224))
    runs = logits.shape == (1, 1000) and bool(logits.isfinite().all())

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested = (nodules(n, seed_of(have, repetition, part)) for n, part in ((300, 1), (TESTED, TEST)))
        seed = seed_of(have, repetition, 1)
        made = learn(have, Pictures(learned.images, learned.y), "vgg16", seed, 150)
        return {"AUC of nodules, narrow": auc(tested.y == 1, made.logs(tested.images)[:, 1]), "loss": made.loss}

    found = repeated(shortened(have, 3), values)
    figures = {"parameters": f"{count:,}"} | {name: told(mean(own)) for name, own in found.items()}
    return Found(figures, {"count": count == 138_357_544, "runs": runs, "learns": mean(found["AUC of nodules, narrow"])[1] > 0.5})


def residual(have: Settings) -> Found:
    """Row C04: 34 layers with skips learn surfaces, the same without do not; of ten layers the plain ones do."""
    arms = {
        "34 layers": DEEP,
        "34 layers, plain": {**DEEP, "skips": False},
        "10 layers": SHALLOW,
        "10 layers, plain": {**SHALLOW, "skips": False},
    }

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested = (cases(have, "plain textures", n, repetition, part) for n, part in ((800, 1), (300, TEST)))
        found = {}
        for name, options in arms.items():
            made = learn(have, learned, "resnet18", seed_of(have, repetition, 1), 100, options, optimiser="muon", rate=3e-3)
            found |= {name: right(made.logs(tested.images), tested.y), f"loss, {name}": made.loss}
        return found

    found = repeated(shortened(have, 4), values)
    skips, lower = gain(found["34 layers"], found["34 layers, plain"]), gain(found["loss, 34 layers, plain"], found["loss, 34 layers"])
    depth = gain(found["10 layers, plain"], found["34 layers, plain"])
    figures = {name: told(mean(own)) for name, own in found.items()}
    figures |= {"skips add": gained(skips), "loss without skips higher by": gained(lower), "plain depth takes": gained(depth)}
    statements = {"skips over plain": skips[1] > 0, "lower loss with skips": lower[1] > 0, "plain ones learn less the deeper": depth[1] > 0}
    return Found(figures, statements)


def interpretable(have: Settings) -> Found:
    """Row C17: nodules by features of what a mask shows and by a network, and both fused with weights that say who spoke."""
    learned, kept, tested = (nodules(n, seed_of(have, 1, part)) for n, part in ((300, 1), (300, 2), (1000, TEST)))
    seed = seed_of(have, 1, 1)
    names = picture_names()
    x, x_kept, x_tested = (hand_made(own, own.masks) for own in (learned, kept, tested))
    estimator = fit_estimator("logistic", x, learned.y, np.arange(len(x)), 2, seed)
    assert isinstance(estimator, Logistic)
    network = learn(have, Pictures(learned.images, learned.y), "smallresnet2d", seed, 250)
    parts = {
        "features": [predict_logits(estimator, own) for own in (x_kept, x_tested)],
        "network": [network.logs(own.images) for own in (kept, tested)],
    }
    # weights and temperatures are of nodules that neither part was fitted on
    fusion = fit_fusion([own[0] for own in parts.values()], kept.y, [1.0, None])
    probability = fuse([own[1] for own in parts.values()], fusion)[0]
    compared = compare_parts(tested.y, {name: own[1] for name, own in parts.items()}, probability)
    terms, intercept = contributions(estimator, x_tested)
    logits = intercept + terms.sum(axis=2)
    left = float(np.abs(logits - logits.mean(1, keepdims=True) - (own := parts["features"][1]) + own.mean(1, keepdims=True)).max())
    spoken = np.abs(terms[:, 1]).mean(axis=0)
    loudest = [term_names(estimator, names)[n] for n in np.argsort(-spoken)[:3]]
    figures = {f"AUC, {name}": told((own.auc, own.low, own.high)) for name, own in compared.items()}
    for name in parts:
        figures[f"fused over {name}"] = gained((compared[name].gain, compared[name].gain_low, compared[name].gain_high))
    figures |= {"weights": " and ".join(f"{weight:.2f} ({name})" for weight, name in zip(fusion.weights, parts, strict=True))}
    figures |= {"loudest features": " ".join(loudest), "left over of the features' logits": f"{left:.1e}"}
    statements = {"AUC over chance": compared["fused"].low > 0.5, "contributions add up to what is said": left < 1e-6}
    return Found(figures, statements | {f"fused over {name}": compared[name].gain_low > 0 for name in parts})


def scales(have: Settings) -> Found:
    """Row C21: three planes at three scales above the best of the scales alone; type of nodules."""
    options = NETWORK["multi_stream"] | {"size": 16, "features": [8, 16], "hidden": 32, "dropout": 0.0}

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested = (cases(have, "nodule types", n, repetition, part) for n, part in ((300, 1), (300, TEST)))
        found = {}
        for own in (SCALES, *[(scale,) for scale in SCALES]):
            made = learn(have, learned, "multi_stream", seed_of(have, repetition, 1), 120, {**options, "scales": list(own)})
            logs = made.logs(tested.images)
            found["three scales" if len(own) == 3 else f"scale {own[0]}"] = right(logs, tested.y)
        return found

    found = repeated(shortened(have, 4), values)
    single = [name for name in found if name != "three scales"]
    best = max(single, key=lambda name: found[name].mean())
    more = gain(found["three scales"], found[best])
    figures = {name: told(mean(own)) for name, own in found.items()} | {f"over {best}": gained(more)}
    return Found(figures | {"types": str(len(NODULE_TYPES))}, {"three over one": more[1] > 0})


def triage(have: Settings) -> Found:
    """Row C22: GoogLeNets, one a finding, and a threshold that rules radiographs without findings out."""
    learned, kept, tested = (cases(have, "chests", n, 1, part) for n, part in ((600, 1), (800, 2), (1000, TEST)))
    nothing, figures, low = [np.zeros(len(own.y)) for own in (kept, tested)], {}, []
    for number, finding in enumerate(FINDINGS):
        own = Pictures(learned.images, learned.y[:, number])
        made = learn(have, own, "googlenet", seed_of(have, 1, number), 150, balance="logit_adjust")
        logs = [made.logs(each.images) for each in (kept, tested)]
        nothing = [total + each[:, 0] for total, each in zip(nothing, logs, strict=True)]
        found = delong_interval(tested.y[:, number] == 1, logs[1][:, 1])
        figures[f"AUC, {finding}"], low = told(found), [*low, found[1]]
    # any finding: one less the product of the probabilities that there is none
    positive, (score, shown) = [own.y.max(axis=1) == 1 for own in (kept, tested)], [-total for total in nothing]
    point = operating_point(positive[1], shown, rule_out_threshold(positive[0], score, SENSITIVITY, sure=0.95))
    figures |= {"AUC, any finding": told(delong_interval(positive[1], shown)), "sensitivity": told(point.sensitivity)}
    figures |= {"specificity": told(point.specificity), "ruled out": told(point.ruled_out), "of these without": told(point.negative_value)}
    statements = {"AUC of each over chance": min(low) > 0.5, "95 % sensitivity on new ones": point.sensitivity[0] >= SENSITIVITY}
    return Found(figures, statements | {"some are ruled out": point.specificity[1] > 0})


def attention(have: Settings) -> Found:
    """Row F07: rows of the attention sum to 1; patches change places with their positions and nothing changes, without them it does."""
    torch.manual_seed(have.seed)
    network: Any = registry.build("classify", "vit_b16", **NETWORK["vit_b16"], channels=1, classes=2).eval()
    x = torch.from_numpy(cases(have, "textures", 16, 1, TEST).images[:, None])
    with torch.inference_mode():
        sums = max(float((weights.sum(-1) - 1).abs().max()) for weights in network.attention_weights(x))
        before = network.transformed(network.tokens(x))[:, 0]
        order = torch.randperm(network.tokens(x).shape[1] - 1)
        moved = network.tokens(x)[:, torch.cat([torch.zeros(1, dtype=torch.long), 1 + order])]
        together = float((network.transformed(moved)[:, 0] - before).abs().max())
        # the patches of the picture alone change places, their positions stay
        p = network.patch
        pieces = x.unfold(2, p, p).unfold(3, p, p)
        shape = pieces.shape
        shuffled = pieces.flatten(2, 3)[:, :, order].unflatten(2, shape[2:4]).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        alone = float((network.vector(shuffled) - before).abs().max())
        network.position.zero_()
        unplaced = float((network.vector(shuffled) - network.vector(x)).abs().max())
    figures = {"rows sum to 1 within": sums, "patches with positions": together, "patches alone": alone, "without any position": unplaced}
    statements = {"rows sum to 1": sums < 1e-5, "order of tokens means nothing": together < 1e-4 and unplaced < 1e-4}
    return Found(figures, statements | {"positions mean something": alone > 100 * max(together, unplaced)})


def windows(have: Settings, edges: Sequence[int] = (56, 112, 224)) -> Found:
    """Row F08: operations of Swin grow as the pixels, those of ViT faster; seconds beside them."""
    operations: dict[str, list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for name, further in {"swin_t": {}, "vit_b16": {"size": 224}}.items():
        torch.manual_seed(have.seed)
        network: Any = registry.build("classify", name, **{**NETWORK[name], **further, "channels": 1, "classes": 2}).eval()
        for edge in edges:
            x = torch.zeros(1, 1, edge, edge)
            with torch.inference_mode():
                # as plain products: the counter does not know those of the fused attention
                with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                    network(x)
                runs = []
                for _ in range(3):
                    start = time.process_time()
                    network(x)
                    runs.append(time.process_time() - start)
            operations.setdefault(name, []).append(float(counter.get_total_flops()))
            seconds.setdefault(name, []).append(min(runs))
    figures: dict[str, float | str] = {}
    grown = {name: [b / a for a, b in pairwise(own)] for name, own in operations.items()}
    for name, own in grown.items():
        figures[f"{name} operations for 4 times the pixels"] = " then ".join(f"{n:.3f}" for n in own)
        figures[f"{name} ms at {' '.join(map(str, edges))}"] = " ".join(f"{1000 * s:.0f}" for s in seconds[name])
    linear = max(abs(n - 4) for n in grown["swin_t"]) < 0.04
    return Found(figures, {"Swin linear in the pixels": linear, "ViT is not": grown["vit_b16"][-1] > 5})


ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = {
    "C02": ("AlexNet: parameters; eyes over hand-made features", alexnet),
    "C03": ("VGG: parameters; runs and learns", vgg),
    "C04": ("ResNet: 34 layers with skips learn, the plain twin does not", residual),
    "C17": ("Nodules: AUC of an interpretable fusion of features and network", interpretable),
    "C21": ("Nodule types: three scales over one", scales),
    "C22": ("GoogLeNet: several findings of a radiograph, and ruling out at 95 % sensitivity", triage),
    "F07": ("ViT: rows of the attention, order of the patches", attention),
    "F08": ("Swin: linear in the pixels", windows),
}
"""What each row states, and who tries it."""
