"""What the proofs of noise reduction have in common: low-dose slices and their truth, trainings, filters that are tuned."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from scipy import ndimage

from benchmarks.superresolve import demo_heads
from cohortex.bakeoff.systems import grid
from cohortex.filters.blockwise import run_filter
from cohortex.filters.foreground import foreground
from cohortex.inference import run_network, way_of
from cohortex.io import read as read_image
from cohortex.items import Image
from cohortex.measures.image_quality import psnr
from cohortex.measures.multiscale import ms_ssim
from cohortex.measures.texture import noise_power_spectrum, spectrum_distance
from cohortex.models import registry
from cohortex.models.folder import Loaded, load_network, read_card
from cohortex.models.intensity import CT_WINDOW, to_unit
from cohortex.stages.denoise import apply_network
from cohortex.survey import survey
from cohortex.training.checkpoint import Checkpoint
from cohortex.training.denoise import train_denoise
from cohortex.training.denoise_data import Scan, sampler, scans_for, shape_of
from cohortex.training.features import FeatureDistance
from cohortex.training.loop import fit, fresh
from cohortex.training.noise import dose_noise
from cohortex.training.objectives.objective import Start
from cohortex.training.objectives.pixel import SquaredError
from cohortex.training.patches import places
from cohortex.training.settings import denoise_training
from cohortex.training.team import changed_team
from cohortex.volume import Volume

SEED = 61
TRAIN, VALIDATION, TEST = 4, 1, 2
"""Simulated heads."""

EDGE, SLICES, PIXEL_MM = 96, 12, 2.0
"""Pixels along the edges of slices, slices of each patient, and the pixel that heads are brought to."""

NOISE_HU, DOSE = 15.0, 0.05
"""Noise of a scan with the whole dose, as `noise_sigma` measures it, and the dose of the noisy scans."""

MR_NOISE, MR_LESS = 0.3, 0.15
"""Of the MR images, whose foreground has its 99th percentile at 1: heavy noise, as CNN-DAE is for, and less of it."""

JUDGE_STEPS = 400
"""Of the encoder that distances of features are measured with."""

FILTERS: dict[str, dict[str, Sequence[Any]]] = {
    "median": {"radius_mm": [1.0, 1.5, 2.0]},
    "gaussian": {"sigma_mm": [0.3, 0.4, 0.6, 0.8, 1.1]},
    "wavelet": {"sigma": [0.5, 0.7, 1.0, 1.4, 2.0]},
    "wiener": {"radius_mm": [1.0, 2.0], "sigma": [0.7, 1.0, 1.4, 2.0]},
    "anisotropic_diffusion": {"iterations": [3, 5, 10, 20], "kappa": [1.0, 2.0, 4.0, 8.0]},
    "total_variation": {"weight": [0.3, 0.5, 0.7, 1.0, 1.5, 2.0]},
}
"""Settings that are tried of each filter (P01 to P06). Lengths are in pixels, all else in units of the noise's standard deviation."""


