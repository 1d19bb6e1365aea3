"""Train the shipped MR denoiser.

    python -m cohortex.training.zoo_mr --folder zoo/denoise/frame_unet [--scans ../shared/data]

The same images, seed and steps give the same bytes on one kind of processor with one thread (OMP_NUM_THREADS=1). A training that was
stopped goes on from its checkpoint beside the folder. Afterwards what ``benchmarks.denoise --save FILE`` measured goes into the card:

    python -m cohortex.training.zoo_mr --folder zoo/denoise/frame_unet --record FILE
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cohortex.filters.transform import denoise_transform
from cohortex.inference import Runner
from cohortex.measures.image_quality import psnr
from cohortex.models import registry
from cohortex.models.folder import read_model, write_model
from cohortex.training import cards
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.loop import Curves, fit, fresh
from cohortex.training.mr_patches import LEVELS, Clean, clean_images, draw, simulated
from cohortex.training.muon import Muon
from cohortex.training.objectives.pixel import SquaredError
from cohortex.training.team import changed_team

NETWORK = "frame_unet"
TRAINING: dict[str, Any] = {
    "steps": 19000,
    "rate": 1e-3,
    "kernels_faster": 2.5,
    "batch": 1,
    "patch": 46,
    "ema": 0.999,
    "heads": 8,
}
"""One warm-up and one cosine. Many steps of one patch each learn more in the same time than few of several."""

BY_ADAM = ("analysis", "synthesis", "noise", "correction")
"""Layers that `Muon` does not take orthogonal steps for: the frame, and what gives the result."""

HELD_OUT = 3
"""Simulated people of the card's metrics."""

DATA = (
    "Real MR, by folders of the test data, where licences allow it: patient07 (T1, T1 after contrast, T2, FLAIR, 1 mm) and patient01 "
    "(two visits, T1, T2, FLAIR, thick slices) of the Laboratory of Imaging Technologies, University of Ljubljana, CC BY (Lesjak et al., "
    "Neuroinformatics 2016 and 2018; github.com/muschellij2/open_ms_data); a cervical spine T2 (MIT, "
    "github.com/spinalcordtoolbox/sct_testing_data); an abdomen MR (Apache-2.0, github.com/wasserth/TotalSegmentator); three prostate "
    "MR (Apache-2.0, github.com/learn2reg/tutorials2019). Beside them the MNI152 2009a average T1 that nilearn ships (Fonov et al. "
    "2009, copyright McConnell Brain Imaging Centre, free use with its notice) and simulated heads of the demo. extra.real_scans lists "
    "the files."
)
SIMULATED_DATA = "Simulated heads of the demo and the MNI152 2009a average T1 that nilearn ships (Fonov et al. 2009)."
INTENDED = (
    "Removes the noise of MR magnitudes (Rician, 1.5 to 14 % of the bright tissue) of any contrast, volumes of thin or thick slices; "
    "undoes the bias of magnitudes. Every image is divided by its own estimated noise."
)
LIMITS = (
    "Not for CT, for images with values around zero (phase, maps, z-scores), for noise that varies much over the image (parallel imaging "
    "at high factors) or is strongly correlated; detail below the noise is smoothed as by every denoiser. Trained on few real brains. "
    "On average it is about level with BM4D, not better (metrics): on a 1 mm T1 of a skull-stripped brain it was 0.2 dB behind at 5 % and "
    "0.4 dB at 10 %. Where quality counts more than time BM4D is as good a choice or a better one. Not for clinical use."
)


