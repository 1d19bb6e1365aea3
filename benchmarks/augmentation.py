"""What classic augmentation is worth to a classifier: pneumonia in chest radiographs, learned from few of them, with and without it.

    python -m benchmarks.augmentation [--data ../shared/data/pneumoniamnist] [--seeds 8] [--images 40] [--steps 250]

Each seed draws its own balanced training images and trains the same small network from the same first weights twice, once on the
images as they are and once on images varied anew at every step (cohortex.training.augment). Judged by the AUC on the validation
images, without those that also are training images. Last line: FIGURE, with the mean gain and its 95 % interval over the seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workflow import ROOT
from cohortex.measures.classification import auc
from cohortex.measures.intervals import paired_interval
from cohortex.training.augment import Ranges, draw, vary_image

RANGES = Ranges(translate=0.12, rotate_deg=12.0, shear=0.08, scale=0.12, flip=(1,), gain=0.15, offset=0.05, noise=0.03, gamma=0.2)
BATCH = 32


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images and labels, validation images and labels; images (n, 28, 28) from 0 to 1, all different."""
    arrays = np.load(folder / "pneumoniamnist_trainval.npz")
    train, known = arrays["train_images"], arrays["train_labels"].ravel()
    _, first = np.unique(train.reshape(len(train), -1), axis=0, return_index=True)
    train, known = train[np.sort(first)], known[np.sort(first)]
    seen = {image.tobytes() for image in train}
    fresh = np.array([image.tobytes() not in seen for image in arrays["val_images"]])
    held, truth = arrays["val_images"][fresh], arrays["val_labels"].ravel()[fresh]
    return train.astype(np.float32) / 255, known, held.astype(np.float32) / 255, truth


def network(seed: int) -> Any:
    """Return a network of three convolutions, its first weights drawn by the seed."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 2))


def trained(images: np.ndarray, labels: np.ndarray, seed: int, steps: int, ranges: Ranges | None) -> Any:
    """Return the network after `steps` steps; the order of the images depends on the seed only."""
    import torch
    from torch.nn.functional import cross_entropy

    net = network(seed)
    order, varied = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    net.train()
    for _ in range(steps):
        chosen = order.choice(len(images), BATCH, replace=False)
        batch = images[chosen]
        if ranges is not None:
            batch = np.stack([vary_image(image, draw(ranges, image.shape, varied)) for image in batch])
        optimiser.zero_grad()
        loss = cross_entropy(net(torch.from_numpy(batch[:, None])), torch.from_numpy(labels[chosen].astype(np.int64)))
        loss.backward()
        optimiser.step()
        schedule.step()
    return net.eval()


def main() -> None:
    """Train and judge."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "pneumoniamnist")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--images", type=int, default=40, help="training images a seed, half of them normal")
    parser.add_argument("--steps", type=int, default=250)
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is not here: name the folder of pneumoniamnist_trainval.npz with --data")
    torch.set_num_threads(1)

    train, labels, held, truth = read(options.data)
    scores: dict[str, list[float]] = {"none": [], "augmented": []}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        some = np.concatenate([rng.choice(np.flatnonzero(labels == c), options.images // 2, replace=False) for c in (0, 1)])
        for name, ranges in (("none", None), ("augmented", RANGES)):
            net = trained(train[some], labels[some], seed, options.steps, ranges)
            with torch.inference_mode():
                logits = net(torch.from_numpy(held[:, None])).numpy()
            scores[name].append(auc(truth == 1, logits[:, 1] - logits[:, 0]))
        print(f"seed {seed}: AUC {scores['none'][-1]:.4f} without, {scores['augmented'][-1]:.4f} with augmentation")
    gain, low, high = paired_interval(scores["augmented"], scores["none"])
    print(
        f"FIGURE auc_without={np.mean(scores['none']):.4f} auc_with={np.mean(scores['augmented']):.4f} gain={gain:.4f} low={low:.4f} "
        f"high={high:.4f} seeds={options.seeds} images={options.images} held_out={len(truth)} cpu_s={time.process_time():.0f}"
    )


if __name__ == "__main__":
    main()
