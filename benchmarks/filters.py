"""The filters beside the libraries that have them: CPU time of one thread and equality, in one run.

    python -m benchmarks.filters [--size 256] [--crop 48] [--repeats 3] [--bm4d /path/to/other/python] [--only FIGURE ...]

Images are noise over a smooth field, size^3 float32. A row is shown with its largest difference from the library, over the range of the
image, and fails where that is above its limit. What takes longer than two seconds runs once. Compiling is done before and shown apart.
The denoiser `transform` is measured on a crop of the MNI152 T1 that nilearn ships, with Rician noise, sigma known, bias undone
afterwards. Its peer BM4D (PyPI: bm4d, not a dependency) runs with the Python of another environment that has it; without one its
figures are absent and a line says so. At the end the filters are compiled once more for a processor without AVX-512 and compared again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nilearn
import numpy as np
import SimpleITK
from scipy import ndimage, signal
from skimage import restoration

from benchmarks.record import TARGETS, Run, Table, add_save, measured
from cohortex.filters.chain import FILTERS
from cohortex.filters.transform import denoise_transform, rician_amplitude
from cohortex.filters.wiener import wiener
from cohortex.measures.image_quality import psnr
from cohortex.threads import set_threads

ISO = (1.0, 1.0, 1.0)
BM4D = """
import sys, time
import numpy as np
from bm4d import bm4d
noisy = np.load(sys.argv[1])
start = time.process_time()
found = bm4d(noisy, float(sys.argv[3]))
seconds = time.process_time() - start
np.save(sys.argv[2], np.asarray(found, dtype=np.float32))
print(seconds)
"""


def itk(filter_: Callable[..., Any], image: np.ndarray, *options: Any) -> np.ndarray:
    """Run a filter of SimpleITK."""
    return SimpleITK.GetArrayFromImage(filter_(SimpleITK.GetImageFromArray(image), *options))


def libraries(image: np.ndarray) -> dict[str, tuple[str, Callable[[], Any], list[tuple[str, Callable[[], Any]]], float]]:
    """Return by figure: our call in words, our call, the libraries' calls, and the largest difference over the range that is allowed."""
    spread = float(np.std(image))
    waves = {"method": "BayesShrink", "mode": "soft", "rescale_sigma": False, "wavelet_levels": 3}

    def ours(name: str, **options: Any) -> Callable[[], np.ndarray]:
        return lambda: FILTERS[name](image, ISO, **options)

    def shrunk(basis: str) -> tuple[str, Callable[[], Any]]:
        return "skimage denoise_wavelet", lambda: restoration.denoise_wavelet(image, 0.3 * spread, wavelet=basis, **waves)

    diffusion = {"iterations": 5, "contrast": 1.5, "time_step": 0.0625}
    gradient = ("SimpleITK GradientAnisotropicDiffusion", lambda: itk(SimpleITK.GradientAnisotropicDiffusion, image, 0.0625, 1.5, 1, 5))
    curvature = ("SimpleITK CurvatureAnisotropicDiffusion", lambda: itk(SimpleITK.CurvatureAnisotropicDiffusion, image, 0.0625, 1.5, 1, 5))
    weight = 0.3 * spread
    return {
        "median3_vs_scipy": (
            "median 3^3",
            ours("median"),
            [("scipy median_filter", lambda: ndimage.median_filter(image, 3, mode="reflect"))],
            0,
        ),
        "median5_vs_best": (
            "median 5^3",
            ours("median", radius_mm=2.0),
            [
                ("scipy median_filter", lambda: ndimage.median_filter(image, 5, mode="reflect")),
                ("SimpleITK Median", lambda: itk(SimpleITK.Median, image, [2, 2, 2])),
            ],
            0,
        ),
        "tv_vs_skimage": (
            "total variation, 20 steps",
            ours("total_variation", weight=weight, tolerance=None, iterations=20, solver="chambolle"),
            [("skimage denoise_tv_chambolle", lambda: restoration.denoise_tv_chambolle(image, weight, eps=0, max_num_iter=21))],
            1e-6,
        ),
        "diffusion_vs_sitk": ("gradient diffusion, 5 steps", ours("anisotropic_diffusion", **diffusion), [gradient], 1e-6),
        "curvature_vs_sitk": (
            "curvature diffusion, 5 steps",
            ours("anisotropic_diffusion", equation="curvature", **diffusion),
            [curvature],
            5e-6,
        ),
        "wiener_vs_scipy": (
            "Wiener 5^3",
            lambda: wiener(image, ISO, 2.0, sigma=0.3 * spread, edge="zero"),
            [("scipy.signal.wiener", lambda: signal.wiener(image, 5, (0.3 * spread) ** 2))],
            1e-6,
        ),
        "gaussian_vs_scipy": (
            "Gaussian, sigma 2",
            ours("gaussian", sigma_mm=2.0),
            [("scipy gaussian_filter", lambda: ndimage.gaussian_filter(image, 2.0))],
            1e-6,
        ),
        "wavelet_vs_skimage": ("wavelet db1, 3 levels", ours("wavelet", sigma=0.3 * spread, basis="db1", shifts=1), [shrunk("db1")], 1e-6),
        "sym4_vs_skimage": ("wavelet sym4, 3 levels", ours("wavelet", sigma=0.3 * spread, basis="sym4", shifts=1), [shrunk("sym4")], 1e-6),
    }


