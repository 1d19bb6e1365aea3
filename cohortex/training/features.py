"""A small feature network that learns on the cohort's own patches: what stands here for VGG, whose weights were learnt on photographs.

It learns to restore patches with noise and holes, which it can only by knowing edges and textures of the cohort; distances are
then taken between its inner layers, each of unit variance. It is trained by the training that uses it, before its first step, with the
same seed and beside the same checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cohortex.training.loop import fit, fresh
from cohortex.training.objectives.structure import pictures

if TYPE_CHECKING:
    from cohortex.training.objectives.objective import Start

LEAST = 8
"""Pixels along an axis that its two poolings leave something of."""

HOLES, HOLE = 0.25, 4
"""Share of a patch that is blotted out while it learns, in squares of so many pixels."""

NOISE = 1.0
"""Largest noise that is added while it learns, as a multiple of the patch's standard deviation."""

BATCH, RATE, MEASURED = 8, 2e-3, 32
"""Patches of a step, learning rate, patches that the layers' variances are taken from."""

LEAST_VARIANCE = 0.1
"""That a filter is taken to have, as a share of the mean of its layer."""


class FeatureNetwork(nn.Module):
    """Three pairs of convolutions with pooling between them, and a decoder that is needed while it learns.

    Parameters
    ----------
    width : int
        Filters of the first pair; twice and four times as many in the others.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        sizes = [1, width, 2 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(sizes)
        )
        self.back = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in ((4 * width, 2 * width), (2 * width, width)))
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        self.variance = nn.ParameterList([nn.Parameter(torch.ones(size), requires_grad=False) for size in sizes[1:]])

    @classmethod
    def seeded(cls, width: int, seed: int) -> FeatureNetwork:
        """Return one whose first weights come from a seed."""
        network = fresh(lambda: cls(width), seed)
        assert isinstance(network, cls)
        return network

    def layers(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of the three stages for (n, 1, rows, columns), the finest first."""
        found = []
        for number, stage in enumerate(self.stages):
            x = stage(functional.avg_pool2d(x, 2) if number else x)
            found.append(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a restored patch, from the coarsest stage alone."""
        *finer, y = self.layers(x)
        for layer, size in zip(self.back, reversed([f.shape[2:] for f in finer]), strict=True):
            y = torch.relu(layer(functional.interpolate(y, size=tuple(size), mode="bilinear", align_corners=False)))
        return self.last(y)


def distance(network: FeatureNetwork, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of the features of the two coarser stages, in units of their variance.

    Parameters
    ----------
    network : FeatureNetwork
    made, target : (n, 1, x, y) or (n, 1, x, y, z) tensors
        Volumes are looked at slice by slice along z.

    Returns
    -------
    scalar tensor
        0 for equal images; 2 for images that have nothing in common.
    """
    first, second = (network.layers(pictures(each))[1:] for each in (made, target))
    variances = list(network.variance)[1:]
    terms = [((a - b).square().mean((0, 2, 3)) / v).mean() for a, b, v in zip(first, second, variances, strict=True)]
    return torch.stack(terms).mean()


def damaged(pictures_: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return pictures (n, 1, rows, columns) with noise, and with squares that hold their mean."""
    n, _, rows, columns = pictures_.shape
    coarse = rng.random((n, 1, -(-rows // HOLE), -(-columns // HOLE))) < HOLES
    holes = coarse.repeat(HOLE, 2).repeat(HOLE, 3)[:, :, :rows, :columns]
    level = rng.uniform(0, NOISE, (n, 1, 1, 1)) * pictures_.std((1, 2, 3), keepdims=True)
    noisy = pictures_ + level * rng.standard_normal(pictures_.shape)
    return np.where(holes, pictures_.mean((1, 2, 3), keepdims=True), noisy).astype(np.float32)


class FeatureDistance:
    """The distance of features as a part of an objective: its network learns first, and is fixed then.

    Parameters
    ----------
    steps, width : int
        How long it learns, and its filters (`FeatureNetwork`).
    """

    def __init__(self, steps: int, width: int):
        self.steps, self.width = steps, width

    def begin(self, start: Start) -> None:
        """Train the network on the targets that a training draws, or take up its checkpoint."""

        def targets(rng: np.random.Generator, count: int) -> np.ndarray:
            target = start.sampler(rng, count)[1]
            target = target[0] if isinstance(target, tuple) else target
            found = pictures(torch.from_numpy(target[:, target.shape[1] // 2][:, None])).numpy()
            # Of blocks a few slices: all of them say much the same.
            return np.ascontiguousarray(found[rng.permutation(len(found))[: 2 * count]])

        def sample(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
            found = targets(rng, count)
            return damaged(found, rng), found

        self.network = network = FeatureNetwork.seeded(self.width, start.seed + 2)
        curves = fit(
            network,
            sample,
            lambda made, target: (made - target).abs().mean(),
            steps=self.steps,
            batch=BATCH,
            rate=RATE,
            seed=start.seed + 2,
            device=start.device,
            checkpoint=start.checkpoint.beside("features"),
        )
        network.requires_grad_(False)
        rng = np.random.default_rng([start.seed, 3])
        whole = np.concatenate([targets(rng, 4) for _ in range(MEASURED // 4)])
        with torch.no_grad():
            for layer, variance in zip(network.layers(torch.from_numpy(whole).to(start.device)), network.variance, strict=True):
                # A filter that hardly ever speaks has next to no variance: the one time that it does it would drown all others.
                found = layer.var((0, 2, 3))
                variance.copy_(found.clamp(min=max(1e-8, LEAST_VARIANCE * float(found.mean()))))
        self._loss = [float(f"{value:.4g}") for value in curves.loss]

    def __call__(self, made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return `distance`."""
        return distance(self.network, made, target)

    def facts(self) -> Mapping[str, Any]:
        """Return what the card says of the network."""
        return {
            "network": "a small network that learnt to restore noisy patches with holes, on the training's own targets (not VGG)",
            "width": self.width,
            "steps": self.steps,
            "loss": self._loss,
        }
