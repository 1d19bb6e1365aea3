"""What the rows T01 to T40 state about networks that segment, each tried with small budgets on cases that were not learnt from.

    python -m benchmarks.segment_proofs [--proof T10,T19] [--steps 1] [--folder FOLDER] [--save FILE]

Simulated heads (2.5 mm, ten to learn from, eight to be tested on), axial slices of them, pictures of cells that touch, of spots of several
sizes, and lesions of less than 1 % of a head (`benchmarks.segment_proofs_data`). Networks are narrower than in the papers (a core trains
each in half a minute to two minutes), twins have the same seed, steps, batches, patches and rate. Differences are paired over the test
cases, with bootstrap intervals. Models are kept in the folder: what is there is not trained again. ``--steps`` multiplies all steps. With
``--save`` the rows that the record has already are kept beside the new ones. Last line: FIGURE, over all rows of the record.

What fails after so few steps: what is deeper or has more to learn is behind its plainer twin (T11, T13, T22, T28, T32, T40), R2U-Net by
most; V-Net finds next to nothing of lesions below 1 % with either loss (T14); one rate fits spots of these sizes (T19); ENet is 16 times
faster than SegNet, and learns more slowly (T27); one network for two contrasts loses more than .02 on both (T01). Which of these hold
after longer trainings was not tried (`--steps`).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.proofs import Found, Statements, parser_of, rows_of, try_all
from benchmarks.record import Run
from benchmarks.segment_proofs_data import Case, boundary_dice, separated
from benchmarks.segment_proofs_learn import Data, Trained, better, mean
from cohortex.models import registry
from cohortex.models.segment.layers import resized
from cohortex.threads import set_threads

UNET = {"features": [16, 32, 64, 128], "valid": False, "norm": "batch"}
VGG = {"features": [16, 32, 64, 64, 64], "hidden": 128, "norm": "batch"}
RESNET = {"depth": [2, 2, 2, 2], "width": 16}
SPOTS = {"kind": "spots", "steps": 300}


def count_of(name: str) -> int:
    """Return the parameters of a network of the registry at its own size, counted without its memory."""
    with torch.device("meta"):
        return registry.count_parameters(registry.build("segment", name))


def duel(
    have: Data, kind: str, ours: Trained, other: Trained, names: tuple[str, str], border: bool = False
) -> tuple[dict[str, Any], float]:
    """Return the figures of two networks on the test cases of a kind, and by how much the first is better."""
    word = "boundary Dice" if border else "Dice"
    a, b = (have.scores(each, kind, border) for each in (ours, other))
    figures = {f"{names[0]} {word}": mean(a), f"{names[1]} {word}": mean(b), **better(a, b, f"difference of {word}")}
    return figures, mean(a) - mean(b)


# --- U-Nets ------------------------------------------------------------------------------------------------------


def unet(have: Data) -> Found:
    """Row T10: the published count; weights at borders keep touching cells apart."""
    plain = have.trained("unet", "cells", UNET, loss="cross_entropy", steps=100)
    weighted = have.trained("unet", "cells", UNET, loss={"name": "border_cross_entropy", "weight": 10.0, "sigma": 3.0}, steps=100)
    each = {
        name: [separated(case.labels, net(case)) for case in have.test("cells")] for name, net in (("plain", plain), ("weighted", weighted))
    }
    figures = {f"{name} F1 of cells": mean(values) for name, values in each.items()}
    figures |= better(each["weighted"], each["plain"], "difference of F1")
    apart = mean(each["weighted"]) > mean(each["plain"])
    return Found(figures, {"count 31,030,658": count_of("unet") == 31_030_658, "cells kept apart": apart})


def nested(have: Data) -> Found:
    """Row T11: the published count; each deeper pruning level is no worse; above the U-Net."""
    options = {"features": [12, 24, 48, 96], "norm": "batch", "deep_supervision": True}
    ours = have.trained("unetplusplus", "slices", options)
    figures, over = duel(have, "slices", ours, slices_unet(have), ("U-Net++", "U-Net"))
    levels = []
    for level in (1, 2, 3):
        pruned = registry.build("segment", "unetplusplus", **{"channels": 1, "classes": 7, **options, "level": level})
        pruned.load_state_dict(ours.network.state_dict())
        levels.append(mean(have.scores(Trained(pruned.eval(), 0.0), "slices")))
        figures[f"level {level} Dice"] = levels[-1]
    statements = {
        "count 9,041,601": count_of("unetplusplus") == 9_041_601,
        "deeper is no worse": levels == sorted(levels),
        "over U-Net": over > 0,
    }
    return Found(figures, statements)


def slices_unet(have: Data) -> Trained:
    """Return the U-Net of slices that several rows are held against."""
    return have.trained("unet", "slices", UNET)


def recurrent(have: Data) -> Found:
    """Row T13: two recurrences above none; recurrence adds no parameters, so that the twin has its layers once and is as large."""
    features = [12, 24, 48, 96]
    nets = [have.trained("r2unet", "slices", {"features": features, "steps": steps}) for steps in (2, 0)]
    sizes = [registry.count_parameters(net.network) for net in nets]
    figures, over = duel(have, "slices", nets[0], nets[1], ("t = 2", "t = 0"))
    figures |= {"parameters t = 2": sizes[0], "parameters t = 0": sizes[1]}
    return Found(figures, {"t = 2 over t = 0": over > 0, "near-equal parameters": abs(sizes[0] / sizes[1] - 1) < 0.02})


def vnet(have: Data) -> Found:
    """Row T14: the Dice loss above weighted cross-entropy where less than 1 % is foreground."""
    options = {"features": [4, 8, 16, 32], "depths": [1, 2, 2, 2], "norm": "batch"}
    nets = [
        have.trained("vnet", "rare", options, loss=loss, steps=150, batch=2, patch=32)
        for loss in ("squared_dice", {"name": "weighted_cross_entropy", "power": 1.0, "most": 1000.0})
    ]
    figures, over = duel(have, "rare", nets[0], nets[1], ("Dice loss", "weighted cross-entropy"))
    share = float(np.mean([case.labels.mean() for case in have.test("rare")]))
    return Found({**figures, "share of foreground": share}, {"over weighted cross-entropy": over > 0, "below 1 %": share < 0.01})


def sparse(have: Data) -> Found:
    """Row T15: the published count; three labelled slices of each axis teach more than 90 % of what all labels do."""

    def few(case: Case) -> Case:
        labels = np.full_like(case.labels, 255)
        for axis, size in enumerate(labels.shape):
            for place in (size // 4, size // 2, 3 * size // 4):
                plane = tuple(slice(place, place + 1) if a == axis else slice(None) for a in range(3))
                labels[plane] = case.labels[plane]
        return Case(case.image, labels)

    options = {"features": [8, 16, 32], "growing": True, "upsampling": "transposed"}
    loss = {"name": "weighted_cross_entropy", "unlabelled": 255}
    whole = have.trained("unet3d", "T1w", options, loss=loss, steps=150, batch=2, patch=32)
    some = [few(case) for case in have.train("T1w")]
    part = have.trained("unet3d", "T1w", options, loss=loss, steps=150, batch=2, patch=32, cases=some, called="few slices")
    a, b = (mean(have.scores(net, "T1w")) for net in (part, whole))
    known = float(np.mean([(case.labels < 255).mean() for case in some]))
    figures = {"few slices Dice": a, "all labels Dice": b, "share of labelled voxels": known}
    return Found(figures, {"count 19,069,955": count_of("unet3d") == 19_069_955, "over 90 % of full": a > 0.9 * b})


def gates(have: Data) -> Found:
    """Row T32: the gates look where the organ is; no worse than the network without gates."""
    options = {"dimensions": 2, "features": [12, 24, 48, 96]}
    ours, twin = (have.trained("attention_unet", "slices", {**options, "gates": on}) for on in (True, False))
    figures, over = duel(have, "slices", ours, twin, ("gates", "no gates"))
    areas = []
    for number in range(2):
        found = []
        for case in have.test("slices"):
            organ = (case.labels > 0) & (case.labels != 5)
            if not organ.any() or organ.all():
                continue
            with torch.inference_mode():
                _, weights = ours.network.gated(torch.from_numpy(case.image)[None, None])  # type: ignore[operator]
            weight = resized(weights[number], organ.shape)[0, 0, : organ.shape[0], : organ.shape[1]]
            found.append(rank_area(weight.numpy(), organ))
        areas.append(mean(found))
    figures |= {"AUC of the coarse gate": areas[0], "AUC of the fine gate": areas[1]}
    return Found(figures, {"gates overlap the organ": max(areas) > 0.8, "no worse": over >= 0})


def rank_area(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the area under the ROC curve of values as a detector of a mask."""
    from scipy.stats import rankdata

    ranks = rankdata(values.ravel())
    inside = mask.ravel()
    n, m = int(inside.sum()), int((~inside).sum())
    return float((ranks[inside].sum() - n * (n + 1) / 2) / (n * m))


