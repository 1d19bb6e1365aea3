"""The shipped MR denoiser beside BM4D and the block transform: PSNR at 3, 5 and 10 % Rician noise, and CPU time of one thread.

    python -m benchmarks.denoise [--bm4d /path/to/other/python] [--scans ../shared/data] [--keep FOLDER]

At 3 % the truth is simulated: heads of the demo (seed 90001, none of which any training saw), as its scanner images them without
noise, in thick slices and before slices are selected. At 5 and 10 % it is the middle of real brains that the training did not see:
subject_a (T1, 1 mm), patient20 (T1 and FLAIR, 0.9 x 0.9 x 3 mm) and brain1 (T1 after contrast, 0.8 x 0.8 x 6.5 mm) of the folder of
test data; their own noise, 0.5 to 2.5 %, counts as truth for all methods. Noise is a share of the 99.9th percentile, which is also the
range of the PSNR, taken where there is signal (2 % of the range). All methods are given the true level; the bias of BM4D's result is
undone. The last column has the network with the level that the stage estimates. BM4D (PyPI: bm4d, not a dependency) runs with the
Python of another environment; without one its figures are absent, and without the real scans those of 5 and 10 %. With --keep, what
BM4D made is taken again from a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from benchmarks.filters import ISO, with_bm4d
from benchmarks.record import ROOT, Run, Table, add_save, measured
from cohortex.filters.foreground import foreground
from cohortex.filters.transform import denoise_transform, rician_amplitude
from cohortex.inference import Precision, Runner, channels_last
from cohortex.measures.image_quality import noise_sigma, psnr
from cohortex.measures.intervals import paired_interval
from cohortex.models.folder import load_network
from cohortex.threads import set_threads

SIGNAL = 0.02
"""Share of the range from which a voxel counts."""

SCANS = (
    ("subject_a T1", "brain-t1-labels/subject_a.npz"),
    ("patient20 T1", "brain-ms-longitudinal/patient20/raw/study2_T1W.nii.gz"),
    ("patient20 FLAIR", "brain-ms-longitudinal/patient20/raw/study2_FLAIR.nii.gz"),
    ("brain1 T1 post", "lesion-nrrd/brain1_image.nrrd"),
)
"""Real brains, by their files in the folder of test data."""


def simulated(heads: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield simulated scans without noise, two a head."""
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.scans import mr_scan
    from cohortex.demo.table import DIAGNOSES

    for number in range(heads):
        rng = np.random.default_rng([90001, number])
        scan = mr_scan(make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng), rng)
        yield f"head {number}", scan.clean
        yield f"head {number} isotropic", scan.truth


