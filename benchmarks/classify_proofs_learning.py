"""What rows of ways of learning and of networks that look twice state, each tried with small budgets on pictures that were not learnt from.

`ROWS` is run by `benchmarks.classify_proofs`. Pictures of 28 or 40 pixels are made from seeds (`benchmarks.classify_proofs_pictures`),
networks have the options `SMALL` and are trained by the stage's own code (`benchmarks.classify_proofs_trained`). Every figure is over
several trainings, each with training cases and first weights of its own; differences are between trainings of the same cases, and a
statement holds where the 95 % interval of the difference over trainings is above 0. Sizes and budgets were chosen with other seeds.

What fails: of the ways to treat a rare class drawing it as often as the other helps; how much weights, focal loss and adjusted logits do
differs so much from training to training that five cannot tell (W02), and so does what attention adds to AG-CNN, whose map lies on the
lesion (C14). A curriculum is better than a random order with as many steps, but with two thirds of them it is no better than that order
with all (C11); a decomposition is not better than a network that was trained twice as long (C12).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import classify_proofs_layers
from benchmarks.classify_proofs_data import Settings
from benchmarks.classify_proofs_pictures import Cases, doubtful, graded, kinds, spots
from benchmarks.classify_proofs_trained import RESNET, Learnt, auc_of, learn, over, repeated, said, steps_of
from benchmarks.proofs import Found
from cohortex.measures.balance import recall_at_specificity
from cohortex.measures.classification import auc
from cohortex.measures.intervals import bootstrap_interval
from cohortex.models.classify.why import explain
from cohortex.models.classify.why_sanity import sanity_check
from cohortex.training.balance import BALANCES
from cohortex.training.beside import Beside, Task

HELD = 500_000
"""Added to the seed of training cases: those of a test."""
QUICK: dict[str, Any] = {"optimiser": "muon", "rate": 3e-3}


def tasks(settings: Settings) -> Found:
    """Row C10: grades of outline and core learned beside a class that both decide, from 80 pictures."""

    def once(seed: int) -> tuple[float, float]:
        learnt, test = graded(80, seed), graded(1000, seed + HELD)
        training = {**QUICK, **steps_of(160, settings.steps)}
        grades = Beside(tuple(Task(values) for values in learnt.facts.T))
        return auc_of(test, learn(learnt, RESNET, seed, training, beside=grades)), auc_of(test, learn(learnt, RESNET, seed, training))

    ours, other = repeated(settings.seed, 8, once).T
    more = over(ours, other)
    return Found({"with grades AUC": ours.mean(), "class alone": other.mean(), "difference": said(more)}, {"grades over none": more[1] > 0})


def curriculum(settings: Settings) -> Found:
    """Row C11: from easy to hard against a random order, with as many steps and with two thirds of them."""

    def once(seed: int) -> tuple[float, float, float]:
        learnt, test = doubtful(200, seed, wrong=0.4), doubtful(1000, seed + HELD)
        whole, short = steps_of(150, settings.steps), steps_of(100, settings.steps)
        ways = ({**whole, "curriculum": True}, {**short, "curriculum": True}, whole)
        easy, soon, random = (auc_of(test, learn(learnt, RESNET, seed, {**QUICK, **way})) for way in ways)
        return easy, soon, random

    easy, soon, random = repeated(settings.seed, 6, once).T
    more, sooner = over(easy, random), over(soon, random)
    figures = {
        "from easy to hard AUC": easy.mean(),
        "random order": random.mean(),
        "difference": said(more),
        "with two thirds of the steps": soon.mean(),
        "difference to all steps": said(sooner),
    }
    return Found(figures, {"over random order": more[1] > 0, "over it with two thirds of the steps": sooner[1] > 0})


def decomposed(settings: Settings) -> Found:
    """Row C12: classes cut into two kinds by what a first network sees, against one network of as many steps, and of twice as many."""

    def once(seed: int) -> tuple[float, float, float]:
        learnt, test = kinds(160, seed), kinds(1000, seed + HELD)
        parts = learn(learnt, RESNET, seed, {**QUICK, **steps_of(100, settings.steps), "decompose": 2})
        plain, longer = (learn(learnt, RESNET, seed, {**QUICK, **steps_of(steps, settings.steps)}) for steps in (100, 200))
        return auc_of(test, parts), auc_of(test, plain), auc_of(test, longer)

    ours, other, longer = repeated(settings.seed, 6, once).T
    more, still = over(ours, other), over(ours, longer)
    figures = {"decomposed AUC": ours.mean(), "plain": other.mean(), "difference": said(more)}
    figures |= {"plain, as many steps as both trainings": longer.mean(), "difference to it": said(still)}
    return Found(figures, {"decomposed over plain": more[1] > 0, "over plain with as many steps in all": still[1] > 0})


def focused(settings: Settings) -> Found:
    """Row C13: the whole picture and the part that it points to, against the whole picture in the same network and in one of its own."""

    def once(seed: int) -> tuple[float, float, float]:
        learnt, test = spots(200, seed), spots(600, seed + HELD)
        training = {**QUICK, **steps_of(120, settings.steps)}
        both = learn(learnt, ("browse_focus", {}), seed, training)
        alone = learn(learnt, ("resnet18", {"depth": [1, 1, 1], "bottleneck": False}), seed, training)
        return auc_of(test, both), auc(test.y == 1, both.score(test.images, both.network.whole)), auc_of(test, alone)

    ours, whole, alone = repeated(settings.seed, 5, once).T
    more, further = over(ours, whole), over(ours, alone)
    figures = {
        "both AUC": ours.mean(),
        "its global branch": whole.mean(),
        "difference": said(more),
        "a network like it, trained alone": alone.mean(),
        "difference to it": said(further),
    }
    return Found(figures, {"both over the global branch": more[1] > 0, "both over a network of the whole": further[1] > 0})


def looked_at(learnt: Cases, seed: int, name: str, option: str, training: Mapping[str, Any]) -> tuple[Learnt, Learnt]:
    """Return a network that was told where lesions lie, and its twin that has no attention."""
    told = learn(learnt, (name, {}), seed, training, beside=Beside(masks=learnt.masks))
    return told, learn(learnt, (name, {option: False}), seed, training)


def map_of(learnt: Learnt, images: np.ndarray) -> np.ndarray:
    """Return where a network looks, (n, x, y)."""
    import torch

    network = learnt.network
    look = network.lesion_map if hasattr(network, "lesion_map") else network.attention_map
    with torch.inference_mode():
        return look(torch.from_numpy(learnt.shown(images)))[:, 0].numpy()


def guided(settings: Settings) -> Found:
    """Row C14: attention that readers' marks taught, against the same network without; and whether the map is where the lesion is."""

    def once(seed: int) -> tuple[float, float, float, float]:
        learnt, test = spots(60, seed, both=True), spots(300, seed + HELD)
        told, plain = looked_at(learnt, seed, "ag_cnn", "attention", {**QUICK, **steps_of(120, settings.steps)})
        ill = test.take(np.flatnonzero(test.y == 1))
        assert ill.masks is not None
        maps, masks = map_of(told, ill.images), ill.masks[:, 0]
        return auc_of(test, told), auc_of(test, plain), correlation(maps, masks), correlation(maps, np.roll(masks, 1, axis=0))

    ours, other, alike, elsewhere = repeated(settings.seed, 6, once).T
    more, there = over(ours, other), over(alike, elsewhere)
    figures = {"with attention AUC": ours.mean(), "without": other.mean(), "difference": said(more)}
    figures |= {"correlation of map and lesion": alike.mean(), "over that with another's lesion": said(there)}
    return Found(figures, {"attention over none": more[1] > 0, "map correlates with lesion": there[1] > 0})