@dataclass(frozen=True)
class Case:
    """A patient's slices: what is true, what is given, and where it is measured.

    Attributes
    ----------
    truth, noisy : (x, y, z) float32 arrays
    inside : (x, y, z) bool array
    spacing : three floats
    low, high : float
        What is 0 and 1 when it is measured.
    """

    name: str
    modality: str
    truth: np.ndarray
    noisy: np.ndarray
    inside: np.ndarray
    spacing: tuple[float, float, float]
    low: float
    high: float

    @property
    def simulated(self) -> bool:
        """Whether it is a head of the demo."""
        return self.name.startswith("head")

    def unit(self, array: np.ndarray) -> np.ndarray:
        """Return an array in the range in which it is measured."""
        return to_unit(array, self.low, self.high)

    def psnr(self, made: np.ndarray) -> float:
        """Return the PSNR of a result in the foreground."""
        return psnr(self.unit(self.truth), self.unit(made), 1.0, self.inside)

    def likeness(self, made: np.ndarray) -> tuple[float, float]:
        """Return MS-SSIM of a result, and how far the spectrum of what was taken away is from that of the noise, as bake-offs have them."""
        truth, noisy, result = (self.unit(array) for array in (self.truth, self.noisy, made))
        wanted, taken = (noise_power_spectrum(each - noisy, self.spacing, self.inside) for each in (truth, result))
        return ms_ssim(truth, result, 1.0), spectrum_distance(wanted, taken)

    def correlation(self, made: np.ndarray) -> float:
        """Return the correlation of what was taken away with the true image, in the foreground."""
        return float(np.corrcoef((self.noisy - made)[self.inside], self.truth[self.inside])[0, 1])

    def correlation_of_error(self, made: np.ndarray) -> float:
        """Return the least correlation that a mean of what the truth may be, given the noisy image, has with an error of this size.

        The error of such a mean is uncorrelated with the mean itself, so what it took away has the covariance of the error's
        variance with the truth: whoever errs has some, even where the noise has none.
        """
        error, taken = (made - self.truth)[self.inside], (self.noisy - made)[self.inside]
        return float(error.var() / (taken.std() * self.truth[self.inside].std()))

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in the foreground."""
        return float((self.noisy - self.truth)[self.inside].std())


@dataclass(frozen=True)
class Data:
    """Patients to learn from, to tune filters with and to be tested on, and the budget of a training.

    Attributes
    ----------
    folder : Path
        Of heads and models; what is there is not made again.
    scans : Path
        Of real scans, which may be absent.
    steps : float
        A multiple of every training's steps.
    """

    folder: Path
    scans: Path
    steps: float = 1.0
    found: dict[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def heads(self) -> list[Image]:
        """The simulated heads, free of noise, as CT and MR."""
        return demo_heads(self.folder / "heads", TRAIN + VALIDATION + TEST, SEED, "proof", ("CT", "T1w"))

    @cached_property
    def clean(self) -> dict[str, list[tuple[str, np.ndarray, tuple[float, float, float]]]]:
        """The slices of all patients before noise is added, in HU, by what they are for."""
        images = [image for image in self.heads if image.modality == "CT"]
        heads = [(f"head {number}", *_head(image.volume)) for number, image in enumerate(images)]
        kinds = {"train": heads[:TRAIN], "validation": heads[TRAIN : TRAIN + VALIDATION], "test": heads[TRAIN + VALIDATION :]}
        for kind, name, array, spacing in _real(self.scans):
            kinds[kind].append((name, array, spacing))
        return kinds

    @cached_property
    def training(self) -> list[Image]:
        """Scans with the whole dose, as `train_denoise` takes them."""
        return [self.scan(*each, index) for index, each in enumerate(self.clean["train"])]

    def scan(self, name: str, clean: np.ndarray, spacing: tuple[float, float, float], index: int) -> Image:
        """Return a training scan with the noise of the whole dose."""
        noise = dose_noise(clean, spacing[0], NOISE_HU, np.random.default_rng([SEED, 1, index]), foreground(clean))
        volume = Volume(clean + noise, np.diag([*spacing, 1.0]), modality="CT", body_part="any")
        return Image(name, name, "", "CT", "image", body_part="any", row={"split": "train"}, opener=lambda: volume)

    def cases(self, kind: str) -> list[Case]:
        """Return the noisy scans of `validation` or `test`."""
        if kind not in self.found:
            made = []
            for index, (name, clean, spacing) in enumerate(self.clean[kind]):
                rng = np.random.default_rng([SEED, 2 if kind == "test" else 3, index])
                made.append(noisy_case(name, clean, spacing, NOISE_HU / DOSE**0.5, rng))
            self.found[kind] = made
        return self.found[kind]

    def trained(
        self, name: str, steps: int, options: Mapping[str, Any] | None = None, precision: str = "float32", **training: Any
    ) -> Loaded:
        """Return a network that the stage's own training trained on the scans; of the same settings only one is made.

        Parameters
        ----------
        name : str
        steps : int
            Before they are multiplied by `Data.steps`.
        options : mapping, optional
            Of the network.
        precision : {"float32", "bfloat16"}
            What the network computes in while it is trained.
        **training
            See ``training`` in ``schemas/stages/denoise.json``.
        """
        told = {"steps": max(1, round(self.steps * steps)), "noise": "dose", "dose": DOSE, "target": "scan", "minutes": 600.0, **training}
        settings = {"method": name, "training": {**told, "options": dict(options or {})}}
        patients = [patient for patient, *_ in self.clean["train"]]
        key = sha256(json.dumps([settings, precision, SEED, patients], sort_keys=True).encode()).hexdigest()[:12]
        folder = self.folder / "models" / f"{name}-{key}"
        if not folder.is_dir():
            with changed_team(precision=precision):
                train_denoise(self.training, {"default": settings}, SEED, "cpu", folder)
        return Loaded(read_card(folder), load_network(folder), "cpu")

    def tuned(self, name: str) -> Filter:
        """Return a filter with the settings that are best for the validation patients."""
        if f"filter {name}" not in self.found:
            self.found[f"filter {name}"] = tuned(name, self.cases("validation"))
        return self.found[f"filter {name}"]

    def feature_distance(self) -> Callable[[Case, np.ndarray], float]:
        """Return the distance of features by an encoder of its own: other first weights and patches than that of the objective."""
        import torch

        section = {"default": {"method": "redcnn", "training": {"target": "scan", "noise": "dose", "dose": DOSE}}}
        training, entry = denoise_training(section), registry.entry("denoise", "wgan_vgg")
        network = fresh(lambda: registry.build("denoise", "wgan_vgg"), SEED)
        draw = sampler(scans_for(self.training, section, training, "pairs", SEED), shape_of(network, entry.expects, 48, "pairs"))
        encoder = FeatureDistance(JUDGE_STEPS, 16)
        encoder.begin(Start(network, draw, 1, 1, 1.0, SEED + 1000, "cpu", Checkpoint()))

        def distance(case: Case, made: np.ndarray) -> float:
            first, second = (torch.from_numpy(np.moveaxis(case.unit(a), 2, 0)[:, None].copy()) for a in (made, case.truth))
            with torch.no_grad():
                return float(encoder(first, second))

        return distance

    # --- MR ---

    def mr_cases(self, kind: str, noise: float = MR_NOISE) -> list[Case]:
        """Return the heads of `validation` or `test` as the demo's MR scanner sees them, with white noise; `train` to learn from."""
        if f"MR {kind} {noise}" not in self.found:
            images = [image for image in self.heads if image.modality == "T1w"]
            first, count = {"train": (0, TRAIN), "validation": (TRAIN, VALIDATION), "test": (TRAIN + VALIDATION, TEST)}[kind]
            made = []
            for number, image in enumerate(images[first : first + count], first):
                array = _middle(image.volume.array(np.float32), (EDGE, EDGE, 4 * SLICES))[:, :, ::4]
                inside = np.asarray(foreground(array))
                truth = array / np.float32(np.percentile(array[inside], 99))
                case = Case(image.subject, "T1w", truth, truth, inside, image.volume.spacing, 0.0, 1.0)
                made.append(noisier(case, "white", noise, np.random.default_rng([SEED, 4, number])))
            self.found[f"MR {kind} {noise}"] = made
        return self.found[f"MR {kind} {noise}"]

    def mr_autoencoder(self, steps: int, noise: float = MR_NOISE) -> Callable[[Case], np.ndarray]:
        """Return CNN-DAE as a function of a patient, trained as in its paper: clean images, and the same with noise drawn anew.

        The stage's training adds noise to scans that have some; clean images have none, so the steps of that training are taken here.
        """
        entry = registry.entry("denoise", "cnn_dae")
        network = fresh(lambda: registry.build("denoise", "cnn_dae"), SEED)
        scans = [
            Scan(case.truth, noise, False, 0.0, 1.0, places(case.inside, np.random.default_rng(SEED))) for case in self.mr_cases("train")
        ]
        draw = sampler(scans, shape_of(network, entry.expects, 64, "pairs"))
        told = {"steps": max(1, round(self.steps * steps)), "batch": 2, "seed": SEED, "rate": 2e-3, "optimiser": "muon"}
        key = sha256(json.dumps([told, noise], sort_keys=True).encode()).hexdigest()[:12]
        kept = self.folder / "models" / f"mr-cnn_dae-{key}.safetensors"
        if kept.is_file():
            network.load_state_dict(load_file(kept))
            network.eval()
        else:
            fit(network, draw, SquaredError(), **told)
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_file(network.state_dict(), kept)

        def restore(case: Case) -> np.ndarray:
            way = way_of(network, entry.expects, case.noisy.shape)
            return np.asarray(run_network(network, case.noisy, way.halo, way.block, "cpu", way=way)[0])

        return restore


