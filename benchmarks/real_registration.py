"""Registration of real pairs with the shipped settings, held against what the data sets say themselves.

    python -m benchmarks.real_registration [--only visits,prostate,cord]

Data: ../shared/data. MS patients 1 and 20 (rigid transforms of the data set: mean distance of points of the brain, in mm, against the
headers' poses), six prostates in MR and ultrasound (Dice of the gland, distance of landmarks), one spinal cord in T1w and T2w (Dice of
the cord). Against: the headers' poses. CPU seconds of all threads. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import ndimage as ndi

from benchmarks.workflow import ROOT

DATA = ROOT.parent / "shared" / "data"
MODALITY = {"T1W": "T1w", "T2W": "T2w", "FLAIR": "FLAIR"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a NIfTI file in its closest canonical order: float32 array and affine."""
    import nibabel as nib

    image: Any = nib.as_closest_canonical(nib.load(path))  # type: ignore[arg-type]
    return np.asarray(image.dataobj, np.float32), image.affine


def registered(fixed: Path, moving: Path, modalities: tuple[str, str]) -> tuple[np.ndarray, float]:
    """Return the affine from the fixed to the moving world and the CPU seconds that it took."""
    from cohortex.items import settings_for
    from cohortex.models.regseg.deform import prepare
    from cohortex.models.regseg.register import register

    section = yaml.safe_load((ROOT / "config.yaml").read_text())["regseg"]
    here, there = (prepare(*loaded(path), modality) for path, modality in zip((fixed, moving), modalities, strict=True))
    started = time.process_time()
    found = register(here, there, "rigid", settings_for(section, modalities[1]))
    return found.matrix, time.process_time() - started


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return points (n, 3) after an affine."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def itk_matrix(path: Path) -> np.ndarray:
    """Return an ITK affine as a matrix between RAS worlds."""
    import SimpleITK

    transform = SimpleITK.ReadTransform(str(path))
    corners = np.array([transform.TransformPoint(p) for p in ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = (corners[1:] - corners[0]).T, corners[0]
    return LPS @ matrix @ LPS


def overlap(fixed: tuple[np.ndarray, np.ndarray], moving: tuple[np.ndarray, np.ndarray], matrix: np.ndarray) -> float:
    """Return the Dice coefficient of two masks, the moving one brought to the fixed grid."""
    from cohortex.models.regseg.grid import Grid, resample

    here = fixed[0] > 0.5
    there = resample(moving[0], moving[1], Grid(here.shape, fixed[1]), matrix, mode="nearest", outside=0.0) > 0.5
    return float(2 * (here & there).sum() / (here.sum() + there.sum()))


def visits() -> Iterator[tuple[str, float, float, float]]:
    """Give name, distance before and after in mm, CPU seconds: T1w and T2w to the FLAIR of a visit, and visit to visit."""
    for patient, there_are in (("patient01", "12"), ("patient20", "2")):
        raw = DATA / "brain-ms-longitudinal" / patient / "raw"
        mask, affine = loaded(raw.parent / "coregistered" / "brainmask.nii.gz")
        points = moved(np.argwhere(mask > 0)[::977], affine)
        to: dict[tuple[str, str], np.ndarray] = {}
        for visit in there_are:
            to[visit, "FLAIR"] = itk_matrix(raw / f"study{visit}_FLAIR_to_common_space.txt")
            for name in ("T1W", "T2W"):
                if (raw / f"study{visit}_{name}.nii.gz").is_file():
                    to[visit, name] = itk_matrix(raw / f"study{visit}_{name}_intrastudy_to_FLAIR.txt") @ to[visit, "FLAIR"]
        pairs = [((visit, "FLAIR"), (visit, name)) for visit in there_are for name in ("T1W", "T2W") if (visit, name) in to]
        pairs += [(("1", name), ("2", name)) for name in ("T1W", "T2W", "FLAIR")] if len(there_are) == 2 else []
        for fixed, moving in pairs:
            files = [raw / f"study{visit}_{name}.nii.gz" for visit, name in (fixed, moving)]
            matrix, seconds = registered(files[0], files[1], (MODALITY[fixed[1]], MODALITY[moving[1]]))
            here, there = moved(points, to[fixed]), moved(points, to[moving])
            before, after = (float(np.linalg.norm(moved(here, m) - there, axis=1).mean()) for m in (np.eye(4), matrix))
            yield f"{patient} {'-'.join(moving)} to {'-'.join(fixed)}", before, after, seconds


def prostate() -> Iterator[tuple[str, float, float, float]]:
    """Give name, Dice of the gland before and after, CPU seconds of the ultrasound of six prostates brought to their MR by the headers."""
    for name, fixed, moving, glands in prostates():
        matrix, seconds = registered(fixed, moving, ("T2w", "US"))
        one, two = ((np.ascontiguousarray(labels[..., 0]), affine) for labels, affine in glands)
        yield name, overlap(one, two, np.eye(4)), overlap(one, two, matrix), seconds


def prostates() -> Iterator[tuple[str, Path, Path, list[tuple[np.ndarray, np.ndarray]]]]:
    """Give name, files of MR and ultrasound, and of either the labels (X, Y, Z, structure) with the affine; the gland is structure 0."""
    folder = DATA / "prostate-mr-us"
    for case in range(6):
        name, found = f"case{case:06d}.nii.gz", []
        for kind in ("mr", "us"):
            labels, affine = loaded(folder / f"{kind}_labels" / name)
            found.append((labels if labels.ndim == 4 else labels[..., None], affine))
        yield f"prostate {case}", folder / "mr_images" / name, folder / "us_images" / name, found


def outlined() -> Iterator[tuple[str, tuple[float, float], tuple[float, float], float]]:
    """Give name, Dice of the gland and mean distance of landmarks in stored mm before and after, CPU seconds; the MR's gland is outlined.

    The labels of the ultrasound are only looked at to judge.
    """
    from cohortex.registration.region import register_region

    for name, fixed, moving, labels in prostates():
        images = [loaded(path) for path in (fixed, moving)]
        glands = [np.ascontiguousarray(each[..., 0]) > 0.5 for each, _ in labels]
        size = float(images[0][1][0, 0])
        started = time.process_time()
        found = register_region(images[0][0], images[1][0], glands[0])
        seconds = time.process_time() - started

        def judged(matrix: np.ndarray, displacement: np.ndarray, glands=glands, labels=labels, size=size) -> tuple[float, float]:
            places = np.indices(glands[0].shape) + displacement
            there = np.tensordot(matrix[:3, :3], places, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
            gland = ndi.map_coordinates(glands[1].astype(np.float32), there, order=1) > 0.5
            marks = []
            for n in range(1, labels[0][0].shape[3]):
                here, away = (np.array(ndi.center_of_mass(each[..., n] > 0.5)) for each, _ in labels)
                at = np.array([ndi.map_coordinates(t, here[:, None], order=1)[0] for t in there])
                marks.append(float(np.linalg.norm(at - away)) * size)
            return float(2 * (glands[0] & gland).sum() / (glands[0].sum() + gland.sum())), float(np.mean(marks)) if marks else np.nan

        yield name, judged(found.start, np.zeros_like(found.displacement)), judged(found.matrix, found.displacement), seconds


def cord() -> Iterator[tuple[str, float, float, float]]:
    """Give name, Dice of the cord before and after, CPU seconds of the T2w of a neck brought to its T1w."""
    folder = DATA / "spinal-cord-mr"
    matrix, seconds = registered(folder / "t1" / "t1w.nii.gz", folder / "t2" / "t2.nii.gz", ("T1w", "T2w"))
    masks = [loaded(folder / path) for path in ("t1/t1w_seg-manual.nii.gz", "t2/t2_seg-manual.nii.gz")]
    yield "cord T2w to T1w", overlap(masks[0], masks[1], np.eye(4)), overlap(masks[0], masks[1], matrix), seconds


def main() -> None:
    """Run what was asked for and print a line a pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="visits,prostate,cord")
    figures = []
    for part in parser.parse_args().only.split(","):
        rows = []
        for name, before, after, seconds in {"visits": visits, "prostate": prostate, "cord": cord}[part]():
            print(f"{name:32s} {before:6.3f} -> {after:6.3f}  {seconds:5.1f} CPU s", flush=True)
            rows.append((before, after))
        before, after = np.mean(rows, axis=0)
        unit = "mm" if part == "visits" else "dice"
        figures += [f"{part}_{unit}_before={before:.3f}", f"{part}_{unit}_after={after:.3f}"]
    print("FIGURE", *figures)


if __name__ == "__main__":
    main()
