"""Segmentation by one network, streamed, beside MONAI's sliding window with the same weights; and the export of 100 classes.

``python -m benchmarks.inference [--size 192] [--only networks|export100]``. MONAI's U-Net (16 to 256 channels, batch norm, 7 classes) is
trained for some minutes on phantoms of winding regions until it knows them, so that its labels mean something. CPU seconds of one thread,
best of two; labels are compared voxel by voxel with those of ``SlidingWindowInferer`` (96^3 windows, overlap 0.25, float32). The figures
are of one way, the one that `choose_precision` takes on this processor. The second part is `benchmarks.export100`.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from scipy import ndimage

from benchmarks import export100
from benchmarks.record import Run, Table, add_save, measured
from cohortex.inference import channels_last, choose_precision, computes_bfloat16
from cohortex.labelling import segment

CLASSES = 7
MULTIPLE = 16
SIZE = 128
"""Of the images that are learned from."""
IMAGES = 4
PATCH = 64
RATE = 3e-3


def phantom(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of winding regions some 20 voxels wide, each class with its own grey, and their labels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(size,) * 3).astype(np.float32), 8)
    labels = np.digitize(smooth, np.quantile(smooth, np.arange(1, CLASSES) / CLASSES)).astype(np.uint8)
    grey = np.array([0, 4, 1, 5, 2, 6, 3], np.float32) / 6
    return (grey[labels] + rng.normal(0, 0.03, labels.shape)).astype(np.float32), labels


def trained(steps: int) -> torch.nn.Module:
    """Return the network after its training, in bfloat16 where the processor multiplies it."""
    torch.manual_seed(0)
    network = UNet(3, 1, CLASSES, (16, 32, 64, 128, 256), (2, 2, 2, 2), norm="batch")
    channels_last(network)
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    images = [phantom(SIZE, 10 + i) for i in range(IMAGES)]
    rng = np.random.default_rng(0)
    for step in range(steps):
        image, labels = images[step % IMAGES]
        x, y, z = rng.integers(0, SIZE - PATCH + 1, 3)
        here = (slice(x, x + PATCH), slice(y, y + PATCH), slice(z, z + PATCH))
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16("cpu")):
            logits = network(torch.from_numpy(image[here])[None, None].contiguous(memory_format=torch.channels_last_3d))
        loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(labels[here].astype(np.int64))[None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def networks(size: int, steps: int) -> tuple[dict[str, Table], dict[str, float]]:
    """Compare the inferences of one network."""
    network = trained(steps)
    image, truth = phantom(size, 2)
    tensor = torch.from_numpy(image)[None, None]
    window = SlidingWindowInferer(roi_size=(96,) * 3, sw_batch_size=1, overlap=0.25)

    @torch.inference_mode()
    def monai():
        return window(tensor, network)[0].argmax(0).numpy()

    base, theirs = measured(monai, 2, np.inf)
    with torch.inference_mode():
        exact = network(tensor)[0].argmax(0).numpy()
    shares = {"labels as MONAI's": ".2%", "labels as the network's on the whole, float32": ".2%", "true labels": ".2%"}
    table = Table({"way": "", "CPU s": ".2f", "times MONAI": ".1f"} | shares)
    table.add(
        "MONAI `SlidingWindowInferer`, 96^3, overlap .25, float32", base, 1.0, None, (theirs == exact).mean(), (theirs == truth).mean()
    )

    def row(name, repeats=2, **options):
        seconds, made = measured(lambda: segment(network, image, CLASSES, multiple=MULTIPLE, **options)[0], repeats, np.inf)
        equal = float((made == theirs).mean())
        table.add(name, seconds, base / seconds, equal, (made == exact).mean(), (made == truth).mean())
        return base / seconds, equal

    whole = (-(-size // MULTIPLE) * MULTIPLE,) * 3
    row("one block, float32", block=whole)
    precision = choose_precision("auto", network, image, multiple=MULTIPLE)
    gain, equal = row(f"one block, {precision}, as chosen", block=whole, precision=precision)
    row("96^3 blocks, halo 32, float32", 1, block=(96, 96, 96), halo=32)
    row("96^3 windows, overlap .25, Gaussian, float32", 1, block=(96, 96, 96), overlap=0.25)
    return {"networks": table}, {"cnn_vs_monai": gain, "labels_equal": equal}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, help="edge of the image in voxels")
    parser.add_argument("--steps", type=int, default=1600, help="of training")
    parser.add_argument("--only", choices=["networks", "export100"], help="one of the two parts")
    add_save(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = Run("inference", ["torch", "monai", "numpy", "scikit-image", "SimpleITK"])
    tables, figures = {}, {}
    if options.only != "export100":
        tables, figures = networks(options.size, options.steps)
    if options.only != "networks":
        more, others = export100.compared()
        tables, figures = tables | more, figures | others
    run.end(tables, figures, options.save)


if __name__ == "__main__":
    main()
