"""What each stage gains over doing nothing, from the kept folders of a demo run and the truth beside it (see benchmarks.demo)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from cohortex.filters.resample import resample_to
from cohortex.io.ozx import read_ozx
from cohortex.measures.image_quality import psnr
from cohortex.measures.intervals import paired_interval
from cohortex.measures.registration import moved_points, tre_mm
from cohortex.measures.segmentation import dice
from cohortex.tables import read_table
from cohortex.volume import Volume
from cohortex.worker import open_content

TISSUES = (1, 2, 3, 4, 5)


def truth(path: Path, kind: str = "image") -> Volume:
    """Read a truth volume in RAS order."""
    image = nib.as_closest_canonical(nib.load(path))
    return Volume(np.asarray(image.dataobj), image.affine, kind=kind)  # type: ignore[arg-type]


def fitted(image: np.ndarray, reference: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return an image on the reference's scale (least squares, gain and offset, inside the head)."""
    gain, offset = np.polyfit(image[inside].astype(np.float64), reference[inside].astype(np.float64), 1)
    return (gain * image + offset).astype(np.float32)


def head_psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the PSNR in dB inside the head, range that of the reference there."""
    inside = reference > 0.1 * np.percentile(reference, 99)
    if reference.min() < -500:
        inside = reference > -300
    low, high = np.percentile(reference[inside], (0.5, 99.5))
    return float(psnr(fitted(image, reference, inside)[inside], reference[inside], data_range=float(high - low)))


def subjects_of(work: Path) -> list[tuple[str, str]]:
    """Return subject and batch."""
    return [(row["subject"], row["batch"]) for row in read_table(work / "cohort" / "batches.tsv")]


def table(name: str, before: list[float], after: list[float], unit: str) -> tuple[float, float]:
    """Print and return a paired mean gain and the lower end of its interval."""
    mean, low, high = paired_interval(np.array(after), np.array(before), seed=0)
    print(
        f"{name:28s} {np.mean(before):8.3f} -> {np.mean(after):8.3f} {unit:5s} gain {mean:+.3f} [{low:+.3f}, {high:+.3f}]  n={len(before)}"
    )
    return float(mean), float(low)


def denoise_psnr(work: Path, subject: str, batch: str, suffix: str) -> tuple[float, float]:
    """Return the PSNR before and after denoise against the noise-free scan, carried through the same preprocessing."""
    name = f"{subject}_{suffix}.ozx"
    acquired, before, after = (read_ozx(work / stage / batch / name).array(np.float32) for stage in ("acquire", "preprocess", "denoise"))
    clean = truth(work / "demo" / batch / "derivatives" / "truth" / subject / f"{suffix}_clean.nii.gz").array(np.float32)
    if suffix == "CT":
        reference = clean
    else:
        # Preprocessing multiplies by a smooth field and a scale: their product is what it did to the acquired scan.
        factor = np.divide(before, acquired, out=np.zeros_like(before), where=np.abs(acquired) > 1e-6 * np.abs(acquired).max())
        reference = clean * factor
    return head_psnr(before, reference), head_psnr(after, reference)


def superresolve_psnr(work: Path, subject: str, batch: str) -> tuple[float, float]:
    """Return the PSNR of trilinear interpolation and of superresolve against the noise-free fine MR."""
    name = f"{subject}_T1w.ozx"
    thick, fine = (read_ozx(work / stage / batch / name) for stage in ("denoise", "superresolve"))
    reference = truth(work / "demo" / batch / "derivatives" / "truth" / subject / "T1w_truth.nii.gz")
    acquired, before = (read_ozx(work / stage / batch / name) for stage in ("acquire", "preprocess"))
    low, high = acquired.array(np.float32), before.array(np.float32)
    factor = np.divide(high, low, out=np.zeros_like(high), where=np.abs(low) > 1e-6 * np.abs(low).max())
    on_fine = resample_to(reference, fine).array(np.float32) * resample_to(before.with_data(factor), fine).array(np.float32)
    linear = resample_to(thick, fine, order="linear").array(np.float32)
    return head_psnr(linear, on_fine), head_psnr(fine.array(np.float32), on_fine)


def warped_points(work: Path, subject: str, batch: str, points: np.ndarray) -> np.ndarray:
    """Map points of the fixed world to the moving world with what regseg wrote."""
    folder = work / "regseg" / batch
    matrix = open_content(folder / f"{subject}_CT+affine.json", "transform")
    field_file = folder / f"{subject}_CT+field.ozx"
    if not field_file.is_file():
        return moved_points(points, matrix)
    field = read_ozx(field_file)
    return moved_points(points, matrix, field.array(np.float32), field.affine)


def regseg_measures(work: Path, subject: str, batch: str) -> dict[str, tuple[float, float]]:
    """Return Dice of the true labels (CT warped to T1w) and TRE of the landmarks, before and after."""
    from scipy.ndimage import map_coordinates

    folder = work / "demo" / batch / "derivatives" / "truth" / subject
    marks = read_table(folder / "landmarks.tsv")
    columns = list(marks[0])
    fixed = np.array([[float(row[c]) for c in columns if c.endswith("_t1w")] for row in marks])
    moving = np.array([[float(row[c]) for c in columns if c.endswith("_ct")] for row in marks])
    errors = [float(tre_mm(points, moving).mean()) for points in (fixed, warped_points(work, subject, batch, fixed))]
    target, source = truth(folder / "labels_T1w.nii.gz", "labels"), truth(folder / "labels_CT.nii.gz", "labels")
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in target.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    world = grid @ target.affine[:3, :3].T + target.affine[:3, 3]
    inverse, scores = np.linalg.inv(source.affine), []
    for points in (world, warped_points(work, subject, batch, world)):
        voxel = (inverse[:3, :3] @ points.T) + inverse[:3, 3:]
        warped = map_coordinates(source.array(), voxel, order=0, mode="constant", cval=0).reshape(target.shape)
        values = dice(warped, target.array(), TISSUES)
        scores.append(float(np.nanmean([values[label] for label in TISSUES])))
    return {"tre": (errors[0], errors[1]), "dice": (scores[0], scores[1])}


def seg_dice(work: Path, subject: str, batch: str, suffix: str) -> float:
    """Return the mean Dice of a segmentation against the true labels, on the segmentation's grid."""
    found = read_ozx(work / "regseg" / batch / f"{subject}_{suffix}+seg.ozx")
    labels = truth(work / "demo" / batch / "derivatives" / "truth" / subject / f"labels_{suffix}.nii.gz", "labels")
    values = dice(found.array(), resample_to(labels, found).array(), TISSUES)
    return float(np.nanmean([values[label] for label in TISSUES]))