# --- patients ----------------------------------------------------------------------------------------------------


def _head(volume: Volume) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return the middle slices of a head of the demo with pixels of `PIXEL_MM`."""
    spacing = volume.spacing
    array = _middle(volume.array(np.float32), (*volume.shape[:2], SLICES))
    coarse: Any = ndimage.zoom(array, [spacing[0] / PIXEL_MM, spacing[1] / PIXEL_MM, 1], order=1, grid_mode=True, mode="nearest")
    return _middle(coarse, (EDGE, EDGE, SLICES)), (PIXEL_MM, PIXEL_MM, spacing[2])


def _real(folder: Path) -> list[tuple[str, str, np.ndarray, tuple[float, float, float]]]:
    """Return the real scans that are there: a chest to learn from, an abdomen to be tested on and other slices of it to tune with."""
    found = []
    abdomen, chest = folder / "abdomen-ct-mr" / "example_ct.nii.gz", folder / "chest-ct-dicom" / "LIDC-IDRI-0314"
    if abdomen.is_file():
        volume = read_image(abdomen)[0]
        array = np.maximum(volume.array(np.float32), -1024)
        for kind, first in (("test", 20), ("validation", 70)):
            found.append((kind, "abdomen", _middle(array[:, :, first : first + SLICES], (EDGE, EDGE, SLICES)), volume.spacing))
    if chest.is_dir():
        volume = read_image(chest)[0]
        array = np.maximum(volume.array(np.float32), -1024)
        # means over 4 x 4 pixels and 2 slices, in which the scan's own noise is small
        coarse = array[:, :, : 2 * SLICES].reshape(array.shape[0] // 4, 4, array.shape[1] // 4, 4, -1, 2).mean((1, 3, 5))
        x, y, z = volume.spacing
        found.append(("train", "chest", _middle(coarse, (EDGE, EDGE, SLICES)), (4 * x, 4 * y, 2 * z)))
    return found


def _middle(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    starts = [max(0, (n - m) // 2) for n, m in zip(array.shape, shape, strict=True)]
    return np.ascontiguousarray(array[tuple(slice(a, a + m) for a, m in zip(starts, shape, strict=True))], np.float32)


# --- systems -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """A filter of the project with some settings (see `FILTERS`), applied slice by slice as the networks of pictures are."""

    name: str
    settings: Mapping[str, Any]

    def __call__(self, case: Case) -> np.ndarray:
        """Return a patient's slices, filtered."""
        inward = {key: self._scaled(key, value, case) for key, value in self.settings.items()}
        slices = [
            run_filter(self.name, np.ascontiguousarray(part[:, :, None]), case.spacing, inward) for part in np.moveaxis(case.noisy, 2, 0)
        ]
        return np.concatenate([np.asarray(part) for part in slices], axis=2)

    def _scaled(self, key: str, value: float, case: Case) -> float:
        if key == "iterations":
            return int(value)
        return value * (case.spacing[0] if key.endswith("_mm") else case.sigma)


