"""Registration without learning on known warps: error, CPU time, folds and consistency, beside programs of another environment.

    python -m benchmarks.registration [--crop 96] [--warps 2] [--peers /path/to/other/python] [--scans ../shared/data]

Heads are simulated (the demo's anatomy as T1 and as CT, painted on one grid) and, where the folder of test data is there, one real brain
(subject_a, 1 mm). Each is deformed by random displacements of three generators (cubic B-spline, Gaussian-smoothed noise, exponential of a
smoothed velocity by scaling and squaring), none of them the model's own grid, of 3.5 mm in the mean where the head is; the smallest
Jacobian is kept above 0.2. Fixed is the deformed image, moving the other one; both have 1 % noise. Pairs: `mono` (one contrast, the
moving one with another gamma and a bias field of 30 %), `multi` (the CT, or for the real brain a contrast that is no monotone function
of its own), `multi+bias` and `local` (two such contrasts mixed by place: no relation holds everywhere). The error (TRE) is the mean
distance from the true displacement over the head. One thread; compiled code is warm. Peers (PyPI: picsl-greedy, itk-elastix, convexadam;
none is a dependency) run with the Python of another environment; without one their figures are absent. Last line: FIGURE.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage as ndi

from benchmarks.record import ROOT, Table
from cohortex.filters.gaussian import gaussian
from cohortex.registration.fields import compose, exponential, inverse, least_jacobian
from cohortex.registration.gauss_newton import register
from cohortex.threads import set_threads

MEAN_MM = 3.5
LEAST_JACOBIAN = 0.2
GENERATORS = ("bspline", "smooth", "velocity")
PEERS = {
    "mono": ("greedy", "convexadam"),
    "multi": ("elastix", "convexadam"),
    "multi+bias": ("elastix", "convexadam"),
    "local": ("convexadam",),
}


@dataclass(frozen=True)
class Pair:
    """Two images of one grid and the truth between them."""

    name: str
    kind: str
    fixed: np.ndarray
    moving: np.ndarray
    truth: np.ndarray
    head: np.ndarray
    spacing_mm: float


def displacement(shape: tuple[int, ...], head: np.ndarray, generator: str, spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random displacement (3, X, Y, Z) in voxels."""
    if generator == "bspline":
        coarse = rng.standard_normal((3, *(int(np.ceil(n * spacing_mm / 22)) + 3 for n in shape)))
        places = np.meshgrid(*(np.arange(n) * spacing_mm / 22 + 1 for n in shape), indexing="ij")
        u = np.stack([ndi.map_coordinates(c, places, order=3, prefilter=False, mode="nearest") for c in coarse])
    else:
        sigma = 9.0 if generator == "smooth" else 11.0
        u = np.stack([gaussian(n, (spacing_mm,) * 3, sigma) for n in rng.standard_normal((3, *shape), dtype=np.float32)])
    u = (u / np.linalg.norm(u, axis=0)[head].mean() * (MEAN_MM / spacing_mm)).astype(np.float32)
    found = exponential(u) if generator == "velocity" else u
    while least_jacobian(found) < LEAST_JACOBIAN:
        u = u * np.float32(0.9)
        found = exponential(u) if generator == "velocity" else u
    return found


def heads(scans: Path, crop: int, count: int) -> Iterator[tuple[str, np.ndarray, np.ndarray | None, float]]:
    """Yield name, T1 (0 to 1), CT (0 to 1) where there is one, and voxel edge in mm."""
    from cohortex.demo.anatomy import make_head, paint
    from cohortex.demo.tissues import ct_contrast, mr_contrast

    for number in range(count):
        rng = np.random.default_rng([70001, number])
        head = make_head({"diagnosis": ("control", "tumour", "lesions")[number % 3], "age": int(rng.integers(22, 85))}, rng)
        shape = (min(160, crop), min(192, crop), min(160, crop))
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = np.array([0.0, -10.0, 20.0]) - (np.array(shape) - 1) / 2
        t1, ct = (paint(head, affine, shape, contrast, np.eye(4))[0] for contrast in (mr_contrast(rng), ct_contrast(rng)))
        # A window from air to bone that still tells soft tissues apart, as the stage's own working images have it.
        window = np.interp(ct, [-1000, -100, 120, 1500], [0, 0.2, 0.7, 1]).astype(np.float32)
        yield f"simulated {number}", scaled(t1), window, 1.0
    path = scans / "brain-t1-labels" / "subject_a.npz"
    if not path.is_file():
        print(f"{path.name} is absent: simulated heads only", file=sys.stderr)
        return
    image = scaled(np.load(path)["vol"])
    middle = (np.argwhere(image > 0.1).min(0) + np.argwhere(image > 0.1).max(0)) // 2
    size = np.minimum(np.minimum((160, 192, 160), crop), image.shape)
    first = np.clip(middle - size // 2, 0, np.array(image.shape) - size)
    yield "subject_a", np.ascontiguousarray(image[tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))]), None, 1.0


