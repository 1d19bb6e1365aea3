"""Known warps of heads for `benchmarks.registration`: simulated ones, and real ones where the folder of test data is there.

Heads are the demo's anatomy as T1 and as CT, painted on one grid; a real brain with FreeSurfer labels (subject_a, T1, 1 mm), whose other
contrasts are maps of its own; and a real brain whose contrasts lie on one grid (patient07, T1, T2 and FLAIR, 1 mm, lesions). Each is
deformed by random displacements of three generators (cubic B-spline with knots 22 mm apart, Gaussian-smoothed noise, exponential of a
smoothed velocity by scaling and squaring), none of them the model's own grid, of 3.5 mm in the mean where the head is; the smallest
Jacobian is kept above 0.2. Fixed is the deformed T1, moving the other one; both have 1 % noise.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage as ndi

from cohortex.filters.gaussian import gaussian
from cohortex.registration.fields import exponential, least_jacobian

MEAN_MM = 3.5
LEAST_JACOBIAN = 0.2
SIZE = (160, 192, 160)
"""Voxels of a whole head, of 1 mm."""
GENERATORS = ("bspline", "smooth", "velocity")
KINDS = ("mono", "multi", "bias", "local")
"""One contrast, the moving one with another gamma and a bias field of 30 %; another contrast; the same with that bias field; two other
contrasts mixed by place, so that no relation of intensities holds everywhere."""


@dataclass(frozen=True)
class Head:
    """Images of one head on one grid, (X, Y, Z) float32 within 0 and 1, and its labels."""

    name: str
    t1: np.ndarray
    other: np.ndarray
    third: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Pair:
    """Two images of one grid, the truth between them (3, X, Y, Z) in voxels of 1 mm, where it counts, and the moving one's labels."""

    name: str
    kind: str
    fixed: np.ndarray
    moving: np.ndarray
    truth: np.ndarray
    head: np.ndarray
    labels: np.ndarray


def displacement(head: np.ndarray, generator: str, rng: np.random.Generator) -> np.ndarray:
    """Return a random displacement (3, X, Y, Z) in voxels of 1 mm."""
    shape = head.shape
    if generator == "bspline":
        coarse = rng.standard_normal((3, *(int(np.ceil(n / 22)) + 3 for n in shape)))
        places = np.meshgrid(*(np.arange(n) / 22 + 1 for n in shape), indexing="ij")
        u = np.stack([ndi.map_coordinates(c, places, order=3, prefilter=False, mode="nearest") for c in coarse])
    else:
        sigma = 9.0 if generator == "smooth" else 11.0
        u = np.stack([gaussian(n, (1.0, 1.0, 1.0), sigma) for n in rng.standard_normal((3, *shape), dtype=np.float32)])
    u = (u / np.linalg.norm(u, axis=0)[head].mean() * MEAN_MM).astype(np.float32)
    found = exponential(u) if generator == "velocity" else u
    while least_jacobian(found) < LEAST_JACOBIAN:
        u = u * np.float32(0.9)
        found = exponential(u) if generator == "velocity" else u
    return found


