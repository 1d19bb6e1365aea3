"""Networks that learn to denoise from noisy scans alone, beside the same network trained on clean targets and beside classical filters.

    python -m benchmarks.selfsupervised [--scans ../shared/data] [--steps 200] [--only supervised recorrupted ...]

One network (`frame_unet_2d` for MR; for CT `unet`, which takes the noise of a reconstruction as it comes), one budget, one seed; what
changes is the objective. The supervised twin is given the same noisy slices and their truth (of magnitudes their mean without noise, whose
bias is undone afterwards as for all others). All others are given the noisy scans alone:
`blind_spot` masks pixels, `sure` and `recorrupted` take the noise that is estimated in each scan, `halves` and `consensus` have each scan
twice with noise of its own, `noise2inverse` has the CT projected anew and its views split; that nothing else reached them is checked
byte for byte. `blind_spot` is tried with its own network, too. Scans and noise are those of `benchmarks.noisy_scans`; the stage `denoise`
itself makes the results and estimates the noise.

The six filters and the block transform are tuned on validation scans, whose truth they see; each is given the estimated noise, and
undoes the bias of magnitudes where that helps. PSNR is taken where there is signal. Means and 95 % intervals are over scans (each with
two levels of noise). `selfsupervised_gap`: what the recipe for single scans (`docs/recipes`) loses to its twin in dB; `n09_...`: the
consensus network; `n10_over_filters`: the recipe over the best of all filters. Without the folder of real scans the heads alone are used.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from benchmarks.noisy_scans import Case, ct_cases, mr_cases
from benchmarks.record import ROOT, Run, Table, add_save
from cohortex.blocks import read_block
from cohortex.errors import BadInput
from cohortex.filters.chain import FILTERS
from cohortex.filters.transform import denoise_transform, rician_amplitude
from cohortex.items import Image
from cohortex.measures.image_quality import psnr
from cohortex.measures.intervals import paired_interval
from cohortex.models import registry
from cohortex.models.folder import Loaded
from cohortex.stages import denoise as stage
from cohortex.threads import set_threads
from cohortex.training import objectives
from cohortex.training.denoise_data import Scan, in_units, sampler, scans_for, shape_of
from cohortex.training.loop import fit, fresh
from cohortex.training.noise import split_views
from cohortex.training.settings import DENOISE

if TYPE_CHECKING:
    from torch import nn

SECTION: dict[str, Any] = {"default": {}}
SEED = 20261126
RECIPE = "recorrupted"
"""The objective of docs/recipes/denoise_from_noisy_scans.yaml."""

SUPERVISED = "supervised"


@dataclass(frozen=True)
class System:
    """A network, its objective and what it is trained on."""

    name: str
    objective: str
    network: str = "frame_unet_2d"
    modality: str = "MR"

    @property
    def supervised(self) -> bool:
        """Whether it sees the truth."""
        return self.name == SUPERVISED


SYSTEMS = [
    System(SUPERVISED, "squared_error", "unet", "CT"),
    System("noise2inverse", "noise2inverse", "unet", "CT"),
    System(SUPERVISED, "squared_error"),
    System("recorrupted", "recorrupted"),
    System("consensus", "consensus"),
    System("halves", "halves"),
    System("sure", "sure"),
    System("blind_spot", "blind_spot"),
    System("blind_spot network", "blind_spot", "blind_spot"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "frame_unet_2d": {"blocks": 2},
    "unet": {"features": [16, 32, 64]},
    "blind_spot": {"filters": 24, "depth": 4},
}
TRAINING = {"batch": 8, "patch": 48, "rate": 5e-4}


# --- trainings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired(Scan):
    """A scan whose truth (`clean`) is known, with the one noisy version of it that was measured."""

    measured: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    def noisy(self, clean: np.ndarray, box: Sequence[tuple[int, int]], halo: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """Return a box of what was measured."""
        return read_block(self.measured, box, halo).reshape(clean.shape)


def with_truth(cases: Sequence[Case]) -> list[Scan]:
    """Return scans with their truth, for the supervised twin alone."""
    scans = blind([case.scan for case in cases], "noisy")
    kept = [{each.name: getattr(scan, each.name) for each in fields(Scan)} for scan in scans]
    made = []
    for own, case in zip(kept, cases, strict=True):
        # The twin, too, learns the mean of magnitudes, whose bias the stage undoes: else it would have to learn that as well.
        target = case.truth if case.scan.modality == "CT" else rician_mean(case.truth, case.sigma)
        made.append(Paired(**{**own, "clean": target, "measured": case.noisy}))
    return made


def rician_mean(amplitude: np.ndarray, sigma: float) -> np.ndarray:
    """Return the mean of magnitudes with Rician noise, float32: what `cohortex.filters.transform.rician_amplitude` undoes."""
    half = (np.asarray(amplitude, np.float64) / sigma) ** 2 / 4
    return (sigma * np.sqrt(np.pi / 2) * ((1 + 2 * half) * special.i0e(half) + 2 * half * special.i1e(half))).astype(np.float32)


def blind(images: Sequence[Image], reads: objectives.Reads) -> list[Scan]:
    """Return scans as the stage prepares them from what was measured.

    Raises
    ------
    AssertionError
        When a scan holds an array that was not measured (or, of projections, not made of one that was).
    """
    scans = scans_for(images, SECTION, dict(DENOISE), reads, SEED)
    measured = [image.volume.array(np.float32) for image in images]
    if reads == "projections":
        measured = [part for image, array in zip(images, measured, strict=True) for part in split_views(array, image.volume.spacing[0], 4)]
    for scan in scans:
        for array in (scan.clean, *scan.others)[reads == "projections" :]:
            if not any(np.array_equal(array, each) for each in measured):
                raise AssertionError("a training from noisy scans was given something that was not measured")
    return scans


def trained(system: System, cases: Sequence[Case], steps: int) -> nn.Module:
    """Return the network after its training."""
    reads = objectives.kind(system.objective).reads
    given = [each for case in cases for each in ((case.scan, case.again) if reads == "halves" else (case.scan,))]
    scans = with_truth(cases) if system.supervised else blind(given, reads)
    entry, options = registry.entry("denoise", system.network), OPTIONS[system.network]
    expects = registry.expected(entry, options)
    network = fresh(lambda: registry.build("denoise", system.network, **options), SEED)
    shape = shape_of(network, expects, TRAINING["patch"], reads)
    drawn = sampler([in_units(scan, expects, reads) for scan in scans], shape)
    objective = objectives.build(system.objective)
    fit(network, drawn, objective, steps=steps, seed=SEED, batch=TRAINING["batch"], rate=TRAINING["rate"])
    return network


def restored(system: System, network: nn.Module, image: Image) -> np.ndarray:
    """Return what the stage makes of an image with a network of this run; the image itself where it sets the result aside."""
    units = registry.entry("denoise", system.network).expects.values == registry.NOISE_UNITS
    card = {
        "name": system.name,
        "network": system.network,
        "options": OPTIONS[system.network],
        "sha256": "",
        "modality": ["any"],
        "body_part": ["any"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.1, "max": 20.0},
        **({"values": {"kind": "noise", "low": 0, "high": 1}} if units else {}),
        "extra": {"makes": stage.MEAN},
    }
    settings = {"method": system.network, "weights": "it"}
    try:
        made = stage.denoise(image, settings, {"it": Loaded(card, network, "cpu")}, 0)
    except BadInput as bad:
        print(bad.sentence, flush=True)
        return image.volume.array(np.float32)
    return made.content.array(np.float32)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


# --- what they are compared with ---------------------------------------------------------------------------------

Method = Callable[[np.ndarray, Sequence[float], float], np.ndarray]
"""Of an image, its spacing and its estimated noise."""


def methods() -> dict[str, dict[str, Method]]:
    """Return the classical methods by name, each with the settings that are tried."""

    def by(name: str, settings: Callable[[Sequence[float], float], Mapping[str, Any]]) -> Method:
        return lambda image, spacing, sigma: FILTERS[name](image, spacing, **settings(spacing, sigma))

    def flat(share: float, spacing: Sequence[float]) -> Mapping[str, Any]:
        return {"sigma_mm": (share * spacing[0], share * spacing[1], 0.01 * spacing[2])}

    def box(pixels: int, spacing: Sequence[float]) -> Mapping[str, Any]:
        return {"radius_mm": 1.01 * pixels * max(spacing[:2])}

    def transform(share: float, size: int) -> Method:
        return lambda image, spacing, sigma: denoise_transform(image, spacing, sigma, strength=share, block_size=size)

    return {
        "median": {f"radius {r} pixels": by("median", lambda w, _, r=r: box(r, w)) for r in (1, 2)},
        "gaussian": {f"{s} pixels": by("gaussian", lambda w, _, s=s: flat(s, w)) for s in (0.5, 0.6, 0.75, 0.9)},
        "wavelet": {f"sigma x {s}": by("wavelet", lambda _, n, s=s: {"sigma": s * n}) for s in (0.7, 0.9, 1.1, 1.4)},
        "wiener": {
            f"radius {r} pixels, sigma x {s}": by("wiener", lambda w, n, r=r, s=s: {**box(r, w), "sigma": s * n})
            for r in (1, 2)
            for s in (0.8, 1.0, 1.2)
        },
        "anisotropic_diffusion": {
            f"{i} steps, kappa {k} sigma": by("anisotropic_diffusion", lambda _, n, i=i, k=k: {"iterations": i, "kappa": k * n})
            for i in (2, 4, 8)
            for k in (2.0, 3.0, 4.5)
        },
        "total_variation": {f"weight {s} sigma": by("total_variation", lambda _, n, s=s: {"weight": s * n}) for s in (0.4, 0.6, 0.8, 1.1)},
        "transform": {f"strength {s}, blocks of {e}": transform(s, e) for e in (4, 8) for s in (0.8, 0.9, 1.0)},
    }


def filtered(method: Method, cases: Sequence[Case]) -> dict[bool, list[float]]:
    """Return the PSNR of a method on each scan, as it is and (True) with the bias of magnitudes undone."""
    found: dict[bool, list[float]] = {False: [], True: []}
    for case in cases:
        made = method(case.noisy, case.scan.volume.spacing, case.sigma)
        for undo, each in found.items():
            each.append(psnr(case.truth, rician_amplitude(made, case.sigma) if undo else made, case.reach, case.inside))
    return found


def tuned(validation: Sequence[Case], test: Sequence[Case]) -> dict[str, tuple[str, list[float]]]:
    """Return of each classical method the settings that are best on validation scans, and its PSNR on those of the test."""
    found = {}
    magnitudes = validation[0].scan.modality != "CT"
    for name, settings in methods().items():
        tries = {
            (label, undo): float(np.mean(values))
            for label, method in settings.items()
            for undo, values in filtered(method, validation).items()
            if magnitudes or not undo
        }
        label, undo = max(tries, key=lambda tried: tries[tried])
        found[name] = (label + (", bias undone" if undo else ""), filtered(settings[label], test)[undo])
    return found


# --- the record --------------------------------------------------------------------------------------------------


def by_scan(cases: Sequence[Case], values: Sequence[float]) -> list[float]:
    """Return the means over the levels of noise of each scan."""
    names = [case.name.split(",")[0] for case in cases]
    return [float(np.mean([v for n, v in zip(names, values, strict=True) if n == name])) for name in dict.fromkeys(names)]


def main() -> None:
    """Print the tables and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data", help="the folder of real test scans")
    parser.add_argument("--steps", type=int, default=300, help="of every training")
    parser.add_argument("--minutes", type=float, default=12.0, help="after so many no further training is begun")
    parser.add_argument("--only", nargs="*", help="names of systems; no figures of the others")
    add_save(parser)
    options = parser.parse_args()
    set_threads(1)
    run = Run("selfsupervised", ["numpy", "torch", "numba"])
    columns = {"method": "", "settings": "", "PSNR dB": ".2f", "over the transform dB": "+.2f", "low": "+.2f", "high": "+.2f"}
    more = {"to its twin dB": "+.2f", "low ": "+.2f", "high ": "+.2f", "CPU s": ".0f"}
    tables: dict[str, Table] = {}
    scores: dict[tuple[str, str], list[float]] = {}
    for modality, cases_of in (("CT", ct_cases), ("MR", mr_cases)):
        systems = [each for each in SYSTEMS if each.modality == modality and (options.only is None or each.name in options.only)]
        if not systems:
            continue
        train, validation, test = (cases_of(split, options.scans) for split in ("train", "validation", "test"))
        print(f"\n{modality}: {len(train)} scans in training, {len(validation)} in validation, {len(test)} in test\n", flush=True)
        table = tables[modality.lower()] = Table(columns | more)
        classical = tuned(validation, test)
        reference = by_scan(test, classical["transform"][1])
        table.add("as measured", "", np.mean([psnr(c.truth, c.noisy, c.reach, c.inside) for c in test]), *[None] * 7)
        for name, (label, values) in classical.items():
            scores[modality, name] = by_scan(test, values)
            gain = [None] * 3 if name == "transform" else paired_interval(scores[modality, name], reference)
            table.add(name, label, np.mean(scores[modality, name]), *gain, *[None] * 4)
        for system in systems:
            if time.monotonic() - run.start > 60 * options.minutes:
                print(f"no time for {modality} {system.name}", flush=True)
                continue
            begun = time.process_time()
            network = trained(system, train, options.steps)
            spent = time.process_time() - begun
            values = [psnr(case.truth, restored(system, network, case.scan), case.reach, case.inside) for case in test]
            own = scores[modality, system.name] = by_scan(test, values)
            twin = scores.get((modality, SUPERVISED))
            gap = [None] * 3 if twin is None or system.supervised else paired_interval(own, twin)
            table.add(system.name, system.network, np.mean(own), *paired_interval(own, reference), *gap, spent)
    run.end(tables, figures(scores), options.save)


def figures(scores: Mapping[tuple[str, str], Sequence[float]]) -> dict[str, float]:
    """Return the figures that the scores give, in dB."""
    mean = {key: float(np.mean(values)) for key, values in scores.items()}
    filters = {
        modality: max((mean[modality, name] for name in methods() if (modality, name) in mean), default=0.0) for modality in ("MR", "CT")
    }
    wanted = {
        "selfsupervised_gap": (("MR", SUPERVISED), ("MR", RECIPE)),
        "n09_gap": (("MR", SUPERVISED), ("MR", "consensus")),
        "n09_over_tv": (("MR", "consensus"), ("MR", "total_variation")),
        "n09_over_transform": (("MR", "consensus"), ("MR", "transform")),
        "n10_ct_gap": (("CT", SUPERVISED), ("CT", "noise2inverse")),
    }
    found = {name: mean[a] - mean[b] for name, (a, b) in wanted.items() if a in mean and b in mean}
    for name, key in (("n10_over_filters", ("MR", RECIPE)), ("n10_ct_over_filters", ("CT", "noise2inverse"))):
        if key in mean:
            found[name] = mean[key] - filters[key[0]]
    return found


if __name__ == "__main__":
    main()