def correlation(maps: np.ndarray, masks: np.ndarray) -> float:
    """Return the mean over images of Pearson's correlation of a map with a mask, both (n, x, y)."""
    flat = [part.reshape(len(part), -1) - part.reshape(len(part), -1).mean(1, keepdims=True) for part in (maps, masks)]
    scale = np.sqrt((flat[0] ** 2).sum(1) * (flat[1] ** 2).sum(1))
    return float(((flat[0] * flat[1]).sum(1) / np.maximum(scale, 1e-12)).mean())


def lesion_aware(settings: Settings) -> Found:
    """Row C15: features weighted by a map of lesions, against none; and what is left when the lesion is painted over."""

    def once(seed: int) -> tuple[float, float, float, float]:
        learnt, test = spots(100, seed), spots(400, seed + HELD)
        told, plain = looked_at(learnt, seed, "lacnn", "weighting", {**QUICK, **steps_of(120, settings.steps)})
        ill = test.take(np.flatnonzero(test.y == 1))
        assert ill.masks is not None
        before = told.score(ill.images)
        without = told.score(painted(ill.images, ill.masks))
        elsewhere = told.score(painted(ill.images, np.roll(ill.masks, 1, axis=0) * (1 - ill.masks)))
        return auc_of(test, told), auc_of(test, plain), float((before - without).mean()), float((before - elsewhere).mean())

    ours, other, fall, control = repeated(settings.seed, 5, once).T
    more, deeper = over(ours, other), over(fall, control)
    figures = {"weighted AUC": ours.mean(), "not weighted": other.mean(), "difference": said(more)}
    figures |= {
        "log-odds fall without the lesion": fall.mean(),
        "without as large a place elsewhere": control.mean(),
        "difference ": said(deeper),
    }
    return Found(figures, {"lesion weight over none": more[1] > 0, "painting over the lesion lowers the score": deeper[1] > 0})