def heads(scans: Path, crop: int, simulated: int, seed: int) -> Iterator[Head]:
    """Yield simulated heads, then real ones as far as they are there."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.table import DIAGNOSES
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    shape = (min(SIZE[0], crop), min(SIZE[1], crop), min(SIZE[2], crop))
    for number in range(simulated):
        rng = np.random.default_rng([seed, number])
        head = make_head({"diagnosis": DIAGNOSES[number % len(DIAGNOSES)], "age": int(rng.integers(22, 85))}, rng)
        affine = np.eye(4)
        affine[:3, 3] = np.array([0.0, -10.0, 20.0]) - (np.array(shape) - 1) / 2
        t1, labels = paint(head, affine, shape, mr_contrast(rng), np.eye(4))
        ct, _ = paint(head, affine, shape, ct_contrast(rng), np.eye(4))
        # A window from air to bone that still tells soft tissues apart, as the stage's own working images have it.
        ct = np.interp(ct, [-1000, -100, 120, 1500], [0, 0.2, 0.7, 1]).astype(np.float32)
        t1 = scaled(t1)
        yield Head(f"simulated {number}", t1, ct, third_contrast(t1), labels)
    path = scans / "brain-t1-labels" / "subject_a.npz"
    if path.is_file():
        arrays = np.load(path)
        t1, labels = scaled(arrays["vol"]), arrays["seg"].astype(np.int32)
        part = middle(t1, shape)
        t1 = np.ascontiguousarray(t1[part])
        other = np.interp(t1, [0, 0.1, 0.3, 0.5, 0.7, 0.85, 1], [0, 0.9, 0.3, 0.8, 0.45, 0.65, 0.2]).astype(np.float32)
        yield Head("subject_a", t1, other, third_contrast(t1), np.ascontiguousarray(labels[part]))
    else:
        print(f"{path.name} is absent", file=sys.stderr)
    folder = scans / "brain-ms-multimodal" / "patient07"
    if folder.is_dir():
        t1, t2, flair = (scaled(np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj)) for name in ("T1", "T2", "FLAIR"))  # type: ignore[attr-defined]
        part = middle(t1, shape)
        t1, t2, flair = (np.ascontiguousarray(x[part]) for x in (t1, t2, flair))
        # No labels come with it: a split of both contrasts into four and three ranges, which is what a tissue map would be made of.
        labels = np.where(t1 > 0.05, 1 + 3 * np.digitize(t1, np.quantile(t1[t1 > 0.05], [0.25, 0.5, 0.75])), 0)
        labels = labels + (labels > 0) * np.digitize(t2, np.quantile(t2[t1 > 0.05], [0.33, 0.67]))
        yield Head("patient07", t1, t2, flair, ndi.median_filter(labels.astype(np.int32), 3))
    else:
        print(f"{folder.name} is absent", file=sys.stderr)


def middle(image: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """Return the part of an image around the middle of what is bright in it, not larger than it is."""
    bright = np.argwhere(image > 0.1)
    size = np.minimum(shape, image.shape)
    first = np.clip((bright.min(0) + bright.max(0)) // 2 - size // 2, 0, np.array(image.shape) - size)
    return tuple(slice(int(a), int(a + n)) for a, n in zip(first, size, strict=True))


def scaled(image: np.ndarray) -> np.ndarray:
    """Return an image between 0 and its 99.5th percentile, which becomes 1."""
    image = np.asarray(image, np.float32)
    return np.clip(image / np.float32(np.percentile(image, 99.5)), 0, 1)


def third_contrast(t1: np.ndarray) -> np.ndarray:
    """Return a contrast that is no monotone function of another one's."""
    return np.interp(t1, [0, 0.1, 0.4, 0.7, 1], [0, 0.7, 0.2, 0.9, 0.4]).astype(np.float32)


def contrasts(head: Head, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the kinds of pairs and their moving image."""
    shape = head.t1.shape

    def smooth_field() -> np.ndarray:
        field = np.asarray(ndi.zoom(rng.standard_normal((4, 4, 4)), [n / 4 for n in shape], order=3))
        return np.asarray(field / np.abs(field).max(), np.float32)

    bias, share = 1 + np.float32(0.3) * smooth_field(), 1 / (1 + np.exp(-6 * smooth_field()))
    yield "mono", head.t1 ** np.float32(0.7) * bias
    yield "multi", head.other
    yield "bias", head.other * bias
    yield "local", share * head.other + (1 - share) * head.third


def pairs(scans: Path, crop: int, simulated: int, warps: int, kinds: Sequence[str], seed: int) -> Iterator[Pair]:
    """Yield all pairs: the generators take turns over the heads."""
    number = 0
    for source in heads(scans, crop, simulated, seed):
        head = np.asarray(ndi.binary_fill_holes(ndi.binary_opening(source.t1 > 0.08, iterations=2)))
        for _ in range(warps):
            rng = np.random.default_rng([seed, 1000 + number])
            generator = GENERATORS[number % 3]
            number += 1
            truth = displacement(head, generator, rng)
            places = np.indices(head.shape, dtype=np.float32) + truth
            fixed = ndi.map_coordinates(source.t1, places, order=3, mode="nearest")
            seen = ndi.map_coordinates(head.astype(np.float32), places, order=1) > 0.5
            inside = np.all([(p > 1) & (p < n - 2) for p, n in zip(places, head.shape, strict=True)], axis=0)
            for kind, moving in contrasts(source, rng):
                noise = rng.normal(0, 0.01, (2, *head.shape)).astype(np.float32)
                if kind in kinds:
                    yield Pair(
                        f"{source.name}, {generator}", kind, fixed + noise[0], moving + noise[1], truth, seen & inside, source.labels
                    )


def error_mm(pair: Pair, found: np.ndarray) -> float:
    """Return the mean distance in mm from the true displacement over the head."""
    return float(np.linalg.norm(found - pair.truth, axis=0)[pair.head].mean())


def dice(pair: Pair, found: np.ndarray) -> float:
    """Return the mean Dice coefficient, over labels of at least 500 voxels, of the labels moved as found and as true."""
    points = np.indices(pair.head.shape, dtype=np.float32)
    true, got = (
        ndi.map_coordinates(pair.labels, points + u, order=0, mode="nearest")[pair.head].astype(np.int64) for u in (pair.truth, found)
    )
    n = int(pair.labels.max()) + 1
    same, one, two = np.bincount(true[true == got], minlength=n), np.bincount(true, minlength=n), np.bincount(got, minlength=n)
    wanted = (one >= 500) & (np.arange(n) > 0)
    return float((2 * same[wanted] / (one[wanted] + two[wanted])).mean())
