"""What rows of networks that are trained layer by layer state: stacked autoencoders, Boltzmann machines, deep belief networks.

Handwritten digits are the 1797 of 8 x 8 pixels that scikit-learn has (Alpaydin and Kaynak, 1998), not the 28 x 28 ones of the papers;
tissue is made from seeds (`benchmarks.classify_proofs_pictures`).

What fails: a third machine lowers the bound of the log-likelihood a little, since contrastive divergence does not climb it; dense layers
that learn from 1,200 small digits are wrong more often than in one of 50 (F03).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.classify_proofs_data import Settings
from benchmarks.classify_proofs_pictures import Cases, cases, tiles
from benchmarks.classify_proofs_trained import learn, over, repeated, said, steps_of
from benchmarks.proofs import Found
from cohortex.measures.classification import auc
from cohortex.measures.intervals import proportion_interval
from cohortex.measures.resampling import grouped_folds
from cohortex.models import registry
from cohortex.models.classify.boltzmann import Boltzmann, layered_bound
from cohortex.training.loop import fresh

GRID: dict[str, Any] = {"grid": 8, "widths": [256, 256]}
VARIED = {"translate": 0.15, "rotate_deg": 12.0, "scale": 0.12, "shear": 0.15}
CHAINS, TEMPERATURES = 100, 2000
"""Of annealed importance sampling."""


def digits() -> Cases:
    """Return the digits of scikit-learn, 0 to 1."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return cases(found.images / 16.0, found.target)


def shuffled(every: Cases, seed: int) -> Cases:
    """Return the cases in a drawn order."""
    return every.take(np.random.default_rng(seed).permutation(len(every.y)))


def autoencoder(settings: Settings) -> Found:
    """Row F02: layers that restored 1200 digits without labels, then 60 with labels, against layers with fresh weights."""
    options = {**GRID, "widths": [256, 128]}

    def once(seed: int) -> tuple[float, float, float]:
        every = shuffled(digits(), seed)
        first, test = every.take(np.arange(1200)), every.take(np.arange(1200, len(every.y)))
        network: Any = fresh(lambda: registry.build("classify", "stacked_autoencoder", channels=1, classes=10, **options), seed)
        history = network.pretrain(torch.from_numpy(first.images), seed=seed)
        weights = {name: value.numpy() for name, value in network.state_dict().items() if not name.startswith("head.")}
        few = first.take(np.concatenate([np.flatnonzero(first.y == digit)[:6] for digit in range(10)]))
        training = {**steps_of(200, settings.steps), "augment": {}}
        right = []
        for begun in (weights, {}):
            learnt = learn(few, ("stacked_autoencoder", options), seed, training, classes=10, weights=begun, values="unit")
            right.append(float((learnt.logs(test.images).argmax(1) == test.y).mean()))
        fallen = min(losses[0] - losses[-1] for losses in history)
        return right[0], right[1], fallen

    ours, other, fallen = repeated(settings.seed, 8, once).T
    more = over(ours, other)
    figures = {"with layers trained before accuracy": ours.mean(), "fresh": other.mean(), "difference": said(more)}
    figures["least fall of a layer's loss"] = float(fallen.min())
    return Found(figures, {"trained before over fresh": more[1] > 0, "loss of every layer falls": bool((fallen > 0).all())})


def belief(settings: Settings) -> Found:
    """Row F03: the bound of the log-likelihood of one, two and three machines; errors on a third of the digits."""
    every = shuffled(digits(), settings.seed)
    lit = torch.from_numpy((every.images > 0.5).astype(np.float32)).flatten(1)
    test = lit[1200:]
    groups = np.array_split(np.arange(len(test)), 30)
    bounds, errors = [], []
    machines, partitions = stacked(lit[:1200], settings)
    for count, (partition, error) in enumerate(partitions, start=1):
        bounds.append([layered_bound(machines[:count], test[rows], partition, seed=settings.seed) for rows in groups])
        errors.append(error)
    figures: dict[str, float | str] = {}
    statements = {}
    for number, (bound, error) in enumerate(zip(bounds, errors, strict=True)):
        figures[f"log-likelihood of {number + 1}"] = f"{np.mean(bound):.2f} (log Z +- {error:.2f})"
        if number:
            gain = over(bound, bounds[number - 1])
            figures[f"gain of {number + 1}"] = said(gain)
            # what is not known of both partition functions is taken off
            statements[f"{number + 1} machines over {number}"] = gain[1] > 2 * float(np.hypot(errors[number - 1], error))
    rest, held = grouped_folds(every.y, np.arange(len(every.y)), 3, settings.seed)[0]
    training = {**steps_of(2500, settings.steps), "batch": 32, "augment": VARIED, "average": 0.99, "members": 3, "balance": "none"}
    learnt = learn(every.take(rest), ("deep_belief", GRID), settings.seed, training, classes=10, values="unit")
    share = proportion_interval(int((learnt.logs(every.images[held]).argmax(1) != every.y[held]).sum()), len(held))
    figures |= {f"errors on {len(held)} digits": "{:.4f} [{:.4f}, {:.4f}]".format(*share)}
    return Found(figures, {**statements, "error below 2 %": share[0] < 0.02})


