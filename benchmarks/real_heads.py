"""What the networks for any contrast make of real heads that they never saw, and of simulated ones.

    python -m benchmarks.real_heads [--folder zoo/regseg/any_contrast] [--data DIR] [--picture FILE] [--network-alone] [--save FILE]

Labels: Dice of grey matter (cortex, cerebellar cortex, deep nuclei), white matter and ventricles against the FreeSurfer labels of a real
skull-stripped T1, as it is and in contrasts, with noise and slices that it was not acquired with; the four contrasts of another real head
against its own T1; simulated heads of the demo (CT and T1w) against their truth, ventricles among the fluid there. Pairs: mean Dice of the
three after affine start, network, Gauss-Newton, and Gauss-Newton that begins at the network's deformation. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.demo.anatomy import make_head, paint
from cohortex.demo.tissues import ct_contrast, mr_contrast
from cohortex.items import settings_for
from cohortex.measures.segmentation import dice
from cohortex.models.regseg.deform import Prepared, labels_on, prepare
from cohortex.models.regseg.grid import Displacement, Grid, resample

FREESURFER = {
    2: (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58),
    3: (2, 41, 7, 46, 77, 85, 251, 252, 253, 254, 255),
    7: (4, 43, 5, 44, 14, 15, 72),
}
"""Codes of FreeSurfer's table by class: cortex of cerebrum and cerebellum and the deep nuclei; white matter of both; ventricles. The brain
stem (16) and the ventral diencephalon (28, 60) are a mixture of both matters and count for neither."""
MIXED = (16, 28, 60)
GREY, WHITE, FLUID, VENTRICLES = 2, 3, 1, 7
METHODS = {
    "network": {"method": "network", "refine_with": "steps", "refine_steps": 0},
    "gauss_newton": {"method": "gauss_newton"},
    "both": {"method": "network", "refine_with": "gauss_newton"},
}


@dataclass(frozen=True)
class Scan:
    """A head: array and affine, modality, and what is known of its classes (0 where nothing; 255 counts for nothing)."""

    name: str
    array: np.ndarray
    affine: np.ndarray
    modality: str
    known: np.ndarray


def real_t1(data: Path) -> Scan | None:
    """Return the T1 with FreeSurfer labels; its axes run to the left, down and to the front."""
    path = data / "brain-t1-labels" / "subject_a.npz"
    if not path.is_file():
        return None
    with np.load(path) as found:
        array, codes = found["vol"].astype(np.float32), found["seg"].astype(int)
    known = np.zeros(codes.shape, np.uint8)
    for value, members in FREESURFER.items():
        known[np.isin(codes, members)] = value
    known[np.isin(codes, MIXED)] = 255
    affine = np.eye(4)
    affine[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    return Scan("real T1", array, affine, "T1w", known)


def altered(scan: Scan) -> list[Scan]:
    """Return a scan with its contrast inverted, as of a T2, with noise, and in slices of 5 mm."""
    from cohortex.training.contrasts import thick_slices

    array, brain = scan.array, scan.array > 0
    rng = np.random.default_rng(7)
    top = np.float32(np.percentile(array[brain], 99.5))
    unit = np.clip(array / top, 0, 1)
    noise = [np.float32(0.06) * rng.standard_normal(array.shape, dtype=np.float32) for _ in range(2)]
    made = {
        "inverted": np.where(brain, 1.05 - unit, 0),
        "of gamma 0.5": np.sqrt(unit),
        "6 % noise": np.hypot(unit + noise[0], noise[1]) * brain,
        "5 mm axial slices": thick_slices(unit, 1, 5.0),
        "5 mm coronal slices": thick_slices(unit, 2, 5.0),
    }
    names = {"inverted": "T2w"}
    return [
        Scan(f"{scan.name}, {how}", values.astype(np.float32), scan.affine, names.get(how, "T1w"), scan.known)
        for how, values in made.items()
    ]


def multimodal(data: Path) -> list[Scan]:
    """Return the contrasts of one real head, nothing known of them."""
    import nibabel as nib

    found = []
    for file, modality in (("T1", "T1w"), ("T1post", "T1w"), ("T2", "T2w"), ("FLAIR", "FLAIR")):
        path = data / "brain-ms-multimodal" / "patient07" / f"{file}.nii.gz"
        if path.is_file():
            image: Any = nib.as_closest_canonical(nib.load(path))  # type: ignore[arg-type]
            array = np.maximum(np.asarray(image.dataobj, np.float32), 0)
            found.append(Scan(f"real head, {file}", array, image.affine, modality, np.zeros(array.shape, np.uint8)))
    return found


def simulated(seed: int) -> list[Scan]:
    """Return a simulated person's T1w and CT with the demo's labels, 1.2 mm, 3 % noise and 6 HU."""
    rng = np.random.default_rng([seed, 31])
    diagnosis = ("control", "tumour", "lesions")[seed % 3]
    head = make_head({"diagnosis": diagnosis, "age": float(rng.uniform(25, 85))}, rng)
    shape, affine = (144, 184, 150), np.diag([1.2, 1.2, 1.2, 1.0])
    affine[:3, 3] = [-86, -128, -82]
    scans = []
    for modality, contrast in (("T1w", mr_contrast(rng)), ("CT", ct_contrast(rng))):
        values, labels = paint(head, affine, shape, contrast, np.eye(4))
        noise = 6.0 if modality == "CT" else 0.03 * float(np.percentile(values, 99))
        values = values + np.float32(noise) * rng.standard_normal(shape, dtype=np.float32)
        scans.append(Scan(f"simulated {seed} ({diagnosis}), {modality}", values, affine, modality, labels))
    return scans


@dataclass
class Model:
    """The folder's networks."""

    card: dict[str, Any]
    segment: Any
    register: Any
    follow: bool = True

    def soft(self, scan: Scan) -> tuple[Any, Grid, Prepared]:
        """Return the class probabilities of a scan, their grid, and the scan prepared."""
        from cohortex.models.regseg.segment import class_probabilities
        from cohortex.models.regseg.tissues import followed

        ready = prepare(scan.array, scan.affine, scan.modality)
        box = ready.box(float(self.card["extra"]["segment_spacing_mm"]))
        values = ready.on(box)
        soft, _ = class_probabilities(self.segment, values, len(self.card["classes"]))
        return (followed(soft, values, float(box.spacing[0]), self.card) if self.follow else soft), box, ready


