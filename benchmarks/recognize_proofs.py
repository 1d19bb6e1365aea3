"""What the rows D01 to D13 state about networks that recognise, each tried with small budgets on cases that were not learnt from.

    python -m benchmarks.recognize_proofs [--proof D02,D06] [--steps 1] [--folder FOLDER] [--save FILE]

Pictures of 96 x 96 pixels with lesions of several sizes beside bright lines, and with lesions of little contrast in tissues of very
different values; pictures of 128 x 128 with one small lesion or none; volumes with dark balls among dark tubes
(`benchmarks.recognize_proofs_data`; `COUNTS` says how many). Networks are narrower than in the papers; all of a row have the same cases,
seed, steps, batches and rate. Steps, counts and options of D04, D06 and D13 were chosen on cases of another seed (11) than the record's.
FROC is told as the mean sensitivity at 1/8 to 8 false positives an image (CPM), a lesion being found where the middle of a box lies in
it. Models are kept in the folder: what is there is not trained again. ``--steps`` multiplies all steps. With ``--save`` the rows that the
record has already are kept beside the new ones. Last line: FIGURE, over all rows of the record.

What fails: focal loss over cross entropy (D06) held on the other seed (AP .263 beside .057), but on the record's the two are not told
apart (.292 beside .269): how far cross entropy comes in so few steps hangs on the seed. And a fusion of contexts better than each of them
(D13): on the other seed the widest context alone, once it has learned, finds what there is to find (CPM .958, bounded by the screening's
sensitivity; plain mean .951), and held-out volumes give it all the weight, so that the fusion is as good as the best
context, not better; on the record's two contexts share the weight, and the fusion is .003 above the better one, which 24 volumes cannot
tell from nothing.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from skimage.filters import threshold_otsu

from benchmarks.proofs import Found, Statements, parser_of, rows_of, try_all
from benchmarks.recognize_proofs_data import SEED, Case, cases, mirrored
from benchmarks.record import Run
from cohortex.measures.detection import Matched, average_precision, cpm, match, precision_recall
from cohortex.models import registry
from cohortex.models.recognize import boxes as recognized
from cohortex.models.recognize.blobs import blobs
from cohortex.models.recognize.mask import FoundMasks, MaskedBoxes
from cohortex.threads import set_threads
from cohortex.training.loop import fresh

SMALL = {"backbone": [12, 24, 48], "norm": "batch"}
PYRAMID = {**SMALL, "filters": 32, "first": 0, "further": 2}
RETINA = {**PYRAMID, "convs": 2, "anchor": 3.0, "ratios": [1.0], "scales": [1.0, 2**0.5]}
FASTER = {**PYRAMID, "hidden": 96, "anchor": 3.0, "ratios": [1.0], "scales": [1.0, 2**0.5], "proposals": 60, "size": 5}
FASTER_D04 = {**FASTER, "size": 7, "proposals": 300}
YOLO2 = {"stem": 1, "backbone": [6, 20, 48], "norm": "batch", "filters": 48, "anchor": 5.0, "scales": [1.0, 1.6, 2.56, 4.1]}
YOLO = {"backbone": [12, 24, 48, 48], "norm": "batch", "filters": 64, "largest": 48.0}
SSD = {"backbone": [12, 24, 48], "norm": "batch", "first": 0, "further": 2, "anchor": 3.0}
PATCH = {"patch": 24, "filters": [12, 24], "hidden": 48}
CASCADE = {"dimensions": 3, "patch": 16, "screening": [4, 8], "contexts": [10, 16, 24], "filters": 8, "candidates": 24, "threshold": 0.2}
DIAMETERS = (5.0, 7.0, 9.0, 12.0, 16.0, 20.0, 25.0)
COUNTS: dict[str, dict[str, int]] = {
    "lesions": {"train": 64, "test": 60},
    "depths": {"train": 64, "test": 60},
    "rare": {"train": 200, "test": 500},
    "bleeds": {"train": 32, "validation": 16, "test": 60},
}
"""Cases of each kind."""
SMALLEST = 10.0
"""Lesions whose mean edge is shorter, in pixels, count as small in row D05."""

Detections = list[recognized.Found]


@dataclass
class Data:
    """The cases, and networks that are trained when they are first asked for; these are kept in a folder."""

    folder: Path
    steps: float = 1.0
    kept: dict[str, list[Case]] = field(default_factory=dict)

    def of(self, kind: str, split: str, count: int | None = None) -> list[Case]:
        """Return the cases of a kind and a split, as many as is usual or as are asked for."""
        count = count or COUNTS[kind][split]
        name = f"{kind} {split} {count}"
        if name not in self.kept:
            self.kept[name] = cases(kind, split, count)
        return self.kept[name]

    def trained(self, name: str, kind: str, options: Mapping[str, Any], steps: int = 240, batch: int = 4, rate: float = 3e-3) -> Any:
        """Return a network that learned from the training cases of a kind."""
        told = [name, kind, dict(options), round(steps * self.steps), batch, rate]
        path = self.folder / "models" / f"{name}-{sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]}.safetensors"
        network: Any = fresh(lambda: registry.build("recognize", name, **options), SEED)
        if not path.is_file():
            start = time.process_time()
            learn(network, self.of(kind, "train"), told[3], batch, rate)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
            print(f"  {name} {kind} {json.dumps(dict(options))}: {time.process_time() - start:.0f} s", flush=True)
        network.load_state_dict(load_file(path))
        return network.eval()


def learn(network: Any, learnt: Sequence[Case], steps: int, batch: int, rate: float) -> None:
    """Train a network on cases that are mirrored at random; the rate rises for a tenth of the steps, then falls to nothing."""
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.1, cycle_momentum=False)
    network.train()
    for _ in range(steps):
        chosen = [learnt[int(rng.integers(len(learnt)))] for _ in range(batch)]
        chosen = [mirrored(case, rng.random(case.image.ndim) < 0.5) for case in chosen]
        images = torch.from_numpy(np.stack([case.image for case in chosen]))[:, None]
        targets = [target_of(case) for case in chosen]
        optimiser.zero_grad()
        network.loss(network(images), targets).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        plan.step()


def target_of(case: Case) -> recognized.Boxes:
    """Return what is there, with the pixels of each where they are known."""
    corners, labels = torch.from_numpy(case.corners), torch.from_numpy(case.labels)
    return recognized.Boxes(corners, labels) if case.masks is None else MaskedBoxes(corners, labels, torch.from_numpy(case.masks))


def seen(network: Any, tested: Sequence[Case], score: float = 0.01) -> Detections:
    """Return what a network finds in each case."""
    made = []
    with torch.inference_mode():
        for case in tested:
            raw = network(torch.from_numpy(case.image)[None, None])
            made.extend(network.detections(raw, case.image.shape, score=score))
    return made


def seconds_each(network: Any, tested: Sequence[Case]) -> float:
    """Return the least CPU seconds of a case, of three times through all."""
    runs = []
    for _ in range(3):
        start = time.process_time()
        seen(network, tested)
        runs.append(time.process_time() - start)
    return min(runs) / len(tested)


def gain(measure: Callable[..., float], ours: Detections, others: Detections, tested: Sequence[Case]) -> tuple[float, float, float]:
    """Return how much more the one measures than the other, with a 95 % bootstrap interval over cases (200 draws)."""
    rng = np.random.default_rng(SEED)
    drawn = []
    for _ in range(200):
        own = rng.integers(len(tested), size=len(tested))
        truth = [tested[n] for n in own]
        drawn.append(measure([ours[n] for n in own], truth) - measure([others[n] for n in own], truth))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return measure(ours, tested) - measure(others, tested), float(low), float(high)


def told(found: tuple[float, float, float]) -> str:
    """Return a gain in words."""
    return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*found)


# --- rows --------------------------------------------------------------------------------------------------------


def patches(have: Data) -> Found:
    """Row D01: the detector of patches above blobs of the Laplacian."""
    tested = have.of("lesions", "test")
    ours = seen(have.trained("patch_detector", "lesions", PATCH), tested)
    blob = [blobs(case.image, DIAMETERS, score=0.0) for case in tested]
    a, b = cpm(ours, tested), cpm(blob, tested)
    more = gain(cpm, ours, blob, tested)
    return Found({"patches CPM": a, "LoG CPM": b, "difference": told(more)}, {"FROC over LoG": more[1] > 0})


def faster(have: Data) -> Found:
    """Row D02: Faster R-CNN above patches by mAP; its time; RoIAlign beside RoI pooling."""
    tested = have.of("lesions", "test")
    network = have.trained("faster_rcnn", "lesions", FASTER)
    pooled = seen(have.trained("faster_rcnn", "lesions", {**FASTER, "regions": "pool"}), tested)
    ours, patch = seen(network, tested), seen(have.trained("patch_detector", "lesions", PATCH), tested)
    a, b = average_precision(ours, tested), average_precision(patch, tested)
    more = gain(average_precision, ours, patch, tested)
    figures: dict[str, float | str] = {"Faster R-CNN mAP@.5": a, "patches mAP@.5": b, "difference": told(more)}
    figures |= {"with RoI pooling": average_precision(pooled, tested), "ms an image": 1000 * seconds_each(network, tested[:12])}
    return Found(figures, {"mAP over D01": more[1] > 0})


def masks(have: Data) -> Found:
    """Row D03: masks of the third head above a threshold within the same boxes; RoIAlign above RoI pooling."""
    tested = have.of("lesions", "test")
    options = {**FASTER, "mask_size": 7}
    ours, pooled = (masked(have.trained("mask_rcnn", "lesions", {**options, "regions": how}), tested) for how in ("align", "pool"))
    values = {
        "Mask R-CNN": mask_precision(ours, [np.asarray(said.masks) for said in ours], tested),
        "threshold in its boxes": mask_precision(ours, [thresholded(said, case) for said, case in zip(ours, tested, strict=True)], tested),
        "with RoI pooling": mask_precision(pooled, [np.asarray(said.masks) for said in pooled], tested),
    }
    best, other, pool = values.values()
    figures = {f"{name} mask AP@.5": value for name, value in values.items()}
    return Found(figures, {"over threshold": best > other, "RoIAlign over pooling": best > pool})


def masked(network: Any, tested: Sequence[Case]) -> list[FoundMasks]:
    """Return what a network finds in each case, with its pixels."""
    return [said for said in seen(network, tested) if isinstance(said, FoundMasks)]


def thresholded(said: Any, case: Case) -> np.ndarray:
    """Return of each box the pixels above Otsu's threshold within it, (n, ...) bool."""
    made = np.zeros((len(said), *case.image.shape), bool)
    for number, box in enumerate(np.asarray(said.corners)):
        low, high = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        values = case.image[window]
        made[(number, *window)] = values > threshold_otsu(values) if np.ptp(values) > 0 else True
    return made


