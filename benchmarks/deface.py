"""Whether the stage deface leaves the brain whole and takes the face away.

    python -m benchmarks.deface [--data DIR] [--subjects 3] [--seed 2027] [--save FILE]

Simulated heads (T1w and CT) of another seed than those that the stage was made with, whose brain and pose are known: what share of the
true brain was removed, and what share of the skin, seen from in front along the head's true axes, is where it was. Real heads of the folder
of test data, where it is there: the share of the brain's mask that was removed (the data set's own mask, brought to each scan by its own
transforms, where there is one), and the skin along the axes that the stage found. The figures are the worst of all heads. Last line:
FIGURE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex import faces
from cohortex.demo.anatomy import make_head
from cohortex.demo.scans import ct_scan, mr_scan
from cohortex.demo.table import traits
from cohortex.io import read
from cohortex.io.geometry import to_ras
from cohortex.items import Image
from cohortex.models.regseg.grid import COARSE_MM, body_level, reduced
from cohortex.stages.deface import deface, load
from cohortex.volume import Volume

WEIGHTS = "zoo/regseg/any_contrast"
MS = "brain-ms-longitudinal"
REAL = {
    f"{MS}/patient01/raw/study1_T1W.nii.gz": "T1w",
    f"{MS}/patient01/raw/study1_T2W.nii.gz": "T2w",
    f"{MS}/patient01/raw/study1_FLAIR.nii.gz": "FLAIR",
    f"{MS}/patient01/raw/study2_T1W.nii.gz": "T1w",
    f"{MS}/patient01/raw/study2_T2W.nii.gz": "T2w",
    f"{MS}/patient01/raw/study2_FLAIR.nii.gz": "FLAIR",
    f"{MS}/patient20/raw/study2_T1W.nii.gz": "T1w",
    f"{MS}/patient20/raw/study2_FLAIR.nii.gz": "FLAIR",
    "lesion-nrrd/brain1_image.nrrd": "T1w",
}
"""Below the folder of test data: heads with some of their face."""
SHAVED = frozenset(("FLAIR",))
"""Contrasts that suppress the fat of the skin, so that rays from in front end somewhere below it: they count for no figure of faces."""


@dataclass(frozen=True)
class Head:
    """A scan, points of its brain (world, mm) and the pose of the template in its world, where they are known."""

    name: str
    volume: Volume
    brain_mm: np.ndarray | None
    pose: np.ndarray | None


def simulated(subjects: int, seed: int) -> Iterator[Head]:
    """Yield the scans of simulated subjects, without noise, with what is true about them."""
    for number in range(1, subjects + 1):
        name = f"demo{number:03d}"

        def stream(what: str, name: str = name) -> np.random.Generator:
            return np.random.default_rng([seed, *what.encode(), *name.encode()])

        head = make_head(traits(name, seed), stream("head"))
        for modality, scan in (("T1w", mr_scan(head, stream("mr"))), ("CT", ct_scan(head, stream("ct")))):
            points = world(np.isin(scan.labels, (2, 3, 6)), scan.affine)
            volume = Volume(scan.clean.astype(np.float32), scan.affine, modality, body_part="head")
            yield Head(f"simulated {number}, {modality}", volume, points, scan.pose)


def real(data: Path) -> Iterator[Head]:
    """Yield the real scans that are there."""
    for file, modality in REAL.items():
        path = data / file
        if path.is_file():
            volume = read(path)[0]
            array, affine = to_ras(np.asarray(volume.data[...], dtype=np.float32), volume.affine)
            parts = path.name.split(".")[0].split("_")
            name = f"{path.parts[-3]}, {parts[0]}, {modality}" if MS in file else f"contrast-enhanced, slices of 6.5 mm, {modality}"
            known = masked(path) if MS in file else None
            yield Head(name, Volume(np.ascontiguousarray(array), affine, modality, body_part="head"), known, None)


def masked(scan: Path) -> np.ndarray | None:
    """Return points of the data set's brain mask in a scan's world, mm RAS, by its transforms (common to FLAIR, FLAIR to scan)."""
    import SimpleITK

    mask = read(scan.parents[1] / "coregistered" / "brainmask.nii.gz")[0]
    study, contrast = scan.name.split(".")[0].split("_")
    ways = [scan.parent / f"{study}_FLAIR_to_common_space.txt"]
    ways += [scan.parent / f"{study}_{contrast}_intrastudy_to_FLAIR.txt"] if contrast != "FLAIR" else []
    if not all(way.is_file() for way in ways):
        return None
    points = world(np.asarray(mask.data[...]) > 0, mask.affine)[::7] * (-1, -1, 1)
    for way in ways:
        transform = SimpleITK.ReadTransform(str(way))
        points = np.array([transform.TransformPoint(point) for point in points.tolist()])
    return points * (-1, -1, 1)


def world(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return the world's coordinates of a mask's voxels, (n, 3) mm."""
    return np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]