def loaded(folder: Path) -> Model:
    """Return the networks of a folder."""
    from cohortex.inference import channels_last
    from cohortex.models.folder import load_network, read_card

    return Model(read_card(folder), channels_last(load_network(folder, "cpu", "segment.any")), load_network(folder, "cpu", "register"))


def scores(found: np.ndarray, known: np.ndarray) -> list[float | None]:
    """Return the Dice of grey matter, white matter and ventricles (of all fluid where no ventricles are known); others are left out."""
    found, known = np.where(known == 255, 0, found), np.where(known == 255, 0, known)
    fluid = VENTRICLES if (known == VENTRICLES).any() else FLUID
    if fluid == FLUID:
        found = np.where(found == VENTRICLES, FLUID, found)
    every = dice(known, found, [GREY, WHITE, fluid])
    return [every[GREY], every[WHITE], every[fluid]]


def pairs(model: Model, scans: list[tuple[Scan, Scan]], table: Table) -> list[tuple[float, ...]]:
    """Register pairs by every method; return the mean Dice after the affine start and after each."""
    from cohortex.models.regseg.register import register

    section = yaml.safe_load((ROOT / "config.yaml").read_text())["regseg"]
    rows = []
    for fixed, moving in scans:
        settings = settings_for(section, moving.modality)
        here, there = (prepare(s.array, s.affine, s.modality) for s in (fixed, moving))
        grid = Grid(tuple(fixed.array.shape), fixed.affine)  # pyright: ignore[reportArgumentType]

        def overlap(matrix: np.ndarray, displacement: Displacement | None, f: Scan = fixed, m: Scan = moving, g: Grid = grid) -> float:
            moved = resample(m.known, m.affine, g, matrix, displacement, mode="nearest", outside=0.0)
            values = [v for v in dice(f.known, moved, [GREY, WHITE, VENTRICLES, FLUID]).values() if not np.isnan(v)]
            return float(np.mean(values))

        row: list[float] = []
        for name, deformable in METHODS.items():
            wanted = {**settings, "deformable": {**settings["deformable"], **deformable}}
            network = None if name == "gauss_newton" else model.register
            spacing = None if name == "gauss_newton" else float(model.card["extra"]["working_spacing_mm"])
            result = register(here, there, "affine", wanted, network, spacing)
            row = row or [overlap(result.matrix, None)]
            row.append(overlap(result.matrix, result.displacement))
        table.add(f"{moving.name} to {fixed.name}", *row)
        rows.append(tuple(row))
    return rows


def picture(path: Path, shown: list[tuple[Scan, np.ndarray]]) -> None:
    """Write slices of scans and their labels side by side."""
    from PIL import Image as Picture

    colours = np.array(
        [[0, 0, 0], [60, 90, 200], [220, 140, 60], [240, 240, 230], [150, 150, 90], [170, 80, 90], [230, 40, 40], [40, 220, 230]]
    )
    rows = []
    for scan, labels in shown:
        tiles = []
        for axis in range(3):
            middle = scan.array.shape[axis] // 2
            plane, marks = np.take(scan.array, middle, axis), np.take(labels, middle, axis)
            low, high = (-50, 100) if scan.modality == "CT" else (0, float(np.percentile(scan.array, 99.7)))
            grey = np.repeat(np.clip((plane - low) / (high - low), 0, 1)[..., None] * 255, 3, axis=2)
            for tile in (grey, colours[marks]):
                square = np.zeros((240, 240, 3), np.uint8)
                part = tile.transpose(1, 0, 2)[::-1][:240, :240]
                square[: part.shape[0], : part.shape[1]] = part
                tiles.append(square)
        rows.append(np.concatenate(tiles, axis=1))
    Picture.fromarray(np.concatenate(rows).astype(np.uint8)).save(path)