def compared(size: int, repeats: int, only: list[str]) -> tuple[Table, dict[str, float]]:
    """Print a row a filter; return them and the ratios."""
    generator = np.random.default_rng(0)
    image = ndimage.zoom(generator.normal(size=(8, 8, 8)), size / 8, order=1, grid_mode=True, mode="nearest").astype(np.float32)
    image = np.ascontiguousarray(image[:size, :size, :size] + 0.3 * generator.standard_normal(image.shape, dtype=np.float32))
    small = np.ascontiguousarray(image[:24, :22, :20])
    start = time.process_time()
    for figure, (_, ours, _, _) in libraries(small).items():
        if not only or figure in only:
            ours()
    print(f"compiling or loading the kernels: {time.process_time() - start:.1f} CPU s; images of {size}^3 float32\n")
    columns = {"filter": "", "CPU s": ".3f", "library": "", "library's CPU s": ".2f", "times faster": ".1f"}
    table = Table(columns | {"largest difference / range": ".1e"})
    figures = {}
    for figure, (words, ours, peers, limit) in libraries(image).items():
        if only and figure not in only:
            continue
        seconds, found = measured(ours, repeats)
        best = np.inf
        for peer, call in peers:
            theirs, wanted = measured(call, repeats)
            best = min(best, theirs)
            # The libraries' edge rules: SimpleITK's median repeats the outer voxel, so only the inside is compared.
            inside = (slice(2, -2),) * 3 if peer == "SimpleITK Median" else ...
            difference = float(np.abs(found[inside] - wanted[inside]).max() / np.ptp(image))
            table.add(words, seconds, peer, theirs, theirs / seconds, difference)
            if difference > limit:
                raise SystemExit(f"{words} differs from {peer} by {difference:.1e} of the range, allowed is {limit:.0e}")
        figures[figure] = best / seconds
    return table, {name: value for name, value in figures.items() if name in TARGETS["filters"]}