def left_percent(before: np.ndarray, after: np.ndarray, volume: Volume, matrix: np.ndarray) -> tuple[float, int]:
    """Return the share of the face's skin that two images have alike along given axes, and the number of rays that met skin."""
    small, _ = reduced(before, volume.affine, COARSE_MM)
    level = body_level(small, volume.modality) or 0.0
    nothing = np.full(faces.canvas().shape, -1, np.float32)
    one, other = (faces.seen_from_in_front(array, volume.affine, level, nothing, matrix) for array in (before, after))
    return faces.Seen(one.before, other.before, one.face).left_percent, one.rays


def measured(head: Head, settings: dict[str, Any], model: Any) -> dict[str, float]:
    """Deface a head and return what was removed of its brain, what is left of its face, and how long it took."""
    volume = head.volume
    image = Image("1_x", "1", "", volume.modality, "image", body_part="head", opener=lambda: volume)
    start = time.monotonic()
    made = deface(image, settings, model, 1)
    seconds = time.monotonic() - start
    assert isinstance(made.content, Volume)
    before, after = volume.array(), made.content.array()
    matrix = np.array(made.content.history[-1]["template_to_image"])
    left, rays = left_percent(before, after, volume, matrix if head.pose is None else head.pose)
    found = {"told": made.measures["removed_brain_percent"], "left": left, "rays": rays, "seconds": seconds, "brain": float("nan")}
    if head.brain_mm is not None:
        deep = faces.region(settings["margin_mm"], settings["ears"])
        inverse = np.linalg.inv(matrix)
        places = head.brain_mm @ inverse[:3, :3].T + inverse[:3, 3]
        found["brain"] = 100 * float((faces.depth_at(deep, places) > 0).mean())
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2027, help="of the simulated heads; the stage was made with those of 7")
    add_save(parser)
    asked = parser.parse_args()
    run = Run("deface", ["numpy", "torch", "SimpleITK"])
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())["deface"]["default"]
    model = load({"default": settings}, {WEIGHTS: ROOT / WEIGHTS}, "cpu")
    columns = {"brain removed, %": ".3f", "by the stage's own check, %": ".2f", "skin of the face left, %": ".1f", "rays": "", "s": ".1f"}
    table = Table({"head": "", **columns})
    worst: dict[str, list[float]] = {"simulated_brain": [], "real_brain": [], "simulated_face": [], "real_face": []}
    times = []
    for kind, heads in (("simulated", simulated(asked.subjects, asked.seed)), ("real", real(asked.data))):
        for head in heads:
            found = measured(head, settings, model)
            cells = (found[name] for name in ("brain", "told", "left", "rays", "seconds"))
            table.add(head.name, *(None if isinstance(cell, float) and np.isnan(cell) else cell for cell in cells))
            times.append(found["seconds"])
            if not np.isnan(found["brain"]):
                worst[f"{kind}_brain"].append(found["brain"])
            if head.volume.modality not in SHAVED:
                worst[f"{kind}_face"].append(found["left"])
    names = {"brain": "brain_removed_percent", "face": "face_left_percent"}
    figures = {f"{key.split('_')[0]}_{names[key.split('_')[1]]}": max(values) for key, values in worst.items() if values}
    run.end({"heads": table}, {**figures, "head_seconds": float(np.median(times))}, asked.save)


if __name__ == "__main__":
    main()