def scaled(image: np.ndarray) -> np.ndarray:
    """Return an image between 0 and its 99.5th percentile, which becomes 1."""
    image = np.asarray(image, np.float32)
    return np.clip(image / np.float32(np.percentile(image, 99.5)), 0, 1)


def contrasts(t1: np.ndarray, ct: np.ndarray | None, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the kinds of pairs and their moving image."""
    shape = t1.shape

    def smooth_field() -> np.ndarray:
        coarse = rng.standard_normal((4, 4, 4))
        field = ndi.zoom(coarse, [n / 4 for n in shape], order=3)
        return np.asarray(field / np.abs(field).max(), np.float32)

    other = np.interp(t1, [0, 0.1, 0.3, 0.5, 0.7, 0.85, 1], [0, 0.9, 0.3, 0.8, 0.45, 0.65, 0.2]).astype(np.float32)
    third = np.interp(t1, [0, 0.1, 0.4, 0.7, 1], [0, 0.7, 0.2, 0.9, 0.4]).astype(np.float32)
    bias, share = 1 + np.float32(0.3) * smooth_field(), 1 / (1 + np.exp(-6 * smooth_field()))
    multi = other if ct is None else ct
    yield "mono", t1 ** np.float32(0.7) * bias
    yield "multi", multi
    yield "multi+bias", multi * bias
    yield "local", share * (other if ct is None else ct) + (1 - share) * third


def pairs(scans: Path, crop: int, count: int, warps: int, kinds: list[str]) -> Iterator[Pair]:
    """Yield all pairs: the generators take turns over the heads."""
    number = 0
    for name, t1, ct, spacing in heads(scans, crop, count):
        head = np.asarray(ndi.binary_fill_holes(ndi.binary_opening(t1 > 0.08, iterations=2)))
        for _ in range(warps):
            rng = np.random.default_rng([70002, number])
            generator = GENERATORS[number % 3]
            number += 1
            truth = displacement(t1.shape, head, generator, spacing, rng)
            places = np.indices(t1.shape, dtype=np.float32) + truth
            fixed = ndi.map_coordinates(t1, places, order=3, mode="nearest")
            seen = ndi.map_coordinates(head.astype(np.float32), places, order=1) > 0.5
            inside = np.all([(p > 1) & (p < n - 2) for p, n in zip(places, t1.shape, strict=True)], axis=0)
            for kind, moving in contrasts(t1, ct, rng):
                noise = rng.normal(0, 0.01, (2, *t1.shape)).astype(np.float32)
                if kind in kinds:
                    yield Pair(f"{name} {generator}", kind, fixed + noise[0], moving + noise[1], truth, seen & inside, spacing)


def error_mm(pair: Pair, found: np.ndarray) -> float:
    """Return the mean distance from the true displacement over the head."""
    return float(np.linalg.norm(found - pair.truth, axis=0)[pair.head].mean()) * pair.spacing_mm


def by_peer(python: str, peer: str, pair: Pair) -> tuple[np.ndarray, float]:
    """Return what a peer finds, and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "pair.npz", Path(folder) / "found.npz"
        np.savez(source, fixed=pair.fixed, moving=pair.moving, spacing=pair.spacing_mm)
        script = Path(__file__).with_name("registration_peers.py")
        done = subprocess.run([python, str(script), peer, str(source), str(target)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{peer} does not run with {python}: {done.stderr.strip().splitlines()[-1:]}")
        found = np.load(target)
        return found["displacement"], float(found["seconds"])


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--crop", type=int, default=192, help="most voxels of an axis")
    parser.add_argument("--heads", type=int, default=2, help="simulated heads")
    parser.add_argument("--warps", type=int, default=2, help="displacements of each head")
    parser.add_argument("--kinds", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--peers", help="a Python in whose environment picsl-greedy, itk-elastix and convexadam are installed")
    options = parser.parse_args()
    set_threads(1)
    if options.peers is None:
        print("no --peers: picsl-greedy, itk-elastix and convexAdam are left out", file=sys.stderr)
    small = np.random.default_rng(0).random((2, 24, 24, 24), dtype=np.float32)
    for finish in ("mind", "images"):
        register(small[0], small[1], finish=finish)

    table = Table({"pair": "", "kind": "", "method": "", "CPU s": ".2f", "TRE mm": ".3f", "least Jacobian": ".3f", "finish": ""})
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    jacobians, chosen_worse, consistency = [], [], []
    for pair in pairs(options.scans, options.crop, options.heads, options.warps, options.kinds):
        table.add(pair.name, pair.kind, "none", None, error_mm(pair, np.zeros_like(pair.truth)), None, "")
        mask = np.asarray(ndi.binary_dilation(pair.head, iterations=3))
        errors = {}
        for finish in ("auto", "mind"):
            started = time.process_time()
            found = register(pair.fixed, pair.moving, mask, pair.spacing_mm, finish=finish)
            seconds = time.process_time() - started
            errors[finish] = error_mm(pair, found.displacement)
            rows.setdefault((pair.kind, finish), []).append((seconds, errors[finish]))
            jacobians.append(least_jacobian(found.displacement))
            note = f"{found.finish} ({found.agreement:.2f})" if finish == "auto" else ""
            table.add(pair.name, pair.kind, f"ours, {finish}", seconds, errors[finish], jacobians[-1], note)
            if finish == "auto":
                backward = register(pair.moving, pair.fixed, None, pair.spacing_mm)
                back = np.linalg.norm(compose(found.displacement, backward.displacement), axis=0)[pair.head].mean()
                own = np.linalg.norm(compose(found.displacement, inverse(found.displacement)), axis=0)[pair.head].max()
                consistency.append((float(back) * pair.spacing_mm, float(own) * pair.spacing_mm))
        chosen_worse.append(errors["auto"] / errors["mind"] - 1)
        for peer in PEERS[pair.kind] if options.peers else ():
            field, seconds = by_peer(options.peers, peer, pair)
            rows.setdefault((pair.kind, peer), []).append((seconds, error_mm(pair, field)))
            table.add(pair.name, pair.kind, peer, seconds, error_mm(pair, field), least_jacobian(field), "")

    print()
    medians = Table({"kind": "", "method": "", "pairs": "", "CPU s": ".2f", "TRE mm": ".3f"})
    middle: dict[tuple[str, str], np.ndarray] = {}
    for (kind, method), values in rows.items():
        middle[kind, method] = np.median(values, axis=0)
        medians.add(kind, method, str(len(values)), *(float(v) for v in middle[kind, method]))
    figures: dict[str, float] = {}
    for (kind, method), (seconds, error) in middle.items():
        name = kind.replace("+", "_")
        if method == "auto":
            figures |= {f"{name}_s": float(seconds), f"{name}_mm": float(error)}
        elif method != "mind":
            ours = middle[kind, "auto"]
            figures |= {f"{name}_time_vs_{method}": float(ours[0] / seconds), f"{name}_tre_vs_{method}": float(ours[1] / error)}
    figures["least_jacobian"] = min(jacobians)
    figures["choice_worse"] = max(chosen_worse)
    figures["there_and_back_mm"], figures["inverse_mm"] = np.median(consistency, axis=0)[0], np.max(consistency, axis=0)[1]
    print("FIGURE", " ".join(f"{name}={value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
