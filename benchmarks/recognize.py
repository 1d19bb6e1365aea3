"""Tumours found in T1w slices of brains: mAP@.5 of a detector that the workflow trains, on slices of other numbers than it learned from.

    python -m benchmarks.recognize [--steps 3000] [--networks small,resnet18] [--keep FOLDER] [--scans ../shared/data] [--save FILE]

The 600 slices of ``brain-tumour-2d`` (200 of each of three kinds of tumour, each with the boxes of its .txt file) are put on a grid of
128 x 128 by means. Slices are ordered by their number within a kind: the first 60 % train, the next 5 % choose the score, a gap of 5 %
is left out, the last 30 % are the test. Patients are not told apart in this copy of the data; their slices have neighbouring numbers, so
blocks with a gap keep most patients on one side, and intervals are over runs of ten numbers. Labels are painted from the boxes, and
`cohortex.training.recognize.train_recognize` and the stage's own search do the rest: what is measured is what a user gets. The truth of
the test is the boxes of the files, not what was painted.

Two RetinaNets have the same slices, steps, batches, rate and levels: one with a small residual network of features, one with a ResNet-18
(of half the paper's width, as in `benchmarks.classify`). The gain is paired, the same slices by both. Steps and how examples are varied
were chosen within the training part: learned from its first 44 %, judged on what lies from 49 to 65 % (mAP@.5 there: .415 after 900 steps
of the usual variation, .437 varied more, .569 after 2500 steps, .387 with a level less).

With ``--ship zoo/recognize/brain_tumours`` the first model becomes the shipped one, with what was measured in its card.
With ``--keep`` the model folders stay there: a run that was ended goes on from its checkpoint, and one that is over is measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.items import Image
from cohortex.measures.classification import grouped_bootstrap
from cohortex.measures.detection import detection_statistics, detection_summary
from cohortex.models import registry
from cohortex.models.folder import CARD, load_network, read_card, read_model, write_model
from cohortex.models.recognize.apply import Asked, fed_of, found_in
from cohortex.models.recognize.findings import Findings
from cohortex.threads import set_threads
from cohortex.training.recognize import LOWEST, train_recognize
from cohortex.training.team import changed_team
from cohortex.volume import Volume

KINDS = ("pituitary", "meningioma", "glioma")
EDGE = 128
PARTS = {"train": (0.0, 0.6), "validation": (0.6, 0.65), "test": (0.7, 1.0)}
"""Shares of each kind's slices in the order of their numbers."""
RUN = 10
"""Slices that follow each other count as one for intervals."""
OVERLAP = 0.5
NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"first": 2, "convs": 2},
    "resnet18": {"first": 1, "further": 0, "convs": 2, "backbone": {"depth": 18, "width": 32}},
}
"""Options of RetinaNet; the levels of both have strides of 8, 16 and 32 pixels."""
VARIED = {"scale": 0.3, "translate": 0.15, "gain": 0.25, "gamma": 0.3, "rotate_deg": 30.0}
"""How far examples are varied, beside mirroring along both axes."""
RATE, BATCH = 2e-3, 8
SHIPPED: dict[str, Any] = {
    "name": "recognize-brain-tumours",
    "data": "360 slices of T1w MR with contrast agent, 120 of each of three kinds of brain tumour, with a box around each tumour: Cheng "
    "J., brain tumor dataset, figshare 1512427 (CC BY 4.0), as in github.com/nanonane/RCS-YOLO, on 128 x 128 pixels.",
    "intended_use": "Boxes around pituitary tumours, meningiomas and gliomas in pictures of slices of T1w with contrast agent that show a "
    "whole head on 128 x 128 pixels: shows the stage at work, and where a training may start from. For research only.",
    "limits": "Not for diagnosis. Every slice that it learned from has one tumour, so that it was never shown a healthy brain; small "
    "pituitary tumours and gliomas without a bright rim are often missed or mistaken for each other (see the metrics). No volumes.",
}
"""What the card of the shipped model says otherwise than the training."""