def lstm(have: Data) -> Found:
    """Row T22: skips joined by ConvLSTM above skips that are concatenated."""
    options = {"features": [12, 24, 48, 96]}
    nets = [have.trained("bcdunet", "slices", {**options, "lstm": on}) for on in (True, False)]
    figures, over = duel(have, "slices", nets[0], nets[1], ("ConvLSTM", "concatenation"))
    return Found(figures, {"over concatenation": over > 0})


# --- networks of classifiers ---------------------------------------------------------------------------------------


def fcn(have: Data) -> Found:
    """Row T03: finer strides have better borders; any size goes in."""
    nets = {stride: have.trained("fcn", "slices", {**VGG, "stride": stride}) for stride in (8, 16, 32)}
    borders = {stride: have.scores(net, "slices", True) for stride, net in nets.items()}
    figures: dict[str, Any] = {f"{stride}s boundary Dice": mean(values) for stride, values in borders.items()}
    figures |= better(borders[8], borders[16], "8s over 16s") | better(borders[16], borders[32], "16s over 32s")
    fits = all(
        nets[8].logits(Case(np.zeros(size, np.float32), np.zeros(size, np.uint8))).shape[2:] == size
        for size in ((64, 64), (71, 90), (120, 50))
    )
    values = [mean(borders[stride]) for stride in (8, 16, 32)]
    return Found(figures, {"8s over 16s over 32s": values[0] > values[1] > values[2], "three sizes": fits})


