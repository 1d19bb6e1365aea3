"""False positives taken away by a second look (Dou et al., TMI 2016: microbleeds; TBME 2017: multi-level context of nodules)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.recognize.boxes import Boxes, Found, best, centres_sizes, from_centres
from cohortex.models.recognize.detector import Detector
from cohortex.models.recognize.patches import PatchDetector
from cohortex.models.recognize.regions import roi_align
from cohortex.models.segment.layers import conv_norm, max_pool


@dataclass(frozen=True)
class Screened:
    """The images, and what the first network says of them."""

    images: torch.Tensor
    heat: torch.Tensor


def context_network(dimensions: int, channels: int, classes: int, edge: int, filters: int, norm: str) -> nn.Sequential:
    """Return a classifier of crops of an edge: convolutions and poolings until 5 cells are left, and two dense layers."""
    layers: list[nn.Module] = []
    width = filters
    while edge > 5:
        layers += [conv_norm(dimensions, channels, width, norm=norm, bias=norm == "none"), max_pool(dimensions, 2)]
        channels, width, edge = width, min(2 * width, 4 * filters), edge // 2
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(channels * edge**dimensions, 4 * filters), nn.ReLU(), nn.Linear(4 * filters, classes + 1)
    )


def mixture_weights(likelihoods: torch.Tensor, counts: torch.Tensor, rounds: int = 200) -> torch.Tensor:
    """Return the weights with which the mean of several probabilities is most likely, by expectation and maximisation.

    Parameters
    ----------
    likelihoods : torch.Tensor
        (v, n), the probability that each of v gives to the truth of n examples; these are none that they learned from.
    counts : torch.Tensor
        (n,), how much each example counts.
    rounds : int
        Of the iteration, which goes to the only maximum.

    Returns
    -------
    torch.Tensor
        (v,) float64, not below 0; their sum is 1.

    References
    ----------
    Smyth and Wolpert, Linearly combining density estimators via stacking, Machine Learning 36, 1999.
    """
    each, share = likelihoods.double().clamp(min=1e-6), counts.double() / counts.double().sum()
    weights = torch.full((len(each),), 1 / len(each), dtype=torch.float64)
    for _ in range(rounds):
        parts = weights[:, None] * each
        weights = (share * parts / parts.sum(0)).sum(1)
    return weights


class Cascade(Detector):
    """A fast network screens the image for candidates; others, one for each size of context, look at a crop around each of them.

    Parameters
    ----------
    dimensions, channels, classes : int
    patch : int
        Of the screening network (`patches.PatchDetector`).
    screening : sequence of two ints
        Its filters.
    contexts : sequence of int
        Edges of the crops in voxels, at the image's own resolution.
    filters : int
        Of the second networks' first layers.
    weights : sequence of float
        Of their probabilities when they are fused (Dou 2017 weighs 0.3, 0.4, 0.3); empty: those that are `chosen` on held-out examples,
        and until then all the same.
    candidates : int
        Of an image, at most.
    threshold : float
        Score of the screening from which on there is a candidate.
    norm : str
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        patch: int = 16,
        screening: Sequence[int] = (8, 16),
        contexts: Sequence[int] = (12, 20, 32),
        filters: int = 16,
        weights: Sequence[float] = (),
        candidates: int = 50,
        threshold: float = 0.1,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        if weights and len(weights) != len(contexts):
            raise ValueError(f"{len(weights)} weights for {len(contexts)} contexts: there is one of each, or none")
        self.contexts, self.candidates, self.threshold = tuple(contexts), candidates, threshold
        self.chooses = not weights
        self.weights = tuple(weights) or (1.0,) * len(self.contexts)
        self.screen = PatchDetector(dimensions, channels, classes, patch, screening, 2 * screening[1], norm)
        self.networks = nn.ModuleList(context_network(dimensions, channels, classes, edge, filters, norm) for edge in self.contexts)

    def forward(self, x: torch.Tensor) -> Screened:
        """Return the images beside what the first network says of them."""
        return Screened(x, self.screen(x))

    def screened(self, raw: Screened, shape: tuple[int, ...], score: float | None = None) -> list[Found]:
        """Return the candidates of each image, with the first network's scores."""
        least = self.threshold if score is None else score
        return self.screen.detections(raw.heat.detach(), shape, least, 0.3, self.candidates)

    def logits(self, image: torch.Tensor, middles: torch.Tensor) -> torch.Tensor:
        """Return what every second network says of the crops around some middles.

        Parameters
        ----------
        image : torch.Tensor
            (channels, ...).
        middles : torch.Tensor
            (n, dimensions) in voxels.

        Returns
        -------
        torch.Tensor
            (contexts, n, classes + 1), the first class for nothing.
        """
        made = []
        for edge, network in zip(self.contexts, self.networks, strict=True):
            crops = roi_align(image, from_centres(middles, torch.full_like(middles, edge)), edge, samples=1)
            made.append(network(crops))
        return torch.stack(made)

    def loss(self, raw: Screened, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the screening's loss, and the cross entropy of every second network about the candidates of the moment.

        A candidate whose middle lies in a box has that box's class; the true boxes are there twice more, shifted by up to a quarter of
        their size. Candidates with and without a thing count the same.
        """
        shape = tuple(raw.images.shape[2:])
        total = self.screen.loss(raw.heat, targets)
        middles, truths = [], []
        for found, target in zip(self.screened(raw, shape, 0.0), targets, strict=True):
            at, size = centres_sizes(target.corners)
            shifted = [at + size * (torch.rand(at.shape).to(at.device) - 0.5) / 2 for _ in range(2)]
            middle = torch.cat([centres_sizes(found.corners)[0], *shifted])
            middles.append(middle)
            truths.append(self._truth(middle, target))
        truth = torch.cat(truths)
        if len(truth) < 2:
            return total
        thing = truth > 0
        counts = [max(1, int(thing.sum())), max(1, int((~thing).sum()))]
        weight = torch.where(thing, 1 / counts[0], 1 / counts[1])
        for edge, network in zip(self.contexts, self.networks, strict=True):
            crops = [
                roi_align(raw.images[number], from_centres(middle, torch.full_like(middle, edge)), edge, samples=1)
                for number, middle in enumerate(middles)
            ]
            entropy = functional.cross_entropy(network(torch.cat(crops)).float(), truth, reduction="none")
            total = total + (weight * entropy).sum()
        return total

    @torch.no_grad()
    def chosen(self, examples: Sequence[tuple[Screened, Boxes]]) -> dict[str, Any]:
        """Take the weights that fit the candidates of held-out examples best (`mixture_weights`), where none were given, and return them.

        Candidates with and without a thing count the same, as in the training.
        """
        said, truths = [], []
        for raw, target in examples if self.chooses else []:
            (found,) = self.screened(raw, tuple(raw.images.shape[2:]))
            if len(found):
                middle = centres_sizes(found.corners)[0]
                truth = self._truth(middle, target)
                each = self.logits(raw.images[0], middle).float().softmax(-1)
                said.append(each.gather(2, truth.expand(len(each), -1)[..., None])[..., 0].cpu())
                truths.append(truth.cpu())
        thing = torch.cat(truths) > 0 if truths else torch.zeros(0, dtype=torch.bool)
        if not 0 < int(thing.sum()) < len(thing):
            return {}
        counts = torch.where(thing, 1 / thing.sum(), 1 / (~thing).sum())
        self.weights = tuple(round(float(w), 4) for w in mixture_weights(torch.cat(said, 1), counts))
        return {"weights": list(self.weights)}

    def _truth(self, middle: torch.Tensor, target: Boxes) -> torch.Tensor:
        """Return the class from 1 of the box that each middle lies in, 0 where it lies in none."""
        if not len(target):
            return torch.zeros(len(middle), dtype=torch.int64, device=middle.device)
        low, high = target.corners.chunk(2, -1)
        within = ((middle[:, None] >= low) & (middle[:, None] < high)).all(-1)
        return torch.where(within.any(1), target.labels[within.int().argmax(1)] + 1, 0)

    def detections(self, raw: Screened, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100) -> list[Found]:
        """Return the candidates of each image with the fused probability of their surest class."""
        weights = torch.tensor(self.weights, device=raw.images.device)
        made = []
        for image, found in zip(raw.images, self.screened(raw, shape), strict=True):
            if len(found):
                each = self.logits(image, centres_sizes(found.corners)[0]).float().softmax(-1)[..., 1:]
                scores, labels = torch.einsum("v,vnc->nc", weights / weights.sum(), each).max(1)
                found = best(found.corners, scores, labels, shape, score, overlap, most)
            made.append(found)
        return made
