"""Train the shipped CT denoiser.

    python -m cohortex.training.zoo_ct --folder zoo/denoise/low_dose [--scans ../shared/data]

The same images, seed and steps give the same bytes on one kind of processor with one thread (OMP_NUM_THREADS=1). A training that was
stopped goes on from its checkpoint beside the folder. Afterwards what ``benchmarks.denoise_ct --save FILE`` measured goes into the card:

    python -m cohortex.training.zoo_ct --folder zoo/denoise/low_dose --record FILE
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cohortex.filters.foreground import foreground
from cohortex.filters.transform import denoise_transform
from cohortex.inference import channels_last, run_network, way_of
from cohortex.measures.image_quality import noise_sigma, psnr
from cohortex.models import registry
from cohortex.models.folder import read_model, write_model
from cohortex.training import cards
from cohortex.training.checkpoint import Journal, open_journal
from cohortex.training.ct_patches import LEVELS, Clean, clean_images, draw
from cohortex.training.loop import Curves, fit, fresh
from cohortex.training.team import changed_team

if TYPE_CHECKING:
    import torch
    from torch import nn

NETWORK, OPTIONS = "half_grid_unet", {"scale": 43.0}
TRAINING: dict[str, Any] = {"steps": 4900, "rate": 1.5e-3, "batch": 8, "patch": 96, "ema": 0.998, "heads": 10}

WINDOW = (-1200.0, 3100.0)
"""HU that become 0 and 1; what lies outside is left as it is."""

SOFT = (-200.0, 300.0)
"""HU of soft tissue, whose errors count whole; those of lung and bone count for `ELSEWHERE`."""

ELSEWHERE = 0.2
FLOOR = 1e-4
"""Of the squared error of a patch, in units of 100 HU: patches that are easy do not matter more than this."""

HELD_OUT = 4
"""Simulated people of the card's metrics."""

MIDDLE = slice(24, 40)
"""Slices of each that count."""

VIEW = (-160.0, 240.0)
"""Window in HU in which the metrics are taken."""

DATA = (
    "Real CT, from folders of the test data, as they are and averaged to thicker slices and larger pixels: abdomen-ct-mr/example_ct (one "
    "abdomen, 3 mm, Apache-2.0, github.com/wasserth/TotalSegmentator) and chest-ct-dicom (LIDC-IDRI-0314, one chest, Philips, kernel D, "
    "1 mm; The Cancer Imaging Archive, CC BY 3.0, Armato et al., Medical Physics 38, 2011). Beside them simulated heads of the demo. "
    "Noise of less dose was added by projection (parallel beams, Poisson counts, electronic noise) and filtered backprojection. "
    "extra.real_scans lists the files."
)
SIMULATED_DATA = "Simulated heads of the demo with simulated noise of less dose."
INTENDED = (
    "Removes the noise of CT by filtered backprojection at about a quarter of the dose, soft tissue of head, chest and abdomen, slice by "
    "slice with two slices on each side. The level need not be known."
)
LIMITS = (
    "Trained on two real patients and simulated heads, on noise of parallel beams: iterative reconstructions, sharp bone and lung kernels, "
    "metal, and noise above 70 HU were not tried. Detail below the noise is smoothed as by every denoiser; low-contrast "
    "lesions may vanish. Where the noise is even and its spectrum known, BM3D that is told it does about as well (simulated heads); the "
    "gain is large where streaks cross the patient. Fine detail of lung and bone counted for little in the training. Not for diagnosis."
)


def trained(images: Sequence[Clean], training: Mapping[str, Any], seed: int, journal: Journal) -> tuple[nn.Module, Curves]:
    """Return the network with its averaged weights, and how it went; computed in bfloat16, kept in float32."""
    import torch

    network = fresh(lambda: registry.build("denoise", NETWORK, **OPTIONS), seed).to(memory_format=torch.channels_last)  # pyright: ignore
    edge, adjacent = int(training["patch"]), int(network.adjacent)  # pyright: ignore[reportArgumentType]

    def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        drawn = [draw(images, edge, adjacent, rng) for _ in range(count)]
        noisy, clean = (np.stack([pair[side] for pair in drawn]) for side in (0, 1))
        return in_window(noisy), in_window(clean)

    with changed_team(precision="bfloat16"):
        curves = fit(
            network,
            sample,
            window_error,
            steps=int(training["steps"]),
            batch=int(training["batch"]),
            rate=float(training["rate"]),
            ema=float(training["ema"]),
            seed=seed,
            checkpoint=journal.of("network"),
        )
    return network, curves


def in_window(hu: np.ndarray) -> np.ndarray:
    """Return HU as the network takes them, float32."""
    return ((hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0])).astype(np.float32)