def brain(edge: int) -> np.ndarray:
    """Return a cube from the middle of the MNI152 T1, 0..1."""
    path = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = np.asarray(nibabel.load(path).dataobj, dtype=np.float32)
    image /= np.percentile(image, 99.9)
    return np.ascontiguousarray(image[tuple(slice((size - edge) // 2, (size - edge) // 2 + edge) for size in image.shape)])


def denoised(edge: int, repeats: int, bm4d: str | None) -> tuple[Table, dict[str, float]]:
    """Print a row a noise level; return them, the largest gap to BM4D and the least ratio of times."""
    truth = brain(edge)
    inside = truth > 0
    denoise_transform(np.ascontiguousarray(truth[:12, :12, :12]), ISO, 0.05)
    gaps, ratios = [], []
    print(f"\nRician noise on {edge}^3 voxels of the MNI152 T1, PSNR in the brain (range 1), CPU s of one thread\n")
    columns = {"noise": "", "noisy dB": ".2f", "Gaussian dB": ".2f", "transform dB": ".2f", "CPU s": ".2f"}
    table = Table(columns | {"BM4D dB": ".2f", "BM4D's CPU s": ".1f", "gap dB": ".2f", "times faster": ".0f"})
    for sigma in (0.05, 0.1):
        generator = np.random.default_rng(0)
        real, imaginary = (sigma * generator.standard_normal(truth.shape, dtype=np.float32) for _ in range(2))
        noisy = np.hypot(truth + real, imaginary)
        blurred = max(psnr(truth, FILTERS["gaussian"](noisy, ISO, sigma_mm=width), 1.0, inside) for width in (0.5, 0.6, 0.7, 0.85, 1.0))
        seconds, found = measured(lambda image=noisy, noise=sigma: denoise_transform(image, ISO, noise, rician=True), repeats)
        quality = psnr(truth, found, 1.0, inside)
        row = f"{100 * sigma:g} %", psnr(truth, noisy, 1.0, inside), blurred, quality, seconds
        if bm4d is None:
            table.add(*row, None, None, None, None)
            continue
        peer, theirs = with_bm4d(bm4d, noisy, sigma)
        best = psnr(truth, rician_amplitude(peer, sigma), 1.0, inside)
        gaps.append(best - quality)
        ratios.append(theirs / seconds)
        table.add(*row, best, theirs, best - quality, theirs / seconds)
    return table, {"transform_gap_db": max(gaps), "transform_vs_bm4d": min(ratios)} if gaps else {}


def with_bm4d(python: str, noisy: np.ndarray, sigma: float) -> tuple[np.ndarray, float]:
    """Return what BM4D makes of an image, and its CPU seconds, by the Python of an environment that has it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "noisy.npy", Path(folder) / "found.npy"
        np.save(source, noisy)
        done = subprocess.run([python, "-c", BM4D, str(source), str(target), str(sigma)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"BM4D does not run with {python}: {done.stderr.strip().splitlines()[-1:]}")
        return np.load(target), float(done.stdout.split()[-1])


def without_avx512(size: int, repeats: int) -> Table:
    """Return the table of the libraries with our kernels compiled for a processor of 2013, which has AVX2 and nothing newer.

    The libraries stay as they are: what they choose by the processor they may go on choosing.
    """
    figures = [name for name in TARGETS["filters"] if not name.startswith("transform")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "filters.json"
        words = ["--size", str(size), "--repeats", str(repeats), "--save", str(file), "--only", *figures]
        old = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
        subprocess.run([sys.executable, "-m", "benchmarks.filters", *words], check=True, env=old)
        return Table(**json.loads(file.read_text())["tables"]["libraries"])


def main() -> None:
    """Print both tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256, help="edge of the images in voxels")
    parser.add_argument("--crop", type=int, default=48, help="edge of the piece of brain in voxels")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--bm4d", help="a Python in whose environment the package bm4d is installed")
    parser.add_argument("--only", nargs="+", default=[], help="only these figures, for example wiener_vs_scipy; none of the denoiser")
    add_save(parser)
    options = parser.parse_args()
    set_threads(1)
    run = Run("filters", ["numpy", "numba", "scipy", "SimpleITK", "scikit-image"])
    tables = {}
    tables["libraries"], figures = compared(options.size, options.repeats, options.only)
    if not options.only:
        tables["denoiser"], more = denoised(options.crop, options.repeats, options.bm4d)
        figures |= more
        if options.bm4d is None:
            absent = "BM4D is absent (name a Python that has it with --bm4d): transform_gap_db and transform_vs_bm4d are not measured"
            print(absent, file=sys.stderr)
        tables["avx2"] = without_avx512(options.size, options.repeats)
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