def tuned(name: str, cases: Sequence[Case]) -> Filter:
    """Return a filter with the settings that are best for some patients."""
    return max((Filter(name, settings) for settings in grid(FILTERS[name])), key=lambda each: mean_psnr(cases, each))


def restored(model: Loaded, case: Case) -> np.ndarray:
    """Return a patient's slices as the stage restores them with a network."""
    volume = Volume(case.noisy, np.diag([*case.spacing, 1.0]), modality=case.modality, body_part="any")
    return np.asarray(apply_network(model, survey(volume), case.modality)[0])


def in_stacks(model: Loaded, case: Case, slices: int) -> np.ndarray:
    """Return a patient's slices as a network in three dimensions restores so many at a time, with nothing beyond them."""
    import torch

    given = torch.from_numpy(case.unit(case.noisy))[None, None]
    starts = range(given.shape[4] - slices + 1)
    made = np.zeros(case.noisy.shape, np.float32)
    with torch.no_grad():
        for z in range(given.shape[4]):
            # the stack in whose middle the slice lies
            start = min(max(z - slices // 2, 0), starts[-1])
            made[:, :, z] = model.network(given[..., start : start + slices])[0, 0, :, :, z - start].numpy()
    return made * np.float32(CT_WINDOW["high"] - CT_WINDOW["low"]) + np.float32(CT_WINDOW["low"])


def without_projected_noise(case: Case) -> np.ndarray:
    """Return a patient's slices without the noise that their projections show, all of it."""
    import torch

    from cohortex.models.denoise.projection import scanner

    noise = torch.from_numpy(np.moveaxis(case.noisy - case.truth, 2, 0)[:, None].copy())
    way = scanner((noise.shape[2], noise.shape[3]))
    return case.noisy - np.moveaxis(way.reconstruct(way.project(noise))[:, 0].numpy(), 0, 2)


def mean_psnr(cases: Sequence[Case], system: Callable[[Case], np.ndarray]) -> float:
    """Return the mean PSNR over patients of a system."""
    return float(np.mean([case.psnr(system(case)) for case in cases]))


def noisy_case(name: str, clean: np.ndarray, spacing: tuple[float, float, float], sigma_hu: float, rng: np.random.Generator) -> Case:
    """Return a patient with the noise of some dose."""
    inside = np.asarray(foreground(clean))
    noise = dose_noise(clean, spacing[0], sigma_hu, rng, inside)
    return Case(name, "CT", clean, clean + noise, inside, spacing, CT_WINDOW["low"], CT_WINDOW["high"])


def noisier(case: Case, kind: str, level: float, rng: np.random.Generator) -> Case:
    """Return a patient with other noise of a standard deviation: ``white``, ``impulse`` (pixels at 0 or 1), or ``correlated``."""
    noise = rng.standard_normal(case.truth.shape)
    if kind == "correlated":
        noise = ndimage.gaussian_filter(noise, (1, 1, 0))
        noise /= noise.std()
    noisy = case.truth + level * noise
    if kind == "impulse":
        extreme = rng.integers(0, 2, case.truth.shape)
        # as many pixels as give the same mean squared error in the foreground
        share = level**2 / np.mean((extreme - case.truth)[case.inside] ** 2)
        noisy = np.where(rng.random(case.truth.shape) < share, extreme, case.truth)
    return replace(case, noisy=noisy.astype(np.float32))
