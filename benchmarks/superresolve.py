"""Through-plane super-resolution on brains that no training saw, held against cubic interpolation and SRCNN3D; and the proofs of its rows.

    python -m benchmarks.superresolve [--scans ../shared/data] [--model zoo/superresolve/subslice] [--whole] [--save FILE]
    python -m benchmarks.superresolve --proof S06,S09 [--steps 1] [--save FILE]

Without ``--proof``: every image is averaged over slices of 2, 4 and 6 voxels along an in-plane axis and made fine again; PSNR in the
foreground, in dB over the cubic spline through the slices. The images are those that the card of the shipped model names as
validation, and heads of the demo's own seed. In the middle 32 voxels of the other in-plane axis, or everywhere (``--whole``). Means
over subjects, and over the real and the simulated ones apart, with 95 % intervals. Last line: FIGURE.

With ``--proof`` (rows, or all): the systems of a row are trained with small equal budgets on simulated heads and compared on others; the
table says whether each row's statement holds, see `benchmarks.superresolve_proofs`.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.demo.make import TRUTH, make_demo
from cohortex.demo.table import demo_rows
from cohortex.items import Image
from cohortex.measures.intervals import paired_interval
from cohortex.models.folder import Loaded, load_network, read_card
from cohortex.stages.superresolve import fed_by
from cohortex.training.superresolve import measured
from cohortex.training.superresolve_pairs import Manner, in_plane
from cohortex.training.zoo_superresolve import SCANS, image_at

if TYPE_CHECKING:
    from torch import nn

FACTORS = (2.0, 4.0, 6.0)
SLAB = 32
HEADS = 2
"""Of the demo."""

GAINS = {"gain": "over the cubic spline", "srcnn3d": "SRCNN3D over the cubic spline", "over_srcnn3d": "over SRCNN3D"}


def demo_heads(folder: Path, count: int, seed: int = 7, prefix: str = "demo", kinds: Sequence[str] = ("T1w",)) -> list[Image]:
    """Return heads of the demo without noise, made where they are not there yet; `kinds` are T1w, CT."""
    rows = [row for row in demo_rows({"subjects": count, "seed": seed, "prefix": prefix})[0] if row["modality"] in kinds]
    make_demo(rows, folder, seed, 1)
    files = {"T1w": "T1w_truth", "CT": "CT_clean"}
    return [
        image_at(row["subject"], "", row["modality"], "head", "test", folder / TRUTH / row["subject"] / f"{files[row['modality']]}.nii.gz")
        for row in rows
    ]


def slab(image: Image, whole: bool) -> Image:
    """Return the middle of an image along its second in-plane axis."""
    if whole:
        return image
    volume, axis = image.volume, in_plane(image)[1]
    start = max(0, volume.shape[axis] // 2 - SLAB // 2)
    key = tuple(slice(start, start + SLAB) if a == axis else slice(None) for a in range(3))
    part = volume.with_data(volume.data[key])
    return Image(image.id, image.subject, "", image.modality, "image", body_part=image.body_part, row=image.row, opener=lambda: part)


def loaded(folder: Path) -> Loaded:
    """Return a model of a folder."""
    return Loaded(read_card(folder), load_network(folder), "cpu")


def gain_of(model: Loaded, image: Image, factor: float, manner: Manner | None = None) -> tuple[float, float, float]:
    """Return the PSNR of the cubic spline, and what the agreeing spline and the model's result have more."""
    made, plain, agreeing = measured(model.network, fed_by(model), image, [image], {}, factor, manner or Manner(), "cpu")
    return plain, agreeing - plain, made - plain


