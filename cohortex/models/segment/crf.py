"""Fully connected conditional random field behind a network, by mean field (Kraehenbuehl and Koltun, NeurIPS 2011).

Neighbours pull each other to one label, the more the closer and the more alike they are: two Gaussian kernels, one of place and intensity
(bilateral) and one of place alone. Either every voxel sees every other one, which is exact and for small images, or a window of voxels
around it (Teichmann and Cipolla, ConvCRF, BMVC 2019), which costs what the window costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from cohortex.volume import ArrayLike

DENSE = 4096
"""Most voxels of an image of which every one may see every other one."""
EDGE = 48
"""Voxels along each axis of a block of a volume, beside what it sees around it."""


@dataclass(frozen=True)
class Field:
    """The two kernels of the field.

    Attributes
    ----------
    bilateral, smooth : float
        Weights of the two kernels.
    near : float
        Standard deviation in mm of the bilateral kernel's distance.
    alike : float
        And of its difference of intensities, in units of the image.
    close : float
        Standard deviation in mm of the smooth kernel.
    """

    bilateral: float = 4.0
    smooth: float = 3.0
    near: float = 30.0
    alike: float = 0.1
    close: float = 3.0


def mean_field(
    logits: torch.Tensor,
    image: torch.Tensor,
    field: Field | None = None,
    spacing: Sequence[float] | None = None,
    iterations: int = 10,
    radius: int | None = 5,
    damping: float = 0.0,
) -> torch.Tensor:
    """Return the probabilities of the classes after mean-field iterations.

    Each iteration passes messages (a Gaussian filter of the probabilities of all voxels but the own one), weighs labels that differ by
    the Potts model, and adds the network's logits.

    Parameters
    ----------
    logits : (n, classes, ...) tensor
        Of a network, in two or three dimensions.
    image : (n, channels, ...) tensor
    field : Field, optional
    spacing : sequence of float, optional
        Distance of the voxels in mm along each axis; 1 by default.
    iterations : int
    radius : int or None
        Voxels along each axis that a voxel sees; None: all, for images of at most `DENSE` voxels.
    damping : float
        Share of the old probabilities that is kept in each iteration. All voxels change at once, and with strong kernels they may swing;
        with damping the free energy falls.

    Returns
    -------
    (n, classes, ...) tensor
    """
    kernels = Kernels(image, field or Field(), spacing, radius)
    q = torch.softmax(logits, 1)
    for _ in range(iterations):
        new = torch.softmax(logits + kernels.message(q), 1)
        q = damping * q + (1 - damping) * new
    return q


def along_edges(
    soft: ArrayLike,
    image: ArrayLike,
    spacing: Sequence[float],
    field: Field,
    iterations: int = 5,
    radius: int = 2,
    edge: int = EDGE,
) -> ArrayLike:
    """Return class probabilities of a volume after mean field, block by block, so that it may be larger than memory.

    Parameters
    ----------
    soft : (K, X, Y, Z) array-like
        Probabilities of a network.
    image : (X, Y, Z) array-like
    spacing : three floats
        In mm.
    field : Field
    iterations, radius : int
        As in `mean_field`; a voxel's result depends on others no farther than their product, by which blocks are enlarged.
    edge : int
        Voxels of a block along each axis.

    Returns
    -------
    (K, X, Y, Z) float32 array-like
    """
    from cohortex.blocks import new_array

    made = new_array(soft.shape, np.float32)
    shape = soft.shape[1:]
    for start in product(*(range(0, n, edge) for n in shape)):
        inner = [(a, min(a + edge, n)) for a, n in zip(start, shape, strict=True)]
        wide = [(max(0, a - iterations * radius), min(n, b + iterations * radius)) for (a, b), n in zip(inner, shape, strict=True)]
        key = tuple(slice(a, b) for a, b in wide)
        here = torch.from_numpy(np.array(soft[(slice(None), *key)], np.float32))[None]
        values = torch.from_numpy(np.array(image[key], np.float32))[None, None]
        with torch.no_grad():
            q = mean_field(here.clamp_min(1e-6).log(), values, field, spacing, iterations, radius)[0].numpy()
        cut = tuple(slice(a - low, b - low) for (a, b), (low, _) in zip(inner, wide, strict=True))
        made[(slice(None), *(slice(a, b) for a, b in inner))] = q[(slice(None), *cut)]
    return made


def free_energy(q: torch.Tensor, logits: torch.Tensor, kernels: Kernels) -> torch.Tensor:
    """Return the variational free energy of probabilities, one number an image: what mean field makes smaller.

    The expected energy of the labels (their negative logits, and the kernel of each pair of voxels whose labels agree, taken off) less the
    entropy.
    """
    entropy = -(q * q.clamp_min(1e-12).log()).flatten(1).sum(1)
    unary = -(q * logits).flatten(1).sum(1)
    pair = -0.5 * (q * kernels.message(q)).flatten(1).sum(1)
    return unary + pair - entropy


class Kernels:
    """The kernels of one batch of images; `message` filters with them.

    Parameters
    ----------
    image : (n, channels, ...) tensor
    field : Field
    spacing : sequence of float, optional
    radius : int or None
        See `mean_field`.
    """

    def __init__(self, image: torch.Tensor, field: Field, spacing: Sequence[float] | None = None, radius: int | None = 5):
        shape = image.shape[2:]
        self.shape, self.field, self.image = shape, field, image
        self.spacing = [1.0] * len(shape) if spacing is None else [float(s) for s in spacing]
        if len(self.spacing) != len(shape):
            raise ValueError(f"the image has {len(shape)} axes and there are {len(self.spacing)} spacings")
        self.radius = radius
        self.dense: torch.Tensor | None = None
        if radius is None:
            if shape.numel() > DENSE:
                raise ValueError(
                    f"every voxel sees every other one in images of at most {DENSE} voxels, this has {shape.numel()}: set radius"
                )
            self.dense = self._dense()
        else:
            # Each offset and its opposite have the same kernel, moved: half of them are kept.
            self.weights = [(offset, self._weight(offset)) for offset in _half(radius, shape)]

    def message(self, q: torch.Tensor) -> torch.Tensor:
        """Return for each voxel and class the sum over other voxels of kernel times probability, (n, classes, ...)."""
        if self.dense is not None:
            return torch.einsum("nkj,nij->nki", q.flatten(2), self.dense).reshape(q.shape)
        out = torch.zeros_like(q)
        for offset, weight in self.weights:
            here, there = _overlap(offset, self.shape)
            out[here] += weight * q[there]
            out[there] += weight * q[here]
        return out

    def _weight(self, offset: Sequence[int]) -> torch.Tensor:
        """Return the kernel between each voxel and the one at an offset, (n, 1, ...) of the part where both exist."""
        here, there = _overlap(offset, self.shape)
        apart = sum((o * s) ** 2 for o, s in zip(offset, self.spacing, strict=True))
        unlike = (self.image[here] - self.image[there]).square().sum(1, keepdim=True)
        field = self.field
        bilateral = torch.exp(-apart / (2 * field.near**2) - unlike / (2 * field.alike**2))
        return field.bilateral * bilateral + field.smooth * torch.exp(torch.tensor(-apart / (2 * field.close**2))).to(bilateral)

    def _dense(self) -> torch.Tensor:
        """Return the kernel between all voxels, (n, voxels, voxels), nothing on the diagonal."""
        axes = [
            torch.arange(n, dtype=self.image.dtype, device=self.image.device) * s for n, s in zip(self.shape, self.spacing, strict=True)
        ]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T
        apart = (place[:, None] - place[None]).square().sum(-1)
        values = self.image.flatten(2).transpose(1, 2)
        unlike = (values[:, :, None] - values[:, None]).square().sum(-1)
        field = self.field
        kernel = field.bilateral * torch.exp(-apart / (2 * field.near**2) - unlike / (2 * field.alike**2))
        kernel = kernel + field.smooth * torch.exp(-apart / (2 * field.close**2))
        return kernel * (1 - torch.eye(len(place), dtype=kernel.dtype, device=kernel.device))


def _half(radius: int, shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield one of each offset and its opposite within a window, those alone that the image is large enough for."""
    reach = [min(radius, n - 1) for n in shape]
    for offset in product(*(range(-r, r + 1) for r in reach)):
        if offset > (0,) * len(shape):
            yield offset


def _overlap(offset: Sequence[int], shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where a voxel and the one at the offset both exist: the slices of the one and of the other."""
    here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
    return (slice(None), slice(None), *here), (slice(None), slice(None), *there)
