"""A classifier of patches that slides over the image, and the maxima of its map (after Ciresan et al., MICCAI 2013: mitosis detection)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from cohortex.models.denoise.layers import conv
from cohortex.models.recognize.boxes import Boxes, Found, best, centres_sizes, from_centres
from cohortex.models.recognize.detector import Detector
from cohortex.models.segment.layers import max_pool, norm_of


class PatchDetector(Detector):
    """Says of the patch around every fourth voxel whether a thing of each class is in its middle.

    All patches of an image are classified at once: layers are not padded, so that each answer is that of its own patch alone, as if it
    had been cut out. The image goes on beyond its edges by half a patch of its outermost values.

    Parameters
    ----------
    dimensions, channels, classes : int
    patch : int
        Edge of a patch in voxels: 16, 20, 24 and so on.
    filters : sequence of two ints
        Of the two pairs of convolutions, each followed by a pooling (the second pair by the dense layer).
    hidden : int
        Of the dense layer.
    norm : str

    Notes
    -----
    A classifier knows where, not how large: boxes have the mean size of the boxes of their class that it has been trained with, which is
    kept with the weights.
    """

    stride = 4

    def __init__(
        self,
        dimensions: int,
        channels: int,
        classes: int,
        patch: int = 24,
        filters: Sequence[int] = (16, 32),
        hidden: int = 64,
        norm: str = "batch",
    ):
        super().__init__(dimensions, channels, classes)
        if patch % 4 or patch < 16:
            raise ValueError(f"patch is 16, 20, 24 and so on, not {patch}")
        self.patch = patch
        last = (patch // 2 - 2) // 2 - 2
        sizes = [(channels, filters[0], 3), (filters[0], filters[0], 3), (filters[0], filters[1], 3), (filters[1], filters[1], 3)]
        layers: list[nn.Module] = []
        for number, (inward, outward, size) in enumerate([*sizes, (filters[1], hidden, last)]):
            layers += [conv(dimensions, inward, outward, size, padding=0), norm_of(norm, dimensions, outward), nn.ReLU(inplace=True)]
            if number in (1, 3):
                layers.append(max_pool(dimensions, 2))
        layers.append(conv(dimensions, hidden, classes, 1))
        self.layers = nn.Sequential(*layers)
        self.extents: torch.Tensor
        self.seen: torch.Tensor
        self.register_buffer("extents", torch.full((classes, dimensions), patch / 2))
        self.register_buffer("seen", torch.zeros(classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes, ...) of the patches around every fourth voxel."""
        before = (self.patch - self.stride) // 2
        spare = [(before, self.patch - self.stride - before + -n % self.stride) for n in x.shape[2:]]
        return self.layers(functional.pad(x, [n for pair in reversed(spare) for n in pair], mode="replicate"))

    def places(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the middles of the patches (positions, dimensions) in voxels."""
        axes = [(torch.arange(n, device=raw.device, dtype=torch.float32) + 0.5) * self.stride for n in raw.shape[2:]]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.dimensions)

    def loss(self, raw: torch.Tensor, targets: Sequence[Boxes]) -> torch.Tensor:
        """Return the cross entropy: patches with a thing in their middle and patches without one count the same.

        Patches whose middle is in a box, but not in the inner half of it, are not asked. In training the boxes' sizes are taken notice of.
        """
        places, logits = self.places(raw), raw.float().flatten(2)
        if self.training:
            self._measure(targets)
        truth, asked = torch.zeros_like(logits), torch.ones_like(logits, dtype=torch.bool)
        for number, target in enumerate(targets):
            middles, sizes = centres_sizes(target.corners)
            away = (places - middles[:, None]).abs()
            inner = (away <= torch.maximum(sizes / 4, torch.full_like(sizes, self.stride / 2 + 1e-3))[:, None]).all(-1)
            within = (away <= sizes[:, None] / 2 + self.stride / 2).all(-1)
            for label in range(self.classes):
                own = target.labels == label
                truth[number, label] = inner[own].any(0).float()
                asked[number, label] = ~within[own].any(0)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        positive, negative = truth > 0, asked & (truth == 0)
        return entropy[positive].sum() / positive.sum().clamp(min=1) + entropy[negative].sum() / negative.sum().clamp(min=1)

    @torch.no_grad()
    def _measure(self, targets: Sequence[Boxes]) -> None:
        for target in targets:
            for corners, label in zip(target.corners, target.labels.tolist(), strict=True):
                self.seen[label] += 1
                _, size = centres_sizes(corners)
                self.extents[label] += (size - self.extents[label]) / self.seen[label]

    def detections(
        self, raw: torch.Tensor, shape: tuple[int, ...], score: float = 0.05, overlap: float = 0.3, most: int = 100
    ) -> list[Found]:
        """Return a box of its class's size around every maximum of each map, moved to where the map's weight around it lies."""
        heat = raw.float().sigmoid()
        pool = functional.max_pool3d if self.dimensions == 3 else functional.max_pool2d
        peaks = heat == pool(heat, 3, 1, 1)
        mean = functional.avg_pool3d if self.dimensions == 3 else functional.avg_pool2d
        places = self.places(raw).T.reshape(self.dimensions, *raw.shape[2:])
        weight = mean(heat, 3, 1, 1).clamp(min=1e-12)
        moved = torch.stack([mean(heat * axis, 3, 1, 1) / weight for axis in places], -1)
        made = []
        for number in range(len(raw)):
            at = (peaks[number] & (heat[number] >= score)).nonzero(as_tuple=True)
            corners = from_centres(moved[number][at], self.extents[at[0]])
            made.append(best(corners, heat[number][at], at[0], shape, score, overlap, most))
        return made