class PatchError(SquaredError):
    """The mean squared error, in units of the noise; kernels take orthogonal steps, `faster` times as large as those of the rest."""

    def __init__(self, faster: float):
        super().__init__()
        self.faster = faster

    def optimiser(self, groups: Iterable[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return `Muon`."""
        named = self.start.network.named_parameters()
        kernels = [p for name, p in named if p.ndim == 5 and name.split(".")[0] not in BY_ADAM and min(p.shape[:2]) > 1]
        return Muon(groups, rate, kernels, self.faster)


def trained(images: Sequence[Clean], training: Mapping[str, Any], seed: int, journal: Journal) -> tuple[nn.Module, Curves]:
    """Return the network with its averaged weights, and how the training went; computed in bfloat16, kept in float32."""
    edge = int(training["patch"])

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw(images, edge, rng) for _ in range(count)]
        return np.stack([d[0] for d in drawn])[:, None], np.stack([d[1] for d in drawn])[:, None]

    network = fresh(lambda: registry.build("denoise", NETWORK), seed).to(memory_format=torch.channels_last_3d)  # pyright: ignore
    with changed_team(precision="bfloat16"):
        curves = fit(
            network,
            sample,
            PatchError(float(training["kernels_faster"])),
            steps=int(training["steps"]),
            batch=int(training["batch"]),
            rate=float(training["rate"]),
            ema=float(training["ema"]),
            seed=seed,
            checkpoint=journal.of("network"),
        )
    return network, curves


def write(folder: Path, network: nn.Module, images: Sequence[Clean], recipe: Mapping[str, Any], seed: int) -> None:
    """Write the model folder, weights in half precision; the metrics are those of simulated heads that were not trained on."""
    real = sorted({image.name for image in images if not image.name.startswith(("head", "MNI152")) and not image.name.endswith("(half)")})
    card = {
        "name": "mr-frame-unet",
        "task": "denoise",
        "network": NETWORK,
        "modality": ["T1w", "T2w", "FLAIR", "PDw"],
        "body_part": ["any"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.4, "max": 7.0},
        "values": {"kind": "noise", "low": 0, "high": 1},
        "data": DATA if real else SIMULATED_DATA,
        "simulated": False,
        "recipe": dict(recipe),
        "seed": seed,
        "metrics": metrics(network, seed),
        "intended_use": INTENDED,
        "limits": LIMITS,
        "license": "Apache-2.0",
        "extra": {"real_scans": real},
    }
    write_model(folder, card, {name: value.half() for name, value in network.state_dict().items()})


def metrics(network: nn.Module, seed: int) -> list[dict[str, Any]]:
    """Return the gain in PSNR over the block DCT on the middle of simulated heads of another seed, with Rician noise of 3, 5 and 10 %."""
    rows: dict[float, list[tuple[float, float]]] = {level: [] for level in (0.03, 0.05, 0.1)}
    names: list[str] = []
    runner = Runner(network, "cpu", (256, 256, 256))
    rng = np.random.default_rng([seed, 3])
    for name, array, _ in simulated(HELD_OUT, seed + 1):
        if "random" in name:
            continue
        names.append(name.split(" iso")[0])
        truth = np.maximum(array, 0) / np.float32(np.percentile(array, 99.9))
        box = tuple(slice(max(0, n // 2 - 32), n // 2 + 32) for n in truth.shape)
        truth = np.ascontiguousarray(truth[box])
        for level, found in rows.items():
            noise = np.float32(level) * rng.standard_normal((2, *truth.shape), dtype=np.float32)
            noisy = np.hypot(truth + noise[0], noise[1])
            made = runner(torch_of(noisy / np.float32(level)))[0, 0].numpy() * np.float32(level)
            shrunk = denoise_transform(noisy, (1.0, 1.0, 1.0), level, rician=True)
            found.append((psnr(truth, made, 1.0, truth > 0.02), psnr(truth, shrunk, 1.0, truth > 0.02)))
    on = "simulated heads that were not trained on, Rician noise of {:g} % of the 99.9th percentile, level known"
    return [
        cards.gain(
            "PSNR gain dB over the transform",
            names,
            [ours for ours, _ in found],
            [theirs for _, theirs in found],
            "block DCT",
            on.format(100 * level),
        )
        for level, found in rows.items()
    ]


def torch_of(array: np.ndarray) -> torch.Tensor:
    """Return an array as a batch of one with one channel."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]


def with_record(folder: Path, record: Path) -> None:
    """Add what ``benchmarks.denoise`` measured against BM4D to the card of a model folder, with what is said of its use and limits."""
    card, tensors = read_model(folder)
    table = json.loads(record.read_text(encoding="utf-8"))["tables"]["gains"]["rows"]
    added = []
    for level, scans, *gain in table:
        kind = "simulated heads" if level == "3 %" else "real brains"
        on = f"{kind} that were not trained on, Rician noise of {level}, level known to both"
        values = (float(f"{value:.3g}") for value in gain)
        named = dict(zip(("value", "low", "high"), values, strict=True))
        added.append({"name": "PSNR gain dB over BM4D, bfloat16", **named, "n": int(scans), "against": "BM4D", "on": on})
    kept = [metric for metric in card["metrics"] if metric.get("against") != "BM4D"]
    del card["sha256"]
    said = {"intended_use": INTENDED, "limits": LIMITS}
    write_model(folder, {**card, **said, "metrics": kept + added}, tensors)


def main() -> None:
    """Train and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model folder to be")
    parser.add_argument(
        "--scans", type=Path, help="a folder with the real scans; without it only simulated heads and the template are seen"
    )
    parser.add_argument("--steps", type=int, default=TRAINING["steps"])
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--record", type=Path, help="do not train: add the gains of this record of benchmarks.denoise to the folder's card")
    options = parser.parse_args()
    if options.record is not None:
        with_record(options.folder, options.record)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    training = {**TRAINING, "steps": options.steps}
    journal = open_journal(options.folder, [], training, options.seed)
    images = clean_images(options.scans, training["heads"], options.seed)
    network, curves = trained(images, training, options.seed, journal)
    run = {"precision": "bfloat16", "examples": curves.steps * training["batch"]}
    recipe = {"training": training, "noise": list(LEVELS), **curves.recipe(), "run": run}
    write(options.folder, network, images, recipe, options.seed)
    journal.forget()


if __name__ == "__main__":
    main()
