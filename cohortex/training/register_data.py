"""What a training of a registration network sees: pairs on one grid, labels made by Gauss-Newton, deformations that are simulated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cohortex.models.regseg.affine import rotation
from cohortex.models.regseg.warp import warp
from cohortex.registration import gauss_newton
from cohortex.registration.bspline import Spline, zero
from cohortex.registration.fields import exponential, least_jacobian
from cohortex.training.regseg_data import other_contrast

BEND: dict[str, float] = {"spread": 0.0, "knots": 8, "turn_deg": 0.0, "shift": 0.0, "stretch": 0.0}
"""A random displacement that does nothing: standard deviations of the velocities at the knots (voxels), of turns about each axis, of
shifts (voxels) and of stretches along each axis (shares); voxels from one knot to the next."""
SIMULATED: dict[str, float] = BEND | {"spread": 3.0}
"""What `examples: simulated` bends by where nothing else is said."""
LEAST_JACOBIAN = 0.1
"""Velocities are made smaller until no volume shrinks to less than that."""


@dataclass(frozen=True)
class ImagePair:
    """Two images on one grid of cubic voxels.

    Attributes
    ----------
    fixed, moving : (X, Y, Z) float32 arrays
        Within 0 and 1.
    labels : two (X, Y, Z) uint8 arrays or None
        Of the fixed and of the moving image.
    displacement : (3, X, Y, Z) float32 array or None
        In voxels, where it is known: voxel p of the fixed image lies at p + displacement(p) of the moving one.
    subject : str
    modalities : two str
        Of the fixed and of the moving image.
    """

    fixed: np.ndarray
    moving: np.ndarray
    labels: tuple[np.ndarray, np.ndarray] | None = None
    displacement: np.ndarray | None = None
    subject: str = ""
    modalities: tuple[str, str] = ("T1w", "T1w")

    def digest(self) -> str:
        """Return what tells the content of this pair from that of others."""
        parts = (self.fixed, self.moving, *(self.labels or ()), *(() if self.displacement is None else (self.displacement,)))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def with_classical(pairs: Sequence[ImagePair], spacing_mm: float, smooth: float = 1.0) -> list[ImagePair]:
    """Return the pairs with the displacement that Gauss-Newton finds for each; those that have one keep it."""
    return [
        pair
        if pair.displacement is not None
        else replace(pair, displacement=gauss_newton.register(pair.fixed, pair.moving, None, spacing_mm, smooth=smooth).displacement)
        for pair in pairs
    ]


def random_displacement(shape: Sequence[int], rng: np.random.Generator, bend: Mapping[str, float]) -> np.ndarray:
    """Return a random displacement without folds: an affine map, and the exponential of a random cubic B-spline velocity.

    Parameters
    ----------
    shape : (X, Y, Z)
    rng : numpy.random.Generator
    bend : mapping
        Of `BEND`.

    Returns
    -------
    (3, X, Y, Z) float32 array
        In voxels: first the deformation, then the affine map about the middle of the grid.
    """
    start = zero(shape, int(bend["knots"]))
    drawn = rng.normal(0, bend["spread"], start.coefficients.shape).astype(np.float32)
    turned = rotation(rng.normal(0, bend["turn_deg"], 3).tolist()) @ np.diag(np.exp(rng.normal(0, bend["stretch"], 3)))
    shift = rng.normal(0, bend["shift"], 3)
    elastic = np.zeros((3, *shape), np.float32)
    if bend["spread"]:
        velocity = Spline(drawn, start.spacing, start.shape).displacement()
        elastic = exponential(velocity)
        while least_jacobian(elastic) < LEAST_JACOBIAN:
            velocity = velocity * np.float32(0.8)
            elastic = exponential(velocity)
    middle = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    at = np.indices(tuple(shape)) + elastic - middle
    affine = np.einsum("ij,jxyz->ixyz", turned - np.eye(3), at) + shift.reshape(3, 1, 1, 1)
    return (elastic + affine).astype(np.float32)


def pair_sampler(
    pairs: Sequence[ImagePair], training: Mapping[str, Any], classes: Sequence[int]
) -> Callable[[np.random.Generator, int], tuple[Any, Any]]:
    """Return what draws batches for objectives that read `registration`.

    Parameters
    ----------
    pairs : sequence of ImagePair
        Of one shape.
    training : mapping
        ``examples``: pairs, classical (their displacements are known), or simulated (one image, and the same one bent: the displacement is
        known whatever the image); ``bend``; ``contrast``: whether both images get another contrast at random.
    classes : sequence of int
        The labels that are used, none where the objective looks at no labels.
    """
    simulated = training["examples"] == "simulated"
    bend = {**(SIMULATED if simulated else BEND), **training.get("bend", {})}
    bends = any(bend[name] for name in BEND if name != "knots")

    def one(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        pair = pairs[int(rng.integers(len(pairs)))]
        fixed, moving = _tensor(pair.fixed), _tensor(pair.moving)
        known = pair.labels if classes and pair.labels is not None else None
        soft = [torch.cat([_tensor(x == k) for k in classes], 1) for x in known] if known is not None else [fixed[:, :0], moving[:, :0]]
        names, truth = list(pair.modalities), pair.displacement
        if simulated:
            which = int(rng.integers(2))
            moving, soft[1], names = (fixed, moving)[which], soft[which], [names[which]] * 2
            truth = random_displacement(pair.fixed.shape, rng, bend)
            by = torch.from_numpy(truth)[None]
            fixed, soft[0] = warp(moving, by), warp(soft[1], by) if classes else soft[0]
        elif bends:
            further = torch.from_numpy(random_displacement(pair.fixed.shape, rng, bend))[None]
            moving, soft[1] = warp(moving, further), warp(soft[1], further) if classes else soft[1]
            truth = None
        if training["contrast"]:
            fixed, moving = other_contrast(fixed, names[0], rng), other_contrast(moving, names[1], rng)
        field = fixed.new_zeros((0, *pair.fixed.shape)) if truth is None else torch.from_numpy(truth)
        return torch.cat([fixed, moving], 1)[0].numpy(), soft[0][0].numpy(), soft[1][0].numpy(), field.numpy()

    def sample(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
        drawn = [one(rng) for _ in range(count)]
        source, fixed, moving, truth = (np.stack(_filled(part)) for part in zip(*drawn, strict=True))
        return source, (fixed, moving, truth)

    return sample


def _filled(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return arrays (K, X, Y, Z) with as many channels each: a pair without labels, beside one that has some, has none of any class."""
    most = max(len(part) for part in parts)
    return [part if len(part) == most else np.zeros((most, *part.shape[1:]), part.dtype) for part in parts]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
