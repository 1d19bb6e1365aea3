"""The shipped CT denoiser beside the six filters, the block transform and BM3D: PSNR at a quarter of the dose, and at other doses.

    python -m benchmarks.denoise_ct [--bm3d /path/to/other/python] [--scans ../shared/data]

The scans are heads of the demo (seed 90001, none of which any training saw), whose low-dose scans (25 to 40 HU of noise in the middle of
the brain) are taken for a quarter of a dose, truth being the same rays without noise; and a real abdomen that the training did not see
(example_ct_dicom of the folder of test data, pixels averaged 2 x 2 so that its own noise of 8 HU, which counts as truth for all methods,
matters less), to which projection, counting of photons and filtered backprojection add what takes it to 30 HU (root mean square over the
patient); a whole dose has half of that. PSNR is that of soft tissue: both images are clipped to -160 to 240 HU, and the foreground counts.
Each method is told the true standard deviation of the noise where it takes one, and its settings (a multiple of that level, too, since
the noise is not white) are those that are best on validation scans of the same kind: another head, and the chest of the test data. BM3D
(PyPI: bm3d, not a dependency) runs slice by slice with the Python of another environment, once told the level and once the spectrum of
other noise of the same kind. The network is told nothing. The gain is that over the best of all others on each scan.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.record import ROOT, Run, Table, add_save, measured
from cohortex.filters.chain import FILTERS
from cohortex.filters.foreground import foreground
from cohortex.filters.transform import denoise_transform
from cohortex.inference import Precision, run_network, way_of
from cohortex.measures.image_quality import psnr
from cohortex.measures.intervals import paired_interval
from cohortex.models import registry
from cohortex.models.folder import Loaded, load_network, read_card
from cohortex.models.intensity import from_unit, to_unit
from cohortex.threads import set_threads
from cohortex.training.ct_patches import averaged, quantum_noise

if TYPE_CHECKING:
    from cohortex.demo.scans import CTScan

WINDOW = (-160.0, 240.0)
"""HU of soft tissue, in which images are compared."""

BODY_HU = 30.0
"""Noise of the real scan at a quarter of the dose."""

BM3D = """
import sys, time
import numpy as np
if not hasattr(np, "trapz"):
    np.trapz = np.trapezoid  # what bm3d 4.0 calls it
from bm3d import bm3d
with np.load(sys.argv[1]) as file:
    slices, told = file["slices"], file["told"]
start = time.process_time()
found = [np.squeeze(bm3d(each, told if told.ndim else float(told))) for each in slices]
seconds = time.process_time() - start
np.save(sys.argv[2], np.asarray(found, dtype=np.float32))
print(seconds)
"""


@dataclass(frozen=True)
class Scan:
    """A scan with less dose.

    Attributes
    ----------
    name, kind : str
    truth, noisy : (x, y, z) float32 arrays
        HU.
    inside : (x, y, z) bool array
        The patient.
    spacing : three floats
        mm.
    spectrum : (x, y) array
        Mean squared magnitude of the Fourier transform of slices of other noise of the same kind.
    """

    name: str
    kind: str
    truth: np.ndarray
    noisy: np.ndarray
    inside: np.ndarray
    spacing: tuple[float, float, float]
    spectrum: np.ndarray

    def level(self) -> float:
        """Return the standard deviation of the noise."""
        return float((self.noisy - self.truth)[self.inside].std())

    def quality(self, image: np.ndarray) -> float:
        """Return the PSNR of an image of this scan in the window."""
        return psnr(np.clip(self.truth, *WINDOW), np.clip(image, *WINDOW), WINDOW[1] - WINDOW[0], self.inside)


@functools.cache
def scanned(number: int, seed: int) -> CTScan:
    """Return the demo's scan of a head."""
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.scans import ct_scan
    from cohortex.demo.table import DIAGNOSES

    rng = np.random.default_rng([seed, number])
    return ct_scan(make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng), rng)


