"""How alike two images are, by name: what the registration network learns from where no labels are.

`mind` and `mind_ssc` need no common contrast (`cohortex.models.regseg.mind`); `mutual_information` needs one relation that holds
everywhere; `ncc` needs a linear relation in every window, so images of one modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from cohortex.errors import Refused
from cohortex.models.regseg.deform import between
from cohortex.models.regseg.mind import SCALES, multiscale_mind_loss

WINDOW = 7
"""Voxels along the edge of the window of `local_ncc`."""
BINS = 24
"""Intensity levels of `mutual_information`."""


@dataclass(frozen=True)
class Similarity:
    """A loss that compares the fixed image with the displaced moving one.

    Attributes
    ----------
    name : str
        One of `NAMES`.
    scales : sequence of (radius, dilation)
        Of `mind` and `mind_ssc`: one is the single-scale descriptor, several are E_msMIND.
    weight : float
        Beside the other losses. What a tenth of one means differs between the similarities.
    """

    name: str = "mind_ssc"
    scales: Sequence[tuple[int, int]] = SCALES
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise Refused(f"regseg: there is no similarity {self.name!r}; there are: {', '.join(NAMES)}.")

    def __call__(self, fixed: torch.Tensor, moving: torch.Tensor, flow: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss, smaller for images that are more alike.

        `flow` is (B, 3, X, Y, Z) in voxels, None for none; the other tensors are (B, 1, X, Y, Z), the images within 0 and 1.
        """
        target, moved, weight = between(fixed, moving, flow, mask)
        if self.name == "ncc":
            return self.weight * (1 - local_ncc(target, moved, weight))
        if self.name == "mutual_information":
            return -self.weight * mutual_information(target, moved, weight)
        return self.weight * multiscale_mind_loss(target, moved, self.scales, weight, "mind" if self.name == "mind" else "mind_ssc")


NAMES = ("mind", "mind_ssc", "ncc", "mutual_information")


def similarity_of(settings: Mapping[str, Any], scales: Sequence[Sequence[int]]) -> Similarity:
    """Return the similarity of the settings `training.similarity`: name, weight, and scales if they are not the given ones."""
    own = settings.get("scales") or scales
    return Similarity(str(settings["name"]), [(int(radius), int(dilation)) for radius, dilation in own], float(settings.get("weight", 1.0)))


def local_ncc(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor, window: int = WINDOW) -> torch.Tensor:
    """Return the mean squared correlation of two images in windows around every voxel (Balakrishnan et al., IEEE TMI 38(8), 2019).

    Parameters
    ----------
    a, b : (B, 1, X, Y, Z) tensors
        Within 0 and 1.
    mask : (B, 1, X, Y, Z) tensor
        Weight of every window.
    window : int
        Odd.

    Returns
    -------
    scalar tensor
        1 where each window of one image is a linear function of the other's, whether rising or falling; flat windows count as 0.
    """
    mean_a, mean_b, square_a, square_b, product = (_window_mean(x, window) for x in (a, b, a * a, b * b, a * b))
    # Below a ten thousandth of the range squared there is no structure, only rounding.
    variance = (square_a - mean_a**2).clamp(min=0) * (square_b - mean_b**2).clamp(min=0)
    correlation = (product - mean_a * mean_b) ** 2 / (variance + 1e-8)
    return (correlation * mask).sum() / mask.sum().clamp(min=1)


def mutual_information(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor, bins: int = BINS) -> torch.Tensor:
    """Return the mutual information of two images in nats, differentiable: Parzen windows with cubic B-splines.

    Mattes et al., IEEE TMI 22(1), 2003; Thevenaz and Unser, IEEE TIP 9(12), 2000.

    Parameters
    ----------
    a, b : (B, 1, X, Y, Z) tensors
        Within 0 and 1; the images of a batch share a histogram.
    mask : (B, 1, X, Y, Z) tensor
        Weight of every voxel.
    bins : int
        Along each side of the joint histogram.
    """
    seen = mask.flatten() > 0
    weight = mask.flatten()[seen]
    first, second = (_parzen(x.flatten()[seen], bins) for x in (a, b))
    joint = (first * weight[:, None]).T @ second / weight.sum().clamp(min=1)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return (joint * ((joint + 1e-10).log() - (apart + 1e-10).log())).sum()


def _parzen(values: torch.Tensor, bins: int) -> torch.Tensor:
    """Return how much each value (N,) counts in each bin, (N, bins); cubic B-splines, which sum to one."""
    # The outermost splines reach beyond the range, so that no value loses a part of its weight.
    at = values.clamp(0, 1)[:, None] * (bins - 3) + 1
    away = (at - torch.arange(bins, device=values.device, dtype=values.dtype)).abs()
    near = 2 / 3 - away**2 + away**3 / 2
    far = (2 - away).clamp(min=0) ** 3 / 6
    return torch.where(away < 1, near, far)


def _window_mean(x: torch.Tensor, window: int) -> torch.Tensor:
    """Return the mean over cubes of `window` voxels, fewer at the borders: along one axis at a time."""
    for size in ((window, 1, 1), (1, window, 1), (1, 1, window)):
        x = F.avg_pool3d(x, size, stride=1, padding=tuple(n // 2 for n in size), count_include_pad=False)
    return x
