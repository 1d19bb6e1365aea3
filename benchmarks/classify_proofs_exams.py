"""Sequences of pictures that `benchmarks.classify_proofs_sequences` learns from, made from seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.classify_proofs_pictures import Cases, around, cases, noise, soft


def orders(n: int, seed: int, edge: int = 14, slices: int = 8) -> Cases:
    """Return volumes (n, 1, x, y, slices) with a disc in one slice and a ring in a later (class 1) or an earlier one (class 0)."""
    rng = np.random.default_rng([seed, 11])
    y = rng.integers(0, 2, n)
    images = 0.4 + 0.05 * noise(rng, n * slices, edge, 1.5).reshape(n, slices, edge, edge)
    at = np.sort(np.stack([rng.choice(slices, 2, replace=False) for _ in range(n)]), axis=1)
    disc, ring = np.where(y, at[:, 0], at[:, 1]), np.where(y, at[:, 1], at[:, 0])
    for places, hollow in ((disc, False), (ring, True)):
        distance, _ = around(rng.uniform(4, edge - 5, (n, 2)), edge)
        radius = rng.uniform(2.5, 3.5, n)[:, None, None]
        shape = soft(radius - distance) - (soft(radius - 1.5 - distance) if hollow else 0)
        images[np.arange(n), places] += rng.uniform(0.25, 0.4, n)[:, None, None] * shape
    images = images + 0.04 * rng.standard_normal(images.shape)
    made = cases(images, y)
    return Cases(np.ascontiguousarray(np.moveaxis(made.images, 2, -1)), made.y, made.facts)


@dataclass(frozen=True)
class Exams:
    """Patients with exams.

    Attributes
    ----------
    images : (n, 1, x, y, exams) float32 array
        The oldest first.
    gaps : (n, exams) float32 array
        Years since the exam before; 0 for the first.
    y : (n,) int64 array
    """

    images: np.ndarray
    gaps: np.ndarray
    y: np.ndarray

    def last_only(self) -> Exams:
        """Return the same patients of whom the last exam alone is known."""
        gaps = np.full_like(self.gaps, np.nan)
        gaps[:, -1] = 0
        return Exams(self.images, gaps, self.y)


def growing(n: int, seed: int, edge: int = 20, exams: int = 4) -> Exams:
    """Return nodules that grow slowly (0) or fast (1) and are as large at the last exam; exams come after 0.2 to 1.4 years."""
    rng = np.random.default_rng([seed, 12])
    y = rng.integers(0, 2, n)
    rate = np.where(y, rng.uniform(1.0, 1.7, n), rng.uniform(0.3, 0.8, n))
    gaps = rng.uniform(0.2, 1.4, (n, exams))
    gaps[:, 0] = 0
    before_end = gaps.sum(1, keepdims=True) - gaps.cumsum(1)
    radii = np.maximum(rng.uniform(6.5, 8.5, (n, 1)) - rate[:, None] * before_end, 0.7).reshape(-1)
    middles = np.repeat(edge / 2 + rng.uniform(-1, 1, (n, 2)), exams, axis=0)
    distance, _ = around(middles, edge)
    bright = np.repeat(rng.uniform(0.2, 0.35, n), exams)
    images = 0.35 + 0.04 * noise(rng, n * exams, edge, 2) + bright[:, None, None] * soft(radii[:, None, None] - distance)
    images = np.clip(images + 0.04 * rng.standard_normal(images.shape), 0, 1).reshape(n, exams, 1, edge, edge)
    return Exams(np.ascontiguousarray(np.moveaxis(images, 1, -1)).astype(np.float32), gaps.astype(np.float32), y.astype(np.int64))
