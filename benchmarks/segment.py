"""Networks that segment, side by side: the same heads, plan, patches, batch and steps for each, against the planned baseline.

    python -m benchmarks.segment [--folder DIR] [--steps N] [--heads N] [--networks a,b] [--save FILE]

Simulated heads of the demo: T1w at 1.5 mm and their labels. Each network is as wide as its options here say (a CPU trains it). Printed are
parameters, Dice and mean IoU on heads that it did not learn from, the paired difference to the baseline, and the seconds that training and
labelling took. Models are kept in the folder: what is there is not trained again. Last line: FIGURE networks_built (of the registry at its
own size, counted without memory), best_dice, baseline_dice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import Table, markdown
from benchmarks.superresolve import demo_heads
from cohortex.demo.make import TRUTH
from cohortex.errors import CohortexError
from cohortex.io.nifti import read_nifti
from cohortex.items import HEAD_LABELS, Image
from cohortex.measures.intervals import paired_interval
from cohortex.measures.segmentation import mean_of
from cohortex.models import registry
from cohortex.models.folder import load_network, read_card
from cohortex.models.segment.plan import Plan
from cohortex.publish import write_json
from cohortex.threads import set_threads
from cohortex.training.segment import BASELINE, scores, train_segment
from cohortex.training.segment_data import labelled_pairs, prepared
from cohortex.volume import Volume

SEED = 11
EDGE = 80
"""Voxels of the middle of a head along each axis."""

NETWORKS: dict[str, dict[str, Any]] = {
    BASELINE: {"features": [12, 24, 48, 64], "kernels": [], "strides": []},
    "unet": {"features": [16, 32, 64, 128], "valid": False, "norm": "batch"},
    "unetplusplus": {"features": [12, 24, 48, 96], "norm": "batch", "deep_supervision": True},
    "attention_unet": {"features": [8, 16, 32, 64]},
    "vnet": {"features": [4, 8, 16, 32], "depths": [1, 2, 2, 2], "norm": "batch"},
    "unet3d_small": {},
    "segnet": {"features": [16, 32, 64, 64]},
    "fcn": {"features": [16, 32, 64, 64, 64], "hidden": 128, "norm": "batch"},
    "deeplab_v1": {"features": [16, 32, 64, 64, 64], "hidden": 64, "norm": "batch"},
    "deeplab_v2": {"depth": [2, 2, 2, 2], "width": 16},
    "deeplab_v3": {"depth": [2, 2, 2, 3], "width": 16, "stride": 8, "filters": 64},
    "enet": {"width": 16},
    "pspnet": {"depth": [2, 2, 2, 2], "width": 16},
    "frrn": {"width": 16, "lane": 12, "factor": 0.2},
    "r2unet": {"features": [12, 24, 48, 96]},
    "bcdunet": {"features": [12, 24, 48, 96]},
    "unetr": {"size": 48, "features": 8, "width": 96, "hidden": 192, "heads": 6, "layers": 4},
    "swin_unetr": {"features": 12, "depths": [2, 2, 2], "heads": [3, 6, 12], "window": 4},
    "triplanar": {"layers": 8, "features": 12, "hidden": 48},
}
"""What makes each small enough for a core."""

PATCH = {2: [64, 64], 3: [48, 48, 48]}
BATCH = {2: 8, 3: 2}


def heads(folder: Path, count: int) -> list[Image]:
    """Return the middles of heads and their labels, a third of them for validation."""
    found: list[Image] = []
    for index, image in enumerate(demo_heads(folder, count, SEED, "segment")):
        row = {"split": "validation" if index % 3 == 2 else "train", "site": image.row.get("site", "")}
        truth = folder / TRUTH / image.subject / "labels_T1w_iso.nii.gz"
        common: dict[str, Any] = {"subject": image.subject, "session": "", "modality": "T1w", "body_part": "head", "row": row}
        found.append(Image(id=image.id, kind="image", opener=partial(_middle_of, image, None), **common))
        found.append(Image(id=f"{image.id}+labels", kind="labels", role="labels", opener=partial(_middle_of, image, truth), **common))
    return found


def _middle_of(image: Image, labels: Path | None) -> Volume:
    """Return the middle of an image, or of its labels, with noise of 3 % in the image."""
    volume = image.volume if labels is None else read_nifti(labels)
    starts = [max(0, (n - EDGE) // 2) for n in volume.shape]
    cut = np.asarray(volume.data[tuple(slice(a, a + EDGE) for a in starts)])
    if labels is not None:
        return volume.with_data(cut.astype(np.uint8), kind="labels", modality="T1w")
    rng = np.random.default_rng([SEED, *image.subject.encode()])
    return volume.with_data((cut + rng.normal(0, 0.03 * cut.max(), cut.shape)).astype(np.float32))


def built() -> int:
    """Return how many networks of the registry can be built as their papers have them."""
    made = 0
    for entry in registry.entries("segment"):
        with torch.device("meta"):
            network = registry.build("segment", entry.name)
        count = registry.count_parameters(network)
        made += entry.parameters in (None, count)
        print(f"{entry.name}: {count:,} parameters", flush=True)
    return made


def tried(name: str, images: list[Image], folder: Path, steps: int) -> tuple[Path, float]:
    """Train a network where its folder is not there yet; return the folder and the CPU seconds that it took."""
    model = folder / name / str(steps)
    seconds = model.with_suffix(".seconds")
    if not model.is_dir():
        dimensions = registry.expected(registry.entry("segment", name), NETWORKS[name]).dimensions
        training = {
            "steps": steps,
            "minutes": 600.0,
            "rate": 2e-3,
            "patch": PATCH[dimensions],
            "batch": BATCH[dimensions],
            "objective": "dice_cross_entropy",
            "options": NETWORKS[name],
        }
        start = time.process_time()
        labels = {str(k): v for k, v in HEAD_LABELS.items()}
        train_segment(images, {"default": {"network": name, "labels": labels, "training": training}}, SEED, "cpu", model)
        seconds.write_text(f"{time.process_time() - start:.1f}")
    return model, float(seconds.read_text())


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where heads and models are kept")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names with commas between them; the baseline is always among them")
    parser.add_argument("--save", type=Path, help="write table and figures to this JSON file")
    options = parser.parse_args()
    set_threads(1)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="segment-"))
    count = built()
    images = heads(folder / "heads", options.heads)
    pairs = labelled_pairs(images, "validation")
    names = list(dict.fromkeys([BASELINE, *options.networks.split(",")]))
    table = Table(
        {"network": "", "parameters": ",d", "Dice": ".3f", "mean IoU": ".3f", "over the baseline": "+.3f", "low": "+.3f", "high": "+.3f"}
        | {"training s": ".0f", "labelling s an image": ".2f"}
    )
    found: dict[str, list[float]] = {}
    for name in names:
        try:
            model, seconds = tried(name, images, folder / "models", options.steps)
        except CohortexError as error:
            print(f"{name}: {error}", flush=True)
            continue
        card, network = read_card(model), load_network(model)
        how = Plan(**card["extra"]["plan"])
        items = [prepared(pair, how, np.random.default_rng(0)) for pair in pairs]
        start = time.process_time()
        rows = scores(network, items, how, card["extra"]["across"], card["extra"]["patch"], "cpu")
        took = (time.process_time() - start) / len(items)
        found[name] = [mean_of(row["dice"]) for row in rows]
        union = float(np.mean([mean_of(row["iou"]) for row in rows]))
        over = (None, None, None) if name == BASELINE else paired_interval(found[name], found[BASELINE])
        size = sum(p.numel() for p in network.parameters())
        table.add(name, size, float(np.mean(found[name])), union, *over, seconds, took)
    figures = {
        "networks_built": float(count),
        "best_dice": max(float(np.mean(values)) for values in found.values()),
        "baseline_dice": float(np.mean(found[BASELINE])),
    }
    if options.save is not None:
        write_json(options.save, {"table": markdown({"columns": dict(table.columns), "rows": table.rows}), "figures": figures})
    print(json.dumps({name: [round(v, 4) for v in values] for name, values in found.items()}))
    print("FIGURE", " ".join(f"{name}={value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