def head(number: int, seed: int, dose: float, slices: int) -> Scan:
    """Return the middle of the demo's scan of a head; `dose` is a multiple of that which the demo's scanner gives."""
    from cohortex.demo.scans import APERTURE, CT_SPACING, ELECTRONIC, VIEWS
    from cohortex.physics import ct

    scan, rng = scanned(number, seed), np.random.default_rng([seed, number, 1])
    truth, noisy = middle(scan.clean, slices), middle(scan.image, slices).astype(np.float32)
    # Other noise of the same kind: the reconstruction is scanned again. At another dose it is the scan itself.
    angles, shape = ct.view_angles(VIEWS), (truth.shape[0], truth.shape[1])
    rays = ct.aperture(ct.radon(ct.hu_to_mu(truth), angles, CT_SPACING[0]), APERTURE)
    changed = ct.low_dose(rays, scan.photons * dose, rng, ELECTRONIC) - rays
    other = ct.fbp(changed, angles, CT_SPACING[0], shape, "hann") * np.float32(1000 / ct.MU_WATER_PER_MM)
    noisy = noisy if dose == 1 else truth + other
    return cropped(f"head {number}", "simulated heads", truth, noisy, other, CT_SPACING)


def body(name: str, folder: Path, factors: tuple[int, int, int], level: float, seed: int, slices: int) -> Scan | None:
    """Return a real scan with less dose; None where it is not there."""
    from cohortex.io import read

    if not folder.is_dir():
        print(f"{folder.name} is absent", file=sys.stderr)
        return None
    volume = read(folder)[0]
    truth = middle(averaged(np.asarray(volume.data[...], np.float32), factors), slices)
    spacing = tuple(float(a) * b for a, b in zip(volume.spacing, factors, strict=True))
    rng = np.random.default_rng(seed)
    added, other = (quantum_noise(truth, spacing[0], level, rng, foreground(truth), "hann", 0.1, 8) for _ in range(2))
    return cropped(name, "a real abdomen", truth, truth + added, other, (spacing[0], spacing[1], spacing[2]))


def middle(image: np.ndarray, slices: int) -> np.ndarray:
    """Return so many slices from the middle of a scan."""
    spare = max(0, image.shape[2] - slices)
    return image[..., spare // 2 : image.shape[2] - (spare - spare // 2)]


def cropped(
    name: str, kind: str, truth: np.ndarray, noisy: np.ndarray, other: np.ndarray, spacing: tuple[float, float, float], margin: int = 6
) -> Scan:
    """Return a scan without the air around the patient."""
    inside = foreground(truth)
    spans = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2))]
    box = tuple(slice(max(0, int(span[0]) - margin), int(span[-1]) + margin + 1) for span in spans)
    parts = (np.ascontiguousarray(each[box], np.float32) for each in (truth, noisy, other))
    truth, noisy, other = parts
    spectrum = (np.abs(np.fft.fft2(other, axes=(0, 1))) ** 2).mean(2)
    return Scan(name, kind, truth, noisy, inside[box], spacing, spectrum)


def choices(scan: Scan) -> dict[str, list[dict[str, Any]]]:
    """Return the settings of each method that are tried on a scan, told in multiples of its pixels and of its noise."""
    pixel, level = scan.spacing[0], scan.level()
    levels = [{"sigma": k * level} for k in (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)]
    widths = [0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 1.8]
    return {
        "median": [{"radius_mm": k * pixel} for k in (1.0, 2.0, 3.0)],
        "gaussian": [{"sigma_mm": (k * pixel, k * pixel, through * k * pixel)} for k, through in product(widths, (0.0, 1.0))],
        "wavelet": levels,
        "wiener": [{"radius_mm": k * pixel, **each} for k, each in product((1.0, 2.0, 3.0), levels[:-1])],
        "anisotropic_diffusion": [{"iterations": n, "contrast": k} for n, k in product((2, 4, 8, 16), (0.5, 0.75, 1.0, 1.5, 2.5))],
        "total_variation": [{"weight": k * level} for k in (0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 1.8, 2.5)],
        "transform": levels,
    }