def boxes_of(text: str) -> Findings:
    """Return the boxes of a file (class, middle and size as shares of the picture) in pixels of the grid of `EDGE`."""
    rows = np.array([line.split() for line in text.splitlines() if line.strip()], float).reshape(-1, 5)
    middle, half = rows[:, 1:3] * EDGE, rows[:, 3:] * EDGE / 2
    corners = np.zeros((len(rows), 6))
    corners[:, :2], corners[:, 3:5], corners[:, 5] = middle - half, middle + half, 1
    return Findings(corners, rows[:, 0].astype(np.int64), np.ones(len(rows)))


def picture(path: Path) -> np.ndarray:
    """Return a slice (x, y, 1) of `EDGE` x `EDGE` means, float32."""
    from PIL import Image as Picture

    with Picture.open(path) as opened:
        grey = np.asarray(opened.convert("L").resize((EDGE, EDGE), Picture.Resampling.BOX), np.float32)
    return np.ascontiguousarray(grey.T[..., None])


def painted(truth: Findings) -> np.ndarray:
    """Return the labels (x, y, 1) uint8 of boxes: the class and one."""
    labels = np.zeros((EDGE, EDGE, 1), np.uint8)
    for corners, kind in zip(np.round(truth.corners).astype(int), truth.labels, strict=True):
        labels[max(corners[0], 0) : corners[3], max(corners[1], 0) : corners[4]] = kind + 1
    return labels


