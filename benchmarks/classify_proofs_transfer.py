"""Rows C05 to C09 and C26: what a network that learned another task before is worth where there are few cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.classify_proofs_data import Pictures, Settings
from benchmarks.classify_proofs_training import (
    TEST,
    Trained,
    cases,
    gain,
    gained,
    learn,
    mean,
    repeated,
    right,
    seed_of,
    shortened,
    source,
    told,
)
from benchmarks.proofs import Found
from cohortex.measures.classification import auc
from cohortex.models import registry
from cohortex.models.classify.committee import Committee

SURFACES, FILMS = 1600, 800
"""Cases of the tasks that are learned first."""
FEW, FEWEST, TESTED = 100, 40, 500
FIRST, SCRATCH, STEPS = 300, 200, 120
"""Of the tasks that are learned first; of networks that row C05 trains from scratch, and of all others."""
THREE = ("smallresnet2d", "vgg11", "alexnet")
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "mirrored": {"flip": [0, 1]},
    "moved": {"translate": 0.15},
    "turned": {"rotate_deg": 180.0},
    "scaled": {"scale": 0.15},
    "sheared": {"shear": 0.15},
    "other gain and offset": {"gain": 0.2, "offset": 0.3},
    "noise": {"noise": 0.4},
}
AUGMENTATIONS["all of them"] = {key: value for own in tuple(AUGMENTATIONS.values()) for key, value in own.items()}


def few(have: Settings, repetition: int, count: int = FEW) -> tuple[Pictures, Pictures, int]:
    """Return lungs to learn from and to be tested on, and the seed of the trainings."""
    return cases(have, "lungs", count, repetition, 1), cases(have, "lungs", TESTED, repetition, TEST), seed_of(have, repetition, 1)


def frozen(have: Settings) -> Found:
    """Row C05: a regression on frozen features of surfaces above the same network from scratch, at 100 and 50 cases."""
    start = source(have, "textures", SURFACES, THREE[0], FIRST)

    def values(repetition: int) -> Mapping[str, float]:
        found = {}
        for count in (FEW, FEW // 2):
            learned, tested, seed = few(have, repetition, count)
            kept = learn(have, learned, THREE[0], seed, 0, start=start, frozen=True)
            fresh = learn(have, learned, THREE[0], seed, SCRATCH)
            found[f"frozen, {count} cases"] = right(kept.logs(tested.images), tested.y)
            found[f"scratch, {count} cases"] = right(fresh.logs(tested.images), tested.y)
        return found

    found = repeated(shortened(have, 5), values)
    figures, statements = {name: told(mean(own)) for name, own in found.items()}, {}
    for count in (FEW, FEW // 2):
        more = gain(found[f"frozen, {count} cases"], found[f"scratch, {count} cases"])
        figures[f"difference, {count} cases"] = gained(more)
        statements[f"frozen over scratch, {count} cases"] = more[1] > 0
    return Found(figures, statements)


def fused(have: Settings) -> Found:
    """Row C06: three fine-tuned networks together, and three members of one, above the best of them."""
    starts = {network: source(have, "textures", SURFACES, network, FIRST) for network in THREE}

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested, seed = few(have, repetition)
        members = {name: 3 if name == THREE[0] else 1 for name in THREE}
        tuned = {name: learn(have, learned, name, seed, STEPS, start=start, members=members[name]) for name, start in starts.items()}
        found = {name: right(made.logs(tested.images, 0), tested.y) for name, made in tuned.items()}
        fresh = learn(have, learned, THREE[0], seed, STEPS)
        found[f"{THREE[0]} from scratch"] = right(fresh.logs(tested.images), tested.y)
        every = [made.members[0] for made in tuned.values()]
        # the input's mean and deviation are those of the cases, so the same for all three
        found["three networks"] = right(together(every, tuned[THREE[0]]).logs(tested.images), tested.y)
        alone = [right(tuned[THREE[0]].logs(tested.images, number), tested.y) for number in range(3)]
        return {**found, "three members": right(tuned[THREE[0]].logs(tested.images), tested.y), "one member": float(np.mean(alone))}

    found = repeated(shortened(have, 5), values)
    best = max(THREE, key=lambda name: found[name].mean())
    over = {
        f"three networks over {best}": gain(found["three networks"], found[best]),
        "three members over one": gain(found["three members"], found["one member"]),
        "fine-tuned over scratch": gain(found[THREE[0]], found[f"{THREE[0]} from scratch"]),
    }
    figures = {name: told(mean(own)) for name, own in found.items()} | {name: gained(more) for name, more in over.items()}
    return Found(figures, {name: more[1] > 0 for name, more in over.items()})


def together(networks: list[Any], like: Trained) -> Trained:
    """Return networks as one, which looks at what one of them looks at."""
    return Trained(like.plan, [Committee(networks).eval()], like.asked, like.loss)


def textured(have: Settings) -> Found:
    """Row C07: a network that told surfaces apart, trained further on lungs, above the same from scratch."""
    start = source(have, "textures", SURFACES, THREE[0], FIRST)

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested, seed = few(have, repetition)
        both = {"after surfaces": start, "from scratch": None}
        made = {name: learn(have, learned, THREE[0], seed, STEPS, start=own) for name, own in both.items()}
        return {name: right(own.logs(tested.images), tested.y) for name, own in made.items()}

    found = repeated(shortened(have, 6), values)
    more = gain(found["after surfaces"], found["from scratch"])
    return Found({name: told(mean(own)) for name, own in found.items()} | {"difference": gained(more)}, {"over scratch": more[1] > 0})


def twice(have: Settings) -> Found:
    """Row C08: surfaces, then masses on film, then few of a digital device, above surfaces and then these."""
    surfaces = source(have, "textures", SURFACES, THREE[0], FIRST)
    starts = {
        "two steps": source(have, "film masses", FILMS, THREE[0], FIRST, surfaces),
        "surfaces alone": surfaces,
        "film alone": source(have, "film masses", FILMS, THREE[0], FIRST),
    }

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested = cases(have, "digital masses", FEWEST, repetition, 1), cases(have, "digital masses", TESTED, repetition, TEST)
        seed, found = seed_of(have, repetition, 1), {}
        for name, start in starts.items():
            logs = learn(have, learned, THREE[0], seed, STEPS, start=start).logs(tested.images)
            found[name] = auc(tested.y == 1, logs[:, 1])
        return found

    found = repeated(shortened(have, 8), values)
    over = {f"two steps over {name}": gain(found["two steps"], found[name]) for name in ("surfaces alone", "film alone")}
    figures = {f"AUC, {name}": told(mean(own)) for name, own in found.items()} | {name: gained(more) for name, more in over.items()}
    return Found(figures, {name: more[1] > 0 for name, more in over.items() if "surfaces" in name})


def varied(have: Settings) -> Found:
    """Row C09: what each kind of augmentation adds when a network is trained further, with its interval."""
    start = source(have, "textures", SURFACES, THREE[0], FIRST)

    def values(repetition: int) -> Mapping[str, float]:
        learned, tested, seed = few(have, repetition)
        found = {}
        for name, ranges in {"none": {}, **AUGMENTATIONS}.items():
            made = learn(have, learned, THREE[0], seed, STEPS, start=start, augment=ranges)
            found[name] = right(made.logs(tested.images), tested.y)
        return found

    found = repeated(shortened(have, 4), values)
    figures = {"none": told(mean(found["none"]))}
    over = {name: gain(found[name], found["none"]) for name in AUGMENTATIONS}
    figures |= {name: gained(more) for name, more in over.items()}
    return Found(
        figures, {"an interval of each": bool(np.isfinite(list(over.values())).all()), "all over none": over["all of them"][1] > 0}
    )


def transformers(have: Settings) -> Found:
    """Row C26: counts of ViT-B/16 and Swin-T; both, trained on surfaces first, above themselves from scratch."""
    figures: dict[str, str] = {}
    statements: dict[str, bool] = {}
    for network in ("vit_b16", "swin_t"):
        with torch.device("meta"):
            count = registry.count_parameters(registry.build("classify", network))
        figures[f"{network} parameters"] = f"{count:,}"
        statements[f"{network} count"] = count == registry.entry("classify", network).parameters
        start = source(have, "textures", SURFACES, network, FIRST, rate=1e-3)

        def values(repetition: int, network: str = network, start: Any = start) -> Mapping[str, float]:
            learned, tested, seed = few(have, repetition)
            found = {}
            for name, own in {"after surfaces": start, "from scratch": None}.items():
                made = learn(have, learned, network, seed, STEPS, start=own, rate=1e-3)
                found[name] = right(made.logs(tested.images), tested.y)
            return found

        found = repeated(shortened(have, 4), values)
        more = gain(found["after surfaces"], found["from scratch"])
        figures |= {f"{network} {name}": told(mean(own)) for name, own in found.items()} | {f"{network} difference": gained(more)}
        statements[f"{network} over scratch"] = more[1] > 0
    return Found(figures, statements)


ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = {
    "C05": ("Regression on frozen features over the same network from scratch at 100 cases and fewer", frozen),
    "C06": ("Fine-tuned networks fused over the best of them", fused),
    "C07": ("Trained on textures first: over scratch", textured),
    "C08": ("Two steps of transfer over one", twice),
    "C09": ("What augmentations add to transfer, with intervals", varied),
    "C26": ("ViT and Swin: parameters; trained on textures first over scratch", transformers),
}
"""What each row states, and who tries it."""