def real(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the real scans that are there."""
    for name, file in SCANS:
        path = folder / file
        if not path.is_file():
            print(f"{path.name} is absent", file=sys.stderr)
        elif path.suffix == ".npz":
            yield name, np.load(path)["vol"]
        elif path.suffix == ".nrrd":
            yield name, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).transpose(2, 1, 0)
        else:
            yield name, np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


def scaled(image: np.ndarray) -> np.ndarray:
    """Return an image with its 99.9th percentile at 1 and nothing below 0, float32."""
    image = np.maximum(np.asarray(image, np.float32), 0)
    return image / np.float32(np.percentile(image, 99.9))


def middle(image: np.ndarray, edge: int) -> np.ndarray:
    """Return a box of at most `edge` voxels along each axis from the middle."""
    return np.ascontiguousarray(image[tuple(slice(max(0, (n - edge) // 2), max(0, (n - edge) // 2) + min(n, edge)) for n in image.shape)])


def restored(network: Any, noisy: np.ndarray, sigma: float, precision: Precision) -> np.ndarray:
    """Return what the network makes of an image whose noise is known."""
    import torch

    made = Runner(network, "cpu", (256, 256, 256), precision)(torch.from_numpy(noisy / np.float32(sigma))[None, None])
    return made[0, 0].numpy() * np.float32(sigma)


def by_bm4d(python: str, noisy: np.ndarray, sigma: float, keep: Path | None) -> np.ndarray:
    """Return BM4D's result, from `keep` where it was made before."""
    name = hashlib.sha256(noisy.tobytes() + str(sigma).encode()).hexdigest()[:16]
    file = None if keep is None else keep / f"{name}.npy"
    if file is not None and file.is_file():
        return np.load(file)
    found, _ = with_bm4d(python, noisy, sigma)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, found)
    return found


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "zoo" / "denoise" / "frame_unet", help="the model folder")
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--heads", type=int, default=3, help="simulated heads")
    parser.add_argument("--crop", type=int, default=56, help="edge in voxels of what is cut from the middle of each scan")
    parser.add_argument("--bm4d", help="a Python in whose environment the package bm4d is installed")
    parser.add_argument("--keep", type=Path, help="a folder for what BM4D made")
    add_save(parser)
    options = parser.parse_args()
    set_threads(1)
    run = Run("denoise", ["numpy", "torch", "numba"])
    network = channels_last(load_network(options.model))
    denoise_transform(np.zeros((12, 12, 12), np.float32), ISO, 0.05)

    columns = {"scan": "", "noise": "", "noisy dB": ".2f", "transform dB": ".2f", "BM4D dB": ".2f", "network dB": ".2f"}
    quality = Table(columns | {"over BM4D dB": "+.2f", "over transform dB": "+.2f", "float32 dB": ".2f", "level estimated dB": ".2f"})
    gains: dict[int, list[tuple[float, float]]] = {}
    over_transform: list[float] = []
    cases = [*((name, image, (3,)) for name, image in simulated(options.heads)), *((n, i, (5, 10)) for n, i in real(options.scans))]
    for number, (name, image, levels) in enumerate(cases):
        truth = middle(scaled(image), options.crop)
        inside = truth > SIGNAL
        for percent in levels:
            sigma = percent / 100
            rng = np.random.default_rng([number, percent])
            noise = np.float32(sigma) * rng.standard_normal((2, *truth.shape), dtype=np.float32)
            noisy = np.hypot(truth + noise[0], noise[1])
            half, full = (restored(network, noisy, sigma, precision) for precision in ("bfloat16", "float32"))
            told = noise_sigma(noisy, foreground(noisy))
            shrunk = denoise_transform(noisy, ISO, sigma, rician=True)
            made = [psnr(truth, each, 1.0, inside) for each in (noisy, shrunk, half, full, restored(network, noisy, told, "bfloat16"))]
            over_transform.append(made[2] - made[1])
            best = None
            if options.bm4d is not None:
                found = by_bm4d(options.bm4d, noisy, sigma, options.keep)
                best = psnr(truth, rician_amplitude(found, sigma), 1.0, inside)
                gains.setdefault(percent, []).append((made[2], best))
            over = None if best is None else made[2] - best
            quality.add(name, f"{percent} %", made[0], made[1], best, made[2], over, made[2] - made[1], made[3], made[4])

    print()
    figures: dict[str, float] = {}
    summary = Table({"noise": "", "scans": "", "over BM4D dB": "+.2f", "low": "+.2f", "high": "+.2f"})
    for percent, pairs in sorted(gains.items()):
        mean, low, high = paired_interval([ours for ours, _ in pairs], [peer for _, peer in pairs])
        summary.add(f"{percent} %", str(len(pairs)), mean, low, high)
        figures[f"mr_gain_{percent}"] = mean
    figures["mr_over_transform"] = float(np.mean(over_transform))

    print()
    speed = Table({"precision": "", "shape": "", "CPU s / megavoxel": ".3f", "BM4D's": ".1f", "times faster": ".0f"})
    whole = scaled(max((image for _, image, _ in cases), key=lambda image: image.size))
    noisy = np.hypot(whole + np.float32(0.05), np.float32(0.05))
    # One after the other on one piece of machine time: what else runs there slows both down.
    piece = middle(noisy, 40)
    peer = None if options.bm4d is None else 1e6 * with_bm4d(options.bm4d, piece, 0.05)[1] / piece.size
    both: tuple[tuple[Precision, str], ...] = (("bfloat16", "mr_vs_bm4d"), ("float32", "mr_vs_bm4d_float32"))
    for precision, key in both:
        seconds, _ = measured(lambda p=precision: restored(network, noisy, 0.05, p), 3)
        ours = 1e6 * seconds / noisy.size
        speed.add(precision, " x ".join(map(str, noisy.shape)), ours, peer, None if peer is None else peer / ours)
        if peer is not None:
            figures[key] = peer / ours
    run.end({"quality": quality, "gains": summary, "speed": speed}, figures, options.save)


if __name__ == "__main__":
    main()