@torch.no_grad()
def stacked(lit: torch.Tensor, settings: Settings) -> tuple[list[Boltzmann], list[tuple[float, float]]]:
    """Return three machines and the logarithm of the partition function of each, with its error, by annealed importance sampling.

    Each begins with the weights of the one below turned round, where the bound is the same, and learns units that are drawn from it
    (Hinton et al., Neural Comput. 18(7), 2006).
    """
    network: Any = fresh(lambda: registry.build("classify", "deep_belief", channels=1, classes=10, grid=8, widths=[64] * 3), settings.seed)
    machines: list[Boltzmann] = list(network.machines)
    generator = torch.Generator().manual_seed(settings.seed)
    found, values = [], lit
    for number, machine in enumerate(machines):
        if number == 0:
            machine.learn(values, max(1, round(30 * settings.steps)), rate=0.05, seed=settings.seed)
        else:
            below = machines[number - 1]
            machine.weight.copy_(below.weight.T)
            machine.bias_visible.copy_(below.bias_hidden)
            machine.bias_hidden.copy_(below.bias_visible)
            machine.learn(values, max(1, round(20 * settings.steps)), rate=0.005, steps=10, seed=settings.seed + number)
        found.append(machine.annealed_log_partition(values.mean(0), CHAINS, TEMPERATURES, settings.seed))
        values = torch.cat([machine.drawn(machine.hidden_of(values), generator) for _ in range(3 if number == 0 else 1)])
    return machines, found


def tissue(settings: Settings) -> Found:
    """Row C19: tiles of tissue told apart by a deep belief network and by a regression on pixels; the vote of a piece's tiles."""
    from sklearn.linear_model import LogisticRegressionCV

    def once(seed: int) -> tuple[float, float, float]:
        learnt, test = tiles(100, seed, 6), tiles(300, seed + 500_000, 6)
        training = {**steps_of(600, settings.steps), "batch": 32, "augment": {"flip": [0, 1]}, "average": 0.99}
        network = learn(learnt, ("deep_belief", {"grid": 16}), seed, training, values="unit")
        score = network.score(test.images)
        options: dict[str, Any] = {"l1_ratios": (0,), "scoring": "neg_log_loss", "use_legacy_attributes": False}
        pixels: Any = LogisticRegressionCV(Cs=6, cv=4, max_iter=500, **options).fit(learnt.images.reshape(len(learnt.y), -1), learnt.y)
        plain = pixels.decision_function(test.images.reshape(len(test.y), -1))
        truth, vote = test.y.reshape(-1, 6)[:, 0] == 1, score.reshape(-1, 6).mean(1)
        return auc(test.y == 1, score), auc(test.y == 1, plain), auc(truth, vote)

    ours, plain, voted = repeated(settings.seed, 6, once).T
    more, further = over(ours, plain), over(voted, ours)
    figures = {"tile AUC": ours.mean(), "regression on pixels": plain.mean(), "difference": said(more)}
    figures |= {"piece of six tiles": voted.mean(), "over a tile": said(further)}
    return Found(figures, {"network over pixels": more[1] > 0, "vote over a tile": further[1] > 0})


ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = {
    "C19": ("Deep belief network on tissue: over a regression on pixels; the vote of tiles over one", tissue),
    "F02": ("Stacked autoencoder: layers trained before over fresh ones at few labels; their losses fall", autoencoder),
    "F03": ("Deep belief network: log-likelihood rises with machines; under 2 % of digits wrong", belief),
}
"""What each row states, and who tries it."""
