"""Vessels of the retina by a segmentation network, beside a second human observer: the pictures of CHASE_DB1 through the workflow.

    python -m benchmarks.vessels [--network unet] [--steps 600] [--patch 128] [--batch 4] [--cores 1] [--folder DIR] [--save FILE]

The nine children of ../shared/data/retina-chasedb1 (both eyes each) are split once: 1 to 5 are learnt from, 6 is for validation, 7 to 9
are the test. The network is as narrow as in `benchmarks.small_networks`. The green channel goes through ``acquire``, ``regseg`` with
``segment_weights: train``, and ``export``; the labels of the first observer are the truth, and what the network and the second observer
say is held against them by Dice, picture by picture, all pixels counted. Intervals (95 %, bootstrap) are over children. With --folder
what is done is not done again. Last line: FIGURE vessel_dice observer_dice, and the lower and upper end of their difference.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from benchmarks.record import ROOT, Run, Table, add_save
from benchmarks.small_networks import SEGMENT, TAUGHT
from benchmarks.workflow import command, environment
from cohortex.measures.intervals import paired_interval
from cohortex.measures.segmentation import dice
from cohortex.tables import write_table

DATA = ROOT.parent / "shared" / "data" / "retina-chasedb1"
SPLITS = {"train": (1, 2, 3, 4, 5), "validation": (6,), "test": (7, 8, 9)}
COLUMNS = ("subject", "acq", "modality", "path", "body_part", "role", "split")


def cohort(data: Path, folder: Path) -> Path:
    """Write the green channel of all pictures and the first observer's masks as 0 and 1, and the table of the cohort."""
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for split, children in SPLITS.items():
        for child in children:
            for eye in "LR":
                name = f"{child:02d}{eye}"
                green = np.asarray(Image.open(data / f"Image_{name}.jpg").convert("RGB"))[..., 1]
                mask = np.asarray(Image.open(data / f"Image_{name}_1stHO.png").convert("1")).astype(np.uint8)
                for role, array in (("image", green), ("labels", mask)):
                    path = folder / "pictures" / f"{name}_{role}.png"
                    Image.fromarray(array).save(path)
                    values = (f"child{child:02d}", eye, "FUNDUS", str(path), "eye", role, split)
                    rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_table(folder / "cohort.tsv", COLUMNS, rows)
    return folder / "cohort.tsv"


def settings(options: argparse.Namespace) -> dict[str, object]:
    """Return the configuration of the run."""
    training = {**TAUGHT, "network": options.network, "options": SEGMENT.get(options.network, {}), "minutes": 600}
    training |= {name: getattr(options, name) for name in ("steps", "patch", "batch")}
    section = {
        "weights": None,
        "weights_otherwise": None,
        "segment_weights": "train",
        # two eyes are no pair
        "pair": [],
        "labels": {"1": "vessel"},
        "segment_training": training,
    }
    chain = ["acquire", "regseg", "export"]
    return {"stages": chain, "regseg": {"default": section}, "select": {"suffix": ["FUNDUS"]}}


def run(options: argparse.Namespace, folder: Path) -> Path:
    """Run the workflow and return the folder of results."""
    table = cohort(DATA, folder)
    (folder / "vessels.yaml").write_text(yaml.safe_dump(settings(options)), encoding="utf-8")
    words = command("--configfile", str(folder / "vessels.yaml"), "--config", f"input={table}", cores=options.cores)
    with (folder / "benchmark.log").open("ab") as log:
        done = subprocess.run(words, cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"the workflow failed, see {folder / 'benchmark.log'}")
    return folder / "results"


def overlaps(results: Path, data: Path) -> list[tuple[int, str, float, float]]:
    """Return child, eye, and the Dice with the first observer of the network and of the second observer, of every test picture."""
    found = []
    for child in SPLITS["test"]:
        for eye in "LR":
            stem = results / f"sub-child{child:02d}" / "fundus" / f"sub-child{child:02d}_acq-{eye}_space-FUNDUS_desc"
            truth, said = (_labels(stem.with_name(f"{stem.name}-{desc}_dseg.nii.gz")) for desc in ("labels", "regseg"))
            first, second = (_mask(data / f"Image_{child:02d}{eye}_{which}HO.png") for which in ("1st", "2nd"))
            found.append((child, eye, dice(truth, said, [1])[1], dice(first, second, [1])[1]))
    return found


def _labels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]


def _mask(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("1")).astype(np.uint8)


def main() -> None:
    """Print the table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    add_save(parser)
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit("the optional folder of real scans (../shared/data) is not here: nothing to measure")
    record = Run("vessels", ["torch", "numpy"])
    folder = options.folder or Path(tempfile.mkdtemp(prefix="vessels-"))
    rows = overlaps(run(options, folder), DATA)
    table = Table({"picture": "", "network": ".3f", "second observer": ".3f"})
    for child, eye, ours, human in rows:
        table.add(f"{child:02d}{eye}", ours, human)
    by_child = np.array([np.mean([row[2:] for row in rows if row[0] == child], axis=0) for child in SPLITS["test"]])
    table.add("mean", *by_child.mean(axis=0))
    low, high = paired_interval(by_child[:, 0], by_child[:, 1])[1:]
    figures = {"vessel_dice": by_child[:, 0].mean(), "observer_dice": by_child[:, 1].mean(), "difference_low": low, "difference_high": high}
    record.end({"test pictures": table}, {name: float(value) for name, value in figures.items()}, options.save)


if __name__ == "__main__":
    main()