def painted(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return images (n, 1, x, y) with the mean of the image where a mask is, and a pixel around it."""
    from scipy import ndimage as ndi

    hidden = ndi.grey_dilation(masks, (1, 1, 3, 3))
    return (images * (1 - hidden) + images.mean((2, 3), keepdims=True) * hidden).astype(np.float32)


def rare(settings: Settings) -> Found:
    """Row W02: recall of a class of 24 in 400 at a specificity of 90 %, by what is done about its rarity."""

    def once(seed: int) -> list[float]:
        learnt, test = spots(400, seed, share=0.06), spots(800, seed + HELD)
        found = []
        for balance in BALANCES:
            training = {**QUICK, **steps_of(120, settings.steps), "balance": balance}
            found.append(recall_at_specificity(test.y == 1, learn(learnt, RESNET, seed, training).score(test.images), 0.9))
        return found

    recalls: dict[str, np.ndarray] = dict(zip(BALANCES, repeated(settings.seed, 5, once).T, strict=True))
    figures: dict[str, float | str] = {"none": recalls["none"].mean()}
    gains = {balance: over(values, recalls["none"]) for balance, values in recalls.items() if balance != "none"}
    figures |= {balance: f"{recalls[balance].mean():.4g} {said(gain)}" for balance, gain in gains.items()}
    return Found(figures, {f"{balance} over none": gain[1] > 0 for balance, gain in gains.items()})


POOLED = ("resnet18", {"depth": [1, 1, 1], "bottleneck": False})
"""A residual network that pools means alone, as Grad-CAM supposes; `RESNET` pools maxima too."""
REASONS = (("grad_cam", POOLED), ("grad_cam", RESNET), ("occlusion", RESNET), ("integrated_gradients", RESNET))


def reasons(settings: Settings) -> Found:
    """Row W04: maps of what speaks for the class point to the lesion, and go with the weights."""

    def once(seed: int) -> list[float]:
        learnt, test = spots(300, seed), spots(80, seed + HELD)
        ill = test.take(np.flatnonzero(test.y == 1))
        assert ill.masks is not None
        training = {**QUICK, **steps_of(180, settings.steps)}
        networks = {each[0]: learn(learnt, each, seed, training) for each in (POOLED, RESNET)}
        rows = [float((ill.masks > 0).mean())]
        for method, (name, _) in REASONS:
            found = networks[name]
            shown = found.shown(ill.images)
            maps = np.stack([explain(found.network, image, 1, method) for image in shown])
            hits = [mask.reshape(-1)[np.argmax(each)] > 0 for each, mask in zip(maps, ill.masks[:, 0], strict=True)]
            checked = sanity_check(found.network, lambda n, x, t, m=method: explain(n, x, t, m), list(shown[:4]), [1] * 4, seed)
            rows += [float(np.mean(hits)), abs(float(checked.rank[-1]))]
        return [auc_of(test, networks[name]) for name in (POOLED[0], RESNET[0])] + rows

    values = repeated(settings.seed, 4, once).T
    figures: dict[str, float | str] = {
        f"{POOLED[0]} AUC": values[0].mean(),
        f"{RESNET[0]} AUC": values[1].mean(),
        "chance": values[2].mean(),
    }
    statements = {}
    for number, (method, (network, _)) in enumerate(REASONS):
        hits, left = values[3 + 2 * number], values[4 + 2 * number]
        more, gone = over(hits, values[2]), bootstrap_interval(left)
        name = f"{method} of {network}"
        figures |= {f"{name} hits": f"{hits.mean():.3g} {said(more)}", "rank correlation left " + name: said(gone)}
        statements |= {f"{name} points above chance": more[1] > 0, f"{name} goes with the weights": bool(gone[2] < 0.5)}
    return Found(figures, statements)


ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = {
    "C10": ("Further tasks: grades learned beside the class raise its AUC with 80 cases", tasks),
    "C11": ("Curriculum: AUC of from easy to hard at least that of a random order, in fewer steps", curriculum),
    "C12": ("Class decomposition: over plain where classes are of several kinds", decomposed),
    "C13": ("Browse, then focus: AUC of both branches over the global one", focused),
    "C14": ("AG-CNN: attention over none; its map correlates with the lesion", guided),
    "C15": ("LACNN: lesion weight over none; painting over the lesion lowers the score", lesion_aware),
    "W02": ("Unequal classes: recall of the rare one up at equal specificity", rare),
    "W04": ("Maps of reasons: pointing game over chance; randomised weights take the maps away", reasons),
    **classify_proofs_layers.ROWS,
}
"""What each row states, and who tries it."""