def window_error(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean over patches of their root mean squared error in units of 100 HU, soft tissue before all else.

    It lies between the mean squared error, which the noisiest patches rule, and decibels, in which all patches count alike.
    """
    low, high = ((edge - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) for edge in SOFT)
    weight = ((target > low) & (target < high)).float() * (1 - ELSEWHERE) + ELSEWHERE
    error = ((made - target) * ((WINDOW[1] - WINDOW[0]) / 100)) ** 2
    return (weight * error).mean(dim=(1, 2, 3)).add(FLOOR).sqrt().mean()


def write(folder: Path, network: nn.Module, images: Sequence[Clean], recipe: Mapping[str, Any], seed: int) -> None:
    """Write the model folder, weights in half precision; the metrics are those of simulated heads that were not trained on."""
    real = sorted({image.name.split(" in thick")[0] for image in images if not image.name.startswith("head")})
    halves = {name: value.half() for name, value in network.state_dict().items()}
    network.load_state_dict({name: value.float() for name, value in halves.items()})
    card = {
        "name": "ct-low-dose",
        "task": "denoise",
        "network": NETWORK,
        "options": dict(OPTIONS),
        "modality": ["CT"],
        "body_part": ["any"] if real else ["head"],
        "dimensions": [3],
        "spacing_mm": {"min": 0.4, "max": 10.0},
        "values": {"kind": "window", "low": WINDOW[0], "high": WINDOW[1]},
        "data": DATA if real else SIMULATED_DATA,
        "simulated": not real,
        "recipe": dict(recipe),
        "seed": seed,
        "metrics": metrics(network, seed),
        "intended_use": INTENDED,
        "limits": LIMITS,
        "license": "Apache-2.0",
        "extra": {"real_scans": real},
    }
    write_model(folder, card, halves)


def metrics(network: nn.Module, seed: int) -> list[dict[str, Any]]:
    """Return the gain in PSNR over the noisy scan and over the block DCT, on the demo's scans of heads of another seed."""
    from cohortex.demo.anatomy import make_head
    from cohortex.demo.scans import CT_SPACING, ct_scan
    from cohortex.demo.table import DIAGNOSES

    names: list[str] = []
    found: list[tuple[float, float, float]] = []
    for number in range(HELD_OUT):
        rng = np.random.default_rng([seed + 1, number])
        scan = ct_scan(make_head({"diagnosis": DIAGNOSES[number % 3], "age": int(rng.integers(22, 85))}, rng), rng)
        truth, noisy = scan.clean[:, :, MIDDLE], scan.image[:, :, MIDDLE].astype(np.float32)
        inside = foreground(truth)
        shrunk = denoise_transform(noisy, CT_SPACING, noise_sigma(noisy, inside))
        names.append(f"head {number}")
        found.append(tuple(seen(truth, each, inside) for each in (restored(network, noisy), shrunk, noisy)))  # pyright: ignore
    on = f"simulated heads that were not trained on, as the demo scans them; window of {VIEW[0]:g} to {VIEW[1]:g} HU"
    made = [ours for ours, _, _ in found]
    return [
        cards.gain("PSNR gain dB over the noisy scan", names, made, [theirs for _, _, theirs in found], "the noisy scan", on),
        cards.gain("PSNR gain dB over the transform", names, made, [theirs for _, theirs, _ in found], "block DCT", on),
    ]


def restored(network: nn.Module, hu: np.ndarray, precision: Any = "float32") -> np.ndarray:
    """Return what the network makes of a scan in HU, (x, y, z) float32."""
    expects = registry.expected(registry.entry("denoise", NETWORK), OPTIONS)
    way = way_of(network, expects, hu.shape)
    made, _ = run_network(channels_last(network), in_window(hu), way.halo, way.block, precision=precision, way=way)
    return np.asarray(made) * np.float32(WINDOW[1] - WINDOW[0]) + np.float32(WINDOW[0])


def seen(truth: np.ndarray, image: np.ndarray, inside: np.ndarray, view: tuple[float, float] = VIEW) -> float:
    """Return the PSNR of an image as it is seen in a window of HU, in the foreground."""
    return psnr(np.clip(truth, *view), np.clip(image, *view), view[1] - view[0], inside)


def with_record(folder: Path, record: Path) -> None:
    """Add what ``benchmarks.denoise_ct`` measured against the best of all other methods to the card of a model folder."""
    card, tensors = read_model(folder)
    table = json.loads(record.read_text(encoding="utf-8"))["tables"]["gains"]["rows"]
    added = []
    for kind, scans, *gain in table:
        values = (None if value is None else float(f"{value:.3g}") for value in gain)
        named = dict(zip(("value", "low", "high"), values, strict=True))
        added.append(
            {
                "name": "PSNR gain dB over the best on each scan of six filters, the transform and BM3D",
                **named,
                "n": int(scans),
                "against": "best other method",
                "on": f"{kind}, not trained on, quarter dose; window of {VIEW[0]:g} to {VIEW[1]:g} HU",
            }
        )
    kept = [metric for metric in card["metrics"] if metric.get("against") != "best other method"]
    del card["sha256"]
    write_model(folder, {**card, "metrics": kept + added}, tensors)


def main() -> None:
    """Train and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="the model folder to be")
    parser.add_argument("--scans", type=Path, help="a folder with the real scans; without it only simulated heads are seen")
    parser.add_argument("--steps", type=int, default=TRAINING["steps"])
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--record", type=Path, help="do not train: add the gains of this record of benchmarks.denoise_ct to the card")
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
    recipe = {"training": training, "noise_hu": list(LEVELS), **curves.recipe(), "run": run}
    write(options.folder, network, images, recipe, options.seed)
    journal.forget()


if __name__ == "__main__":
    main()