def mask_precision(found: Sequence[recognized.Found], made: Sequence[np.ndarray], tested: Sequence[Case], least: float = 0.5) -> float:
    """Return the average precision of masks: the surest takes the lesion whose pixels it shares most, at least half of the union."""
    scores, hits, images = [], [], []
    for number, (said, own, case) in enumerate(zip(found, made, tested, strict=True)):
        assert case.masks is not None
        a, b = own.reshape(len(own), -1).astype(float), case.masks.reshape(len(case.masks), -1).astype(float)
        shared = a @ b.T
        shares = shared / np.maximum(a.sum(1)[:, None] + b.sum(1) - shared, 1)
        for row, score in zip(shares, said.scores.tolist(), strict=True):
            place = int(row.argmax())
            hit = row[place] >= least
            if hit:
                shares[:, place] = 0
            scores.append(score)
            hits.append(hit)
            images.append(number)
    order = np.argsort(-np.array(scores), kind="stable")
    objects = np.array([len(case.corners) for case in tested])
    matched = Matched(np.array(scores)[order], np.array(hits, bool)[order], np.array(images, np.int64)[order], objects)
    recall, precision, _ = precision_recall(matched)
    return float((np.diff(recall, prepend=0.0) * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def yolo(have: Data) -> Found:
    """Row D04: five times as fast as Faster R-CNN, with as many proposals and cells as in its paper, and mAP within .1."""
    tested = have.of("lesions", "test", 200)
    fast, slow = (have.trained(name, "lesions", own, steps=480) for name, own in (("yolo2", YOLO2), ("faster_rcnn", FASTER_D04)))
    ours, others = seen(fast, tested), seen(slow, tested)
    times = [seconds_each(network, tested[:12]) for network in (fast, slow)]
    less = gain(average_precision, ours, others, tested)
    first = average_precision(seen(have.trained("yolo", "lesions", YOLO), tested), tested)
    figures: dict[str, float | str] = {"YOLO with priors mAP@.5": average_precision(ours, tested)}
    figures |= {"Faster R-CNN mAP@.5": average_precision(others, tested), "difference": told(less), "times faster": times[1] / times[0]}
    figures |= {"ms an image": 1000 * times[0], "of the first YOLO mAP@.5": first}
    return Found(figures, {"5 times faster": times[1] >= 5 * times[0], "mAP within .1": less[1] > -0.1})


def ssd(have: Data) -> Found:
    """Row D05: more small lesions than YOLO at one false positive an image."""
    tested = have.of("lesions", "test")
    ours, other = (seen(have.trained(name, "lesions", own), tested) for name, own in (("ssd", SSD), ("yolo", YOLO)))
    recalls = [small_recall(found, tested) for found in (ours, other)]
    figures = {"SSD recall of small": recalls[0], "YOLO recall of small": recalls[1]}
    figures |= {"SSD mAP@.5": average_precision(ours, tested), "YOLO mAP@.5": average_precision(other, tested)}
    return Found(figures, {"small recall over YOLO": recalls[0] > recalls[1]})


def small_recall(found: Detections, tested: Sequence[Case], rate: float = 1.0) -> float:
    """Return the share of small lesions that are found (overlap .5) at the threshold with `rate` false positives an image."""
    matched = match(found, tested, 0.5)
    false = np.cumsum(~matched.hit)
    allowed = np.flatnonzero(false <= rate * len(tested))
    least = float(matched.scores[allowed[-1]]) if len(allowed) else float("inf")
    hits = total = 0
    for said, case in zip(found, tested, strict=True):
        small = (case.corners[:, 2:] - case.corners[:, :2]).mean(1) < SMALLEST
        sure = said.corners[said.scores >= least]
        if small.any():
            total += int(small.sum())
            shared = recognized.overlaps(torch.from_numpy(case.corners[small]), sure)
            hits += int((shared >= 0.5).any(1).sum()) if len(sure) else 0
    return hits / max(1, total)


def focal(have: Data) -> Found:
    """Row D06: focal loss above cross entropy where an anchor of a thousand has something."""
    tested = have.of("rare", "test")
    networks = [have.trained("retinanet", "rare", {**RETINA, "loss": loss}, steps=300) for loss in ("focal", "cross_entropy")]
    ours, other = (seen(network, tested) for network in networks)
    a, b = average_precision(ours, tested), average_precision(other, tested)
    share = imbalance(networks[0], have.of("rare", "train"))
    more = gain(average_precision, ours, other, tested)
    figures = {"focal AP@.5": a, "cross entropy AP@.5": b, "difference": told(more), "anchors for one positive": share}
    return Found(figures, {"focal over cross entropy": more[1] > 0, "1 in 1000 or rarer": share >= 1000})


def imbalance(network: Any, learnt: Sequence[Case]) -> float:
    """Return how many anchors there are for one that answers for a box."""
    levels = network.anchors(network(torch.from_numpy(learnt[0].image)[None, None]))
    counts = [int((network.matched(torch.from_numpy(case.corners), levels) >= 0).sum()) for case in learnt]
    return len(learnt) * sum(map(len, levels)) / max(1, sum(counts))


def windows(have: Data) -> Found:
    """Row D07: three windows with attention above the whole range alone."""
    tested = have.of("depths", "test")
    many = {**RETINA, "windows": [[0.0, 1.0], [0.0, 0.16], [0.42, 0.58], [0.84, 1.0]]}
    ours = seen(have.trained("windowed_retinanet", "depths", many), tested)
    one = seen(have.trained("windowed_retinanet", "depths", {**RETINA, "windows": [[0.0, 1.0]]}), tested)
    a, b = cpm(ours, tested), cpm(one, tested)
    more = gain(cpm, ours, one, tested)
    return Found({"several windows CPM": a, "one window CPM": b, "difference": told(more)}, {"several over one": more[1] > 0})


def second_stage(have: Data) -> Found:
    """Row D12: the second look takes away more than 80 % of the false positives and less than 5 % of what is found."""
    tested = have.of("bleeds", "test")
    network = cascade_of(have)
    with torch.inference_mode():
        raws = [network(torch.from_numpy(case.image)[None, None]) for case in tested]
        before = [network.screened(raw, case.image.shape)[0] for raw, case in zip(raws, tested, strict=True)]
        after = [network.detections(raw, case.image.shape, score=0.5)[0] for raw, case in zip(raws, tested, strict=True)]
    counts = [(int(m.hit.sum()), int((~m.hit).sum()), int(m.objects.sum())) for m in (match(f, tested, "centre") for f in (before, after))]
    (hits, false, total), (kept, left, _) = counts
    removed, lost = 1 - left / max(1, false), (hits - kept) / max(1, total)
    figures = {
        "sensitivity before": hits / total,
        "after": kept / total,
        "false positives an image before": false / len(tested),
        "after the second look": left / len(tested),
        "removed": removed,
        "sensitivity lost": lost,
    }
    return Found(figures, {"over 80 % removed": removed > 0.8, "under 5 % lost": lost < 0.05})


def fused(have: Data) -> Found:
    """Row D13: the fusion of three contexts, with the weights that held-out cases chose, above each alone."""
    tested = have.of("bleeds", "test")
    network = cascade_of(have)
    count, chosen = len(network.contexts), network.weights
    shares = {f"context {edge}": tuple(float(n == k) for n in range(count)) for k, edge in enumerate(network.contexts)}
    values = {}
    for name, weights in {"fused": chosen, **shares, "plain mean": (1.0,) * count}.items():
        network.weights = weights
        values[name] = seen(network, tested)
    network.weights = chosen
    figures: dict[str, float | str] = {"weights": " ".join(f"{weight:.2f}" for weight in chosen)}
    figures |= {f"{name} CPM": cpm(found, tested) for name, found in values.items()}
    gains = {name: gain(cpm, values["fused"], values[name], tested) for name in shares}
    figures |= {f"difference to {name}": told(more) for name, more in gains.items()}
    return Found(figures, {"fusion over each": all(more[1] > 0 for more in gains.values())})


def cascade_of(have: Data) -> Any:
    """Return the cascade of volumes; held-out ones chose the weights of its fusion."""
    network = have.trained("cascade", "bleeds", CASCADE, steps=360, batch=2)
    with torch.inference_mode():
        held = [(network(torch.from_numpy(case.image)[None, None]), target_of(case)) for case in have.of("bleeds", "validation")]
    network.chosen(held)
    return network


ROWS: dict[str, tuple[str, Callable[[Data], Found]]] = {
    "D01": ("Patch detector: FROC over blobs of the Laplacian", patches),
    "D02": ("Faster R-CNN: mAP@.5 over patches on pictures of several lesions; time told", faster),
    "D03": ("Mask R-CNN: mask AP over a threshold within the boxes; RoIAlign over RoI pooling", masks),
    "D04": ("YOLO with priors on a grid of 4 pixels: at least 5 times as fast as Faster R-CNN, mAP within .1", yolo),
    "D05": ("SSD: recall of small lesions over YOLO", ssd),
    "D06": ("RetinaNet: focal loss over cross entropy where one anchor of 1000 or more has something", focal),
    "D07": ("Several windows with attention over one window by FROC", windows),
    "D12": ("Cascade: the second stage removes over 80 % of false positives at under 5 % of sensitivity", second_stage),
    "D13": ("Contexts of three sizes: CPM of the fusion, weighed on held-out volumes, over each", fused),
}
"""What each row states, and who tries it."""


def main() -> None:
    """Try what was asked for, and print what holds."""
    options = parser_of(__doc__, "recognize_proofs").parse_args()
    set_threads(1)
    have = Data(options.folder, options.steps)
    statements: Statements = {row: (words, partial(prove, have)) for row, (words, prove) in ROWS.items()}
    rows = rows_of(options.proof, statements)
    try_all(Run("recognize_proofs", ["numpy", "torch"]), statements, rows, options.save)


if __name__ == "__main__":
    main()