def measure(work: Path) -> dict[str, float]:
    """Return the figures of a run whose folders were kept."""
    cohort = subjects_of(work)

    def both(function: Callable[..., tuple[float, float]], *arguments: str) -> list[list[float]]:
        values = [function(work, subject, batch, *arguments) for subject, batch in cohort]
        return [[value[0] for value in values], [value[1] for value in values]]

    mr, ct = both(denoise_psnr, "T1w"), both(denoise_psnr, "CT")
    table("denoise T1w PSNR", mr[0], mr[1], "dB")
    table("denoise CT PSNR", ct[0], ct[1], "dB")
    joined = [[(a + b) / 2 for a, b in zip(mr[i], ct[i], strict=True)] for i in range(2)]
    denoise_gain, denoise_low = table("denoise PSNR (both)", joined[0], joined[1], "dB")
    fine = both(superresolve_psnr)
    super_gain, super_low = table("superresolve T1w PSNR", fine[0], fine[1], "dB")
    pairs = [regseg_measures(work, subject, batch) for subject, batch in cohort]
    overlap = [[p["dice"][i] for p in pairs] for i in range(2)]
    dice_gain, dice_low = table("regseg Dice CT on T1w", overlap[0], overlap[1], "")
    tre = [[p["tre"][i] for p in pairs] for i in range(2)]
    table("regseg TRE, after -> before", tre[1], tre[0], "mm")
    for suffix in ("T1w", "CT"):
        scores = [seg_dice(work, subject, batch, suffix) for subject, batch in cohort]
        print(f"segmentation {suffix} Dice {np.mean(scores):.3f} (5 tissues, n={len(scores)})")
    return {
        "denoise_gain_db": denoise_gain,
        "denoise_gain_low": denoise_low,
        "superres_gain_db": super_gain,
        "superres_gain_low": super_low,
        "regseg_dice_gain": dice_gain,
        "regseg_dice_gain_low": dice_low,
        "tre_before_mm": float(np.mean(tre[0])),
        "tre_after_mm": float(np.mean(tre[1])),
    }
