"""Tumours found in T1w slices of brains: mAP@.5 of a detector that the workflow trains, on slices of other numbers than it learned from.

    python -m benchmarks.recognize [--steps 700] [--network retinanet] [--keep FOLDER] [--scans ../shared/data] [--save FILE]

The 600 slices of ``brain-tumour-2d`` (200 of each of three kinds of tumour, each with the boxes of its .txt file) are put on a grid of
128 x 128 by means. Slices are ordered by their number within a kind: the first 60 % train, the next 5 % choose the score, a gap of 5 %
is left out, the last 30 % are the test. Patients are not told apart in this copy of the data; their slices have neighbouring numbers, so
blocks with a gap keep most patients on one side, and intervals are over runs of ten numbers. Labels are painted from the boxes, and
`cohortex.training.recognize.train_recognize` and the stage's own search do the rest: what is measured is what a user gets. The truth of
the test is the boxes of the files, not what was painted.

With ``--keep`` the model folder stays there: a run that was ended goes on from its checkpoint, and one that is over is measured again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.items import Image
from cohortex.measures.detection import detection_summary
from cohortex.models.folder import CARD, load_network, read_card
from cohortex.models.recognize.apply import Asked, fed_of, found_in
from cohortex.models.recognize.findings import Findings
from cohortex.threads import set_threads
from cohortex.training.recognize import LOWEST, train_recognize
from cohortex.volume import Volume

KINDS = ("pituitary", "meningioma", "glioma")
EDGE = 128
PARTS = {"train": (0.0, 0.6), "validation": (0.6, 0.65), "test": (0.7, 1.0)}
"""Shares of each kind's slices in the order of their numbers."""
RUN = 10
"""Slices that follow each other count as one for intervals."""
OVERLAP = 0.5


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


def trained(images: Sequence[Image], options: argparse.Namespace, folder: Path) -> Path:
    """Return the folder of the trained model."""
    section: dict[str, Any] = {
        "default": {
            "network": options.network,
            "labels": {str(kind + 1): name for kind, name in enumerate(KINDS)},
            "training": {"steps": options.steps, "minutes": 600.0, "batch": options.batch, "rate": options.rate},
        }
    }
    if not (folder / CARD).is_file():
        train_recognize(images, section, 7, "cpu", folder)
    return folder


def main() -> None:
    """Print the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--network", default="retinanet", help="of the registry's task recognize")
    parser.add_argument("--steps", type=int, default=700, help="steps of the optimiser")
    parser.add_argument("--batch", type=int, default=8, help="slices in a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="largest learning rate")
    parser.add_argument("--keep", type=Path, help="a folder where the model stays")
    add_save(parser)
    options = parser.parse_args()
    folder = options.scans / "brain-tumour-2d"
    if not folder.is_dir():
        raise SystemExit(f"the folder {folder.name} of test data is not there: give --scans")
    set_threads(1)
    run = Run("recognize", ["numpy", "torch"])
    learned = [image for split in ("train", "validation") for each in slices_of(folder, split) for image in each[:2]]
    with tempfile.TemporaryDirectory() as temporary:
        place = trained(learned, options, (options.keep or Path(temporary)) / f"{options.network}-{options.steps}")
        card, network = read_card(place), load_network(place)
    fed = fed_of(card)
    test = slices_of(folder, "test")
    found = [found_in(image.volume, network, fed, Asked(LOWEST)) for image, *_ in test]
    truth = [boxes for _, _, boxes, _ in test]
    told = detection_summary(found, truth, len(KINDS), [number for *_, number in test], OVERLAP, rule=OVERLAP)
    table = Table({"measure": "", "slices": "d", "boxes": "d", "value": ".3f", "low": ".3f", "high": ".3f"})
    names = {"map": "mAP@.5", **{f"ap_{k}": f"AP@.5 {name}" for k, name in enumerate(KINDS)}, "cpm": "CPM at overlap .5"}
    for key, name in {**names, "sensitivity_at_1": "sensitivity at one false box a slice"}.items():
        chosen = [each for each in truth if not key.startswith("ap_") or (each.labels == int(key[3:])).any()]
        boxes = sum(int((each.labels == int(key[3:])).sum()) if key.startswith("ap_") else len(each) for each in chosen)
        table.add(name, len(chosen), boxes, *told[key])
    run.end({"recognition": table}, {"brain3_map50": told["map"][0], "low": told["map"][1], "high": told["map"][2]}, options.save)


if __name__ == "__main__":
    main()
