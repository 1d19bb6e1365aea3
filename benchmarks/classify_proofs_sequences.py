"""What rows of networks that read slices and exams one after another state, each tried with small budgets on sequences made from seeds.

`ROWS` is run by `benchmarks.classify_proofs`; see `benchmarks.classify_proofs_exams` for the sequences and
`benchmarks.classify_proofs_learning` for how figures and intervals come about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.classify_proofs_data import Settings
from benchmarks.classify_proofs_exams import Exams, growing, orders
from benchmarks.classify_proofs_trained import auc_of, learn, over, repeated, said, steps_of
from benchmarks.proofs import Found
from cohortex.measures.classification import auc
from cohortex.models import registry
from cohortex.models.classify import SMALL
from cohortex.models.classify.slices import CELLS, TimeLSTM
from cohortex.models.segment.bcdunet import ConvLSTM
from cohortex.training.loop import fit, fresh

HELD = 500_000
"""Added to the seed of training cases: those of a test."""


def cells(settings: Settings) -> Found:
    """Row F06: gradients of the cells against differences; what comes before what in a stack of slices, for each cell and for none."""
    names = (*CELLS, "convlstm")

    def once(seed: int) -> list[float]:
        learnt, test = orders(300, seed), orders(400, seed + HELD)
        training = {**steps_of(130, settings.steps), "augment": {}, "optimiser": "muon", "rate": 5e-3}
        return [auc_of(test, learn(learnt, ("slice_rnn", {"cell": cell}), seed, training)) for cell in (*names, "none")]

    values = repeated(settings.seed, 4, once).T
    figures: dict[str, float | str] = {"mean of slices AUC": values[-1].mean()}
    statements = {}
    for name, own in zip(names, values[:-1], strict=True):
        more = over(own, values[-1])
        figures[name] = f"{own.mean():.4g} {said(more)}"
        statements[f"{name} over the mean"] = more[1] > 0
    checked = {name: gradients_hold(module, *given) for name, module, *given in built(settings.seed)}
    figures["cells with right gradients"] = f"{sum(checked.values())} of {len(checked)}"
    return Found(figures, {"gradients are right": all(checked.values()), **statements})


def built(seed: int) -> list[tuple[Any, ...]]:
    """Return small cells in double precision, by name, with what is put in."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    made: list[tuple[Any, ...]] = []
    for name, cell in CELLS.items():
        made.append((name, fresh(lambda cell=cell: cell(2, 3, batch_first=True, bidirectional=True), seed).double(), drawn(2, 4, 2)))
    for modulation in ("gates", "cell", "none"):
        lstm = fresh(lambda modulation=modulation: TimeLSTM(2, 3, modulation), seed).double()
        made.append((f"time-modulated, {modulation}", lstm, drawn(2, 4, 2), drawn(2, 4).abs()))
    made.append(("convlstm", fresh(lambda: ConvLSTM(2, 1, 2), seed).double(), *(drawn(1, 1, 3, 3) for _ in range(3))))
    return made


def gradients_hold(module: nn.Module, *given: torch.Tensor) -> bool:
    """Tell whether the gradients of a module, by its inputs and by all of its weights, are those of finite differences."""
    names = [name for name, _ in module.named_parameters()]
    weights = [value.detach().clone().requires_grad_() for value in module.parameters()]
    inputs = [value.clone().requires_grad_() for value in given]

    def run(*values: torch.Tensor) -> torch.Tensor:
        own: Mapping[str, torch.Tensor] = dict(zip(names, values[len(inputs) :], strict=True))
        put = list(values[: len(inputs)])
        called = (put,) if isinstance(module, ConvLSTM) else tuple(put)
        made: Any = torch.func.functional_call(module, dict(own), called)
        return made[0] if isinstance(made, tuple) else made

    return bool(torch.autograd.gradcheck(run, (*inputs, *weights), raise_exception=False))


def exams(settings: Settings) -> Found:
    """Row D08: growth from all exams against the last one; both ways to tell the cell of time against none."""
    ways = {"gates": "gates", "cell": "cell", "no time": "none"}

    def once(seed: int) -> list[float]:
        learnt, test = growing(400, seed), growing(500, seed + HELD)
        steps = steps_of(220, settings.steps)["steps"]
        found = [followed(learnt, test, way, seed, steps) for way in ways.values()]
        return [*found, followed(learnt.last_only(), test.last_only(), "gates", seed, steps)]

    values = dict(zip((*ways, "last exam alone"), repeated(settings.seed, 4, once).T, strict=True))
    figures: dict[str, float | str] = {f"{name} AUC": own.mean() for name, own in values.items()}
    pairs = [("gates", "last exam alone"), ("gates", "no time"), ("cell", "no time")]
    gains = {f"{a} over {b}": over(values[a], values[b]) for a, b in pairs}
    return Found(figures | {name: said(gain) for name, gain in gains.items()}, {name: gain[1] > 0 for name, gain in gains.items()})


def followed(learnt: Exams, test: Exams, modulation: str, seed: int, steps: int) -> float:
    """Return the AUC of an LSTM over exams."""
    options = {**SMALL["time_lstm"], "modulation": modulation}
    network = fresh(lambda: registry.build("classify", "time_lstm", channels=1, classes=2, **options), seed)
    middle, scale = learnt.images.mean(), learnt.images.std()

    def draw(rng: np.random.Generator, count: int) -> tuple[Any, np.ndarray]:
        rows = rng.integers(len(learnt.y), size=count)
        return ((learnt.images[rows] - middle) / scale, learnt.gaps[rows]), learnt.y[rows]

    fit(network, draw, nn.functional.cross_entropy, steps=steps, batch=16, rate=3e-3, seed=seed)
    with torch.inference_mode():
        given = torch.from_numpy((test.images - middle) / scale), torch.from_numpy(test.gaps)
        logits = torch.cat([network(x, t) for x, t in zip(given[0].split(100), given[1].split(100), strict=True)])
    return auc(test.y == 1, (logits[:, 1] - logits[:, 0]).numpy())


ROWS: dict[str, tuple[str, Callable[[Settings], Found]]] = {
    "D08": ("Exams one after another: AUC over the last picture's; with times of irregular gaps over a plain LSTM", exams),
    "F06": ("Recurrent cells: gradients are right; each tells the order of slices, their mean does not", cells),
}
"""What each row states, and who tries it."""
