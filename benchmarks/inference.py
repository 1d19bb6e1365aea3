"""Segmentation by one network: streamed inference beside MONAI's sliding window, with the same weights.

``python -m benchmarks.inference [--size 192]``. MONAI's U-Net (16 to 256 channels, batch norm, 7 classes) is trained for some
minutes on phantoms of winding regions, so that its labels mean something. CPU seconds of one thread, best of two; labels
are compared voxel by voxel with those of ``SlidingWindowInferer`` (96^3 windows, overlap 0.25, float32).
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from scipy import ndimage

from cohortex.inference import channels_last, choose_precision
from cohortex.labelling import segment

CLASSES = 7
MULTIPLE = 16
SIZE = 128
"""Of the image that is learned from."""


def phantom(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of winding regions some 20 voxels wide, each class with its own grey, and their labels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(size,) * 3).astype(np.float32), 8)
    labels = np.digitize(smooth, np.quantile(smooth, np.arange(1, CLASSES) / CLASSES)).astype(np.uint8)
    grey = np.array([0, 4, 1, 5, 2, 6, 3], np.float32) / 6
    return (grey[labels] + rng.normal(0, 0.03, labels.shape)).astype(np.float32), labels


def trained(steps: int) -> torch.nn.Module:
    """Return the network after a short training."""
    torch.manual_seed(0)
    network = UNet(3, 1, CLASSES, (16, 32, 64, 128, 256), (2, 2, 2, 2), norm="batch")
    channels_last(network)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    image, labels = phantom(SIZE, 1)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        x, y, z = rng.integers(0, SIZE - 64 + 1, 3)
        here = (slice(x, x + 64), slice(y, y + 64), slice(z, z + 64))
        logits = network(torch.from_numpy(image[here])[None, None])
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[here].astype(np.int64))[None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def timed(function, repeats: int = 2):
    """Return the result and the CPU seconds of the best run."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        made = function()
        best = min(best, time.process_time() - start)
    return made, best


def networks(size: int, steps: int) -> dict[str, float]:
    """Compare the inferences of one network."""
    network = trained(steps)
    image, truth = phantom(size, 2)
    tensor = torch.from_numpy(image)[None, None]
    window = SlidingWindowInferer(roi_size=(96,) * 3, sw_batch_size=1, overlap=0.25)

    @torch.inference_mode()
    def monai():
        return window(tensor, network)[0].argmax(0).numpy()

    theirs, base = timed(monai)
    with torch.inference_mode():
        exact = network(tensor)[0].argmax(0).numpy()
    print("| way | CPU s | times MONAI | labels as MONAI's | labels as the network's on the whole, float32 |\n|---|---|---|---|---|")
    print(f"| MONAI, 96^3, overlap .25, float32 | {base:.2f} | 1 | - | {(theirs == exact).mean():.4%} |", flush=True)
    whole = (-(-size // MULTIPLE) * MULTIPLE,) * 3

    def row(name, repeats=2, **options):
        made, seconds = timed(lambda: segment(network, image, CLASSES, multiple=MULTIPLE, **options)[0], repeats)
        equal = float((made == theirs).mean())
        print(f"| {name} | {seconds:.2f} | {base / seconds:.2f} | {equal:.4%} | {(made == exact).mean():.4%} |", flush=True)
        return base / seconds, equal

    row("one block, float32", block=whole)
    precision = choose_precision("auto", network, image, multiple=MULTIPLE)
    gain, equal = row(f"as chosen: one block, {precision}", block=whole, precision=precision)
    row("96^3 blocks, halo 32, float32", 1, block=(96, 96, 96), halo=32)
    row("96^3 windows, overlap .25, Gaussian, float32", 1, block=(96, 96, 96), overlap=0.25)
    print(f"share of true labels: MONAI {(theirs == truth).mean():.4f}")
    return {"cnn_vs_monai": gain, "labels_equal": equal}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = networks(options.size, options.steps)
    print("FIGURE " + " ".join(f"{name}={value:.4g}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