def filtered(name: str, scan: Scan, settings: Mapping[str, Any]) -> np.ndarray:
    """Return what a filter, or the transform, makes of a scan."""
    run: Callable[..., np.ndarray] = denoise_transform if name == "transform" else FILTERS[name]
    return run(scan.noisy, scan.spacing, **settings)


MULTIPLES = (1.0, 1.5, 2.2)
"""Of the level, and of the spectrum's root, that BM3D is told."""

WHITE, COLOURED = "BM3D", "BM3D, spectrum"


def by_bm3d(python: str, scan: Scan, name: str, multiple: float, few: bool = False) -> tuple[np.ndarray, float]:
    """Return what BM3D makes of the slices of a scan, or of some of them, and its CPU seconds."""
    told = np.float64(multiple * scan.level()) if name == WHITE else multiple**2 * scan.spectrum.astype(np.float64)
    slices = np.moveaxis(scan.noisy, 2, 0)[:: two_of(scan) if few else 1]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "noisy.npz", Path(folder) / "found.npy"
        np.savez(source, slices=slices.astype(np.float64), told=told)
        done = subprocess.run([python, "-c", BM3D, str(source), str(target)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"BM3D does not run with {python}: {done.stderr.strip().splitlines()[-1:]}")
        return np.ascontiguousarray(np.moveaxis(np.load(target), 0, 2)), float(done.stdout.split()[-1])


def two_of(scan: Scan) -> int:
    """Return how far two slices of a scan are apart."""
    return -(-scan.truth.shape[2] // 2)


def few_slices(scan: Scan) -> Scan:
    """Return those slices of a scan that BM3D is tuned on."""
    step = two_of(scan)
    return replace(scan, truth=scan.truth[..., ::step], noisy=scan.noisy[..., ::step], inside=scan.inside[..., ::step])


def tuned(scan: Scan, bm3d: str | None) -> dict[str, int]:
    """Return which setting of each method is the best on a validation scan."""
    best: dict[str, int] = {}
    for name, settings in choices(scan).items():
        best[name] = int(np.argmax([scan.quality(filtered(name, scan, each)) for each in settings]))
        print(f"{scan.kind}: {name} is best with choice {best[name] + 1} of {len(settings)}", flush=True)
    for name in (WHITE, COLOURED) if bm3d is not None else ():
        some = few_slices(scan)
        best[name] = int(np.argmax([some.quality(by_bm3d(str(bm3d), scan, name, k, True)[0]) for k in MULTIPLES]))
        print(f"{scan.kind}: {name} is best told {MULTIPLES[best[name]]:g} times the noise", flush=True)
    return best


def restored(model: Loaded, noisy: np.ndarray, precision: Precision) -> np.ndarray:
    """Return what the network makes of a scan."""
    values = model.card["values"]
    low, high = float(values["low"]), float(values["high"])
    expects = registry.expected(registry.entry("denoise", model.card["network"]), model.card.get("options", {}))
    way = way_of(model.network, expects, noisy.shape)
    made, _ = run_network(model.network, to_unit(noisy, low, high), way.halo, way.block, precision=precision, way=way)
    return from_unit(np.asarray(made), low, high)


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "zoo" / "denoise" / "low_dose", help="the model folder")
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--heads", type=int, default=4, help="simulated heads")
    parser.add_argument("--slices", type=int, default=8, help="of each scan, from its middle")
    parser.add_argument("--bm3d", help="a Python in whose environment the package bm3d is installed")
    add_save(parser)
    options = parser.parse_args()
    set_threads(1)
    run = Run("denoise_ct", ["numpy", "torch", "numba"])
    from cohortex.inference import channels_last

    model = Loaded(read_card(options.model), channels_last(load_network(options.model)), "cpu")
    chest, abdomen = options.scans / "chest-ct-dicom" / "LIDC-IDRI-0314", options.scans / "abdomen-ct-mr" / "example_ct_dicom"

    def abdomen_at(dose: float) -> Scan | None:
        return body("abdomen", abdomen, (2, 2, 1), BODY_HU / dose**0.5, 90001, options.slices)

    real = abdomen_at(1.0)
    scans = [head(number, 90001, 1.0, options.slices) for number in range(options.heads)] + ([] if real is None else [real])
    settings = {"simulated heads": tuned(head(0, 90002, 1.0, options.slices), options.bm3d)}
    if real is not None:
        other = body("chest", chest, (2, 2, 3), BODY_HU, 90002, options.slices)
        settings[real.kind] = tuned(other, options.bm3d) if other is not None else settings["simulated heads"]

    names = [*FILTERS, "transform", *((WHITE, COLOURED) if options.bm3d else ())]
    columns = {"scan": "", "noise HU": ".1f", "noisy dB": ".2f", **{f"{name} dB": ".2f" for name in names}}
    quality = Table(columns | {"network dB": ".2f", "over the best dB": "+.2f", "float32 dB": ".2f"})
    gains: dict[str, list[tuple[float, float]]] = {}
    over_transform, seconds = [], {WHITE: [0.0, 0], "network": [0.0, 0]}
    for scan in scans:
        best = settings[scan.kind]
        made = [scan.quality(filtered(name, scan, each[best[name]])) for name, each in choices(scan).items()]
        for name in names[len(made) :]:
            found, took = by_bm3d(options.bm3d, scan, name, MULTIPLES[best[name]])
            made.append(scan.quality(found))
            if name == WHITE:
                seconds[name] = [seconds[name][0] + took, seconds[name][1] + scan.noisy.size]
        took, found = measured(lambda noisy=scan.noisy: restored(model, noisy, "bfloat16"), 1)
        seconds["network"] = [seconds["network"][0] + took, seconds["network"][1] + scan.noisy.size]
        ours = scan.quality(found)
        gains.setdefault(scan.kind, []).append((ours, max(made)))
        over_transform.append(ours - made[len(FILTERS)])
        full = scan.quality(restored(model, scan.noisy, "float32"))
        quality.add(scan.name, scan.level(), scan.quality(scan.noisy), *made, ours, ours - max(made), full)

    print()
    everyone = [pair for pairs in gains.values() for pair in pairs]
    summary = Table({"scans": "", "number": "", "over the best dB": "+.2f", "low": "+.2f", "high": "+.2f"})
    for kind, pairs in {**gains, **({"all scans": everyone} if len(gains) > 1 else {})}.items():
        mean, low, high = paired_interval([ours for ours, _ in pairs], [peer for _, peer in pairs])
        summary.add(kind, str(len(pairs)), mean, low if len(pairs) > 1 else None, high if len(pairs) > 1 else None)
    figures = {"ct_gain": float(np.mean([ours - best for ours, best in everyone])), "ct_over_transform": float(np.mean(over_transform))}
    for kind, key in (("simulated heads", "ct_gain_heads"), ("a real abdomen", "ct_gain_real")):
        if kind in gains:
            figures[key] = float(np.mean([ours - best for ours, best in gains[kind]]))

    print()
    doses = Table({"scan": "", "dose": "", "noise HU": ".1f", "noisy dB": ".2f", "transform dB": ".2f", "network dB": ".2f"})
    changes = []
    for share, times in (("tenth", 0.4), ("half", 2.0), ("whole", 4.0), ("four times the whole", 16.0)):
        for scan in (head(0, 90001, times, options.slices), abdomen_at(times)):
            if scan is not None:
                place = settings[scan.kind]["transform"]
                shrunk = filtered("transform", scan, choices(scan)["transform"][place])
                before, after = scan.quality(scan.noisy), scan.quality(restored(model, scan.noisy, "bfloat16"))
                doses.add(scan.name, share, scan.level(), before, scan.quality(shrunk), after)
                if times >= 4:
                    changes.append(after - before)
    figures["ct_gain_whole_dose"] = min(changes)

    print()
    speed = Table({"method": "", "CPU s / megavoxel": ".2f"})
    for name, (took, voxels) in seconds.items():
        if voxels:
            speed.add(name, 1e6 * took / voxels)
    run.end({"quality": quality, "gains": summary, "doses": doses, "speed": speed}, figures, options.save)


if __name__ == "__main__":
    main()
