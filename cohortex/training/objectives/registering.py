"""What trainings of networks that register make small.

Source: (B, 2, X, Y, Z), fixed and moving image within 0 and 1. Target: a tuple of labels of the fixed and of the moving image
(B, K, X, Y, Z), one-hot without background, and of the true displacement (B, 3, X, Y, Z) in voxels; each has no channels where nothing is
known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cohortex.models.regseg.affine_voxelmorph import AffineVoxelMorph
from cohortex.models.regseg.losses import (
    axis_folding_loss,
    bending,
    correlation_loss,
    diffusion,
    endpoint_error,
    folding_loss,
    inverse_loss,
    soft_dice,
)
from cohortex.models.regseg.mind import SCALES, multiscale_mind_loss
from cohortex.models.regseg.warp import warp
from cohortex.training.objectives.objective import Objective

SIMILARITIES = ("correlation", "squared_error", "mind")
SMOOTHNESS = {"diffusion": diffusion, "bending": bending}


class ImagesAlike(Objective):
    """The moved image is like the fixed one, and the displacement is smooth.

    Parameters
    ----------
    similarity : {"correlation", "squared_error", "mind"}
        Squared local correlation in windows, squared error, or self-similarities (for images of different kinds).
    window : int
        Edge of the windows, in voxels.
    smooth, folding, labels : float
        Weights of smoothness, of negative Jacobian determinants, and of one minus the mean Dice of labels.
    smoothness : {"diffusion", "bending"}
    """

    def __init__(
        self,
        similarity: str = "correlation",
        window: int = 9,
        smooth: float = 1.0,
        smoothness: str = "diffusion",
        folding: float = 0.0,
        labels: float = 0.0,
    ):
        if similarity not in SIMILARITIES or smoothness not in SMOOTHNESS:
            raise ValueError(f"similarity is one of {SIMILARITIES} and smoothness of {tuple(SMOOTHNESS)}, not {similarity}, {smoothness}")
        self.similarity, self.window, self.smoothness = similarity, window, SMOOTHNESS[smoothness]
        self.smooth, self.folding, self.labels = smooth, folding, labels
        self.parts: dict[str, float] = {}

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of the displacement that the network gives."""
        flow = network(source)
        return self.of(source, flow, flow, target)

    def of(self, source: torch.Tensor, flow: torch.Tensor, bent: torch.Tensor, target: Any) -> torch.Tensor:
        """Return the loss of a displacement `flow`; smoothness and folding are those of `bent`."""
        moved = self.unlike(source[:, :1], warp(source[:, 1:], flow))
        rough = self.smoothness(bent)
        self.parts = {"unlike": float(moved.detach()), "rough": float(rough.detach())}
        found = moved + self.smooth * rough
        if self.folding:
            found = found + self.folding * folding_loss(bent, 0.0)
        if self.labels and target[0].shape[1]:
            found = found + self.labels * soft_dice(warp(target[1], flow), target[0])
        return found

    def unlike(self, fixed: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Return by how much two images differ."""
        return unlike(fixed, moved, self.similarity, self.window)

    def told(self) -> dict[str, float]:
        """Return the parts of the loss, without their weights."""
        return self.parts


class KnownDisplacement(Objective):
    """The displacement is the true one: the mean distance between where both lead, in voxels."""

    def __init__(self, smooth: float = 0.0):
        self.smooth = smooth

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the distance, and with a weight the roughness."""
        flow = network(source)
        found = endpoint_error(flow, target[2])
        return found + self.smooth * diffusion(flow) if self.smooth else found


class InverseConsistent(Objective):
    """Both directions at once, by the one network: likeness, each the other's inverse, no folding, smoothness.

    Parameters
    ----------
    similarity, window
        As of `ImagesAlike`.
    smooth, inverse, antifold : float
        Weights; that of the paper's anti-folding loss, which counts cubes of what is mostly 0, is large.
    """

    def __init__(
        self, similarity: str = "squared_error", window: int = 9, smooth: float = 0.5, inverse: float = 0.05, antifold: float = 1e5
    ):
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity is one of {SIMILARITIES}, not {similarity}")
        self.similarity, self.window = similarity, window
        self.smooth, self.inverse, self.antifold = smooth, inverse, antifold
        self.parts: dict[str, float] = {}

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of both directions."""
        there, back = network(source), network(source.flip(1))
        both = ((source, there), (source.flip(1), back))
        found = sum((unlike(x[:, :1], warp(x[:, 1:], flow), self.similarity, self.window) for x, flow in both), torch.zeros(()).to(source))
        apart = inverse_loss(there, back)
        self.parts = {"unlike": float(found.detach()) / 2, "apart": float(apart.detach())}
        rough, folds = diffusion(there) + diffusion(back), axis_folding_loss(there) + axis_folding_loss(back)
        return found + self.inverse * apart + self.antifold * folds + self.smooth * rough

    def told(self) -> dict[str, float]:
        """Return the parts of the loss, without their weights."""
        return self.parts


class AffineAndDeformable(ImagesAlike):
    """Likeness of the image that the affine network alone moves, and of the one that both move; the deformation alone is to be smooth.

    Parameters
    ----------
    affine : float
        Weight of the likeness after the affine map; all others are those of `ImagesAlike`.
    """

    def __init__(self, affine: float = 1.0, **options: Any):
        super().__init__(**options)
        self.affine = affine

    def loss(self, network: nn.Module, source: Any, target: Any, step: int) -> torch.Tensor:
        """Return the loss of both stages."""
        if not isinstance(network, AffineVoxelMorph):
            raise ValueError("affine_and_deformable is for networks of two stages, such as affine_voxelmorph; take images_alike for others")
        shape = source.shape[2:]
        moved = network.stages(network.padded(source))
        affine, deformation, whole = (x[:, :, : shape[0], : shape[1], : shape[2]] for x in moved)
        found = self.of(source, whole, deformation, target)
        found = found + self.affine * self.unlike(source[:, :1], warp(source[:, 1:], affine))
        if self.labels and target[0].shape[1]:
            found = found + self.affine * self.labels * soft_dice(warp(target[1], affine), target[0])
        return found


def unlike(fixed: torch.Tensor, moved: torch.Tensor, similarity: str, window: int) -> torch.Tensor:
    """Return by how much two images (B, 1, X, Y, Z) differ, by one of `SIMILARITIES`."""
    if similarity == "correlation":
        return correlation_loss(fixed, moved, window)
    return nn.functional.mse_loss(moved, fixed) if similarity == "squared_error" else multiscale_mind_loss(fixed, moved, SCALES)