class Stopwatch:
    """Counts the CPU seconds that a network takes, and the voxels that it gives (those of its halo too)."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.seconds = 0.0
        self.voxels = 0
        self.began = 0.0

    def __enter__(self) -> Stopwatch:
        self.hooks = (self.network.register_forward_pre_hook(self.start), self.network.register_forward_hook(self.stop))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def start(self, *_: Any) -> None:
        """Take the time before the network."""
        self.began = time.process_time()

    def stop(self, _: Any, __: Any, made: Any) -> None:
        """Take it after."""
        self.seconds += time.process_time() - self.began
        self.voxels += made.numel()


def interval(subjects: Sequence[str], values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % interval over subjects."""
    names = sorted(set(subjects))
    means = [float(np.mean([v for s, v in zip(subjects, values, strict=True) if s == name])) for name in names]
    return paired_interval(means, [0.0] * len(means))


def compare(images: Sequence[Image], model: Loaded, other: Loaded, whole: bool) -> tuple[dict[str, Table], dict[str, float]]:
    """Print a row an image and factor; return the tables and the figures."""
    columns = {"image": "", "factor": "", "cubic dB": ".2f", "agreeing spline": "+.2f", other.card["name"]: "+.2f"}
    table = Table({**columns, model.card["name"]: "+.2f", "CPU s a fine megavoxel": ".1f"})
    figures: dict[str, float] = {}
    gains: list[list[Any]] = []
    for factor in FACTORS:
        ours: list[float] = []
        theirs: list[float] = []
        for image in images:
            part = slab(image, whole)
            _, _, other_db = gain_of(other, part, factor)
            with Stopwatch(model.network) as watch:
                cubic_db, agreeing_db, db = gain_of(model, part, factor)
            ours.append(db)
            theirs.append(other_db)
            table.add(image.id, f"{factor:g}", cubic_db, agreeing_db, other_db, db, 1e6 * watch.seconds / watch.voxels)
        subjects = [image.subject for image in images]
        more = [a - b for a, b in zip(ours, theirs, strict=True)]
        for name, values in (("gain", ours), ("srcnn3d", theirs), ("over_srcnn3d", more)):
            mean, low, high = interval(subjects, values)
            figures[f"x{factor:g}_{name}"] = mean
            gains.append([f"{factor:g}", GAINS[name], mean, low, high])
            if name == "gain":
                figures |= {f"x{factor:g}_low": low, f"x{factor:g}_high": high}
                for kind, wanted in (("real", False), ("simulated", True)):
                    rows = [(s, v) for s, v in zip(subjects, values, strict=True) if s.startswith("demo") is wanted]
                    figures |= {f"x{factor:g}_{kind}": interval(*zip(*rows, strict=True))[0]} if rows else {}
    print()
    summary = Table({"factor": "", "gain": "", "dB": "+.2f", "low": "+.2f", "high": "+.2f"})
    for row in gains:
        summary.add(*row)
    return {"images": table, "gains": summary}, figures


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, default=ROOT / "zoo" / "superresolve" / "subslice")
    parser.add_argument("--against", type=Path, default=ROOT / "zoo" / "superresolve" / "srcnn3d")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cohortex-superresolve", help="heads and models")
    parser.add_argument("--proof", default="", help="rows with commas, such as S02,S11, or all")
    parser.add_argument("--steps", type=float, default=1.0, help="by what the steps of each training of a proof are multiplied")
    add_save(parser)
    given = parser.parse_args()
    if given.proof:
        from benchmarks.superresolve_proofs import prove

        prove(given.proof, given.folder, given.steps, given.save)
        return
    run = Run("superresolve", ["numpy", "torch"])
    images = demo_heads(given.folder / "demo", HEADS, kinds=("T1w", "CT"))
    if given.scans.is_dir():
        images = [image_at(s, n, m, b, "test", given.scans / f) for s, n, m, b, f in SCANS["validation"]] + images
    else:
        print(f"no real scans at {given.scans}: heads of the demo only")
    tables, figures = compare(images, loaded(given.model), loaded(given.against), given.whole)
    run.end(tables, figures, given.save)


if __name__ == "__main__":
    main()