def segnet(have: Data) -> Found:
    """Row T17: the published count; unpooling returns values to their places; better borders than the twin that interpolates."""
    from cohortex.models.segment.layers import max_pool, unpooled

    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    y, where = max_pool(2, return_indices=True)(x)
    back = unpooled(y, where, x.shape[2:])
    exact = bool(((back == x) | (back == 0)).all()) and int((back != 0).sum()) == y.numel()
    ours, twin = segnets(have)
    figures, over = duel(have, "slices", ours, twin, ("indices", "interpolation"), border=True)
    return Found(figures, {"count 29,449,932": count_of("segnet") == 29_449_932, "places exact": exact, "over interpolation": over > 0})


def segnets(have: Data) -> tuple[Trained, Trained]:
    """Return SegNet and its twin that interpolates."""
    features = [16, 32, 64, 64]
    ours, twin = (have.trained("segnet", "slices", {"features": features, "unpooling": how}) for how in ("indices", "linear"))
    return ours, twin


def crf(have: Data) -> Found:
    """Row T18: the CRF behind DeepLab v1 makes borders better; its free energy falls in every iteration."""
    from cohortex.models.segment.crf import Field, Kernels, free_energy, mean_field

    net = have.trained("deeplab_v1", "slices", {**VGG, "hidden": 64, "rate": 4})
    # weights and widths chosen on cases that were learnt from
    fields = [
        Field(b, s, near, alike, close)
        for b, s in ((1, 0.5), (2, 0.5), (4, 1))
        for near in (3.0, 8.0)
        for alike in (0.2, 0.5)
        for close in (1.0,)
    ]

    def refined(case: Case, how: Field) -> np.ndarray:
        image = torch.from_numpy(case.image)[None, None]
        return mean_field(net.logits(case), image, how, iterations=5, radius=4, damping=0.5)[0].argmax(0).numpy().astype(np.uint8)

    learnt = have.train("slices")[:: len(have.train("slices")) // 16]
    chosen = max(fields, key=lambda how: mean([boundary_dice(case.labels, refined(case, how), 7) for case in learnt]))
    before, after = have.scores(net, "slices", True), have.scores(lambda case: refined(case, chosen), "slices", True)
    case = have.test("slices")[4]
    image, logits = torch.from_numpy(case.image)[None, None], net.logits(case)
    kernels = Kernels(image, chosen, None, 4)
    energies = [
        float(free_energy(mean_field(logits, image, chosen, iterations=n, radius=4, damping=0.5), logits, kernels)) for n in range(8)
    ]
    falls = all(b <= a + 1e-4 * abs(a) for a, b in pairwise(energies))
    figures = {"network boundary Dice": mean(before), "with CRF boundary Dice": mean(after), **better(after, before, "difference")}
    return Found(figures, {"better borders": mean(after) > mean(before), "free energy falls": falls})


def pyramid_v2(have: Data) -> Found:
    """Row T19: several rates above a single one on spots of several sizes."""
    nets = [have.trained("deeplab_v2", options={**RESNET, "rates": rates}, **SPOTS) for rates in ([1, 2, 4, 6], [2])]
    figures, over = duel(have, "spots", nets[0], nets[1], ("pyramid", "one rate"))
    return Found(figures, {"over one rate": over > 0})


def pyramid_v3(have: Data) -> Found:
    """Row T20: with the mean of the whole image above without it; stride 8 above stride 16."""
    base = {"depth": [2, 2, 2, 3], "width": 16, "filters": 64, "rates": [2, 4, 6]}
    nets = {
        name: have.trained("deeplab_v3", "slices", {**base, **own})
        for name, own in (
            ("stride 8", {"stride": 8}),
            ("stride 16", {"stride": 16}),
            ("without pooling", {"stride": 8, "image_pooling": False}),
        )
    }
    figures, over = duel(have, "slices", nets["stride 8"], nets["stride 16"], ("stride 8", "stride 16"))
    more, pooled = duel(have, "slices", nets["stride 8"], nets["without pooling"], ("stride 8", "without pooling"))
    more["difference of Dice by pooling"] = more.pop("difference of Dice")
    return Found({**figures, **more}, {"stride 8 over 16": over > 0, "image pooling helps": pooled > 0})


def enet(have: Data) -> Found:
    """Row T27: as many parameters as published, ten times faster than SegNet at its own size, Dice within 0.05."""
    ours, (segnet_, _) = have.trained("enet", "slices", {"width": 16}), segnets(have)
    a, b = (mean(have.scores(net, "slices")) for net in (ours, segnet_))
    count = count_of("enet")
    full = {"channels": 1, "classes": 7}
    cases = have.test("slices")[:4]
    times = {name: Trained(registry.build("segment", name, **full).eval(), 0.0).seconds_each(cases) for name in ("enet", "segnet")}
    figures = {"ENet Dice": a, "SegNet (narrow) Dice": b, "parameters": count, "times faster": times["segnet"] / times["enet"]}
    return Found(
        figures,
        {
            ".35 to .37 million": 350_000 <= count <= 370_000,
            "10 times faster": figures["times faster"] >= 10,
            "Dice within .05": a > b - 0.05,
        },
    )


def frrn(have: Data) -> Found:
    """Row T28: the published counts; better borders than a U-Net of equal size."""
    ours = have.trained("frrn", "slices", {"width": 16, "lane": 12, "factor": 0.2})
    size = registry.count_parameters(ours.network)
    widths = min(range(8, 40), key=lambda w: abs(registry.count_parameters(registry.build("segment", "unet", **unet_of(w))) - size))
    twin = have.trained("unet", "slices", unet_of(widths))
    figures, over = duel(have, "slices", ours, twin, ("FRRN", "U-Net"), border=True)
    figures |= {"FRRN parameters": size, "U-Net parameters": registry.count_parameters(twin.network)}
    with torch.device("meta"):
        counts = [registry.count_parameters(registry.build("segment", "frrn", kind=kind)) / 1e6 for kind in ("A", "B")]
    published = abs(counts[0] - 17.7) < 0.06 and abs(counts[1] - 24.8) < 0.15
    return Found({**figures, "A millions": counts[0], "B millions": counts[1]}, {"counts": published, "over U-Net": over > 0})


def unet_of(width: int) -> dict[str, Any]:
    """Return the options of a U-Net of slices of a width."""
    return {"channels": 1, "classes": 7, **UNET, "features": [width, 2 * width, 4 * width, 8 * width]}


def pspnet(have: Data) -> Found:
    """Row T29: the pyramid above global pooling alone; average beside maximum."""
    ours = have.trained("pspnet", "slices", RESNET)
    whole = have.trained("pspnet", "slices", {**RESNET, "bins": [1]})
    largest = have.trained("pspnet", "slices", {**RESNET, "pooling": "max"})
    figures, over = duel(have, "slices", ours, whole, ("pyramid", "global"))
    more, average = duel(have, "slices", ours, largest, ("pyramid", "maximum"))
    more["difference to maximum"] = more.pop("difference of Dice")
    return Found({**figures, **more}, {"over global pooling": over > 0, "average at least maximum": average >= 0})


def windows(have: Data) -> Found:
    """Row T40: no worse than the U-Net; shifted windows above windows that stay."""
    options = {"dimensions": 2, "features": 12, "depths": [2, 2, 2], "heads": [3, 6, 12], "window": 4}
    ours, still = (have.trained("swin_unetr", "slices", {**options, "shift": on}, steps=300) for on in (True, False))
    figures, over = duel(have, "slices", ours, still, ("shifted", "not shifted"))
    more, least = duel(have, "slices", ours, have.trained("unet", "slices", UNET, steps=300), ("shifted", "U-Net"))
    more["difference to U-Net"] = more.pop("difference of Dice")
    return Found({**figures, **more}, {"shift helps": over > 0, "no worse than U-Net": least >= 0})


def triplanar(have: Data) -> Found:
    """Row T01: three planes above one, in less than a third of the time of cubes; one network for MR and CT within .02 of two."""
    base = {"layers": 6, "features": 12, "hidden": 48}
    run: dict[str, Any] = {"steps": 120, "batch": 2, "patch": 24, "loss": "cross_entropy"}
    three, one, cubes = (have.trained("triplanar", "T1w", {**base, "kernels": kind}, **run) for kind in ("planes", "plane", "cubes"))
    figures, over = duel(have, "T1w", three, one, ("three planes", "one plane"))
    cases = have.test("T1w")[:2]
    share = three.seconds_each(cases) / cubes.seconds_each(cases)
    figures |= {"cubes Dice": mean(have.scores(cubes, "T1w")), "time of cubes": share}
    both = have.trained(
        "triplanar", "T1w", base, **{**run, "steps": 240}, cases=[*have.train("T1w"), *have.train("CT")], called="MR and CT"
    )
    alone = {"T1w": three, "CT": have.trained("triplanar", "CT", base, **run)}
    drops = {kind: mean(have.scores(net, kind)) - mean(have.scores(both, kind)) for kind, net in alone.items()}
    figures |= {f"one network for both loses on {kind}": drop for kind, drop in drops.items()}
    return Found(
        figures, {"over one plane": over > 0, "a third of the time": share < 1 / 3, "one for both within .02": max(drops.values()) <= 0.02}
    )


ROWS: dict[str, tuple[str, Callable[[Data], Found]]] = {
    "T01": ("Tri-planar: over one plane at less than a third of the time of cubes; one network for two tasks within .02", triplanar),
    "T03": ("FCN: boundary Dice 8s over 16s over 32s; accepts three sizes", fcn),
    "T10": ("U-Net: published count; border weights keep touching cells apart", unet),
    "T11": ("U-Net++: published count; pruned levels monotone; over U-Net", nested),
    "T13": ("R2U-Net: two recurrences over none at near-equal parameters", recurrent),
    "T14": ("V-Net: Dice loss over weighted cross-entropy below 1 % of foreground", vnet),
    "T15": ("3D U-Net: published count; few labelled slices reach over 90 % of full Dice", sparse),
    "T17": ("SegNet: published count; unpooling exact; borders better than by interpolation", segnet),
    "T18": ("DeepLab v1: CRF raises boundary Dice; free energy falls", crf),
    "T19": ("DeepLab v2: pyramid of rates over one rate on spots of several sizes", pyramid_v2),
    "T20": ("DeepLab v3: image pooling helps; output stride 8 over 16", pyramid_v3),
    "T22": ("BCDU-Net: ConvLSTM skips over concatenated ones", lstm),
    "T27": ("ENet: published count; at least 10 times faster than SegNet at Dice within .05", enet),
    "T28": ("FRRN: published counts; borders better than U-Net of equal size", frrn),
    "T29": ("PSPNet: pyramid over global pooling; average at least maximum", pspnet),
    "T32": ("Attention U-Net: gates overlap the organ (AUC over .8); no worse than without", gates),
    "T40": ("Swin UNETR: no worse than U-Net; shifted windows help", windows),
}
"""What each row states, and who tries it."""


def main() -> None:
    """Try what was asked for, and print what holds."""
    options = parser_of(__doc__, "segment_proofs").parse_args()
    set_threads(1)
    have = Data(options.folder, options.steps)
    statements: Statements = {row: (words, partial(prove, have)) for row, (words, prove) in ROWS.items()}
    rows = rows_of(options.proof, statements)
    try_all(Run("segment_proofs", ["numpy", "torch"]), statements, rows, options.save)


if __name__ == "__main__":
    main()