def slices_of(folder: Path, split: str) -> list[tuple[Image, Image, Findings, int]]:
    """Return the slices of a part: image, labels, boxes, and the number of its run of neighbours."""
    found = []
    for kind, name in enumerate(KINDS):
        files = sorted((folder / str(kind)).glob("*.jpg"), key=lambda path: int(path.stem))
        start, stop = (round(share * len(files)) for share in PARTS[split])
        for place, path in enumerate(files[start:stop]):
            truth = boxes_of(path.with_suffix(".txt").read_text(encoding="ascii"))
            image, labels = (
                Volume(array, np.eye(4), "T1w", sort, "head") for array, sort in ((picture(path), "image"), (painted(truth), "labels"))
            )
            subject = f"{name}{path.stem}"
            row = {"split": split, "sha256": path.stem}
            pair = [
                Image(f"{subject}_T1w{tag}", subject, "", "T1w", kind_of, kind_of, "head", row=row, opener=lambda volume=volume: volume)
                for tag, kind_of, volume in (("", "image", image), ("+labels", "labels", labels))
            ]
            found.append((pair[0], pair[1], truth, 1000 * kind + place // RUN))
    return found


def trained(images: Sequence[Image], name: str, steps: int, folder: Path) -> Path:
    """Return the folder of a trained model, computed in bfloat16, kept in float32."""
    training: dict[str, Any] = {"steps": steps, "minutes": 600.0, "batch": BATCH, "rate": RATE}
    training |= {"flip": [0, 1], "augment": VARIED, "options": NETWORKS[name]}
    labels = {str(kind + 1): kind_name for kind, kind_name in enumerate(KINDS)}
    if not (folder / CARD).is_file():
        with changed_team(precision="bfloat16"):
            train_recognize(images, {"default": {"network": "retinanet", "labels": labels, "training": training}}, 7, "cpu", folder)
    return folder


def measured(found: Sequence[Findings], truth: Sequence[Findings], runs: Sequence[int]) -> Table:
    """Return the table of one detector."""
    told = detection_summary(found, truth, len(KINDS), runs, OVERLAP, rule=OVERLAP)
    table = Table({"measure": "", "slices": "d", "boxes": "d", "value": ".3f", "low": ".3f", "high": ".3f"})
    names = {"map": "mAP@.5", **{f"ap_{k}": f"AP@.5 {name}" for k, name in enumerate(KINDS)}, "cpm": "CPM at overlap .5"}
    for key, name in {**names, "sensitivity_at_1": "sensitivity at one false box a slice"}.items():
        chosen = [each for each in truth if not key.startswith("ap_") or (each.labels == int(key[3:])).any()]
        boxes = sum(int((each.labels == int(key[3:])).sum()) if key.startswith("ap_") else len(each) for each in chosen)
        table.add(name, len(chosen), boxes, *told[key])
    return table


def compared(
    found: Mapping[str, Sequence[Findings]], truth: Sequence[Findings], runs: Sequence[int], cards: Mapping[str, Any]
) -> tuple[Table, dict[str, float]]:
    """Return how the detectors do beside each other, and the figures; the gain is that of the first over the second."""
    values = {name: detection_statistics(said, truth, len(KINDS), OVERLAP, OVERLAP)["map"] for name, said in found.items()}
    table = Table({"network": "", "parameters": ",d", "mAP@.5": ".3f", "low": ".3f", "high": ".3f"})
    told = {}
    for name, value in values.items():
        told[name] = grouped_bootstrap(value, np.asarray(runs))
        parameters = registry.count_parameters(registry.build("recognize", "retinanet", **cards[name]["options"]))
        table.add(name, parameters, *told[name])
    first = next(iter(told))
    figures: dict[str, float] = dict(zip(("brain3_map50", "low", "high"), told[first], strict=True))
    if len(values) > 1:
        ours, others = list(values.values())[:2]
        gain = grouped_bootstrap(lambda rows: ours(rows) - others(rows), np.asarray(runs))
        table.add("gain", None, *gain)
        figures |= {"brain3_resnet18_map50": told["resnet18"][0]}
        figures |= dict(zip(("brain3_gain", "brain3_gain_low", "brain3_gain_high"), gain, strict=True))
    return table, figures


def ship(place: Path, told: Sequence[float], slices: int, folder: Path) -> None:
    """Write a trained model as the shipped one; `told` is its mAP on the test slices with an interval."""
    card, tensors = read_model(place)
    names = ("value", "low", "high")
    tested = {
        "name": "mAP at overlap 0.5",
        **{k: round(float(v), 4) for k, v in zip(names, told, strict=True)},
        "n": slices,
        "on": "test slices",
    }
    write_model(folder, {**card, **SHIPPED, "metrics": [tested, *card["metrics"]]}, tensors)


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which of them")
    parser.add_argument("--steps", type=int, default=3000, help="steps of the optimiser")
    parser.add_argument("--keep", type=Path, help="a folder where the models stay")
    parser.add_argument("--ship", type=Path, help="the shipped model folder, made of the first model")
    add_save(parser)
    options = parser.parse_args()
    folder = options.scans / "brain-tumour-2d"
    if not folder.is_dir():
        raise SystemExit(f"the folder {folder.name} of test data is not there: give --scans")
    set_threads(1)
    run = Run("recognize", ["numpy", "torch"])
    learned = [image for split in ("train", "validation") for each in slices_of(folder, split) for image in each[:2]]
    test, found, cards = slices_of(folder, "test"), {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.networks.split(","):
            place = trained(learned, name, options.steps, (options.keep or Path(temporary)) / f"{name}-{options.steps}")
            cards[name], network = read_card(place), load_network(place)
            found[name] = [found_in(image.volume, network, fed_of(cards[name]), Asked(LOWEST)) for image, *_ in test]
        truth, runs = [boxes for _, _, boxes, _ in test], [number for *_, number in test]
        networks, figures = compared(found, truth, runs, cards)
        if options.ship:
            first = (options.keep or Path(temporary)) / f"{options.networks.split(',')[0]}-{options.steps}"
            ship(first, [figures[key] for key in ("brain3_map50", "low", "high")], len(test), options.ship)
    tables = {"recognition": measured(next(iter(found.values())), truth, runs), "networks": networks}
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