def main() -> None:
    """Label and register, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "zoo" / "regseg" / "any_contrast")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--heads", type=int, default=3, help="simulated people")
    parser.add_argument("--picture", type=Path, help="write the labels to this PNG")
    parser.add_argument("--quick", action="store_true", help="labels of the real T1, the other real head and one simulated person only")
    parser.add_argument("--network-alone", action="store_true", help="labels as the network says, without the image's intensities")
    add_save(parser)
    options = parser.parse_args()
    run = Run("real_heads", ("torch", "numpy", "scipy"))
    model = replace(loaded(options.folder), follow=not options.network_alone)
    real = real_t1(options.data)
    several = multimodal(options.data)
    people = [simulated(seed) for seed in range(1 if options.quick else options.heads)]
    labels = Table({"Scan": "", "against": "", "grey matter": ".3f", "white matter": ".3f", "ventricles or fluid": ".3f", "CPU s": ".1f"})
    figures: dict[str, float] = {}
    shown: list[tuple[Scan, np.ndarray]] = []

    def labelled(scan: Scan, known: np.ndarray | None, against: str) -> np.ndarray:
        started = time.process_time()
        soft, box, _ = model.soft(scan)
        found = np.asarray(labels_on(Grid(tuple(scan.array.shape), scan.affine), soft, box))  # pyright: ignore[reportArgumentType]
        seconds = time.process_time() - started
        values = scores(found, found if known is None else known)
        shown.append((scan, found))
        labels.add(scan.name, against, *([None] * 3 if known is None else values), seconds)
        if scan.name == "real T1":
            figures.update(zip(("real_gm_dice", "real_wm_dice", "real_ventricle_dice"), map(float, values), strict=True))  # pyright: ignore
        return found

    if real is not None:
        for scan in [real] if options.quick else [real, *altered(real)]:
            labelled(scan, scan.known, "FreeSurfer")
    else:
        print("the real T1 with labels is not there (--data)")
    first: np.ndarray | None = None
    for scan in several:
        found = labelled(scan, first, "labels of its T1")
        first = found if first is None else first
        if first is not found:
            name = f"consistency_{scan.name.rsplit(' ', 1)[1].lower()}"
            figures[name] = float(np.mean(np.array(scores(found, first), float)))
    by_modality: dict[str, list[list[float | None]]] = {"T1w": [], "CT": []}
    for scan in [s for person in people for s in person]:
        by_modality[scan.modality].append(scores(labelled(scan, scan.known, "truth"), scan.known))
    for modality, rows in by_modality.items():
        figures[f"simulated_{modality.lower()}_dice"] = float(np.mean(np.array(rows, float)))
    if options.picture is not None:
        picture(options.picture, shown)
    deformed = Table({"Pair": "", "affine": ".3f", "network": ".3f", "Gauss-Newton": ".3f", "both": ".3f"})
    if not options.quick:
        wanted = [(people[k][0], people[(k + 1) % len(people)][1]) for k in range(len(people))]
        if real is not None:
            wanted += [(real, scan) for scan in template_scan(real)]
        means = np.mean(pairs(model, wanted, deformed), axis=0)
        figures.update(zip(("pairs_affine", "pairs_network", "pairs_gauss_newton", "pairs_both"), map(float, means), strict=True))
    run.end({"labels": labels, "pairs": deformed}, figures, options.save)


def template_scan(real: Scan) -> list[Scan]:
    """Return the MNI152 T1 with the classes that its tissue maps give, as it is and inverted; only those classes that `real` has, too."""
    from cohortex.demo.template import ORIGIN_MM, _canvas

    t1, grey, white = (_canvas(name) for name in ("t1", "gm", "wm"))
    affine = np.eye(4)
    affine[:3, 3] = ORIGIN_MM
    known = np.where(np.maximum(grey, white) > 100, np.where(white > grey, WHITE, GREY), 0).astype(np.uint8)
    inverted = np.where(t1 > 0, 260.0 - t1, 0)
    return [
        Scan("MNI152 T1", t1.astype(np.float32), affine, "T1w", known),
        Scan("MNI152, inverted", inverted.astype(np.float32), affine, "T2w", known),
    ]


if __name__ == "__main__":
    main()
